import Foundation
import LatencyHeatmap
import Synchronization
import TestSupport
import Testing

@Suite("The heatmap engine")
struct EngineTests {
    // MARK: Windows

    @Test("a latency belongs to the window in which it ended, up to and not including the window's end")
    func windowsByEnd() throws {
        let engine = try makeEngine()
        let (stage, group) = (engine.stage("deliver"), engine.group("a"))
        let start = monday * second
        for end in [start, start + 59_999_999_999, start + 60 * second, start + 120 * second - 1] {
            engine.record(stage: stage, group: group, endUnixNano: end, latencyNano: 90 * second)
        }
        let grid = try engine.grid()
        #expect(grid.windows.map(\.start) == [Int64(monday), Int64(monday) + 60])
        #expect(grid.windows.map(\.end) == [Int64(monday) + 60, Int64(monday) + 120])
        #expect(grid.row("a")?.cells.map { $0?.count } == [2, 2])
        #expect(grid.row("a")?.total.count == 4)
        #expect(grid.count == 4)
    }

    @Test("a gap in time is there as empty columns, not as zeros")
    func gap() throws {
        let engine = try makeEngine()
        engine.record("a", at: monday, ms: [10])
        engine.record("b", at: monday + 240, ms: [20])
        let grid = try engine.grid()
        #expect(grid.windows.count == 5)
        #expect(grid.row("a")?.cells.map { $0?.count } == [1, nil, nil, nil, nil])
        #expect(grid.row("b")?.cells.map { $0?.count } == [nil, nil, nil, nil, 1])
        for (before, after) in zip(grid.windows, grid.windows.dropFirst()) { #expect(before.end == after.start) }
    }

    /// 40 latencies of 1…40 ms: ⌈0.95·40⌉ = 38; ⌈0.5·40⌉ = 20; ⌈0.9·40⌉ = 36; ⌈0.99·40⌉ = 40.
    @Test("a cell has the hand-worked figures")
    func figures() throws {
        let engine = try makeEngine()
        engine.record("a", at: monday, ms: Array(1...20))
        engine.record("a", at: monday + 60, ms: Array(21...40))
        let grid = try engine.grid([("window", "2m"), ("slo", "30ms"), ("levels", "20ms,38ms,60ms")])
        let cell = try #require(grid.row("a")?.cells[0])
        #expect(cell.quantileNano == 38 * millisecond)
        #expect(cell.p50Nano == 20 * millisecond)
        #expect(cell.p90Nano == 36 * millisecond)
        #expect(cell.p95Nano == 38 * millisecond)
        #expect(cell.p99Nano == 40 * millisecond)
        #expect(cell.maxNano == 40 * millisecond)
        #expect(cell.overSLO == 10)
        // A level begins at its threshold.
        #expect(cell.level == .orange)
        #expect(cell.state == .final)
        #expect(grid.relativeError == 0)
        #expect(grid.quantileName == "P95")
    }

    static let levelCases: [(UInt64, LatencyLevel)] = [
        (0, .green), (49, .green), (50, .yellow), (99, .yellow), (100, .orange), (199, .orange), (200, .red),
        (9_999, .red),
    ]

    @Test("levels begin at 50, 100 and 200 ms", arguments: levelCases)
    func levels(ms: UInt64, level: LatencyLevel) throws {
        let engine = try makeEngine()
        engine.record("a", at: monday, ms: [ms])
        #expect(try engine.grid().row("a")?.total.level == level)
    }

    @Test("a row's total is the quantile of all values, not an average of the windows' quantiles")
    func totals() throws {
        let engine = try makeEngine()
        engine.record("a", at: monday, ms: [10], count: 19)
        engine.record("a", at: monday + 60, ms: [1_000], count: 1)
        let row = try #require(engine.grid().row("a"))
        #expect(row.cells.map { $0?.quantileNano } == [10 * millisecond, 1_000 * millisecond])
        #expect(row.total.quantileNano == 10 * millisecond)
    }

    // MARK: Late and discarded

    @Test("a latency that comes after its window and the allowance marks the cell as revised, and is counted")
    func late() throws {
        let clock = TestClock(monday)
        let engine = try makeEngine(clock: clock)
        engine.record("a", at: monday, ms: [10])
        #expect(try engine.grid().row("a")?.cells[0]?.state == .open)
        // The window ends at +60 and stays open for another 60 s.
        clock.set(second: monday + 120)
        engine.record("a", at: monday + 1, ms: [20])
        #expect(try engine.grid().row("a")?.cells[0]?.state == .open)
        #expect(engine.ledger.late == 0)
        clock.nanoseconds += 1
        #expect(try engine.grid().row("a")?.cells[0]?.state == .final)
        engine.record("a", at: monday + 2, ms: [30], count: 5)
        let cell = try #require(engine.grid().row("a")?.cells[0])
        #expect(cell.state == .revised)
        #expect(cell.late == 5)
        #expect(cell.count == 7)
        #expect(engine.ledger.late == 5)
        #expect(try engine.grid().late == 5)
    }

    @Test(
        "a cell that is called final gets nothing more without being called revised",
        arguments: [
            Duration.seconds(60), .milliseconds(1_500), .zero,
        ])
    func finalMeansFinal(lateness: Duration) throws {
        let clock = TestClock(monday)
        let engine = try makeEngine(clock: clock) { $0.lateness = lateness }
        engine.record("a", at: monday, ms: [10])
        let end = (monday + 60) * second
        for offset: UInt64 in [
            0, 1, 1_000_000_000, 1_499_999_999, 1_500_000_000, 1_500_000_001, 60 * second, 61 * second,
        ] {
            clock.nanoseconds = end + offset
            let before = try #require(engine.grid().row("a")?.cells[0])
            engine.record("a", at: monday, ms: [10])
            let after = try #require(engine.grid().row("a")?.cells[0])
            if before.state != .open { #expect(after.state == .revised, "\(offset) ns after the window's end") }
        }
    }

    @Test("what is too far ahead or too old is refused, at the limit and beyond it, in whatever order it comes")
    func futureAndExpired() throws {
        for order in [[60, 61, 89, 90], [90, 89, 61, 60], [61, 60, 90, 89]] as [[UInt64]] {
            // 30 s into a window, so that one window holds both what is allowed and what is not.
            let clock = TestClock(monday + 30)
            let engine = try makeEngine(clock: clock)
            for ahead in order { engine.record("a", at: monday + 30 + ahead, ms: [1]) }
            #expect(engine.ledger.latencies == 1, "\(order)")
        }
        let clock = TestClock(monday)
        let engine = try makeEngine(clock: clock) { $0.retainedWindows = 3 }
        for window: UInt64 in 0...5 { engine.record("a", at: monday - window * 60, ms: [1]) }
        #expect(engine.ledger.latencies == 3)
        #expect(engine.cellCount == 3)
    }

    @Test("counts that fill 64 bits are kept, not overflowed, also when they are late")
    func lateSaturation() throws {
        let clock = TestClock(monday)
        let engine = try makeEngine(clock: clock)
        for _ in 0..<2 { engine.record("a", at: monday - 600, ms: [10], count: .max) }
        #expect(engine.ledger.late == .max)
        #expect(engine.ledger.latencies == .max)
        #expect(try engine.grid().row("a")?.total.late == .max)
        // Through the bytes of a sealed window too.
        engine.maintain()
        #expect(try engine.grid().row("a")?.total.count == .max)
    }

    @Test("no latency counted zero times makes a cell")
    func countOfZero() throws {
        let engine = try makeEngine()
        engine.record("a", at: monday, ms: [10], count: 0)
        engine.recordStagePart(
            stage: engine.stage("deliver"), group: engine.group("a"), endUnixNano: monday * second, latencyNano: 1,
            count: 0)
        withUnsafeTemporaryAllocation(of: UInt64.self, capacity: 1) { buffer in
            engine.recordBatch(
                stage: engine.stage("deliver"), group: engine.group("a"), endUnixNano: monday * second,
                latencies: UnsafeBufferPointer(start: buffer.baseAddress, count: 0))
        }
        #expect(engine.cellCount == 0)
        #expect(try engine.grid().rows.isEmpty)
    }

    @Test("times and settings at the ends of their ranges do not overflow")
    func extremeTimes() throws {
        let clock = TestClock(monday)
        let engine = try makeEngine(clock: clock) {
            $0.maxFuture = nil
            $0.retainedWindows = nil
            $0.lateness = .seconds(Int64.max)
        }
        let (stage, group) = (engine.stage("deliver"), engine.group("a"))
        engine.record(stage: stage, group: group, endUnixNano: .max, latencyNano: .max)
        engine.record(stage: stage, group: group, endUnixNano: 0, latencyNano: 0)
        engine.maintain()
        let grid = try engine.grid([("since", "1970-01-01T00:00:00Z")])
        #expect(grid.count == 2)
        #expect(grid.windows.count <= 62)
        for style in HeatmapText.Style.allCases { #expect(!HeatmapText.render(grid, width: 80, style: style).isEmpty) }
        let long = try makeEngine { $0.window = .seconds(18_446_744_073) }
        long.record("a", at: monday, ms: [1])
        long.maintain()
        #expect(try long.grid().count == 1)
    }

    // MARK: Groups

    @Test("groups beyond the limit share the row (other), which comes last and is counted")
    func overflow() throws {
        let engine = try makeEngine()
        for number in 0..<10_100 { engine.record("g\(number)", at: monday, ms: [UInt64(number % 100) + 1]) }
        #expect(engine.groupCount == 10_000)
        #expect(engine.ledger.overflowed == 100)
        #expect(engine.ledger.latencies == 10_100)
        for order in HeatmapQuery.Order.allCases {
            let grid = try engine.grid([("sort", order.rawValue)])
            #expect(grid.rows.count == 10_001)
            #expect(grid.rows.last?.group == "(other)")
            #expect(grid.rows.last?.total.count == 100)
            #expect(grid.overflowed == 100)
            #expect(grid.count == 10_100)
        }
        // A group that is known is still its own.
        engine.record("g5", at: monday, ms: [1])
        #expect(try engine.grid().row("g5")?.total.count == 2)
    }

    @Test("rows are in the order that was asked for, numbers in names by value")
    func order() throws {
        let engine = try makeEngine()
        for (name, latency, count) in [("iOS-9", 30, 1), ("iOS-15", 10, 3), ("iOS-15b", 20, 2), ("a", 30, 2)] {
            engine.record(name, at: monday, ms: [UInt64(latency)], count: UInt64(count))
        }
        #expect(try engine.grid().rows.map(\.group) == ["a", "iOS-9", "iOS-15", "iOS-15b"])
        #expect(try engine.grid([("sort", "slowest")]).rows.map(\.group) == ["a", "iOS-9", "iOS-15b", "iOS-15"])
        #expect(try engine.grid([("sort", "count")]).rows.map(\.group) == ["iOS-15", "a", "iOS-15b", "iOS-9"])
        let limited = try engine.grid([("limit", "3")])
        #expect(limited.rows.map(\.group) == ["a", "iOS-9", "iOS-15"])
        #expect(limited.omittedRows == 1)
        #expect(limited.count == 8)
    }

    @Test("the natural order is an order: ascending whatever the order of arrival")
    func naturalOrder() throws {
        let names = [
            "", "0", "00", "1", "01", "9", "10", "a", "a1", "a01", "a1b", "a10", "a9", "á", "a\u{301}", "１", "😀", "z",
        ]
        var generator = SeededGenerator(3)
        var orders: Set<[[UInt8]]> = []
        for _ in 0..<50 {
            let engine = try makeEngine()
            for name in names.shuffled(using: &generator) { engine.record(name, at: monday, ms: [1]) }
            orders.insert(try engine.grid().rows.map { Array($0.group.utf8) })
        }
        // Two of the names are canonically equal and may stand either way.
        #expect(orders.count <= 2)
    }

    @Test("a prefix shows one sender's groups only, byte for byte, without it")
    func prefix() throws {
        let engine = try makeEngine()
        let names = ["acme/a", "acme/\u{301}accent", "acme", "acmé/b", "acme2/c", "other/acme/d", "acme/"]
        for name in names { engine.record(name, at: monday, ms: [1]) }
        var query = HeatmapQuery()
        query.groupPrefix = "acme/"
        let grid = try engine.snapshot(query: query)
        #expect(Set(grid.rows.map { Array($0.group.utf8) }) == [[], Array("a".utf8), Array("\u{301}accent".utf8)])
        #expect(grid.count == 3)
    }

    // MARK: Upkeep

    /// Every window of an hour, several groups and stages, under 65 and above, with traces and late latencies.
    private func fill(_ engine: HeatmapEngine, _ generator: inout SeededGenerator) {
        let groups = (0..<6).map { engine.group("g\($0)") }
        let stages = ["deliver", "gateway"].map { engine.stage($0) }
        for window: UInt64 in 0..<60 {
            for (number, group) in groups.enumerated() {
                for stage in stages {
                    for at in 0..<UInt64(number * number * 8 + 1) {
                        engine.record(
                            stage: stage, group: group, endUnixNano: (monday - 3_600 + window * 60) * second + at,
                            latencyNano: UInt64.random(in: 1...(1 << 30), using: &generator), traceID: (window, at + 1))
                    }
                }
            }
        }
    }

    @Test("packing windows that are over changes nothing in any report, and saves memory")
    func sealing() throws {
        var generator = SeededGenerator(4)
        let clock = TestClock(monday)
        let engine = try makeEngine(clock: clock)
        fill(engine, &generator)
        let queries: [[(name: String, value: String)]] = [
            [], [("window", "5m"), ("sort", "slowest")], [("stage", "gateway"), ("quantile", "0.5"), ("window", "1h")],
        ]
        let before = try queries.map { try engine.grid($0).everything }
        let bytes = engine.cellBytes
        engine.maintain()
        #expect(try queries.map { try engine.grid($0).everything } == before)
        #expect(engine.cellBytes < bytes)
        engine.maintain()
        #expect(try queries.map { try engine.grid($0).everything } == before)
    }

    @Test("a late latency opens a packed window again, and the window is packed again")
    func lateIntoSealed() throws {
        var generator = SeededGenerator(5)
        let (clock, other) = (TestClock(monday), TestClock(monday))
        let (engine, reference) = (try makeEngine(clock: clock), try makeEngine(clock: other))
        fill(engine, &generator)
        generator = SeededGenerator(5)
        fill(reference, &generator)
        for _ in 0..<3 {
            engine.maintain()
            for each in [engine, reference] { each.record("g3", at: monday - 3_000, ms: [777], count: 2) }
            for each in [engine, reference] { each.record("new", at: monday - 3_000, ms: [5]) }
            #expect(try engine.grid().everything == reference.grid().everything)
        }
        engine.maintain()
        #expect(try engine.grid().everything == reference.grid().everything)
        #expect(engine.ledger == reference.ledger)
    }

    @Test("windows are forgotten when there are more than are to be kept, and their latencies are refused from then on")
    func retention() throws {
        let clock = TestClock(monday)
        let engine = try makeEngine(clock: clock) { $0.retainedWindows = 5 }
        for window: UInt64 in 0..<5 { engine.record("a", at: monday - window * 60, ms: [1]) }
        engine.maintain()
        #expect(engine.cellCount == 5)
        clock.set(second: monday + 120)
        engine.maintain()
        #expect(engine.cellCount == 3)
        #expect(try engine.grid().windows.map(\.start) == [-120, -60, 0].map { Int64(monday) + $0 })
        engine.record("a", at: monday - 180, ms: [1])
        engine.record("a", at: monday - 120, ms: [1])
        #expect(engine.ledger.latencies == 6)
        clock.set(second: monday + 86_400)
        engine.maintain()
        #expect(engine.cellCount == 0)
        #expect(engine.cellBytes == 0)
        #expect(try engine.grid().rows.isEmpty)
    }

    @Test("four threads that record at the same time as reports and upkeep lose nothing")
    func concurrency() throws {
        let clock = TestClock(monday)
        let engine = try makeEngine(clock: clock)
        let running = Atomic(4)
        DispatchQueue.concurrentPerform(iterations: 5) { thread in
            guard thread < 4 else {
                while running.load(ordering: .acquiring) > 0 {
                    _ = try? engine.grid()
                    engine.maintain()
                }
                return
            }
            for number in 0..<UInt64(10_000) {
                engine.record(
                    "g\(number % 7)", at: monday - 60 * (number % 10), ms: [number % 50], count: 1 + number % 2)
            }
            running.subtract(1, ordering: .releasing)
        }
        let grid = try engine.grid()
        #expect(grid.count == 60_000)
        #expect(engine.ledger.latencies == 60_000)
        // By the same rule, one number after another.
        var expected = [UInt64?](repeating: nil, count: 10)
        for number in 0..<UInt64(10_000) where number % 7 == 3 {
            let window = 9 - Int(number % 10)
            expected[window] = (expected[window] ?? 0) + 4 * (1 + number % 2)
        }
        #expect(grid.row("g3")?.cells.map { $0?.count } == expected)
    }

    // MARK: Slowest traces

    @Test("a cell keeps the slowest trace and a few near the high percentiles, in whatever order they come")
    func exemplars() throws {
        var generator = SeededGenerator(9)
        // Trace n has a latency of n ms, and a faster one besides.
        let ids = (1...1_000).map { _ in UInt64.random(in: 1 ... .max, using: &generator) }
        var events = ids.indices.flatMap { [(at: $0, ms: UInt64($0 + 1)), (at: $0, ms: UInt64($0 / 2 + 1))] }
        var kept: Set<[UInt64]> = []
        for _ in 0..<10 {
            let engine = try makeEngine()
            events.shuffle(using: &generator)
            for (number, event) in events.enumerated() {
                // In one window or in several that are added up.
                engine.record(
                    stage: engine.stage("deliver"), group: engine.group("a"),
                    endUnixNano: (monday + UInt64(number % 3) * 60) * second, latencyNano: event.ms * millisecond,
                    traceID: (0xAB, ids[event.at]))
            }
            let traces = try #require(engine.grid([("window", "1h")]).row("a")?.cells[0]).slowest
            #expect((3...6).contains(traces.count))
            #expect(traces[0].latencyNano == 1_000 * millisecond)
            #expect(traces[0].traceID.hasPrefix("00000000000000ab"))
            for trace in traces {
                #expect(trace.latencyNano == UInt64(ids.firstIndex(of: trace.low)! + 1) * millisecond)
            }
            // Of every 16th or 64th trace the slowest: not far from P95.
            #expect(traces.contains { (700...990).contains($0.latencyNano / millisecond) })
            kept.insert(traces.map(\.low))
        }
        #expect(kept.count == 1)
    }

    @Test("a batch counts every latency and its slowest stands for the trace")
    func batch() throws {
        let engine = try makeEngine()
        [10, 30, 20].map { $0 * millisecond }.withUnsafeBufferPointer {
            engine.recordBatch(
                stage: engine.stage("deliver"), group: engine.group("a"), endUnixNano: monday * second, latencies: $0,
                slowestTraceID: (1, 2))
        }
        let cell = try #require(engine.grid().row("a")?.cells[0])
        #expect(cell.count == 3)
        #expect(cell.p50Nano == 20 * millisecond)
        #expect(cell.slowest == [cell.slowest[0]])
        #expect(cell.slowest[0].latencyNano == 30 * millisecond)
    }

    // MARK: Stages

    /// Deliveries of 100 and 200 ms: mean 150. Of it 30 in the gateway and 45 in the stream, as parts; 75 is left.
    @Test("parts of a latency and what is left of it add up to the whole")
    func parts() throws {
        let engine = try makeEngine()
        engine.record("a", at: monday, ms: [100, 200])
        func part(_ stage: String, _ latencies: [UInt64]) {
            for latency in latencies {
                engine.recordStagePart(
                    stage: engine.stage(stage), group: engine.group("a"), endUnixNano: monday * second,
                    latencyNano: latency * millisecond)
            }
        }
        part("gateway", [20, 40])
        part("stream", [40, 50])
        let stages = try #require(engine.grid().row("a")?.total.stages)
        #expect(stages.map(\.stage) == ["gateway", "stream", "deliver"])
        #expect(stages.map(\.meanNano) == [30, 45, 75].map { $0 * millisecond })
        #expect(stages.map(\.share) == [0.2, 0.3, 0.5])
    }

    /// Means from acceptance on: gateway 10, deliver 40, receive 100; each stage's own time is the difference.
    @Test("stages that are measured from acceptance are broken down by differences")
    func differences() throws {
        let engine = try makeEngine()
        engine.record("a", at: monday, ms: [5, 15], stage: "gateway")
        engine.record("a", at: monday, ms: [40])
        engine.record("a", at: monday, ms: [100], stage: "receive")
        let all = try #require(engine.grid([("stage", "receive")]).row("a")?.cells[0]?.stages)
        #expect(all.map(\.stage) == ["gateway", "deliver", "receive"])
        #expect(all.map(\.meanNano) == [10, 30, 60].map { $0 * millisecond })
        #expect(all.map(\.share) == [0.1, 0.3, 0.6])
        let some = try #require(engine.grid().row("a")?.cells[0]?.stages)
        #expect(some.map(\.share) == [0.25, 0.75])
        #expect(try engine.grid([("stage", "gateway")]).row("a")?.cells[0]?.stages == [])
    }

    @Test("the stage that is shown is deliver, or span when only other programs' spans are there")
    func defaultStage() throws {
        let engine = try makeEngine()
        #expect(try engine.grid().stage == "deliver")
        engine.record("a", at: monday, ms: [1], stage: "span")
        #expect(try engine.grid().stage == "span")
        engine.record("a", at: monday, ms: [1])
        #expect(try engine.grid().stage == "deliver")
    }
}
