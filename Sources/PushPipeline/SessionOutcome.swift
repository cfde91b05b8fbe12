import EventStreams
import Telemetry

/// What became of one event on one connection.
public struct SessionOutcome: Sendable {
    public enum Status: Sendable, Equatable {
        /// The socket took it at `atUnixNano`, exactly or at the latest. A replay when the event is older than the
        /// connection.
        case written(atUnixNano: UInt64, isExact: Bool, isReplay: Bool)
        /// On its way: this many places of the log lie before it.
        case behind(places: UInt64)
        /// The connection asked for other topics or types.
        case filtered
        /// The connection ended before the event's turn came.
        case closed(atUnixNano: UInt64, reason: CloseReason)
        /// The connection ended before the event was accepted, or began after it.
        case notConnected
    }

    /// Unique in the process.
    public let session: UInt64
    public let device: String?
    public let group: Int
    public let connectedUnixNano: UInt64
    /// nil while the connection is open.
    public let closed: (atUnixNano: UInt64, reason: CloseReason)?
    public let status: Status
    /// When the device's kernel had it, where this connection was sampled.
    public var acknowledgedUnixNano: UInt64?
}

extension SessionOutcome.Status {
    /// - Parameters:
    ///   - matches: whether the session asked for events such as this one.
    ///   - reached: everything that the session wanted up to this offset has been handed to its socket.
    ///   - run: the run that holds the event, if the session caught up with it.
    ///   - broadcastUnixNano: when the session's loop broadcast the event; nil where it did not, or its row has left.
    ///   - latestUnixNano: what was written was written before this.
    static func of(
        _ event: StoredEvent, matches: @autoclosure () -> Bool, epoch: UInt32, connectedUnixNano: UInt64,
        startOffset: UInt64,
        reached: UInt64, closed: (atUnixNano: UInt64, reason: CloseReason)?, run: @autoclosure () -> DeviceSession.Run?,
        broadcastUnixNano: UInt64?, latestUnixNano: UInt64
    ) -> Self {
        // With a later epoch the event took the place of one that a crash has taken back, after the session's end.
        guard event.offset > startOffset, event.epoch <= epoch else { return .notConnected }
        if event.offset > reached {
            guard let closed else { return matches() ? .behind(places: event.offset - reached) : .filtered }
            if closed.atUnixNano < event.acceptedUnixNano { return .notConnected }
            return matches() ? .closed(atUnixNano: closed.atUnixNano, reason: closed.reason) : .filtered
        }
        guard matches() else { return .filtered }
        let isReplay = event.acceptedUnixNano < connectedUnixNano
        if let run = run() {
            return .written(atUnixNano: run.writtenUnixNano, isExact: !run.isMerged, isReplay: isReplay)
        }
        // A broadcast before the connection was to others: the session's run is not known any more.
        if let broadcastUnixNano, broadcastUnixNano >= connectedUnixNano {
            return .written(atUnixNano: broadcastUnixNano, isExact: true, isReplay: isReplay)
        }
        return .written(atUnixNano: latestUnixNano, isExact: false, isReplay: isReplay)
    }
}

extension DeliveryJournal {
    /// - Parameter reached: everything that the session wanted up to this offset has been handed to its socket.
    func outcome(
        of event: StoredEvent, on session: DeviceSession, reached: UInt64,
        closed: (atUnixNano: UInt64, reason: CloseReason)?, broadcastUnixNano: UInt64?
    ) -> SessionOutcome {
        SessionOutcome(
            session: session.number, device: session.device, group: session.group,
            connectedUnixNano: session.connectedUnixNano, closed: closed,
            status: .of(
                event, matches: session.filter.matches(event), epoch: session.epoch,
                connectedUnixNano: session.connectedUnixNano, startOffset: session.startOffset, reached: reached,
                closed: closed, run: session.run(holding: event.offset), broadcastUnixNano: broadcastUnixNano,
                // The broadcast's row has left: that it was written is known, and that it was before this.
                latestUnixNano: closed?.atUnixNano ?? broadcasts.first?.begunUnixNano ?? Clock.now().unixNano))
    }

    /// When this loop has broadcast an event; nil where it has not, or its row has left.
    func broadcastUnixNano(of offset: UInt64) -> UInt64? {
        var found: UInt64?
        broadcasts.forEach { if $0.offset == offset { found = $0.endedUnixNano } }
        return found
    }
}
