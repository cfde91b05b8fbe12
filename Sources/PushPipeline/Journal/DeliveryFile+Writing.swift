import EventStreams
import GRDB

/// What is written in one transaction.
struct KeptBatch: Sendable {
    /// Everything up to here is in it.
    let takenUnixNano: UInt64
    var slices: [JournalSlice] = []
    var receipts: [(tenant: String, receipts: [DeviceReceipt], lost: UInt64)] = []
    /// Of the tenants' logs.
    var epochs: [String: UInt32] = [:]

    var lostRows: UInt64 { slices.reduce(0) { $0 + $1.lostRows } + receipts.reduce(0) { $0 + $1.lost } }

    /// Whether there is anything to write but the time.
    var isEmpty: Bool {
        lostRows == 0 && receipts.allSatisfy(\.receipts.isEmpty)
            && slices.allSatisfy {
                $0.broadcasts.isEmpty && $0.acknowledgements.isEmpty && $0.sessions.isEmpty && $0.liveThrough == nil
            }
    }
}

extension DeliveryFile {
    /// Writes all of it, or nothing. Returns how many broadcasts, acknowledgements, connections and receipts that were.
    func write(_ batch: KeptBatch, groupName: (Int) -> String) throws -> UInt64 {
        let known = tenants
        do {
            return try pool.write { db in
                let written = nextWrite(atUnixNano: batch.takenUnixNano)
                let before = try UInt64.fetchOne(db, sql: "SELECT known_until FROM state") ?? 0
                var rows: UInt64 = 0
                var grown: Set<String> = []
                for slice in batch.slices {
                    var tenant = try self.tenant(slice.tenant, db)
                    let epoch = batch.epochs[slice.tenant] ?? 0
                    try write(slice, epoch: epoch, written: written, groupName, &tenant, db)
                    if slice.lostRows > 0 {
                        try addGap(db, tenant.id, from: max(before, openedUnixNano), until: batch.takenUnixNano)
                    }
                    rows += UInt64(slice.broadcasts.count + slice.acknowledgements.count + slice.sessions.count)
                    tenants[slice.tenant] = tenant
                    grown.insert(slice.tenant)
                }
                for (name, receipts, lost) in batch.receipts where !receipts.isEmpty || lost > 0 {
                    var tenant = try self.tenant(name, db)
                    try write(receipts, epoch: batch.epochs[name] ?? 0, written: written, &tenant, db)
                    if lost > 0 {
                        try addGap(db, tenant.id, from: max(before, openedUnixNano), until: batch.takenUnixNano)
                    }
                    rows += UInt64(receipts.count)
                    tenants[name] = tenant
                    grown.insert(name)
                }
                let bytes = try DirectStatement(db, "UPDATE tenants SET bytes = ? WHERE id = ?")
                for name in grown {
                    guard let tenant = tenants[name], tenant.bytes != known[name]?.bytes else { continue }
                    bytes.bind(1, Int64(tenant.bytes))
                    bytes.bind(2, tenant.id)
                    try bytes.run()
                }
                let state = try DirectStatement(db, "UPDATE state SET known_until = ?")
                state.bind(1, batch.takenUnixNano)
                try state.run()
                return rows
            }
        } catch {
            tenants = known
            throw error
        }
    }

    private func tenant(_ name: String, _ db: Database) throws -> Tenant {
        if let tenant = tenants[name] { return tenant }
        // Nothing of it was missed since the file was opened.
        try db.execute(
            sql: "INSERT INTO tenants (name, since, bytes) VALUES (?, ?, 0)",
            arguments: [name, Int64(bitPattern: openedUnixNano)])
        let tenant = Tenant(id: db.lastInsertedRowID, bytes: 0, trimBytes: 0)
        tenants[name] = tenant
        return tenant
    }

