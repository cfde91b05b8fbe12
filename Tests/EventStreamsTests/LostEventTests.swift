import Foundation
import GRDB
import TestSupport
import Testing

@testable import EventStreams

@Suite("An event that is lost from the file is told, never passed over")
struct LostEventTests {
    let directory = ScratchDirectory()

    private func append(_ stream: any EventStream, _ count: Int) throws {
        try stream.appendAndWait(
            (0..<count).map {
                NewEvent(
                    topic: "t.\($0 % 2)", key: "k\($0)", payload: [UInt8($0 & 255)],
                    acceptedUnixNano: WallClock.unixNano())
            }, .written)
    }

    /// An append of `count` events that fails: a hole.
    private func fail(
        in directory: ScratchDirectory, _ store: EmbeddedEventStore, _ stream: any EventStream, _ count: Int
    ) throws {
        try directory.sql {
            try $0.execute(
                sql: "CREATE TRIGGER refusal BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'no'); END")
        }
        #expect(throws: StreamError.self) {
            try stream.appendAndWait(texts: (0..<count).map { "failed \($0)" })
        }
        try directory.sql { try $0.execute(sql: "DROP TRIGGER refusal") }
        eventually("the store recovers") { store.statistics.failure == nil }
    }

    /// What a reader gets from the start on: offsets, and where it was told of a loss.
    private func replay(_ read: (UInt64) throws -> (offsets: [UInt64], through: UInt64)) throws -> [String] {
        var told: [String] = []
        var place: UInt64 = 0
        while true {
            do {
                let found = try read(place)
                told += found.offsets.map { "\($0)" }
                if found.through == place { return told }
                place = found.through
            } catch let error as StreamError {
                try #require(error.code == .corrupt, "\(error)")
                let offset = try #require(error.offset)
                try #require(offset > place)
                told.append("lost through \(offset)")
                place = offset
            }
        }
    }

    @Test(
        "a plain replay, a filtered one and a dump stop before it and go on behind",
        arguments: [
            ("= 1", "1: lost through 1"), ("= 6", "6: lost through 6"), ("BETWEEN 5 AND 7", "5: lost through 7"),
            // The hole of failed appends is 13 and 14.
            ("= 12", "12: lost through 12"), ("BETWEEN 11 AND 15", "11: lost through 12; 15: lost through 15"),
            ("= 20", "20: lost through 20"), ("BETWEEN 18 AND 20", "18: lost through 20"), ("= 14", ""),
        ], [false, true])
    func lost(damage: (rows: String, expected: String), isIndexed: Bool) throws {
        let expected = damage.expected
        do {
            let store = try directory.open()
            let stream = try store.stream(tenant: "acme")
            try append(stream, 12)
            try fail(in: directory, store, stream, 2)
            try append(stream, 6)
            if isIndexed { try append(stream, 5_000) }
            store.core.writer.maintain()
            store.close(isIndexed ? .abandon : .drain)
        }
        try directory.sql {
            try $0.execute(sql: "DELETE FROM events WHERE position & 70368744177663 \(damage.rows)")
        }
        let store = try directory.open { $0.tailEvents = 0 }
        defer { store.close() }
        let stream = try store.stream(tenant: "acme")

        var due: [String] = []
        let losses = Dictionary(
            uniqueKeysWithValues: expected.split(separator: "; ").map {
                let parts = $0.split(separator: ": ")
                return (UInt64(parts[0]) ?? 0, String(parts[1]))
            })
        var offset: UInt64 = 1
        while offset <= stream.head {
            if let loss = losses[offset] {
                due.append(loss)
                offset = (loss.split(separator: " ").last.flatMap { UInt64($0) } ?? 0) + 1
                continue
            }
            if offset != 13, offset != 14 { due.append("\(offset)") }
            offset += 1
        }
        for limit in isIndexed ? [700] : [3, 1_000] {
            let plain = try replay {
                let events = try stream.read(after: $0, limit: limit, byteLimit: 1 << 20)
                return (events.map(\.offset), events.last?.offset ?? $0)
            }
            #expect(plain == due)
            let log = try LogInspection(directory: directory.path)
            let tenant = try #require(log.tenants.first)
            let dumped = try replay {
                let events = try log.read(tenant, after: $0, limit: limit)
                return (events.map(\.offset), events.last?.offset ?? $0)
            }
            // A dump ends with the last event that is there.
            #expect(dumped == due.filter { $0 != "lost through 20" } || dumped == due)
            let all = try TopicFilter(["t.*"])
            let filtered = try replay {
                let found = try stream.read(after: $0, limit: limit, byteLimit: 1 << 20, filter: all)
                return (found.events.map(\.offset), found.through)
            }
            #expect(filtered == due)
        }
        let found = try LogInspection(directory: directory.path).verify()
        #expect((found.problemCount > 0) == !expected.isEmpty, "\(found.problems)")
        for offset in losses.keys {
            #expect(found.problems.contains { $0.offset == offset && $0.text.hasPrefix("is missing") })
        }
        #expect(found.tenants.first?.gaps == 2)
    }

    @Test("what a failed commit has left is no loss: not at once, not after a restart, not at the end of the log")
    func holes() throws {
        for (ending, isAtEnd) in [(LogWriter.Ending.drain, true), (.drain, false), (.abandon, false)] {
            let directory = ScratchDirectory()
            var store = try directory.open { $0.tailEvents = 0 }
            var stream = try store.stream(tenant: "acme")
            try append(stream, 3)
            try fail(in: directory, store, stream, 2)
            try fail(in: directory, store, stream, 1)
            #expect(try stream.all().map(\.offset) == [1, 2, 3])
            if !isAtEnd {
                try append(stream, 1)
                #expect(try stream.all().map(\.offset) == [1, 2, 3, 7])
            }
            store.close(ending)
            store = try directory.open { $0.tailEvents = 0 }
            stream = try store.stream(tenant: "acme")
            try append(stream, 1)
            let offsets: [UInt64] = isAtEnd ? [1, 2, 3, 7] : [1, 2, 3, 7, 8]
            #expect(try stream.all().map(\.offset) == offsets)
            #expect(try LogInspection(directory: directory.path).verify().problems == [])
            // Forgotten with the events around them.
            store.close()
            store = try directory.open { $0.retentionEvents = 1 }
            _ = try store.stream(tenant: "acme")
            store.core.writer.maintain()
            let left = try directory.sql { try Int.fetchOne($0, sql: "SELECT count(*) FROM holes") }
            #expect(left == (isAtEnd ? 1 : 0), "the one before event 7 is still of use")
            store.close()
        }
    }

    @Test("latest values go on without the lost ones, which are told once", arguments: [0, 5_000])
    func latest(indexed: Int) throws {
        do {
            let store = try directory.open()
            let stream = try store.stream(tenant: "acme")
            try append(stream, 20)
            if indexed > 0 { try append(stream, indexed) }
            store.core.writer.maintain()
            store.close(.abandon)
        }
        // The second append has all keys of the first.
        let last = indexed == 0 ? 20 : indexed + 20
        try directory.sql {
            try $0.execute(
                sql: "DELETE FROM events WHERE position & 70368744177663 IN (?, ?)", arguments: [last - 3, last - 2])
        }
        let store = try directory.open { $0.tailEvents = 0 }
        defer { store.close() }
        let stream = try store.stream(tenant: "acme")
        var values = try stream.latest(upTo: stream.head, filter: .all)
        var offsets: Set<UInt64> = []
        var told: [UInt64?] = []
        var isAtEnd = false
        while !isAtEnd, told.count < 5 {
            do {
                let page = try values.next(limit: 500, byteLimit: 1 << 20)
                offsets.formUnion(page.map(\.offset))
                isAtEnd = page.isEmpty
            } catch {
                told.append(error.code == .corrupt ? error.offset : nil)
            }
        }
        #expect(told == [UInt64(last - 2)])
        #expect(offsets.count == (indexed == 0 ? 20 : indexed) - 2)
        #expect(!offsets.contains(UInt64(last - 2)) && offsets.contains(UInt64(last)))
    }

    @Test("gaps in a log of an earlier version, which did not write down its holes, are none of its losses")
    func olderVersion() throws {
        do {
            let store = try directory.open()
            try append(store.stream(tenant: "acme"), 9)
            store.close()
        }
        // What version 2 had, and an old hole.
        try directory.sql {
            try $0.execute(
                sql: """
                    DROP TABLE holes; ALTER TABLE logs DROP COLUMN holes_since; PRAGMA user_version = 2;
                    DELETE FROM events WHERE position & 70368744177663 = 5;
                    UPDATE logs SET events = 8;
                    """)
        }
        let store = try directory.open { $0.tailEvents = 0 }
        defer { store.close() }
        let stream = try store.stream(tenant: "acme")
        #expect(try stream.all().map(\.offset) == [1, 2, 3, 4, 6, 7, 8, 9])
        // From here on they are known.
        try append(stream, 3)
        try directory.sql { try $0.execute(sql: "DELETE FROM events WHERE position & 70368744177663 = 11") }
        #expect(try stream.read(after: 4, limit: 100, byteLimit: 1 << 20).map(\.offset) == [6, 7, 8, 9, 10])
        #expect(try failure { _ = try stream.read(after: 10, limit: 9, byteLimit: 1 << 20) }.offset == 11)
    }

    @Test(
        "lost offsets are those that no hole covers",
        arguments: [
            (1...1, nil), (3...4, nil), (2...5, 2...2), (3...5, 5...5), (5...6, 5...6), (5...9, 5...7), (8...9, 9...9),
            (8...8, nil), (9...20, 9...20),
        ] as [(ClosedRange<UInt64>, ClosedRange<UInt64>?)])
    func arithmetic(gap: ClosedRange<UInt64>, expected: ClosedRange<UInt64>?) {
        var holes = LogHoles(knownFrom: 2)
        holes.add(3...3)
        holes.add(4...4)
        holes.add(8...8)
        #expect(holes.ranges == [3...4, 8...8])
        #expect(holes.lost(in: gap) == expected)
        holes.trim(through: 3)
        #expect(holes.ranges == [3...4, 8...8])
        holes.trim(through: 4)
        #expect(holes.ranges == [8...8])
    }
}
