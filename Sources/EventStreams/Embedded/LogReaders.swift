import Dispatch
import GRDB
import GRDBSQLite

/// Connections that read the log beside the writer, each used by one thread at a time.
final class LogReaders: Sendable {
    private struct State {
        var idle: [Reader] = []
        var isClosed = false
    }

    final class Reader: @unchecked Sendable {
        // Guard: `statements` is used inside a block of `queue` only.
        let queue: DatabaseQueue
        fileprivate var statements: [Query: Statement] = [:]

        init(path: String) throws {
            queue = try DatabaseQueue(
                path: path, configuration: LogDatabase.configuration(label: "isotherm.log.reader", readonly: true))
        }

        /// Prepared once, to be reset after use.
        func statement(_ query: Query, _ db: Database) throws -> OpaquePointer {
            if let prepared = statements[query] { return prepared.sqliteStatement }
            let made = try db.makeStatement(sql: query.sql)
            statements[query] = made
            return made.sqliteStatement
        }
    }

    enum Query {
        case range
        case several
        case one
        case blocks
        case latestByPosition
        case latest
        case idempotencyKeys

        /// Of one `several`. Fewer make a batch cost more, more make preparing it cost more.
        static let severalCount = 128

        private static let columns = """
            position, epoch, accepted, produced, checksum, topic, type, key, content_type, traceparent, tracestate,
            idempotency_key, payload
            """

        var sql: String {
            switch self {
            case .range:
                """
                SELECT \(Self.columns) FROM events WHERE position > ? AND position <= ? ORDER BY position LIMIT ?
                """
            /// In the order of the positions that are bound. A statement for each takes three times as long.
            case .several:
                """
                SELECT \(Self.columns) FROM (VALUES \(Array(repeating: "(?)", count: Self.severalCount).joined(separator: ",")))
                CROSS JOIN events ON position = column1
                """
            case .one: "SELECT \(Self.columns) FROM events WHERE position = ?"
            case .blocks:
                """
                SELECT position, checksum, postings FROM blocks WHERE position >= ? AND position <= ? ORDER BY position
                """
            /// In the order of the events, sorted by SQLite, on the disk if there are many.
            case .latestByPosition: "SELECT position, topic, key, type FROM latest WHERE log = ? ORDER BY position"
            case .latest:
                """
                SELECT topic, key, type, position FROM latest WHERE log = ? AND (topic, key, type) > (?, ?, ?)
                ORDER BY topic, key, type LIMIT ?
                """
            case .idempotencyKeys:
                """
                SELECT idempotency_key, position, epoch, accepted, traceparent
                FROM events INDEXED BY events_idempotency
                WHERE idempotency_key IS NOT NULL AND position BETWEEN ? AND ? ORDER BY position DESC LIMIT ?
                """
            }
        }
    }

    private let path: String
    private let limit: Int
    private let permits: DispatchSemaphore
    private let state = Locked(State())

    init(path: String, limit: Int) {
        self.path = path
        self.limit = limit
        permits = DispatchSemaphore(value: limit)
    }

    /// Waits for the readers that are at work and closes all.
    func close() {
        state.withLock { $0.isClosed = true }
        for _ in 0..<limit { permits.wait() }
        let idle = state.withLock { state in
            defer { state.idle = [] }
            return state.idle
        }
        for reader in idle {
            reader.queue.inDatabase { _ in reader.statements = [:] }
            // Reading connections have nothing to lose; the descriptor is freed with the object at the latest.
            try? reader.queue.close()
        }
        for _ in 0..<limit { permits.signal() }
    }

    func withReader<T>(_ action: String, _ body: (Reader, Database) throws -> T) throws(StreamError) -> T {
        permits.wait()
        defer { permits.signal() }
        let (isClosed, idle) = state.withLock { ($0.isClosed, $0.isClosed ? nil : $0.idle.popLast()) }
        guard !isClosed else { throw StreamError(code: .closed, cause: "the store was closed") }
        do {
            let reader = try idle ?? Reader(path: path)
            defer { state.withLock { $0.idle.append(reader) } }
            return try reader.queue.inDatabase { try body(reader, $0) }
        } catch {
            throw LogDatabase.translate(error, action)
        }
    }

