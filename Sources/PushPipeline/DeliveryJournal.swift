import EventStreams

/// What is known of deliveries, told by places in the log instead of one note for each delivery.
///
/// A connection gets what it wants in the order of the log, so *what* it got is a range of offsets. *When* is known from
/// the broadcasts of its loop while it was live, and from its own runs where it caught up. So a delivery costs nothing
/// here, a broadcast one row, and a connection its runs.
///
/// One for each tenant and loop; touched on that loop only. It is bounded: the oldest rows leave first.
final class DeliveryJournal {
    /// One send of an event to all live connections of its topic.
    struct Broadcast {
        let offset: UInt64
        let begunUnixNano: UInt64
        let endedUnixNano: UInt64
    }

    /// A connection that is gone.
    struct ClosedSession {
        let session: DeviceSession
        let reachedOffset: UInt64
        let closedUnixNano: UInt64
        let reason: CloseReason
    }

    private(set) var broadcasts: BoundedRing<Broadcast>
    private(set) var closed: BoundedRing<ClosedSession>
    private(set) var acknowledgements: BoundedRing<Acknowledgement>
    private let begunUnixNano: UInt64

    /// Connections that ended before are not known here.
    var sinceUnixNano: UInt64 {
        closed.count < closed.limit ? begunUnixNano : closed.first?.closedUnixNano ?? begunUnixNano
    }

    init(configuration: DeliveryConfiguration, nowUnixNano: UInt64) {
        broadcasts = BoundedRing(limit: configuration.journalBroadcasts)
        closed = BoundedRing(limit: configuration.journalSessions)
        acknowledgements = BoundedRing(limit: configuration.journalBroadcasts)
        begunUnixNano = nowUnixNano
    }

    func broadcast(_ events: [StoredEvent], begunUnixNano: UInt64, endedUnixNano: UInt64) {
        for event in events {
            broadcasts.append(
                Broadcast(offset: event.offset, begunUnixNano: begunUnixNano, endedUnixNano: endedUnixNano))
        }
    }

    func ended(_ session: DeviceSession, reached: UInt64, atUnixNano: UInt64, reason: CloseReason) {
        closed.append(
            ClosedSession(session: session, reachedOffset: reached, closedUnixNano: atUnixNano, reason: reason))
    }

    func acknowledged(_ acknowledgement: Acknowledgement) { acknowledgements.append(acknowledgement) }
}

/// The kernel's word that the device's kernel has an event.
struct Acknowledgement: Sendable {
    let offset: UInt64
    let session: UInt64
    let atUnixNano: UInt64
}

/// One connection of one device, as the journal keeps it.
struct DeviceSession: Sendable {
    /// Events that were sent together while the connection caught up.
    struct Run: Sendable {
        var after: UInt64
        var through: UInt64
        /// When the socket had the last byte: exact for a run, the latest possible time for runs that were merged.
        var writtenUnixNano: UInt64
        var isMerged = false
    }

    /// Unique in the process.
    let number: UInt64
    let device: String?
    let group: Int
    let filter: TopicFilter
    let connectedUnixNano: UInt64
    /// Delivery began after this offset.
    let startOffset: UInt64
    private(set) var runs: [Run] = []

    static let maxRuns = 16

    init(
        number: UInt64, device: String?, group: Int, filter: TopicFilter, connectedUnixNano: UInt64, startOffset: UInt64
    ) {
        self.number = number
        self.device = device
        self.group = group
        self.filter = filter
        self.connectedUnixNano = connectedUnixNano
        self.startOffset = startOffset
    }

    mutating func wrote(after: UInt64, through: UInt64, atUnixNano: UInt64) {
        guard through > after else { return }
        if runs.count == Self.maxRuns {
            // The two oldest become one, whose time is the later.
            runs[1].after = runs[0].after
            runs[1].isMerged = true
            runs.removeFirst()
        }
        runs.append(Run(after: after, through: through, writtenUnixNano: atUnixNano))
    }

    func run(holding offset: UInt64) -> Run? { runs.first { $0.after < offset && offset <= $0.through } }
}

/// The last `limit` elements, oldest first; grows as it fills.
struct BoundedRing<Element> {
    private var elements: [Element] = []
    private var start = 0
    let limit: Int

    init(limit: Int) { self.limit = max(1, limit) }

    var count: Int { elements.count }

    mutating func append(_ element: Element) {
        if elements.count < limit { return elements.append(element) }
        elements[start] = element
        start = start + 1 == limit ? 0 : start + 1
    }

    func forEach(_ body: (Element) -> Void) {
        for index in start..<elements.count { body(elements[index]) }
        for index in 0..<start { body(elements[index]) }
    }

    var first: Element? { elements.isEmpty ? nil : elements[start] }
}

extension BoundedRing: Sendable where Element: Sendable {}
