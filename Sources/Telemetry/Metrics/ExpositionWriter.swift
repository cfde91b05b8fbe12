import Glibc
import OTLP

/// Writes families and samples in one of the two text formats, a line each:
///
///     # HELP name text
///     # TYPE name counter|gauge|histogram
///     # UNIT name unit                     OpenMetrics only
///     name{label="value",…} number
///     name_bucket{…} number # {trace_id="…",span_id="…"} number time      the exemplar in OpenMetrics only
///
/// https://prometheus.io/docs/instrumenting/exposition_formats/ and https://prometheus.io/docs/specs/om/open_metrics_spec/
///
/// Numbers are written alike in both (`le="1.0"`, never `le="1"`), so that a series keeps its identity whichever
/// format a scraper negotiates.
struct ExpositionWriter {
    let format: MetricFormat
    private(set) var bytes: [UInt8] = []
    /// The family that was written last: another metric of its name and type continues it.
    private var last: (name: String, type: MetricType, series: Set<[UInt8]>)?

    init(format: MetricFormat) {
        self.format = format
        bytes.reserveCapacity(1 << 16)
    }

    /// Metrics of one name must come one after the other. Of those that differ in type, or repeat a series, the first
    /// is written: a reader would take none otherwise.
    mutating func write(_ collected: CollectedMetric) {
        let exposition = collected.exposition
        if last?.name != exposition.familyName {
            metadata(exposition)
            last = (exposition.familyName, exposition.type, [])
        }
        guard last?.type == exposition.type else { return }
        func labels(_ attributes: [KeyValue]) -> [UInt8] {
            LabelValue.encode(PrometheusName.labels(attributes, scope: collected.scope))
        }
        switch collected.metric.data {
        case .gauge(let points), .sum(let points, _, _):
            for point in points {
                let labels = labels(point.attributes)
                guard last?.series.insert(labels).inserted == true else { continue }
                sample(exposition.name, labels: labels, value: point.value)
                if exposition.type == .counter { append(exemplar: point.exemplars.max { $0.unixNano < $1.unixNano }) }
                append("\n")
            }
        case .histogram(let points, _):
            for point in points {
                let labels = labels(point.attributes)
                guard last?.series.insert(labels).inserted == true else { continue }
                buckets(exposition.name, labels, point.bounds, point.bucketCounts, point.exemplars)
                summary(exposition.name, labels, sum: point.sum, count: point.count)
            }
        case .exponentialHistogram(let points, _):
            for point in points {
                let labels = labels(point.attributes)
                guard last?.series.insert(labels).inserted == true else { continue }
                let (edges, counts) = point.powersOfTwo
                buckets(exposition.name, labels, edges, counts, point.exemplars)
                summary(exposition.name, labels, sum: point.sum, count: point.count)
            }
        }
    }

    private mutating func metadata(_ exposition: Exposition) {
        let name = format == .openMetrics ? exposition.familyName : exposition.name
        append("# HELP ")
        append(name)
        append(" ")
        // Only OpenMetrics knows an escaped quote in help; in the older format it would be read as a backslash.
        LabelValue.appendEscaped(exposition.help, quotes: format == .openMetrics, to: &bytes)
        append("\n# TYPE ")
        append(name)
        append(" ")
        append(exposition.type.rawValue)
        append("\n")
        if format == .openMetrics, let unit = exposition.unit {
            append("# UNIT ")
            append(name)
            append(" ")
            append(unit)
            append("\n")
        }
    }

    /// Without the line's end.
    private mutating func sample(_ name: String, suffix: String = "", labels: [UInt8], value: MetricNumber) {
        append(name)
        append(suffix)
        if !labels.isEmpty {
            append("{")
            bytes.append(contentsOf: labels)
            append("}")
        }
        append(" ")
        append(value)
    }