    private func write(
        _ slice: JournalSlice, epoch: UInt32, written: UInt64, _ groupName: (Int) -> String, _ tenant: inout Tenant,
        _ db: Database
    ) throws {
        if slice.hasLostEnds {
            // Of what the file thinks open on this loop, only these are.
            let first = Int64(slice.loop) << 48
            let numbers = try Int64.fetchAll(
                db,
                sql: "SELECT number FROM sessions WHERE tenant = ? AND closed IS NULL AND number BETWEEN ? AND ?",
                arguments: [tenant.id, first, first | (1 << 48 - 1)])
            let lost = numbers.filter { !slice.open.contains(UInt64(bitPattern: $0)) }
            for number in lost {
                try db.execute(
                    sql: "DELETE FROM sessions WHERE tenant = ? AND closed IS NULL AND number = ?",
                    arguments: [tenant.id, number])
            }
        }
        try write(slice.broadcasts.map { ($0.offset, $0) }, .broadcasts, slice, epoch, written, &tenant, db) {
            packed, broadcast, last in
            packed.append(broadcast.endedUnixNano, since: last)
            return broadcast.endedUnixNano
        }
        try write(slice.acknowledgements.map { ($0.offset, $0) }, .acknowledgements, slice, epoch, written, &tenant, db)
        {
            packed, acknowledgement, last in
            packed.append(acknowledgement.session)
            packed.append(acknowledgement.atUnixNano, since: last)
            return acknowledgement.atUnixNano
        }
        for session in slice.sessions { try write(session, groupName, &tenant, db) }
        guard let through = slice.liveThrough else { return }
        let reach = try DirectStatement(db, "INSERT OR REPLACE INTO reaches VALUES (?, ?, ?)")
        reach.bind(1, tenant.id)
        reach.bind(2, Int64(slice.loop))
        reach.bind(3, through)
        try reach.run()
    }

    /// One row for each block. An entry is the difference of its place and the last one's, then what `entry` adds; it returns
    /// the time that the next one's is told against.
    private func write<Entry>(
        _ entries: [(offset: UInt64, entry: Entry)], _ kind: Kind, _ slice: JournalSlice, _ epoch: UInt32,
        _ written: UInt64, _ tenant: inout Tenant, _ db: Database,
        _ pack: (inout PackedWriter, Entry, UInt64) -> UInt64
    ) throws {
        guard !entries.isEmpty else { return }
        let insert = try DirectStatement(db, "INSERT INTO slices VALUES (?, ?, ?, ?, ?, ?, ?)")
        // Topics are joined each for itself, so places are nearly in order, and a block's may be interrupted.
        let blocks = Dictionary(grouping: entries) { $0.offset >> Self.blockBits }
        for (block, entries) in blocks {
            var packed = PackedWriter()
            var offset = block << Self.blockBits
            var time = written
            for (next, entry) in entries {
                packed.append(next, since: offset)
                offset = next
                time = pack(&packed, entry, time)
            }
            insert.bind(1, tenant.id)
            insert.bind(2, block)
            insert.bind(3, written)
            insert.bind(4, kind.rawValue)
            insert.bind(5, Int64(slice.loop))
            insert.bind(6, Int64(epoch))
            insert.bind(7, packed.bytes)
            try insert.run()
            tenant.bytes += Self.rowBytes + packed.bytes.count
        }
    }

    private func write(
        _ kept: KeptSession, _ groupName: (Int) -> String, _ tenant: inout Tenant, _ db: Database
    ) throws {
        let insert = try DirectStatement(
            db, "INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")
        let session = kept.session
        let device = session.device ?? ""
        let group = groupName(session.group)
        let filter = KeptFilter.text(session.filter)
        insert.bind(1, tenant.id)
        insert.bind(2, device)
        insert.bind(3, session.number)
        insert.bind(4, Int64(session.epoch))
        insert.bind(5, session.connectedUnixNano)
        insert.bind(6, session.startOffset)
        if let reached = kept.reachedOffset { insert.bind(7, reached) }
        if let closed = kept.closed {
            insert.bind(8, closed.atUnixNano)
            insert.bind(9, closed.reason.rawValue)
        }
        insert.bind(10, group)
        insert.bind(11, filter)
        if !session.runs.isEmpty {
            let runs = KeptRuns.packed(session)
            insert.bind(12, runs)
            if kept.closed != nil { tenant.bytes += runs.count }
        }
        try insert.run()
        if kept.isNew {
            tenant.bytes += Self.sessionBytes + device.utf8.count + group.utf8.count + filter.utf8.count
        }
    }

