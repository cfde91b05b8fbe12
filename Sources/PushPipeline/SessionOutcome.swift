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

extension DeliveryJournal {
    /// - Parameter reached: everything that the session wanted up to this offset has been handed to its socket.
    func outcome(
        of event: StoredEvent, on session: DeviceSession, reached: UInt64,
        closed: (atUnixNano: UInt64, reason: CloseReason)?, broadcast: Broadcast?
    ) -> SessionOutcome {
        SessionOutcome(
            session: session.number, device: session.device, group: session.group,
            connectedUnixNano: session.connectedUnixNano, closed: closed,
            status: status(of: event, on: session, reached: reached, closed: closed, broadcast: broadcast))
    }

    private func status(
        of event: StoredEvent, on session: DeviceSession, reached: UInt64,
        closed: (atUnixNano: UInt64, reason: CloseReason)?, broadcast: Broadcast?
    ) -> SessionOutcome.Status {
        guard session.filter.matches(event) else { return .filtered }
        if event.offset <= session.startOffset { return .notConnected }
        guard event.offset > reached else {
            let isReplay = event.acceptedUnixNano < session.connectedUnixNano
            if let run = session.run(holding: event.offset) {
                return .written(atUnixNano: run.writtenUnixNano, isExact: !run.isMerged, isReplay: isReplay)
            }
            if let broadcast {
                return .written(atUnixNano: broadcast.endedUnixNano, isExact: true, isReplay: isReplay)
            }
            // The broadcast's row has left: that it was written is known, and that it was before this.
            let latest = closed?.atUnixNano ?? broadcasts.first?.begunUnixNano ?? Clock.now().unixNano
            return .written(atUnixNano: latest, isExact: false, isReplay: isReplay)
        }
        guard let closed else { return .behind(places: event.offset - reached) }
        return closed.atUnixNano < event.acceptedUnixNano
            ? .notConnected : .closed(atUnixNano: closed.atUnixNano, reason: closed.reason)
    }

    /// The broadcast of an event on this loop; nil where there was none, or its row has left.
    func broadcast(of offset: UInt64) -> Broadcast? {
        var found: Broadcast?
        broadcasts.forEach { if $0.offset == offset { found = $0 } }
        return found
    }
}
