import Telemetry

/// A part of an event's way, as `isotherm.stage` and the label `stage` name it.
public enum PipelineStage: String, Sendable, CaseIterable {
    case produce, gateway, stream, deliver
    /// From acceptance to the device's own receipt.
    case receive
    /// From acceptance to the device's kernel's acknowledgement, of sampled deliveries.
    case acknowledge
    /// An event that is older than the connection that got it.
    case replay
}

/// Why a stream ended; the label of `isotherm_connections_closed_total`.
public enum CloseReason: String, Sendable, CaseIterable {
    case client, drained, stalled, error
    /// By a newer stream of the same device.
    case replaced
    /// With the whole server, which had no time to say so. Known after the restart, from the journal; never counted.
    case serverLost = "server_lost"
}

/// The pipeline's instruments. Their names are listed, with what they mean, in `docs/metrics.md`.
public final class PipelineMetrics: Sendable {
    private let requests: CounterFamily
    let catchUpConnections: Gauge
    let connectionBytes: Gauge
    let streamAppend: Histogram
    private let pushDuration: HistogramFamily
    private let produceStage: Histogram
    private let gatewayStage: Histogram
    private let streamStage: Histogram
    private let eventsPublished: CounterFamily
    private let eventsDelivered: CounterFamily
    private let connections: GaugeFamily
    private let connectionsOpened: Counter
    private let connectionsClosed: [CloseReason: Counter]
    private let quotaRejections: CounterFamily
    private let resetEvents: CounterFamily
    private let receiptsReceived: CounterFamily
    /// What became of the samples.
    let acknowledged: Counter
    let unconfirmed: Counter
    let closedUnconfirmed: Counter
    let eventsConflated: Counter
    private let clockUncertainty: Histogram
    private let clocksSet: Counter

    /// Upper edges in seconds; the heatmap's levels (50, 100 and 200 ms) are among them.
    private static let durationBounds: HistogramBounds = [
        0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2.5, 5, 10, 60,
    ]

    public init(registry: MetricRegistry) {
        pushDuration = registry.histogram(
            "isotherm_push_duration_seconds",
            help: "Time an event spends in a stage; for deliver, from its acceptance to its write to the device. "
                + "Stages before the devices have no group.",
            labels: ["device_group", "stage"], closedLabels: ["stage"], bounds: Self.durationBounds)
        produceStage = pushDuration.with("", PipelineStage.produce.rawValue)
        gatewayStage = pushDuration.with("", PipelineStage.gateway.rawValue)
        streamStage = pushDuration.with("", PipelineStage.stream.rawValue)
        eventsPublished = registry.counter(
            "isotherm_events_published_total", help: "Events acknowledged to producers, duplicates not counted.",
            labels: ["tenant"])
        eventsDelivered = registry.counter(
            "isotherm_events_delivered_total", help: "Events written to devices, each device counted.",
            labels: ["tenant", "device_group"], closedLabels: ["tenant"])
        connections = registry.gauge(
            "isotherm_connections", help: "Open streams.", labels: ["tenant", "device_group"], closedLabels: ["tenant"])
        connectionsOpened = registry.counter("isotherm_connections_opened_total", help: "Streams opened.")
        let closed = registry.counter(
            "isotherm_connections_closed_total", help: "Streams closed, by reason.", labels: ["reason"])
        connectionsClosed = Dictionary(
            uniqueKeysWithValues: CloseReason.allCases.filter { $0 != .serverLost }.map {
                ($0, closed.with($0.rawValue))
            })
        connectionBytes = registry.gauge(
            "isotherm_connection_bytes", help: "Bytes that wait in the server for devices' sockets.")
        streamAppend = registry.histogram(
            "isotherm_stream_append_duration_seconds",
            help: "Time from handing events to the log until they are as durable as asked.",
            bounds: Self.durationBounds)
        catchUpConnections = registry.gauge(
            "isotherm_catch_up_connections", help: "Streams that read the log because they are behind.")
        requests = registry.counter(
            "isotherm_requests_total", help: "HTTP requests by route and status.", labels: ["route", "code"])
        quotaRejections = registry.counter(
            "isotherm_quota_rejections_total", help: "Publish requests refused by a quota.",
            labels: ["tenant", "quota"])
        resetEvents = registry.counter(
            "isotherm_resets_total", help: "Cursors that could not be continued, by reason.", labels: ["reason"])
        receiptsReceived = registry.counter(
            "isotherm_receipts_total", help: "Devices' receipts by outcome.", labels: ["outcome"])
        let acknowledgements = registry.counter(
            "isotherm_acknowledgements_total",
            help: "Deliveries that were followed until the device's kernel had them, by outcome.", labels: ["outcome"])
        acknowledged = acknowledgements.with("acknowledged")
        unconfirmed = acknowledgements.with("unconfirmed")
        closedUnconfirmed = acknowledgements.with("closed")
        eventsConflated = registry.counter(
            "isotherm_events_conflated_total",
            help: "Events that were not sent to a device that was behind, since a later one with the same key was.")
        clockUncertainty = registry.histogram(
            "isotherm_device_clock_uncertainty_seconds",
            help: "By how much a device's clock, corrected for its receipts, may be wrong.",
            bounds: Self.durationBounds)
        clocksSet = registry.counter(
            "isotherm_device_clock_steps_total", help: "Devices' clocks that contradicted what was known of them.")
        for reason in ["too_old", "foreign"] { _ = resetEvents.with(reason) }
        for outcome in ["accepted", "rejected"] { _ = receiptsReceived.with(outcome) }
    }

    /// `route` must come from a closed set.
    public func requests(route: String, status: Int) -> Counter { requests.with(route, String(status)) }

    // MARK: Producers

    func gateway(nanoseconds: UInt64) { gatewayStage.record(nanoseconds: nanoseconds) }

    func appended(streamNanoseconds: UInt64, produceNanoseconds: UInt64) {
        streamAppend.record(nanoseconds: streamNanoseconds)
        streamStage.record(nanoseconds: streamNanoseconds)
        produceStage.record(nanoseconds: produceNanoseconds)
    }

    func published(_ tenant: String) -> Counter { eventsPublished.with(tenant) }

    func quotaRejected(_ tenant: String, quota: String) { quotaRejections.with(tenant, quota).add() }

    // MARK: Devices

    /// Kept by whoever delivers, so that a delivery looks nothing up.
    func delivered(tenant: String, group: String) -> Counter { eventsDelivered.with(tenant, group) }

    func duration(_ stage: PipelineStage, group: String) -> Histogram { pushDuration.with(group, stage.rawValue) }

    /// Kept by whoever opens and closes connections of that tenant and group.
    public func connections(tenant: String, group: String) -> Gauge { connections.with(tenant, group) }

    public func opened(_ connections: Gauge) {
        connectionsOpened.add()
        connections.add(1)
    }

    public func closed(_ connections: Gauge, reason: CloseReason) {
        connectionsClosed[reason]?.add()
        connections.add(-1)
    }

    public func resets(_ reason: String) { resetEvents.with(reason).add() }

    public func deviceClock(_ clock: DeviceClock, wasSet: Bool) {
        if let estimate = clock.estimate { clockUncertainty.record(nanoseconds: estimate.uncertaintyNano) }
        if wasSet { clocksSet.add() }
    }

    public func receipts(accepted: UInt64, rejected: UInt64) {
        receiptsReceived.with("accepted").add(accepted)
        receiptsReceived.with("rejected").add(rejected)
    }
}
