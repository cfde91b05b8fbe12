import GRDB
import GRDBSQLite
import Synchronization

/// The SQLite side of the store: the writing connection. Its tables are in ``LogSchema``.
///
/// Statements are prepared once and driven through SQLite's C functions on GRDB's connection: 1.5 times the rate of
/// GRDB's own binding (see `docs`), with GRDB keeping the connection, its serialisation and its life time.
final class LogDatabase: @unchecked Sendable {
    // Guard: everything that varies is used inside a block of `queue` only.
    private let queue: DatabaseQueue
    private var statements: Statements?
    private var isFull = true
    let scratch = Scratch()
    private let writeAheadLog = WriteAheadLog()

    let storeID: UInt64
    let generation: UInt32

    struct Statements {
        let begin: Statement
        let commit: Statement
        let rollback: Statement
        let insertEvent: Statement
        let insertEpoch: Statement
        let insertHole: Statement
        let deleteHoles: Statement
        let updateLog: Statement
        let tick: Statement
        let oldest: Statement
        let deleteEvents: Statement
        let trimLog: Statement
        let deleteBlocks: Statement
        let keyedEvents: Statement
        let deleteLatest: Statement
        let insertBlock: Statement
        let insertLatest: Statement
        let updateIndex: Statement
    }

    /// What one log contributes to a commit.
    struct Work {
        var log: Int64
        var epoch: EpochStart?
        /// What failed commits have left before these events.
        var hole: ClosedRange<UInt64>?
        var batches: [PendingBatch]
        var events: Int
        var bytes: Int
        /// The last offset among the events; nil when there are none.
        var through: UInt64?
    }

    /// Opens the database of `directory`, which was examined, or creates it; marks it as in use.
    ///
    /// After an unclean end the generation, which numbers epochs, has grown durably before anything is sequenced: an
    /// epoch number that a device has seen is never given out again, even if nothing of that epoch was committed.
    init(directory: DataDirectory) throws(StreamError) {
        let path = directory.databasePath
        if DataDirectory.size(of: path) == nil { try LogSchema.create(path, directory) }
        var generation: UInt32 = 0
        var storeID: UInt64 = 0
        let writeAheadLog = writeAheadLog
        do {
            queue = try DatabaseQueue(path: path, configuration: Self.configuration(label: "isotherm.log.writer"))
            try queue.writeWithoutTransaction { db in
                // GRDB sets NORMAL in WAL mode, after any preparation: an acknowledged event could be lost with the
                // power. Hence here, and read back.
                try db.execute(sql: "PRAGMA synchronous = FULL")
                let level = try Int.fetchOne(db, sql: "PRAGMA synchronous")
                guard level == 2 else {
                    throw StreamError(code: .unavailable, cause: "SQLite refused synchronous=FULL for \(path)")
                }
                try LogSchema.bringUpToDate(db, path)
                // Not in a commit: see LogCheckpointer. The hook is what SQLite would do it with.
                if let connection = db.sqliteConnection {
                    sqlite3_wal_hook(
                        connection,
                        { context, _, _, pages in
                            if let context {
                                let log = Unmanaged<WriteAheadLog>.fromOpaque(context).takeUnretainedValue()
                                log.pages.store(Int(pages), ordering: .relaxed)
                            }
                            return SQLITE_OK
                        }, Unmanaged.passUnretained(writeAheadLog).toOpaque())
                }
                // Debian's SQLite overwrites what is deleted with zeros: a page for every ten old events.
                try db.execute(sql: "PRAGMA secure_delete = OFF")
                // To cut the write-ahead log off takes up to 80 ms, in a commit: only what should not be there.
                try db.execute(sql: "PRAGMA journal_size_limit = \(LogCheckpointer.maximumPages * 4_120)")
                // 16 MiB: removing and indexing look up each key, at a place of its own.
                try db.execute(sql: "PRAGMA cache_size = -16384")
                try db.inTransaction(.immediate) {
                    func meta(_ name: String) throws -> Int64 {
                        guard
                            let value = try Int64.fetchOne(
                                db, sql: "SELECT value FROM meta WHERE name = ?", arguments: [name])
                        else { throw StreamError(code: .corrupt, cause: "\(path) lacks its \(name); restore a backup") }
                        return value
                    }
                    storeID = UInt64(bitPattern: try meta("store_id"))
                    let isClean = try meta("clean") == 1
                    let last = try meta("generation")
                    guard let number = UInt32(exactly: last), isClean || number < .max else {
                        throw StreamError(code: .corrupt, cause: "\(path) has generation \(last); restore a backup")
                    }
                    generation = isClean ? number : number + 1
                    try db.execute(sql: "UPDATE meta SET value = 0 WHERE name = 'clean'")
                    try db.execute(sql: "UPDATE meta SET value = ? WHERE name = 'generation'", arguments: [generation])
                    return .commit
                }
            }
        } catch {
            throw Self.translate(error, "open \(path)")
        }
        self.generation = generation
        self.storeID = storeID
    }

