import EventStreams
import Glibc
import Synchronization
import Telemetry

/// The hub's part on one loop. All state is touched on that loop only, which guards it: `@unchecked Sendable`.
public final class HubLoop: @unchecked Sendable {
    public let index: Int
    let loop: any DeliveryLoop
    private let configuration: DeliveryConfiguration
    private let groups: GroupRegistry
    private let metrics: PipelineMetrics
    private let recorder: DeliveryRecorder
    private let offload: @Sendable (@escaping @Sendable () -> Void) -> Void

    private var tenants: [ObjectIdentifier: LoopTenant] = [:]
    private var waiting: [ObjectIdentifier: Subscription] = [:]
    /// Connections that a broadcast could not serve in full: their place, and the bytes that the kernel took.
    private var unserved: [(connection: LiveConnection, sentBytes: Int)] = []
    private var isTicking = false
    private let lagsBySeries = Mutex<[LagKey: UInt64]>([:])
    private var heartbeatSlice = 0
    private var isDraining = false
    private let joinNano: UInt64
    private let heartbeatNano: UInt64
    private let stallNano: UInt64

    /// Heartbeats of a topic are spread over this many ticks of the heartbeat interval.
    private static let heartbeatSlices = 16
    /// Events that one pump takes before other work of the loop has its turn.
    private static let pumpLimit = 256
    /// A joined buffer is sent when it reaches this size, whatever the interval says.
    private static let maxJoinedEvents = 256

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
        joinNano = configuration.joinInterval.nanoseconds
        heartbeatNano = configuration.heartbeatInterval.nanoseconds
        stallNano = configuration.stallTimeout.nanoseconds
    }

    // MARK: Subscribing

    /// Sends `opening`, the response's head and the stream's first lines, and begins delivery. The transport keeps the
    /// subscription and ends it with `unsubscribe`.
    public func subscribe(
        _ request: SubscriptionRequest, channel: TenantChannel, opening: [UInt8], transport: any DeviceTransport
    ) -> Subscription {
        let tenant = loopTenant(channel)
        let topics = request.topics.map { name in
            if let topic = tenant.topics[name] { return topic }
            let topic = LoopTopic(name: name)
            tenant.topics[name] = topic
            return topic
        }
        let subscription = Subscription(
            tenant: tenant, topics: topics, group: groups.number(of: request.group), device: request.device,
            position: request.after ?? channel.visibleHead, transport: transport, nowUnixNano: Clock.now().unixNano)
        tenant.subscriptions[ObjectIdentifier(subscription)] = subscription
        for topic in topics {
            topic.subscribers += 1
            if topics.count > 1 { topic.followers[ObjectIdentifier(subscription)] = subscription }
        }
        metrics.connectionOpened(tenant: channel.tenant.name, group: groups.name(of: subscription.group))
        metrics.catchUpConnections.add(1)
        startTicking()
        if sendAll(opening[...], to: subscription, carrying: []) { advance(subscription) }
        return subscription
    }

    /// Ends a subscription whose connection is gone. Harmless when it has ended already.
    public func unsubscribe(_ subscription: Subscription, reason: CloseReason) {
        guard subscription.state != .closed else { return }
        let tenant = subscription.tenant
        if subscription.state == .live { leave(.live, subscription) }
        leave(subscription.state, subscription)
        subscription.state = .closed
        tenant.subscriptions[ObjectIdentifier(subscription)] = nil
        for topic in subscription.topics {
            topic.subscribers -= 1
            topic.followers[ObjectIdentifier(subscription)] = nil
            if topic.subscribers == 0 { tenant.topics[topic.name] = nil }
        }
        if tenant.subscriptions.isEmpty {
            tenant.channel.signal(index).isListening.store(false, ordering: .releasing)
            tenants[ObjectIdentifier(tenant.channel)] = nil
        }
        metrics.connectionClosed(
            tenant: tenant.channel.tenant.name, group: groups.name(of: subscription.group), reason: reason)
    }

    private func loopTenant(_ channel: TenantChannel) -> LoopTenant {
        if let tenant = tenants[ObjectIdentifier(channel)] { return tenant }
        // Listen first, then look at the head: an event between the two only wakes this loop once more.
        channel.signal(index).isListening.store(true, ordering: .sequentiallyConsistent)
        let tenant = LoopTenant(channel: channel, cursor: channel.visibleHead)
        tenants[ObjectIdentifier(channel)] = tenant
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

    private func broadcast(_ event: StoredEvent, _ tenant: LoopTenant) {
        guard let topic = tenant.topics[event.topic] else { return }
        if !topic.followers.isEmpty {
            for subscription in topic.followers.values where subscription.state == .live && !subscription.isDue {
                subscription.isDue = true
                tenant.due.append(subscription)
            }
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

    private func flush(_ topic: LoopTopic, _ tenant: LoopTenant) {
        guard !topic.joined.isEmpty else { return }
        let events = topic.joined
        topic.joined.removeAll(keepingCapacity: true)
        send(events, to: topic, tenant)
    }

    /// One send for each live connection.
    private func send(_ events: [StoredEvent], to topic: LoopTopic, _ tenant: LoopTenant) {
        let frames = events.map { EventFrame.rendered($0, on: tenant.channel.stream).bytes }
        let buffer = frames.count == 1 ? frames[0] : Array(frames.joined())
        let first = events[0].offset
        let last = events[events.count - 1].offset
        recorder.begin(events, tenant: tenant.channel.tenant.name)
        buffer.withUnsafeBytes { bytes in
            for connection in topic.live {
                guard connection.sentThrough < first else {
                    // Sent while it caught up; in part, if the buffer joins events that came before and after.
                    if connection.sentThrough < last { unserved.append((connection, -1)) }
                    continue
                }
                let sent = Glibc.send(connection.descriptor, bytes.baseAddress, bytes.count, Self.sendFlags)
                if sent == bytes.count {
                    recorder.delivered(to: connection)
                } else {
                    unserved.append((connection, max(0, sent)))
                }
            }
        }
        recorder.finish()
        topic.lastSendUnixNano = Clock.now().unixNano
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
                take(subscription, over: buffer[sentBytes...], carrying: events)
            }
        }
    }

    private static let sendFlags = Int32(MSG_NOSIGNAL) | Int32(MSG_DONTWAIT)

    /// The kernel took less than all: the transport writes the rest, and the connection catches up after that.
    private func take(_ subscription: Subscription, over rest: ArraySlice<UInt8>, carrying events: [StoredEvent]) {
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
            subscription.lastSendUnixNano = Clock.now().unixNano
            record(events, to: subscription)
            subscription.state = .catchingUp
            subscription.waitingSinceUnixNano = 0
            advance(subscription)
        }
    }

    /// Takes a subscription out of the place that belongs to its state.
    private func leave(_ state: Subscription.State, _ subscription: Subscription) {
        switch state {
        case .live:
            subscription.state = .catchingUp
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

    /// Up to where a live connection has everything: what waits to be joined is not sent yet.
    private func notePosition(ofLive subscription: Subscription) {
        guard subscription.liveIndex >= 0 else { return }
        let topic = subscription.topics[0]
        let sentThrough = topic.live[subscription.liveIndex].sentThrough
        let broadcastThrough = topic.joined.first.map { $0.offset - 1 } ?? subscription.tenant.cursor
        subscription.position = max(sentThrough, broadcastThrough)
    }

    // MARK: Catching up

    /// Sends from the log until the connection is at the loop's cursor, its socket is full, or the log must be read from
    /// disk.
    private func advance(_ subscription: Subscription) {
        if subscription.state == .live {
            notePosition(ofLive: subscription)
            leave(.live, subscription)
        }
        let tenant = subscription.tenant
        for _ in 0..<8 {
            guard subscription.state == .catchingUp else { return }
            if subscription.position >= tenant.cursor { return goLive(subscription) }
            switch tenant.channel.stream.tail(after: subscription.position, limit: 256) {
            case .behind:
                return readFromDisk(subscription)
            case .events(let events):
                let visible = tenant.channel.visible(events)
                if visible.isEmpty { return goLive(subscription) }
                send(visible, to: subscription)
            }
        }
        // Others have a turn.
        let box = LoopConfined(subscription)
        loop.execute { if box.value.state == .catchingUp { self.advance(box.value) } }
    }

    private func goLive(_ subscription: Subscription) {
        metrics.catchUpConnections.add(-1)
        subscription.state = .live
        guard subscription.topics.count == 1 else {
            // A follower: what came while it caught up is sent at its next turn.
            return
        }
        let topic = subscription.topics[0]
        subscription.liveIndex = topic.live.count
        topic.live.append(
            LiveConnection(
                descriptor: subscription.transport.descriptor, group: Int32(subscription.group),
                sentThrough: subscription.position, subscription: subscription))
    }

    private func readFromDisk(_ subscription: Subscription) {
        let stream = subscription.tenant.channel.stream
        let position = subscription.position
        let byteLimit = configuration.maxQueuedBytes / 4
        let box = LoopConfined(subscription)
        offload { [self] in
            let result = Result { () throws(StreamError) -> [StoredEvent] in
                try stream.read(after: position, limit: 1024, byteLimit: byteLimit)
            }
            loop.execute { self.received(result, box.value) }
        }
    }

    private func received(_ result: Result<[StoredEvent], StreamError>, _ subscription: Subscription) {
        guard subscription.state == .catchingUp else { return }
        let tenant = subscription.tenant
        switch result {
        case .success(let events):
            let visible = tenant.channel.visible(events)
            if visible.isEmpty {
                subscription.position = max(subscription.position, tenant.cursor)
            } else {
                send(visible, to: subscription)
            }
            advance(subscription)
        case .failure(let error):
            metrics.resets(error.code.rawValue)
            guard error.code == .tooOld, let earliest = error.offset else {
                return close(subscription, retry: configuration.retry)
            }
            // Retention overtook this device between two reads: it is told, and goes on with what is kept.
            subscription.position = earliest - 1
            let stream = tenant.channel.stream
            let cursor = stream.id(epoch: stream.epoch, offset: earliest - 1)
            let frame = EventFrame.reset(reason: "too_old", continuesFrom: cursor, earliest: cursor)
            if sendAll(frame[...], to: subscription, carrying: []) { advance(subscription) }
        }
    }

    /// Sends those of `events` that the device wants, in buffers of bounded size, until the socket is full.
    private func send(_ events: ArraySlice<StoredEvent>, to subscription: Subscription) {
        let stream = subscription.tenant.channel.stream
        let limit = configuration.maxQueuedBytes / 4
        var index = events.startIndex
        while index < events.endIndex {
            var buffer: [UInt8] = []
            var carried: [StoredEvent] = []
            while index < events.endIndex {
                let event = events[index]
                if event.offset > subscription.position, subscription.wants(event) {
                    let frame = EventFrame.rendered(event, on: stream).bytes
                    if !buffer.isEmpty, buffer.count + frame.count > limit { break }
                    buffer.append(contentsOf: frame)
                    carried.append(event)
                }
                subscription.position = max(subscription.position, event.offset)
                index += 1
            }
            guard buffer.isEmpty || sendAll(buffer[...], to: subscription, carrying: carried) else { return }
        }
    }

    /// False when the socket is full or gone: the transport has what is left.
    private func sendAll(
        _ bytes: ArraySlice<UInt8>, to subscription: Subscription, carrying events: [StoredEvent]
    ) -> Bool {
        let sent = bytes.withUnsafeBytes {
            Glibc.send(subscription.transport.descriptor, $0.baseAddress, $0.count, Self.sendFlags)
        }
        if sent == bytes.count {
            subscription.lastSendUnixNano = Clock.now().unixNano
            record(events, to: subscription)
            return true
        }
        take(subscription, over: bytes.dropFirst(max(0, sent)), carrying: events)
        return false
    }

    private func record(_ events: [StoredEvent], to subscription: Subscription) {
        if recorder.delivered(events, to: subscription) { loop.execute { self.recorder.flush() } }
    }

    /// Followers send in the order of the log, over all their topics, at most once in a join interval.
    private func sendDue(_ tenant: LoopTenant) {
        guard !tenant.due.isEmpty else { return }
        let due = tenant.due
        tenant.due.removeAll(keepingCapacity: true)
        let now = Clock.now().unixNano
        for subscription in due {
            if subscription.state == .live, now &- subscription.lastSendUnixNano < joinNano {
                tenant.due.append(subscription)
            } else {
                subscription.isDue = false
                if subscription.state == .live { advance(subscription) }
            }
        }
        guard !tenant.due.isEmpty, !tenant.isTimerArmed else { return }
        tenant.isTimerArmed = true
        schedule(afterNano: joinNano) { loop in
            tenant.isTimerArmed = false
            loop.sendDue(tenant)
        }
    }

    // MARK: Heartbeats, stalls and the end

    private func startTicking() {
        guard !isTicking, heartbeatNano > 0 else { return }
        isTicking = true
        tick()
    }

    private func tick() {
        schedule(afterNano: heartbeatNano / UInt64(Self.heartbeatSlices)) { loop in
            loop.beat()
            loop.closeStalled()
            loop.measureLag()
            if loop.tenants.isEmpty { loop.isTicking = false } else { loop.tick() }
        }
    }

    /// One slice of the quiet connections gets a heartbeat.
    private func beat() {
        heartbeatSlice = (heartbeatSlice + 1) % Self.heartbeatSlices
        let now = Clock.now().unixNano
        var full: [Subscription] = []
        for tenant in tenants.values {
            for topic in tenant.topics.values {
                if now &- topic.lastSendUnixNano >= heartbeatNano {
                    for index in stride(from: heartbeatSlice, to: topic.live.count, by: Self.heartbeatSlices)
                    where !sendHeartbeat(topic.live[index].descriptor) {
                        full.append(topic.live[index].subscription)
                    }
                }
                for follower in topic.followers.values
                where follower.state == .live && now &- follower.lastSendUnixNano >= heartbeatNano {
                    follower.lastSendUnixNano = now
                    if !sendHeartbeat(follower.transport.descriptor) { full.append(follower) }
                }
            }
        }
        for subscription in full where subscription.state == .live {
            notePosition(ofLive: subscription)
            take(subscription, over: EventFrame.heartbeat[...], carrying: [])
        }
    }

    private func sendHeartbeat(_ descriptor: Int32) -> Bool {
        EventFrame.heartbeat.withUnsafeBytes {
            // A heartbeat of three bytes is taken whole or not at all.
            Glibc.send(descriptor, $0.baseAddress, $0.count, Self.sendFlags) == $0.count
        }
    }

    /// Whom a lag belongs to.
    struct LagKey: Hashable {
        let tenant: String
        let group: Int
    }

    /// Events between the log's head and the slowest connection, by tenant and group, as of the last tick.
    var lags: [LagKey: UInt64] { lagsBySeries.withLock { $0 } }

    private func measureLag() {
        var lags: [LagKey: UInt64] = [:]
        for tenant in tenants.values {
            let head = tenant.channel.visibleHead
            for subscription in tenant.subscriptions.values {
                let key = LagKey(tenant: tenant.channel.tenant.name, group: subscription.group)
                let isBehind = subscription.state != .live && head > subscription.position
                lags[key] = max(lags[key] ?? 0, isBehind ? head - subscription.position : 0)
            }
        }
        lagsBySeries.withLock { $0 = lags }
    }

    private func closeStalled() {
        let now = Clock.now().unixNano
        for subscription in Array(waiting.values) where now &- subscription.waitingSinceUnixNano > stallNano {
            subscription.transport.close(farewell: nil)
        }
    }

    /// Closes all streams in even steps over the drain interval, so that reconnects are spread as well.
    func drain() {
        guard !isDraining else { return }
        isDraining = true
        let all = tenants.values.flatMap { $0.subscriptions.values }
        guard !all.isEmpty else { return }
        let step = configuration.drainInterval.nanoseconds / UInt64(all.count)
        for (index, subscription) in all.enumerated() {
            let box = LoopConfined(subscription)
            schedule(afterNano: UInt64(index) * step) { loop in
                if box.value.state != .closed { loop.close(box.value, retry: loop.configuration.retry) }
            }
        }
    }

    /// Closes with a `retry:` of one to two times `retry`, so that devices do not come back all at once.
    private func close(_ subscription: Subscription, retry: Duration) {
        let base = Int64(retry.nanoseconds / 1_000_000)
        let frame = EventFrame.farewell(retryMilliseconds: base + Int64.random(in: 0...max(1, base)))
        subscription.transport.close(farewell: subscription.state == .waitingForSocket ? nil : frame)
    }

    private func schedule(afterNano nano: UInt64, _ work: @escaping (HubLoop) -> Void) {
        let box = LoopConfined(work)
        loop.schedule(after: .nanoseconds(Int64(nano))) { box.value(self) }
    }
}

/// Carries a value of the loop through a closure that runs on the same loop again.
private struct LoopConfined<Value>: @unchecked Sendable {
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
