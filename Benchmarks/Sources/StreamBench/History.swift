import BenchSupport
import EventStreams
import Foundation

/// Through a whole log of 200,000 events.
func measureReads() async throws {
    let total = 200_000
    let log = try open("read")
    let written = try log.stream(tenant: "default")
    for _ in 0..<(total / 1_000) {
        _ = try await written.append((0..<1_000).map { _ in event() }, durability: .written)
    }
    log.close()

    let reopened = try open("read") { $0.tailEvents = 0 }
    let readable = try reopened.stream(tenant: "default")
    var rates: [Double] = []
    for _ in 0..<Settings.repetitions {
        let start = BenchClock.wall
        var cursor: UInt64 = 0
        var read = 0
        while read < total {
            let events = try readable.read(after: cursor, limit: 1_000, byteLimit: 16 << 20)
            guard let last = events.last else { fail("the log ends after \(read) events") }
            cursor = last.offset
            read += events.count
        }
        rates.append(Double(read) * 1e9 / Double(BenchClock.wall - start))
    }
    report("read", "events/s", rates, "after a cursor, 1,000 at a time, from SQLite (page cache warm), one reader")
    reopened.close()
}

/// A long history: one event in 10,000 is of a rare topic, and 100,000 keys have a latest value.
func measureHistory() async throws {
    let log = try open("history") { $0.retentionEvents = 2 * Settings.history }
    let written = try log.stream(tenant: "default")
    var random = Xorshift(seed: 7)
    let start = BenchClock.wall
    for first in stride(from: 0, to: Settings.history, by: 2_000) {
        let batch = (first..<min(first + 2_000, Settings.history)).map { serial in
            event(
                topic: serial % 10_000 == 5_000 ? "alerts.rare" : "orders.\(serial % 20)",
                key: serial % 4 == 0 ? "device-\(Int.random(in: 0..<100_000, using: &random))" : nil)
        }
        _ = try await written.append(batch, durability: .written)
    }
    report(
        "history.append", "events/s", [Double(Settings.history) * 1e9 / Double(BenchClock.wall - start)],
        "\(Settings.history) events in batches of 2,000, written, 100,000 keys, index included")
    log.close()

    var opened: [Double] = []
    for _ in 0..<Settings.repetitions {
        let store = try open("history") { $0.retentionEvents = 2 * Settings.history }
        store.close()
        opened.append(
            try milliseconds {
                let store = try open("history") { $0.retentionEvents = 2 * Settings.history }
                _ = try store.stream(tenant: "default")
                keep(store)
            })
    }
    report("history.open", "ms", opened, "opening and the tenant's log, \(Settings.history) events")

    let store = try open("history") {
        $0.retentionEvents = 2 * Settings.history
        $0.tailEvents = 0
    }
    let stream = try store.stream(tenant: "default")
    let rare = try TopicFilter(["alerts.>"])
    let absent = try TopicFilter(["nothing.*"])
    let common = try TopicFilter(["orders.7"])
    func first(_ name: String, _ note: String, _ read: (UInt64) throws -> Void) rethrows {
        var times: [Double] = []
        for step in 0..<UInt64(max(5, Settings.repetitions)) {
            let cursor = UInt64(Settings.history) / 10 * (step % 10)
            times.append(try milliseconds { try read(cursor) })
        }
        report("history.\(name)", "ms", times, note)
    }
    try first("replay", "first 100 events after a cursor") {
        _ = try stream.read(after: $0, limit: 100, byteLimit: 1 << 20)
    }
    try first("common", "first 100 events of one topic in 20 after a cursor") {
        _ = try stream.read(after: $0, limit: 100, byteLimit: 1 << 20, filter: common)
    }
    try first("rare", "first 10 events of one topic in 10,000 after a cursor") { cursor in
        var place = cursor
        var found = 0
        while found < 10 {
            let read = try stream.read(after: place, limit: 10 - found, byteLimit: 1 << 20, filter: rare)
            found += read.events.count
            if read.through == place { break }
            place = read.through
        }
    }
    for (name, filter) in [("allRare", rare), ("absent", absent)] {
        var place: UInt64 = 0
        var found = 0
        var longest = 0.0
        let total = try milliseconds {
            while true {
                var read = FilteredRead(events: [], through: 0)
                longest = max(
                    longest,
                    try milliseconds {
                        read = try stream.read(after: place, limit: 1_000, byteLimit: 16 << 20, filter: filter)
                    })
                found += read.events.count
                if read.through == place { break }
                place = read.through
            }
        }
        report(
            "history.\(name)", "ms", [total], "\(found) events of \(Settings.history), the longest call \(longest) ms")
    }
    var pages = try stream.latest(upTo: stream.head, filter: .all)
    var count = 0
    let firstPage = try milliseconds { count = try pages.next(limit: 500, byteLimit: 1 << 20).count }
    report("history.latest", "ms", [firstPage], "first \(count) latest values")
    let rest = try milliseconds {
        while true {
            let page = try pages.next(limit: 500, byteLimit: 1 << 20)
            if page.isEmpty { break }
            count += page.count
        }
    }
    report("history.latest.all", "ms", [firstPage + rest], "all \(count) latest values")
    store.close()
    let inspection = try LogInspection(directory: Settings.directory + "/history")
    var problems = 0
    let verifying = try milliseconds { problems = try inspection.verify().problemCount }
    report("history.verify", "ms", [verifying], "\(problems) problems")
}