    static func configuration(label: String, readonly: Bool = false) -> Configuration {
        var configuration = Configuration()
        configuration.label = label
        configuration.readonly = readonly
        configuration.journalMode = readonly ? .default : .wal
        configuration.busyMode = .timeout(5)
        configuration.foreignKeysEnabled = false
        return configuration
    }

    // MARK: Logs

    /// The tenant's row, created if need be.
    func record(of tenant: String, maximumTenants: Int) throws(StreamError) -> (LogRecord, [EpochStart]) {
        let generation = self.generation
        return try write("open the log of \(tenant)") { db in
            try self.setSynchronous(db, full: true)
            let damage = StreamError(
                code: .corrupt, cause: "the log of \(tenant) contradicts its own totals; restore a backup")
            func find() throws -> LogRecord? {
                let sql = """
                    SELECT id, next_offset, trimmed_through, events, bytes, indexed_through, holes_since
                    FROM logs WHERE tenant = ?
                    """
                guard let row = try Row.fetchOne(db, sql: sql, arguments: [tenant]) else { return nil }
                guard let id = Self.number(row, 0), (1...Int64(EventPosition.maximumLog)).contains(id),
                    let next = Self.number(row, 1).flatMap(UInt64.init(exactly:)),
                    (1...EventPosition.maximumOffset + 1).contains(next),
                    let trimmed = Self.number(row, 2).flatMap(UInt64.init(exactly:)), trimmed < next,
                    let events = Self.number(row, 3), let bytes = Self.number(row, 4),
                    let indexed = Self.number(row, 5).flatMap(UInt64.init(exactly:)), indexed < next,
                    let known = Self.number(row, 6).flatMap(UInt64.init(exactly:)), known <= next,
                    let holes = try Self.holes(db, log: id, knownFrom: known, below: next)
                else { throw damage }
                return LogRecord(
                    id: id, nextOffset: next, trimmedThrough: trimmed, events: Int(events), bytes: Int(bytes),
                    indexedThrough: indexed, holes: holes)
            }
            var record = try find()
            if record == nil {
                let count = try Int.fetchOne(db, sql: "SELECT count(*) FROM logs") ?? 0
                guard count < maximumTenants else {
                    throw StreamError(
                        code: .tooLarge,
                        cause: "the store holds \(count) of \(maximumTenants) tenants, \(tenant) is one too many; "
                            + "raise maximumTenants")
                }
                try db.execute(
                    sql: """
                        INSERT INTO logs (tenant, next_offset, trimmed_through, events, bytes, indexed_through)
                        VALUES (?, 1, 0, 0, 0, 0)
                        """,
                    arguments: [tenant])
                record = try find()
            }
            guard let record else { throw damage }
            let sql = "SELECT epoch, first_offset FROM epochs WHERE log = ? ORDER BY epoch"
            var epochs: [EpochStart] = []
            for row in try Row.fetchAll(db, sql: sql, arguments: [record.id]) {
                guard let epoch = Self.number(row, 0).flatMap(UInt32.init(exactly:)), epoch <= generation,
                    let first = Self.number(row, 1).flatMap(UInt64.init(exactly:)),
                    first >= epochs.last?.firstOffset ?? 1, first <= record.nextOffset
                else { throw damage }
                epochs.append(EpochStart(epoch: epoch, firstOffset: first))
            }
            let start = EventPosition.of(log: record.id, offset: 0)
            let last = try Int64.fetchOne(
                db, sql: "SELECT max(position) FROM events WHERE position BETWEEN ? AND ?",
                arguments: [start, EventPosition.of(log: record.id, offset: EventPosition.maximumOffset)])
            guard last.map({ EventPosition.offset($0) < record.nextOffset }) ?? true else { throw damage }
            return (record, epochs)
        }
    }

