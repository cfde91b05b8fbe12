import Foundation
import PushClient
import Synchronization

enum DemoClock {
    static func unixNano() -> UInt64 {
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }
}

/// A thread that blocks in libcurl, and can be waited for without blocking.
final class DemoThread: Sendable {
    private let finished = AsyncStream<Void>.makeStream()

    init(_ body: @escaping @Sendable () -> Void) {
        let continuation = finished.continuation
        Thread {
            body()
            continuation.finish()
        }.start()
    }

    func join() async { for await _ in finished.stream {} }
}

/// Publishes numbered events to one topic at a steady rate, each acknowledged before it counts.
final class DemoProducer: Sendable {
    let topic: String
    private let count = Atomic<UInt64>(0)
    private let failure = Mutex<String?>(nil)
    private let isStopping = Atomic(false)
    private let thread = Mutex<DemoThread?>(nil)

    init(topic: String) { self.topic = topic }

    var published: UInt64 { count.load(ordering: .relaxed) }
    var problem: String? { failure.withLock { $0 } }

    func start(url: String, perSecond: Double) {
        thread.withLock { $0 = DemoThread { [self] in run(url, perSecond) } }
    }

    func stop() async {
        isStopping.store(true, ordering: .relaxed)
        await thread.withLock { $0 }?.join()
    }

    private func run(_ url: String, _ perSecond: Double) {
        let client = HTTPClient()
        let start = ContinuousClock.now
        let padding = String(repeating: "·", count: 60)
        var number: UInt64 = 0
        while !isStopping.load(ordering: .relaxed) {
            let due = start + .seconds(Double(number) / perSecond)
            let wait = ContinuousClock.now.duration(to: due)
            if wait > .zero { Thread.sleep(forTimeInterval: wait / .seconds(1)) }
            number += 1
            do {
                let response = try client.post(
                    "\(url)/v1/events/\(topic)",
                    headers: [("Content-Type", "text/plain"), ("Idempotency-Key", "\(topic)-\(number)")],
                    body: Array("\(topic) \(number) \(padding)".utf8))
                guard response.status == 202 else {
                    return failure.withLock { $0 = PublishCommand.problem(response) }
                }
                count.add(1, ordering: .relaxed)
            } catch {
                return failure.withLock { $0 = error.cause }
            }
        }
    }
}

/// Sends the devices' receipts, many at a time.
final class DemoReceipts: Sendable {
    private let isStopping = Atomic(false)
    private let sent = Atomic<UInt64>(0)
    private let thread = Mutex<DemoThread?>(nil)

    var accepted: UInt64 { sent.load(ordering: .relaxed) }

    func start(fleet: DemoFleet, url: String) {
        thread.withLock { slot in
            slot = DemoThread { [self] in
                let client = HTTPClient()
                var isLast = false
                while !isLast {
                    isLast = isStopping.load(ordering: .relaxed)
                    var receipts = fleet.takeReceipts()[...]
                    while !receipts.isEmpty {
                        send(receipts.prefix(4_000), fleet, url, client)
                        receipts = receipts.dropFirst(4_000)
                    }
                    if !isLast { Thread.sleep(forTimeInterval: 0.25) }
                }
            }
        }
    }

    func stop() async {
        isStopping.store(true, ordering: .relaxed)
        await thread.withLock { $0 }?.join()
    }

    private func send(
        _ receipts: ArraySlice<DemoFleet.Receipt>, _ fleet: DemoFleet, _ url: String, _ client: HTTPClient
    ) {
        let reports = Dictionary(grouping: receipts, by: \.group).map { group, receipts in
            let list = receipts.map { "{\"id\":\"\($0.id)\",\"received_at_unix_nano\":\"\($0.unixNano)\"}" }
            return "{\"group\":\"\(fleet.groups[group])\",\"receipts\":[\(list.joined(separator: ","))]}"
        }
        let body = Array("[\(reports.joined(separator: ","))]".utf8)
        let response = try? client.post(
            "\(url)/v1/receipts", headers: [("Content-Type", "application/json")], body: body)
        if response?.status == 202 { sent.add(UInt64(receipts.count), ordering: .relaxed) }
    }
}
