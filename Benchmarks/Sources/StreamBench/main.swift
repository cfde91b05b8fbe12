import BenchSupport
import EventStreams
import Foundation

// Appends with fsync and reads after a cursor. Prints figures for `run`.
//
//     StreamBench --directory DIR [--repetitions N]      DIR must be on the disk that is meant, and is removed

guard let parent = option("--directory") else { fail("say where the log goes: --directory DIR") }
let repetitions = Int(option("--repetitions") ?? "5") ?? 5
let payload = [UInt8](repeating: 0x78, count: 256)

func event() -> NewEvent {
    NewEvent(topic: "orders", contentType: "application/json", payload: payload, acceptedUnixNano: BenchClock.unix)
}

func open(_ name: String, tail: Int = 16_384) throws -> EmbeddedEventStore {
    var configuration = EmbeddedStoreConfiguration(directory: parent + "/" + name)
    configuration.tailEvents = tail
    return try EmbeddedEventStore(configuration: configuration)
}

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
func appendTogether(_ stream: any EventStream, producers: Int, seconds: Double) async throws -> Double {
    let start = BenchClock.wall
    let end = start + UInt64(seconds * 1e9)
    let appended = try await withThrowingTaskGroup(of: Int.self) { group in
        for _ in 0..<producers {
            group.addTask {
                var count = 0
                while BenchClock.wall < end {
                    _ = try await stream.append([event()], durability: .fsync)
                    count += 1
                }
                return count
            }
        }
        return try await group.reduce(0, +)
    }
    return Double(appended) * 1e9 / Double(BenchClock.wall - start)
}

try? FileManager.default.removeItem(atPath: parent)
try FileManager.default.createDirectory(atPath: parent, withIntermediateDirectories: true)
defer { try? FileManager.default.removeItem(atPath: parent) }

let store = try open("append")
let stream = try store.stream(tenant: "default")
_ = try await append(stream, batch: 100, seconds: 0.5)
for batch in [1, 10, 100, 1_000] {
    var rates: [Double] = []
    for _ in 0..<repetitions { rates.append(try await append(stream, batch: batch, seconds: 1)) }
    report("append.\(batch)", "events/s", rates, "256-byte payloads, fsync, one batch under way")
}
var together: [Double] = []
for _ in 0..<repetitions { together.append(try await appendTogether(stream, producers: 256, seconds: 1)) }
report("append.together", "events/s", together, "256 producers with one event each under way, fsync, group commit")
store.close()

let total = 200_000
let log = try open("read")
let written = try log.stream(tenant: "default")
for _ in 0..<(total / 1_000) {
    _ = try await written.append((0..<1_000).map { _ in event() }, durability: .written)
}
log.close()

let reopened = try open("read", tail: 0)
let readable = try reopened.stream(tenant: "default")
var rates: [Double] = []
for _ in 0..<repetitions {
    let start = BenchClock.wall
    var cursor: UInt64 = 0
    var read = 0
    while read < total {
        let events = try readable.read(after: cursor, limit: 1_000, byteLimit: 16 << 20)
        guard let last = events.last else { fail("the log ends after \(read) events") }
        cursor = last.offset
        read += events.count
    }
    rates.append(Double(read) * 1e9 / Double(BenchClock.wall - start))
}
report("read", "events/s", rates, "after a cursor, 1,000 at a time, from SQLite (page cache warm), one reader")
reopened.close()
