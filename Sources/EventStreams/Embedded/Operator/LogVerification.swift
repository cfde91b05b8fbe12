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
            try noteStrangers(db, tenants.map(\.log).sorted(), &result)
            progress(total, total)
            return result
        }
    }

    /// Rows between the ranges of the logs. Each query looks where nothing should be.
    private func noteStrangers(_ db: Database, _ logs: [Int64], _ result: inout LogVerification) throws {
        var events = 0
        var latest = 0
        var next = Int64.min
        for log in logs + [Int64(EventPosition.maximumLog) + 1] {
            let first = next == .min ? Int64.min : EventPosition.of(log: next, offset: 0)
            let isLast = log > Int64(EventPosition.maximumLog)
            let last = isLast ? Int64.max : EventPosition.of(log: log, offset: 0) - 1
            if first <= last {
                events +=
                    try Int.fetchOne(
                        db, sql: "SELECT count(*) FROM events WHERE position BETWEEN ? AND ?", arguments: [first, last])
                    ?? 0
            }
            latest +=
                try Int.fetchOne(
                    db, sql: "SELECT count(*) FROM latest WHERE log >= ? AND log \(isLast ? ">=" : "<") ?",
                    arguments: [next, isLast ? next : log]) ?? 0
            next = log + 1
        }
        for (table, count) in [("events", events), ("latest", latest)] where count > 0 {
            result.note(nil, nil, "\(count) rows of \(table) belong to no tenant")
        }
    }
}

/// One tenant's part.
private struct TenantCheck {
    let tenant: LogInspection.Tenant
    var summary: LogVerification.TenantSummary
    private var place: UInt64
    private var epochIndex = 0
    private var damaged = 0
    private var block: (number: UInt64, postings: TopicPostings, places: Places, isWhole: Bool)?
    /// At a row of `latestByPosition` that is not behind the events yet, or at the end.
    private var latest: OpaquePointer?
    private var latestPosition: Int64?
    private var wrongLatest = 0

    /// Which events of a block are there.
    struct Places {
        private var words = [UInt64](repeating: 0, count: Int(TopicPostings.blockEvents) / 64)

        func contains(_ place: Int) -> Bool { words[place >> 6] >> UInt64(place & 63) & 1 == 1 }
        mutating func insert(_ place: Int) { words[place >> 6] |= 1 << UInt64(place & 63) }
    }

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

        let sorted = try reader.statement(.latestByPosition, db)
        defer { sqlite3_reset(sorted) }
        sqlite3_bind_int64(sorted, 1, tenant.log)
        latest = sorted
        try stepLatest(db, &result)

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
        if noteLost(before: tenant.head + 1, &result) > 0 { block?.isWhole = false }
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
        try skipLatest(before: .max, db, &result)
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
            let lost = noteLost(before: offset, &result)
            if place > tenant.trimmedThrough || summary.offsets != nil { summary.gaps += offset - place - 1 - lost }
            if lost > 0 { block?.isWhole = false }
            place = offset
            summary.offsets = (summary.offsets?.lowerBound ?? offset)...offset
            try enterBlock(of: offset, reader, db, &result)
            // Their places would be told again.
            if lost > 0 { block?.isWhole = false }
            let event = EventRow(handle)
            try checkLatest(event, db, &result)
            guard event.isSound, let topic = event.topic else {
                damaged += 1
                block?.isWhole = false
                result.note(tenant.name, offset, "does not match its checksum")
                continue
            }
            check(event, topic, offset, &result)
            summary.events += 1
            summary.bytes += event.byteCount
            if summary.events & 8_191 == 0 { progress(summary.events) }
        }
    }

    /// How many are missing between the last event and `offset` that no failed commit explains.
    private func noteLost(before offset: UInt64, _ result: inout LogVerification) -> UInt64 {
        var count: UInt64 = 0
        var first = place + 1
        while first < offset, let lost = tenant.holes.lost(in: first...offset - 1) {
            result.note(
                tenant.name, lost.lowerBound,
                lost.count == 1 ? "is missing" : "is missing, and all through \(lost.upperBound)")
            count += UInt64(lost.count)
            first = lost.upperBound + 1
        }
        return count
    }

    private mutating func check(
        _ event: EventRow, _ topic: UnsafeRawBufferPointer, _ offset: UInt64, _ result: inout LogVerification
    ) {
        let epochs = tenant.epochs
        while epochIndex + 1 < epochs.count, epochs[epochIndex + 1].firstOffset <= offset { epochIndex += 1 }
        if !epochs.indices.contains(epochIndex) || Int64(epochs[epochIndex].epoch) != event.epoch {
            let due = epochs.indices.contains(epochIndex) ? "\(epochs[epochIndex].epoch)" : "none"
            result.note(tenant.name, offset, "is of epoch \(event.epoch), due is \(due)")
        }
        guard offset <= tenant.indexedThrough else { return }
        let place = Int(offset - TopicPostings.firstOffset(ofBlock: TopicPostings.block(of: offset)))
        block?.postings.add(
            place: place, topic: String(decoding: topic, as: UTF8.self),
            type: event.type.map { String(decoding: $0, as: UTF8.self) })
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
            number, TopicPostings(), Places(),
            max(1, TopicPostings.firstOffset(ofBlock: number)) > tenant.trimmedThrough
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

    /// Every row of `latest` names an event with its topic, key and type. Both are read in the order of positions.
    private mutating func checkLatest(_ event: EventRow, _ db: Database, _ result: inout LogVerification) throws {
        guard let next = latestPosition, next <= event.position else { return }
        try skipLatest(before: event.position, db, &result)
        while latestPosition == event.position {
            let type = event.type ?? UnsafeRawBufferPointer(start: nil, count: 0)
            let isRight = [event.topic, event.key, type].enumerated().allSatisfy { index, bytes in
                let named = UnsafeRawBufferPointer(
                    start: sqlite3_column_text(latest, CInt(index) + 1),
                    count: Int(sqlite3_column_bytes(latest, CInt(index) + 1)))
                return bytes?.elementsEqual(named) ?? false
            }
            if !isRight { noteLatest(event.position, &result) }
            try stepLatest(db, &result)
        }
    }

    /// Rows that name an event that is not there.
    private mutating func skipLatest(before end: Int64, _ db: Database, _ result: inout LogVerification) throws {
        while let position = latestPosition, position < end {
            noteLatest(position, &result)
            try stepLatest(db, &result)
        }
    }

    private mutating func noteLatest(_ position: Int64, _ result: inout LogVerification) {
        wrongLatest += 1
        guard wrongLatest <= 20 else { return }
        result.note(
            tenant.name, EventPosition.offset(position), "the index names it as the latest value of another key")
    }

    private mutating func stepLatest(_ db: Database, _ result: inout LogVerification) throws {
        let code = sqlite3_step(latest)
        latestPosition = code == SQLITE_ROW ? sqlite3_column_int64(latest, 0) : nil
        if code & 0xff == SQLITE_CORRUPT {
            result.note(tenant.name, nil, "the table of latest values is damaged")
        } else if code != SQLITE_ROW, code != SQLITE_DONE {
            throw LogDatabase.failure(db, code)
        }
    }
}
