import Foundation
import GRDB
import TestSupport
import Testing

@testable import EventStreams

@Suite("Operators check and compact the log")
struct OperatorTests {
    let directory = ScratchDirectory()

    private static let ofOffset = "position & 70368744177663"

    /// 5,000 events of acme in three epochs with a hole of two, the first 4,095 offsets indexed, and one of other.
    private func makeLog() throws {
        for round in 0..<3 {
            let store = try directory.open()
            let stream = try store.stream(tenant: "acme")
            let count = round == 0 ? 4_998 : 1
            for start in stride(from: 0, to: count, by: 833) {
                let events = (start..<min(start + 833, count)).map {
                    NewEvent(
                        topic: "t.\($0 % 3)", type: $0 % 2 == 0 ? "even" : nil, key: "k\($0 % 100)",
                        payload: Array("\(round)/\($0)".utf8), acceptedUnixNano: WallClock.unixNano())
                }
                try stream.appendAndWait(events, .written)
            }
            if round == 1 {
                // Two offsets are used up by a commit that fails.
                try directory.sql {
                    try $0.execute(
                        sql: "CREATE TRIGGER refusal BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'no'); END")
                }
                #expect(throws: StreamError.self) { try stream.appendAndWait(texts: ["x", "y"]) }
                try directory.sql { try $0.execute(sql: "DROP TRIGGER refusal") }
                eventually("the store recovers") { store.statistics.failure == nil }
                try stream.appendAndWait(texts: ["after the hole"])
            }
            if round == 0 { try store.stream(tenant: "other").appendAndWait(texts: ["x"]) }
            store.core.writer.maintain()
            store.close(round == 2 ? .drain : .abandon)
        }
    }

