/// What Prometheus calls the type of a metric.
public enum MetricType: String, Sendable, CaseIterable {
    case counter, gauge, histogram
}

/// Name, type, help and label names of one family: checked once, when the program starts.
///
/// Names are constants in the program, so a bad one is a broken invariant and traps.
public struct MetricDescriptor: Sendable {
    /// As in the text format: a counter's name ends in `_total`.
    public let name: String
    public let type: MetricType
    public let help: String
    public let labelNames: [String]
    let bounds: HistogramBounds?

    init(name: String, type: MetricType, help: String, labelNames: [String], bounds: HistogramBounds? = nil) {
        precondition(Self.isName(name), "\(name) is not a metric name")
        precondition(!help.isEmpty, "\(name) has no help text")
        precondition((type == .counter) == name.hasSuffix("_total"), "\(name): counters, and only they, end in _total")
        // The suffixes that the exposition formats add themselves.
        for suffix in ["_bucket", "_count", "_sum", "_created"] {
            precondition(!name.hasSuffix(suffix), "\(name) ends in the reserved suffix \(suffix)")
        }
        precondition((type == .histogram) == (bounds != nil), "\(name): histograms, and only they, have bounds")
        for label in labelNames {
            precondition(Self.isName(label) && !label.hasPrefix("__"), "\(name): \(label) is not a label name")
            precondition(type != .histogram || label != "le", "\(name): le is the histogram's own label")
        }
        precondition(Set(labelNames).count == labelNames.count, "\(name): a label name occurs twice")
        self.name = name
        self.type = type
        self.help = help
        self.labelNames = labelNames
        self.bounds = bounds
    }

    /// Without colons, which Prometheus keeps for recording rules.
    private static func isName(_ text: String) -> Bool {
        guard let first = text.utf8.first, isNameByte(first), !(0x30...0x39).contains(first) else { return false }
        return text.utf8.allSatisfy(isNameByte)
    }

    private static func isNameByte(_ byte: UInt8) -> Bool {
        switch byte {
        case 0x61...0x7A, 0x41...0x5A, 0x30...0x39, 0x5F: true
        default: false
        }
    }

    var exposition: Exposition {
        let base = type == .counter ? String(name.dropLast("_total".count)) : name
        // The base unit that the name ends in. OpenMetrics allows `# UNIT` for no other.
        let unit = ["seconds", "bytes", "ratio"].first { base.hasSuffix("_" + $0) }
        return Exposition(name: name, type: type, help: help, unit: unit)
    }

    /// As OTLP has it: UCUM's, which translates back to the word that the name ends in already.
    var unit: String {
        switch exposition.unit {
        case "seconds": "s"
        case "bytes": "By"
        case "ratio": "1"
        default: ""
        }
    }

    /// Every name that this family occupies in either format.
    var claimedNames: [String] {
        switch type {
        case .counter: [name, exposition.familyName, exposition.familyName + "_created"]
        case .gauge: [name]
        case .histogram: [name] + ["_bucket", "_count", "_sum", "_created"].map { name + $0 }
        }
    }
}
