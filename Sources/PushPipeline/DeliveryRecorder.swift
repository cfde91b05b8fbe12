import EventStreams
import LatencyHeatmap
import OTLP
import Synchronization
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
    private let separatesTenants: Bool
    /// Of this process, for the heatmap's other views: `service.name` and the like.
    private let resource: [(key: String, value: String)]

    private let deliverStage: StageID
    private let replayStage: StageID
    private let receiveStage: StageID
    private let acknowledgeStage: StageID
    private let gatewayStage: StageID
    private let streamStage: StageID

    private var rows = UnsafeMutableBufferPointer<BroadcastRows.Row>(start: nil, count: 0)
    private var single: [SingleKey: SingleDeliveries] = [:]
    private var instruments: [InstrumentKey: Instruments] = [:]
    private var random = SplitMix(seed: UInt64.random(in: .min ... .max))

    /// Deliveries of one event to one group that no broadcast made, in the order in which they were made.
    private struct Deliveries: DeliveryList {
        var times: [UInt64] = []
        /// One for each time, for the spans; empty when no span is wanted.
        var devices: [String?] = []

        var count: Int { times.count }
        func writtenUnixNano(_ index: Int) -> UInt64 { times[index] }
        func withDevice(_ index: Int, _ body: (String) -> Void) {
            if index < devices.count, let device = devices[index] { body(device) }
        }
    }

    private struct SingleKey: Hashable {
        let tenant: String
        let offset: UInt64
        let group: Int
        let isReplay: Bool
    }

    private struct SingleDeliveries {
        let event: StoredEvent
        let startedAt: Instant
        var deliveries = Deliveries()
    }

    private struct InstrumentKey: Hashable {
        let tenant: String
        let group: Int
    }

    /// Looked up once for each tenant and group.
    private final class Instruments {
        let tenant: String
        let groupName: String
        let delivered: Counter
        let deliverDuration: Histogram
        let replayDuration: Histogram
        let receiveDuration: Histogram
        let acknowledgeDuration: Histogram
        private let heatmap: HeatmapEngine
        private let prefix: String
        private let attributes: [(key: String, value: String)]
        /// Nil where a view groups by topic.
        private let ofAllTopics: GroupID?
        private var byTopic: [String: GroupID] = [:]

        private static let topicKey = "messaging.destination.name"
        /// Topics beyond so many are looked up anew for each event.
        private static let maxTopics = 1_000

        init(
            tenant: String, groupName: String, separatesTenants: Bool, resource: [(key: String, value: String)],
            heatmap: HeatmapEngine, metrics: PipelineMetrics
        ) {
            self.tenant = tenant
            self.groupName = groupName
            self.heatmap = heatmap
            prefix = separatesTenants ? TenantPrefix.of(tenant) : ""
            // The spans' own attributes come first, as they do in spans that are received.
            attributes =
                [("device.group", groupName), ("tenant.id", tenant), ("messaging.system", "isotherm")] + resource
            ofAllTopics =
                heatmap.views.contains { $0.attributes.contains(Self.topicKey) }
                ? nil : heatmap.group(groupName, attributes: attributes, prefix: prefix)
            delivered = metrics.delivered(tenant: tenant, group: groupName)
            deliverDuration = metrics.duration(.deliver, group: groupName)
            replayDuration = metrics.duration(.replay, group: groupName)
            receiveDuration = metrics.duration(.receive, group: groupName)
            acknowledgeDuration = metrics.duration(.acknowledge, group: groupName)
        }

        /// Where an event's deliveries count in the heatmap, in each of its views.
        func heatmapGroup(of event: StoredEvent) -> GroupID {
            if let ofAllTopics { return ofAllTopics }
            if let known = byTopic[event.topic] { return known }
            let new = heatmap.group(
                groupName, attributes: attributes + [(Self.topicKey, event.topic)], prefix: prefix)
            if byTopic.count < Self.maxTopics { byTopic[event.topic] = new }
            return new
        }
    }

    init(
        policy: DeliveryConfiguration.SpanPolicy, tracer: Tracer, heatmap: HeatmapEngine, metrics: PipelineMetrics,
        groups: GroupRegistry, separatesTenants: Bool, resource: [(key: String, value: String)]
    ) {
        self.policy = policy
        self.tracer = tracer
        self.heatmap = heatmap
        self.metrics = metrics
        self.groups = groups
        self.separatesTenants = separatesTenants
        self.resource = resource
        deliverStage = heatmap.stage(PipelineStage.deliver.rawValue)
        replayStage = heatmap.stage(PipelineStage.replay.rawValue)
        receiveStage = heatmap.stage(PipelineStage.receive.rawValue)
        acknowledgeStage = heatmap.stage(PipelineStage.acknowledge.rawValue)
        gatewayStage = heatmap.stage(PipelineStage.gateway.rawValue)
        streamStage = heatmap.stage(PipelineStage.stream.rawValue)
    }

    deinit { rows.deallocate() }

    private var wantsSpans: Bool { policy != .none && tracer.isRecording }

    private func instruments(tenant: String, group: Int) -> Instruments {
        let key = InstrumentKey(tenant: tenant, group: group)
        if let known = instruments[key] { return known }
        let new = Instruments(
            tenant: tenant, groupName: groups.name(of: group), separatesTenants: separatesTenants,
            resource: resource, heatmap: heatmap, metrics: metrics)
        instruments[key] = new
        return new
    }

    // MARK: A broadcast

    /// The rows of a broadcast to at most so many connections; it ends before the next one begins.
    func begin(connections: Int) -> BroadcastRows {
        if rows.count < connections {
            rows.deallocate()
            rows = .allocate(capacity: connections + connections / 2)
        }
        return BroadcastRows(rows)
    }

    func finish(_ broadcast: BroadcastRows, of events: [StoredEvent], tenant: String) {
        broadcast.forEachGroup { group, rows in
            let instruments = instruments(tenant: tenant, group: group)
            instruments.delivered.add(UInt64(rows.count * events.count))
            for event in events {
                account(event, rows, begunAt: broadcast.begunAt, instruments, isReplay: false)
            }
        }
    }

    /// One event to one group.
    private func account(
        _ event: StoredEvent, _ deliveries: some DeliveryList, begunAt: Instant, _ instruments: Instruments,
        isReplay: Bool
    ) {
        let count = deliveries.count
        withUnsafeTemporaryAllocation(of: UInt64.self, capacity: count) { latencies in
            for index in 0..<count {
                let written = deliveries.writtenUnixNano(index)
                latencies[index] = written > event.acceptedUnixNano ? written - event.acceptedUnixNano : 0
            }
            // The last one sent is the last one written: the times only grow.
            let ended = deliveries.writtenUnixNano(count - 1)
            let parent = event.parent
            let measured = UnsafeBufferPointer(latencies)
            measure(event, measured, begunAt, endedUnixNano: ended, parent, instruments, isReplay: isReplay)
            guard wantsSpans, let parent, parent.isSampled else { return }
            let origin = SpanOrigin(
                event: event, parent: parent, startedAt: begunAt, stage: isReplay ? "replay" : "deliver",
                instruments: instruments)
            func describe(_ span: Span, as index: Int) -> Instant {
                deliveries.withDevice(index) { span.setAttribute("device.id", $0) }
                span.setAttribute("isotherm.latency_ns", Int64(clamping: latencies[index]))
                return Instant(unixNano: deliveries.writtenUnixNano(index))
            }
            if policy == .all || count <= 3 {
                var index = 0
                while index < count {
                    let span = start(origin)
                    let first = index
                    index += tracer.recordSpans(like: span, count: count - index - 1) { describe(span, as: first + $0) }
                    span.end(at: describe(span, as: index))
                    index += 1
                }
                return
            }
            summarySpan(origin, measured, endedUnixNano: ended)
            for index in [count - 1, Int.random(in: 0..<count - 1, using: &random)] {
                let span = start(origin)
                span.setAttribute("isotherm.summarised", true)
                span.end(at: describe(span, as: index))
            }
        }
    }

    /// The heatmap and the metrics.
    private func measure(
        _ event: StoredEvent, _ latencies: UnsafeBufferPointer<UInt64>, _ begunAt: Instant, endedUnixNano: UInt64,
        _ parent: SpanContext?, _ instruments: Instruments, isReplay: Bool
    ) {
        let traceID = parent.map { (high: $0.traceID.high, low: $0.traceID.low) }
        let group = instruments.heatmapGroup(of: event)
        heatmap.recordBatch(
            stage: isReplay ? replayStage : deliverStage, group: group, endUnixNano: endedUnixNano,
            latencies: latencies, slowestTraceID: traceID)
        (isReplay ? instruments.replayDuration : instruments.deliverDuration).recordBatch(nanoseconds: latencies)
        if !isReplay {
            recordParts(event, count: latencies.count, begunAt: begunAt, endedUnixNano: endedUnixNano, group)
        }
    }

    /// What every one of these deliveries waited for before the broadcast began: the gateway's checks, and the log. The
    /// rest is the delivery's own.
    private func recordParts(
        _ event: StoredEvent, count: Int, begunAt: Instant, endedUnixNano: UInt64, _ group: GroupID
    ) {
        // Zero for an event that was read from disk: that it was admitted quickly says nothing about this delivery.
        guard event.admittedUnixNano >= event.acceptedUnixNano, begunAt.unixNano >= event.admittedUnixNano else {
            return
        }
        heatmap.recordStagePart(
            stage: gatewayStage, group: group, endUnixNano: endedUnixNano,
            latencyNano: event.admittedUnixNano - event.acceptedUnixNano, count: UInt64(count))
        heatmap.recordStagePart(
            stage: streamStage, group: group, endUnixNano: endedUnixNano,
            latencyNano: begunAt.unixNano - event.admittedUnixNano, count: UInt64(count))
    }

    // MARK: Single deliveries

    /// Events that one device has got while it caught up, or with several topics. True when `flush` must follow: what
    /// other devices get in the same turn of the loop is accounted for together.
    func delivered(_ events: [StoredEvent], to subscription: Subscription) -> Bool {
        guard !events.isEmpty else { return false }
        let isFirst = single.isEmpty
        let tenant = subscription.tenant.channel.tenant.name
        instruments(tenant: tenant, group: subscription.group).delivered.add(UInt64(events.count))
        note(
            events, tenant, subscription.group, device: subscription.device,
            connectedUnixNano: subscription.connectedUnixNano)
        return isFirst
    }

    /// The same for deliveries that no loop makes; accounted for at once.
    public func delivered(
        _ events: [StoredEvent], tenant: String, group: Int, device: String?, connectedUnixNano: UInt64
    ) {
        guard !events.isEmpty else { return }
        instruments(tenant: tenant, group: group).delivered.add(UInt64(events.count))
        note(events, tenant, group, device: device, connectedUnixNano: connectedUnixNano)
        flush()
    }

    private func note(
        _ events: [StoredEvent], _ tenant: String, _ group: Int, device: String?, connectedUnixNano: UInt64
    ) {
        let now = Clock.now()
        let wantsDevices = wantsSpans
        for event in events {
            let key = SingleKey(
                tenant: tenant, offset: event.offset, group: group,
                isReplay: event.acceptedUnixNano < connectedUnixNano)
            var entry = single.removeValue(forKey: key) ?? SingleDeliveries(event: event, startedAt: now)
            entry.deliveries.times.append(now.unixNano)
            if wantsDevices { entry.deliveries.devices.append(device) }
            single[key] = entry
        }
    }

    func flush() {
        for (key, entry) in single {
            account(
                entry.event, entry.deliveries, begunAt: entry.startedAt,
                instruments(tenant: key.tenant, group: key.group), isReplay: key.isReplay)
        }
        single.removeAll(keepingCapacity: true)
    }

    // MARK: Proof of delivery

    /// The kernel of a device has acknowledged an event.
    func acknowledged(_ event: StoredEvent, by subscription: Subscription, atUnixNano: UInt64) {
        let tenant = subscription.tenant.channel.tenant.name
        let instruments = instruments(tenant: tenant, group: subscription.group)
        proved(
            event, acknowledgeStage, "acknowledge", instruments, instruments.acknowledgeDuration,
            device: subscription.device, atUnixNano: atUnixNano)
    }

    /// A device's own word that it has received an event, its clock corrected.
    public func received(_ event: StoredEvent, tenant: String, group: Int, device: String?, atUnixNano: UInt64) {
        let instruments = instruments(tenant: tenant, group: group)
        proved(
            event, receiveStage, "receive", instruments, instruments.receiveDuration, device: device,
            atUnixNano: atUnixNano)
    }

    /// Under the policy `summary` every one leaves as a span too: they are sampled, or the devices' own reports.
    private func proved(
        _ event: StoredEvent, _ stage: StageID, _ name: StaticString, _ instruments: Instruments,
        _ duration: Histogram, device: String?, atUnixNano: UInt64
    ) {
        let latency = atUnixNano > event.acceptedUnixNano ? atUnixNano - event.acceptedUnixNano : 0
        let parent = event.parent
        heatmap.record(
            stage: stage, group: instruments.heatmapGroup(of: event), endUnixNano: atUnixNano, latencyNano: latency,
            traceID: parent.map { ($0.traceID.high, $0.traceID.low) })
        duration.record(nanoseconds: latency)
        guard wantsSpans, let parent, parent.isSampled else { return }
        let span = tracer.startSpan(
            name, kind: .consumer, parent: parent, at: Instant(unixNano: event.acceptedUnixNano))
        describe(span, event, instruments, name)
        if let device { span.setAttribute("device.id", device) }
        span.setAttribute("isotherm.latency_ns", Int64(clamping: latency))
        span.end(at: Instant(unixNano: atUnixNano))
    }

    // MARK: Spans

    /// What the spans of one event's deliveries to one group share.
    private struct SpanOrigin {
        let event: StoredEvent
        let parent: SpanContext
        let startedAt: Instant
        let stage: StaticString
        let instruments: Instruments
    }

    private func start(_ origin: SpanOrigin) -> Span {
        let span = tracer.startSpan("deliver", kind: .consumer, parent: origin.parent, at: origin.startedAt)
        if span.isRecording { describe(span, origin.event, origin.instruments, origin.stage) }
        return span
    }

    /// Stands for all deliveries of one event to one group: whoever receives it gets the distribution itself, so that a
    /// heatmap behind a collector counts every delivery though only three spans were sent.
    private func summarySpan(_ origin: SpanOrigin, _ latencies: UnsafeBufferPointer<UInt64>, endedUnixNano: UInt64) {
        let span = start(origin)
        guard span.isRecording else { return }
        var sketch = Sketch()
        sketch.insert(contentsOf: latencies)
        span.setAttribute("isotherm.deliveries", latencies.count)
        span.setAttribute("isotherm.latency_p50_ns", Int64(clamping: sketch.quantile(0.5) ?? 0))
        span.setAttribute("isotherm.latency_p95_ns", Int64(clamping: sketch.quantile(0.95) ?? 0))
        span.setAttribute("isotherm.latency_max_ns", Int64(clamping: sketch.max))
        sketch.encoded().withUnsafeBufferPointer { span.setAttribute("isotherm.latency_sketch", bytes: $0) }
        span.end(at: Instant(unixNano: endedUnixNano))
    }

    private func describe(_ span: Span, _ event: StoredEvent, _ instruments: Instruments, _ stage: StaticString) {
        span.setStage(stage)
        span.setAttribute("messaging.operation.type", "process")
        span.setAttribute("messaging.destination.name", event.topic)
        span.setAttribute("tenant.id", instruments.tenant)
        span.setAttribute("device.group", instruments.groupName)
        if let rendered = event.rendered.load() {
            EventFrame.withID(of: rendered) { span.setAttribute("messaging.message.id", utf8: $0) }
        }
    }
}

/// Deliveries of one event to one group, in the order in which they were made.
private protocol DeliveryList {
    var count: Int { get }
    func writtenUnixNano(_ index: Int) -> UInt64
    /// Not called for a device without a name.
    func withDevice(_ index: Int, _ body: (String) -> Void)
}

extension UnsafeBufferPointer<BroadcastRows.Row>: DeliveryList {
    @inline(__always)
    fileprivate func writtenUnixNano(_ index: Int) -> UInt64 { self[index].writtenUnixNano }

    @inline(__always)
    fileprivate func withDevice(_ index: Int, _ body: (String) -> Void) {
        self[index].subscription._withUnsafeGuaranteedRef { if let device = $0.session.device { body(device) } }
    }
}

/// How one heatmap keeps the groups of several tenants apart.
public enum TenantPrefix {
    /// A slash is in no tenant's name.
    public static func of(_ tenant: String) -> String { tenant + "/" }
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
