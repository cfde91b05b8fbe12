/// Writes families and samples in one of the two text formats, a line each:
///
///     # HELP name text
///     # TYPE name counter|gauge|histogram
///     # UNIT name unit                     OpenMetrics only
///     name{label="value",…} number
///
/// https://prometheus.io/docs/instrumenting/exposition_formats/ and https://prometheus.io/docs/specs/om/open_metrics_spec/
///
/// Numbers are written alike in both (`le="1.0"`, never `le="1"`), so that a series keeps its identity whichever
/// format a scraper negotiates.
struct ExpositionWriter {
    let format: MetricFormat
    private(set) var bytes: [UInt8] = []

    enum Value {
        case unsigned(UInt64)
        case signed(Int64)
        case double(Double)
        /// Nanoseconds, written as seconds with all nine decimals that matter: no rounding through Double.
        case nanoseconds(UInt128)
    }

    init(format: MetricFormat) {
        self.format = format
        bytes.reserveCapacity(1 << 16)
    }

    mutating func metadata(_ descriptor: MetricDescriptor) {
        let name = format == .openMetrics ? descriptor.openMetricsName : descriptor.name
        append("# HELP ")
        append(name)
        append(" ")
        // Only OpenMetrics knows an escaped quote in help; in the older format it would be read as a backslash.
        LabelValue.appendEscaped(descriptor.help, quotes: format == .openMetrics, to: &bytes)
        append("\n# TYPE ")
        append(name)
        append(" ")
        append(descriptor.type.rawValue)
        append("\n")
        if format == .openMetrics, let unit = descriptor.unit {
            append("# UNIT ")
            append(name)
            append(" ")
            append(unit)
            append("\n")
        }
    }

    mutating func sample(_ name: String, suffix: String = "", labels: [UInt8], value: Value) {
        append(name)
        append(suffix)
        if !labels.isEmpty {
            append("{")
            bytes.append(contentsOf: labels)
            append("}")
        }
        append(" ")
        append(value)
        append("\n")
    }

    mutating func histogram(_ descriptor: MetricDescriptor, labels: [UInt8], snapshot: Histogram.Snapshot) {
        let edges = descriptor.bounds?.seconds ?? []
        var cumulative: UInt64 = 0
        for (index, count) in snapshot.bucketCounts.enumerated() {
            cumulative &+= count
            append(descriptor.name)
            append("_bucket{")
            bytes.append(contentsOf: labels)
            append(labels.isEmpty ? "le=\"" : ",le=\"")
            append(index < edges.count ? edges[index].description : "+Inf")
            append("\"} ")
            append(.unsigned(cumulative))
            append("\n")
        }
        sample(descriptor.name, suffix: "_sum", labels: labels, value: .nanoseconds(snapshot.sumNanoseconds))
        sample(descriptor.name, suffix: "_count", labels: labels, value: .unsigned(cumulative))
    }

    mutating func finish() -> [UInt8] {
        if format == .openMetrics { append("# EOF\n") }
        return bytes
    }

    private mutating func append(_ text: String) {
        bytes.append(contentsOf: text.utf8)
    }

    private mutating func append(_ value: Value) {
        switch value {
        case .unsigned(let number): append(number.description)
        case .signed(let number): append(number.description)
        case .double(let number):
            append(number.isNaN ? "NaN" : number.isInfinite ? (number < 0 ? "-Inf" : "+Inf") : number.description)
        case .nanoseconds(let number):
            let (seconds, rest) = number.quotientAndRemainder(dividingBy: 1_000_000_000)
            append(seconds.description)
            append(".")
            var digits = Array(String(UInt64(rest) + 1_000_000_000).utf8.dropFirst())
            while digits.count > 1, digits.last == UInt8(ascii: "0") { digits.removeLast() }
            bytes.append(contentsOf: digits)
        }
    }
}
