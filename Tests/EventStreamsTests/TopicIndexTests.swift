import Foundation
import GRDB
import TestSupport
import Testing

@testable import EventStreams

@Suite("A reader with a filter finds what a reader without one would find")
struct TopicIndexTests {
    let directory = ScratchDirectory()

    private static let filters: [([String], Set<String>)] = [
        (["orders.eu"], []), (["orders.*"], []), (["orders.>"], []), (["*.eu", "alerts"], []), (["nothing"], []),
        (["rare.>"], []), ([">"], ["paid"]), (["orders.>"], ["message", "created"]), ([">"], []),
        (["alerts"], ["none"]),
        (["größe.*"], []),
    ]

    /// Many topics and types of unlike frequency, and keys.
    private func events(_ count: Int, seed: UInt64) -> [NewEvent] {
        var generator = SeededGenerator(seed)
        let topics = ["orders.eu", "orders.us", "orders.eu.berlin", "alerts", "orders", "größe.ä"]
        return (0..<count).map { serial in
            let topic =
                serial % 5_003 == 77
                ? "rare.\(serial)" : topics[min(Int.random(in: 0...40, using: &generator), topics.count - 1)]
            return NewEvent(
                topic: topic, type: [nil, "", "created", "paid"][Int.random(in: 0...3, using: &generator)],
                key: Int.random(in: 0...2, using: &generator) == 0
                    ? nil : "k\(Int.random(in: 0...900, using: &generator))",
                payload: Array("\(serial)".utf8), acceptedUnixNano: WallClock.unixNano())
        }
    }

    private func fill(_ stream: any EventStream, _ events: [NewEvent]) throws {
        for start in stride(from: 0, to: events.count, by: 997) {
            try stream.appendAndWait(Array(events[start..<min(start + 997, events.count)]), .written)
        }
    }

    private func expectSame(_ stream: any EventStream, _ comment: Comment) throws {
        let all = try stream.all(after: stream.earliest - 1)
        for (index, (patterns, types)) in Self.filters.enumerated() {
            let filter = try TopicFilter(patterns, types: types)
            let start = max([0, 1, 4_095, 4_096, 6_001][index % 5], stream.earliest - 1)
            let expected = all.filter { $0.offset > start && filter.matches($0) }.map(\.offset)
            let found = try stream.all(filter, after: start, limit: index % 2 == 0 ? 97 : 1_000).map(\.offset)
            #expect(found == expected, "\(patterns) \(types) after \(start), \(comment)")
        }
    }

    @Test("whether from memory, by the index, behind it, or after a reopening", arguments: [0, 500, 100_000])
    func same(tailEvents: Int) throws {
        func open() throws -> EmbeddedEventStore { try directory.open { $0.tailEvents = tailEvents } }
        var store = try open()
        // Another tenant's events lie beside these.
        try fill(store.stream(tenant: "other"), events(5_000, seed: 1))
        try fill(store.stream(tenant: "acme"), events(10_000, seed: 2))
        try expectSame(store.stream(tenant: "acme"), "at once")
        store.core.writer.maintain()
        #expect(try indexedThrough("acme") == 8_191)
        #expect(try indexedThrough("other") == 4_095)
        try expectSame(store.stream(tenant: "acme"), "indexed to the last whole block")
        for isClean in [true, false] {
            store.close(isClean ? .drain : .abandon)
            store = try open()
            try expectSame(store.stream(tenant: "acme"), "after an end that was \(isClean ? "" : "un")clean")
            try fill(store.stream(tenant: "acme"), events(3_000, seed: 3))
        }
        store.core.writer.maintain()
        #expect(try indexedThrough("acme") == 12_287)
        try expectSame(store.stream(tenant: "acme"), "with more events")
        store.close()
    }

    private func indexedThrough(_ tenant: String) throws -> Int? {
        try directory.sql {
            try Int.fetchOne($0, sql: "SELECT indexed_through FROM logs WHERE tenant = ?", arguments: [tenant])
        }
    }

