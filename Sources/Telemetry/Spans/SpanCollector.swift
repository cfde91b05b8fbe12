import CTelemetry
import Glibc
import OTLP
import Synchronization

/// Gathers ended spans from the threads' slabs into batches, on a thread of its own.
///
/// Holds a lock while it gathers, which the ledger takes as well; the threads that make spans never wait for it.
@usableFromInline
final class Collector: Sendable {
    @usableFromInline let id: UInt64
    private let slotCount: Int
    private let maxBatchSpans: Int
    private let maxBatchBytes: Int
    private let scheduleDelay: Duration
    private let exporter: Exporter
    private let envelope: BatchEnvelope
    private let wakeUp: Int32
    private let isStopping = Atomic(false)
    private let wakePending = Atomic(false)
    private let state = Mutex(State())

    private static let lastID = Atomic<UInt64>(0)

    private struct State {
        var slabs: [SpanSlab] = []
        var byThread: [UInt: SpanSlab] = [:]
        var open: Batch?
        /// What ends now is lost.
        var isClosed = false
    }

    init(
        slotCount: Int, maxBatchSpans: Int, maxBatchBytes: Int, scheduleDelay: Duration, envelope: BatchEnvelope,
        exporter: Exporter
    ) {
        id = Self.lastID.add(1, ordering: .relaxed).newValue
        self.slotCount = slotCount
        self.maxBatchSpans = maxBatchSpans
        self.maxBatchBytes = maxBatchBytes
        self.scheduleDelay = scheduleDelay
        self.envelope = envelope
        self.exporter = exporter
        wakeUp = isotherm_make_event()
    }

    deinit {
        close(wakeUp)
        for slab in state.withLock({ $0.slabs }) {
            slab.retire()
            _ = Unmanaged.passRetained(slab)
        }
    }

    // MARK: Threads

    /// The calling thread's slab, at the thread's first span for this SDK.
    @usableFromInline
    func slabForThisThread() -> SpanSlab {
        let thread = UInt(pthread_self())
        let slab = state.withLock { state -> SpanSlab in
            if let slab = state.byThread[thread] {
                // Perhaps another thread's that has ended, and whose number this thread got.
                slab.isOwned.store(true, ordering: .releasing)
                return slab
            }
            // A thread that has ended leaves its slab to the next.
            let slab: SpanSlab
            if let left = state.slabs.first(where: { !$0.isOwned.load(ordering: .acquiring) }) {
                state.byThread = state.byThread.filter { $0.value !== left }
                slab = left
            } else {
                slab = SpanSlab(slotCount: slotCount, collector: self)
                state.slabs.append(slab)
            }
            slab.isOwned.store(true, ordering: .releasing)
            state.byThread[thread] = slab
            return slab
        }
        _ = Self.onThreadExit
        isotherm_set_thread_slab(Unmanaged.passUnretained(slab).toOpaque())
        return slab
    }

    /// Once: the function is one for all threads.
    private static let onThreadExit: Void = isotherm_on_thread_exit { pointer in
        guard let pointer else { return }
        Unmanaged<SpanSlab>.fromOpaque(pointer).takeUnretainedValue().isOwned.store(false, ordering: .releasing)
    }

    /// Makes the collector gather soon. Costs a system call at most once for each time that it gathers.
    @usableFromInline
    func wake() {
        if wakePending.exchange(true, ordering: .relaxed) { return }
        var one: UInt64 = 1
        write(wakeUp, &one, 8)
    }

    /// Runs until `stop`.
    func run() {
        var lastClose = ContinuousClock.now
        while !isStopping.load(ordering: .acquiring) {
            var poller = pollfd(fd: wakeUp, events: Int16(POLLIN), revents: 0)
            let left = scheduleDelay - (ContinuousClock.now - lastClose)
            poll(&poller, 1, max(1, Int32(clamping: left.milliseconds)))
            var count: UInt64 = 0
            read(wakeUp, &count, 8)
            wakePending.store(false, ordering: .relaxed)
            let isTime = ContinuousClock.now - lastClose >= scheduleDelay
            gather(closing: isTime)
            if isTime { lastClose = .now }
        }
        gather(closing: true)
    }

    func stop() {
        isStopping.store(true, ordering: .releasing)
        var one: UInt64 = 1
        write(wakeUp, &one, 8)
    }

    // MARK: Gathering

    /// Moves ended spans to batches; hands on the full ones, and with `closing` the last one as well. What the exporter
    /// cannot hold stays in the slabs, where it counts against their bound; then it returns false.
    @discardableResult
    func gather(closing: Bool) -> Bool {
        state.withLock { state in
            if state.isClosed {
                abandon(&state)
                return true
            }
            for slab in state.slabs {
                for index in 0..<slab.slotCount {
                    let slot = slab.slot(index)
                    let word = SpanSlot.state(slot).load(ordering: .acquiring)
                    guard word & 3 == SpanSlot.ended else { continue }
                    if state.open == nil {
                        guard exporter.hasRoom else { return false }
                        state.open = Batch(envelope: envelope)
                    }
                    guard let batch = state.open else { return false }
                    batch.append(SpanSlot.bytes(slot), count: Int(slot.pointee.count))
                    SpanSlot.release(slot, word)
                    if batch.itemCount >= maxBatchSpans || batch.byteCount >= maxBatchBytes {
                        exporter.enqueue(batch)
                        state.open = nil
                    }
                }
            }
            if closing, let batch = state.open {
                exporter.enqueue(batch)
                state.open = nil
            }
            return true
        }
    }

    /// From now on, spans that end are counted as dropped.
    func seal() {
        state.withLock { state in
            state.isClosed = true
            abandon(&state)
        }
    }

    private func abandon(_ state: inout State) {
        var dropped = state.open?.itemCount ?? 0
        state.open = nil
        for slab in state.slabs {
            for index in 0..<slab.slotCount {
                let slot = slab.slot(index)
                let word = SpanSlot.state(slot).load(ordering: .acquiring)
                guard word & 3 == SpanSlot.ended else { continue }
                SpanSlot.release(slot, word)
                dropped += 1
            }
        }
        if dropped > 0 { exporter.drop(dropped, as: .shutdown) }
    }

    // MARK: The ledger

    /// One pass, against the spans' direction: what has left first, what was started last. So a span that moves on
    /// meanwhile may be missed but is never counted twice, and whatever is missing has been started and has not
    /// arrived: it is held. While nothing moves, the figures are exact by themselves.
    var ledger: SpanLedger {
        state.withLock { state in
            var ledger = SpanLedger()
            if state.isClosed { abandon(&state) }
            exporter.account(in: &ledger)
            ledger.queued += UInt64(state.open?.itemCount ?? 0)
            for slab in state.slabs {
                for index in 0..<slab.slotCount {
                    switch SpanSlot.state(slab.slot(index)).load(ordering: .acquiring) & 3 {
                    case SpanSlot.live, SpanSlot.ending: ledger.live += 1
                    case SpanSlot.ended: ledger.queued += 1
                    default: break
                    }
                }
                ledger.sampledOut += slab.counters.sampledOut.load(ordering: .acquiring)
                ledger.dropped[.queueFull, default: 0] += slab.counters.droppedQueueFull.load(ordering: .acquiring)
                ledger.started += slab.counters.started.load(ordering: .acquiring)
            }
            let known =
                ledger.sampledOut + ledger.exported + ledger.rejected + ledger.totalDropped + ledger.live
                + ledger.queued
            if ledger.started > known { ledger.live += ledger.started - known }
            return ledger
        }
    }
}
