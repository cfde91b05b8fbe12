import BenchSupport
import CAllocations
import EventStreams
import Foundation
import Synchronization

/// One batch at a time: the next is appended when the one before is on the disk.
func append(_ stream: any EventStream, batch: Int, seconds: Double) async throws -> Double {
    let start = BenchClock.wall
    let end = start + UInt64(seconds * 1e9)
    var appended = 0
    while BenchClock.wall < end {
        _ = try await stream.append((0..<batch).map { _ in event() }, durability: .fsync)
        appended += batch
    }
    return Double(appended) * 1e9 / Double(BenchClock.wall - start)
}

/// Many producers with one event each under way: they share commits.
func appendTogether(
    _ stream: any EventStream, producers: Int, _ durability: Durability, seconds: Double, keys: Int = 0
) async throws -> Double {
    let start = BenchClock.wall
    let end = start + UInt64(seconds * 1e9)
    let appended = try await withThrowingTaskGroup(of: Int.self) { group in
        for producer in 0..<producers {
            group.addTask {
                var count = 0
                var random = Xorshift(seed: UInt64(producer + 1))
                while BenchClock.wall < end {
                    let key = keys > 0 ? "device-\(Int.random(in: 0..<keys, using: &random))" : nil
                    _ = try await stream.append([event(key: key)], durability: durability)
                    count += 1
                }
                return count
            }
        }
        return try await group.reduce(0, +)
    }
    return Double(appended) * 1e9 / Double(BenchClock.wall - start)
}

func measureAppends() async throws {
    let store = try open("append")
    let stream = try store.stream(tenant: "default")
    _ = try await append(stream, batch: 100, seconds: 0.5)
    for batch in [1, 10, 100, 1_000] {
        var rates: [Double] = []
        for _ in 0..<Settings.repetitions { rates.append(try await append(stream, batch: batch, seconds: 1)) }
        report("append.\(batch)", "events/s", rates, "256-byte payloads, fsync, one batch under way")
    }
    for (name, producers, durability, keys) in [
        ("fsync", 64, Durability.fsync, 0), ("written", 64, .written, 0), ("keyed", 64, .fsync, 100_000),
        ("together", 256, .fsync, 0),
    ] {
        var rates: [Double] = []
        for _ in 0..<Settings.repetitions {
            rates.append(try await appendTogether(stream, producers: producers, durability, seconds: 1, keys: keys))
        }
        report(
            "append.\(name)", "events/s", rates,
            "\(producers) producers with one event each under way, \(durability.rawValue), group commit"
                + (keys > 0 ? ", \(keys) keys" : ""))
    }
    // Calls of malloc on the appending thread, and on all threads until everything is written and indexed.
    let count = 10_000
    let events = (0..<count).map { _ in [event()] }
    let (thread, process) = (bench_thread_allocations(), bench_process_allocations())
    for one in events { stream.append(one, durability: .written) { _ in } }
    let own = Double(bench_thread_allocations() - thread) / Double(count)
    while stream.durableHead < stream.head { usleep(1_000) }
    report("append.allocations", "per event", [own], "single events, on the appending thread")
    report(
        "append.allocations.all", "per event", [Double(bench_process_allocations() - process) / Double(count)],
        "the same, on all threads")
    store.close()
}

/// How long appends take while a million old events are removed: 64 producers, each with one event every 20 ms.
func measureTrimming() async throws {
    let total = 1_000_000
    let log = try open("trim") { $0.retentionEvents = 2 * total }
    let stream = try log.stream(tenant: "default")
    for start in stride(from: 0, to: total, by: 1_000) {
        _ = try await stream.append((start..<start + 1_000).map { event(key: "k\($0 % 50_000)") }, durability: .written)
    }
    log.close()

    for (name, keeps) in [("quiet", 2 * total), ("trimming", 1_000)] {
        let store = try open("trim") { $0.retentionEvents = keeps }
        let stream = try store.stream(tenant: "default")
        let start = BenchClock.wall
        let times = try appendRegularly(stream, producers: 64, pauseMicroseconds: 20_000) {
            let seconds = (BenchClock.wall - start) / 1_000_000_000
            return keeps < total ? seconds < 120 && stream.earliest < UInt64(total - 1_000) : seconds < 10
        }
        for (quantile, label) in [(0.5, "p50"), (0.99, "p99"), (0.999, "p999"), (1.0, "max")] {
            let rank = max(1, Int((quantile * Double(times.count)).rounded(.up)))
            report("append.\(name).\(label)", "ms", [times[rank - 1]], "\(times.count) appends of one event, written")
        }
        if keeps < total {
            report(
                "trim.seconds", "s", [Double(BenchClock.wall - start) / 1e9],
                "for the million; \(stream.head - stream.earliest) events left")
        }
        store.close()
    }
}

/// Single events, durability `written`, from threads of their own, until `goesOn` ends it. Milliseconds, sorted.
private func appendRegularly(
    _ stream: any EventStream, producers: Int, pauseMicroseconds: UInt32, while goesOn: () -> Bool
) throws -> [Double] {
    let state = Mutex((times: [Double](), isOver: false))
    let group = DispatchGroup()
    for producer in 0..<producers {
        group.enter()
        Thread.detachNewThread {
            let done = DispatchSemaphore(value: 0)
            var times: [Double] = []
            usleep(pauseMicroseconds / UInt32(producers) * UInt32(producer))
            while !state.withLock({ $0.isOver }) {
                let start = BenchClock.wall
                stream.append([event()], durability: .written) { _ in done.signal() }
                done.wait()
                times.append(Double(BenchClock.wall - start) / 1e6)
                usleep(pauseMicroseconds)
            }
            state.withLock { $0.times += times }
            group.leave()
        }
    }
    while goesOn() { usleep(20_000) }
    state.withLock { $0.isOver = true }
    group.wait()
    return state.withLock { $0.times.sorted() }
}