    @Test("a sound log is found sound, with its gaps counted, and is not changed by the look")
    func sound() throws {
        try makeLog()
        let before = try Data(contentsOf: URL(fileURLWithPath: directory.database))
        let found = try LogInspection(directory: directory.path).verify()
        #expect(found.problems == [] && found.problemCount == 0)
        #expect(found.tenants.map(\.name) == ["acme", "other"])
        let acme = try #require(found.tenants.first)
        #expect(acme.events == 5_001 && acme.offsets == 1...5_003 && acme.gaps == 2 && acme.epochs == 3)
        #expect(found.tenants.last?.events == 1)
        #expect(try Data(contentsOf: URL(fileURLWithPath: directory.database)) == before)
        // Another process may hold it, and its events are those that its server gives.
        let store = try directory.open()
        let stream = try store.stream(tenant: "acme")
        try stream.appendAndWait(texts: ["new"])
        let log = try LogInspection(directory: directory.path)
        let tenant = try #require(log.tenants.first)
        let events = try log.read(tenant, after: 4_990, limit: 100)
        #expect(
            events.map(\.offset) == [
                4_991, 4_992, 4_993, 4_994, 4_995, 4_996, 4_997, 4_998, 4_999, 5_002, 5_003, 5_004,
            ])
        let ids = log.ids(of: tenant)
        for event in events {
            #expect(ids.id(of: event) == stream.id(of: event))
            #expect(ids.offset(of: stream.id(of: event)) == event.offset)
        }
        #expect(ids.offset(of: try store.stream(tenant: "other").headID) == nil)
        #expect(try log.verify().problems == [])
        store.close()
    }

    @Test(
        "what is wrong is told with its place",
        arguments: [
            (
                "UPDATE events SET payload = x'00' WHERE \(ofOffset) = 77",
                "acme: offset 77: does not match its checksum"
            ),
            ("UPDATE events SET topic = 'x' WHERE \(ofOffset) = 5000", nil),
            ("UPDATE events SET position = position + 1 WHERE \(ofOffset) = 4999", "acme: offset 5000: does not match"),
            ("DELETE FROM events WHERE \(ofOffset) = 77", "acme: offset 77: is missing"),
            ("DELETE FROM events WHERE \(ofOffset) = 4998", "acme: 5000 events are there where 5001 should be"),
            (
                "UPDATE logs SET bytes = bytes + 1 WHERE tenant = 'other'",
                "other: events of 71 bytes where 72 should be"
            ),
            ("UPDATE epochs SET first_offset = 4990 WHERE epoch = 2", "acme: offset 4990: is of epoch 1, due is 2"),
            (
                "UPDATE logs SET next_offset = 4000 WHERE tenant = 'acme'",
                "acme: offset 5003: lies behind the log's end at"
            ),
            ("UPDATE logs SET trimmed_through = 9 WHERE tenant = 'acme'", "acme: 9 events that retention removed are"),
            (
                "UPDATE blocks SET postings = x'00'",
                "acme: offset 0: the index of the block that begins here is damaged"
            ),
            ("DELETE FROM blocks", "acme: offset 0: the index of the block that begins here is damaged"),
            ("UPDATE latest SET position = position + 1 WHERE key = 'k7'", "the latest value of another key"),
            ("UPDATE latest SET log = 9 WHERE key = 'k7'", "rows of latest belong to no tenant"),
            ("DELETE FROM logs WHERE tenant = 'other'", "1 rows of events belong to no tenant"),
        ])
    func problems(damage: String, expected: String?) throws {
        try makeLog()
        let isChanged = try directory.sql { db in
            try db.execute(sql: damage)
            return db.changesCount > 0
        }
        let found = try LogInspection(directory: directory.path).verify()
        guard let expected else {
            // Offset 5,000 is of the hole.
            #expect(!isChanged && found.problems == [])
            return
        }
        #expect(isChanged && found.problems.contains { $0.description.contains(expected) }, "\(found.problems)")
        #expect(found.problemCount >= found.problems.count)
        #expect(found.problemCount >= found.tenants.reduce(0) { $0 + $1.problems })
    }

    @Test("a hundred problems are told, all are counted")
    func manyProblems() throws {
        try makeLog()
        try directory.sql { try $0.execute(sql: "UPDATE events SET payload = x'00' WHERE \(Self.ofOffset) < 151") }
        let found = try LogInspection(directory: directory.path).verify()
        #expect(found.problems.count == 100 && found.problemCount == 151)
        #expect(found.problems.first?.offset == 1)
    }

    @Test("pages that were overwritten give problems or an error, not a crash")
    func damagedPages() throws {
        try makeLog()
        let sound = try Data(contentsOf: URL(fileURLWithPath: directory.database))
        var generator = SeededGenerator(3)
        var told = 0
        for _ in 0..<30 {
            var damaged = sound
            let start = Int.random(in: 4_096..<sound.count - 4_096, using: &generator)
            for index in start..<start + 4_096 { damaged[index] = UInt8.random(in: 0...255, using: &generator) }
            try damaged.write(to: URL(fileURLWithPath: directory.database))
            do {
                told += try LogInspection(directory: directory.path).verify().problemCount > 0 ? 1 : 0
            } catch {
                #expect(!error.cause.isEmpty)
                told += 1
            }
        }
        #expect(told > 20, "most of the file is in use")
    }

    @Test("a directory without a log is refused by its name")
    func noLog() throws {
        let error = try failure { _ = try LogInspection(directory: directory.path) }
        #expect(error.code == .unavailable && error.cause.contains(directory.path))
        try Data("x".utf8).write(to: URL(fileURLWithPath: directory.database))
        #expect(try failure { _ = try LogInspection(directory: directory.path) }.code == .corrupt)
    }

    // MARK: Compaction

    @Test("a compaction removes what retention does not keep, of every tenant, and makes the file smaller")
    func compaction() throws {
        let clock = ManualClock()
        func open() throws -> EmbeddedEventStore {
            try directory.open {
                $0.retentionAge = .seconds(100)
                $0.now = { clock.now }
            }
        }
        func old() -> NewEvent {
            NewEvent(topic: "t", payload: [UInt8](repeating: 1, count: 4_000), acceptedUnixNano: clock.now)
        }
        var store = try open()
        for tenant in ["acme", "other"] {
            try store.stream(tenant: tenant).appendAndWait((0..<300).map { _ in old() }, .written)
        }
        clock.advance(101)
        let kept = try store.stream(tenant: "acme").appendAndWait([old()]).map(\.id)
        store.close()
        store = try open()
        let done = try store.compact()
        #expect(done.removedEvents <= 600, "the writer's own pass may have been faster")
        #expect(done.bytesBefore > 2_400_000 && done.bytesAfter < 200_000, "\(done)")
        let stream = try store.stream(tenant: "acme")
        #expect(try stream.all(after: 300).map { stream.id(of: $0) } == kept)
        #expect(try store.stream(tenant: "other").earliest == 301)
        store.close()
        #expect(try LogInspection(directory: directory.path).verify().problems == [])
    }

    @Test("events of a tenant that nobody has asked for since the start grow old too")
    func agedLogs() throws {
        let clock = ManualClock()
        do {
            let store = try directory.open { $0.now = { clock.now } }
            try store.stream(tenant: "acme").appendAndWait([event("x", accepted: clock.now)])
            store.close()
        }
        clock.advance(100)
        let store = try directory.open {
            $0.retentionAge = .seconds(99)
            $0.now = { clock.now }
        }
        try eventually("the old event is removed") {
            try directory.sql { try Int.fetchOne($0, sql: "SELECT count(*) FROM events") } == 0
        }
        store.close()
    }
}