    @Test("while retention removes events, and what it removed is told")
    func retention() throws {
        let store = try directory.open {
            $0.tailEvents = 0
            $0.retentionEvents = 6_000
        }
        let stream = try store.stream(tenant: "acme")
        try fill(stream, events(14_000, seed: 4))
        store.core.writer.maintain()
        #expect(stream.earliest == 8_001)
        try expectSame(stream, "trimmed")
        let error = try failure {
            _ = try stream.read(after: 7_999, limit: 1, byteLimit: 1, filter: TopicFilter(["alerts"]))
        }
        #expect(error.code == .tooOld && error.offset == 8_001)
        let positions = try directory.sql { try Int.fetchAll($0, sql: "SELECT position & 70368744177663 FROM blocks") }
        #expect(positions.sorted() == [4_096, 8_192], "blocks without any event are removed")
        let oldest = try directory.sql {
            try Int.fetchOne($0, sql: "SELECT min(position & 70368744177663) FROM latest")
        }
        #expect(try #require(oldest) > 8_000)
        store.close()
    }

    @Test("in a log of an older version, whose index is made in the background")
    func olderVersion() throws {
        do {
            let store = try directory.open()
            try fill(store.stream(tenant: "acme"), events(9_000, seed: 5))
            store.close()
        }
        // What version 1 had.
        try directory.sql {
            try $0.execute(
                sql: """
                    DROP TABLE blocks; DROP TABLE latest; ALTER TABLE logs DROP COLUMN indexed_through;
                    DROP TABLE holes; ALTER TABLE logs DROP COLUMN holes_since;
                    PRAGMA user_version = 1;
                    """)
        }
        let store = try directory.open()
        let stream = try store.stream(tenant: "acme")
        try expectSame(stream, "at once")
        eventually("the index is made") { (try? indexedThrough("acme")) == 8_191 }
        try expectSame(stream, "with the index")
        store.close()
    }

    @Test("a read that finds nothing goes on in bounded steps")
    func boundedSteps() throws {
        let store = try directory.open { $0.tailEvents = 0 }
        let stream = try store.stream(tenant: "acme")
        try fill(stream, events(21_000, seed: 6))
        store.core.writer.maintain()
        let nothing = try TopicFilter(["nothing.*"])
        // By the index one call passes all whole blocks, for none is looked into.
        #expect(try stream.read(after: 0, limit: 10, byteLimit: .max, filter: nothing).through >= 20_479)
        try directory.sql { try $0.execute(sql: "DELETE FROM blocks") }
        var place: UInt64 = 0
        while true {
            let read = try stream.read(after: place, limit: 10, byteLimit: .max, filter: nothing)
            #expect(read.events.isEmpty && read.through <= place + 16_384)
            if read.through == place { break }
            place = read.through
        }
        #expect(place == 21_000)
        store.close()
    }

    @Test("a read stops at its limits of events and bytes, and gives at least one event")
    func limits() throws {
        let store = try directory.open { $0.tailEvents = 0 }
        let stream = try store.stream(tenant: "acme")
        try fill(stream, events(9_000, seed: 7))
        store.core.writer.maintain()
        for filter in [try TopicFilter(["orders.eu"]), try TopicFilter(["größe.*"])] {
            for start: UInt64 in [0, 8_500] {
                for limit in [1, 3] {
                    let read = try stream.read(after: start, limit: limit, byteLimit: .max, filter: filter)
                    #expect(read.events.count == limit && read.through == read.events.last?.offset)
                }
                let two = try stream.read(after: start, limit: 2, byteLimit: .max, filter: filter).events
                let bytes = two.reduce(0) { $0 + $1.byteCount }
                for (limit, count) in [(bytes, 2), (bytes - 1, 1), (0, 1)] {
                    let read = try stream.read(after: start, limit: 2, byteLimit: limit, filter: filter)
                    #expect(read.events.map(\.offset) == two.prefix(count).map(\.offset), "\(limit) of \(bytes)")
                }
                #expect(try stream.read(after: start, limit: 0, byteLimit: 1, filter: filter).events.isEmpty)
            }
        }
        store.close()
    }

