import EventStreams
import Telemetry

/// Connections that are behind: they read the log from their position until they are live.
extension HubLoop {
    /// Sends from the log until the connection is at the loop's cursor, its socket is full, or the log must be read from
    /// disk.
    func advance(_ subscription: Subscription) {
        if let snapshot = subscription.snapshot { return readSnapshot(snapshot, subscription) }
        if subscription.state == .live {
            notePosition(ofLive: subscription)
            leave(.live, subscription)
        }
        let tenant = subscription.tenant
        for _ in 0..<8 {
            guard subscription.state == .catchingUp else { return }
            if subscription.position >= tenant.cursor { return goLive(subscription) }
            switch tenant.channel.stream.tail(after: subscription.position, limit: subscription.pageLimit) {
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

    func goLive(_ subscription: Subscription) {
        metrics.catchUpConnections.add(-1)
        subscription.state = .live
        subscription.writtenThrough = subscription.position
        guard subscription.isOfOneTopic else {
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

    func readFromDisk(_ subscription: Subscription) {
        let stream = subscription.tenant.channel.stream
        let position = subscription.position
        let filter = subscription.filter
        let limit = 4 * subscription.pageLimit
        let byteLimit = subscription.conflates ? configuration.maxQueuedBytes * 4 : configuration.maxQueuedBytes / 4
        let box = LoopConfined(subscription)
        offload { [self] in
            let result = Result { () throws(StreamError) -> FilteredRead in
                try stream.read(after: position, limit: limit, byteLimit: byteLimit, filter: filter)
            }
            loop.execute { self.received(result, box.value) }
        }
    }

    func received(_ result: Result<FilteredRead, StreamError>, _ subscription: Subscription) {
        guard subscription.state == .catchingUp else { return }
        let tenant = subscription.tenant
        switch result {
        case .success(let read):
            let isAtHead = read.events.isEmpty && read.through <= subscription.position
            let visible = tenant.channel.visible(read.events)
            send(visible, to: subscription)
            // What lies behind the last event was for others.
            if subscription.state == .catchingUp, visible.count == read.events.count {
                subscription.position = max(subscription.position, isAtHead ? tenant.cursor : read.through)
            }
            advance(subscription)
        case .failure(let error):
            metrics.resets(error.code.rawValue)
            guard let offset = error.offset, [.tooOld, .corrupt].contains(error.code) else {
                return close(subscription, retry: configuration.retry, reason: .error)
            }
            // Retention overtook this device between two reads, or an event is damaged: the device is told, and goes on
            // with what is kept and whole.
            subscription.position = error.code == .tooOld ? offset - 1 : offset
            let stream = tenant.channel.stream
            let cursor = stream.id(epoch: stream.epoch, offset: subscription.position)
            let frame = EventFrame.reset(reason: error.code.rawValue, continuesFrom: cursor, earliest: cursor)
            if sendAll(frame[...], to: subscription, carrying: []) { advance(subscription) }
        }
    }

    /// Sends those of `events` that the device wants, in buffers of bounded size, until the socket is full.
    func send(_ events: ArraySlice<StoredEvent>, to subscription: Subscription) {
        let stream = subscription.tenant.channel.stream
        let limit = configuration.maxQueuedBytes / 4
        let superseded = subscription.conflates ? Self.superseded(events, subscription.filter) : []
        if !superseded.isEmpty { metrics.eventsConflated.add(UInt64(superseded.count)) }
        var index = events.startIndex
        while index < events.endIndex {
            var buffer: [UInt8] = []
            var carried: [StoredEvent] = []
            while index < events.endIndex {
                let event = events[index]
                if event.offset > subscription.position, subscription.filter.matches(event),
                    !superseded.contains(event.offset)
                {
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

    /// Those that a later one of the page with the same topic and key stands for.
    private static func superseded(_ events: ArraySlice<StoredEvent>, _ filter: TopicFilter) -> Set<UInt64> {
        struct Key: Hashable {
            let topic: String
            let key: String
        }
        var seen: Set<Key> = []
        var superseded: Set<UInt64> = []
        for event in events.reversed() where filter.matches(event) {
            guard let key = event.key else { continue }
            if !seen.insert(Key(topic: event.topic, key: key)).inserted { superseded.insert(event.offset) }
        }
        return superseded
    }

    /// False when the socket is full or gone: the transport has what is left.
    func sendAll(
        _ bytes: ArraySlice<UInt8>, to subscription: Subscription, carrying events: [StoredEvent]
    ) -> Bool {
        let sent = bytes.withUnsafeBytes { Self.send($0, to: subscription) }
        if sent == bytes.count {
            written(events, to: subscription)
            return true
        }
        take(subscription, over: bytes.dropFirst(sent), carrying: events)
        return false
    }

    /// The socket has all that was wanted up to the subscription's position, `events` the last of it.
    func written(_ events: [StoredEvent], to subscription: Subscription) {
        let now = Clock.now().unixNano
        subscription.lastSendUnixNano = now
        if let last = events.last {
            subscription.session.wrote(
                after: subscription.writtenThrough, through: subscription.position, atUnixNano: now)
            acknowledgements.offer(last, to: subscription)
        }
        subscription.writtenThrough = subscription.position
        if recorder.delivered(events, to: subscription) { loop.execute { self.recorder.flush() } }
    }

    /// Followers send in the order of the log, over all their topics, at most once in a join interval.
    func sendDue(_ tenant: LoopTenant) {
        guard !tenant.due.isEmpty else { return }
        let due = tenant.due
        tenant.due.removeAll(keepingCapacity: true)
        let now = Clock.now().unixNano
        for subscription in due {
            if subscription.state == .live, now &- subscription.lastSendUnixNano < joinNano {
                tenant.due.append(subscription)
            } else {
                if subscription.state == .live { advance(subscription) } else { subscription.isDue = false }
            }
        }
        guard !tenant.due.isEmpty, !tenant.isTimerArmed else { return }
        tenant.isTimerArmed = true
        schedule(afterNano: joinNano) { loop in
            tenant.isTimerArmed = false
            loop.sendDue(tenant)
        }
    }
}