    private mutating func buckets(
        _ name: String, _ labels: [UInt8], _ edges: [Double], _ counts: [UInt64], _ exemplars: [Exemplar]
    ) {
        var newest: [Int: Exemplar] = [:]
        for exemplar in exemplars {
            let bucket = edges.bucket(of: exemplar.value.asDouble)
            if newest[bucket]?.unixNano ?? 0 <= exemplar.unixNano { newest[bucket] = exemplar }
        }
        var cumulative: UInt64 = 0
        for (index, count) in counts.enumerated() {
            cumulative &+= count
            append(name)
            append("_bucket{")
            bytes.append(contentsOf: labels)
            append(labels.isEmpty ? "le=\"" : ",le=\"")
            append(index < edges.count ? edges[index].description : "+Inf")
            append("\"} ")
            append(cumulative.description)
            append(exemplar: newest[index])
            append("\n")
        }
    }

    private mutating func summary(_ name: String, _ labels: [UInt8], sum: Double?, count: UInt64) {
        if let sum {
            sample(name, suffix: "_sum", labels: labels, value: .double(sum))
            append("\n")
        }
        sample(name, suffix: "_count", labels: labels, value: MetricNumber(count))
        append("\n")
    }

    /// OpenMetrics allows 128 characters of labels; the span's ids take 63 of them.
    private mutating func append(exemplar: Exemplar?) {
        guard format == .openMetrics, let exemplar else { return }
        var labels: [(name: String, value: String)] = []
        if exemplar.traceIDHigh | exemplar.traceIDLow != 0 {
            labels.append(
                ("trace_id", TraceID(high: exemplar.traceIDHigh, low: exemplar.traceIDLow).description))
            labels.append(("span_id", SpanID(rawValue: exemplar.spanID).description))
        }
        var room = 128 - labels.reduce(0) { $0 + $1.name.count + $1.value.count }
        for (name, value) in PrometheusName.labels(exemplar.filteredAttributes, scope: InstrumentationScope(name: "")) {
            let size = name.unicodeScalars.count + value.unicodeScalars.count
            guard size <= room, !labels.contains(where: { $0.name == name }) else { continue }
            room -= size
            labels.append((name, value))
        }
        append(" # {")
        bytes.append(contentsOf: LabelValue.encode(labels))
        append("} ")
        append(exemplar.value)
        append(" ")
        let (seconds, rest) = exemplar.unixNano.quotientAndRemainder(dividingBy: 1_000_000_000)
        append(seconds.description)
        append(".")
        append(String((rest + 1_000_000_000).description.dropFirst().prefix(3)))
    }

    mutating func finish() -> [UInt8] {
        if format == .openMetrics { append("# EOF\n") }
        return bytes
    }

    private mutating func append(_ text: String) {
        bytes.append(contentsOf: text.utf8)
    }

    private mutating func append(_ value: MetricNumber) {
        switch value {
        case .int(let number): append(number.description)
        case .double(let number):
            append(number.isNaN ? "NaN" : number.isInfinite ? (number < 0 ? "-Inf" : "+Inf") : number.description)
        }
    }
}

extension ExponentialHistogramPoint {
    /// The same counts between powers of two, which buckets of every scale fit into: zero, then (2^i, 2^(i+1)].
    fileprivate var powersOfTwo: (edges: [Double], counts: [UInt64]) {
        let scale = Swift.min(self.scale, 0)
        let buckets = positive.downscaled(by: self.scale - scale)
        // What is below zero is below the first edge as well.
        var edges = [zeroThreshold]
        var counts = [zeroCount &+ negative.total]
        for (index, count) in buckets.counts.enumerated() {
            let exponent = (Int(buckets.offset) + index + 1) << Int(-scale)
            guard exponent < 1_024 else {
                return (edges, counts + [buckets.counts[index...].reduce(0, &+)])
            }
            edges.append(scalbn(1, exponent))
            counts.append(count)
        }
        return (edges, counts + [0])
    }
}
