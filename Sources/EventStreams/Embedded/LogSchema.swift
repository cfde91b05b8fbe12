import GRDB

/// The file's tables, and whether a file is one of ours.
///
///     meta    name → value: store_id, generation (counts openings after an unclean end), clean, tick
///     logs    a row per tenant; its totals change in the same transaction as its events
///     epochs  (log, epoch) → first_offset
///     holes   (log, first_offset) → last_offset, of what failed commits have left; all since `logs.holes_since`
///     events  position (see EventPosition) → the event, its size in NewEvent.byteCount, its checksum
///     blocks  position of a block's first offset → which of its events have which topic and type (see TopicPostings)
///     latest  (log, topic, key, type) → position of the last such event; an absent type is empty
///
/// The last two are derived from the events through `logs.indexed_through`, which changes with them; see LogIndexer.
enum LogSchema {
    static let applicationID: Int32 = 0x4953_4f54  // "ISOT"
    /// 2 brought `blocks`, `latest` and `logs.indexed_through`, 3 `holes` and `logs.holes_since`.
    static let version = 3

    private static let indexTables = """
        CREATE TABLE blocks (position INTEGER PRIMARY KEY, checksum INTEGER NOT NULL, postings BLOB NOT NULL);
        CREATE TABLE latest (
            log INTEGER NOT NULL, topic TEXT NOT NULL, key TEXT NOT NULL, type TEXT NOT NULL,
            position INTEGER NOT NULL, PRIMARY KEY (log, topic, key, type)) WITHOUT ROWID;
        """

    private static let holesTable = """
        CREATE TABLE holes (
            log INTEGER NOT NULL, first_offset INTEGER NOT NULL, last_offset INTEGER NOT NULL,
            PRIMARY KEY (log, first_offset)) WITHOUT ROWID;
        """

    /// Refuses a newer file, and changes an older one; what its index lacks is written in the background.
    static func bringUpToDate(_ db: Database, _ path: String) throws {
        let found = try Int.fetchOne(db, sql: "PRAGMA user_version") ?? 0
        guard found != version else { return }
        guard (1..<version).contains(found) else {
            throw StreamError(
                code: .incompatible,
                cause: "\(path) has schema version \(found), this program reads \(version)"
                    + (found > version ? "; use the newer program that wrote it" : ""))
        }
        try db.inTransaction(.immediate) {
            if found < 2 {
                try db.execute(
                    sql: """
                        \(indexTables)
                        ALTER TABLE logs ADD COLUMN indexed_through INTEGER NOT NULL DEFAULT 0;
                        """)
            }
            try db.execute(
                sql: """
                    \(holesTable)
                    ALTER TABLE logs ADD COLUMN holes_since INTEGER NOT NULL DEFAULT 1;
                    UPDATE logs SET holes_since = next_offset;
                    PRAGMA user_version = \(version);
                    """)
            return .commit
        }
    }

    /// The file appears under its name only when it is complete: an empty or headless one is damage, not youth.
    static func create(_ path: String, _ directory: DataDirectory) throws(StreamError) {
        let temporary = path + ".new"
        for suffix in ["", "-wal", "-shm"] { DataDirectory.remove(temporary + suffix) }
        do {
            let queue = try DatabaseQueue(
                path: temporary, configuration: LogDatabase.configuration(label: "isotherm.log.creation"))
            try queue.writeWithoutTransaction { db in
                try db.execute(sql: "PRAGMA synchronous = FULL")
                try db.inTransaction {
                    try db.execute(
                        sql: """
                            CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
                            CREATE TABLE logs (
                                id INTEGER PRIMARY KEY, tenant TEXT NOT NULL UNIQUE, next_offset INTEGER NOT NULL,
                                trimmed_through INTEGER NOT NULL, events INTEGER NOT NULL, bytes INTEGER NOT NULL,
                                indexed_through INTEGER NOT NULL, holes_since INTEGER NOT NULL DEFAULT 1);
                            CREATE TABLE epochs (
                                log INTEGER NOT NULL, epoch INTEGER NOT NULL, first_offset INTEGER NOT NULL,
                                PRIMARY KEY (log, epoch)) WITHOUT ROWID;
                            CREATE TABLE events (
                                position INTEGER PRIMARY KEY, size INTEGER NOT NULL, accepted INTEGER NOT NULL,
                                epoch INTEGER NOT NULL, produced INTEGER, checksum INTEGER NOT NULL,
                                topic TEXT NOT NULL, type TEXT, key TEXT, content_type TEXT, traceparent TEXT,
                                tracestate TEXT, idempotency_key TEXT, payload BLOB NOT NULL);
                            CREATE INDEX events_idempotency ON events (position) WHERE idempotency_key IS NOT NULL;
                            CREATE TABLE probe (id INTEGER PRIMARY KEY, filler BLOB NOT NULL);
                            \(indexTables)
                            \(holesTable)
                            PRAGMA application_id = \(applicationID);
                            PRAGMA user_version = \(version);
                            """)
                    for (name, value) in [
                        ("store_id", Int64.random(in: .min ... .max)), ("generation", 1), ("clean", 1), ("tick", 0),
                    ] {
                        try db.execute(sql: "INSERT INTO meta VALUES (?, ?)", arguments: [name, value])
                    }
                    return .commit
                }
                try db.execute(sql: "PRAGMA wal_checkpoint(TRUNCATE)")
            }
            try queue.close()
        } catch {
            throw LogDatabase.translate(error, "create \(path)")
        }
        for suffix in ["-wal", "-shm"] { DataDirectory.remove(temporary + suffix) }
        try DataDirectory.move(temporary, to: path)
        try directory.sync()
    }

    /// Refuses what is not ours by the header alone: SQLite changes a file by opening it with a write-ahead log.
    static func examine(_ path: String) throws(StreamError) {
        let size = DataDirectory.size(of: path) ?? 0
        let head = DataDirectory.head(of: path, count: 100)
        guard head.count == 100 else {
            throw StreamError(
                code: .corrupt, cause: "\(path) is truncated: \(size) bytes cannot hold a database; restore a backup")
        }
        guard head.prefix(16).elementsEqual("SQLite format 3\0".utf8) else {
            throw StreamError(
                code: .incompatible, cause: "\(path) is not an SQLite database; it was left alone, move it away")
        }
        let identity = head[68..<72].reduce(0) { $0 << 8 | Int32($1) }
        guard identity == applicationID else {
            throw StreamError(
                code: .incompatible, cause: "\(path) is not a log of Isotherm; it was left alone, move it away")
        }
        // With a write-ahead log the header may be ahead of the file, and recovery puts that right.
        guard (DataDirectory.size(of: path + "-wal") ?? 0) == 0 else { return }
        let field = Int(head[16]) << 8 | Int(head[17])
        let pageSize = field == 1 ? 65_536 : field
        let pages = head[28..<32].reduce(0) { $0 << 8 | Int($1) }
        guard pages * pageSize <= size else {
            throw StreamError(
                code: .corrupt,
                cause: "\(path) is truncated: \(size) bytes instead of \(pages * pageSize); restore a backup")
        }
    }
}
