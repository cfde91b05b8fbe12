import BenchSupport
import CAllocations
import Glibc
import OTLP
import Telemetry
import Tracing
import TracingBridge

// Cost of a span on the thread that makes it and in the whole process, with a live exporter. `run` starts the sink.
//
//     TelemetryBench --endpoint http://127.0.0.1:4318/v1/traces [--repetitions N]
//     TelemetryBench --endpoint URL --fixed N [--bridge]   makes N spans and prints nothing: for counting instructions

guard let endpoint = option("--endpoint") else {
    fail("say where spans go: --endpoint http://127.0.0.1:4318/v1/traces")
}
let repetitions = Int(option("--repetitions") ?? "9") ?? 9
/// Spans between two pauses: less than the smallest ring's half, so that none are dropped.
let burst = 512

let devices = (0..<16).map { "device-\(100 + $0)" }

func makeSDK(sampler: Telemetry.Sampler = .alwaysOn, endpoint: String? = endpoint) -> TelemetrySDK {
    var configuration = TelemetryConfiguration()
    configuration.endpoint = endpoint
    configuration.sampler = sampler
    return TelemetrySDK(configuration: configuration)
}

@inline(never)
func fourAttributes(_ tracer: Telemetry.Tracer, _ count: Int, _ devices: [String]) {
    for number in 0..<count {
        let span = tracer.startSpan("deliver", kind: .consumer)
        span.setAttribute("messaging.system", "isotherm")
        span.setAttribute("messaging.operation.type", "process")
        span.setAttribute("isotherm.latency_ns", 31_000_000 &+ number)
        span.setAttribute("device.id", devices[number & 15])
        span.end()
    }
}

/// No clock is read: what is left is the encoding, the ids, and the slot.
@inline(never)
func tenAttributes(_ tracer: Telemetry.Tracer, _ count: Int, _ devices: [String], _ instant: Instant) {
    for number in 0..<count {
        let span = tracer.startSpan("deliver", kind: .consumer, at: instant)
        span.setAttribute("isotherm.stage", "deliver")
        span.setAttribute("messaging.system", "isotherm")
        span.setAttribute("messaging.destination.name", "orders")
        span.setAttribute("messaging.operation.type", "process")
        span.setAttribute("messaging.message.id", "ev_0123456789abcdefghij")
        span.setAttribute("tenant.id", "default")
        span.setAttribute("device.group", "iOS-15+")
        span.setAttribute("device.id", devices[number & 15])
        span.setAttribute("isotherm.latency_ns", 31_000_000 &+ number)
        span.setAttribute("isotherm.catch_up", false)
        span.end(at: instant)
    }
}

struct Cost {
    var thread = 0.0
    var process = 0.0
    var allocations = 0.0
    var processAllocations = 0.0
    var dropped: UInt64 = 0
    var exported: UInt64 = 0
}

/// Bursts with pauses in which the exporter works; the pauses do not count on the thread.
func measure(_ sdk: TelemetrySDK, spans: Int, pause: useconds_t, _ body: (Int) -> Void) -> Cost {
    let before = sdk.ledger
    let process = BenchClock.process
    let processAllocations = bench_process_allocations()
    var thread: UInt64 = 0
    var allocations: UInt64 = 0
    var left = spans
    while left > 0 {
        let count = min(burst, left)
        let allocated = bench_thread_allocations()
        let start = BenchClock.thread
        body(count)
        thread += BenchClock.thread - start
        allocations += bench_thread_allocations() - allocated
        left -= count
        if pause > 0 { usleep(pause) }
    }
    sdk.flush(deadline: .seconds(20))
    let after = sdk.ledger
    if !after.isBalanced { fail("the ledger does not balance: \(after)") }
    let number = Double(spans)
    return Cost(
        thread: Double(thread) / number, process: Double(BenchClock.process - process) / number,
        allocations: Double(allocations) / number,
        processAllocations: Double(bench_process_allocations() - processAllocations) / number,
        dropped: after.totalDropped - before.totalDropped, exported: after.exported - before.exported)
}

