import CTelemetry
import Glibc
import OTLP
import Synchronization

/// Gathers ended spans from the threads' slabs into batches, on a thread of its own.
///
/// Holds a lock while it gathers, which the ledger takes as well; the threads that make spans never wait for it.
@usableFromInline
final class SpanCollector: Sendable {
    @usableFromInline let id: UInt64
    private let settings: Settings
    private let exporter: Exporter
    private let resource: Resource
    private let wakeUp: Int32
    private let isStopping = Atomic(false)
    private let wakePending = Atomic(false)
    private let state: Guarded<State>
    private let processNumber: UInt32
    private let isExportingOnly: Bool

    private static let lastID = Atomic<UInt64>(0)
    /// Tracers of more scopes than this share the first one's.
    static let maxScopes = 64

    struct Settings: Sendable {
        /// Of each thread.
        var slotCount: Int
        var maxThreads: Int
        var limits: SpanLimits
        var maxBatchSpans: Int
        var maxBatchBytes: Int
        var scheduleDelay: Duration
        /// False where spans are only observed.
        var isExporting: Bool
        var observer: (@Sendable (UnsafeRawBufferPointer) -> Void)?
    }

    private struct State {
        var readers: [SlabReader] = []
        var byThread: [UInt: SlabReader] = [:]
        var scopes: [InstrumentationScope] = []
        var envelopes: [BatchEnvelope] = []
        /// For each scope, what is being filled; `maxScopes` of each.
        let open: UnsafeMutablePointer<SpanBuffer>
        let observed: UnsafeMutablePointer<SpanBuffer>
        /// Observed, and not to be exported.
        var recordedOnly: UInt64 = 0
        /// What ends now is lost.
        var isClosed = false
        /// Spans without a slot, as far as they have been told of.
        var reportedDrops: UInt64 = 0

        init() {
            open = .allocate(capacity: maxScopes)
            open.initialize(repeating: SpanBuffer(), count: maxScopes)
            observed = .allocate(capacity: maxScopes)
            observed.initialize(repeating: SpanBuffer(), count: maxScopes)
        }
    }

    init(settings: Settings, resource: Resource, scope: InstrumentationScope, exporter: Exporter) {
        id = Self.lastID.add(1, ordering: .relaxed).newValue
        self.settings = settings
        self.resource = resource
        self.exporter = exporter
        processNumber = isotherm_process_number()
        isExportingOnly = settings.isExporting && settings.observer == nil
        wakeUp = isotherm_make_event()
        state = Guarded(State())
        _ = number(of: scope)
    }

    deinit {
        close(wakeUp)
        state.withLock { state in
            for reader in state.readers { SpanSlab.retire(reader.slab) }
            for scope in state.scopes.indices {
                state.open[scope].discard()
                state.observed[scope].discard()
            }
            state.open.deallocate()
            state.observed.deallocate()
        }
    }

    /// A child of `fork` has neither the threads nor a say in what its parent still has to export.
    var isForked: Bool { processNumber != isotherm_process_number() }

    // MARK: Scopes

    /// Spans of one scope share requests.
    func number(of scope: InstrumentationScope) -> UInt16 {
        state.withLock { state in
            if let known = state.scopes.firstIndex(of: scope) { return UInt16(known) }
            guard state.scopes.count < Self.maxScopes else { return 0 }
            state.scopes.append(scope)
            state.envelopes.append(BatchEnvelope(resource: resource, scope: scope))
            return UInt16(state.scopes.count - 1)
        }
    }

    // MARK: Threads

    /// The calling thread's slab, at the thread's first span for this SDK.
    @usableFromInline
    func slabForThisThread() -> UnsafeMutablePointer<SpanSlab> {
        let slab: UnsafeMutablePointer<SpanSlab>
        if isForked {
            // The lock may be held by a thread that is not there.
            slab = SpanSlab.make(slotCount: 0, collector: self, limits: settings.limits, dropReason: .shutdown)
        } else {
            slab = claimSlab(UInt(pthread_self()))
        }
        _ = Self.onThreadExit
        isotherm_set_thread_slab(slab)
        return slab
    }

    private func claimSlab(_ thread: UInt) -> UnsafeMutablePointer<SpanSlab> {
        state.withLock { state in
            let reader: SlabReader
            if let known = state.byThread[thread] {
                // Perhaps another thread's that has ended, and whose number this thread got.
                reader = known
            } else if let left = state.readers.first(where: { SpanSlab.ownership($0.slab).load() == 0 }) {
                // A thread that has ended leaves its slab to the next.
                state.byThread = state.byThread.filter { $0.value !== left }
                reader = left
            } else {
                let isTooMany = state.readers.count >= settings.maxThreads
                reader = SlabReader(
                    SpanSlab.make(
                        slotCount: isTooMany ? 0 : settings.slotCount, collector: self, limits: settings.limits,
                        dropReason: isTooMany ? .limit : .queueFull))
                state.readers.append(reader)
            }
            SpanSlab.ownership(reader.slab).store(1)
            state.byThread[thread] = reader
            return reader.slab
        }
    }

