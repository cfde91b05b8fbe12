import GRDB
import GRDBSQLite
import Synchronization

/// The newest event of each key up to an offset, in pages: see ``EventStream/latest(upTo:filter:)``.
public struct LatestEvents: Sendable {
    private let stream: EmbeddedStream
    private let limit: UInt64
    private let filter: TopicFilter
    /// Of the events that the index does not know: these go before what it has for the same key.
    private var recent: [LatestKey: StoredEvent] = [:]
    private var rest: ArraySlice<StoredEvent>?
    /// The first that was found among these, to be told.
    private var damage: StreamError?
    private var cursor = Cursor()
    /// What was found in the index and is being read, in the order of the log: many values are on the page of the one
    /// before.
    private var positions: ArraySlice<Int64> = []
    /// What comes after that. Each value that is read makes room for some: few keep the first page waiting, and in a long
    /// list neighbours are near each other.
    private var gathered: [Int64] = []
    private let budget: GatheringBudget.Share

    /// Where the table was left, and what is known of the key there.
    struct Cursor {
        enum Place {
            case start
            case behind(topic: String, key: String, type: String)
            case behindTopic(String)
            case end
        }

        var place = Place.start
        /// The newest position of this key that the filter takes.
        var newest: Int64?
    }

    /// Most events behind the index that are looked through first.
    static let maximumRecent: UInt64 = 131_072

    init(_ stream: EmbeddedStream, upTo offset: UInt64, filter: TopicFilter) throws(StreamError) {
        self.stream = stream
        limit = offset
        self.filter = filter
        budget = GatheringBudget.Share(of: stream.core.gathering)
        let (trimmed, indexed) = (
            stream.state.withLock { $0.trimmedThrough }, stream.disk.withLock { $0.indexedThrough }
        )
        var place = max(trimmed, indexed)
        guard offset <= place || offset - place <= Self.maximumRecent else {
            throw StreamError(
                code: .unavailable,
                cause: "the index of \(stream.tenant) is \(offset - place) events behind, the limit is "
                    + "\(Self.maximumRecent); it is being written, try again shortly")
        }
        while place < offset {
            let events: [StoredEvent]
            do {
                events = try stream.read(after: place, limit: 1_024, byteLimit: 8 << 20)
            } catch {
                guard error.code == .corrupt, let damaged = error.offset, damaged > place else { throw error }
                damage = damage ?? error
                place = damaged
                continue
            }
            for event in events where event.offset <= offset {
                guard let key = event.key, filter.matches(event) else { continue }
                recent[LatestKey(topic: event.topic, key: key, type: nil)] = event
            }
            guard let last = events.last else { break }
            place = last.offset
        }
    }

    /// The next page: at most `count` events, in no order that means anything; empty after the last.
    ///
    /// Blocks on the disk. Throws ``StreamError/Code/corrupt`` at a damaged event, whose key has no value then; the
    /// call after goes on behind it.
    public mutating func next(limit count: Int, byteLimit: Int) throws(StreamError) -> [StoredEvent] {
        if let damage {
            self.damage = nil
            throw damage
        }
        var events: [StoredEvent] = []
        var bytes = 0
        while events.count < count, bytes < byteLimit {
            if positions.isEmpty {
                if gathered.isEmpty { try gather(512) }
                guard !gathered.isEmpty else { break }
                positions = gathered.sorted()[...]
                gathered = []
            }
            let read = try stream.core.readers.events(
                at: positions, limit: count - events.count, byteLimit: byteLimit - bytes)
            events += read.events
            bytes += read.events.reduce(0) { $0 + $1.byteCount }
            positions.removeFirst(read.events.count)
            // An error comes again when the list is needed.
            try? gather(4 * read.events.count)
            guard read.hasFailed, let position = positions.first else { continue }
            let offset = EventPosition.offset(position)
            guard offset > stream.state.withLock({ $0.trimmedThrough }) else {
                positions.removeFirst()
                continue
            }
            // First what is sound: the next call comes here again.
            if !events.isEmpty { return events }
            positions.removeFirst()
            throw LogReaders.damage(offset, stream.tenant)
        }
        guard positions.isEmpty, gathered.isEmpty, case .end = cursor.place else { return events }
        var rest = rest ?? recent.values.sorted { $0.offset < $1.offset }[...]
        recent = [:]
        while events.count < count, bytes < byteLimit, let event = rest.popFirst() {
            events.append(event)
            bytes += event.byteCount
        }
        self.rest = rest
        return events
    }

    private mutating func gather(_ count: Int) throws(StreamError) {
        let count = min(count, budget.positions - gathered.count)
        if case .end = cursor.place { return }
        guard count > 0 else { return }
        gathered += try stream.core.readers.latest(
            log: stream.log, tenant: stream.tenant, from: &cursor, upTo: limit, limit: count, filter: filter,
            except: recent)
    }
}

/// How many positions may be gathered, 8 bytes each, shared by those who read latest values at the time.
final class GatheringBudget: Sendable {
    static let positions = 1 << 20
    static let leastPositions = 16_384
    private let shares = Atomic(0)

    final class Share: Sendable {
        private let budget: GatheringBudget

        init(of budget: GatheringBudget) {
            self.budget = budget
            budget.shares.wrappingAdd(1, ordering: .relaxed)
        }

        deinit {
            budget.shares.wrappingSubtract(1, ordering: .relaxed)
        }

        var positions: Int {
            max(leastPositions, GatheringBudget.positions / max(1, budget.shares.load(ordering: .relaxed)))
        }
    }
}

