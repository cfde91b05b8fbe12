/// A measured number; OTLP keeps integers and doubles apart.
public enum MetricNumber: Hashable, Sendable {
    case int(Int64)
    case double(Double)

    /// An integer as long as it fits OTLP's signed 64 bits.
    public init(_ value: UInt64) {
        self = value <= UInt64(Int64.max) ? .int(Int64(value)) : .double(Double(value))
    }

    public var asDouble: Double {
        switch self {
        case .int(let value): Double(value)
        case .double(let value): value
        }
    }
}

/// What the points of a sum or a histogram count from.
public enum AggregationTemporality: UInt64, Hashable, Sendable {
    /// From the point before.
    case delta = 1
    /// From a start that stays the same.
    case cumulative = 2
}

/// One metric with its points.
///
/// `Metric`: 1 name, 2 description, 3 unit, 5 Gauge, 7 Sum, 9 Histogram, 10 ExponentialHistogram; each of those:
/// 1 data_points, 2 aggregation_temporality, 3 is_monotonic (Sum).
public struct Metric: Sendable, Equatable {
    public enum Data: Sendable, Equatable {
        case gauge([NumberPoint])
        case sum([NumberPoint], AggregationTemporality, isMonotonic: Bool)
        case histogram([HistogramPoint], AggregationTemporality)
        case exponentialHistogram([ExponentialHistogramPoint], AggregationTemporality)
    }

    public var name: String
    public var description: String
    public var unit: String
    public var data: Data

    public init(name: String, description: String = "", unit: String = "", data: Data) {
        self.name = name
        self.description = description
        self.unit = unit
        self.data = data
    }

    public var pointCount: Int {
        switch data {
        case .gauge(let points), .sum(let points, _, _): points.count
        case .histogram(let points, _): points.count
        case .exponentialHistogram(let points, _): points.count
        }
    }

    public func encode(into writer: inout ProtobufWriter) {
        writer.string(field: 1, name)
        if !description.isEmpty { writer.string(field: 2, description) }
        if !unit.isEmpty { writer.string(field: 3, unit) }
        switch data {
        case .gauge(let points):
            writer.message(field: 5) { gauge in
                for point in points { gauge.message(field: 1) { point.encode(into: &$0) } }
            }
        case .sum(let points, let temporality, let isMonotonic):
            writer.message(field: 7) { sum in
                for point in points { sum.message(field: 1) { point.encode(into: &$0) } }
                sum.varint(field: 2, temporality.rawValue)
                if isMonotonic { sum.varint(field: 3, 1) }
            }
        case .histogram(let points, let temporality):
            writer.message(field: 9) { histogram in
                for point in points { histogram.message(field: 1) { point.encode(into: &$0) } }
                histogram.varint(field: 2, temporality.rawValue)
            }
        case .exponentialHistogram(let points, let temporality):
            writer.message(field: 10) { histogram in
                for point in points { histogram.message(field: 1) { point.encode(into: &$0) } }
                histogram.varint(field: 2, temporality.rawValue)
            }
        }
    }
}

/// One series' number.
///
/// `NumberDataPoint`: 7 attributes, 2 start_time, 3 time, 4 as_double, 6 as_int (sfixed64), 5 exemplars.
public struct NumberPoint: Sendable, Equatable {
    public var attributes: [KeyValue]
    /// 0 where there is none, as for a gauge.
    public var startUnixNano: UInt64
    public var unixNano: UInt64
    public var value: MetricNumber
    public var exemplars: [Exemplar]

    public init(
        attributes: [KeyValue], startUnixNano: UInt64, unixNano: UInt64, value: MetricNumber, exemplars: [Exemplar] = []
    ) {
        self.attributes = attributes
        self.startUnixNano = startUnixNano
        self.unixNano = unixNano
        self.value = value
        self.exemplars = exemplars
    }