    /// Once: the function is one for all threads.
    private static let onThreadExit: Void = isotherm_on_thread_exit { pointer in
        guard let pointer else { return }
        SpanSlab.ownership(pointer.assumingMemoryBound(to: SpanSlab.self)).store(0)
    }

    /// Makes the collector gather soon. Costs a system call at most once for each time that it gathers.
    @usableFromInline
    func wake() {
        if wakePending.exchange(true, ordering: .relaxed) { return }
        var one: UInt64 = 1
        write(wakeUp, &one, 8)
    }

    /// A thread whose ring is full gathers its own spans, since the collector may not have had its turn for a while. Does
    /// nothing where somebody gathers already; the observer is not called on a thread that makes spans.
    func relieve(_ slab: UnsafeMutablePointer<SpanSlab>) {
        guard settings.observer == nil, !isForked else { return }
        _ = state.withLockIfFree { state in
            guard !state.isClosed, let reader = state.readers.first(where: { $0.slab == slab }) else { return }
            _ = reader.read { slot in take(slot, &state) }
        }
    }

    /// Runs until `stop`.
    func run() {
        var lastClose = ContinuousClock.now
        while !isStopping.load(ordering: .acquiring) {
            var poller = pollfd(fd: wakeUp, events: Int16(POLLIN), revents: 0)
            let left = settings.scheduleDelay - (ContinuousClock.now - lastClose)
            poll(&poller, 1, max(1, Int32(clamping: left.milliseconds)))
            var count: UInt64 = 0
            read(wakeUp, &count, 8)
            wakePending.store(false, ordering: .relaxed)
            let isTime = ContinuousClock.now - lastClose >= settings.scheduleDelay
            gather(closing: isTime)
            if isTime {
                lastClose = .now
                reportDrops()
            }
        }
        gather(closing: true)
        reportDrops()
    }

    private func reportDrops() {
        let (new, reasons) = state.withLock { state -> (UInt64, Set<SpanLedger.DropReason>) in
            var total: UInt64 = 0
            var reasons: Set<SpanLedger.DropReason> = []
            for reader in state.readers {
                let dropped = SpanSlab.read(reader.slab, .dropped)
                total += dropped
                if dropped > 0 { reasons.insert(reader.slab.pointee.dropReason) }
            }
            defer { state.reportedDrops = total }
            return (total - state.reportedDrops, reasons)
        }
        guard new > 0 else { return }
        let remedies = reasons.map { reason in
            reason == .limit
                ? "limit: more than \(settings.maxThreads) threads make spans, or no memory for their queues; see maxSpanThreads"
                : "queue_full: a thread's \(settings.slotCount) are in use; raise OTEL_BSP_MAX_QUEUE_SIZE"
        }
        exporter.warn("\(new) spans were dropped (\(remedies.sorted().joined(separator: "; ")))", lost: new)
    }

    func stop() {
        isStopping.store(true, ordering: .releasing)
        var one: UInt64 = 1
        write(wakeUp, &one, 8)
    }

    // MARK: Gathering

    /// Moves ended spans to batches; hands on the full ones, and with `closing` the last ones as well. What the exporter
    /// cannot hold stays in the slabs, where it counts against their bound; then it returns false.
    @discardableResult
    func gather(closing: Bool) -> Bool {
        let (isDone, observed) = state.withLock { state -> (Bool, [Batch]) in
            if state.isClosed {
                abandon(&state)
                return (true, [])
            }
            var isDone = true
            for reader in state.readers where isDone {
                isDone = reader.read { slot in take(slot, &state) }
            }
            for scope in state.scopes.indices where closing { send(scope, &state) }
            let observed = state.scopes.indices.compactMap { state.observed[$0].close(state.envelopes[$0]) }
            return (isDone, observed)
        }
        if let observer = settings.observer {
            for batch in observed { observer(batch.body()) }
        }
        return isDone
    }

    private func send(_ scope: Int, _ state: inout State) {
        if let batch = state.open[scope].close(state.envelopes[scope]) { exporter.enqueue(batch) }
    }

    /// False when the exporter has no room.
    @inline(__always)
    private func take(_ slot: UnsafeMutablePointer<SpanSlot>, _ state: inout State) -> Bool {
        let open = state.open + Int(slot.pointee.scope)
        guard isExportingOnly, !slot.pointee.isRecordOnly, slot.pointee.extras == nil,
            open.pointee.appendInRoom(SpanSlot.inlineBytes(slot), count: Int(slot.pointee.count))
        else { return takeRare(slot, &state) }
        if open.pointee.isFull(settings.maxBatchSpans) { send(Int(slot.pointee.scope), &state) }
        return true
    }

