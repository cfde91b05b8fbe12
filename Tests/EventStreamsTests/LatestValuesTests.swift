import GRDB
import TestSupport
import Testing

@testable import EventStreams

@Suite("Latest values come in pages, however many there are")
struct LatestValuesTests {
    @Test("a long list comes whole and once, and each event that was lost is told", arguments: [1, 127, 128, 129, 500])
    func list(limit: Int) throws {
        let directory = ScratchDirectory()
        let count: UInt64 = 8_192
        let lost: Set<UInt64> = [1, 128, 3_000, 5_000, 5_001, count]
        let first = try directory.open()
        // In the order of the table of keys neighbours lie far from each other in the log: 3,001 is odd.
        try first.stream(tenant: "acme").appendAndWait(
            (0..<count).map { serial in
                let key = "k\(serial * 3_001 % count)"
                return NewEvent(topic: "orders", key: key, acceptedUnixNano: WallClock.unixNano())
            }, .written)
        first.core.writer.maintain()
        first.close()
        try directory.sql { db in
            for offset in lost { try db.execute(sql: "DELETE FROM events WHERE position & 70368744177663 = \(offset)") }
        }
        let store = try directory.open { $0.tailEvents = 0 }
        let stream = try store.stream(tenant: "acme")
        var pages = try stream.latest(upTo: count, filter: .all)
        var found: [UInt64] = []
        var told: [UInt64] = []
        while true {
            do {
                let page = try pages.next(limit: limit, byteLimit: 1 << 20)
                if page.isEmpty { break }
                #expect(page.count <= limit)
                found += page.map(\.offset)
            } catch {
                #expect(error.code == .corrupt)
                told.append(try #require(error.offset))
            }
        }
        #expect(told.count == lost.count && Set(told) == lost)
        #expect(found.sorted() == (1...count).filter { !lost.contains($0) })
        store.close()
    }

    @Test("those who read at the same time share the memory for positions, and each has enough to go on")
    func budget() {
        let budget = GatheringBudget()
        var shares = [GatheringBudget.Share(of: budget)]
        #expect(shares[0].positions == 1_048_576)
        shares.append(GatheringBudget.Share(of: budget))
        #expect(shares.map(\.positions) == [524_288, 524_288])
        // 2^20 / 16,384 is 64.
        for (number, least) in [(63, 16_644), (64, 16_384), (65, 16_384), (1_000, 16_384)] {
            while shares.count < number { shares.append(GatheringBudget.Share(of: budget)) }
            #expect(shares[number - 1].positions == least)
        }
        shares.removeSubrange(1...)
        #expect(shares[0].positions == 1_048_576)
    }
}
