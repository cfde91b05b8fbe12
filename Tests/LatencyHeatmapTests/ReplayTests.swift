import Foundation
import OTLP
import TestSupport
import Testing

@testable import LatencyHeatmap

/// The same latencies must give the same report, however they come.
@Suite("Replays")
struct ReplayTests {
    struct Event {
        let group: String
        let stage: String
        let end: UInt64
        let latency: UInt64
        let trace: UInt64
    }

    static func events(_ count: Int, seed: UInt64) -> [Event] {
        var generator = SeededGenerator(seed)
        return (0..<count).map { number in
            let spread = UInt64.random(in: 4...32, using: &generator)
            return Event(
                group: "g\(Int.random(in: 0..<5, using: &generator))",
                stage: Bool.random(using: &generator) ? "deliver" : "gateway",
                end: monday * second + UInt64.random(in: 0..<(600 * second), using: &generator),
                latency: UInt64.random(in: 0...(1 << spread), using: &generator),
                // Some traces several times.
                trace: number % 4 == 0 ? UInt64(number % 50 + 1) : UInt64.random(in: 1 ... .max, using: &generator))
        }
    }

    private func record(_ events: some Sequence<Event>, into engine: HeatmapEngine) {
        for event in events {
            engine.record(
                stage: engine.stage(event.stage), group: engine.group(event.group), endUnixNano: event.end,
                latencyNano: event.latency, traceID: (9, event.trace))
        }
    }

    private static func protobuf(_ events: some Sequence<Event>) -> [[UInt8]] {
        var requests: [[UInt8]] = []
        var spans: [Request.Span] = []
        for event in events {
            spans.append(
                .init(
                    start: event.end - event.latency, end: event.end,
                    attributes: [
                        .init("device.group", .string(event.group)), .init("isotherm.stage", .string(event.stage)),
                    ]))
            if spans.count == 37 {
                requests.append(Request.protobuf(spans))
                spans = []
            }
        }
        return requests + [Request.protobuf(spans)]
    }

    private func csv(_ engine: HeatmapEngine) throws -> String {
        HeatmapCSV.render(try engine.grid([("window", "1m")]))
    }

    @Test("shuffled latencies give a byte-identical report, packed in between or not")
    func shuffled() throws {
        var generator = SeededGenerator(1)
        var events = Self.events(4_000, seed: 1)
        let reference = try makeEngine()
        record(events, into: reference)
        let expected = try csv(reference)
        for round in 0..<5 {
            events.shuffle(using: &generator)
            let engine = try makeEngine()
            for start in stride(from: 0, to: events.count, by: 500) {
                record(events[start..<min(start + 500, events.count)], into: engine)
                // Everything is long over: each round packs, and opens again.
                if round % 2 == 1 { engine.maintain() }
            }
            #expect(try csv(engine) == expected)
        }
    }

    @Test("late latencies change nothing but what is said of their lateness")
    func late() throws {
        let events = Self.events(3_000, seed: 2)
        let clock = TestClock(monday)
        let onTime = try makeEngine(clock: clock) { $0.maxFuture = nil }
        record(events, into: onTime)
        let late = try makeEngine(clock: clock) { $0.maxFuture = nil }
        record(events.prefix(1_500), into: late)
        clock.set(second: monday + 3_600)
        late.maintain()
        record(events.dropFirst(1_500), into: late)
        late.maintain()
        let (a, b) = (try onTime.grid(), try late.grid())
        for (x, y) in zip(a.rows, b.rows) {
            #expect(x.group == y.group)
            #expect(x.cells.map { $0?.count } == y.cells.map { $0?.count })
            #expect(x.cells.map { $0?.p95Nano } == y.cells.map { $0?.p95Nano })
            #expect(x.cells.map { $0?.slowest } == y.cells.map { $0?.slowest })
        }
        #expect(a.late == 0)
        // The report is of one stage.
        #expect(b.late == UInt64(events.dropFirst(1_500).count { $0.stage == "deliver" }))
        #expect(late.ledger.late == 1_500)
    }

    @Test("requests that are sent again and in another order give a byte-identical report")
    func duplicated() throws {
        var generator = SeededGenerator(3)
        let requests = Self.protobuf(Self.events(2_000, seed: 3))
        let reference = try makeEngine()
        for request in requests { try reference.ingest(protobuf: request) }
        let engine = try makeEngine()
        for request in (requests + requests + requests.prefix(7)).shuffled(using: &generator) {
            try engine.ingest(protobuf: request)
        }
        #expect(try csv(engine) == csv(reference))
        #expect(engine.ledger.isBalanced)
        #expect(engine.ledger.counted == 2_000)
        #expect(engine.ledger.discarded.keys.elementsEqual([.duplicate]))
    }

