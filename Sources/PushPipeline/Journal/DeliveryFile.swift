import EventStreams
import GRDB
import GRDBSQLite

/// The journal on the disk: what is needed to tell who got an event after a restart. One SQLite file for all tenants, beside
/// the log and never a part of it: what it loses, `gaps` tells.
///
///     sessions    one row per connection, by device: what it asked for, its range of the log, its runs
///     slices      what a loop broadcast, or saw acknowledged, between two writes, by blocks of 1,024 places of the log
///     receipts    what devices reported between two writes, by event
///     reaches     up to where the live connections of a loop have everything: their range, until they end
///
/// Written by one thread, with `synchronous = NORMAL`: what was written survives the end of the process, and after a power
/// failure the file is whole and lacks its end.
final class DeliveryFile: @unchecked Sendable {  // what varies is used on the keeper's thread
    static let version = 1
    static let blockBits: UInt64 = 10
    /// Gaps of one tenant; beyond, the oldest two become one.
    static let maxGaps = 64
    /// Counted for each row beside its texts and packed rows; for one connection.
    static let rowBytes = 32
    static let sessionBytes = 80

    struct Tenant {
        let id: Int64
        var bytes: Int
        /// Nothing is looked for to be removed before so many bytes are counted.
        var trimBytes: Int
    }

    /// The file makes no sense, though SQLite can read it.
    struct Damage: Error, CustomStringConvertible {
        let description: String
    }

    enum Kind: Int64 { case broadcasts, acknowledgements }

    let pool: DatabasePool
    let openedUnixNano: UInt64
    var tenants: [String: Tenant] = [:]
    private var lastWrite: UInt64

    /// Opens the file or makes it, and ends the connections that a crash has left open. Blocks on the disk.
    init(path: String, nowUnixNano: UInt64) throws {
        var configuration = Configuration()
        configuration.label = "isotherm.deliveries"
        configuration.maximumReaderCount = 2
        configuration.busyMode = .timeout(5)
        configuration.prepareDatabase { db in
            // Debian's SQLite overwrites what is deleted with zeros.
            try db.execute(sql: "PRAGMA secure_delete = OFF")
        }
        pool = try DatabasePool(path: path, configuration: configuration)
        openedUnixNano = nowUnixNano
        lastWrite = nowUnixNano
        try pool.writeWithoutTransaction { db in
            try db.execute(sql: "PRAGMA journal_size_limit = \(16 << 20)")
            // On the disk before anything else: a power failure that took this too would bring the clean end before it
            // back, and with it no gap for what was lost.
            try db.execute(sql: "PRAGMA synchronous = FULL")
            try db.inTransaction(.immediate) {
                switch try Int64.fetchOne(db, sql: "PRAGMA user_version") {
                case 0: try Self.create(db)
                case Int64(Self.version): try recover(db)
                case let other: throw Damage(description: "its version is \(other ?? -1) instead of \(Self.version)")
                }
                return .commit
            }
            try db.execute(sql: "PRAGMA synchronous = NORMAL")
            let level = try Int.fetchOne(db, sql: "PRAGMA synchronous")
            guard level == 1 else { throw Damage(description: "SQLite refused synchronous=NORMAL") }
        }
    }

    private static func create(_ db: Database) throws {
        // What a file of another kind holds would be overwritten.
        guard try Int.fetchOne(db, sql: "SELECT count(*) FROM sqlite_master") == 0 else {
            throw Damage(description: "it is another program's database")
        }
        try db.execute(
            sql: """
                CREATE TABLE state (id INTEGER PRIMARY KEY CHECK (id = 1), known_until INTEGER NOT NULL,
                    is_clean INTEGER NOT NULL);
                INSERT INTO state VALUES (1, 0, 0);
                CREATE TABLE tenants (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, since INTEGER NOT NULL,
                    bytes INTEGER NOT NULL);
                CREATE TABLE gaps (tenant INTEGER NOT NULL, begin INTEGER NOT NULL, until INTEGER NOT NULL,
                    PRIMARY KEY (tenant, begin)) WITHOUT ROWID;
                CREATE TABLE reaches (tenant INTEGER NOT NULL, loop INTEGER NOT NULL, through INTEGER NOT NULL,
                    PRIMARY KEY (tenant, loop)) WITHOUT ROWID;
                CREATE TABLE sessions (tenant INTEGER NOT NULL, device TEXT NOT NULL, number INTEGER NOT NULL,
                    epoch INTEGER NOT NULL, connected INTEGER NOT NULL, start INTEGER NOT NULL, reached INTEGER,
                    closed INTEGER, reason TEXT, device_group TEXT NOT NULL, filter TEXT NOT NULL, runs BLOB,
                    PRIMARY KEY (tenant, device, number)) WITHOUT ROWID;
                CREATE INDEX open_sessions ON sessions (tenant, number) WHERE closed IS NULL;
                CREATE TABLE slices (tenant INTEGER NOT NULL, block INTEGER NOT NULL, written INTEGER NOT NULL,
                    kind INTEGER NOT NULL, loop INTEGER NOT NULL, epoch INTEGER NOT NULL, entries BLOB NOT NULL,
                    PRIMARY KEY (tenant, block, written, kind, loop)) WITHOUT ROWID;
                CREATE TABLE receipts (tenant INTEGER NOT NULL, place INTEGER NOT NULL, written INTEGER NOT NULL,
                    epoch INTEGER NOT NULL, entries BLOB NOT NULL,
                    PRIMARY KEY (tenant, place, written)) WITHOUT ROWID;
                PRAGMA user_version = \(version);
                """)
    }