    /// Most spans of a block; 0 where spans do not only go to the exporter.
    var maxBlockSpans: Int { isExportingOnly && !isForked ? settings.maxBatchSpans : 0 }

    /// Takes spans that ended without a slot; they count as started here. False when the exporter has no room, or the end
    /// has come: then they never were.
    func take(_ block: SpanBlock, scope: UInt16, from slab: UnsafeMutablePointer<SpanSlab>) -> Bool {
        state.withLock { state in
            let scope = Int(scope)
            let open = state.open + scope
            if open.pointee.itemCount + block.count > settings.maxBatchSpans { send(scope, &state) }
            if !open.pointee.isOpen {
                guard !state.isClosed, exporter.hasRoom else { return false }
                open.pointee.open(state.envelopes[scope], maxBytes: settings.maxBatchBytes)
            }
            open.pointee.append(block)
            SpanSlab.add(slab, .started, UInt64(block.count))
            if open.pointee.isFull(settings.maxBatchSpans) { send(scope, &state) }
            return true
        }
    }

    /// What is to be observed as well or instead, has outgrown its slot, or is a batch's first.
    @inline(never)
    private func takeRare(_ slot: UnsafeMutablePointer<SpanSlot>, _ state: inout State) -> Bool {
        let scope = Int(slot.pointee.scope)
        let open = state.open + scope
        let isExported = settings.isExporting && !slot.pointee.isRecordOnly
        if isExported, !open.pointee.isOpen {
            guard exporter.hasRoom else { return false }
            open.pointee.open(state.envelopes[scope], maxBytes: settings.maxBatchBytes)
        }
        if settings.observer != nil { observe(slot, scope, &state) }
        guard isExported else {
            state.recordedOnly += 1
            return true
        }
        open.pointee.append(SpanSlot.bytes(slot), count: Int(slot.pointee.count))
        if open.pointee.isFull(settings.maxBatchSpans) { send(scope, &state) }
        return true
    }

    private func observe(_ slot: UnsafeMutablePointer<SpanSlot>, _ scope: Int, _ state: inout State) {
        if !state.observed[scope].isOpen {
            state.observed[scope].open(state.envelopes[scope], maxBytes: settings.maxBatchBytes)
        }
        state.observed[scope].append(SpanSlot.bytes(slot), count: Int(slot.pointee.count))
    }

    /// From now on, spans that end are counted as dropped.
    func seal() {
        state.withLock { state in
            state.isClosed = true
            abandon(&state)
        }
    }

    private func abandon(_ state: inout State) {
        var dropped = 0
        for scope in state.scopes.indices {
            dropped += state.open[scope].itemCount
            state.open[scope].discard()
        }
        for reader in state.readers {
            _ = reader.read { _ in
                dropped += 1
                return true
            }
        }
        if dropped > 0 { exporter.drop(dropped, as: .shutdown) }
    }

    // MARK: The ledger

    /// One pass, against the spans' direction: what has left first, what was started last. So a span that moves on
    /// meanwhile may be missed but is never counted twice, and whatever is missing has been started and has not
    /// arrived: it is held. While nothing moves, the figures are exact by themselves.
    var ledger: SpanLedger {
        guard !isForked else { return SpanLedger() }
        return state.withLock { state in
            var ledger = SpanLedger()
            if state.isClosed { abandon(&state) }
            exporter.account(in: &ledger)
            for scope in state.scopes.indices { ledger.queued += UInt64(state.open[scope].itemCount) }
            ledger.sampledOut = state.recordedOnly
            for reader in state.readers {
                for index in 0..<SpanSlab.slotCount(reader.slab) {
                    switch SpanSlot.state(SpanSlab.slot(reader.slab, index)).load() & 3 {
                    case SpanSlot.live, SpanSlot.ending: ledger.live += 1
                    case SpanSlot.ended: ledger.queued += 1
                    default: break
                    }
                }
                let sampledOut = SpanSlab.read(reader.slab, .sampledOut)
                ledger.sampledOut += sampledOut
                ledger.dropped[reader.slab.pointee.dropReason, default: 0] += SpanSlab.read(reader.slab, .dropped)
                ledger.started += sampledOut + SpanSlab.read(reader.slab, .started)
            }
            let known =
                ledger.sampledOut + ledger.exported + ledger.rejected + ledger.totalDropped + ledger.live
                + ledger.queued
            if ledger.started > known { ledger.live += ledger.started - known }
            return ledger
        }
    }
}
