import BenchSupport
import Glibc
import Synchronization
import Telemetry

/// Spans that every thread makes at once, after which all wait for the exporter.
private let roundSpans = 16_384
private let rounds = 8

/// The same spans by one thread and by two that begin each round together. The ratio is taken within a repetition, and
/// by each thread's own CPU time: what other programs take does not count, waiting for a shared cache line does.
func threads(endpoint: String, repetitions: Int) {
    // A round fits the queue, so that nothing is dropped however slowly the exporter runs meanwhile.
    let sdk = makeSDK(endpoint: endpoint, maxQueueSize: 2 * roundSpans)
    defer { sdk.shutdown(deadline: .seconds(20)) }
    var alone: [Double] = []
    var together: [Double] = []
    _ = roundsOn(1, sdk)
    _ = roundsOn(2, sdk)
    for _ in 0..<repetitions {
        alone.append(roundsOn(1, sdk))
        together.append(roundsOn(2, sdk))
    }
    let ledger = sdk.ledger
    if ledger.totalDropped > 0 { return reportMissing("threads", "\(ledger.totalDropped) spans were dropped") }
    let text = "\(rounds) rounds of \(roundSpans) spans on each thread, queue \(2 * roundSpans); none dropped"
    report("threads.one", "ns", alone, "one thread; \(text)")
    report("threads.two", "ns", together, "two threads at once, mean of both; \(text)")
    report("threads.ratio", "×", zip(alone, together).map { $1 / $0 }, "two threads against one, same repetition")
}

/// CPU nanoseconds per span on the producing threads.
private func roundsOn(_ count: Int, _ sdk: TelemetrySDK) -> Double {
    final class Round: Sendable {
        let tracer: Telemetry.Tracer
        let threads: Int
        let ready = Atomic(0)
        let nanoseconds = Atomic<UInt64>(0)

        init(_ tracer: Telemetry.Tracer, _ threads: Int) {
            self.tracer = tracer
            self.threads = threads
        }

        func run() {
            let device = "device-100"
            ready.add(1, ordering: .relaxed)
            while ready.load(ordering: .relaxed) < threads {}
            let start = BenchClock.thread
            fourAttributes(tracer, roundSpans, device)
            nanoseconds.add(BenchClock.thread - start, ordering: .relaxed)
        }
    }
    var total: UInt64 = 0
    for _ in 0..<rounds {
        let round = Round(sdk.tracer, count)
        let threads = (0..<count).map { _ in
            var thread = pthread_t()
            pthread_create(
                &thread, nil,
                { argument in
                    if let argument { Unmanaged<Round>.fromOpaque(argument).takeRetainedValue().run() }
                    return nil
                }, Unmanaged.passRetained(round).toOpaque())
            return thread
        }
        for thread in threads { pthread_join(thread, nil) }
        total += round.nanoseconds.load(ordering: .relaxed)
        sdk.flush(deadline: .seconds(20))
    }
    return Double(total) / Double(count * rounds * roundSpans)
}
