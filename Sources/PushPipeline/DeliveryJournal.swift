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
        /// The keeper has heard of it already.
        let isHandedOver: Bool
    }

    let tenant: String
    private(set) var broadcasts: BoundedRing<Broadcast>
    private(set) var closed: BoundedRing<ClosedSession>
    private(set) var acknowledgements: BoundedRing<Acknowledgement>
    private let begunUnixNano: UInt64
    /// What the keeper has been handed of two of the rings.
    private var handedOver: (broadcasts: UInt64, acknowledgements: UInt64) = (0, 0)
    /// Connections that are gone and were not handed over yet, many more than the ring may hold: a server may lose all at
    /// once. Nil where nothing is kept.
    private var ends: [ClosedSession]?
    private var lostEnds: UInt64 = 0
    /// As it was handed over.
    var liveThrough: UInt64?
    private let maxEnds: Int

    /// Connections that ended before are not known here.
    var sinceUnixNano: UInt64 {
        closed.count < closed.limit ? begunUnixNano : closed.first?.closedUnixNano ?? begunUnixNano
    }

    init(tenant: String, configuration: DeliveryConfiguration, nowUnixNano: UInt64) {
        self.tenant = tenant
        ends = configuration.journalBytes > 0 ? [] : nil
        maxEnds = configuration.maxConnections
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

    func ended(
        _ session: DeviceSession, reached: UInt64, atUnixNano: UInt64, reason: CloseReason, isHandedOver: Bool
    ) {
        let end = ClosedSession(
            session: session, reachedOffset: reached, closedUnixNano: atUnixNano, reason: reason,
            isHandedOver: isHandedOver)
        closed.append(end)
        guard let count = ends?.count else { return }
        if count < maxEnds { ends?.append(end) } else { lostEnds += 1 }
    }

    /// Those that are remembered, and those that were not handed over yet.
    func forEachClosed(_ body: (ClosedSession) -> Void) {
        for end in ends?.dropLast(closed.count) ?? [] { body(end) }
        closed.forEach(body)
    }

    func acknowledged(_ acknowledgement: Acknowledgement) { acknowledgements.append(acknowledgement) }

    /// What has come since the last call. What has left the rings meanwhile is lost to the file.
    func takeNew(into slice: inout JournalSlice) {
        let (broadcasts, lostBroadcasts) = broadcasts.since(handedOver.broadcasts)
        let (acknowledgements, lostAcknowledgements) = acknowledgements.since(handedOver.acknowledgements)
        handedOver = (self.broadcasts.appended, self.acknowledgements.appended)
        slice.broadcasts = broadcasts
        slice.acknowledgements = acknowledgements
        slice.sessions = ends?.map(KeptSession.init) ?? []
        slice.lostRows = lostBroadcasts + lostAcknowledgements + lostEnds
        slice.hasLostEnds = lostEnds > 0
        ends = []
        lostEnds = 0
    }
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

    /// Unique, over restarts too; the upper 16 bits are the loop.
    let number: UInt64
    let device: String?
    let group: Int
    let filter: TopicFilter
    let connectedUnixNano: UInt64
    /// Delivery began after this offset.
    let startOffset: UInt64
    /// The log's, which begins anew where a crash may have taken events back: their places are other events' later.
    let epoch: UInt32
    private(set) var runs: [Run] = []

    static let maxRuns = 16

    init(
        number: UInt64, device: String?, group: Int, filter: TopicFilter, connectedUnixNano: UInt64,
        startOffset: UInt64, epoch: UInt32
    ) {
        self.number = number
        self.device = device
        self.group = group
        self.filter = filter
        self.connectedUnixNano = connectedUnixNano
        self.startOffset = startOffset
        self.epoch = epoch
    }

    /// The loop of the connection with this number.
    static func loop(of number: UInt64) -> Int { Int(number >> 48) }

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
    /// Elements that were ever appended.
    private(set) var appended: UInt64 = 0

    init(limit: Int) { self.limit = max(1, limit) }

    var count: Int { elements.count }

    mutating func append(_ element: Element) {
        appended += 1
        if elements.count < limit { return elements.append(element) }
        elements[start] = element
        start = start + 1 == limit ? 0 : start + 1
    }

    func forEach(_ body: (Element) -> Void) {
        for index in start..<elements.count { body(elements[index]) }
        for index in 0..<start { body(elements[index]) }
    }

    /// What was appended after the first `seen` elements, oldest first, and how many of these have left.
    func since(_ seen: UInt64) -> (elements: [Element], lost: UInt64) {
        let new = Int(min(appended - min(seen, appended), UInt64(elements.count)))
        var found: [Element] = []
        found.reserveCapacity(new)
        for index in (elements.count - new)..<elements.count {
            found.append(elements[(start + index) % elements.count])
        }
        return (found, appended - min(seen, appended) - UInt64(new))
    }

    var first: Element? { elements.isEmpty ? nil : elements[start] }
}

extension BoundedRing: Sendable where Element: Sendable {}
