import GRDB

/// The file forgets by time: what was written, and what ended, before an instant.
extension DeliveryFile {
    /// Whose rows are older than what `earliest` says: of no event that is retained, or older than retention allows.
    ///
    /// A table is walked for it, so nothing is done before a sixteenth of what is kept can go.
    func trim(_ tenant: String, before earliest: UInt64, nowUnixNano now: UInt64) throws -> UInt64 {
        let since = try pool.read { try Self.tenant(tenant, $0)?.sinceUnixNano } ?? now
        guard earliest > since, now > since, earliest - since >= (now - since) / 16 else { return 0 }
        return try remove(tenant, before: earliest)
    }

    /// The oldest rows of a tenant that has more than its bytes, down to seven eighths of them.
    func trim(_ tenant: String, toBytes limit: Int) throws -> UInt64 {
        guard let known = tenants[tenant], known.bytes > max(limit, known.trimBytes) else { return 0 }
        let counted = try pool.read { try Self.ages(known.id, $0) }
        var left = counted.bytes
        var cut: UInt64?
        for bucket in counted.buckets where left > limit / 8 * 7 {
            left -= bucket.bytes
            cut = bucket.endUnixNano
        }
        let removed = try cut.map { try remove(tenant, before: $0) } ?? 0
        // Connections that are open cannot go: no second look before there is more.
        let bytes = tenants[tenant]?.bytes ?? 0
        tenants[tenant]?.trimBytes = bytes > limit ? bytes + limit / 16 : 0
        return removed
    }

    private static let sizes = """
        SELECT written AS at, \(rowBytes) + length(entries) AS bytes FROM slices WHERE tenant = :t
        UNION ALL SELECT written, \(rowBytes) + length(entries) FROM receipts WHERE tenant = :t
        UNION ALL SELECT closed, \(sessionBytes) + length(device) + length(device_group) + length(filter)
            + ifnull(length(runs), 0) FROM sessions WHERE tenant = :t
        """

    /// How many bytes are how old, in 1,024 steps from the oldest to the newest.
    private static func ages(
        _ tenant: Int64, _ db: Database
    ) throws -> (bytes: Int, buckets: [(endUnixNano: UInt64, bytes: Int)]) {
        let range = try Row.fetchOne(
            db,
            sql: """
                SELECT min(first), max(last) FROM (
                    SELECT min(written) AS first, max(written) AS last FROM slices WHERE tenant = :t
                    UNION ALL SELECT min(written), max(written) FROM receipts WHERE tenant = :t
                    UNION ALL SELECT min(closed), max(closed) FROM sessions WHERE tenant = :t)
                """, arguments: ["t": tenant])
        let first = UInt64(max(0, range.flatMap { Int64.fromDatabaseValue($0[0]) } ?? 0))
        let last = UInt64(max(0, range.flatMap { Int64.fromDatabaseValue($0[1]) } ?? 0))
        let step = (max(first, last) - first) / 1_024 + 1
        var buckets = (1...1_024).map { (endUnixNano: first + UInt64($0) * step, bytes: 0) }
        var bytes = 0
        let rows = try DirectStatement(db, sizes)
        rows.bind(1, tenant)
        while try rows.step() {
            bytes += Int(rows.integer(1))
            guard !rows.isNull(0) else { continue }
            buckets[min(1_023, Int((max(first, rows.integer(0)) - first) / step))].bytes += Int(rows.integer(1))
        }
        return (bytes, buckets)
    }

    private func remove(_ tenant: String, before: UInt64) throws -> UInt64 {
        guard let id = tenants[tenant]?.id else { return 0 }
        let (removed, bytes) = try pool.write { db in
            var removed = 0
            for sql in [
                "DELETE FROM slices WHERE tenant = ? AND written < ?",
                "DELETE FROM receipts WHERE tenant = ? AND written < ?",
                "DELETE FROM sessions WHERE tenant = ? AND closed < ?",
                "DELETE FROM gaps WHERE tenant = ? AND until < ?",
            ] {
                try db.execute(sql: sql, arguments: [id, Int64(bitPattern: before)])
                removed += db.changesCount
            }
            let bytes =
                try Int.fetchOne(
                    db, sql: "SELECT ifnull(sum(bytes), 0) FROM (\(Self.sizes))", arguments: ["t": id]) ?? 0
            try db.execute(
                sql: "UPDATE tenants SET since = max(since, ?), bytes = ? WHERE id = ?",
                arguments: [Int64(bitPattern: before), bytes, id])
            return (UInt64(removed), bytes)
        }
        tenants[tenant]?.bytes = bytes
        return removed
    }
}
