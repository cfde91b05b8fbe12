import EventStreams
import GRDB

/// What the file knows of one event beside the connections.
struct KeptDelivery: Sendable {
    /// When each loop has broadcast it.
    var broadcasts: [Int: UInt64] = [:]
    /// By session.
    var acknowledgements: [UInt64: UInt64] = [:]
    /// In the order of their coming.
    var receipts: [DeviceReceipt] = []
    /// What ended before is not known.
    var sinceUnixNano: UInt64 = 0
    /// Times of which something may be missing, as far as they matter to the event.
    var gaps: [(fromUnixNano: UInt64, untilUnixNano: UInt64)] = []
}

/// A connection that has ended, as it is read: valid until the next one is.
struct KeptRow {
    fileprivate let columns: DirectStatement
    let closed: (atUnixNano: UInt64, reason: CloseReason)

    var device: UnsafeRawBufferPointer { columns.bytes(0) }
    var group: UnsafeRawBufferPointer { columns.bytes(1) }
    var filter: UnsafeRawBufferPointer { columns.bytes(2) }
    var runs: UnsafeRawBufferPointer { columns.bytes(3) }
    var number: UInt64 { columns.integer(4) }
    var epoch: UInt32 { UInt32(truncatingIfNeeded: columns.integer(5)) }
    var connectedUnixNano: UInt64 { columns.integer(6) }
    var startOffset: UInt64 { columns.integer(7) }
    var reachedOffset: UInt64 { columns.integer(8) }
}

extension DeliveryFile {
    /// nil for a tenant of which nothing is kept.
    func known(of event: StoredEvent, tenant: String) throws -> KeptDelivery? {
        try pool.read { db in
            guard let (id, since) = try Self.tenant(tenant, db) else { return nil }
            var known = KeptDelivery(sinceUnixNano: since)
            let gaps = try DirectStatement(
                db, "SELECT begin, until FROM gaps WHERE tenant = ? AND until > ? ORDER BY begin")
            gaps.bind(1, id)
            gaps.bind(2, event.acceptedUnixNano)
            while try gaps.step() { known.gaps.append((gaps.integer(0), gaps.integer(1))) }
            let slices = try DirectStatement(
                db,
                """
                SELECT kind, loop, entries, written FROM slices
                WHERE tenant = ? AND block = ? AND epoch >= ? ORDER BY written
                """)
            slices.bind(1, id)
            slices.bind(2, event.offset >> Self.blockBits)
            slices.bind(3, Int64(event.epoch))
            while try slices.step() {
                let isBroadcast = slices.integer(0) == Kind.broadcasts.rawValue
                try Self.entries(
                    of: event.offset, in: slices.bytes(2), written: slices.integer(3), isBroadcast: isBroadcast
                ) { session, atUnixNano in
                    if isBroadcast {
                        known.broadcasts[Int(truncatingIfNeeded: slices.integer(1))] = atUnixNano
                    } else {
                        known.acknowledgements[session] = atUnixNano
                    }
                }
            }
            let receipts = try DirectStatement(
                db,
                """
                SELECT entries, written FROM receipts WHERE tenant = ? AND place = ? AND epoch >= ? ORDER BY written
                """)
            receipts.bind(1, id)
            receipts.bind(2, event.offset)
            receipts.bind(3, Int64(event.epoch))
            while try receipts.step() {
                known.receipts += try Self.receipts(
                    of: event.offset, in: receipts.bytes(0), written: receipts.integer(1))
            }
            return known
        }
    }

    /// Connections that have ended, ordered by the bytes of their devices' names (first those without one), then by number.
    func forEachSession(tenant: String, _ body: (KeptRow) throws -> Void) throws {
        try pool.read { db in
            guard let (id, _) = try Self.tenant(tenant, db) else { return }
            let rows = try DirectStatement(
                db,
                """
                SELECT device, device_group, filter, runs, number, epoch, connected, start, reached, closed, reason
                FROM sessions WHERE tenant = ? ORDER BY device, number
                """)
            defer { rows.reset() }
            rows.bind(1, id)
            // Most ended for the reason that the one before did.
            var reason = (text: [UInt8](), value: CloseReason.error)
            while try rows.step() {
                // Open: of this process, whose memory knows more.
                guard !rows.isNull(9) else { continue }
                let text = rows.bytes(10)
                if ByteOrder.compare(reason.text, text) != 0 { reason = (Array(text), try Self.reason(text)) }
                try body(KeptRow(columns: rows, closed: (rows.integer(9), reason.value)))
            }
        }
    }

    private static func reason(_ bytes: UnsafeRawBufferPointer) throws -> CloseReason {
        guard let reason = CloseReason(rawValue: String(decoding: bytes, as: UTF8.self)) else {
            throw Damage(description: "a connection ended for an unknown reason")
        }
        return reason
    }

    static func tenant(_ name: String, _ db: Database) throws -> (id: Int64, sinceUnixNano: UInt64)? {
        let statement = try DirectStatement(db, "SELECT id, since FROM tenants WHERE name = ?")
        statement.bind(1, name)
        guard try statement.step() else { return nil }
        defer { statement.reset() }
        return (Int64(bitPattern: statement.integer(0)), statement.integer(1))
    }

    private static func entries(
        of offset: UInt64, in bytes: UnsafeRawBufferPointer, written: UInt64, isBroadcast: Bool,
        _ body: (_ session: UInt64, _ atUnixNano: UInt64) -> Void
    ) throws {
        var reader = PackedReader(bytes)
        var place = (offset >> blockBits) << blockBits
        var time = written
        while !reader.isAtEnd {
            guard let next = reader.next(since: place), let session = isBroadcast ? 0 : reader.next(),
                let at = reader.next(since: time)
            else { throw Damage(description: "a slice at place \(offset) ends early") }
            if next == offset { body(session, at) }
            (place, time) = (next, at)
        }
    }

    private static func receipts(
        of offset: UInt64, in bytes: UnsafeRawBufferPointer, written: UInt64
    ) throws -> [DeviceReceipt] {
        var reader = PackedReader(bytes)
        var receipts: [DeviceReceipt] = []
        while !reader.isAtEnd {
            guard let device = reader.nextText(), let group = reader.nextText(),
                let received = reader.next(since: written), let clock = reader.next(since: 0),
                let uncertainty = reader.next()
            else { throw Damage(description: "the receipts of place \(offset) end early") }
            receipts.append(
                DeviceReceipt(
                    offset: offset, device: device, group: group, receivedUnixNano: received,
                    clockOffsetNano: Int64(bitPattern: clock),
                    clockUncertaintyNano: uncertainty > 0 ? uncertainty - 1 : nil))
        }
        return receipts
    }
}