    /// Whatever is still open ended with the process that had it.
    private func recover(_ db: Database) throws {
        guard let state = try Row.fetchOne(db, sql: "SELECT known_until, is_clean FROM state"),
            let until = Int64.fromDatabaseValue(state[0]), let isClean = Int64.fromDatabaseValue(state[1])
        else { throw Damage(description: "it lacks its state") }
        try db.execute(
            sql: """
                UPDATE sessions SET closed = max(?, connected), reason = 'server_lost', reached = max(start, ifnull(reached,
                    ifnull((SELECT through FROM reaches AS r WHERE r.tenant = sessions.tenant
                        AND r.loop = sessions.number >> 48), 0)))
                WHERE closed IS NULL
                """, arguments: [until])
        for row in try Row.fetchAll(db, sql: "SELECT id, name, bytes FROM tenants") {
            guard let id = Int64.fromDatabaseValue(row[0]), let name = String.fromDatabaseValue(row[1]),
                let bytes = Int.fromDatabaseValue(row[2])
            else { throw Damage(description: "a tenant of it has no name") }
            tenants[name] = Tenant(id: id, bytes: bytes, trimBytes: 0)
            if isClean == 0 { try addGap(db, id, from: UInt64(max(0, until)), until: openedUnixNano) }
        }
        try db.execute(sql: "DELETE FROM reaches; UPDATE state SET is_clean = 0")
        lastWrite = max(lastWrite, UInt64(max(0, until)))
    }

    func addGap(_ db: Database, _ tenant: Int64, from begin: UInt64, until end: UInt64) throws {
        try db.execute(
            sql: "INSERT OR REPLACE INTO gaps VALUES (?, ?, ?)",
            arguments: [tenant, Int64(bitPattern: begin), Int64(bitPattern: end)])
        guard
            try Int.fetchOne(db, sql: "SELECT count(*) FROM gaps WHERE tenant = ?", arguments: [tenant]) ?? 0
                > Self.maxGaps
        else { return }
        let oldest = try Row.fetchAll(
            db, sql: "SELECT begin, until FROM gaps WHERE tenant = ? ORDER BY begin LIMIT 2", arguments: [tenant])
        guard oldest.count == 2, let first = Int64.fromDatabaseValue(oldest[0][0]),
            let second = Int64.fromDatabaseValue(oldest[1][0])
        else { throw Damage(description: "a gap has no time") }
        try db.execute(
            sql: """
                UPDATE gaps SET until = (SELECT until FROM gaps WHERE tenant = :t AND begin = :second)
                    WHERE tenant = :t AND begin = :first;
                DELETE FROM gaps WHERE tenant = :t AND begin = :second
                """, arguments: ["t": tenant, "first": first, "second": second])
    }

    /// Later than all before, whatever the clock says: rows of one write have it in common, and no other.
    func nextWrite(atUnixNano now: UInt64) -> UInt64 {
        lastWrite = max(lastWrite + 1, now)
        return lastWrite
    }

    /// The next start need not look for what a crash has left.
    func close() throws {
        try pool.write { try $0.execute(sql: "UPDATE state SET is_clean = 1") }
        try pool.close()
    }
}

/// A prepared statement, driven through SQLite's C functions: texts with their lengths, rows without an object each.
struct DirectStatement {
    private let db: Database
    private let statement: OpaquePointer

    init(_ db: Database, _ sql: String) throws {
        self.db = db
        statement = try db.cachedStatement(sql: sql).sqliteStatement
        sqlite3_reset(statement)
        sqlite3_clear_bindings(statement)
    }

    /// Copied at once.
    private static let transient = unsafeBitCast(-1, to: sqlite3_destructor_type.self)

    func bind(_ index: CInt, _ value: Int64) { sqlite3_bind_int64(statement, index, value) }
    func bind(_ index: CInt, _ value: UInt64) { sqlite3_bind_int64(statement, index, Int64(bitPattern: value)) }

    func bind(_ index: CInt, _ text: String) {
        var text = text
        text.withUTF8 { bytes in
            _ = bytes.withMemoryRebound(to: CChar.self) {
                sqlite3_bind_text(statement, index, $0.baseAddress, CInt($0.count), Self.transient)
            }
        }
    }

    func bind(_ index: CInt, _ bytes: [UInt8]) {
        _ = bytes.withUnsafeBytes {
            sqlite3_bind_blob(statement, index, $0.baseAddress, CInt($0.count), Self.transient)
        }
    }

    /// True when there is a row.
    func step() throws -> Bool {
        switch sqlite3_step(statement) {
        case SQLITE_ROW: return true
        case SQLITE_DONE:
            sqlite3_reset(statement)
            return false
        case let code:
            let text = db.lastErrorMessage
            sqlite3_reset(statement)
            throw DatabaseError(resultCode: ResultCode(rawValue: code), message: text)
        }
    }

    func run() throws { while try step() {} }

    func integer(_ column: CInt) -> UInt64 { UInt64(bitPattern: sqlite3_column_int64(statement, column)) }
    func isNull(_ column: CInt) -> Bool { sqlite3_column_type(statement, column) == SQLITE_NULL }

    /// Until the next step.
    func bytes(_ column: CInt) -> UnsafeRawBufferPointer {
        let start = sqlite3_column_blob(statement, column)
        return UnsafeRawBufferPointer(start: start, count: Int(sqlite3_column_bytes(statement, column)))
    }

    /// Ends a walk before its end: a reader's snapshot would stay.
    func reset() { sqlite3_reset(statement) }
}
