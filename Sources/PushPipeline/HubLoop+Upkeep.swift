import EventStreams
import Synchronization
import Telemetry

/// What a loop does by the clock: heartbeats, stalled connections, lags; and the end.
extension HubLoop {
    func startTicking() {
        guard !isTicking, heartbeatNano > 0 else { return }
        isTicking = true
        tick()
    }

    func tick() {
        schedule(afterNano: heartbeatNano / UInt64(Self.heartbeatSlices)) { loop in
            loop.beat()
            loop.closeStalled()
            loop.measureLag()
            if loop.tenants.isEmpty { loop.isTicking = false } else { loop.tick() }
        }
    }

    /// One slice of the quiet connections gets a heartbeat.
    func beat() {
        heartbeatSlice = (heartbeatSlice + 1) % Self.heartbeatSlices
        let now = Clock.now().unixNano
        var full: [(Subscription, rest: ArraySlice<UInt8>)] = []
        for tenant in tenants.values {
            for topic in tenant.topics.values {
                if now &- topic.lastSendUnixNano >= heartbeatNano {
                    for index in stride(from: heartbeatSlice, to: topic.live.count, by: Self.heartbeatSlices) {
                        let connection = topic.live[index]
                        let rest = Self.heartbeatRest { Self.send($0, to: connection) }
                        if !rest.isEmpty { full.append((connection.subscription, rest)) }
                    }
                }
                for follower in topic.followers.values
                where follower.state == .live && now &- follower.lastSendUnixNano >= heartbeatNano {
                    follower.lastSendUnixNano = now
                    let rest = Self.heartbeatRest { Self.send($0, to: follower) }
                    if !rest.isEmpty { full.append((follower, rest)) }
                }
            }
        }
        for (subscription, rest) in full where subscription.state == .live {
            notePosition(ofLive: subscription)
            take(subscription, over: rest, carrying: [])
        }
    }

    private static func heartbeatRest(_ send: (UnsafeRawBufferPointer) -> Int) -> ArraySlice<UInt8> {
        EventFrame.heartbeat[EventFrame.heartbeat.withUnsafeBytes(send)...]
    }

    /// Whom a lag belongs to.
    struct LagKey: Hashable {
        let tenant: String
        let group: Int
    }

    /// Events between the log's head and the slowest connection, by tenant and group, as of the last tick.
    var lags: [LagKey: UInt64] { lagsBySeries.withLock { $0 } }

    func measureLag() {
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

    func closeStalled() {
        let now = Clock.now().unixNano
        for subscription in Array(waiting.values) where now &- subscription.waitingSinceUnixNano > stallNano {
            subscription.transport.close(farewell: nil, reason: .stalled)
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
                loop.close(box.value, retry: loop.configuration.retry, reason: .drained)
            }
        }
    }

    /// Closes with a `retry:` of one to two times `retry`, so that devices do not come back all at once.
    public func close(_ subscription: Subscription, retry: Duration, reason: CloseReason) {
        guard subscription.state != .closed else { return }
        let base = Int64(retry.nanoseconds / 1_000_000)
        let frame = EventFrame.farewell(retryMilliseconds: base + Int64.random(in: 0...max(1, base)))
        subscription.transport.close(
            farewell: subscription.state == .waitingForSocket ? nil : frame, reason: reason)
    }

    func schedule(afterNano nano: UInt64, _ work: @escaping (HubLoop) -> Void) {
        let box = LoopConfined(work)
        loop.schedule(after: .nanoseconds(Int64(nano))) { box.value(self) }
    }
}
