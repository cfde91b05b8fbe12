import Foundation
import TestSupport
import Testing

@testable import LatencyHeatmap

@Suite("Groups that come and go")
struct GroupReuseTests {
    /// Eight groups have room; windows of a minute are kept for five minutes.
    private func engine(
        _ clock: TestClock, maxGroups: Int = 8, in directory: ScratchDirectory? = nil, totals: Bool = false
    ) throws -> HeatmapEngine {
        let engine = try makeEngine(clock: clock) {
            $0.maxGroups = maxGroups
            $0.retainedWindows = 5
            $0.keepsTotals = totals
            $0.views = [HeatmapView(parsing: "tenant.id")].compactMap(\.self)
        }
        if let directory { try engine.persist(in: directory.path) }
        return engine
    }

    /// One new group each minute, and one that is always there.
    private func count(_ engine: HeatmapEngine, minute: UInt64) {
        for (name, latency) in [("always", 1_000), ("device-\(minute)", minute + 1)] {
            let group = engine.group(name, attributes: [("tenant.id", "tenant of \(name)")])
            for repeated in 0..<UInt64(3) {
                engine.record(
                    stage: engine.stage("deliver"), group: group, endUnixNano: (monday + minute * 60) * second,
                    latencyNano: latency * millisecond + repeated)
            }
        }
    }

    private func csv(_ engine: HeatmapEngine, by: String) throws -> String {
        HeatmapCSV.render(try engine.grid([("since", "2026-11-23T00:00:00Z"), ("by", by)]))
    }

    private func numbers(_ engine: HeatmapEngine) -> [Int] { engine.locked { $0.views.map(\.groups.names.count) } }

