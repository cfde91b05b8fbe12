import BenchSupport
import Glibc
import Gzip
import LatencyHeatmap
import OTLP
import Synchronization

// Received spans to cells, the sketch, memory, and rendering. Prints figures for `run`.
//
//     HeatmapBench [--repetitions N] [--only ingest|sketch|memory|render]

let repetitions = Int(option("--repetitions") ?? "7") ?? 7
let only = option("--only")

let groupCount = 10_000
let spansPerRequest = 512
/// A time on a minute's edge.
let base: UInt64 = 1_764_000_000_000_000_000
let minute: UInt64 = 60_000_000_000

/// Latencies of 1 to 256 ms, evenly over the octaves: 512 buckets.
func latencies(_ count: Int, seed: UInt64) -> [UInt64] {
    var random = Xorshift(seed: seed)
    return (0..<count).map { _ in UInt64(1_000_000 * exp2(Double.random(in: 0..<8, using: &random))) }
}

// MARK: Requests

func attribute(_ key: String, _ value: AnyValue, into span: inout ProtobufWriter) {
    span.message(field: 9) { KeyValue(key, value).encode(into: &$0) }
}

/// `count` spans of 8 attributes, each group as often as any other, in an order that is shuffled.
func requests(spans count: Int) -> [[UInt8]] {
    var random = Xorshift(seed: 7)
    var order = (0..<count).map { $0 % groupCount }
    order.shuffle(using: &random)
    let values = latencies(count, seed: 11)
    return stride(from: 0, to: count, by: spansPerRequest).map { start in
        var message = ProtobufWriter()
        message.message(field: 1) { resourceSpans in
            resourceSpans.message(field: 1) {
                Resource(attributes: [
                    KeyValue("service.name", "push-gateway"), KeyValue("service.instance.id", "b7e2c0f4"),
                ]).encode(into: &$0)
            }
            resourceSpans.message(field: 2) { scopeSpans in
                scopeSpans.message(field: 1) { InstrumentationScope(name: "isotherm").encode(into: &$0) }
                for number in start..<min(start + spansPerRequest, count) {
                    scopeSpans.message(field: 2) { span in
                        span.data(field: 1, (0..<16).map { _ in UInt8.random(in: 0...255, using: &random) })
                        span.data(field: 2, (0..<8).map { _ in UInt8.random(in: 0...255, using: &random) })
                        span.data(field: 4, (0..<8).map { _ in UInt8.random(in: 0...255, using: &random) })
                        span.string(field: 5, "deliver")
                        span.varint(field: 6, 5)
                        let end = base + UInt64(number) * 1_000
                        span.fixed64(field: 7, end - values[number])
                        span.fixed64(field: 8, end)
                        attribute("isotherm.stage", "deliver", into: &span)
                        attribute("messaging.system", "isotherm", into: &span)
                        attribute("messaging.destination.name", "orders", into: &span)
                        attribute("messaging.message.id", .string("ev_\(1_000_000_000 + number)"), into: &span)
                        attribute("messaging.operation.type", "process", into: &span)
                        attribute("tenant.id", "default", into: &span)
                        attribute("device.group", .string("group-\(10_000 + order[number])"), into: &span)
                        attribute("isotherm.latency_ns", .int(Int64(values[number])), into: &span)
                    }
                }
            }
        }
        return message.bytes
    }
}

func engine(now: UInt64) throws -> HeatmapEngine {
    var configuration = HeatmapConfiguration()
    configuration.now = { now }
    return try HeatmapEngine(configuration: configuration)
}

/// One minute of 10,000 groups with 100 spans each: a cell's whole life, from its birth through 64 exact values to
/// buckets.
func measureIngest() throws {
    // Read ten times over: 10 spans of each group in each pass.
    let plain = requests(spans: 10 * groupCount)
    let gzipped = plain.map { Gzip.compress($0, level: 6) }
    let passes = 10
    let spans = Double(passes * 10 * groupCount)
    let bytes = plain.reduce(0) { $0 + $1.count } / (10 * groupCount)
    let ratio = Double(plain.reduce(0) { $0 + $1.count }) / Double(gzipped.reduce(0) { $0 + $1.count })

    var rates: [String: [Double]] = [:]
    var gunzip: [Double] = []
    for _ in 0..<repetitions {
        for kind in ["plain", "gzip", "gunzip"] {
            let engine = try engine(now: base + minute)
            let start = BenchClock.thread
            for _ in 0..<passes {
                switch kind {
                case "plain":
                    for request in plain { try engine.ingest(protobuf: request) }
                case "gzip":
                    for request in gzipped {
                        try engine.ingest(protobuf: Gzip.decompress(request, limit: 64 << 20))
                    }
                default:
                    for request in gzipped { keep(try Gzip.decompress(request, limit: 64 << 20)) }
                }
            }
            let elapsed = Double(BenchClock.thread - start)
            if kind == "gunzip" {
                gunzip.append(elapsed / spans)
            } else {
                let ledger = engine.ledger
                guard ledger.counted == UInt64(spans), engine.groupCount == groupCount else {
                    fail("the engine counted \(ledger.counted) spans of \(Int(spans)) in \(engine.groupCount) groups")
                }
                rates[kind, default: []].append(spans * 1_000 / elapsed)
            }
        }
    }
    let shape =
        "10,000 groups × 100 spans in one window, shuffled; 8 attributes, \(bytes) bytes a span, "
        + "\(spansPerRequest) spans a request; one thread's CPU"
    report("ingest.plain", "M spans/s", rates["plain"] ?? [], shape)
    let compression = "the same, gzip level 6, ratio \((ratio * 10).rounded() / 10)"
    report("ingest.gzip", "M spans/s", rates["gzip"] ?? [], compression)
    report("ingest.gunzip", "ns/span", gunzip, "of which zlib alone")
}

