import GRDB
import GRDBSQLite

/// What a check of a whole log found.
public struct LogVerification: Sendable {
    public struct Problem: Sendable, Equatable, CustomStringConvertible {
        public let tenant: String?
        public let offset: UInt64?
        public let text: String

        public var description: String {
            [tenant, offset.map { "offset \($0)" }, text].compactMap { $0 }.joined(separator: ": ")
        }
    }

    public struct TenantSummary: Sendable, Equatable {
        public let name: String
        public var events = 0
        public var bytes = 0
        /// Of the first and the last event; nil when there is none.
        public var offsets: ClosedRange<UInt64>?
        public var epochs = 0
        /// Offsets between these that no event has: failed commits leave them.
        public var gaps: UInt64 = 0
        public var problems = 0
    }

    public internal(set) var tenants: [TenantSummary] = []
    /// The first ones; `problemCount` counts all.
    public internal(set) var problems: [Problem] = []
    public internal(set) var problemCount = 0

    static let maximumProblems = 100

    mutating func note(_ tenant: String?, _ offset: UInt64?, _ text: String) {
        problemCount += 1
        if let tenant, let index = tenants.firstIndex(where: { $0.name == tenant }) { tenants[index].problems += 1 }
        if problems.count < Self.maximumProblems {
            problems.append(Problem(tenant: tenant, offset: offset, text: text))
        }
    }
}

extension LogInspection {
    /// Reads everything and checks each event's checksum, size, order and epoch, the totals, and both tables of the
    /// index against the events. A hole that a failed commit has left is counted; an event that is missing is a problem.
    ///
    /// One state of the log: beside a server that writes, its write-ahead log grows until this returns.
    ///
    /// - Parameter progress: called after some thousand events with how many of how many were read.
    public func verify(
        progress: (_ events: Int, _ ofEvents: Int) -> Void = { _, _ in }
    ) throws(StreamError) -> LogVerification {
        try readers.withReader("verify the log") { reader, db in
            try db.execute(sql: "BEGIN")
            defer { try? db.execute(sql: "ROLLBACK") }
            let tenants = try Self.tenants(db)
            let total = tenants.reduce(0) { $0 + $1.events }
            var result = LogVerification()
            var done = 0
            for tenant in tenants {
                var check = TenantCheck(tenant)
                result.tenants.append(check.summary)
                try check.run(reader, db, &result) { progress(done + $0, total) }
                done += check.summary.events
                let problems = result.tenants[result.tenants.count - 1].problems
                result.tenants[result.tenants.count - 1] = check.summary
                result.tenants[result.tenants.count - 1].problems = problems
            }
            for (table, column) in [("events", "position >> \(EventPosition.offsetBits)"), ("latest", "log")] {
                let sql = "SELECT count(*) FROM \(table) WHERE \(column) NOT IN (SELECT id FROM logs)"
                let count = try Int.fetchOne(db, sql: sql) ?? 0
                if count > 0 { result.note(nil, nil, "\(count) rows of \(table) belong to no tenant") }
            }
            progress(total, total)
            return result
        }
    }
}

/// One tenant's part.
private struct TenantCheck {
    let tenant: LogInspection.Tenant
    var summary: LogVerification.TenantSummary
    private var last: StoredEvent?
    private var place: UInt64
    private var epochIndex = 0
    private var damaged = 0
    private var block: (number: UInt64, postings: TopicPostings, places: Set<Int>, isWhole: Bool)?

    init(_ tenant: LogInspection.Tenant) {
        self.tenant = tenant
        summary = LogVerification.TenantSummary(name: tenant.name, epochs: tenant.epochs.count)
        place = tenant.trimmedThrough
    }

    mutating func run(
        _ reader: LogReaders.Reader, _ db: Database, _ result: inout LogVerification, progress: (Int) -> Void
    ) throws {
        let early = try Int.fetchOne(
            db, sql: "SELECT count(*) FROM events WHERE position BETWEEN ? AND ?",
            arguments: [
                EventPosition.of(log: tenant.log, offset: 0),
                EventPosition.of(log: tenant.log, offset: tenant.trimmedThrough),
            ])
        if let early, early > 0 { result.note(tenant.name, nil, "\(early) events that retention removed are there") }

        var stride: UInt64 = 1
        var next = place
        while true {
            do {
                try scan(reader, db, after: next, &result, progress)
                break
            } catch let error as DatabaseError where error.resultCode == .SQLITE_CORRUPT {
                // Beyond the damaged pages in growing steps.
                if next <= place { result.note(tenant.name, place + 1, "the pages behind are damaged") }
                next = max(next, place) + stride
                stride *= 2
                guard next < tenant.head else { break }
            }
        }
        try finishBlock(reader, db, &result)
        if summary.events + damaged != tenant.events {
            result.note(
                tenant.name, nil, "\(summary.events + damaged) events are there where \(tenant.events) should be")
        } else if damaged == 0, summary.bytes != tenant.bytes {
            result.note(tenant.name, nil, "events of \(summary.bytes) bytes where \(tenant.bytes) should be")
        }
        if place > tenant.head {
            result.note(tenant.name, place, "lies behind the log's end at \(tenant.head)")
        }
        try checkLatest(db, &result)
    }