    private func write(
        _ receipts: [DeviceReceipt], epoch: UInt32, written: UInt64, _ tenant: inout Tenant, _ db: Database
    ) throws {
        guard !receipts.isEmpty else { return }
        let insert = try DirectStatement(db, "INSERT INTO receipts VALUES (?, ?, ?, ?, ?)")
        for (offset, receipts) in Dictionary(grouping: receipts, by: \.offset) {
            var packed = PackedWriter()
            for receipt in receipts {
                packed.append(receipt.device)
                packed.append(receipt.group)
                packed.append(receipt.receivedUnixNano, since: written)
                packed.append(UInt64(bitPattern: receipt.clockOffsetNano), since: 0)
                packed.append(receipt.clockUncertaintyNano.map { $0 + 1 } ?? 0)
            }
            insert.bind(1, tenant.id)
            insert.bind(2, offset)
            insert.bind(3, written)
            insert.bind(4, Int64(epoch))
            insert.bind(5, packed.bytes)
            try insert.run()
            tenant.bytes += Self.rowBytes + packed.bytes.count
        }
    }
}

/// What a connection asked for, as text: patterns with spaces between, then each type on a line of its own.
enum KeptFilter {
    static func text(_ filter: TopicFilter) -> String {
        var text = filter.patterns.map(\.text).joined(separator: " ")
        for type in filter.types.sorted() {
            // No event's type has a control character: what asks for one takes none, and may be kept as another such.
            text += "\n" + String(String.UnicodeScalarView(type.unicodeScalars.map { $0 == "\n" ? "\u{1}" : $0 }))
        }
        return text
    }

    /// Nil where it is none.
    static func filter(_ bytes: UnsafeRawBufferPointer) -> TopicFilter? {
        let lines = bytes.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
        let patterns = lines.first?.split(separator: UInt8(ascii: " ")) ?? []
        return try? TopicFilter(
            patterns.map { String(decoding: $0, as: UTF8.self) },
            types: Set(lines.dropFirst().map { String(decoding: $0, as: UTF8.self) }))
    }
}

/// A connection's runs, each told against the one before; the first against where and when the connection began.
enum KeptRuns {
    static func packed(_ session: DeviceSession) -> [UInt8] {
        var packed = PackedWriter()
        var last = (offset: session.startOffset, atUnixNano: session.connectedUnixNano)
        for run in session.runs {
            packed.append(run.after, since: last.offset)
            packed.append(run.through, since: run.after)
            packed.append(run.writtenUnixNano, since: last.atUnixNano)
            packed.append(run.isMerged ? 1 : 0)
            last = (run.through, run.writtenUnixNano)
        }
        return packed.bytes
    }

    /// The run that holds a place.
    static func run(
        holding offset: UInt64, in bytes: UnsafeRawBufferPointer, startOffset: UInt64, connectedUnixNano: UInt64
    ) -> DeviceSession.Run? {
        var reader = PackedReader(bytes)
        var last = (offset: startOffset, atUnixNano: connectedUnixNano)
        while let after = reader.next(since: last.offset), let through = reader.next(since: after),
            let at = reader.next(since: last.atUnixNano), let isMerged = reader.next()
        {
            if after < offset, offset <= through {
                return DeviceSession.Run(after: after, through: through, writtenUnixNano: at, isMerged: isMerged == 1)
            }
            last = (through, at)
        }
        return nil
    }
}