    /// nil if they make no sense.
    static func holes(_ db: Database, log: Int64, knownFrom: UInt64, below end: UInt64) throws -> LogHoles? {
        var holes = LogHoles(knownFrom: knownFrom)
        let sql = "SELECT first_offset, last_offset FROM holes WHERE log = ? ORDER BY first_offset"
        var least: UInt64 = 1
        for row in try Row.fetchAll(db, sql: sql, arguments: [log]) {
            guard let first = number(row, 0).flatMap(UInt64.init(exactly:)), first >= least,
                let last = number(row, 1).flatMap(UInt64.init(exactly:)), last >= first, last < end
            else { return nil }
            holes.add(first...last)
            least = last + 1
        }
        return holes
    }

    /// nil for anything but an integer, which a damaged file may hold anywhere.
    private static func number(_ row: Row, _ index: Int) -> Int64? {
        Int64.fromDatabaseValue(row[index])
    }

    // MARK: Committing

    /// Writes in one transaction. On failure nothing of it is in the log.
    func commit(_ works: [Work], synced: Bool) -> StreamError? {
        do {
            try write("append to the log") { db in
                let statements = try self.prepared(db)
                try self.setSynchronous(db, full: synced)
                try self.transaction(db, statements) {
                    var inserted = 0
                    for work in works {
                        if let epoch = work.epoch {
                            let statement = statements.insertEpoch.sqliteStatement
                            sqlite3_bind_int64(statement, 1, work.log)
                            sqlite3_bind_int64(statement, 2, Int64(epoch.epoch))
                            sqlite3_bind_int64(statement, 3, Int64(epoch.firstOffset))
                            try self.run(db, statement)
                        }
                        if let hole = work.hole { try self.insertHole(hole, log: work.log, db, statements) }
                        for batch in work.batches {
                            for event in batch.events {
                                try self.insert(event, log: work.log, db, statements.insertEvent.sqliteStatement)
                            }
                        }
                        inserted += work.events
                        guard let through = work.through else { continue }
                        let statement = statements.updateLog.sqliteStatement
                        sqlite3_bind_int64(statement, 1, Int64(through) + 1)
                        sqlite3_bind_int64(statement, 2, Int64(work.events))
                        sqlite3_bind_int64(statement, 3, Int64(work.bytes))
                        sqlite3_bind_int64(statement, 4, work.log)
                        try self.run(db, statement)
                    }
                    // A commit without a change would not sync what earlier commits have written.
                    if inserted == 0 { try self.run(db, statements.tick.sqliteStatement) }
                }
            }
            return nil
        } catch {
            return error
        }
    }

    private func insertHole(_ hole: ClosedRange<UInt64>, log: Int64, _ db: Database, _ statements: Statements) throws {
        let statement = statements.insertHole.sqliteStatement
        sqlite3_bind_int64(statement, 1, log)
        sqlite3_bind_int64(statement, 2, Int64(hole.lowerBound))
        sqlite3_bind_int64(statement, 3, Int64(hole.upperBound))
        try run(db, statement)
    }

    private func insert(_ event: StoredEvent, log: Int64, _ db: Database, _ statement: OpaquePointer) throws {
        let position = EventPosition.of(log: log, offset: event.offset)
        var checksum = EventChecksum()
        checksum.add(UInt64(bitPattern: position))
        checksum.add(UInt64(event.epoch))
        checksum.add(event.acceptedUnixNano)
        checksum.add(event.producedUnixNano ?? .max)
        sqlite3_bind_int64(statement, 1, position)
        sqlite3_bind_int64(statement, 2, Int64(event.byteCount))
        sqlite3_bind_int64(statement, 3, Int64(bitPattern: event.acceptedUnixNano))
        sqlite3_bind_int64(statement, 4, Int64(event.epoch))
        if let produced = event.producedUnixNano {
            sqlite3_bind_int64(statement, 5, Int64(bitPattern: produced))
        } else {
            sqlite3_bind_null(statement, 5)
        }
        // The texts are copied side by side into memory that stays until the statement has run: SQLite need not copy.
        scratch.reset(capacity: event.byteCount)
        func bind(_ text: String?, _ index: CInt) {
            guard let text else {
                checksum.add(nil)
                sqlite3_bind_null(statement, index)
                return
            }
            let bytes = scratch.append(text)
            checksum.add(bytes)
            sqlite3_bind_text(
                statement, index, bytes.baseAddress?.assumingMemoryBound(to: CChar.self), CInt(bytes.count), nil)
        }
        bind(event.topic, 7)
        bind(event.type, 8)
        bind(event.key, 9)
        bind(event.contentType, 10)
        bind(event.traceparent, 11)
        bind(event.tracestate, 12)
        bind(event.idempotencyKey, 13)
        try event.payload.withUnsafeBytes { payload in
            checksum.add(payload)
            sqlite3_bind_int64(statement, 6, Int64(bitPattern: checksum.value))
            if payload.count == 0 {
                sqlite3_bind_zeroblob(statement, 14, 0)
            } else {
                sqlite3_bind_blob(statement, 14, payload.baseAddress, CInt(payload.count), nil)
            }
            try run(db, statement)
        }
    }