if let text = option("--fixed"), let count = Int(text) {
    let sdk = makeSDK()
    // Under callgrind all threads share one core and are fifty times as slow.
    let isBridged = CommandLine.arguments.contains("--bridge")
    let cost = measure(sdk, spans: count, pause: 50_000) { count in
        if isBridged {
            bridged(BridgedTracer(sdk), count, devices)
        } else {
            fourAttributes(sdk.tracer, count, devices)
        }
    }
    sdk.shutdown(deadline: .seconds(20))
    if cost.dropped > 0 { fail("\(cost.dropped) spans were dropped") }
    exit(0)
}

let spans = 128 * 1_024

/// A dropped span costs less than one that is kept, so a repetition that drops any does not count: it is repeated with
/// a longer pause, and the report says how many there were.
func sampled(_ key: String, _ title: String, _ body: (TelemetrySDK, Int) -> Void) {
    let sdk = makeSDK()
    defer { sdk.shutdown(deadline: .seconds(20)) }
    var pause: useconds_t = 500
    var discarded = 0
    var costs: [Cost] = []
    _ = measure(sdk, spans: spans, pause: pause) { body(sdk, $0) }
    while costs.count < repetitions {
        let cost = measure(sdk, spans: spans, pause: pause) { body(sdk, $0) }
        if cost.dropped == 0 {
            costs.append(cost)
        } else {
            discarded += 1
            pause = min(pause * 2, 16_000)
            if discarded > 3 * repetitions {
                return reportMissing(key, "spans were dropped in \(discarded) repetitions")
            }
        }
    }
    let exported = costs.reduce(0) { $0 + $1.exported }
    let fate =
        "\(exported) exported, 0 dropped; \(discarded) further repetitions dropped spans and do not count; default queue "
        + "and batch, bursts of \(burst), pause \(pause) µs at the end"
    report("\(key).thread", "ns", costs.map(\.thread), "\(title); \(fate)")
    report("\(key).process", "ns", costs.map(\.process), "producer, collector, exporter, libcurl, kernel")
    report("\(key).allocations", "per span", costs.map(\.allocations), "malloc calls on the producing thread")
    report("\(key).process_allocations", "per span", costs.map(\.processAllocations), "malloc calls, all threads")
}

sampled("span4", "start + 4 attributes + end") { sdk, count in fourAttributes(sdk.tracer, count, devices) }
sampled("bridge", "withSpan, 4 attributes, through swift-distributed-tracing") { sdk, count in
    bridged(BridgedTracer(sdk), count, devices)
}
do {
    let sdk = makeSDK(endpoint: nil)
    let costs = (0..<repetitions).map { _ in
        measure(sdk, spans: spans, pause: 0) { bridged(NoOpTracer(), $0, devices) }
    }
    report("noop.thread", "ns", costs.map(\.thread), "the same withSpan with swift-distributed-tracing's NoOpTracer")
    report("noop.allocations", "per span", costs.map(\.allocations), "malloc calls on the producing thread")
    sdk.shutdown(deadline: .seconds(1))
}
let instant = Clock.now()
sampled("span10", "ids + slot + 10 attributes + end, no clock read") { sdk, count in
    tenAttributes(sdk.tracer, count, devices, instant)
}

for (key, title, sdk) in [
    ("unsampled", "sampler always_off", makeSDK(sampler: .alwaysOff)),
    ("disabled", "no endpoint", makeSDK(endpoint: nil)),
] {
    let costs = (0..<repetitions).map { _ in
        measure(sdk, spans: 1_000_000, pause: 0) { fourAttributes(sdk.tracer, $0, devices) }
    }
    report("\(key).thread", "ns", costs.map(\.thread), "\(title); start + 4 attributes + end, context with ids made")
    report("\(key).allocations", "per span", costs.map(\.allocations), "malloc calls on the producing thread")
    sdk.shutdown(deadline: .seconds(1))
}
