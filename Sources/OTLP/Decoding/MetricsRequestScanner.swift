/// Reads the histograms of an `ExportMetricsServiceRequest` without building objects; gauges, sums and summaries are passed
/// over.
///
/// Numbers below are field tags of opentelemetry-proto 1.x (`number << 3 | wire type`):
/// request 1 resource_metrics; ResourceMetrics 1 resource, 2 scope_metrics; ScopeMetrics 2 metrics; Metric 1 name, 3 unit,
/// 9 histogram, 10 exponential_histogram; both of these 1 data_points, 2 aggregation_temporality;
/// ExponentialHistogramDataPoint 1 attributes, 3 time, 4 count, 5 sum, 6 scale, 7 zero_count, 8 positive, 9 negative,
/// 10 flags, 13 max; Buckets 1 offset, 2 bucket_counts. HistogramDataPoint 3 time.
public struct ScannedHistogram: Sendable {
    public var name = ScannedBytes()
    public var unit = ScannedBytes()
    /// Its buckets were chosen by hand; nothing but the time is read.
    public var isExplicit = false
    /// 0 unspecified, 1 delta, 2 cumulative.
    public var temporality: UInt64 = 0
    public var timeUnixNano: UInt64 = 0
    public var count: UInt64 = 0
    public var sum = 0.0
    public var max: Double?
    public var scale: Int32 = 0
    public var zeroCount: UInt64 = 0
    public var flags: UInt64 = 0
    public var positiveOffset: Int32 = 0
    /// Of the positive buckets, in `MetricsScan.counts`.
    public var firstCount = 0
    public var countCount = 0
    /// Sum of the negative buckets.
    public var negativeCount: UInt64 = 0
    /// There were more buckets than are read.
    public var isTooLong = false
    /// In `MetricsScan.scan`, as for spans.
    public var firstAttribute: UInt32 = 0
    public var attributeCount: UInt32 = 0
    public var resource: UInt32 = 0
}

/// The result of scanning one request, and the memory it lives in. Not thread-safe.
public final class MetricsScan {
    /// Attributes, resources and text.
    public let scan = TraceScan()
    public internal(set) var histograms: [ScannedHistogram] = []
    public internal(set) var counts: [UInt64] = []

    public init() {}

    public func attributes(of histogram: ScannedHistogram) -> UnsafeBufferPointer<ScannedAttribute> {
        UnsafeBufferPointer(
            rebasing: scan.attributes[
                Int(histogram.firstAttribute)..<Int(histogram.firstAttribute + histogram.attributeCount)])
    }

    func begin(_ message: UnsafeRawBufferPointer) throws(OTLPDecodingError) {
        histograms.removeAll(keepingCapacity: true)
        counts.removeAll(keepingCapacity: true)
        try scan.begin(message)
    }
}

public struct MetricsRequestScanner: Sendable {
    let traces: TraceRequestScanner
    /// Most buckets of one histogram.
    let maxBuckets: Int

    public init(interest: TraceScanInterest, maxBuckets: Int) {
        traces = TraceRequestScanner(interest: interest)
        self.maxBuckets = maxBuckets
    }

    /// Fills `scan`. When it throws, nothing in `scan` may be used.
    public func scan(protobuf message: UnsafeRawBufferPointer, into scan: MetricsScan) throws(OTLPDecodingError) {
        try scan.begin(message)
        var request = ProtobufReader(message)
        while !request.isAtEnd {
            let tag = try request.tag()
            if tag == 0x0A { try resource(request.message(), scan) } else { try request.skip(tag) }
        }
    }

    private func resource(_ reader: ProtobufReader, _ scan: MetricsScan) throws(OTLPDecodingError) {
        let number = try traces.scanResourceParts(reader, into: scan.scan)
        var reader = reader
        while !reader.isAtEnd {
            let tag = try reader.tag()
            guard tag == 0x12 else {
                try reader.skip(tag)
                continue
            }
            var scope = try reader.message()
            while !scope.isAtEnd {
                let tag = try scope.tag()
                if tag == 0x12 { try metric(scope.message(), number, scan) } else { try scope.skip(tag) }
            }
        }
    }

    private func metric(_ reader: ProtobufReader, _ resource: UInt32, _ scan: MetricsScan) throws(OTLPDecodingError) {
        var reader = reader
        var common = ScannedHistogram()
        common.resource = resource
        let first = scan.histograms.count
        while !reader.isAtEnd {
            let tag = try reader.tag()
            switch tag {
            case 0x0A: common.name = traces.range(try reader.bytes(), in: scan.scan)
            case 0x1A: common.unit = traces.range(try reader.bytes(), in: scan.scan)
            case 0x4A, 0x52: try data(reader.message(), isExplicit: tag == 0x4A, scan)
            default: try reader.skip(tag)
            }
        }
        // The name may come after the points.
        for number in first..<scan.histograms.count {
            scan.histograms[number].name = common.name
            scan.histograms[number].unit = common.unit
            scan.histograms[number].resource = resource
        }
    }