    /// Committed events after `offset`, ascending.
    ///
    /// - Parameter holes: asked for at a gap, when the event behind it is visible.
    func read(
        log: Int64, tenant: String, after offset: UInt64, limit: Int, byteLimit: Int, holes: () -> LogHoles
    ) throws(StreamError) -> [StoredEvent] {
        try withReader("read the log of \(tenant)") { reader, db in
            let handle = try reader.statement(.range, db)
            defer { sqlite3_reset(handle) }
            sqlite3_bind_int64(handle, 1, EventPosition.of(log: log, offset: offset))
            sqlite3_bind_int64(handle, 2, EventPosition.of(log: log, offset: EventPosition.maximumOffset))
            sqlite3_bind_int64(handle, 3, Int64(limit))
            var events: [StoredEvent] = []
            events.reserveCapacity(min(limit, 1_024))
            var previous: StoredEvent?
            var through = offset
            var bytes = 0
            while true {
                let code = sqlite3_step(handle)
                if code == SQLITE_DONE { return events }
                guard code == SQLITE_ROW else {
                    if !events.isEmpty { return events }
                    throw LogDatabase.failure(db, code)
                }
                let row = EventRow(handle)
                let place = EventPosition.offset(row.position)
                if place > through + 1, let lost = holes().lost(in: through + 1...place - 1) {
                    if !events.isEmpty { return events }
                    throw Self.loss(lost, tenant)
                }
                guard let event = row.event(like: previous) else {
                    if !events.isEmpty { return events }
                    throw Self.damage(place, tenant)
                }
                bytes += event.byteCount
                if bytes > byteLimit && !events.isEmpty { return events }
                events.append(event)
                previous = event
                through = place
            }
        }
    }

    /// The newest idempotency keys of a log, oldest first.
    func idempotencyKeys(
        log: Int64, limit: Int
    ) throws(StreamError) -> [(key: String, entry: IdempotencyIndex.Entry)] {
        try withReader("read the idempotency keys") { reader, db in
            // By SQLite's functions here too: GRDB would end a text at its first NUL.
            let handle = try reader.statement(.idempotencyKeys, db)
            defer { sqlite3_reset(handle) }
            sqlite3_bind_int64(handle, 1, EventPosition.of(log: log, offset: 0))
            sqlite3_bind_int64(handle, 2, EventPosition.of(log: log, offset: EventPosition.maximumOffset))
            sqlite3_bind_int64(handle, 3, Int64(limit))
            var keys: [(key: String, entry: IdempotencyIndex.Entry)] = []
            while true {
                let code = sqlite3_step(handle)
                if code == SQLITE_DONE { return keys.reversed() }
                guard code == SQLITE_ROW else { throw LogDatabase.failure(db, code) }
                // What is damaged here is told when the event is read.
                guard let key = Self.text(handle, 0),
                    let epoch = UInt32(exactly: sqlite3_column_int64(handle, 2))
                else { continue }
                keys.append(
                    (
                        key,
                        IdempotencyIndex.Entry(
                            offset: EventPosition.offset(sqlite3_column_int64(handle, 1)), epoch: epoch,
                            acceptedUnixNano: UInt64(bitPattern: sqlite3_column_int64(handle, 3)),
                            traceparent: Self.text(handle, 4))
                    ))
            }
        }
    }

    /// nil for NULL.
    static func text(_ handle: OpaquePointer, _ index: CInt) -> String? {
        guard let start = sqlite3_column_text(handle, index) else { return nil }
        let bytes = UnsafeBufferPointer(start: start, count: Int(sqlite3_column_bytes(handle, index)))
        return String(decoding: bytes, as: UTF8.self)
    }

    static func loss(_ offsets: ClosedRange<UInt64>, _ tenant: String) -> StreamError {
        let what =
            offsets.count == 1
            ? "the event at offset \(offsets.lowerBound)"
            : "the \(offsets.count) events at the offsets \(offsets.lowerBound) to \(offsets.upperBound)"
        return StreamError(
            code: .corrupt,
            cause: "\(what) of \(tenant) \(offsets.count == 1 ? "is" : "are") missing; restore a backup, or continue "
                + "behind",
            offset: offsets.upperBound)
    }

    static func damage(_ offset: UInt64, _ tenant: String) -> StreamError {
        StreamError(
            code: .corrupt,
            cause: "the event at offset \(offset) of \(tenant) does not match its checksum; restore a backup, or "
                + "continue after it",
            offset: offset)
    }
}
