/// Settings of the metrics, with OpenTelemetry's defaults.
public struct MetricsConfiguration: Sendable {
    /// What a push counts from. `OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE`; a scrape is always cumulative.
    public enum Temporality: String, Sendable, CaseIterable {
        case cumulative
        /// Counters and histograms since the last push; what goes up and down stays cumulative.
        case delta
        /// As delta, except for what the program itself counts from its start: observable counters.
        case lowMemory = "lowmemory"
    }

    /// Which measurements may become exemplars. `OTEL_METRICS_EXEMPLAR_FILTER`.
    public enum ExemplarFilter: String, Sendable, CaseIterable {
        case alwaysOn = "always_on"
        case alwaysOff = "always_off"
        /// Those made in a sampled span.
        case traceBased = "trace_based"
    }

    /// Between two pushes. `OTEL_METRIC_EXPORT_INTERVAL`, default 60 s.
    public var exportInterval = Duration.seconds(60)
    public var temporality = Temporality.cumulative
    /// Of histograms without a view. `OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION`.
    public var defaultHistogramAggregation = Aggregation.explicitHistogram(boundaries: nil)
    public var exemplarFilter = ExemplarFilter.traceBased
    /// Series of a stream, the one for the overflow included. Default 2,000.
    public var cardinalityLimit = 2_000
    public var views: [View] = []
    /// Gets a line for a person when an instrument or a view cannot be used as it was declared; nil for the SDK's own
    /// `report`.
    public var report: (@Sendable (String) -> Void)?

    public init() {}
}