    private func data(_ reader: ProtobufReader, isExplicit: Bool, _ scan: MetricsScan) throws(OTLPDecodingError) {
        var reader = reader
        var temporality: UInt64 = 0
        let first = scan.histograms.count
        while !reader.isAtEnd {
            let tag = try reader.tag()
            switch tag {
            case 0x0A:
                var histogram = ScannedHistogram()
                histogram.isExplicit = isExplicit
                if isExplicit {
                    try explicitPoint(reader.message(), &histogram)
                } else {
                    try point(reader.message(), &histogram, scan)
                }
                scan.histograms.append(histogram)
            case 0x10: temporality = try reader.varint()
            default: try reader.skip(tag)
            }
        }
        for number in first..<scan.histograms.count { scan.histograms[number].temporality = temporality }
    }

    private func explicitPoint(
        _ reader: ProtobufReader, _ histogram: inout ScannedHistogram
    ) throws(OTLPDecodingError) {
        var reader = reader
        while !reader.isAtEnd {
            let tag = try reader.tag()
            if tag == 0x19 { histogram.timeUnixNano = try reader.fixed64() } else { try reader.skip(tag) }
        }
    }

    private func point(
        _ reader: ProtobufReader, _ histogram: inout ScannedHistogram, _ scan: MetricsScan
    ) throws(OTLPDecodingError) {
        var reader = reader
        histogram.firstAttribute = UInt32(truncatingIfNeeded: scan.scan.attributeCount)
        histogram.firstCount = scan.counts.count
        while !reader.isAtEnd {
            let tag = try reader.tag()
            switch tag {
            case 0x0A: try traces.scanAttribute(reader.message(), keys: traces.interest.span, into: scan.scan)
            case 0x19: histogram.timeUnixNano = try reader.fixed64()
            case 0x21: histogram.count = try reader.fixed64()
            case 0x29: histogram.sum = Double(bitPattern: try reader.fixed64())
            case 0x30: histogram.scale = try sint32(&reader)
            case 0x39: histogram.zeroCount = try reader.fixed64()
            case 0x42: try buckets(reader.message(), &histogram, scan)
            case 0x4A: try negativeBuckets(reader.message(), &histogram)
            case 0x50: histogram.flags = try reader.varint()
            case 0x69: histogram.max = Double(bitPattern: try reader.fixed64())
            default: try reader.skip(tag)
            }
        }
        histogram.attributeCount = UInt32(truncatingIfNeeded: scan.scan.attributeCount) - histogram.firstAttribute
        histogram.countCount = scan.counts.count - histogram.firstCount
    }

    private func buckets(
        _ reader: ProtobufReader, _ histogram: inout ScannedHistogram, _ scan: MetricsScan
    ) throws(OTLPDecodingError) {
        var reader = reader
        while !reader.isAtEnd {
            let tag = try reader.tag()
            switch tag {
            case 0x08: histogram.positiveOffset = try sint32(&reader)
            case 0x10: try append(try reader.varint(), &histogram, scan)
            case 0x12:
                var packed = try reader.message()
                while !packed.isAtEnd { try append(try packed.varint(), &histogram, scan) }
            default: try reader.skip(tag)
            }
        }
    }

    private func append(
        _ count: UInt64, _ histogram: inout ScannedHistogram, _ scan: MetricsScan
    ) throws(OTLPDecodingError) {
        if scan.counts.count - histogram.firstCount < maxBuckets {
            scan.counts.append(count)
        } else {
            histogram.isTooLong = true
        }
    }

    private func negativeBuckets(
        _ reader: ProtobufReader, _ histogram: inout ScannedHistogram
    ) throws(OTLPDecodingError) {
        var reader = reader
        func add(_ count: UInt64) {
            let (sum, overflow) = histogram.negativeCount.addingReportingOverflow(count)
            histogram.negativeCount = overflow ? .max : sum
        }
        while !reader.isAtEnd {
            let tag = try reader.tag()
            switch tag {
            case 0x10: add(try reader.varint())
            case 0x12:
                var packed = try reader.message()
                while !packed.isAtEnd { add(try packed.varint()) }
            default: try reader.skip(tag)
            }
        }
    }

    private func sint32(_ reader: inout ProtobufReader) throws(OTLPDecodingError) -> Int32 {
        let zigzag = UInt32(truncatingIfNeeded: try reader.varint())
        return Int32(bitPattern: zigzag >> 1) ^ -Int32(bitPattern: zigzag & 1)
    }
}