    @Test("one to 64 shards, merged in any order, give the cells of one engine", arguments: [1, 2, 7, 64])
    func sharded(shards: Int) throws {
        var generator = SeededGenerator(UInt64(shards))
        let events = Self.events(4_000, seed: 4)
        let whole = try makeEngine()
        record(events, into: whole)
        let engines = try (0..<shards).map { _ in try makeEngine() }
        // The same names get the same numbers, as the merger of planes needs it.
        for engine in engines {
            for stage in ["deliver", "gateway"] { _ = engine.stage(stage) }
            for group in 0..<5 { _ = engine.group("g\(group)") }
        }
        for event in events { record([event], into: engines[Int.random(in: 0..<shards, using: &generator)]) }
        let reference = try makeEngine()
        for stage in ["deliver", "gateway"] { _ = reference.stage(stage) }
        for group in 0..<5 { _ = reference.group("g\(group)") }
        record(events, into: reference)
        for window in reference.read().windows {
            let parts = engines.flatMap { $0.read(from: window.start, until: window.end).windows }
            let merged = PlaneMerge.merge(
                parts.shuffled(using: &generator), start: window.start, end: window.end, thresholds: window.thresholds)
            #expect(Array(merged.bytes) == Array(window.bytes))
        }
    }

    @Test(
        "every view's CSV is the same to the byte, whatever the order, the shards, the repetitions and the restarts",
        arguments: [1, 64])
    func restarts(shards: Int) throws {
        var generator = SeededGenerator(UInt64(shards))
        let requests = stride(from: 0, to: 1_600, by: 25).map { start in
            Request.protobuf(
                Self.events(25, seed: UInt64(start) + 1).map { event in
                    .init(
                        start: event.end - event.latency, end: event.end,
                        attributes: [
                            .init("device.group", .string(event.group)), .init("isotherm.stage", .string(event.stage)),
                            .init("tenant.id", .string("t\(event.trace % 3)")),
                        ])
                })
        }
        func make() throws -> HeatmapEngine {
            try makeEngine {
                $0.views = ["tenant.id", "tenant.id+device.group"].compactMap(HeatmapView.init(parsing:))
            }
        }
        func reports(_ engine: HeatmapEngine) throws -> [String] {
            try [
                [], [("stage", "gateway")], [("by", "tenant.id")],
                [("by", "tenant.id+device.group"), ("window", "5m")],
                [("where", "tenant.id=t1"), ("by", "device.group")],
                [("view", "distribution"), ("group", "g1")], [("view", "distribution")],
                [("view", "slo"), ("slo", "10ms"), ("objective", "0.9")], [("view", "slo"), ("by", "tenant.id")],
            ].map { items in
                let report = try engine.report(query: HeatmapQuery(items: items + [("until", "2026-11-23T09:00:00Z")]))
                return String(decoding: Array(report.csv.joined()), as: UTF8.self)
            }
        }
        let reference = try make()
        for request in requests { try reference.ingest(protobuf: request) }
        let expected = try reports(reference)
        #expect(Set(expected).count == expected.count)

        let directory = try ScratchDirectory()
        var engine = try make()
        try engine.persist(in: directory.path)
        for shard in 0..<shards {
            for number in stride(from: shard, to: requests.count, by: shards).shuffled(using: &generator) {
                try engine.ingest(protobuf: requests[number])
                try engine.ingest(protobuf: requests[number])
                if number % 7 == 0 { engine.maintain() }
            }
            guard shard % 32 == 0 else { continue }
            engine.save()
            // As after `kill -9`: nothing is closed.
            engine = try make()
            try engine.persist(in: directory.path)
        }
        #expect(try reports(engine) == expected)
    }

    /// For each case: n, then the exact P95, then the values.
    static let program = """
        import random, struct, sys
        r = random.Random(4)
        MS = 10 ** 6
        kinds = [
            lambda: int(r.lognormvariate(3, 1) * MS),
            lambda: int(r.gammavariate(2, 20) * MS),
            lambda: int((r.gauss(20, 2) if r.random() < 0.93 else r.gauss(900, 50)) * MS) if True else 0,
            lambda: 217 * MS,
            lambda: int(2 ** (r.randrange(-600, 600) / 64) * 10 ** 9) + r.choice([-1, 0, 1]),
        ]
        for kind in kinds:
            for n in [1, 2, 19, 20, 63, 64, 65, 128, 1_000, 10_000, 100_000]:
                values = [max(0, kind()) for _ in range(n)]
                exact = sorted(values)[-(-95 * n // 100) - 1]
                sys.stdout.buffer.write(struct.pack(f'<{2 + n}Q', n, exact, *values))
        """

    @Test(
        "P95 of a cell is exact to 64 values and within 0.54 % above, for five distributions and up to 100,000 values")
    func accuracy() throws {
        var numbers = Numbers(try Peers.python(Self.program).standardOutput)
        var cases = 0
        while !numbers.isAtEnd {
            let n = Int(numbers.next())
            let exact = numbers.next()
            let engine = try makeEngine()
            let (stage, group) = (engine.stage("deliver"), engine.group("a"))
            numbers.next(n).withUnsafeBufferPointer {
                engine.recordBatch(stage: stage, group: group, endUnixNano: monday * second, latencies: $0)
            }
            let window = try #require(engine.read().windows.first)
            var cells = window.cells
            let first = cells.next()
            let found = try #require(first?.quantile(0.95))
            if n <= 64 {
                #expect(found == exact)
            } else {
                let off = max(0, abs(Double(found) - Double(exact)) - 0.5) / Double(exact)
                #expect(off <= 0.005_416, "case \(cases), n \(n)")
            }
            cases += 1
        }
        #expect(cases == 55)
    }
}
