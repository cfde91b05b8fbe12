import OTLP

/// Looks at the registry at intervals and hands the points to the exporter: each look once, so that what an export does
/// not deliver is the exporter's to try again, and is never counted into a later one.
final class PeriodicMetricReader: Sendable {
    /// Points in one request; a bit less than what collectors are known to take.
    static let maxPointsPerRequest = 8_000

    private let registry: MetricRegistry
    private let exporter: Exporter
    private let resource: Resource
    private let scope: InstrumentationScope
    private let duration: Meter.Histogram<Double>.Bound
    private let state: Guarded<TemporalityState>

    init(
        registry: MetricRegistry, exporter: Exporter, resource: Resource, scope: InstrumentationScope,
        duration: Meter.Histogram<Double>.Bound
    ) {
        self.duration = duration
        self.registry = registry
        self.exporter = exporter
        self.resource = resource
        self.scope = scope
        state = Guarded(
            TemporalityState(preference: registry.configuration.temporality, unixNano: Clock.now().unixNano))
    }

    /// On the worker's thread only.
    func look(_ occasion: BatchWorker.Occasion) {
        if occasion == .flush || occasion == .stop {
            // Whoever waits has a deadline of its own, at which the exporter makes room.
            exporter.waitForRoom(until: .now + .seconds(30))
        }
        // Nothing is lost with a look that is left out: the next one tells it all.
        guard exporter.hasRoom else { return }
        let now = Clock.now().unixNano
        let metrics = registry.collect(CollectionPass(unixNano: now, startsInterval: true))
        duration.record(Double(Clock.now().unixNano - now) / 1e9)
        let pushed = state.withLock { $0.push(metrics, unixNano: now) }
        for batch in batches(pushed) { exporter.enqueue(batch) }
    }

    private func batches(_ metrics: [CollectedMetric]) -> [Batch] {
        var batches: [Batch] = []
        var groups: [InstrumentationScope: [[UInt8]]] = [:]
        var count = 0
        func close() {
            guard count > 0 else { return }
            let ordered = groups.sorted { ($0.key.name, $0.key.version) < ($1.key.name, $1.key.version) }
            batches.append(
                Batch(
                    body: RequestBody.encode(resource: resource, ordered.map { (scope: $0.key, items: $0.value) }),
                    itemCount: count))
            groups = [:]
            count = 0
        }
        for collected in metrics {
            let points = collected.metric.pointCount
            if count > 0, count + points > Self.maxPointsPerRequest { close() }
            var writer = ProtobufWriter()
            collected.metric.encode(into: &writer)
            groups[collected.scope ?? scope, default: []].append(writer.bytes)
            count += points
        }
        close()
        return batches
    }
}
