import Dispatch
import EventStreams
import Foundation
import Synchronization

func fail(_ reason: String, status: CInt) -> Never {
    let line = "StreamTorture: \(reason)\n"
    _ = line.withCString { write(2, $0, strlen($0)) }
    exit(status)
}

/// One write(2): lines of several threads do not mix, and nothing stays in a buffer of this process.
func tell(_ line: String) {
    _ = (line + "\n").withCString { write(1, $0, strlen($0)) }
}

func newEvent(_ name: String, serial: Int) -> NewEvent {
    var time = timespec()
    clock_gettime(CLOCK_REALTIME, &time)
    return NewEvent(
        topic: "torture", type: "torture", payload: Array((name + "|").utf8) + filler(serial),
        acceptedUnixNano: UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec), idempotencyKey: name)
}

/// The killer and the test compute the same.
func filler(_ serial: Int) -> [UInt8] {
    (0..<serial * 37 % 3_000).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ serial) }
}

final class Outcome: Sendable {
    let result = Mutex<Result<[AppendReceipt], StreamError>?>(nil)
    let isKnown = DispatchSemaphore(value: 0)
}

func publish(to stream: any EventStream, _ durability: Durability, round: Int, thread: Int) {
    var serial = 0
    while true {
        let serials = serial...serial + serial % 3
        let names = serials.map { "\(round)/\(thread)/\($0)" }
        let outcome = Outcome()
        stream.append(zip(names, serials).map { newEvent($0, serial: $1) }, durability: durability) { result in
            outcome.result.withLock { $0 = result }
            outcome.isKnown.signal()
        }
        outcome.isKnown.wait()
        switch outcome.result.withLock({ $0 }) {
        case .success(let receipts):
            for (receipt, name) in zip(receipts, names) { tell("A \(receipt.id) \(name)") }
            serial += names.count
        case .failure(let error) where error.code == .full: sched_yield()
        case .failure(let error): fail("\(error)", status: 1)
        case nil: fail("an append completed without a result", status: 1)
        }
    }
}

/// Appends from four threads and follows the log from a fifth, until it is killed.
func publishUntilKilled(directory: String, durability: Durability, round: Int) throws {
    let store = try EmbeddedEventStore(configuration: EmbeddedStoreConfiguration(directory: directory))
    let stream = try store.stream(tenant: "torture")
    let start = stream.head
    let appended = DispatchSemaphore(value: 0)
    let wake = stream.onAppend { appended.signal() }
    for thread in 0..<4 {
        Thread.detachNewThread { publish(to: stream, durability, round: round, thread: thread) }
    }
    var last = start
    while true {
        let events = try stream.read(after: last, limit: 100, byteLimit: 1 << 20)
        for event in events {
            last = event.offset
            tell("S \(stream.id(of: event)) \(String(decoding: event.payload.prefix { $0 != 124 }, as: UTF8.self))")
        }
        if events.isEmpty { appended.wait() }
    }
    withExtendedLifetime((store, wake)) {}
}
