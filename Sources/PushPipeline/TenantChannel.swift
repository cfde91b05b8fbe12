import EventStreams
import Synchronization
import Telemetry

/// A tenant's log, and whom to wake when it grows.
public final class TenantChannel: Sendable {
    public let tenant: Tenant
    public let stream: any EventStream
    public let receipts: ReceiptBook
    public let clocks: DeviceClocks
    /// Events that producers were told of, duplicates not counted.
    let published: Counter
    /// Delivery waits until events are as durable as their topic asks.
    private let afterDurable: Bool
    private let signals: [LoopSignal]
    private let waiters = Mutex(Waiters())
    /// Whether anybody may be among the waiters, for who wakes them at every append.
    private let hasWaiters = Atomic(false)
    private let wakeToken = Mutex<WakeToken?>(nil)

    /// One per loop: whether anybody there listens, and whether a wake-up is already on its way.
    final class LoopSignal: Sendable {
        let loop: any DeliveryLoop
        let isListening = Atomic(false)
        let isPending = Atomic(false)
        let pump: @Sendable (TenantChannel) -> Void

        init(loop: any DeliveryLoop, pump: @escaping @Sendable (TenantChannel) -> Void) {
            self.loop = loop
            self.pump = pump
        }
    }

    private struct Waiters {
        var nextKey = 0
        var continuations: [Int: CheckedContinuation<Void, Never>] = [:]
        var cancelled: Set<Int> = []
    }

    init(
        tenant: Tenant, stream: any EventStream, configuration: DeliveryConfiguration, published: Counter,
        signals: [LoopSignal]
    ) {
        self.tenant = tenant
        self.published = published
        self.stream = stream
        afterDurable = configuration.afterDurable
        receipts = ReceiptBook(limit: configuration.journalReceipts)
        clocks = DeviceClocks(limit: configuration.maxDeviceClocks)
        self.signals = signals
        let wake: @Sendable () -> Void = { [weak self] in self?.wake() }
        let token = afterDurable ? stream.onDurable(wake) : stream.onAppend(wake)
        wakeToken.withLock { $0 = token }
    }

    /// The last offset that may be delivered.
    public var visibleHead: UInt64 { afterDurable ? stream.durableHead : stream.head }

    public func visible(_ events: [StoredEvent]) -> ArraySlice<StoredEvent> {
        guard afterDurable, let last = events.last, last.offset > stream.durableHead else { return events[...] }
        let head = stream.durableHead
        return events[..<(events.firstIndex { $0.offset > head } ?? events.endIndex)]
    }

    func signal(_ loop: Int) -> LoopSignal { signals[loop] }

    /// There is something new: at most one wake-up is on its way to each loop.
    func wake() {
        for signal in signals where signal.isListening.load(ordering: .acquiring) {
            if signal.isPending.exchange(true, ordering: .acquiringAndReleasing) { continue }
            signal.loop.execute { signal.pump(self) }
        }
        guard hasWaiters.load(ordering: .sequentiallyConsistent) else { return }
        hasWaiters.store(false, ordering: .sequentiallyConsistent)
        let waiting = waiters.withLock { waiters in
            let all = waiters.continuations
            waiters.continuations = [:]
            return all
        }
        for continuation in waiting.values { continuation.resume() }
    }

    /// Returns when an event after `offset` is there, when `deadline` has passed, or when the task is cancelled.
    public func waitForEvent(after offset: UInt64, until deadline: ContinuousClock.Instant) async {
        while visibleHead <= offset, ContinuousClock.now < deadline, !Task.isCancelled {
            let key = waiters.withLock { waiters in
                waiters.nextKey += 1
                return waiters.nextKey
            }
            await withTaskGroup(of: Void.self) { group in
                group.addTask {
                    await withTaskCancellationHandler {
                        await withCheckedContinuation { continuation in self.enter(continuation, key, offset) }
                    } onCancel: {
                        self.leave(key)
                    }
                }
                group.addTask { try? await Task.sleep(until: deadline) }
                await group.next()
                group.cancelAll()
            }
        }
    }

    private func enter(_ continuation: CheckedContinuation<Void, Never>, _ key: Int, _ offset: UInt64) {
        // Looked at again behind the flag: an append between the caller's look and here has woken nobody.
        let resumeNow = waiters.withLock { waiters in
            hasWaiters.store(true, ordering: .sequentiallyConsistent)
            if waiters.cancelled.remove(key) != nil || visibleHead > offset { return true }
            waiters.continuations[key] = continuation
            return false
        }
        if resumeNow { continuation.resume() }
    }

    private func leave(_ key: Int) {
        let continuation = waiters.withLock { waiters in
            if let continuation = waiters.continuations.removeValue(forKey: key) { return Optional(continuation) }
            waiters.cancelled.insert(key)
            return nil
        }
        continuation?.resume()
    }
}