    private mutating func scan(
        _ reader: LogReaders.Reader, _ db: Database, after offset: UInt64, _ result: inout LogVerification,
        _ progress: (Int) -> Void
    ) throws {
        let handle = try reader.statement(.range, db)
        defer { sqlite3_reset(handle) }
        sqlite3_bind_int64(handle, 1, EventPosition.of(log: tenant.log, offset: offset))
        sqlite3_bind_int64(handle, 2, EventPosition.of(log: tenant.log, offset: EventPosition.maximumOffset))
        sqlite3_bind_int64(handle, 3, -1)
        while true {
            let code = sqlite3_step(handle)
            if code == SQLITE_DONE { return }
            guard code == SQLITE_ROW else { throw LogDatabase.failure(db, code) }
            let offset = EventPosition.offset(sqlite3_column_int64(handle, 0))
            if place > tenant.trimmedThrough || summary.offsets != nil { summary.gaps += offset - place - 1 }
            place = offset
            summary.offsets = (summary.offsets?.lowerBound ?? offset)...offset
            try enterBlock(of: offset, reader, db, &result)
            guard let event = LogReaders.event(handle, like: last) else {
                damaged += 1
                block?.isWhole = false
                result.note(tenant.name, offset, "does not match its checksum")
                continue
            }
            check(event, &result)
            last = event
            summary.events += 1
            summary.bytes += event.byteCount
            if summary.events & 8_191 == 0 { progress(summary.events) }
        }
    }

    private mutating func check(_ event: StoredEvent, _ result: inout LogVerification) {
        let epochs = tenant.epochs
        while epochIndex + 1 < epochs.count, epochs[epochIndex + 1].firstOffset <= event.offset { epochIndex += 1 }
        if !epochs.indices.contains(epochIndex) || epochs[epochIndex].epoch != event.epoch {
            let due = epochs.indices.contains(epochIndex) ? "\(epochs[epochIndex].epoch)" : "none"
            result.note(tenant.name, event.offset, "is of epoch \(event.epoch), due is \(due)")
        }
        guard event.offset <= tenant.indexedThrough else { return }
        let place = Int(event.offset - TopicPostings.firstOffset(ofBlock: TopicPostings.block(of: event.offset)))
        block?.postings.add(place: place, topic: event.topic, type: event.type)
        block?.places.insert(place)
    }

    // MARK: The index

    private mutating func enterBlock(
        of offset: UInt64, _ reader: LogReaders.Reader, _ db: Database, _ result: inout LogVerification
    ) throws {
        let number = TopicPostings.block(of: offset)
        guard block?.number != number else { return }
        try finishBlock(reader, db, &result)
        // Of a block whose beginning retention has removed, the index knows more than the log.
        block = (
            number, TopicPostings(), [], max(1, TopicPostings.firstOffset(ofBlock: number)) > tenant.trimmedThrough
        )
    }

    private mutating func finishBlock(
        _ reader: LogReaders.Reader, _ db: Database, _ result: inout LogVerification
    ) throws {
        guard let block, block.isWhole, TopicPostings.lastOffset(ofBlock: block.number) <= tenant.indexedThrough else {
            return
        }
        let first = TopicPostings.firstOffset(ofBlock: block.number)
        let position = EventPosition.of(log: tenant.log, offset: first)
        let handle = try reader.statement(.blocks, db)
        defer { sqlite3_reset(handle) }
        sqlite3_bind_int64(handle, 1, position)
        sqlite3_bind_int64(handle, 2, position)
        let hasRow = sqlite3_step(handle) == SQLITE_ROW
        let stored = UnsafeRawBufferPointer(
            start: hasRow ? sqlite3_column_blob(handle, 2) : nil,
            count: hasRow ? Int(sqlite3_column_bytes(handle, 2)) : 0)
        guard hasRow, EventChecksum.ofPostings(stored, position: position) == sqlite3_column_int64(handle, 1),
            let places = TopicPostings.places(stored)
        else {
            result.note(tenant.name, first, "the index of the block that begins here is damaged; reading is slower")
            return
        }
        guard !stored.elementsEqual(block.postings.encoded()) else { return }
        let missing = places.filter { !block.places.contains($0) }
        for place in missing { result.note(tenant.name, first + UInt64(place), "is missing") }
        if missing.isEmpty {
            result.note(tenant.name, first, "the index of the block that begins here differs from its events")
        }
    }

    /// Every row names an event with its topic, key and type.
    private func checkLatest(_ db: Database, _ result: inout LogVerification) throws {
        let sql = """
            SELECT latest.position FROM latest LEFT JOIN events USING (position)
            WHERE latest.log = ? AND (latest.topic IS NOT events.topic OR latest.key IS NOT events.key
            OR latest.type IS NOT ifnull(events.type, '')) LIMIT 20
            """
        for position in try Int64.fetchAll(db, sql: sql, arguments: [tenant.log]) {
            result.note(
                tenant.name, EventPosition.offset(position), "the index names it as the latest value of another key")
        }
    }
}