// MARK: Sketch

func measureSketch() {
    let values = latencies(65_536, seed: 3)
    var insert: [Double] = []
    var quantile: [Double] = []
    var merge: [Double] = []
    for _ in 0..<repetitions {
        var sketch = Sketch()
        for value in values { sketch.insert(nanoseconds: value) }
        var start = BenchClock.thread
        for _ in 0..<50 { for value in values { sketch.insert(nanoseconds: value) } }
        insert.append(Double(BenchClock.thread - start) / Double(50 * values.count))
        start = BenchClock.thread
        var sum: UInt64 = 0
        for _ in 0..<20_000 {
            sum &+= sketch.quantile(0.95) ?? 0
            sketch.insert(nanoseconds: values[Int(sum & 0xFFFF)])
        }
        keep(sum)
        quantile.append(Double(BenchClock.thread - start) / 20_000)
        var total = Sketch()
        total.merge(sketch)
        start = BenchClock.thread
        for _ in 0..<20_000 { total.merge(sketch) }
        keep(total)
        merge.append(Double(BenchClock.thread - start) / 20_000)
    }
    report("sketch.insert", "ns", insert, "into one sketch of 512 buckets")
    report("sketch.p95", "ns", quantile, "512 buckets; one insert between two questions")
    report("sketch.merge", "ns", merge, "512 buckets")
}

// MARK: Memory

let clock = Atomic<UInt64>(base)

/// Fills windows as time goes by, seals them, and looks at what the process holds. In a child each, so that one does
/// not use another's pages.
func measureMemory(perCell: Int, windows: Int) throws {
    var configuration = HeatmapConfiguration()
    configuration.now = { clock.load(ordering: .relaxed) }
    let engine = try HeatmapEngine(configuration: configuration)
    let stage = engine.stage("deliver")
    let groups = (0..<groupCount).map { engine.group("group-\(10_000 + $0)") }
    let values = latencies(65_536, seed: 5)
    var random = Xorshift(seed: 17)
    let before = residentBytes()
    for window in 0..<windows {
        let now = base + UInt64(window) * minute
        clock.store(now, ordering: .relaxed)
        for round in 0..<perCell {
            for (number, group) in groups.enumerated() {
                engine.record(
                    stage: stage, group: group, endUnixNano: now + 1,
                    latencyNano: values[(number &* 131 &+ round &* 7 &+ window) & 0xFFFF],
                    traceID: (random.next(), random.next()))
            }
        }
        engine.maintain()
    }
    clock.store(base + UInt64(windows + 5) * minute, ordering: .relaxed)
    engine.maintain()
    let after = residentBytes()
    guard engine.cellCount == windows * groupCount else { fail("\(engine.cellCount) cells") }
    let cell = Double(after - before) / Double(windows * groupCount)
    report(
        "memory.n\(perCell)", "GB", [cell * Double(groupCount) * 1_440 / 1e9],
        "EXTRAPOLATED to 1440 windows from \(windows) sealed ones: \(Int(cell)) resident bytes a cell "
            + "(the engine says \(engine.cellBytes / (windows * groupCount))), \(perCell) latencies with trace ids, "
            + "over 8 octaves")
}

// MARK: Rendering

func measureRender() throws {
    let groups = 100
    let windows = 60
    var configuration = HeatmapConfiguration()
    configuration.now = { base + 60 * minute }
    let engine = try HeatmapEngine(configuration: configuration)
    let stage = engine.stage("deliver")
    let values = latencies(65_536, seed: 9)
    for group in 0..<groups {
        let id = engine.group("group-\(100 + group)")
        for window in 0..<windows {
            for number in 0..<200 {
                engine.record(
                    stage: stage, group: id, endUnixNano: base + UInt64(window) * minute + UInt64(number),
                    latencyNano: values[(group * 7_919 + window * 211 + number) & 0xFFFF],
                    traceID: (UInt64(number + 1), UInt64(group + 1)))
            }
        }
    }
    engine.maintain()
    var snapshot: [Double] = []
    var render: [Double] = []
    var both: [Double] = []
    for _ in 0..<max(repetitions, 9) {
        var start = BenchClock.thread
        let grid = try engine.snapshot(query: HeatmapQuery())
        let taken = Double(BenchClock.thread - start) / 1e6
        start = BenchClock.thread
        let text = HeatmapText.render(grid, width: 600)
        let rendered = Double(BenchClock.thread - start) / 1e6
        guard grid.rows.count == groups, grid.windows.count == windows, text.utf8.count > groups * windows * 8 else {
            fail("the report has \(grid.rows.count) rows and \(grid.windows.count) windows, \(text.utf8.count) bytes")
        }
        snapshot.append(taken)
        render.append(rendered)
        both.append(taken + rendered)
    }
    report("render.snapshot", "ms", snapshot, "100 groups × 60 sealed windows, 200 latencies a cell, 3 traces each")
    report("render.text", "ms", render, "600 columns wide, so that all 60 windows show")
    report("render.both", "ms", both, "snapshot and text")
}

if only == nil || only == "ingest" { try measureIngest() }
if only == nil || only == "sketch" { measureSketch() }
if let text = option("--memory-cell"), let count = Int(text) {
    try measureMemory(perCell: count, windows: count > 200 ? 8 : 24)
}
if only == nil || only == "render" { try measureRender() }
