import EventStreams
import Glibc
import Synchronization
import Telemetry

/// The hub's part on one loop. All state is touched on that loop only, which guards it: `@unchecked Sendable`.
public final class HubLoop: @unchecked Sendable {
    public let index: Int
    public let loop: any DeliveryLoop
    let configuration: DeliveryConfiguration
    let groups: GroupRegistry
    let metrics: PipelineMetrics
    let recorder: DeliveryRecorder
    let acknowledgements: AcknowledgementSampler
    /// Outlive the tenants' subscriptions.
    var journals: [ObjectIdentifier: DeliveryJournal] = [:]
    /// Begins with the time, so that sessions of different processes have different numbers.
    private var sessionCount = Clock.now().unixNano >> 20
    private var sampleTurn: UInt64 = 0
    let offload: @Sendable (@escaping @Sendable () -> Void) -> Void

    var tenants: [ObjectIdentifier: LoopTenant] = [:]
    /// Of all tenants.
    public private(set) var subscriptionCount = 0
    var waiting: [ObjectIdentifier: Subscription] = [:]
    /// Connections that a broadcast could not serve in full: their place, and the bytes that the kernel took.
    var unserved: [(connection: LiveConnection, sentBytes: Int)] = []
    var isTicking = false
    let lagsBySeries = Mutex<[LagKey: UInt64]>([:])
    var heartbeatSlice = 0
    var isDraining = false
    let joinNano: UInt64
    let heartbeatNano: UInt64
    let stallNano: UInt64

    /// Heartbeats of a topic are spread over this many ticks of the heartbeat interval.
    static let heartbeatSlices = 16
    /// Events that one pump takes before other work of the loop has its turn.
    static let pumpLimit = 256
    /// A joined buffer is sent when it reaches this size, whatever the interval says.
    static let maxJoinedEvents = 256

    init(
        index: Int, loop: any DeliveryLoop, configuration: DeliveryConfiguration, groups: GroupRegistry,
        metrics: PipelineMetrics, recorder: DeliveryRecorder,
        offload: @escaping @Sendable (@escaping @Sendable () -> Void) -> Void
    ) {
        self.index = index
        self.loop = loop
        self.configuration = configuration
        self.groups = groups
        self.metrics = metrics
        self.recorder = recorder
        self.offload = offload
        acknowledgements = AcknowledgementSampler(
            loop: loop, recorder: recorder, metrics: metrics,
            probesPerSecond: configuration.acknowledgementProbesPerSecond)
        joinNano = configuration.joinInterval.nanoseconds
        heartbeatNano = configuration.heartbeatInterval.nanoseconds
        stallNano = configuration.stallTimeout.nanoseconds
    }

    /// Runs `work` on the loop.
    public func execute(_ work: @escaping @Sendable () -> Void) { loop.execute(work) }

    // MARK: Subscribing

    /// Sends `opening`, the response's head and the stream's first lines, and begins delivery. The transport keeps the
    /// subscription and ends it with `unsubscribe`.
    public func subscribe(
        _ request: SubscriptionRequest, channel: TenantChannel, opening: [UInt8], transport: any DeviceTransport
    ) -> Subscription {
        let tenant = loopTenant(channel)
        let topics = (request.filter.literalTopics ?? []).map { name in
            if let topic = tenant.topics[name] { return topic }
            let topic = LoopTopic(name: name)
            tenant.topics[name] = topic
            return topic
        }
        sessionCount += 1
        let isOfOneTopic = topics.count == 1 && request.filter.types.isEmpty
        let session = DeviceSession(
            number: UInt64(index) << 48 | sessionCount, device: request.device, group: groups.number(of: request.group),
            filter: isOfOneTopic ? topics[0].filter ?? request.filter : request.filter,
            connectedUnixNano: Clock.now().unixNano, startOffset: request.after ?? channel.visibleHead,
            epoch: channel.stream.epoch)
        let subscription = Subscription(
            tenant: tenant, topics: topics, session: session, conflates: request.conflates, transport: transport)
        if request.wantsSnapshot { subscription.snapshot = Snapshot() }
        let key = ObjectIdentifier(subscription)
        tenant.subscriptions[key] = subscription
        subscriptionCount += 1
        for topic in topics {
            topic.subscribers += 1
            if !subscription.isOfOneTopic { topic.followers[key] = subscription }
        }
        if topics.isEmpty { tenant.matchers[key] = subscription }
        metrics.opened(connections(tenant, subscription.group))
        metrics.catchUpConnections.add(1)
        startTicking()
        if sendAll(opening[...], to: subscription, carrying: []) { advance(subscription) }
        return subscription
    }

