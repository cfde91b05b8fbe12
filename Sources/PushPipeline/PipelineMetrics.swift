import Synchronization
import Telemetry

/// A part of an event's way, as `isotherm.stage` and the label `stage` name it.
public enum PipelineStage: String, Sendable, CaseIterable {
    case produce, gateway, stream, deliver
    /// From acceptance to the device's own receipt.
    case receive
    /// An event that is older than the connection that got it.
    case replay
}

/// Why a stream ended; the label of `isotherm_connections_closed_total`.
public enum CloseReason: String, Sendable, CaseIterable {
    case client, drained, stalled, error
}

/// The pipeline's instruments. Their names are listed, with what they mean, in `docs/metrics.md`.
public final class PipelineMetrics: Sendable {
    let catchUpConnections: Gauge
    let connectionBytes: Gauge
    let streamAppend: Histogram
    let stalls: Counter
    private let pushDuration: HistogramFamily
    private let eventsPublished: CounterFamily
    private let eventsDelivered: CounterFamily
    private let connections: GaugeFamily
    private let connectionsOpened: Counter
    private let connectionsClosed: CounterFamily
    private let quotaRejections: CounterFamily
    private let resetEvents: CounterFamily
    private let requests: CounterFamily
    private let receiptsReceived: CounterFamily

    /// Upper edges in seconds; the heatmap's levels (50, 100 and 200 ms) are among them.
    private static let durationBounds: [Double] = [
        0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2.5, 5, 10, 60,
    ]

    public init(registry: MetricRegistry) {
        pushDuration = registry.histogram(
            "isotherm_push_duration_seconds",
            help: "Time an event spends in a stage; for deliver, from its acceptance to its write to the device.",
            labels: ["device_group", "stage"], bounds: Self.durationBounds)
        eventsPublished = registry.counter(
            "isotherm_events_published_total", help: "Events acknowledged to producers.", labels: ["tenant"])
        eventsDelivered = registry.counter(
            "isotherm_events_delivered_total", help: "Events written to devices, each device counted.",
            labels: ["tenant", "device_group"])
        connections = registry.gauge(
            "isotherm_connections", help: "Open streams.", labels: ["tenant", "device_group"])
        connectionsOpened = registry.counter(
            "isotherm_connections_opened_total", help: "Streams opened.", labels: []).with()
        connectionsClosed = registry.counter(
            "isotherm_connections_closed_total", help: "Streams closed, by reason.", labels: ["reason"])
        connectionBytes = registry.gauge(
            "isotherm_connection_bytes", help: "Bytes that wait in the server for devices' sockets.", labels: []).with()
        streamAppend = registry.histogram(
            "isotherm_stream_append_duration_seconds",
            help: "Time from handing events to the log until they are as durable as asked.", labels: [],
            bounds: Self.durationBounds
        ).with()
        catchUpConnections = registry.gauge(
            "isotherm_catch_up_connections", help: "Streams that read the log because they are behind.", labels: []
        ).with()
        requests = registry.counter(
            "isotherm_requests_total", help: "HTTP requests by route and status.", labels: ["route", "code"])
        quotaRejections = registry.counter(
            "isotherm_quota_rejections_total", help: "Publish requests refused by a quota.",
            labels: ["tenant", "quota"])
        resetEvents = registry.counter(
            "isotherm_resets_total", help: "Cursors that could not be continued, by reason.", labels: ["reason"])
        receiptsReceived = registry.counter(
            "isotherm_receipts_total", help: "Devices' receipts by outcome.", labels: ["outcome"])
        stalls = connectionsClosed.with(CloseReason.stalled.rawValue)
        for reason in CloseReason.allCases { _ = connectionsClosed.with(reason.rawValue) }
        for reason in ["too_old", "foreign"] { _ = resetEvents.with(reason) }
        for outcome in ["accepted", "rejected"] { _ = receiptsReceived.with(outcome) }
    }
}
