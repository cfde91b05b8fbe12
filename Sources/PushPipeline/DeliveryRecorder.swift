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

    private var events: [StoredEvent] = []
    private var tenant = ""
    private var startedAt = Clock.now()
    private var byGroup: [Deliveries] = []
    private var touched: [Int] = []
    private var single: [SingleKey: SingleDeliveries] = [:]
    private var latencies: [UInt64] = []
    private var isTraced = false
    private var instruments: [InstrumentKey: Instruments] = [:]
    private var random = SplitMix(seed: UInt64.random(in: .min ... .max))

    /// Deliveries of one event to one group, in the order in which they were made.
    private struct Deliveries {
        var writtenUnixNano: [UInt64] = []
        /// One for each time, for the spans; empty when no span is wanted.
        var devices: [String?] = []
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

    /// When the broadcast under way, or the last one, began.
    var begunUnixNano: UInt64 { startedAt.unixNano }

    func begin(_ events: [StoredEvent], tenant: String) {
        self.events = events
        self.tenant = tenant
        startedAt = Clock.now()
        isTraced = policy != .none && tracer.isRecording
    }

    func delivered(to connection: LiveConnection) {
        let group = Int(connection.group)
        while group >= byGroup.count { byGroup.append(Deliveries()) }
        if byGroup[group].writtenUnixNano.isEmpty { touched.append(group) }
        byGroup[group].writtenUnixNano.append(Clock.now().unixNano)
        if isTraced { byGroup[group].devices.append(connection.subscription.device) }
    }

    func finish() {
        for group in touched {
            let instruments = instruments(tenant: tenant, group: group)
            instruments.delivered.add(UInt64(byGroup[group].writtenUnixNano.count * events.count))
            for event in events { account(event, byGroup[group], instruments, isReplay: false) }
            byGroup[group].writtenUnixNano.removeAll(keepingCapacity: true)
            byGroup[group].devices.removeAll(keepingCapacity: true)
        }
        touched.removeAll(keepingCapacity: true)
        events.removeAll(keepingCapacity: true)
    }

    /// One event to one group.
    private func account(
        _ event: StoredEvent, _ deliveries: Deliveries, _ instruments: Instruments, isReplay: Bool
    ) {
        latencies.removeAll(keepingCapacity: true)
        for written in deliveries.writtenUnixNano {
            latencies.append(written > event.acceptedUnixNano ? written - event.acceptedUnixNano : 0)
        }
        // The last one sent is the last one written: the times only grow.
        let ended = deliveries.writtenUnixNano[latencies.count - 1]
        let parent = event.parent
        let traceID = parent.map { (high: $0.traceID.high, low: $0.traceID.low) }
        let heatmapGroup = instruments.heatmapGroup(of: event)
        latencies.withUnsafeBufferPointer { latencies in
            heatmap.recordBatch(
                stage: isReplay ? replayStage : deliverStage, group: heatmapGroup, endUnixNano: ended,
                latencies: latencies, slowestTraceID: traceID)
            (isReplay ? instruments.replayDuration : instruments.deliverDuration).recordBatch(nanoseconds: latencies)
        }
        if !isReplay { recordParts(event, count: latencies.count, endedUnixNano: ended, heatmapGroup) }
        guard isTraced, let parent, parent.isSampled else { return }
        let stage: StaticString = isReplay ? "replay" : "deliver"
        func span(_ index: Int, isSummarised: Bool) {
            deliverSpan(event, parent, instruments, stage, deliveries, at: index, isSummarised: isSummarised)
        }
        if policy == .all || latencies.count <= 3 {
            for index in latencies.indices { span(index, isSummarised: false) }
            return
        }
        summarySpan(event, parent, instruments, stage, endedUnixNano: ended)
        span(latencies.count - 1, isSummarised: true)
        span(Int.random(in: 0..<latencies.count - 1, using: &random), isSummarised: true)
    }

    /// What every one of these deliveries waited for before the broadcast began: the gateway's checks, and the log. The
    /// rest is the delivery's own.
    private func recordParts(
        _ event: StoredEvent, count: Int, endedUnixNano: UInt64, _ group: GroupID
    ) {
        // Zero for an event that was read from disk: that it was admitted quickly says nothing about this delivery.
        guard event.admittedUnixNano >= event.acceptedUnixNano, startedAt.unixNano >= event.admittedUnixNano else {
            return
        }
        heatmap.recordStagePart(
            stage: gatewayStage, group: group, endUnixNano: endedUnixNano,
            latencyNano: event.admittedUnixNano - event.acceptedUnixNano, count: UInt64(count))
        heatmap.recordStagePart(
            stage: streamStage, group: group, endUnixNano: endedUnixNano,
            latencyNano: startedAt.unixNano - event.admittedUnixNano, count: UInt64(count))
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
        let wantsDevices = policy != .none && tracer.isRecording
        for event in events {
            let key = SingleKey(
                tenant: tenant, offset: event.offset, group: group,
                isReplay: event.acceptedUnixNano < connectedUnixNano)
            var entry = single.removeValue(forKey: key) ?? SingleDeliveries(event: event, startedAt: now)
            entry.deliveries.writtenUnixNano.append(now.unixNano)
            if wantsDevices { entry.deliveries.devices.append(device) }
            single[key] = entry
        }
    }

    func flush() {
        isTraced = policy != .none && tracer.isRecording
        for (key, entry) in single {
            tenant = key.tenant
            startedAt = entry.startedAt
            account(
                entry.event, entry.deliveries, instruments(tenant: key.tenant, group: key.group), isReplay: key.isReplay
            )
        }
        single.removeAll(keepingCapacity: true)
    }

    // MARK: Proof of delivery

    /// The kernel of a device has acknowledged an event.
    func acknowledged(_ event: StoredEvent, by subscription: Subscription, atUnixNano: UInt64) {
        let tenant = subscription.tenant.channel.tenant.name
        let instruments = instruments(tenant: tenant, group: subscription.group)
        proved(
            event, acknowledgeStage, "acknowledge", instruments, instruments.acknowledgeDuration, tenant: tenant,
            device: subscription.device, atUnixNano: atUnixNano)
    }

    /// A device's own word that it has received an event, its clock corrected.
    public func received(_ event: StoredEvent, tenant: String, group: Int, device: String?, atUnixNano: UInt64) {
        let instruments = instruments(tenant: tenant, group: group)
        proved(
            event, receiveStage, "receive", instruments, instruments.receiveDuration, tenant: tenant, device: device,
            atUnixNano: atUnixNano)
    }

    /// Under the policy `summary` every one leaves as a span too: they are sampled, or the devices' own reports.
    private func proved(
        _ event: StoredEvent, _ stage: StageID, _ name: StaticString, _ instruments: Instruments,
        _ duration: Histogram, tenant: String, device: String?, atUnixNano: UInt64
    ) {
        let latency = atUnixNano > event.acceptedUnixNano ? atUnixNano - event.acceptedUnixNano : 0
        let parent = event.parent
        heatmap.record(
            stage: stage, group: instruments.heatmapGroup(of: event), endUnixNano: atUnixNano, latencyNano: latency,
            traceID: parent.map { ($0.traceID.high, $0.traceID.low) })
        duration.record(nanoseconds: latency)
        guard policy != .none, tracer.isRecording, let parent, parent.isSampled else { return }
        let span = tracer.startSpan(
            name, kind: .consumer, parent: parent, at: Instant(unixNano: event.acceptedUnixNano))
        self.tenant = tenant
        describe(span, event, instruments, name)
        if let device { span.setAttribute("device.id", device) }
        span.setAttribute("isotherm.latency_ns", Int64(clamping: latency))
        span.end(at: Instant(unixNano: atUnixNano))
    }

    // MARK: Spans

    private func deliverSpan(
        _ event: StoredEvent, _ parent: SpanContext, _ instruments: Instruments, _ stage: StaticString,
        _ deliveries: Deliveries, at index: Int, isSummarised: Bool
    ) {
        let span = tracer.startSpan("deliver", kind: .consumer, parent: parent, at: startedAt)
        describe(span, event, instruments, stage)
        if let device = deliveries.devices[index] { span.setAttribute("device.id", device) }
        if isSummarised { span.setAttribute("isotherm.summarised", true) }
        span.setAttribute("isotherm.latency_ns", Int64(clamping: latencies[index]))
        span.end(at: Instant(unixNano: deliveries.writtenUnixNano[index]))
    }

    /// Stands for all deliveries of one event to one group: whoever receives it gets the distribution itself, so that a
    /// heatmap behind a collector counts every delivery though only three spans were sent.
    private func summarySpan(
        _ event: StoredEvent, _ parent: SpanContext, _ instruments: Instruments, _ stage: StaticString,
        endedUnixNano: UInt64
    ) {
        let span = tracer.startSpan("deliver", kind: .consumer, parent: parent, at: startedAt)
        guard span.isRecording else { return }
        var sketch = Sketch()
        latencies.withUnsafeBufferPointer { sketch.insert(contentsOf: $0) }
        describe(span, event, instruments, stage)
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
        span.setAttribute("tenant.id", tenant)
        span.setAttribute("device.group", instruments.groupName)
        if let rendered = event.rendered.load() {
            EventFrame.withID(of: rendered) { span.setAttribute("messaging.message.id", utf8: $0) }
        }
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
