import GRDB
import GRDBSQLite

/// Reading what a filter takes: by the index as far as it reaches, by looking at each event behind it.
extension EmbeddedStream {
    /// Most events that one call looks at, about 20 ms.
    private static let maximumEvents = 16_384
    /// Most bytes of postings that one call looks at.
    private static let maximumPostingBytes = 16 << 20

    func read(
        after offset: UInt64, limit: Int, byteLimit: Int, filter: TopicFilter
    ) throws(StreamError) -> FilteredRead {
        guard limit > 0 else { return FilteredRead(events: [], through: offset) }
        if filter.isAll {
            let events = try read(after: offset, limit: limit, byteLimit: byteLimit)
            return FilteredRead(events: events, through: events.last?.offset ?? offset)
        }
        var found = FilteredRead(events: [], through: offset)
        let indexed = disk.withLock { $0.indexedThrough }
        if offset < indexed, state.withLock({ offset < $0.evictedThrough }) {
            try refuseTrimmed(offset)
            do {
                found = try core.readers.read(
                    log: log, tenant: tenant, after: offset, through: indexed, limit: limit, byteLimit: byteLimit,
                    filter: filter, maximumEvents: Self.maximumEvents, maximumPostingBytes: Self.maximumPostingBytes,
                    holes: holes)
            } catch {
                try refuseTrimmed(offset)
                throw error
            }
            try refuseTrimmed(offset)
            // What comes behind the index is for the next call, unless there was next to nothing to do.
            guard found.through >= indexed, found.events.isEmpty else { return found }
        }
        try look(&found, limit: limit, byteLimit: byteLimit, filter: filter)
        return found
    }

    /// Goes on from `found.through` by looking at each event.
    private func look(
        _ found: inout FilteredRead, limit: Int, byteLimit: Int, filter: TopicFilter
    ) throws(StreamError) {
        let start = found.through
        var bytes = 0
        var rest = Self.maximumEvents
        while rest > 0 {
            let events: [StoredEvent]
            do {
                events = try read(after: found.through, limit: min(1_024, rest), byteLimit: 4 << 20)
            } catch {
                if found.through > start { return }
                throw error
            }
            guard !events.isEmpty else { return }
            rest -= events.count
            for event in events {
                if filter.matches(event) {
                    bytes += event.byteCount
                    if bytes > byteLimit && !found.events.isEmpty { return }
                    found.events.append(event)
                }
                found.through = event.offset
                if found.events.count == limit { return }
            }
        }
    }
}

extension LogReaders {
    /// Through `end` at most, which the index reaches.
    fileprivate func read(
        log: Int64, tenant: String, after offset: UInt64, through end: UInt64, limit: Int, byteLimit: Int,
        filter: TopicFilter, maximumEvents: Int, maximumPostingBytes: Int,
        holes: () -> LogHoles
    ) throws(StreamError) -> FilteredRead {
        try withReader("read the log of \(tenant)") { reader, db in
            let blocks = try reader.statement(.blocks, db)
            defer { sqlite3_reset(blocks) }
            let firstBlock = TopicPostings.block(of: offset + 1)
            sqlite3_bind_int64(
                blocks, 1, EventPosition.of(log: log, offset: TopicPostings.firstOffset(ofBlock: firstBlock)))
            sqlite3_bind_int64(blocks, 2, EventPosition.of(log: log, offset: end))
            let single = try reader.statement(.one, db)
            let range = try reader.statement(.range, db)

            var found = FilteredRead(events: [], through: offset)
            var bytes = 0
            var looked = 0
            var postingBytes = 0

            /// False when enough was found. The row is the current one of `handle`, nil where there is none.
            func take(_ handle: OpaquePointer?, at place: UInt64) throws -> Bool {
                looked += 1
                guard let handle, let event = EventRow(handle).event(like: found.events.last) else {
                    found.through = max(found.through, place - 1)
                    if found.through > offset { return false }
                    throw Self.damage(place, tenant)
                }
                if filter.matches(event) {
                    bytes += event.byteCount
                    if bytes > byteLimit && !found.events.isEmpty {
                        found.through = place - 1
                        return false
                    }
                    found.events.append(event)
                }
                found.through = place
                return found.events.count < limit
            }

            /// False when events are missing between what was looked at and `end`, and there is something before that.
            func isWhole(before end: UInt64) throws -> Bool {
                guard end > found.through + 1, let lost = holes().lost(in: found.through + 1...end - 1) else {
                    return true
                }
                if lost.lowerBound - 1 > offset {
                    found.through = lost.lowerBound - 1
                    return false
                }
                throw Self.loss(lost, tenant)
            }

            /// Every event of a range; false when enough was found.
            func lookThrough(_ last: UInt64) throws -> Bool {
                defer { sqlite3_reset(range) }
                sqlite3_bind_int64(range, 1, EventPosition.of(log: log, offset: found.through))
                sqlite3_bind_int64(range, 2, EventPosition.of(log: log, offset: last))
                sqlite3_bind_int64(range, 3, -1)
                while true {
                    let code = sqlite3_step(range)
                    if code == SQLITE_DONE { break }
                    guard code == SQLITE_ROW else {
                        if found.through > offset { return false }
                        throw LogDatabase.failure(db, code)
                    }
                    let place = EventPosition.offset(sqlite3_column_int64(range, 0))
                    guard try isWhole(before: place), try take(range, at: place) else { return false }
                    if looked >= maximumEvents { return false }
                }
                guard try isWhole(before: last + 1) else { return false }
                found.through = last
                return true
            }

            while true {
                // The statement stays at its row: what it sees and what the others see is one state of the log.
                let code = sqlite3_step(blocks)
                guard code == SQLITE_ROW else {
                    guard code == SQLITE_DONE else { throw LogDatabase.failure(db, code) }
                    _ = try lookThrough(end)
                    return found
                }
                let position = sqlite3_column_int64(blocks, 0)
                let first = EventPosition.offset(position)
                let last = TopicPostings.lastOffset(ofBlock: TopicPostings.block(of: first))
                // Offsets without a row belong to no event, or the row is lost: the events say which.
                if first > found.through + 1, try !lookThrough(first - 1) { return found }
                let postings = UnsafeRawBufferPointer(
                    start: sqlite3_column_blob(blocks, 2), count: Int(sqlite3_column_bytes(blocks, 2)))
                postingBytes += postings.count
                let isSound = EventChecksum.ofPostings(postings, position: position) == sqlite3_column_int64(blocks, 1)
                let next = Int(max(found.through + 1, first) - first)
                switch isSound ? TopicPostings.match(postings, filter, from: next) : nil {
                case .places(let places):
                    for place in places {
                        let target = first + UInt64(place)
                        defer { sqlite3_reset(single) }
                        sqlite3_bind_int64(single, 1, EventPosition.of(log: log, offset: target))
                        let code = sqlite3_step(single)
                        guard code == SQLITE_ROW || code == SQLITE_DONE else { throw LogDatabase.failure(db, code) }
                        guard try take(code == SQLITE_ROW ? single : nil, at: target), looked < maximumEvents else {
                            return found
                        }
                    }
                    found.through = last
                // Where the index is damaged, the events say.
                case .many, nil:
                    if try !lookThrough(last) { return found }
                }
                if postingBytes >= maximumPostingBytes { return found }
            }
        }
    }
}
