import GRDB
import GRDBSQLite

/// A log's directory as an operator sees it: read without changing anything, beside a server that writes or alone.
public final class LogInspection: Sendable {
    /// A tenant's log.
    public struct Tenant: Sendable, Equatable {
        public let name: String
        public let events: Int
        /// In ``NewEvent/byteCount``.
        public let bytes: Int
        /// The last offset that retention removed, 0 for none.
        public let trimmedThrough: UInt64
        /// The last offset that was given out.
        public let head: UInt64
        let log: Int64
        let indexedThrough: UInt64
        let epochs: [EpochStart]
        let holes: LogHoles
    }

    public let directory: String
    /// By name.
    public let tenants: [Tenant]
    let readers: LogReaders
    private let key: [UInt8]
    private let storeID: UInt64

    /// Throws ``StreamError/Code/unavailable`` when there is no log, and ``StreamError/Code/incompatible`` or
    /// ``StreamError/Code/corrupt`` as ``EmbeddedEventStore/init(configuration:)`` does.
    public init(directory: String) throws(StreamError) {
        self.directory = directory
        let path = directory + "/log.sqlite"
        guard DataDirectory.size(of: path) != nil else {
            throw StreamError(
                code: .unavailable, cause: "\(directory) holds no log: \(path) does not exist; name a server's --data")
        }
        try LogSchema.examine(path)
        key = try DataDirectory.readKey(directory + "/cursor.key")
        readers = LogReaders(path: path, limit: 1)
        (tenants, storeID) = try readers.withReader("read \(path)") { _, db in
            let version = try Int.fetchOne(db, sql: "PRAGMA user_version") ?? 0
            guard version == LogSchema.version else {
                throw StreamError(
                    code: .incompatible,
                    cause: "\(path) has schema version \(version), this program reads \(LogSchema.version); "
                        + (version > LogSchema.version
                            ? "use the newer program that wrote it" : "isotherm log compact brings it up to date"))
            }
            let store = try Int64.fetchOne(db, sql: "SELECT value FROM meta WHERE name = 'store_id'") ?? 0
            return (try Self.tenants(db), UInt64(bitPattern: store))
        }
    }

    deinit {
        readers.close()
    }

    static func tenants(_ db: Database) throws -> [Tenant] {
        let sql = """
            SELECT tenant, events, bytes, trimmed_through, next_offset, id, indexed_through, holes_since
            FROM logs ORDER BY tenant
            """
        return try Row.fetchAll(db, sql: sql).map { row in
            let log: Int64 = row[5]
            let epochs = try Row.fetchAll(
                db, sql: "SELECT epoch, first_offset FROM epochs WHERE log = ? ORDER BY epoch", arguments: [log])
            return Tenant(
                name: row[0], events: row[1], bytes: row[2], trimmedThrough: UInt64(clamping: row[3] as Int64),
                head: UInt64(clamping: max(0, (row[4] as Int64) - 1)), log: log,
                indexedThrough: UInt64(clamping: row[6] as Int64),
                epochs: epochs.map {
                    EpochStart(
                        epoch: UInt32(clamping: $0[0] as Int64), firstOffset: UInt64(clamping: $0[1] as Int64))
                },
                holes: try LogDatabase.holes(
                    db, log: log, knownFrom: UInt64(clamping: row[7] as Int64), below: UInt64(clamping: row[4] as Int64)
                )
                    ?? LogHoles())
        }
    }

    /// Up to `limit` committed events after `offset`, ascending; empty behind the last.
    ///
    /// Throws ``StreamError/Code/corrupt`` with its offset at a damaged event, after what precedes it was returned.
    public func read(_ tenant: Tenant, after offset: UInt64, limit: Int) throws(StreamError) -> [StoredEvent] {
        var tenant = tenant
        while true {
            do {
                return try readers.read(
                    log: tenant.log, tenant: tenant.name, after: max(offset, tenant.trimmedThrough), limit: limit,
                    byteLimit: 16 << 20, holes: { tenant.holes })
            } catch {
                // Beside a server: what is not there may have been removed, or have failed, since this was opened.
                let current = try readers.withReader("read the tenants") { _, db in try Self.tenants(db) }
                    .first { $0.log == tenant.log }
                guard error.code == .corrupt, let current,
                    current.trimmedThrough != tenant.trimmedThrough || current.holes != tenant.holes
                else { throw error }
                tenant = current
            }
        }
    }

    /// Spells a tenant's event ids, as its server does.
    public func ids(of tenant: Tenant) -> EventIDs {
        EventIDs(codec: EventIDCodec(key: key, storeID: storeID, tenant: tenant.name))
    }

    public struct EventIDs: Sendable {
        let codec: EventIDCodec

        public func id(of event: StoredEvent) -> String { codec.encode(epoch: event.epoch, offset: event.offset) }
        /// The offset that an id names; nil for one that is forged or another tenant's.
        public func offset(of id: String) -> UInt64? { codec.decode(id)?.offset }
    }
}
