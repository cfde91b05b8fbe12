import GRDB
import GRDBSQLite

extension LogDatabase {
    /// Writes a part of a log's index; the last part says how far it reaches. Not synced: the events are there.
    func index(
        log: Int64, latest: some Sequence<(LatestKey, UInt64)>, blocks: [(UInt64, [UInt8])], through: UInt64?
    ) throws(StreamError) {
        try write("write the log's index") { db in
            let statements = try self.prepared(db)
            try self.setSynchronous(db, full: false)
            try self.transaction(db, statements) {
                var statement = statements.insertLatest.sqliteStatement
                for (key, offset) in latest {
                    let texts = [key.topic.text, key.key.text, key.type.text]
                    self.scratch.reset(capacity: texts.reduce(0) { $0 + $1.utf8.count })
                    sqlite3_bind_int64(statement, 1, log)
                    for (index, text) in texts.enumerated() {
                        let bytes = self.scratch.append(text)
                        sqlite3_bind_text(
                            statement, CInt(index) + 2, bytes.baseAddress?.assumingMemoryBound(to: CChar.self),
                            CInt(bytes.count), nil)
                    }
                    sqlite3_bind_int64(statement, 5, EventPosition.of(log: log, offset: offset))
                    try self.run(db, statement)
                }
                statement = statements.insertBlock.sqliteStatement
                for (block, postings) in blocks {
                    let position = EventPosition.of(log: log, offset: TopicPostings.firstOffset(ofBlock: block))
                    try postings.withUnsafeBytes { bytes in
                        sqlite3_bind_int64(statement, 1, position)
                        sqlite3_bind_int64(statement, 2, EventChecksum.ofPostings(bytes, position: position))
                        sqlite3_bind_blob(statement, 3, bytes.baseAddress, CInt(bytes.count), nil)
                        try self.run(db, statement)
                    }
                }
                guard let through else { return }
                statement = statements.updateIndex.sqliteStatement
                sqlite3_bind_int64(statement, 1, Int64(through))
                sqlite3_bind_int64(statement, 2, log)
                try self.run(db, statement)
            }
        }
    }

    /// Forgets keys whose newest event is in this range, which is about to be removed and with all that precedes it.
    func removeLatest(_ db: Database, _ statements: Statements, log: Int64, _ first: Int64, _ last: Int64) throws {
        let keyed = statements.keyedEvents.sqliteStatement
        defer { sqlite3_reset(keyed) }
        sqlite3_bind_int64(keyed, 1, first)
        sqlite3_bind_int64(keyed, 2, last)
        let delete = statements.deleteLatest.sqliteStatement
        sqlite3_bind_int64(delete, 4, log)
        sqlite3_bind_int64(delete, 5, last)
        while true {
            let code = sqlite3_step(keyed)
            if code == SQLITE_DONE { return }
            guard code == SQLITE_ROW else { throw Self.failure(db, code) }
            for index in CInt(0)..<3 { sqlite3_bind_value(delete, index + 1, sqlite3_column_value(keyed, index)) }
            try run(db, delete)
        }
    }
}

extension EventChecksum {
    static func ofPostings(_ bytes: UnsafeRawBufferPointer, position: Int64) -> Int64 {
        var checksum = EventChecksum()
        checksum.add(UInt64(bitPattern: position))
        checksum.add(bytes)
        return Int64(bitPattern: checksum.value)
    }
}