    /// Ends a subscription whose connection is gone. Harmless when it has ended already.
    public func unsubscribe(_ subscription: Subscription, reason: CloseReason) {
        guard subscription.state != .closed else { return }
        let tenant = subscription.tenant
        let reached = reached(subscription)
        if subscription.state == .live { leave(.live, subscription) }
        leave(subscription.state, subscription)
        let reachedOffset = subscription.state == .waitingForSocket ? subscription.writtenThrough : reached
        subscription.state = .closed
        tenant.journal.ended(
            subscription.session, reached: reachedOffset, atUnixNano: Clock.now().unixNano, reason: reason,
            isHandedOver: subscription.handedOver != nil)
        tenant.subscriptions[ObjectIdentifier(subscription)] = nil
        subscriptionCount -= 1
        tenant.matchers[ObjectIdentifier(subscription)] = nil
        for topic in subscription.topics {
            topic.subscribers -= 1
            topic.followers[ObjectIdentifier(subscription)] = nil
            if topic.subscribers == 0 { tenant.topics[topic.name] = nil }
        }
        if tenant.subscriptions.isEmpty {
            tenant.channel.signal(index).isListening.store(false, ordering: .releasing)
            tenants[ObjectIdentifier(tenant.channel)] = nil
        }
        metrics.closed(connections(tenant, subscription.group), reason: reason)
    }

    private func connections(_ tenant: LoopTenant, _ group: Int) -> Gauge {
        if let known = tenant.connections[group] { return known }
        let new = metrics.connections(tenant: tenant.channel.tenant.name, group: groups.name(of: group))
        tenant.connections[group] = new
        return new
    }

    func loopTenant(_ channel: TenantChannel) -> LoopTenant {
        if let tenant = tenants[ObjectIdentifier(channel)] { return tenant }
        // Listen first, then look at the head: an event between the two only wakes this loop once more.
        channel.signal(index).isListening.store(true, ordering: .sequentiallyConsistent)
        let key = ObjectIdentifier(channel)
        let journal =
            journals[key]
            ?? DeliveryJournal(
                tenant: channel.tenant.name, configuration: configuration, nowUnixNano: Clock.now().unixNano)
        journals[key] = journal
        let tenant = LoopTenant(channel: channel, cursor: channel.visibleHead, journal: journal)
        tenants[key] = tenant
        return tenant
    }

    // MARK: Broadcasting

    /// Reads what is new from memory and sends it.
    func pump(_ channel: TenantChannel) {
        let signal = channel.signal(index)
        signal.isPending.store(false, ordering: .sequentiallyConsistent)
        guard let tenant = tenants[ObjectIdentifier(channel)] else { return }
        switch channel.stream.tail(after: tenant.cursor, limit: Self.pumpLimit) {
        case .behind:
            // The loop was held up for longer than memory holds events: everybody catches up from the log.
            let live = tenant.subscriptions.values.filter { $0.state == .live }
            for subscription in live { notePosition(ofLive: subscription) }
            for topic in tenant.topics.values { topic.joined.removeAll() }
            for subscription in live { leave(.live, subscription) }
            tenant.cursor = channel.visibleHead
            for subscription in live { advance(subscription) }
        case .events(let events):
            let visible = channel.visible(events)
            for event in visible {
                broadcast(event, tenant)
                tenant.cursor = event.offset
            }
            sendDue(tenant)
            if events.count == Self.pumpLimit, !visible.isEmpty,
                !signal.isPending.exchange(true, ordering: .acquiringAndReleasing)
            {
                loop.execute { self.pump(channel) }
            }
        }
    }

