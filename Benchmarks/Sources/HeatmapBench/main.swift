import BenchSupport
import CAllocations
import Glibc
import Gzip
import LatencyHeatmap
import OTLP
import Synchronization

// Received spans to cells, the cells, memory, a crash, and rendering. Prints figures for `run`.
//
//     HeatmapBench [--repetitions N] [--only ingest|cells|memory|render] [--payload FILE]

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
        // A field that nobody knows, so that each pass can send other bytes: the same ones would be a repetition.
        message.varint(field: 15, 1)
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
    var plain = requests(spans: 10 * groupCount)
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
            for pass in 0..<passes {
                switch kind {
                case "plain":
                    for number in plain.indices {
                        plain[number][plain[number].count - 1] = UInt8(pass)
                        try engine.ingest(protobuf: plain[number])
                    }
                case "gzip":
                    for request in gzipped {
                        var bytes = try Gzip.decompress(request, limit: 64 << 20)
                        bytes[bytes.count - 1] = UInt8(pass)
                        try engine.ingest(protobuf: bytes)
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
    // Once more into cells that are there, to see what still asks the allocator.
    let warm = try engine(now: base + minute)
    for request in plain { try warm.ingest(protobuf: request) }
    for number in plain.indices { plain[number][plain[number].count - 1] = UInt8(passes) }
    let before = bench_thread_allocations()
    for request in plain { try warm.ingest(protobuf: request) }
    let allocations = Double(bench_thread_allocations() - before) / Double(10 * groupCount)
    report("ingest.allocations", "", [allocations], "allocations a span; cells of 10 values grow to 20 meanwhile")
    if let path = option("--payload"), let file = fopen(path, "w") {
        for request in plain {
            var length = UInt32(request.count).bigEndian
            fwrite(&length, 4, 1, file)
            fwrite(request, 1, request.count, file)
        }
        fclose(file)
    }
    let shape =
        "10,000 groups × 100 spans in one window, shuffled; 8 attributes, \(bytes) bytes a span, "
        + "\(spansPerRequest) spans a request; one thread's CPU"
    report("ingest.plain", "M spans/s", rates["plain"] ?? [], shape)
    let compression = "the same, gzip level 6, ratio \((ratio * 10).rounded() / 10)"
    report("ingest.gzip", "M spans/s", rates["gzip"] ?? [], compression)
    report("ingest.gunzip", "ns/span", gunzip, "of which decompressing alone")
}

// MARK: Cells

func measureCells() throws {
    let values = latencies(65_536, seed: 3)
    let engine = try engine(now: base + minute)
    let (stage, group) = (engine.stage("deliver"), engine.group("a"))
    var insert: [Double] = []
    var quantile: [Double] = []
    var merge: [Double] = []
    for _ in 0..<repetitions {
        values.withUnsafeBufferPointer {
            engine.recordBatch(stage: stage, group: group, endUnixNano: base, latencies: $0)
        }
        var start = BenchClock.thread
        for _ in 0..<50 {
            values.withUnsafeBufferPointer {
                engine.recordBatch(stage: stage, group: group, endUnixNano: base, latencies: $0)
            }
        }
        insert.append(Double(BenchClock.thread - start) / Double(50 * values.count))
        var sketch = Sketch()
        for value in values { sketch.insert(nanoseconds: value) }
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
    report("cell.insert", "ns", insert, "a batch of 65,536 into one open cell of 512 buckets, engine and lock included")
    report("sketch.p95", "ns", quantile, "512 buckets; one insert between two questions")
    report("sketch.merge", "ns", merge, "512 buckets")
}

// MARK: What a crash costs

/// Counts in a child until it is killed; what the child had counted stands in a pipe, what is recovered in the files.
func measureCrash(_ directory: String) throws {
    if option("--crash-child") != nil {
        let engine = try HeatmapEngine(configuration: HeatmapConfiguration())
        try engine.persist(in: directory)
        let (stage, groups) = (engine.stage("deliver"), (0..<1_000).map { engine.group("group-\($0)") })
        var counted: UInt64 = 0
        var next = BenchClock.wall
        while true {
            for group in groups {
                engine.record(stage: stage, group: group, endUnixNano: BenchClock.unix, latencyNano: 5_000_000)
            }
            counted += UInt64(groups.count)
            var line = (counted, BenchClock.wall)
            withUnsafeBytes(of: &line) { _ = write(STDOUT_FILENO, $0.baseAddress, $0.count) }
            // As the server does it, but in this thread.
            if BenchClock.wall >= next {
                engine.save()
                engine.maintain()
                next = BenchClock.wall + 500_000_000
            }
            usleep(1_000)
        }
    }
    let engine = try HeatmapEngine(configuration: HeatmapConfiguration())
    let start = BenchClock.wall
    try engine.persist(in: directory)
    let taken = Double(BenchClock.wall - start) / 1e6
    var recovered: UInt64 = 0
    var query = HeatmapQuery()
    query.stage = "deliver"
    recovered = try engine.snapshot(query: query).count
    print("recovered\t\(recovered)\t\(taken)")
}

// MARK: Memory

let clock = Atomic<UInt64>(base)

/// Fills windows as time goes by, packs them, and looks at what the process holds. In a child each, so that one does not
/// use another's pages. With fewer than 1440 windows the figure is extrapolated, and says so.
func measureMemory(perCell: Int, windows: Int) throws {
    var configuration = HeatmapConfiguration()
    configuration.now = { clock.load(ordering: .relaxed) }
    configuration.tiers = []
    // Time goes on until the last window is packed; none is to be forgotten meanwhile.
    configuration.retainedWindows = windows + 10
    configuration.memoryLimitBytes = 16 << 30
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
        (windows < 1_440 ? "EXTRAPOLATED to 1440 windows from \(windows): " : "all 1440 windows filled: ")
            + "\(Int(cell)) resident bytes a cell (the engine says \(engine.cellBytes / (windows * groupCount))), \(perCell) latencies with trace ids, over 8 octaves"
    )
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
    var html: [Double] = []
    for _ in 0..<max(repetitions, 9) {
        let start = BenchClock.thread
        let page = HeatmapHTML.render(try engine.snapshot(query: HeatmapQuery()))
        html.append(Double(BenchClock.thread - start) / 1e6)
        guard page.utf8.count > groups * windows else { fail("the page has \(page.utf8.count) bytes") }
    }
    report("render.html", "ms", html, "snapshot and page")
}

if only == nil || only == "ingest" { try measureIngest() }
if only == nil || only == "cells" { try measureCells() }
if let directory = option("--crash") { try measureCrash(directory) }
if let text = option("--memory-cell"), let count = Int(text) {
    try measureMemory(perCell: count, windows: Int(option("--windows") ?? "24") ?? 24)
}
if only == nil || only == "render" { try measureRender() }
