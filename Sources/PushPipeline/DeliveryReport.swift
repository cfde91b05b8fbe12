import EventStreams

/// Which devices got an event, when, and why one did not.
public struct DeliveryReport: Sendable {
    /// In the order of what is known, the best first.
    public enum Status: String, Sendable, CaseIterable {
        /// The device has said so.
        case received
        /// The device's kernel has it. Known of sampled deliveries only.
        case acknowledged
        /// Its socket took it.
        case written
        /// The device is connected, and events before this one are still on their way.
        case behind
        /// Its connection ended before the event's turn came. It gets the event when it resumes.
        case closed
        /// It was connected and asked for other topics or types.
        case filtered
        /// It was known, and not connected when the event came.
        case notConnected = "not_connected"
        /// Nothing is known of it.
        case neverConnected = "never_connected"
    }

    /// One device, or one connection of a device that gave no name.
    public struct Row: Sendable {
        public let device: String?
        /// The connection that got it, or the last one.
        public let session: UInt64
        public let group: String
        public let status: Status
        public let writtenUnixNano: UInt64?
        /// False where the time is the latest possible.
        public let isWrittenExact: Bool
        public let isReplay: Bool
        /// How often it was written to this device, over all its connections.
        public let writes: Int
        public let acknowledgedUnixNano: UInt64?
        public let receipt: DeviceReceipt?
        public let behindPlaces: UInt64?
        /// The end of the connection; nil while it is open.
        public let closed: (atUnixNano: UInt64, reason: CloseReason)?
    }

    public let event: StoredEvent
    /// Devices by name, then connections without one.
    public let rows: [Row]
    /// Connections that ended before are not known.
    public let sinceUnixNano: UInt64

    init(
        event: StoredEvent, outcomes: [SessionOutcome], receipts: [String: DeviceReceipt], sinceUnixNano: UInt64,
        groupName: (Int) -> String
    ) {
        self.event = event
        self.sinceUnixNano = sinceUnixNano
        var byDevice: [String: [SessionOutcome]] = [:]
        var rows: [Row] = []
        var unnamed: [Row] = []
        for outcome in outcomes {
            if let device = outcome.device {
                byDevice[device, default: []].append(outcome)
            } else {
                unnamed.append(Self.row(nil, [outcome], nil, groupName))
            }
        }
        for (device, outcomes) in byDevice { rows.append(Self.row(device, outcomes, receipts[device], groupName)) }
        // Devices that have reported and whose connections were never here, or are forgotten.
        for (device, receipt) in receipts where byDevice[device] == nil {
            rows.append(
                Row(
                    device: device, session: 0, group: groupName(receipt.group), status: .received,
                    writtenUnixNano: nil, isWrittenExact: false, isReplay: false, writes: 0,
                    acknowledgedUnixNano: nil, receipt: receipt, behindPlaces: nil, closed: nil))
        }
        rows.sort { ($0.device ?? "") < ($1.device ?? "") }
        unnamed.sort { $0.session < $1.session }
        self.rows = rows + unnamed
    }

    private static func row(
        _ device: String?, _ outcomes: [SessionOutcome], _ receipt: DeviceReceipt?, _ groupName: (Int) -> String
    ) -> Row {
        func rank(_ outcome: SessionOutcome) -> Int {
            switch outcome.status {
            case .written: outcome.acknowledgedUnixNano != nil ? 0 : 1
            case .behind: 2
            case .closed: 3
            case .filtered: 4
            case .notConnected: 5
            }
        }
        // The best, and of equals the latest connection; there is at least one.
        let ranked = outcomes.sorted { (rank($0), $1.connectedUnixNano) < (rank($1), $0.connectedUnixNano) }
        let best = ranked[0]
        var writes = 0
        for case .written in outcomes.map(\.status) { writes += 1 }
        var status: Status
        var written: (at: UInt64, isExact: Bool, isReplay: Bool)?
        var behind: UInt64?
        switch best.status {
        case .written(let at, let isExact, let isReplay):
            status = best.acknowledgedUnixNano == nil ? .written : .acknowledged
            written = (at, isExact, isReplay)
        case .behind(let places):
            status = .behind
            behind = places
        case .closed: status = .closed
        case .filtered: status = .filtered
        case .notConnected: status = .notConnected
        }
        if receipt != nil { status = .received }
        return Row(
            device: device, session: best.session, group: groupName(best.group), status: status,
            writtenUnixNano: written?.at, isWrittenExact: written?.isExact ?? false,
            isReplay: written?.isReplay ?? false, writes: writes, acknowledgedUnixNano: best.acknowledgedUnixNano,
            receipt: receipt, behindPlaces: behind, closed: best.closed)
    }
}

extension HubLoop {
    /// What became of an event on this loop's connections, open and remembered.
    func outcomes(of event: StoredEvent, on channel: TenantChannel) -> (outcomes: [SessionOutcome], since: UInt64)? {
        guard let journal = journals[ObjectIdentifier(channel)] else { return nil }
        let broadcast = journal.broadcast(of: event.offset)
        var acknowledged: [UInt64: UInt64] = [:]
        journal.acknowledgements.forEach { if $0.offset == event.offset { acknowledged[$0.session] = $0.atUnixNano } }
        var outcomes: [SessionOutcome] = []
        journal.closed.forEach { closed in
            outcomes.append(
                journal.outcome(
                    of: event, on: closed.session, reached: closed.reachedOffset,
                    closed: (closed.closedUnixNano, closed.reason), broadcast: broadcast))
        }
        for subscription in tenants[ObjectIdentifier(channel)]?.subscriptions.values ?? [:].values {
            let isWaiting = subscription.state == .waitingForSocket
            outcomes.append(
                journal.outcome(
                    of: event, on: subscription.session,
                    reached: isWaiting ? subscription.writtenThrough : reached(subscription), closed: nil,
                    broadcast: broadcast))
        }
        for index in outcomes.indices { outcomes[index].acknowledgedUnixNano = acknowledged[outcomes[index].session] }
        return (outcomes, journal.sinceUnixNano)
    }
}

extension Hub {
    /// Which devices got an event, when, and why one did not, as far back as the journals of the loops reach.
    public func deliveries(of event: StoredEvent, on channel: TenantChannel) async -> DeliveryReport {
        var outcomes: [SessionOutcome] = []
        var since: UInt64 = 0
        for loop in loops {
            let found = await withCheckedContinuation { continuation in
                loop.execute { continuation.resume(returning: loop.outcomes(of: event, on: channel)) }
            }
            guard let found else { continue }
            outcomes += found.outcomes
            since = max(since, found.since)
        }
        return DeliveryReport(
            event: event, outcomes: outcomes, receipts: channel.receipts.receipts(for: event.offset),
            sinceUnixNano: since, groupName: groups.name(of:))
    }
}