    // MARK: The write-ahead log

    private final class WriteAheadLog: Sendable {
        let pages = Atomic(0)
    }

    /// Its length after the last commit.
    var writeAheadPages: Int { writeAheadLog.pages.load(ordering: .relaxed) }

    /// How many of its pages are in the file then; nil when that failed.
    func copyWriteAheadLog() -> Int? { queue.writeWithoutTransaction(Self.copyWriteAheadLog) }

    /// Proves that the storage takes writes again.
    func probe() -> StreamError? {
        do {
            try write("write to the log") { db in
                let statements = try self.prepared(db)
                try self.setSynchronous(db, full: true)
                try self.transaction(db, statements) {
                    try db.execute(sql: "INSERT OR REPLACE INTO probe VALUES (1, zeroblob(65536))")
                }
                try self.transaction(db, statements) { try db.execute(sql: "DELETE FROM probe") }
            }
            return nil
        } catch {
            return error
        }
    }

    // MARK: Retention

    struct OldEvent {
        var offset: UInt64
        var bytes: Int
        var acceptedUnixNano: UInt64
    }

    /// The first events of a log in its order.
    func oldest(log: Int64, limit: Int) throws(StreamError) -> [OldEvent] {
        try write("read the log's oldest events") { db in
            let statement = try self.prepared(db).oldest.sqliteStatement
            defer { sqlite3_reset(statement) }
            sqlite3_bind_int64(statement, 1, EventPosition.of(log: log, offset: 0))
            sqlite3_bind_int64(statement, 2, EventPosition.of(log: log, offset: EventPosition.maximumOffset))
            sqlite3_bind_int64(statement, 3, Int64(limit))
            var events: [OldEvent] = []
            while true {
                let code = sqlite3_step(statement)
                if code == SQLITE_DONE { return events }
                guard code == SQLITE_ROW else { throw Self.failure(db, code) }
                events.append(
                    OldEvent(
                        offset: EventPosition.offset(sqlite3_column_int64(statement, 0)),
                        bytes: Int(sqlite3_column_int64(statement, 1)),
                        acceptedUnixNano: UInt64(bitPattern: sqlite3_column_int64(statement, 2))))
            }
        }
    }

    /// Removes a log's events through an offset. Not synced: after a power failure it is done again.
    func remove(log: Int64, through offset: UInt64, events: Int, bytes: Int) throws(StreamError) {
        try write("remove old events") { db in
            let statements = try self.prepared(db)
            try self.setSynchronous(db, full: false)
            try self.transaction(db, statements) {
                let first = EventPosition.of(log: log, offset: 0)
                let last = EventPosition.of(log: log, offset: offset)
                try self.removeLatest(db, statements, log: log, first, last)
                var statement = statements.deleteEvents.sqliteStatement
                sqlite3_bind_int64(statement, 1, first)
                sqlite3_bind_int64(statement, 2, last)
                try self.run(db, statement)
                // Blocks that hold nothing any more.
                statement = statements.deleteBlocks.sqliteStatement
                sqlite3_bind_int64(statement, 1, first)
                sqlite3_bind_int64(statement, 2, last - TopicPostings.blockEvents + 1)
                try self.run(db, statement)
                statement = statements.deleteHoles.sqliteStatement
                sqlite3_bind_int64(statement, 1, log)
                sqlite3_bind_int64(statement, 2, Int64(offset))
                try self.run(db, statement)
                statement = statements.trimLog.sqliteStatement
                sqlite3_bind_int64(statement, 1, Int64(offset))
                sqlite3_bind_int64(statement, 2, Int64(events))
                sqlite3_bind_int64(statement, 3, Int64(bytes))
                sqlite3_bind_int64(statement, 4, log)
                try self.run(db, statement)
            }
        }
    }

    /// Logs whose first event was accepted before a time.
    func tenants(withEventsBefore cutoff: UInt64) throws(StreamError) -> [String] {
        try write("look for old events") { db in
            try String.fetchAll(
                db,
                sql: """
                    SELECT tenant FROM logs WHERE events > 0 AND (SELECT accepted FROM events
                    WHERE position >= logs.id << \(EventPosition.offsetBits) ORDER BY position LIMIT 1) < ?
                    """, arguments: [Int64(bitPattern: cutoff)])
        }
    }