    // MARK: Damage

    @Test("a damaged event is told to every reader that cannot know that it is none of its own")
    func damagedEvents() throws {
        let store = try directory.open { $0.tailEvents = 0 }
        let stream = try store.stream(tenant: "acme")
        try fill(stream, events(9_000, seed: 8))
        store.core.writer.maintain()
        let alerts = try TopicFilter(["alerts"])
        let offsets = try stream.all(alerts).map(\.offset)
        let indexed = offsets[5], removed = offsets[9], recent = try #require(offsets.last)
        #expect(removed < 8_192 && recent > 8_191)
        try directory.sql { db in
            // The topic itself, so that by the event alone nobody could tell.
            try db.execute(
                sql: "UPDATE events SET topic = 'orders' WHERE position & 70368744177663 IN (?, ?)",
                arguments: [Int64(indexed), Int64(recent)])
            try db.execute(
                sql: "DELETE FROM events WHERE position & 70368744177663 = ?", arguments: [Int64(removed)])
        }
        var found: [UInt64] = []
        var damaged: [UInt64] = []
        var place: UInt64 = 0
        while true {
            do {
                let read = try stream.read(after: place, limit: 100, byteLimit: .max, filter: alerts)
                found += read.events.map(\.offset)
                if read.through == place { break }
                place = read.through
            } catch {
                #expect(error.code == .corrupt)
                place = try #require(error.offset)
                damaged.append(place)
            }
        }
        #expect(damaged == [indexed, removed, recent])
        #expect(found == offsets.filter { !damaged.contains($0) })
        // One that is damaged before the index is made is told as well, though its topic is not known.
        store.close()
    }

    @Test("an event that was damaged before the index was made is told to every reader")
    func damagedBeforeIndex() throws {
        do {
            let store = try directory.open()
            try fill(store.stream(tenant: "acme"), events(4_000, seed: 9))
            store.close()
        }
        try directory.sql {
            try $0.execute(sql: "UPDATE events SET topic = 'x' WHERE position & 70368744177663 = 1234")
        }
        let store = try directory.open { $0.tailEvents = 0 }
        let stream = try store.stream(tenant: "acme")
        try fill(stream, events(1_000, seed: 9))
        store.core.writer.maintain()
        #expect(try indexedThrough("acme") == 4_095)
        let rare = try TopicFilter(["rare.*"])
        #expect(try stream.read(after: 0, limit: 10, byteLimit: .max, filter: rare).events.count == 1)
        #expect(try failure { _ = try stream.all(rare) }.offset == 1_234)
        #expect(try stream.all(rare, after: 1_234).count == 1)
        store.close()
    }

    @Test("a damaged or lost index costs time and hides nothing")
    func damagedIndex() throws {
        let store = try directory.open { $0.tailEvents = 0 }
        let stream = try store.stream(tenant: "acme")
        try fill(stream, events(9_000, seed: 10))
        store.core.writer.maintain()
        for change in [
            "UPDATE blocks SET postings = x'00' WHERE position & 4095 = 0 AND (position >> 12) % 2 = 0",
            "UPDATE blocks SET checksum = checksum + 1", "DELETE FROM blocks WHERE (position >> 12) % 2 = 1",
            "DELETE FROM blocks",
        ] {
            try directory.sql { try $0.execute(sql: change) }
            try expectSame(stream, "\(change)")
        }
        store.close()
    }

    // MARK: The form