    @Test("endless groups over endless time find room, and are called as if there had always been room for all")
    func endless() throws {
        let clock = TestClock(monday)
        let (engine, roomy) = (try engine(clock), try engine(clock, maxGroups: 1_000))
        for minute in 0..<UInt64(300) {
            clock.set(second: monday + minute * 60)
            for each in [engine, roomy] {
                each.maintain()
                count(each, minute: minute)
            }
            for by in ["device.group", "tenant.id"] { #expect(try csv(engine, by: by) == csv(roomy, by: by)) }
        }
        #expect(numbers(engine).allSatisfy { $0 <= 9 })
        #expect(numbers(roomy) == [302, 302])
        #expect(engine.groupCount <= 8 && engine.ledger.overflowed == 0)
        #expect(engine.ledger.latencies == 1_800)
    }

    @Test("names stay while three quarters of the room are not taken, and where every name has a window, none is taken")
    func room() throws {
        let clock = TestClock(monday)
        let engine = try engine(clock)
        for number in 0..<5 { engine.record("g\(number)", at: monday, ms: [1]) }
        clock.set(second: monday + 3_600)
        engine.maintain()
        #expect(engine.cellCount == 0 && engine.groupCount == 5)
        engine.record("g5", at: monday + 3_600, ms: [1])
        engine.maintain()
        // The sixth made it three quarters.
        #expect(engine.groupCount == 1)
        for number in 6...12 { engine.record("g\(number)", at: monday + 3_600, ms: [1]) }
        engine.maintain()
        #expect(engine.groupCount == 8 && engine.ledger.overflowed == 0)
        engine.record("g13", at: monday + 3_600, ms: [1])
        #expect(engine.groupCount == 8 && engine.ledger.overflowed == 1)
        #expect(try engine.grid().rows.map(\.group) == (5...12).map { "g\($0)" } + ["(other)"])
    }

    @Test("a group that is held counts under its own name, however long it has been silent")
    func held() throws {
        let clock = TestClock(monday)
        let engine = try engine(clock)
        let (stage, held) = (engine.stage("deliver"), engine.group("held", attributes: [("tenant.id", "t")]))
        for minute in 0..<UInt64(20) {
            clock.set(second: monday + minute * 60)
            engine.maintain()
            count(engine, minute: minute)
        }
        #expect(try engine.grid().row("held") == nil)
        engine.record(stage: stage, group: held, endUnixNano: clock.nanoseconds, latencyNano: 7)
        #expect(try engine.grid().row("held")?.total.maxNano == 7)
        #expect(try engine.grid([("by", "tenant.id")]).row("t")?.total.maxNano == 7)
        #expect(held == engine.group("held", attributes: [("tenant.id", "t")]))
        #expect(held != engine.group("held"))
    }

    @Test("a group that was forgotten leaves no total to the next one of its number")
    func totals() throws {
        let clock = TestClock(monday)
        let engine = try engine(clock, totals: true)
        for minute in 0..<UInt64(40) {
            clock.set(second: monday + minute * 60)
            engine.maintain()
            count(engine, minute: minute)
            let totals = engine.totals()
            for total in totals where total.group != "always" {
                let born = try #require(UInt64(total.group.dropFirst("device-".count)))
                #expect(total.sketch.exactValues == (0..<3).map { (born + 1) * millisecond + $0 })
            }
            #expect(totals.first { $0.group == "always" }?.sketch.count == (minute + 1) * 3)
            #expect(totals.contains { $0.group == "device-\(minute)" } && totals.count <= 8)
        }
    }

    @Test("numbers that are given again survive restarts, and the file of names stays small")
    func restart() throws {
        let (directory, clock) = (try ScratchDirectory(), TestClock(monday))
        let roomy = try engine(clock, maxGroups: 100_000)
        var engine = try engine(clock, in: directory)
        var largest = 0
        for minute in 0..<UInt64(120) {
            clock.set(second: monday + minute * 60)
            for each in [engine, roomy] {
                each.maintain()
                count(each, minute: minute)
            }
            if minute % 2 == 0 { engine.save() }
            largest = max(largest, directory.bytes("names").count)
            guard minute % 40 == 31 else { continue }
            engine.save()
            // As after `kill -9`: nothing is closed.
            engine = try self.engine(clock, in: directory)
            // The journal still has cells of windows that were forgotten.
            engine.maintain()
            #expect(engine.persistence?.damagedBytes == 0 && engine.persistence?.unreadableFiles == 0)
            for by in ["device.group", "tenant.id"] {
                let (found, expected) = (try csv(engine, by: by), try csv(roomy, by: by))
                #expect(found == expected, "minute \(minute): \(found)\n\(expected)")
            }
        }
        #expect(numbers(engine).allSatisfy { $0 <= 9 })
        // 480 records of about 50 bytes came.
        #expect(largest < 15_000)
    }

    @Test("a window that is there again after a power cut is not taken for that of groups which have its numbers now")
    func powerCut() throws {
        let (directory, clock) = (try ScratchDirectory(), TestClock(monday))
        var engine = try engine(clock, in: directory)
        var old: [String: Data] = [:]
        for minute in 0..<UInt64(30) {
            clock.set(second: monday + minute * 60)
            count(engine, minute: minute)
            engine.save()
            engine.maintain()
            if minute == 4 {
                for file in directory.files where file != "names" { old[file] = directory.bytes(file) }
            }
        }
        #expect(old.keys.contains { $0.hasSuffix(".cells") } && old.keys.contains { $0.hasPrefix("journal-") })
        // What was removed since; the journal under a number that is free.
        for (file, data) in old where !directory.files.contains(file) { try directory.write(file, data) }
        if let journal = old.first(where: { $0.key.hasPrefix("journal-") }) {
            try directory.write("journal-0", journal.value)
        }
        engine = try self.engine(clock, in: directory)
        let grid = try engine.grid([("since", "2026-11-23T00:00:00Z"), ("until", "2026-11-24T00:00:00Z")])
        for row in grid.rows where row.group.hasPrefix("device-") {
            let born = try #require(UInt64(row.group.dropFirst("device-".count)))
            #expect(row.total.sketch.exactValues == (0..<3).map { (born + 1) * millisecond + $0 }, "\(row.group)")
        }
        #expect(grid.rows.contains { $0.group == "device-29" })
    }
}