    func broadcast(_ event: StoredEvent, _ tenant: LoopTenant) {
        for subscription in tenant.matchers.values where subscription.filter.matches(event) {
            isDue(subscription, for: event)
        }
        guard let topic = tenant.topics[event.topic] else { return }
        for subscription in topic.followers.values where subscription.filter.matches(type: event.type) {
            isDue(subscription, for: event)
        }
        guard !topic.live.isEmpty else { return }
        let now = Clock.now().unixNano
        if topic.joined.isEmpty, now &- topic.lastSendUnixNano >= joinNano {
            send([event], to: topic, tenant)
            return
        }
        topic.joined.append(event)
        if topic.joined.count == 1 {
            let wait = joinNano - min(joinNano, now &- topic.lastSendUnixNano)
            schedule(afterNano: wait) { $0.flush(topic, tenant) }
        } else if topic.joined.count >= Self.maxJoinedEvents {
            flush(topic, tenant)
        }
    }

    func isDue(_ subscription: Subscription, for event: StoredEvent) {
        guard subscription.state == .live, !subscription.isDue else { return }
        // What lies between was not for it, and need not be read again.
        subscription.position = max(subscription.position, event.offset - 1)
        subscription.isDue = true
        subscription.tenant.due.append(subscription)
    }

    func flush(_ topic: LoopTopic, _ tenant: LoopTenant) {
        guard !topic.joined.isEmpty else { return }
        let events = topic.joined
        topic.joined.removeAll(keepingCapacity: true)
        send(events, to: topic, tenant)
    }

    /// One send for each live connection.
    func send(_ events: [StoredEvent], to topic: LoopTopic, _ tenant: LoopTenant) {
        let buffer = EventFrame.joined(events, on: tenant.channel.stream)
        let first = events[0].offset
        let last = events[events.count - 1].offset
        var broadcast = recorder.begin(connections: topic.live.count)
        buffer.withUnsafeBytes { bytes in
            for connection in topic.live {
                guard connection.sentThrough < first else {
                    // Sent while it caught up; in part, if the buffer joins events that came before and after.
                    if connection.sentThrough < last { unserved.append((connection, -1)) }
                    continue
                }
                let sent = Self.send(bytes, to: connection)
                if sent == bytes.count {
                    broadcast.delivered(to: connection)
                } else {
                    unserved.append((connection, sent))
                }
            }
        }
        recorder.finish(broadcast, of: events, tenant: tenant.channel.tenant.name)
        topic.lastSendUnixNano = Clock.now().unixNano
        tenant.journal.broadcast(
            events, begunUnixNano: broadcast.begunAt.unixNano, endedUnixNano: topic.lastSendUnixNano)
        if unserved.isEmpty, !topic.live.isEmpty {
            // Any of them, by Weyl's sequence: a random number of the system's would be a system call.
            sampleTurn &+= 0x9E37_79B9_7F4A_7C15
            let sampled = topic.live[Int(sampleTurn >> 33) % topic.live.count]
            if sampled.sentThrough < first {
                acknowledgements.offer(events[events.count - 1], to: sampled.subscription)
            }
        }
        guard !unserved.isEmpty else { return }
        // Only now: leaving the live state moves rows of the array that was just walked.
        let leaving = unserved
        unserved.removeAll(keepingCapacity: true)
        for (connection, sentBytes) in leaving {
            let subscription = connection.subscription
            if sentBytes < 0 {
                subscription.position = connection.sentThrough
                leave(.live, subscription)
                advance(subscription)
            } else {
                subscription.position = last
                subscription.writtenThrough = max(connection.sentThrough, first - 1)
                take(subscription, over: buffer[sentBytes...], carrying: events)
            }
        }
    }