extension LogReaders {
    /// Up to the first that is not there or damaged.
    fileprivate func events(
        at positions: ArraySlice<Int64>, limit: Int, byteLimit: Int
    ) throws(StreamError) -> (events: [StoredEvent], hasFailed: Bool) {
        try withReader("read the latest values") { reader, db in
            let handle = try reader.statement(.several, db)
            defer { sqlite3_reset(handle) }
            var events: [StoredEvent] = []
            var bytes = 0
            var rest = positions.prefix(limit)
            while !rest.isEmpty {
                let part = rest.prefix(Query.severalCount)
                rest = rest.dropFirst(part.count)
                sqlite3_reset(handle)
                for (index, position) in part.enumerated() { sqlite3_bind_int64(handle, CInt(index) + 1, position) }
                for index in part.count..<Query.severalCount { sqlite3_bind_null(handle, CInt(index) + 1) }
                for position in part {
                    guard bytes < byteLimit else { return (events, false) }
                    let code = sqlite3_step(handle)
                    guard code == SQLITE_ROW || code == SQLITE_DONE else {
                        if events.isEmpty { throw LogDatabase.failure(db, code) }
                        return (events, false)
                    }
                    // Another row says that this one is not there.
                    guard code == SQLITE_ROW, sqlite3_column_int64(handle, 0) == position,
                        let event = EventRow(handle).event(like: events.last)
                    else { return (events, true) }
                    events.append(event)
                    bytes += event.byteCount
                }
            }
            return (events, false)
        }
    }

    /// Positions of the newest events of the keys from `cursor` on, about `limit`.
    fileprivate func latest(
        log: Int64, tenant: String, from cursor: inout LatestEvents.Cursor, upTo end: UInt64, limit: Int,
        filter: TopicFilter, except recent: [LatestKey: StoredEvent]
    ) throws(StreamError) -> [Int64] {
        var state = cursor
        let found = try withReader("read the latest values of \(tenant)") { reader, db in
            var positions: [Int64] = []
            let handle = try reader.statement(.latest, db)
            var hasMore = true
            while hasMore, positions.count < limit {
                hasMore = try Self.scan(handle, log, db, &state, &positions, end, filter, recent)
            }
            return positions
        }
        cursor = state
        return found
    }

    /// One run over the table until 256 rows, another topic that nobody wants, or the end; false at the end.
    private static func scan(
        _ handle: OpaquePointer, _ log: Int64, _ db: Database, _ cursor: inout LatestEvents.Cursor,
        _ positions: inout [Int64], _ end: UInt64, _ filter: TopicFilter, _ recent: [LatestKey: StoredEvent]
    ) throws -> Bool {
        defer { sqlite3_reset(handle) }
        func bind(_ index: CInt, _ text: String) {
            // SQLITE_TRANSIENT: SQLite copies the bytes.
            let copied = unsafeBitCast(-1, to: sqlite3_destructor_type.self)
            var text = text
            text.withUTF8 { bytes in
                bytes.withMemoryRebound(to: CChar.self) {
                    _ = sqlite3_bind_text(handle, index, $0.baseAddress, CInt($0.count), copied)
                }
            }
        }
        /// In SQLite's order a blob comes behind every text.
        func bindEnd(_ index: CInt) { sqlite3_bind_zeroblob(handle, index, 0) }
        sqlite3_bind_int64(handle, 1, log)
        var topic = ""
        var key: String?
        switch cursor.place {
        case .start:
            // In SQLite's order a number comes before every text.
            for index in CInt(2)...4 { sqlite3_bind_int64(handle, index, 0) }
        case .behind(let lastTopic, let lastKey, let lastType):
            bind(2, lastTopic)
            bind(3, lastKey)
            bind(4, lastType)
            (topic, key) = (lastTopic, lastKey)
        case .behindTopic(let lastTopic):
            bind(2, lastTopic)
            bindEnd(3)
            bindEnd(4)
        case .end: return false
        }
        sqlite3_bind_int64(handle, 5, 256)
        /// The key before is complete.
        func complete() {
            defer { cursor.newest = nil }
            guard let newest = cursor.newest, EventPosition.offset(newest) <= end, let key,
                recent.isEmpty || recent[LatestKey(topic: topic, key: key, type: nil)] == nil
            else { return }
            positions.append(newest)
        }
        /// Whether a column of the row is this text, byte by byte.
        func isSame(_ index: CInt, _ other: String) -> Bool {
            let start = sqlite3_column_text(handle, index)
            let bytes = UnsafeRawBufferPointer(start: start, count: Int(sqlite3_column_bytes(handle, index)))
            return start != nil && ExactText.isSame(bytes, other)
        }
        var type = ""
        for _ in 0..<256 {
            let code = sqlite3_step(handle)
            guard code == SQLITE_ROW || code == SQLITE_DONE else { throw LogDatabase.failure(db, code) }
            guard code == SQLITE_ROW else {
                complete()
                cursor.place = .end
                return false
            }
            let isSameTopic = key != nil && isSame(0, topic)
            if !isSameTopic || !isSame(1, key ?? "") {
                complete()
                guard let nextTopic = isSameTopic ? topic : text(handle, 0), let nextKey = text(handle, 1) else {
                    throw Self.damagedLatest
                }
                (topic, key) = (nextTopic, nextKey)
                guard isSameTopic || filter.matches(topic: topic) else {
                    cursor.place = .behindTopic(topic)
                    return true
                }
            }
            if !isSame(2, type) {
                guard let nextType = text(handle, 2) else { throw Self.damagedLatest }
                type = nextType
            }
            if filter.matches(type: type) {
                cursor.newest = max(cursor.newest ?? 0, sqlite3_column_int64(handle, 3))
            }
        }
        if let key { cursor.place = .behind(topic: topic, key: key, type: type) }
        return true
    }

    private static let damagedLatest = StreamError(
        code: .corrupt, cause: "the table of latest values is damaged; restore a backup")
}
