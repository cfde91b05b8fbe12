import Dispatch
import Foundation
import GRDB
import TestSupport
import Testing

@testable import EventStreams

@Suite("Opening again, epochs and retention")
struct RecoveryTests {
    let directory = ScratchDirectory()

    private static let refusal = "CREATE TRIGGER refusal BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'no'); END"

    // MARK: Epochs

    @Test("a reopening after a clean end keeps events and epoch", arguments: Durability.allCases)
    func cleanEnd(_ durability: Durability) throws {
        var ids: [String] = []
        var epoch: UInt32?
        for round in 0..<3 {
            let store = try directory.open()
            let stream = try store.stream(tenant: "acme")
            #expect(stream.head == UInt64(round * 10))
            #expect(stream.durableHead == stream.head)
            #expect(stream.earliest == 1)
            for (index, id) in ids.enumerated() { #expect(stream.resolve(id) == .position(UInt64(index) + 1)) }
            ids += try stream.appendAndWait(texts: (0..<10).map { "\(round)/\($0)" }, durability).map(\.id)
            #expect(epoch == nil || stream.epoch == epoch)
            epoch = stream.epoch
            store.close()
        }
        let store = try directory.open()
        #expect(try store.stream(tenant: "acme").epoch == epoch)
    }

    @Test("a reopening without any append keeps the epoch after a clean end and opens a new one after another")
    func idleOpenings() throws {
        func epoch(_ ending: LogWriter.Ending) throws -> UInt32 {
            let store = try directory.open()
            defer { store.close(ending) }
            return try store.stream(tenant: "acme").epoch
        }
        #expect(try epoch(.drain) == 1)
        #expect(try epoch(.drain) == 1)
        #expect(try epoch(.abandon) == 1)
        #expect(try epoch(.abandon) == 2)
        #expect(try epoch(.drain) == 3)
        #expect(try epoch(.drain) == 3)
    }

    @Test("after an unclean end a new epoch begins behind the durable events, and old cursors skip nothing")
    func uncleanEnd() throws {
        var durable: [String] = []
        var seen: [String] = []
        do {
            let store = try directory.open { $0.memoryCommitInterval = .seconds(60) }
            let stream = try store.stream(tenant: "acme")
            durable = try stream.appendAndWait(texts: ["a", "b", "c"]).map(\.id)
            // Devices see these; the crash takes them.
            seen = try stream.appendAndWait(texts: ["lost 1", "lost 2"], .memory).map(\.id)
            #expect(try stream.texts() == ["a", "b", "c", "lost 1", "lost 2"])
            store.close(.abandon)
        }
        let store = try directory.open()
        let stream = try store.stream(tenant: "acme")
        #expect(stream.epoch == 2)
        #expect(stream.head == 3)
        let new = try stream.appendAndWait(texts: ["d", "e", "f"]).map(\.id)
        #expect(Set(new).isDisjoint(with: seen), "an offset that is used again has another id")
        for (index, id) in durable.enumerated() { #expect(stream.resolve(id) == .position(UInt64(index) + 1)) }
        for id in seen {
            #expect(stream.resolve(id) == .position(3))
        }
        #expect(try stream.texts(after: 3) == ["d", "e", "f"])
        for (index, id) in new.enumerated() { #expect(stream.resolve(id) == .position(UInt64(index) + 4)) }
        #expect(try stream.all().map(\.epoch) == [1, 1, 1, 2, 2, 2])
    }

    @Test("cursors of an epoch in which nothing was committed go on where the next epoch begins")
    func epochsWithoutCommit() throws {
        var seen: [String] = []
        for round in 1...4 {
            let store = try directory.open { $0.memoryCommitInterval = .seconds(60) }
            let stream = try store.stream(tenant: "acme")
            #expect(stream.epoch == UInt32(round))
            for id in seen { #expect(stream.resolve(id) == .position(0)) }
            seen += try stream.appendAndWait(texts: ["lost", "lost"], .memory).map(\.id)
            seen.append(stream.headID)
            store.close(.abandon)
        }
        let stream = try directory.open().stream(tenant: "acme")
        #expect(Set(seen).count == 8)
        for id in seen { #expect(stream.resolve(id) == .position(0)) }
    }

    // MARK: Failed commits

    @Test("a failed commit fails its appends, leaves no event, and uses its offsets up")
    func failedCommit() throws {
        let store = try directory.open { $0.recoveryInterval = .milliseconds(1) ... .milliseconds(1) }
        let stream = try store.stream(tenant: "acme")
        try stream.appendAndWait([event("a", idempotencyKey: "a")])
        try directory.sql { try $0.execute(sql: Self.refusal) }
        let error = try failure {
            try stream.appendAndWait([event("b", idempotencyKey: "b"), event("b2")])
        }
        #expect(error.code == .unavailable)
        #expect(stream.head == 3)
        #expect(stream.durableHead == 1)
        #expect(try stream.texts() == ["a"])
        try directory.sql { try $0.execute(sql: "DROP TRIGGER refusal") }
        eventually("the store recovers") { store.statistics.failure == nil }
        // The key was given back with the event.
        let again = try stream.appendAndWait([event("b", idempotencyKey: "b"), event("a", idempotencyKey: "a")])
        #expect(again.map(\.isDuplicate) == [false, true])
        #expect(again.map(\.offset) == [4, 1])
        #expect(try stream.all().map(\.offset) == [1, 4])
        #expect(store.statistics.withdrawnEvents == 2)
        #expect(store.statistics.failedCommits == 1)
        store.close()
        let reopened = try directory.open()
        #expect(try reopened.stream(tenant: "acme").all().map(\.offset) == [1, 4])
    }

    @Test("a reader goes on across the hole that a failed commit has left, before and after a reopening")
    func holes() throws {
        var cursor = ""
        do {
            let store = try directory.open { $0.recoveryInterval = .milliseconds(1) ... .milliseconds(1) }
            let stream = try store.stream(tenant: "acme")
            try stream.appendAndWait(texts: ["a"])
            cursor = stream.headID
            try directory.sql { try $0.execute(sql: Self.refusal) }
            _ = try failure { try stream.appendAndWait(texts: ["b", "c"]) }
            try directory.sql { try $0.execute(sql: "DROP TRIGGER refusal") }
            eventually("the store recovers") { store.statistics.failure == nil }
            store.close()
        }
        let store = try directory.open { $0.memoryCommitInterval = .seconds(60) }
        let stream = try store.stream(tenant: "acme")
        #expect(stream.epoch == 1)
        #expect(stream.head == 3)
        #expect(stream.resolve(cursor) == .position(1))
        #expect(try stream.read(after: 1, limit: 10, byteLimit: .max).isEmpty)
        // In memory only, behind a hole that memory does not cover.
        try stream.appendAndWait(texts: ["d"], .memory)
        #expect(try stream.read(after: 1, limit: 10, byteLimit: .max).map(\.offset) == [4])
        #expect(try stream.read(after: 2, limit: 10, byteLimit: .max).map(\.offset) == [4])
        #expect(try stream.texts() == ["a", "d"])
    }

    @Test("a failed commit takes memory events of every tenant out and counts them")
    func failedMemoryEvents() throws {
        let store = try directory.open {
            $0.memoryCommitInterval = .seconds(60)
            $0.recoveryInterval = .milliseconds(1) ... .milliseconds(1)
        }
        let stream = try store.stream(tenant: "acme")
        let other = try store.stream(tenant: "other")
        try directory.sql { try $0.execute(sql: Self.refusal) }
        try other.appendAndWait(texts: ["m1", "m2", "m3"], .memory)
        _ = try failure { try stream.appendAndWait(texts: ["w"], .written) }
        eventually("the other tenant's events are withdrawn") { store.statistics.withdrawnEvents == 4 }
        #expect(try other.texts() == [])
        #expect(store.statistics.lostMemoryEvents == 3)
        #expect(store.statistics.pendingEvents == 0)
        try directory.sql { try $0.execute(sql: "DROP TRIGGER refusal") }
        eventually("the store recovers") { store.statistics.failure == nil }
        try other.appendAndWait(texts: ["after"])
        #expect(try other.texts() == ["after"])
    }

    // MARK: Durability settings

    @Test("SQLite syncs every commit that holds an fsync append: synchronous reads back as 2")
    func synchronous() throws {
        let store = try directory.open()
        let stream = try store.stream(tenant: "acme")
        #expect(try store.core.database.pragma("synchronous") == 2)
        for (durability, level) in [(Durability.written, 1), (.fsync, 2), (.memory, 1), (.fsync, 2), (.fsync, 2)] {
            try stream.appendAndWait(texts: ["x"], durability)
            eventually("it is written") { stream.durableHead == stream.head }
            #expect(try store.core.database.pragma("synchronous") == level, "after \(durability)")
        }
        store.close()
        let again = try directory.open()
        #expect(try again.core.database.pragma("synchronous") == 2)
        #expect(try directory.sql { try String.fetchOne($0, sql: "PRAGMA journal_mode") } == "wal")
    }

    // MARK: Retention

    private func retaining(
        _ clock: ManualClock, _ change: (inout EmbeddedStoreConfiguration) -> Void
    ) throws -> EmbeddedEventStore {
        try directory.open {
            $0.now = { clock.now }
            $0.retentionStepEvents = 7
            change(&$0)
        }
    }

    /// Everything through `trimmed` is gone and told to be; everything behind is there.
    private func expectTrimmed(_ stream: any EventStream, through trimmed: UInt64, ids: [String]) throws {
        #expect(stream.earliest == trimmed + 1)
        for (index, id) in ids.enumerated() {
            let offset = UInt64(index) + 1
            let expected: CursorResolution = offset < trimmed ? .tooOld(earliest: trimmed + 1) : .position(offset)
            #expect(stream.resolve(id) == expected, "offset \(offset)")
        }
        let start = stream.id(epoch: stream.epoch, offset: 0)
        #expect(stream.resolve(start) == (trimmed > 0 ? .tooOld(earliest: trimmed + 1) : .position(0)))
        if trimmed > 0 {
            let error = try failure { _ = try stream.read(after: trimmed - 1, limit: 1, byteLimit: .max) }
            #expect(error.code == .tooOld)
            #expect(error.offset == trimmed + 1)
        }
        let left = try stream.all(after: trimmed).map(\.offset)
        #expect(left == Array((trimmed + 1)..<UInt64(ids.count) + 1))
    }

    @Test(
        "retention by age removes what is older than the limit and nothing that is exactly as old",
        arguments: [0, 1_000])
    func age(tailEvents: Int) throws {
        let clock = ManualClock()
        let store = try retaining(clock) {
            $0.retentionAge = .seconds(100)
            $0.tailEvents = tailEvents
        }
        let stream = try store.stream(tenant: "acme")
        var ids: [String] = []
        for index in 0..<30 {
            ids += try stream.appendAndWait([event("\(index)", accepted: clock.now)]).map(\.id)
            clock.advance(1)
        }
        // The first was accepted 30 s ago.
        store.core.writer.maintain()
        try expectTrimmed(stream, through: 0, ids: ids)
        clock.advance(70)
        store.core.writer.maintain()
        try expectTrimmed(stream, through: 0, ids: ids)
        clock.advance(1)
        store.core.writer.maintain()
        try expectTrimmed(stream, through: 1, ids: ids)
        clock.advance(19)
        store.core.writer.maintain()
        try expectTrimmed(stream, through: 20, ids: ids)
        #expect(store.statistics.retiredEvents == 20)
        store.close()
        do {
            let again = try retaining(clock) { $0.retentionAge = .seconds(100) }
            try expectTrimmed(try again.stream(tenant: "acme"), through: 20, ids: ids)
            again.close()
        }
        clock.advance(1_000)
        let empty = try retaining(clock) { $0.retentionAge = .seconds(100) }
        let emptied = try empty.stream(tenant: "acme")
        empty.core.writer.maintain()
        try expectTrimmed(emptied, through: 30, ids: ids)
        #expect(emptied.head == 30)
        ids += try emptied.appendAndWait([event("new", accepted: clock.now)]).map(\.id)
        try expectTrimmed(emptied, through: 30, ids: ids)
    }

    @Test("retention by count keeps the newest events of each tenant")
    func count() throws {
        let clock = ManualClock()
        let store = try retaining(clock) { $0.retentionEvents = 25 }
        let stream = try store.stream(tenant: "acme")
        let other = try store.stream(tenant: "other")
        var ids: [String] = []
        let otherIDs = try other.appendAndWait(texts: (1...25).map(String.init)).map(\.id)
        for total in [24, 25, 26, 100] {
            while ids.count < total {
                ids += try stream.appendAndWait([event("x", accepted: clock.now)], .written).map(\.id)
            }
            store.core.writer.maintain()
            try expectTrimmed(stream, through: UInt64(max(0, total - 25)), ids: ids)
        }
        try expectTrimmed(other, through: 0, ids: otherIDs)
        let stored = try directory.sql { try Int.fetchOne($0, sql: "SELECT count(*) FROM events") }
        #expect(stored == 50)
    }

    @Test("retention by bytes keeps what fits")
    func bytes() throws {
        let clock = ManualClock()
        let store = try retaining(clock) { $0.retentionBytes = 1_000 }
        let stream = try store.stream(tenant: "acme")
        var ids: [String] = []
        // 64 fixed, 6 of "orders", 30 of payload: 100 each.
        func fill(_ total: Int) throws {
            while ids.count < total {
                let next = event(String(repeating: "x", count: 30), accepted: clock.now)
                ids += try stream.appendAndWait([next], .written).map(\.id)
            }
            store.core.writer.maintain()
        }
        try fill(10)
        try expectTrimmed(stream, through: 0, ids: ids)
        try fill(11)
        try expectTrimmed(stream, through: 1, ids: ids)
        try fill(40)
        try expectTrimmed(stream, through: 30, ids: ids)
    }

    @Test("retention needs no call: it follows the appends and the clock by itself")
    func retentionRuns() throws {
        let clock = ManualClock()
        let store = try retaining(clock) {
            $0.retentionEvents = 25
            $0.retentionAge = .seconds(100)
        }
        let stream = try store.stream(tenant: "acme")
        for _ in 0..<100 { try stream.appendAndWait([event("x", accepted: clock.now)], .written) }
        eventually("the count is kept") { stream.earliest == 76 }
        clock.advance(101)
        eventually("the age is kept") { stream.earliest == 101 }
        eventually("the removed are counted") { store.statistics.retiredEvents == 100 }
    }

    @Test("cursors of an ended epoch whose events retention removed are too old")
    func retentionAcrossEpochs() throws {
        let clock = ManualClock()
        var old: [String] = []
        do {
            let store = try retaining(clock) { $0.memoryCommitInterval = .seconds(60) }
            let stream = try store.stream(tenant: "acme")
            old = try stream.appendAndWait((1...10).map { event("\($0)", accepted: clock.now) }).map(\.id)
            old += try stream.appendAndWait([event("lost", accepted: clock.now)], .memory).map(\.id)
            store.close(.abandon)
        }
        let store = try retaining(clock) { $0.retentionEvents = 5 }
        let stream = try store.stream(tenant: "acme")
        try stream.appendAndWait((1...3).map { event("new \($0)", accepted: clock.now) })
        store.core.writer.maintain()
        #expect(stream.earliest == 9)
        #expect(old.map { stream.resolve($0) }.prefix(7).allSatisfy { $0 == .tooOld(earliest: 9) })
        #expect(old.suffix(4).map { stream.resolve($0) } == [.position(8), .position(9), .position(10), .position(10)])
    }

    // MARK: What cannot be opened

    @Test("a directory that is open is refused in this process too, and free after closing")
    func openTwice() throws {
        let store = try directory.open()
        let error = try failure { _ = try directory.open() }
        #expect(error.code == .incompatible)
        #expect(error.cause.contains(directory.path))
        #expect(error.cause.contains("process \(getpid())"))
        store.close()
        _ = try directory.open()
    }

    @Test("a released store closes itself and lets go of its directory")
    func released() throws {
        for round in 1...3 {
            let stream = try directory.open().stream(tenant: "acme")
            // The store ended with the statement above.
            #expect(try failure { try stream.appendAndWait(texts: ["x"]) }.code == .closed)
            let store = try directory.open()
            #expect(try store.stream(tenant: "acme").appendAndWait(texts: ["x"]).map(\.offset) == [UInt64(round)])
            store.close()
        }
    }

    @Test("a file that is no database is refused by its path and left as it was")
    func notADatabase() throws {
        let text = Data(String(repeating: "These are my notes, not a database. ", count: 10).utf8)
        try text.write(to: URL(fileURLWithPath: directory.database))
        for _ in 0..<2 {
            let error = try failure { _ = try directory.open() }
            #expect(error.code == .incompatible)
            #expect(error.cause.contains(directory.database))
        }
        #expect(try Data(contentsOf: URL(fileURLWithPath: directory.database)) == text)
    }

    @Test("another program's database is refused by its path and left as it was", arguments: ["delete", "wal"])
    func foreignDatabase(journal: String) throws {
        try directory.sql {
            try $0.execute(sql: "PRAGMA journal_mode = \(journal)")
            try $0.execute(sql: "CREATE TABLE notes (text TEXT); INSERT INTO notes VALUES ('mine')")
        }
        let before = try Data(contentsOf: URL(fileURLWithPath: directory.database))
        let error = try failure { _ = try directory.open() }
        #expect(error.code == .incompatible)
        #expect(error.cause.contains(directory.database))
        #expect(try Data(contentsOf: URL(fileURLWithPath: directory.database)) == before)
        #expect(try FileManager.default.contentsOfDirectory(atPath: directory.path).sorted() == ["lock", "log.sqlite"])
    }

    @Test("an empty or cut file is refused as damaged, by its path", arguments: [0, 99, 100, 4_096, 8_191])
    func truncated(size: Int) throws {
        let store = try directory.open()
        try store.stream(tenant: "acme").appendAndWait(texts: ["a"])
        store.close()
        let handle = try FileHandle(forWritingTo: URL(fileURLWithPath: directory.database))
        try handle.truncate(atOffset: UInt64(size))
        try handle.close()
        let error = try failure { _ = try directory.open() }
        #expect(error.code == .corrupt)
        #expect(error.cause.contains(directory.database))
        #expect(error.cause.contains("\(size) bytes"))
    }

    @Test("a newer schema is refused with both versions")
    func newerSchema() throws {
        try directory.open().close()
        try directory.sql { try $0.execute(sql: "PRAGMA user_version = 4") }
        let error = try failure { _ = try directory.open() }
        #expect(error.code == .incompatible)
        #expect(error.cause.contains(directory.database))
        #expect(error.cause.contains("version 4") && error.cause.contains("reads 3"))
    }

    @Test("a missing or cut key is told by its path, not replaced", arguments: [nil, 0, 31, 33])
    func damagedKey(size: Int?) throws {
        try directory.open().close()
        let path = directory.path + "/cursor.key"
        if let size {
            try Data(count: size).write(to: URL(fileURLWithPath: path))
        } else {
            try FileManager.default.removeItem(atPath: path)
        }
        let error = try failure { _ = try directory.open() }
        #expect(error.code == .incompatible)
        #expect(error.cause.contains(path))
        #expect(FileManager.default.fileExists(atPath: path) == (size != nil))
    }

    @Test("a directory that cannot be made, or that is a file, is told by its path")
    func badDirectory() throws {
        let file = directory.path + "/file"
        try Data("x".utf8).write(to: URL(fileURLWithPath: file))
        for path in [file, file + "/below", "/proc/missing/below"] {
            let error = try failure {
                _ = try EmbeddedEventStore(configuration: EmbeddedStoreConfiguration(directory: path))
            }
            #expect(error.code == .unavailable)
            #expect(error.cause.contains(path))
        }
    }

    @Test(
        "a log whose totals make no sense is refused as damaged and does not end the process",
        arguments: [
            "UPDATE logs SET next_offset = -1", "UPDATE logs SET next_offset = 0", "UPDATE logs SET next_offset = 1",
            "UPDATE logs SET trimmed_through = -1", "UPDATE logs SET trimmed_through = 99",
            "UPDATE logs SET events = 'x'",
            "UPDATE logs SET next_offset = 9223372036854775807",
            "UPDATE epochs SET first_offset = 0", "UPDATE epochs SET first_offset = -5", "UPDATE epochs SET epoch = -1",
            "UPDATE epochs SET epoch = 4294967296", "UPDATE epochs SET epoch = 7",
            "UPDATE epochs SET first_offset = 1000",
            "UPDATE logs SET id = 0", "UPDATE logs SET id = 131072",
        ])
    func senselessTotals(damage: String) throws {
        do {
            let store = try directory.open()
            try store.stream(tenant: "acme").appendAndWait(texts: ["a", "b", "c"])
            store.close()
        }
        try directory.sql { try $0.execute(sql: damage) }
        let store = try directory.open()
        let error = try failure { _ = try store.stream(tenant: "acme") }
        #expect(error.code == .corrupt)
        #expect(error.cause.contains("acme"))
        // The others are well. A new one must not get the number, and thereby the events, of one whose row moved.
        if damage.contains(" id = ") { return }
        #expect(try store.stream(tenant: "other").appendAndWait(texts: ["x"]).count == 1)
    }

    @Test(
        "a store whose generation makes no sense is refused as damaged",
        arguments: [
            "UPDATE meta SET value = -7 WHERE name = 'generation'",
            "UPDATE meta SET value = 9223372036854775807, name = 'generation' WHERE name = 'generation'",
            "UPDATE meta SET value = 4294967295 WHERE name = 'generation'",
            "DELETE FROM meta WHERE name = 'generation'", "DELETE FROM meta WHERE name = 'store_id'",
        ])
    func senselessGeneration(damage: String) throws {
        try directory.open().close(.abandon)
        try directory.sql { try $0.execute(sql: damage) }
        let error = try failure { _ = try directory.open() }
        #expect(error.code == .corrupt)
        #expect(error.cause.contains(directory.database))
    }

    @Test(
        "a damaged event is told by its offset after the sound ones before it were read",
        arguments: [
            "payload = x'00'", "topic = 'other'", "key = ''", "type = NULL", "accepted = accepted + 1", "epoch = 2",
            "produced = 5", "checksum = checksum + 1", "traceparent = 'x'", "epoch = -1",
        ])
    func damagedEvent(change: String) throws {
        do {
            let store = try directory.open()
            let stream = try store.stream(tenant: "acme")
            try stream.appendAndWait(
                (1...5).map {
                    NewEvent(
                        topic: "orders", type: "t", payload: Array("\($0)".utf8), acceptedUnixNano: WallClock.unixNano()
                    )
                })
            store.close()
        }
        try directory.sql { try $0.execute(sql: "UPDATE events SET \(change) WHERE payload = CAST('3' AS BLOB)") }
        let stream = try { () -> (EmbeddedEventStore, any EventStream) in
            let store = try directory.open()
            return (store, try store.stream(tenant: "acme"))
        }()
        #expect(try stream.1.read(after: 0, limit: 10, byteLimit: .max).map(\.offset) == [1, 2])
        let error = try failure { _ = try stream.1.read(after: 2, limit: 10, byteLimit: .max) }
        #expect(error.code == .corrupt)
        #expect(error.offset == 3)
        #expect(try stream.1.read(after: 3, limit: 10, byteLimit: .max).map(\.offset) == [4, 5])
        stream.0.close()
    }

    @Test("a file whose pages were overwritten gives an error, not a crash, wherever the damage is")
    func damagedPages() throws {
        do {
            let store = try directory.open()
            let stream = try store.stream(tenant: "acme")
            try stream.appendAndWait((1...400).map { event("\($0)", idempotencyKey: "\($0)") })
            store.close()
        }
        let sound = try Data(contentsOf: URL(fileURLWithPath: directory.database))
        var generator = SeededGenerator(5)
        var outcomes: [String: Int] = [:]
        for round in 0..<60 {
            var damaged = sound
            let start = round < 20 ? round * sound.count / 20 : Int.random(in: 0..<sound.count - 64, using: &generator)
            for index in max(start, 100)..<min(max(start, 100) + 64, sound.count) {
                damaged[index] = UInt8.random(in: 0...255, using: &generator)
            }
            try damaged.write(to: URL(fileURLWithPath: directory.database))
            for suffix in ["-wal", "-shm"] { try? FileManager.default.removeItem(atPath: directory.database + suffix) }
            do {
                let store = try directory.open()
                defer { store.close(.abandon) }
                let events = try store.stream(tenant: "acme").all()
                // What is given out is what was put in, in order.
                for event in events { #expect(event.text == "\(event.offset)") }
                outcomes["read \(events.count == 400 ? "all" : "a part")", default: 0] += 1
            } catch let error as StreamError {
                #expect(!error.cause.isEmpty)
                outcomes[error.code.rawValue, default: 0] += 1
            }
        }
        #expect(outcomes["corrupt", default: 0] > 0, "\(outcomes)")
    }

    // MARK: Space

    @Test("a log that may not grow refuses appends for lack of space, keeps what it has, and goes on with space")
    func noSpace() throws {
        let store = try directory.open()
        let stream = try store.stream(tenant: "acme")
        try stream.appendAndWait(texts: ["a"])
        // SQLite's own bound stands for the disk's: the same result code.
        let pages = try store.core.database.pragma("page_count")
        _ = try store.core.database.pragma("max_page_count = \(pages)")
        let large = NewEvent(
            topic: "t", payload: [UInt8](repeating: 1, count: 200_000), acceptedUnixNano: WallClock.unixNano())
        let error = try failure { try stream.appendAndWait([large]) }
        #expect(error.code == .storageFull)
        #expect(try stream.texts() == ["a"])
        #expect(try failure { try stream.appendAndWait(texts: ["b"]) }.code == .storageFull)
        _ = try store.core.database.pragma("max_page_count = 1000000000")
        eventually("the store recovers") { store.statistics.failure == nil }
        try stream.appendAndWait([large])
        #expect(try stream.all().map(\.offset) == [1, 3])
    }

    @Test("each setting that makes no sense is refused by its name")
    func settings() throws {
        let changes: [(String, (inout EmbeddedStoreConfiguration) -> Void)] = [
            ("retentionEvents", { $0.retentionEvents = 0 }), ("retentionBytes", { $0.retentionBytes = 0 }),
            ("retentionStepEvents", { $0.retentionStepEvents = 0 }),
            ("retentionStepEvents", { $0.retentionStepEvents = 1_000_001 }),
            ("tailEvents", { $0.tailEvents = -1 }), ("tailBytes", { $0.tailBytes = -1 }),
            ("pendingEvents", { $0.pendingEvents = 0 }), ("pendingBytes", { $0.pendingBytes = 0 }),
            ("maximumEventBytes", { $0.maximumEventBytes = 63 }),
            ("maximumEventBytes", { $0.maximumEventBytes = 1 << 29 + 1 }),
            ("maximumCommitEvents", { $0.maximumCommitEvents = 0 }),
            ("maximumCommitBytes", { $0.maximumCommitBytes = 0 }), ("idempotencyKeys", { $0.idempotencyKeys = -1 }),
            ("maximumTenants", { $0.maximumTenants = 0 }), ("maximumTenants", { $0.maximumTenants = 131_072 }),
            ("readers", { $0.readers = 0 }), ("readers", { $0.readers = 65 }),
            ("retentionAge", { $0.retentionAge = .seconds(-1) }),
            ("commitInterval", { $0.commitInterval = .seconds(-1) }),
            ("memoryCommitInterval", { $0.memoryCommitInterval = .seconds(-1) }),
            ("idempotencyWindow", { $0.idempotencyWindow = .seconds(-1) }),
            ("recoveryInterval", { $0.recoveryInterval = .seconds(-1) ... .seconds(1) }),
        ]
        for (name, change) in changes {
            let error = try failure { _ = try directory.open(change) }
            #expect(error.code == .invalid)
            #expect(error.cause.hasPrefix(name + " "), "\(error.cause)")
        }
        // Nothing was touched.
        #expect(try FileManager.default.contentsOfDirectory(atPath: directory.path) == [])
    }

    @Test("one tenant more than the limit is refused, known ones are not")
    func tenantLimit() throws {
        for _ in 0..<2 {
            let store = try directory.open { $0.maximumTenants = 2 }
            for tenant in ["a", "b", "a"] { _ = try store.stream(tenant: tenant) }
            let error = try failure { _ = try store.stream(tenant: "c") }
            #expect(error.code == .tooLarge)
            #expect(error.cause.contains("maximumTenants"))
            store.close()
        }
    }
}
