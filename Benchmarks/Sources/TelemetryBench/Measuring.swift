import BenchSupport
import CAllocations
import Glibc
import Telemetry

/// Spans between two pauses: less than the smallest ring's half, so that none are dropped.
let burst = 512

struct Cost {
    var thread = 0.0
    var process = 0.0
    var allocations = 0.0
    var processAllocations = 0.0
    var dropped: UInt64 = 0
    var exported: UInt64 = 0
}

func makeSDK(
    sampler: Telemetry.Sampler = .alwaysOn, endpoint: String?, maxQueueSize: Int? = nil
) -> TelemetrySDK {
    var configuration = TelemetryConfiguration()
    configuration.endpoint = endpoint
    configuration.sampler = sampler
    if let maxQueueSize { configuration.maxQueueSize = maxQueueSize }
    return TelemetrySDK(configuration: configuration)
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

/// A dropped span costs less than one that is kept, so a repetition that drops any does not count: it is repeated with
/// a longer pause, and the report says how many there were.
func sampled(
    _ key: String, _ title: String, endpoint: String, repetitions: Int, _ body: (TelemetrySDK, Int) -> Void
) {
    let spans = 128 * 1_024
    let sdk = makeSDK(endpoint: endpoint)
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

/// Nothing is exported here, so there are no pauses.
func unexported(
    _ key: String, _ sdk: TelemetrySDK, _ title: String, spans: Int = 1_000_000, repetitions: Int, _ body: (Int) -> Void
) {
    let costs = (0..<repetitions).map { _ in measure(sdk, spans: spans, pause: 0, body) }
    report("\(key).thread", "ns", costs.map(\.thread), title)
    report("\(key).allocations", "per span", costs.map(\.allocations), "malloc calls on the producing thread")
}
