import EventStreams
import LatencyHeatmap
import Telemetry

/// Measures deliveries: the heatmap, the metrics and the deliver spans. Used by one loop or one task at a time.
///
/// The latency of a delivery runs from the event's acceptance to the moment when the kernel took its last byte. A
/// broadcast collects one time per connection and accounts for them together at its end, so that the heatmap's lock is
/// taken once per event and group, not once per delivery. An event that was accepted before the device connected is a
/// *replay*: its age says nothing about the pipeline, so it is counted under a stage of its own.
public final class DeliveryRecorder {
    private let policy: DeliveryConfiguration.SpanPolicy
    private let tracer: Tracer
    private let heatmap: HeatmapEngine
    private let metrics: PipelineMetrics
    private let groups: GroupRegistry

    private var events: [StoredEvent] = []
    private var startedAt = Clock.now()
    private var byGroup: [GroupDeliveries] = []
    private var touched: [Int] = []
    private var latencies: [UInt64] = []
    private var isEachTraced = false

    /// The deliveries of one broadcast to one group, in the order in which they were made.
    private struct GroupDeliveries {
        let name: String
        var writtenUnixNano: [UInt64] = []
        /// One for each time, for the spans; empty when no span is wanted.
        var devices: [String?] = []
    }

    init(
        policy: DeliveryConfiguration.SpanPolicy, tracer: Tracer, heatmap: HeatmapEngine, metrics: PipelineMetrics,
        groups: GroupRegistry
    ) {
        self.policy = policy
        self.tracer = tracer
        self.heatmap = heatmap
        self.metrics = metrics
        self.groups = groups
    }

    // MARK: A broadcast

    func begin(_ events: [StoredEvent]) {
        self.events = events
        startedAt = Clock.now()
        isEachTraced = policy != .none && tracer.isRecording
    }

    func delivered(to connection: LiveConnection) {
        let group = Int(connection.group)
        if group >= byGroup.count { grow(to: group) }
        if byGroup[group].writtenUnixNano.isEmpty { touched.append(group) }
        byGroup[group].writtenUnixNano.append(Clock.now().unixNano)
        if isEachTraced { byGroup[group].devices.append(connection.subscription.device) }
    }

    func finish(tenant: String) {
        for group in touched {
            let count = byGroup[group].writtenUnixNano.count
            metrics.delivered(tenant: tenant, group: group, groups: groups, count: count * events.count)
            for event in events { account(event, tenant: tenant, group: group) }
            byGroup[group].writtenUnixNano.removeAll(keepingCapacity: true)
            byGroup[group].devices.removeAll(keepingCapacity: true)
        }
        touched.removeAll(keepingCapacity: true)
        events.removeAll(keepingCapacity: true)
    }

    /// One event to one group.
    private func account(_ event: StoredEvent, tenant: String, group: Int) {
        latencies.removeAll(keepingCapacity: true)
        for written in byGroup[group].writtenUnixNano {
            latencies.append(written > event.acceptedUnixNano ? written - event.acceptedUnixNano : 0)
        }
        let name = byGroup[group].name
        // The last one sent is the last one written: the times only grow.
        let ended = byGroup[group].writtenUnixNano[latencies.count - 1]
        let parent = event.parent
        heatmap.recordBatch(
            stage: .deliver, group: name, endUnixNano: ended, latencies: latencies,
            slowestTraceID: parent.map { ($0.traceID.high, $0.traceID.low) })
        metrics.stage(.deliver, group: group, groups: groups, latencies: latencies)
        guard isEachTraced, let parent, parent.isSampled else { return }
        if policy == .all || latencies.count <= 3 {
            for index in latencies.indices {
                deliverSpan(event, parent, tenant: tenant, group: name, at: index, of: group, isSummarised: false)
            }
            return
        }
        summarySpan(event, parent, tenant: tenant, group: name, count: latencies.count, endedUnixNano: ended)
        deliverSpan(
            event, parent, tenant: tenant, group: name, at: latencies.count - 1, of: group, isSummarised: true)
        let any = Int.random(in: 0..<latencies.count - 1, using: &random)
        deliverSpan(event, parent, tenant: tenant, group: name, at: any, of: group, isSummarised: true)
    }

    private var random = SplitMix(seed: UInt64.random(in: .min ... .max))

    // MARK: Single deliveries

    func delivered(_ events: [StoredEvent], to subscription: Subscription) {
        delivered(
            events, tenant: subscription.tenant.channel.tenant.name, group: subscription.group,
            device: subscription.device, connectedUnixNano: subscription.connectedUnixNano)
    }

