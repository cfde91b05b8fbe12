/// What is exported: each signal has an exporter, settings and a ledger of its own.
public enum Signal: String, Sendable, CaseIterable {
    case traces, metrics, logs

    /// Appended to a general endpoint.
    var path: String { "v1/\(rawValue)" }

    /// `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` has `TRACES`.
    var variableName: String { rawValue.uppercased() }

    /// What the endpoint counts, for messages.
    var itemNoun: String {
        switch self {
        case .traces: "spans"
        case .metrics: "data points"
        case .logs: "log records"
        }
    }
}