    /// The names of all logs.
    func tenants() throws(StreamError) -> [String] {
        try write("read the tenants") { db in try String.fetchAll(db, sql: "SELECT tenant FROM logs ORDER BY tenant") }
    }

    /// Writes the file anew without what was freed. Needs as much space again while it runs.
    func vacuum() throws(StreamError) {
        try write("compact the log") { db in
            try self.setSynchronous(db, full: true)
            try db.execute(sql: "VACUUM; PRAGMA wal_checkpoint(TRUNCATE)")
        }
    }

    // MARK: Closing

    /// Marks a clean end: with the offsets that failed commits have used up, so that the epoch can go on.
    func markClean(
        _ logs: [(log: Int64, nextOffset: UInt64, hole: ClosedRange<UInt64>?)]
    ) throws(StreamError) {
        try write("mark the clean end") { db in
            let statements = try self.prepared(db)
            try self.setSynchronous(db, full: true)
            try self.transaction(db, statements) {
                for (log, nextOffset, hole) in logs {
                    if let hole { try self.insertHole(hole, log: log, db, statements) }
                    try db.execute(
                        sql: "UPDATE logs SET next_offset = ? WHERE id = ? AND next_offset < ?",
                        arguments: [Int64(nextOffset), log, Int64(nextOffset)])
                }
                try db.execute(sql: "UPDATE meta SET value = 1 WHERE name = 'clean'")
            }
        }
    }

    func close() throws(StreamError) {
        queue.writeWithoutTransaction { _ in self.statements = nil }
        do {
            try queue.close()
        } catch {
            throw Self.translate(error, "close the log")
        }
    }

    // MARK: For tests

    func pragma(_ name: String) throws(StreamError) -> Int {
        try write("read a pragma") { db in try Int.fetchOne(db, sql: "PRAGMA \(name)") ?? 0 }
    }

    // MARK: Statements

    func prepared(_ db: Database) throws -> Statements {
        if let statements { return statements }
        let made = Statements(
            begin: try db.makeStatement(sql: "BEGIN IMMEDIATE"),
            commit: try db.makeStatement(sql: "COMMIT"),
            rollback: try db.makeStatement(sql: "ROLLBACK"),
            insertEvent: try db.makeStatement(
                sql: """
                    INSERT INTO events (position, size, accepted, epoch, produced, checksum, topic, type, key, content_type,
                    traceparent, tracestate, idempotency_key, payload) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
                    """),
            insertEpoch: try db.makeStatement(sql: "INSERT INTO epochs (log, epoch, first_offset) VALUES (?, ?, ?)"),
            insertHole: try db.makeStatement(
                sql: "INSERT OR REPLACE INTO holes (log, first_offset, last_offset) VALUES (?, ?, ?)"),
            deleteHoles: try db.makeStatement(sql: "DELETE FROM holes WHERE log = ? AND last_offset <= ?"),
            updateLog: try db.makeStatement(
                sql: "UPDATE logs SET next_offset = ?, events = events + ?, bytes = bytes + ? WHERE id = ?"),
            tick: try db.makeStatement(sql: "UPDATE meta SET value = value + 1 WHERE name = 'tick'"),
            oldest: try db.makeStatement(
                sql:
                    "SELECT position, size, accepted FROM events WHERE position BETWEEN ? AND ? ORDER BY position LIMIT ?"
            ),
            deleteEvents: try db.makeStatement(sql: "DELETE FROM events WHERE position BETWEEN ? AND ?"),
            trimLog: try db.makeStatement(
                sql: "UPDATE logs SET trimmed_through = ?, events = events - ?, bytes = bytes - ? WHERE id = ?"),
            deleteBlocks: try db.makeStatement(sql: "DELETE FROM blocks WHERE position BETWEEN ? AND ?"),
            keyedEvents: try db.makeStatement(
                sql: """
                    SELECT topic, key, ifnull(type, '') FROM events WHERE position BETWEEN ? AND ? AND key IS NOT NULL
                    """),
            deleteLatest: try db.makeStatement(
                sql: "DELETE FROM latest WHERE topic = ? AND key = ? AND type = ? AND log = ? AND position <= ?"),
            insertBlock: try db.makeStatement(
                sql: "INSERT OR REPLACE INTO blocks (position, checksum, postings) VALUES (?, ?, ?)"),
            insertLatest: try db.makeStatement(
                sql: """
                    INSERT INTO latest (log, topic, key, type, position) VALUES (?, ?, ?, ?, ?)
                    ON CONFLICT DO UPDATE SET position = max(position, excluded.position)
                    """),
            updateIndex: try db.makeStatement(sql: "UPDATE logs SET indexed_through = ? WHERE id = ?"))
        statements = made
        return made
    }