    @inline(__always)
    static func send(_ bytes: UnsafeRawBufferPointer, to connection: LiveConnection) -> Int {
        send(bytes, connection.descriptor, connection.subscription)
    }

    @inline(__always)
    static func send(_ bytes: UnsafeRawBufferPointer, to subscription: Subscription) -> Int {
        send(bytes, subscription.transport.descriptor, subscription)
    }

    /// What the kernel took; 0 where it takes nothing now, where the connection is gone, and where bytes need a codec.
    @inline(__always)
    private static func send(
        _ bytes: UnsafeRawBufferPointer, _ descriptor: Int32, _ subscription: @autoclosure () -> Subscription
    ) -> Int {
        guard descriptor >= 0 else { return subscription().transport.send(bytes) }
        return max(0, Glibc.send(descriptor, bytes.baseAddress, bytes.count, sendFlags))
    }

    static let sendFlags = Int32(MSG_NOSIGNAL) | Int32(MSG_DONTWAIT)

    /// The kernel took less than all: the transport writes the rest, and the connection catches up after that.
    func take(_ subscription: Subscription, over rest: ArraySlice<UInt8>, carrying events: [StoredEvent]) {
        if subscription.state == .live { leave(.live, subscription) }
        subscription.state = .waitingForSocket
        subscription.waitingSinceUnixNano = Clock.now().unixNano
        waiting[ObjectIdentifier(subscription)] = subscription
        let count = Int64(rest.count)
        metrics.connectionBytes.add(count)
        subscription.transport.write(rest) { [self] isWritten in
            metrics.connectionBytes.add(-count)
            waiting[ObjectIdentifier(subscription)] = nil
            guard isWritten, subscription.state == .waitingForSocket else { return }
            written(events, to: subscription)
            subscription.state = .catchingUp
            subscription.waitingSinceUnixNano = 0
            advance(subscription)
        }
    }

    /// Takes a subscription out of the place that belongs to its state.
    func leave(_ state: Subscription.State, _ subscription: Subscription) {
        switch state {
        case .live:
            subscription.state = .catchingUp
            subscription.isDue = false
            metrics.catchUpConnections.add(1)
            guard subscription.liveIndex >= 0 else { return }
            let topic = subscription.topics[0]
            let last = topic.live.count - 1
            topic.live[subscription.liveIndex] = topic.live[last]
            topic.live[subscription.liveIndex].subscription.liveIndex = subscription.liveIndex
            topic.live.removeLast()
            subscription.liveIndex = -1
        case .catchingUp, .waitingForSocket:
            metrics.catchUpConnections.add(-1)
            waiting[ObjectIdentifier(subscription)] = nil
        case .closed:
            break
        }
    }

    /// Up to where a subscription's socket has everything that it wants; what waits to be joined is not sent yet.
    func reached(_ subscription: Subscription) -> UInt64 {
        guard subscription.state == .live else { return subscription.position }
        guard subscription.liveIndex >= 0 else {
            // A follower that is not due wanted nothing of what was broadcast since.
            return subscription.isDue ? subscription.position : max(subscription.position, subscription.tenant.cursor)
        }
        let topic = subscription.topics[0]
        let sentThrough = topic.live[subscription.liveIndex].sentThrough
        let broadcastThrough = topic.joined.first.map { $0.offset - 1 } ?? subscription.tenant.cursor
        return max(sentThrough, broadcastThrough)
    }

    func notePosition(ofLive subscription: Subscription) {
        subscription.position = reached(subscription)
        subscription.writtenThrough = subscription.position
    }
}

/// Carries a value of the loop through a closure that runs on the same loop again.
struct LoopConfined<Value>: @unchecked Sendable {
    let value: Value
    init(_ value: Value) { self.value = value }
}

extension Duration {
    /// Zero for a negative duration.
    var nanoseconds: UInt64 {
        let (seconds, attoseconds) = components
        guard seconds >= 0, attoseconds >= 0 else { return 0 }
        return UInt64(seconds) * 1_000_000_000 + UInt64(attoseconds / 1_000_000_000)
    }
}
