import Foundation
import OTLP
import TestSupport
import Testing

@testable import LatencyHeatmap

@Suite("Windows, tiers, views and memory")
struct TierTests {
    private func tiers(_ configuration: inout HeatmapConfiguration) {
        configuration.retainedWindows = 10
        configuration.tiers = [
            HeatmapTier(window: .seconds(300), retention: .seconds(3_600)),
            HeatmapTier(window: .seconds(3_600), retention: .seconds(2 * 86_400)),
            HeatmapTier(window: .seconds(86_400), retention: .seconds(10 * 86_400)),
        ]
    }

    @Test("windows become longer as they age, and lose nothing but the resolution in time")
    func rollUp() throws {
        let clock = TestClock(monday)
        let engine = try makeEngine(clock: clock, tiers)
        let reference = try makeEngine()
        var generator = SeededGenerator(4)
        // Three days and a half, every ten minutes some latencies, a few of them two hours late.
        for step: UInt64 in 0..<504 {
            clock.set(second: monday + step * 600)
            for number in 0..<UInt64(20) {
                let late = number == 0 && step > 12 ? 7_200 : UInt64(0)
                let end = (monday + step * 600 - late) * second + number
                let latency = UInt64.random(in: 1...(1 << 30), using: &generator)
                for each in [engine, reference] {
                    each.record(
                        stage: each.stage("deliver"), group: each.group("g\(number % 3)"), endUnixNano: end,
                        latencyNano: latency, traceID: (7, latency))
                }
            }
            engine.maintain()
        }
        let lengths = engine.windows().map { $0.end - $0.start }
        #expect(Set(lengths) == [60, 300, 3_600, 86_400])
        #expect(lengths.sorted(by: >) == lengths)
        #expect(engine.ledger.latencies == 504 * 20)
        for (before, after) in zip(engine.windows(), engine.windows().dropFirst()) {
            #expect(before.end <= after.start)
        }
        let query = [(name: "window", value: "1d"), (name: "since", value: "2026-11-01T00:00:00Z")]
        let (joined, expected) = (try engine.grid(query), try reference.grid(query))
        for group in ["g0", "g1", "g2"] {
            let (row, other) = (try #require(joined.row(group)), try #require(expected.row(group)))
            #expect(row.cells.map { $0?.count } == other.cells.map { $0?.count })
            #expect(row.cells.map { $0?.p95Nano } == other.cells.map { $0?.p95Nano })
            #expect(row.cells.map { $0?.slowest } == other.cells.map { $0?.slowest })
        }
        clock.set(second: monday + 30 * 86_400)
        engine.maintain()
        #expect(engine.cellCount == 0)
    }

    /// 2026-11-23 was a Monday; in Shanghai, UTC+8 all year, it begins at 16:00 UTC the day before.
    @Test("windows of a day are calendar days of the zone")
    func calendarDays() throws {
        let clock = TestClock(monday)
        let engine = try makeEngine(clock: clock) {
            tiers(&$0)
            $0.timeZone = "Asia/Shanghai"
        }
        for hour: UInt64 in 0..<48 { engine.record("a", at: monday - 86_400 - 3_600 * hour, ms: [hour + 1]) }
        clock.set(second: monday + 4 * 86_400)
        engine.maintain()
        let days = engine.windows().filter { $0.end - $0.start == 86_400 }
        #expect(days.count >= 2)
        for day in days { #expect((day.start + 8 * 3_600) % 86_400 == 0) }
        #expect(try engine.grid([("window", "1d"), ("since", "2026-11-01T00:00:00Z")]).count == 48)
    }

    @Test("tiers that do not fit are refused by name")
    func invalidTiers() {
        func refused(_ change: (inout HeatmapConfiguration) -> Void) -> String? {
            var configuration = HeatmapConfiguration()
            change(&configuration)
            return #expect(throws: HeatmapError.self) { try HeatmapEngine(configuration: configuration) }?.cause
        }
        #expect(
            refused { $0.tiers = [HeatmapTier(window: .seconds(7_000), retention: .seconds(900_000))] }?
                .contains("divides a day") == true)
        #expect(
            refused {
                $0.tiers = [
                    HeatmapTier(window: .seconds(7_200), retention: .seconds(900_000)),
                    HeatmapTier(window: .seconds(10_800), retention: .seconds(900_000)),
                ]
            }?.contains("not a multiple") == true)
        #expect(
            refused { $0.tiers = [HeatmapTier(window: .seconds(300), retention: .seconds(60))] }?
                .contains("shorter time") == true)
        #expect(refused { $0.timeZone = "Mars/Base" }?.contains("Mars/Base") == true)
        #expect(refused { $0.thresholds = (1...5).map { .milliseconds($0) } }?.contains("thresholds") == true)
        #expect(refused { $0.views = (0..<8).map { HeatmapView("a\($0)") } }?.contains("views") == true)
    }

    // MARK: Views

    @Test("a span counts in every view whose attributes it or its resource has, own latencies too")
    func views() throws {
        let engine = try makeEngine {
            $0.views = [HeatmapView("service.name"), HeatmapView("device.group", "app.version")]
        }
        let request = Request.protobuf(
            [
                .init(attributes: [.init("device.group", "iOS"), .init("app.version", "2.1")]),
                .init(attributes: [.init("device.group", "iOS"), .init("app.version", 2)]),
                .init(attributes: [.init("device.group", "a\u{1F}b"), .init("app.version", "2.1")]),
                .init(attributes: [.init("app.version", "2.1")]),
                .init(),
            ], resource: [.init("service.name", "shop")])
        try engine.ingest(protobuf: request)
        let own = engine.group("iOS", attributes: [("device.group", "iOS"), ("app.version", "2.1")])
        engine.record(stage: engine.stage("span"), group: own, endUnixNano: monday * second, latencyNano: 1)
        func counts(_ view: Int) -> [[String]: UInt64] {
            let reading = engine.read(view: view)
            var found: [[String]: UInt64] = [:]
            for plane in reading.windows {
                var cells = plane.cells
                while let cell = cells.next() {
                    found[reading.view.values(ofGroup: reading.groupNames[cell.group]), default: 0] += cell.count
                }
            }
            return found
        }
        #expect(counts(0) == [["iOS"]: 3, ["a\u{1F}b"]: 1, ["shop"]: 2])
        #expect(counts(1) == [["shop"]: 5])
        #expect(counts(2) == [["iOS", "2.1"]: 2, ["iOS", "2"]: 1, ["a b", "2.1"]: 1])
        #expect(engine.ledger.counted == 5)
        #expect(engine.ledger.latencies == 6)
    }

    @Test("spans are filtered by attributes of their own or of their resource")
    func attributeFilter() throws {
        let engine = try makeEngine {
            $0.filter.attributes = ["tenant.id": "acme", "service.name": "shop"]
        }
        let spans: [Request.Span] = ["acme", "other"].map { .init(attributes: [.init("tenant.id", .string($0))]) }
        try engine.ingest(protobuf: Request.protobuf(spans + [.init()], resource: [.init("service.name", "shop")]))
        try engine.ingest(
            protobuf: Request.protobuf(spans, resource: [.init("service.name", "pay"), .init("tenant.id", "acme")]))
        #expect(engine.ledger.counted == 1)
        #expect(engine.ledger.discarded == [.filtered: 4])
    }

    // MARK: Repetitions

    @Test("a request that comes again within the time is discarded, and counted so; later, or changed, it counts")
    func duplicates() throws {
        let clock = TestClock(monday)
        let engine = try makeEngine(clock: clock) {
            $0.duplicateWindow = .seconds(10)
            $0.maxFingerprints = 4
        }
        let requests = (1...6).map { Request.protobuf([.init(name: "n\($0)"), .init()]) }
        try engine.ingest(protobuf: requests[0])
        try engine.ingest(protobuf: requests[0])
        #expect(engine.ledger.discarded == [.duplicate: 2])
        #expect(engine.ledger.counted == 2)
        // Another sender may send the same.
        try requests[0].withUnsafeBytes { _ = try engine.ingest(protobuf: $0, groupPrefix: "t/") }
        #expect(engine.ledger.counted == 4)
        clock.nanoseconds += 10 * second - 1
        try engine.ingest(protobuf: requests[0])
        #expect(engine.ledger.discarded == [.duplicate: 4])
        clock.nanoseconds += 1
        try engine.ingest(protobuf: requests[0])
        #expect(engine.ledger.counted == 6)
        // Four are remembered; the fifth pushes the first out.
        for request in requests[1...5] { try engine.ingest(protobuf: request) }
        for request in requests[2...5] { try engine.ingest(protobuf: request) }
        #expect(engine.ledger.counted == 16)
        try engine.ingest(protobuf: requests[1])
        #expect(engine.ledger.counted == 18)
        #expect(engine.ledger.isBalanced)
    }

    // MARK: Memory

    @Test("memory stays within its limit: exemplars go first, then resolution, then the oldest windows; all is counted")
    func memory() throws {
        let clock = TestClock(monday)
        let engine = try makeEngine(clock: clock) {
            $0.memoryLimitBytes = 1 << 20
            $0.maxGroups = 200
        }
        var generator = SeededGenerator(12)
        var stripped = false
        for minute: UInt64 in 0..<220 {
            clock.set(second: monday + minute * 60)
            for group in 0..<50 {
                for _ in 0..<20 {
                    engine.record(
                        stage: engine.stage("deliver"), group: engine.group("g\(group)"),
                        endUnixNano: (monday + minute * 60) * second,
                        latencyNano: UInt64.random(in: 1_000_000...400_000_000, using: &generator),
                        traceID: (minute + 1, UInt64.random(in: 1 ... .max, using: &generator)))
                }
            }
            engine.maintain()
            let memory = engine.memory
            #expect(memory.bytes <= (1 << 20) + (1 << 20) / 8)
            if memory.strippedWindows > 0, memory.coarsenedWindows == 0 {
                stripped = true
                #expect(memory.droppedWindows == 0)
            }
        }
        #expect(stripped)
        #expect(engine.memory.droppedWindows > 0)
        #expect(engine.ledger.latencies == 220 * 50 * 20)
    }

    @Test("coarsened cells say so, and are within what they say")
    func coarsened() throws {
        var generator = SeededGenerator(13)
        let values = (0..<5_000).map { _ in UInt64.random(in: 1_000...1_000_000_000, using: &generator) }
        let sorted = values.sorted()
        for shift in [1, 2, 3, 6, 10, 16] {
            var sketch = Sketch()
            for value in values { sketch.insert(nanoseconds: value) }
            sketch.coarsen(to: shift)
            #expect(sketch.scale == 6 - shift)
            // (b − 1) / (b + 1) for b = 2^(2^−scale): 2^(2^(shift − 6)).
            let base = pow(2, pow(2, Double(shift - 6)))
            #expect(abs(sketch.relativeError - (base.isFinite ? (base - 1) / (base + 1) : 1)) < 1e-9)
            for q in [0.01, 0.5, 0.95, 0.99, 1] {
                let exact = Double(sorted[Int((q * 5_000).rounded(.up)) - 1])
                let found = try #require(sketch.quantile(q))
                let off = max(0, abs(Double(found) - exact) - 0.5) / exact
                #expect(off <= sketch.relativeError, "shift \(shift), q \(q)")
            }
            #expect(Sketch(encoded: sketch.encoded()) == sketch)
        }
    }

    @Test("endless groups, stages, names and odd times are bounded and counted")
    func hostile() throws {
        let clock = TestClock(monday)
        let engine = try makeEngine(clock: clock) { $0.maxGroups = 50 }
        var spans: [Request.Span] = []
        for number in 0..<200 {
            spans.append(
                .init(attributes: [
                    .init("device.group", .string("g\(number)")), .init("isotherm.stage", .string("s\(number)")),
                ]))
        }
        let names = [
            String(repeating: "x", count: 1 << 20), "\u{0}\r\n\u{1B}[31m", "<script>alert(1)</script>", "=1+1",
            "\u{202E}abc", "a\u{1F}b",
        ]
        for name in names { spans.append(.init(attributes: [.init("device.group", .string(name))])) }
        spans.append(.init(start: 0, end: 0))
        spans.append(.init(start: .max, end: .max))
        spans.append(.init(start: monday * second + 5, end: monday * second))
        spans.append(.init(start: 1, end: 2))
        spans.append(.init(start: 1, end: monday * second))
        try engine.ingest(protobuf: Request.protobuf(spans))
        let ledger = engine.ledger
        #expect(ledger.received == 211)
        #expect(ledger.isBalanced)
        #expect(ledger.discarded == [.noLatency: 2, .future: 1, .expired: 1])
        #expect(engine.groupCount == 50)
        #expect(engine.read().stageNames.count <= 63)
        #expect(ledger.overflowed == 200 - 50 + UInt64(names.count) + 1)
        for name in engine.read().groupNames { #expect(name.utf8.count <= 128) }
    }
}