    public func encode(into writer: inout ProtobufWriter) {
        if startUnixNano != 0 { writer.fixed64(field: 2, startUnixNano) }
        writer.fixed64(field: 3, unixNano)
        value.encode(into: &writer, double: 4)
        for exemplar in exemplars { writer.message(field: 5) { exemplar.encode(into: &$0) } }
        for attribute in attributes { writer.message(field: 7) { attribute.encode(into: &$0) } }
    }
}

/// One series' distribution over buckets with given edges.
///
/// `HistogramDataPoint`: 9 attributes, 2 start_time, 3 time, 4 count, 5 sum, 6 bucket_counts, 7 explicit_bounds,
/// 8 exemplars, 11 min, 12 max.
public struct HistogramPoint: Sendable, Equatable {
    public var attributes: [KeyValue]
    public var startUnixNano: UInt64
    public var unixNano: UInt64
    /// Nil where negative values make it meaningless as a sum.
    public var sum: Double?
    /// Upper edges; a value that equals one belongs below it.
    public var bounds: [Double]
    /// One more than there are edges.
    public var bucketCounts: [UInt64]
    public var min: Double?
    public var max: Double?
    public var exemplars: [Exemplar]

    public init(
        attributes: [KeyValue], startUnixNano: UInt64, unixNano: UInt64, sum: Double?, bounds: [Double],
        bucketCounts: [UInt64], min: Double? = nil, max: Double? = nil, exemplars: [Exemplar] = []
    ) {
        self.attributes = attributes
        self.startUnixNano = startUnixNano
        self.unixNano = unixNano
        self.sum = sum
        self.bounds = bounds
        self.bucketCounts = bucketCounts
        self.min = min
        self.max = max
        self.exemplars = exemplars
    }

    public var count: UInt64 { bucketCounts.reduce(0, &+) }

    public func encode(into writer: inout ProtobufWriter) {
        writer.fixed64(field: 2, startUnixNano)
        writer.fixed64(field: 3, unixNano)
        writer.fixed64(field: 4, count)
        if let sum { writer.fixed64(field: 5, sum.bitPattern) }
        writer.packedFixed64(field: 6, bucketCounts)
        writer.packedFixed64(field: 7, bounds.map(\.bitPattern))
        for exemplar in exemplars { writer.message(field: 8) { exemplar.encode(into: &$0) } }
        for attribute in attributes { writer.message(field: 9) { attribute.encode(into: &$0) } }
        if let min { writer.fixed64(field: 11, min.bitPattern) }
        if let max { writer.fixed64(field: 12, max.bitPattern) }
    }
}

/// One series' distribution over buckets whose edges are powers of 2^(2^-scale): bucket `i` holds the values in
/// (base^i, base^(i+1)].
///
/// `ExponentialHistogramDataPoint`: 1 attributes, 2 start_time, 3 time, 4 count, 5 sum, 6 scale (sint32), 7 zero_count,
/// 8 positive, 9 negative, 11 exemplars, 12 min, 13 max, 14 zero_threshold.
/// https://opentelemetry.io/docs/specs/otel/metrics/data-model/#exponentialhistogram
public struct ExponentialHistogramPoint: Sendable, Equatable {
    /// Counts of adjacent buckets. `Buckets`: 1 offset (sint32), 2 bucket_counts.
    public struct Buckets: Sendable, Equatable {
        /// Index of the first bucket.
        public var offset: Int32
        public var counts: [UInt64]

        public init(offset: Int32 = 0, counts: [UInt64] = []) {
            self.offset = offset
            self.counts = counts
        }

        public var total: UInt64 { counts.reduce(0, &+) }

        func encode(into writer: inout ProtobufWriter) {
            writer.signed(field: 1, offset)
            writer.packedVarint(field: 2, counts)
        }
    }

    public var attributes: [KeyValue]
    public var startUnixNano: UInt64
    public var unixNano: UInt64
    public var sum: Double?
    public var scale: Int32
    /// Values whose distance to zero is at most `zeroThreshold`.
    public var zeroCount: UInt64
    public var zeroThreshold: Double
    public var positive: Buckets
    public var negative: Buckets
    public var min: Double?
    public var max: Double?
    public var exemplars: [Exemplar]

