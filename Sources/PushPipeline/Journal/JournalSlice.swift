import EventStreams

/// What one loop has learned of one tenant's deliveries since it was asked last.
struct JournalSlice: Sendable {
    let tenant: String
    let loop: Int
    var broadcasts: [DeliveryJournal.Broadcast] = []
    var acknowledgements: [Acknowledgement] = []
    /// That have begun, have changed or have ended.
    var sessions: [KeptSession] = []
    /// Every live connection has what it wants up to here; nil where none is open, and where it is as it was.
    var liveThrough: UInt64?
    /// Rows that left memory before they could be handed over.
    var lostRows: UInt64 = 0
    /// Ends of connections were among them: then `open` are all that there are.
    var hasLostEnds = false
    var open: Set<UInt64> = []
}

/// A connection as it is kept.
struct KeptSession: Sendable {
    let session: DeviceSession
    /// Handed over for the first time.
    let isNew: Bool
    /// Everything that it wants up to here has been handed to its socket; nil while it is live, when its loop knows.
    let reachedOffset: UInt64?
    let closed: (atUnixNano: UInt64, reason: CloseReason)?

}

extension KeptSession {
    init(_ ended: DeliveryJournal.ClosedSession) {
        self.init(
            session: ended.session, isNew: !ended.isHandedOver, reachedOffset: ended.reachedOffset,
            closed: (ended.closedUnixNano, ended.reason))
    }
}

extension HubLoop {
    /// What is new in this loop's journals.
    ///
    /// A live connection costs a look at two of its fields: what it has reached is implied by `liveThrough`. Only those that
    /// have begun or ended, became live or fell behind, or are behind and got on, are handed over.
    ///
    /// - Parameter isAnew: as if nothing had been handed over of what is open.
    func takeSlices(isAnew: Bool) -> [JournalSlice] {
        var slices: [JournalSlice] = []
        for (key, journal) in journals {
            var slice = JournalSlice(tenant: journal.tenant, loop: index)
            journal.takeNew(into: &slice)
            if let tenant = tenants[key] {
                let through = liveThrough(tenant)
                if isAnew || journal.liveThrough != through { slice.liveThrough = through }
                journal.liveThrough = through
                for subscription in tenant.subscriptions.values {
                    if isAnew { subscription.handedOver = nil }
                    if slice.hasLostEnds { slice.open.insert(subscription.session.number) }
                    let reached = subscription.state == .live ? nil : written(subscription)
                    guard subscription.handedOver != reached ?? .max else { continue }
                    slice.sessions.append(
                        KeptSession(
                            session: subscription.session, isNew: subscription.handedOver == nil,
                            reachedOffset: reached, closed: nil))
                    subscription.handedOver = reached ?? .max
                }
            }
            slices.append(slice)
        }
        return slices
    }

    /// Up to where a subscription's socket has taken everything that it wants.
    func written(_ subscription: Subscription) -> UInt64 {
        subscription.state == .waitingForSocket ? subscription.writtenThrough : reached(subscription)
    }

    private func liveThrough(_ tenant: LoopTenant) -> UInt64 {
        var through = tenant.cursor
        for topic in tenant.topics.values {
            if let waiting = topic.joined.first { through = min(through, waiting.offset - 1) }
        }
        for subscription in tenant.due where subscription.state == .live {
            through = min(through, subscription.position)
        }
        return through
    }
}
