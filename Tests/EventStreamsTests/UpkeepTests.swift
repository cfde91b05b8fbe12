import Dispatch
import Foundation
import GRDB
import TestSupport
import Testing

@testable import EventStreams

@Suite("The log is kept up beside appends")
struct UpkeepTests {
    @Test("a pass over the write-ahead log begins when it has grown by so many pages, and only one at a time")
    func passes() {
        var state = LogCheckpointer.State()
        #expect(state.next(7_999) == .nothing)
        #expect(state.next(8_000) == .pass)
        #expect(state.next(31_999) == .nothing, "one is running")
        state.isRunning = false
        state.copied = 7_000
        // A reader has kept it from copying all.
        #expect(state.next(15_999) == .nothing)
        #expect(state.next(16_000) == .pass)
        state.isRunning = false
        state.copied = 16_000
        #expect(state.next(7_999) == .nothing, "the log has begun anew")
        #expect(state.next(8_000) == .pass)
        state.isRunning = false
        state.isEnding = true
        #expect(state.next(31_999) == .nothing)
    }

    @Test("passes over a long log follow each other until the writer copies the rest", arguments: [292, 293])
    func finishing(rest: Int) {
        var state = LogCheckpointer.State()
        #expect(state.next(11_999) == .pass)
        state.isRunning = false
        state.copied = 11_999
        // 256, and an eighth of what the log is longer than 12,000.
        #expect(state.next(11_999 + rest) == (rest == 292 ? .finish : .pass))
    }

    @Test("a log that is read is not finished with every commit, and not passed over in vain")
    func readers() {
        var state = LogCheckpointer.State()
        #expect(state.next(12_000) == .pass)
        state.isRunning = false
        state.copied = 12_000
        #expect(state.next(12_010) == .finish)
        // All is copied, and a reader keeps the log from beginning anew.
        state.copied = 12_010
        #expect(state.next(12_020) == .nothing)
        #expect(state.next(20_009) == .nothing)
        #expect(state.next(20_010) == .pass)
        // The reader keeps this one from copying.
        state.isRunning = false
        #expect(state.next(20_011) == .nothing)
        #expect(state.next(28_010) == .pass)
    }

    @Test("the writer waits for a pass when the log is too long")
    func waiting() {
        var state = LogCheckpointer.State()
        #expect(state.next(8_000) == .pass)
        #expect(state.next(31_999) == .nothing)
        #expect(state.next(32_000) == .finish)
        // Somebody reads it: not with every commit.
        state.copied = 32_000
        #expect(state.next(39_999) == .nothing)
        #expect(state.next(40_000) == .finish)
    }

    @Test("the writer waits too where passes follow each other and never come to an end")
    func chasing() {
        var state = LogCheckpointer.State()
        var pages = 12_000
        while pages < 32_000 {
            #expect(state.next(pages) == .pass)
            state.isRunning = false
            state.copied = pages
            pages += 4_000
        }
        #expect(state.next(pages) == .finish)
    }

    @Test("the write-ahead log begins anew while events are appended without a pause")
    func writeAheadLog() throws {
        let directory = ScratchDirectory()
        let store = try directory.open { $0.tailEvents = 0 }
        defer { store.close() }
        #expect(try store.core.database.pragma("wal_autocheckpoint") == 0)
        let stream = try store.stream(tenant: "acme")
        let payload = [UInt8](repeating: 0x78, count: 64 << 10)
        var longest = 0
        var beganAnew = false
        var appended = 0
        // 16 MiB at a time, until the log was long and is short again.
        while !beganAnew, appended < 64 * 256 {
            let batch = (0..<16).map { _ in
                NewEvent(topic: "t", payload: payload, acceptedUnixNano: WallClock.unixNano())
            }
            try stream.appendAndWait(batch, .written)
            appended += batch.count
            let pages = store.core.database.writeAheadPages
            beganAnew = longest >= LogCheckpointer.restartPages && pages < 2_000
            longest = max(longest, pages)
        }
        #expect(beganAnew)
        #expect(longest < LogCheckpointer.maximumPages + 2_000)
        #expect(store.statistics.failedCheckpoints == 0)
        #expect(try stream.all().count == appended)
    }

    @Test("small commits owe upkeep until a step of it is worth its while")
    func owing() throws {
        let directory = ScratchDirectory()
        let store = try directory.open()
        defer { store.close() }
        let stream = try #require(try store.stream(tenant: "acme") as? EmbeddedStream)
        // Two removals and four to be indexed for each event; a first step removes 64, one of the index looks at 256.
        func owed() -> [Int] { stream.disk.withLock { [$0.owedRemovals, $0.owedIndexing] } }
        for (appends, expected) in [(31, [62, 124]), (1, [0, 128]), (31, [62, 252]), (1, [0, 0]), (3, [6, 12])] {
            for _ in 0..<appends { try stream.appendAndWait(texts: ["x"], .written) }
            eventually("\(expected)") { owed() == expected }
        }
    }

    @Test("a store that has much to remove closes at once, and goes on when it is opened again")
    func closing() throws {
        let directory = ScratchDirectory()
        let total = 40_000
        var store = try directory.open()
        try store.stream(tenant: "acme").appendAndWait(texts: (1...total).map { "\($0)" }, .written)
        store.close()

        store = try directory.open { $0.retentionEvents = 100 }
        _ = try store.stream(tenant: "acme")
        eventually("retention begins") { store.statistics.retiredEvents > 0 }
        store.close()
        let log = try LogInspection(directory: directory.path)
        let left = try #require(log.tenants.first).events
        #expect(left > 100 && left < total, "\(left)")
        #expect(try log.verify().problemCount == 0)

        store = try directory.open { $0.retentionEvents = 100 }
        let stream = try store.stream(tenant: "acme")
        store.core.writer.maintain()
        #expect(stream.earliest == UInt64(total - 100 + 1))
        // An append is served between the steps, and what it brings is kept.
        try stream.appendAndWait(texts: ["last"])
        #expect(try stream.texts(after: UInt64(total)) == ["last"])
        store.close()
    }
}
