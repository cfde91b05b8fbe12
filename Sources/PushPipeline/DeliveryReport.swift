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

    /// How many devices of a group are in each status.
    public struct GroupCounts: Sendable {
        public let group: String
        /// Those that are not zero.
        public let counts: [Status: Int]
    }

    /// Which devices are told one by one.
    public struct Page: Sendable {
        /// This one alone.
        public var device: String?
        /// Those after this name.
        public var after: String?
        public var limit: Int

        public init(device: String? = nil, after: String? = nil, limit: Int = 100) {
            self.device = device
            self.after = after
            self.limit = limit
        }
    }

    public let event: StoredEvent
    /// Of every device, by name.
    public let groups: [GroupCounts]
    /// A page of devices by the bytes of their names, then of connections without one.
    public let rows: [Row]
    /// The last device of the page, where more follow.
    public let next: String?
    /// Connections that ended before are not known.
    public let sinceUnixNano: UInt64
    /// Times after the event's acceptance of which something may be missing, oldest first.
    public let gaps: [(fromUnixNano: UInt64, untilUnixNano: UInt64)]
}

extension HubLoop {
    /// What became of an event on this loop's connections, open and remembered.
    ///
    /// - Parameter broadcastUnixNano: as the file has it, for where memory has it no more.
    func outcomes(
        of event: StoredEvent, on channel: TenantChannel, broadcastUnixNano: UInt64?
    ) -> (outcomes: [SessionOutcome], since: UInt64)? {
        guard let journal = journals[ObjectIdentifier(channel)] else { return nil }
        let broadcast = journal.broadcastUnixNano(of: event.offset) ?? broadcastUnixNano
        var acknowledged: [UInt64: UInt64] = [:]
        journal.acknowledgements.forEach { if $0.offset == event.offset { acknowledged[$0.session] = $0.atUnixNano } }
        var outcomes: [SessionOutcome] = []
        journal.forEachClosed { closed in
            outcomes.append(
                journal.outcome(
                    of: event, on: closed.session, reached: closed.reachedOffset,
                    closed: (closed.closedUnixNano, closed.reason), broadcastUnixNano: broadcast))
        }
        for subscription in tenants[ObjectIdentifier(channel)]?.subscriptions.values ?? [:].values {
            outcomes.append(
                journal.outcome(
                    of: event, on: subscription.session, reached: written(subscription), closed: nil,
                    broadcastUnixNano: broadcast))
        }
        for index in outcomes.indices { outcomes[index].acknowledgedUnixNano = acknowledged[outcomes[index].session] }
        return (outcomes, journal.sinceUnixNano)
    }
}

extension Hub {
    /// Which devices got an event, when, and why one did not: what memory knows, and of the rest what was written.
    public func deliveries(
        of event: StoredEvent, on channel: TenantChannel, page: DeliveryReport.Page
    ) async -> DeliveryReport {
        let tenant = channel.tenant.name
        let kept = await reading { $0.known(of: event, tenant: tenant) }
        var outcomes: [SessionOutcome] = []
        var since: UInt64 = 0
        for loop in loops {
            let broadcast = kept?.broadcasts[loop.index]
            let found = await withCheckedContinuation { continuation in
                loop.execute {
                    continuation.resume(
                        returning: loop.outcomes(of: event, on: channel, broadcastUnixNano: broadcast))
                }
            }
            guard let found else { continue }
            outcomes += found.outcomes
            since = max(since, found.since)
        }
        for index in outcomes.indices where outcomes[index].acknowledgedUnixNano == nil {
            outcomes[index].acknowledgedUnixNano = kept?.acknowledgements[outcomes[index].session]
        }
        let inMemory = DeliveryReportBuilder(
            event: event, page: page, outcomes: outcomes,
            receipts: channel.receipts.receipts(for: event.offset) + (kept?.receipts ?? []),
            groupName: groups.name(of:))
        guard let kept, let report = await reading({ $0.report(inMemory, kept, tenant: tenant) }) else {
            var builder = inMemory
            return builder.finish(sinceUnixNano: since, gaps: [])
        }
        return report
    }

    /// Away from the loops, since it reads from the disk; nil where nothing is kept, or cannot be read.
    private func reading<T: Sendable>(_ body: @escaping @Sendable (DeliveryKeeper) -> T?) async -> T? {
        guard let keeper else { return nil }
        return await withCheckedContinuation { continuation in
            offload { continuation.resume(returning: body(keeper)) }
        }
    }
}
