import OTLP

/// What the registry looks at: a family of series under Prometheus' rules, or an instrument with its streams.
protocol MetricSource: Sendable {
    /// Lookups that were answered with the overflow's series, by the metric's name. Empty where that cannot happen.
    var overflows: [(metric: String, count: UInt64)] { get }
    func collect(_ pass: CollectionPass, into metrics: inout [CollectedMetric])
}

/// One metric as it was found, counted from the start, and what its readers need to know of it.
struct CollectedMetric {
    var metric: Metric
    let kind: InstrumentKind
    /// Nil for the program's own registry.
    let scope: InstrumentationScope?
    /// Tells streams apart that share a name.
    let stream: ObjectIdentifier
    /// How it is scraped.
    let exposition: Exposition
    /// Minima and maxima since the last push, in the order of the points; empty where there are none.
    var intervals: [(min: Double, max: Double)?] = []
}

/// A metric under Prometheus' names.
struct Exposition: Sendable {
    /// As samples carry it: a counter's ends in `_total`.
    let name: String
    let type: MetricType
    let help: String
    /// The word that the name ends in, before `_total`.
    let unit: String?

    /// OpenMetrics' `# TYPE` names a counter without its suffix.
    var familyName: String { type == .counter ? String(name.dropLast("_total".count)) : name }
}