    /// Events that one device has got while it caught up.
    public func delivered(
        _ events: [StoredEvent], tenant: String, group: Int, device: String?, connectedUnixNano: UInt64
    ) {
        guard !events.isEmpty else { return }
        let now = Clock.now()
        let name = groups.name(of: group)
        metrics.delivered(tenant: tenant, group: group, groups: groups, count: events.count)
        for event in events {
            let latency = now.unixNano > event.acceptedUnixNano ? now.unixNano - event.acceptedUnixNano : 0
            let isReplay = event.acceptedUnixNano < connectedUnixNano
            let parent = event.parent
            heatmap.record(
                stage: isReplay ? .replay : .deliver, group: name, endUnixNano: now.unixNano, latencyNano: latency,
                traceID: parent.map { ($0.traceID.high, $0.traceID.low) })
            metrics.stage(isReplay ? .replay : .deliver, group: group, groups: groups, latencies: [latency])
            guard policy != .none, let parent, parent.isSampled else { continue }
            let span = tracer.startSpan("deliver", kind: .consumer, parent: parent, at: now)
            describe(span, event, tenant: tenant, group: name)
            if let device { span.setAttribute("device.id", device) }
            if isReplay { span.setAttribute("isotherm.replay", true) }
            span.setAttribute("isotherm.latency_ns", Int64(latency))
            span.end(at: now)
        }
    }

    /// A device's own word that it has received an event.
    public func received(_ event: StoredEvent, group: Int, atUnixNano: UInt64) {
        let latency = atUnixNano - event.acceptedUnixNano
        let parent = event.parent
        heatmap.record(
            stage: .receive, group: groups.name(of: group), endUnixNano: atUnixNano, latencyNano: latency,
            traceID: parent.map { ($0.traceID.high, $0.traceID.low) })
        metrics.stage(.receive, group: group, groups: groups, latencies: [latency])
    }

    // MARK: Spans

    private func deliverSpan(
        _ event: StoredEvent, _ parent: SpanContext, tenant: String, group: String, at index: Int, of number: Int,
        isSummarised: Bool
    ) {
        let span = tracer.startSpan("deliver", kind: .consumer, parent: parent, at: startedAt)
        describe(span, event, tenant: tenant, group: group)
        if let device = byGroup[number].devices[index] { span.setAttribute("device.id", device) }
        if isSummarised { span.setAttribute("isotherm.summarised", true) }
        span.setAttribute("isotherm.latency_ns", Int64(latencies[index]))
        span.end(at: Instant(unixNano: byGroup[number].writtenUnixNano[index]))
    }

    /// Stands for all deliveries of one event to one group: whoever receives it gets the distribution itself, so that a
    /// heatmap behind a collector counts every delivery though only three spans were sent.
    private func summarySpan(
        _ event: StoredEvent, _ parent: SpanContext, tenant: String, group: String, count: Int, endedUnixNano: UInt64
    ) {
        let span = tracer.startSpan("deliver", kind: .consumer, parent: parent, at: startedAt)
        guard span.isRecording else { return }
        var sketch = Sketch()
        for latency in latencies { sketch.insert(nanoseconds: latency) }
        describe(span, event, tenant: tenant, group: group)
        span.setAttribute("isotherm.deliveries", Int64(count))
        span.setAttribute("isotherm.latency_p50_ns", Int64(clamping: sketch.quantile(0.5) ?? 0))
        span.setAttribute("isotherm.latency_p95_ns", Int64(clamping: sketch.quantile(0.95) ?? 0))
        span.setAttribute("isotherm.latency_max_ns", Int64(clamping: latencies[latencies.count - 1]))
        sketch.encoded().withUnsafeBufferPointer { span.setAttribute("isotherm.latency_sketch", bytes: $0) }
        span.end(at: Instant(unixNano: endedUnixNano))
    }

    private func describe(_ span: Span, _ event: StoredEvent, tenant: String, group: String) {
        span.setStage("deliver")
        span.setAttribute("messaging.operation.type", "process")
        span.setAttribute("messaging.destination.name", event.topic)
        span.setAttribute("tenant.id", tenant)
        span.setAttribute("device.group", group)
        if let id = event.messageID { span.setAttribute("messaging.message.id", id) }
    }

    private func grow(to group: Int) {
        while byGroup.count <= group { byGroup.append(GroupDeliveries(name: groups.name(of: byGroup.count))) }
    }
}

/// A small generator for picking a sample (Steele, Lea and Flood, "Fast splittable pseudorandom number generators").
private struct SplitMix: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }
}

extension StoredEvent {
    /// The produce span, which every deliver span is a child of.
    var parent: SpanContext? { traceparent.flatMap { TraceContext.parse(traceparent: $0, tracestate: tracestate) } }
}