    public init(
        attributes: [KeyValue] = [], startUnixNano: UInt64 = 0, unixNano: UInt64 = 0, sum: Double?, scale: Int32,
        zeroCount: UInt64 = 0, zeroThreshold: Double = 0, positive: Buckets, negative: Buckets = Buckets(),
        min: Double? = nil, max: Double? = nil, exemplars: [Exemplar] = []
    ) {
        self.attributes = attributes
        self.startUnixNano = startUnixNano
        self.unixNano = unixNano
        self.sum = sum
        self.scale = scale
        self.zeroCount = zeroCount
        self.zeroThreshold = zeroThreshold
        self.positive = positive
        self.negative = negative
        self.min = min
        self.max = max
        self.exemplars = exemplars
    }

    public var count: UInt64 { zeroCount &+ positive.total &+ negative.total }

    public func encode(into writer: inout ProtobufWriter) {
        for attribute in attributes { writer.message(field: 1) { attribute.encode(into: &$0) } }
        writer.fixed64(field: 2, startUnixNano)
        writer.fixed64(field: 3, unixNano)
        writer.fixed64(field: 4, count)
        if let sum { writer.fixed64(field: 5, sum.bitPattern) }
        writer.signed(field: 6, scale)
        writer.fixed64(field: 7, zeroCount)
        if !positive.counts.isEmpty { writer.message(field: 8) { positive.encode(into: &$0) } }
        if !negative.counts.isEmpty { writer.message(field: 9) { negative.encode(into: &$0) } }
        for exemplar in exemplars { writer.message(field: 11) { exemplar.encode(into: &$0) } }
        if let min { writer.fixed64(field: 12, min.bitPattern) }
        if let max { writer.fixed64(field: 13, max.bitPattern) }
        if zeroThreshold != 0 { writer.fixed64(field: 14, zeroThreshold.bitPattern) }
    }
}

/// One measurement that stands for others, with the span in which it was made.
///
/// `Exemplar`: 7 filtered_attributes, 2 time, 3 as_double, 6 as_int (sfixed64), 4 span_id, 5 trace_id.
public struct Exemplar: Sendable, Equatable {
    /// What the measurement had and its series has not.
    public var filteredAttributes: [KeyValue]
    public var unixNano: UInt64
    public var value: MetricNumber
    /// All zero when the measurement was made outside any span.
    public var traceIDHigh: UInt64
    public var traceIDLow: UInt64
    public var spanID: UInt64

    public init(
        filteredAttributes: [KeyValue], unixNano: UInt64, value: MetricNumber, traceIDHigh: UInt64, traceIDLow: UInt64,
        spanID: UInt64
    ) {
        self.filteredAttributes = filteredAttributes
        self.unixNano = unixNano
        self.value = value
        self.traceIDHigh = traceIDHigh
        self.traceIDLow = traceIDLow
        self.spanID = spanID
    }

    public func encode(into writer: inout ProtobufWriter) {
        writer.fixed64(field: 2, unixNano)
        value.encode(into: &writer, double: 3)
        if traceIDHigh | traceIDLow != 0 {
            writer.bigEndian(field: 4, spanID)
            writer.bigEndian(field: 5, traceIDHigh, traceIDLow)
        }
        for attribute in filteredAttributes { writer.message(field: 7) { attribute.encode(into: &$0) } }
    }
}

extension MetricNumber {
    /// The integer's field is 6 in points and exemplars alike.
    fileprivate func encode(into writer: inout ProtobufWriter, double field: UInt32) {
        switch self {
        case .int(let value): writer.fixed64(field: 6, UInt64(bitPattern: value))
        case .double(let value): writer.fixed64(field: field, value.bitPattern)
        }
    }
}