    @Test("postings have the form that is described")
    func form() {
        var postings = TopicPostings()
        postings.add(place: 1, topic: "ab", type: nil)
        postings.add(place: 2, topic: "c", type: "t")
        postings.addDamaged(place: 3)
        postings.add(place: 300, topic: "ab", type: nil)
        // By hand: one damaged at 3; "ab" without type at 1 and 1 + 299 (299 = 0b10_0101011: ab 02); "c" of "t" at 2.
        #expect(
            postings.encoded() == [
                1, 3,
                2, 0x61, 0x62, 0, 2, 3, 1, 0xab, 0x02,
                1, 0x63, 2, 0x74, 1, 1, 2,
            ])
    }

    @Test("bytes that are no postings are refused, whatever they are")
    func malformed() throws {
        var postings = TopicPostings()
        for place in 0..<4_096 { postings.add(place: place, topic: "t\(place % 7)", type: place % 3 == 0 ? "x" : nil) }
        let sound = postings.encoded()
        let filter = try TopicFilter(["t1", "t2"])
        let match = sound.withUnsafeBytes { TopicPostings.match($0, filter) }
        #expect(match == .many)
        let one = try TopicFilter(["t1"])
        for first in [0, 1, 2, 4_000, 4_095] {
            let match = sound.withUnsafeBytes { TopicPostings.match($0, one, from: first) }
            #expect(match == .places((first..<4_096).filter { $0 % 7 == 1 }))
        }
        for count in stride(from: 0, to: sound.count, by: 41) {
            let cut = Array(sound.prefix(count)).withUnsafeBytes { TopicPostings.match($0, one) }
            #expect(cut != .places((0..<4_096).filter { $0 % 7 == 1 }))
        }
        var generator = SeededGenerator(11)
        for _ in 0..<3_000 {
            var bytes = sound.prefix(Int.random(in: 1...sound.count, using: &generator)) + []
            for _ in 0..<3 {
                let index = Int.random(in: 0..<bytes.count, using: &generator)
                bytes[index] = UInt8.random(in: 0...255, using: &generator)
            }
            if case .places(let places) = bytes.withUnsafeBytes({ TopicPostings.match($0, one) }) {
                #expect(places.allSatisfy { (0..<4_096).contains($0) })
            }
        }
    }

    // MARK: Latest values

    @Test("the latest value of each key is the newest up to the offset, or a newer one follows")
    func latest() throws {
        let store = try directory.open { $0.tailEvents = 0 }
        try fill(store.stream(tenant: "other"), events(5_000, seed: 12))
        let stream = try store.stream(tenant: "acme")
        try fill(stream, events(5_000, seed: 13))
        store.core.writer.maintain()
        try fill(stream, events(3_500, seed: 14))
        let all = try stream.all()
        for (patterns, types) in Self.filters {
            let filter = try TopicFilter(patterns, types: types)
            let wanted = all.filter { $0.key != nil && filter.matches($0) }
            for offset: UInt64 in [0, 1, 4_096, 6_500, 8_500] {
                var newest: [LatestKey: UInt64] = [:]
                for event in wanted where event.offset <= offset {
                    newest[LatestKey(topic: event.topic, key: try #require(event.key), type: nil)] = event.offset
                }
                let later = Set(
                    wanted.filter { $0.offset > offset }.map {
                        LatestKey(topic: $0.topic, key: $0.key ?? "", type: nil)
                    })
                var pages = try stream.latest(upTo: offset, filter: filter)
                var found: [LatestKey: UInt64] = [:]
                while true {
                    let page = try pages.next(limit: 300, byteLimit: 20_000)
                    if page.isEmpty { break }
                    #expect(page.count <= 300)
                    for event in page {
                        let key = LatestKey(topic: event.topic, key: try #require(event.key), type: nil)
                        #expect(found.updateValue(event.offset, forKey: key) == nil, "\(event.offset) comes twice")
                    }
                }
                for (key, value) in found { #expect(newest[key] == value) }
                for (key, value) in newest where found[key] == nil {
                    #expect(later.contains(key), "\(key.topic.text) \(key.key.text) at \(value) is missing")
                }
                if offset == 8_500 { #expect(found == newest) }
            }
        }
        store.close()
    }

    @Test("latest values survive a reopening and end with the retention of their event")
    func latestAfterRetention() throws {
        func open() throws -> EmbeddedEventStore {
            try directory.open {
                $0.tailEvents = 0
                $0.retentionEvents = 6_000
            }
        }
        func keyed(_ key: String, _ type: String? = nil) -> NewEvent {
            NewEvent(topic: "t", type: type, key: key, payload: Array(key.utf8), acceptedUnixNano: WallClock.unixNano())
        }
        func latest(_ stream: any EventStream, types: Set<String> = []) throws -> [String] {
            var pages = try stream.latest(upTo: stream.head, filter: TopicFilter(["t"], types: types))
            return try pages.next(limit: .max, byteLimit: .max).map { "\($0.text)@\($0.offset)" }.sorted()
        }
        var store = try open()
        var stream = try store.stream(tenant: "acme")
        try stream.appendAndWait([keyed("old"), keyed("kept"), keyed("")], .written)
        try fill(stream, (0..<5_000).map { _ in event("filler", topic: "other") })
        try stream.appendAndWait([keyed("kept", "x")], .written)
        store.core.writer.maintain()
        #expect(try latest(stream) == ["@3", "kept@5004", "old@1"])
        #expect(try latest(stream, types: ["message"]) == ["@3", "kept@2", "old@1"])
        #expect(try latest(stream, types: ["x"]) == ["kept@5004"])
        store.close(.abandon)
        store = try open()
        stream = try store.stream(tenant: "acme")
        #expect(try latest(stream) == ["@3", "kept@5004", "old@1"])
        try fill(stream, (0..<4_000).map { _ in event("filler", topic: "other") })
        store.core.writer.maintain()
        #expect(stream.earliest == 3_005)
        #expect(try latest(stream) == ["kept@5004"])
        // A damaged value is told once, and the others still come.
        try stream.appendAndWait([keyed("new")], .written)
        try directory.sql {
            try $0.execute(sql: "UPDATE events SET payload = x'00' WHERE position & 70368744177663 = 5004")
        }
        var pages = try stream.latest(upTo: stream.head, filter: TopicFilter(["t"]))
        #expect(try failure { _ = try pages.next(limit: 10, byteLimit: .max) }.offset == 5_004)
        #expect(try pages.next(limit: 10, byteLimit: .max).map(\.text) == ["new"])
        #expect(try pages.next(limit: 10, byteLimit: .max).isEmpty)
        store.close()
    }

    // MARK: Beside the writer

    @Test("readers with a filter see every event of theirs, in order, while the index is written")
    func following() throws {
        let store = try directory.open { $0.tailEvents = 200 }
        let stream = try store.stream(tenant: "acme")
        let count = 12_000
        let problems = Shared<[String]>([])
        onThreads(4) { thread in
            do {
                if thread == 0 {
                    for start in stride(from: 0, to: count, by: 60) {
                        try stream.appendAndWait(
                            (start..<start + 60).map { event("\($0)", topic: "t.\($0 % 6)") }, .written)
                    }
                    return
                }
                let filter = try TopicFilter(["t.\(thread)", "t.5"])
                var due = (0..<count).filter { $0 % 6 == thread || $0 % 6 == 5 }[...]
                var place: UInt64 = 0
                while let next = due.first {
                    let read = try stream.read(after: place, limit: 50 * thread, byteLimit: .max, filter: filter)
                    for event in read.events {
                        guard event.text == "\(due.first ?? -1)" else {
                            problems.note("\(event.text) where \(next) was due")
                            return
                        }
                        due.removeFirst()
                    }
                    place = read.through
                    if read.events.isEmpty { usleep(200) }
                }
            } catch {
                problems.note("\(error)")
            }
        }
        #expect(problems.value == [])
        store.close()
    }
}