    func setSynchronous(_ db: Database, full: Bool) throws {
        guard full != isFull else { return }
        try db.execute(sql: full ? "PRAGMA synchronous = FULL" : "PRAGMA synchronous = NORMAL")
        isFull = full
    }

    func transaction(_ db: Database, _ statements: Statements, _ body: () throws -> Void) throws {
        try run(db, statements.begin.sqliteStatement)
        do {
            try body()
            try run(db, statements.commit.sqliteStatement)
        } catch {
            // SQLite has rolled back by itself after some errors.
            if let connection = db.sqliteConnection, sqlite3_get_autocommit(connection) == 0 {
                try run(db, statements.rollback.sqliteStatement)
            }
            throw error
        }
    }

    func run(_ db: Database, _ statement: OpaquePointer) throws {
        SystemReason.clear()
        let code = sqlite3_step(statement)
        guard code == SQLITE_DONE else {
            let error = Self.failure(db, code, SystemReason.last)
            sqlite3_reset(statement)
            throw error
        }
        sqlite3_reset(statement)
    }

    func write<T>(_ action: String, _ body: (Database) throws -> T) throws(StreamError) -> T {
        do {
            return try queue.writeWithoutTransaction(body)
        } catch {
            throw Self.translate(error, action)
        }
    }

    // MARK: Errors

    /// - Parameter last: the system's last error, if it can only be of this statement: SQLite does not keep that of a
    ///   commit.
    static func failure(_ db: Database, _ code: CInt, _ last: CInt = 0) -> DatabaseError {
        var text = db.lastErrorMessage ?? ""
        if let connection = db.sqliteConnection, code & 0xff == SQLITE_IOERR {
            // Lack of space has more than one name, and SQLite knows only one of them.
            let reason = last != 0 ? last : sqlite3_system_errno(connection)
            if SystemReason.isLackOfSpace(reason) { return DatabaseError(resultCode: .SQLITE_FULL, message: text) }
            text += " (\(SystemReason.describe(reason)))"
        }
        return DatabaseError(resultCode: ResultCode(rawValue: code), message: text)
    }

    static func translate(_ error: any Error, _ action: String) -> StreamError {
        if let error = error as? StreamError { return error }
        guard let error = error as? DatabaseError else {
            return StreamError(code: .unavailable, cause: "could not \(action): \(error)")
        }
        let text = error.message ?? "SQLite error \(error.extendedResultCode.rawValue)"
        switch error.resultCode {
        case .SQLITE_FULL:
            return StreamError(
                code: .storageFull, cause: "could not \(action): no space left; free some, or lower the retention")
        case .SQLITE_CORRUPT:
            return StreamError(
                code: .corrupt, cause: "could not \(action): the database is damaged (\(text)); restore a backup")
        case .SQLITE_NOTADB:
            return StreamError(code: .incompatible, cause: "could not \(action): not an SQLite database")
        default:
            return StreamError(code: .unavailable, cause: "could not \(action): \(text)")
        }
    }
}

/// Memory for the texts of one event, reused.
final class Scratch {
    private var base = UnsafeMutableRawPointer.allocate(byteCount: 4_096, alignment: 16)
    private var capacity = 4_096
    private var count = 0

    deinit {
        base.deallocate()
    }

    func reset(capacity needed: Int) {
        count = 0
        guard needed > capacity else { return }
        base.deallocate()
        base = .allocate(byteCount: needed, alignment: 16)
        capacity = needed
    }

    func append(_ text: String) -> UnsafeRawBufferPointer {
        let target = base + count
        let length = text.utf8.count
        precondition(count + length <= capacity, "an event's byteCount counts all its texts")
        let isCopied: Void? = text.utf8.withContiguousStorageIfAvailable { source in
            if let start = source.baseAddress { target.copyMemory(from: start, byteCount: length) }
        }
        if isCopied == nil {
            for (index, byte) in text.utf8.enumerated() {
                target.storeBytes(of: byte, toByteOffset: index, as: UInt8.self)
            }
        }
        count += length
        return UnsafeRawBufferPointer(start: target, count: length)
    }
}
