import Glibc
import OTLP

/// Sends one signal's batches to an OTLP/HTTP endpoint, on a thread of its own. Nothing here is traced.
///
/// What other threads see of it: they hand batches over, wait, and read the ledger. The thread's own part is
/// `ExportLoop`. A forked process has neither the thread nor the right to the queue: there, everything here does nothing.
final class Exporter: Sendable {
    let signal: Signal
    let settings: OTLPExporterSettings
    let diskQueue: DiskQueueSettings?
    private let maxQueuedBatches: Int
    private let report: @Sendable (String) -> Void
    private let operationDuration: Meter.Histogram<Double>?
    /// Made once: taking an endpoint apart costs more than a request does.
    private let component: [KeyValue]
    private let state: Guarded<State>
    private let multi: CurlMulti?
    private let process = getpid()

    private struct State {
        var queue: [(batch: Batch, sequence: UInt64)] = []
        /// Of the last batch that was taken, and of those in memory that are not done with, in order.
        var lastSequence: UInt64 = 0
        var outstanding: [UInt64] = []
        var disk = DiskQueueStatus()
        var ledger = ExportLedger()
        var recovered = ExportLedger()
        var isStopping = false
        /// Requests still under way are aborted.
        var isAborted = false
        /// Nobody sends any more.
        var isClosed = false
        var isFailing = false
        var lastReport: ContinuousClock.Instant?
        /// Lost since the last report.
        var unreported: UInt64 = 0
    }

    private static let reportInterval = Duration.seconds(60)

    init(
        configuration: TelemetryConfiguration, signal: Signal, operationDuration: Meter.Histogram<Double>? = nil
    ) {
        self.signal = signal
        self.operationDuration = operationDuration
        settings = configuration[signal]
        component = SelfObservation.component(signal, settings)
        diskQueue = configuration.diskQueue
        maxQueuedBatches =
            signal == .traces
            ? max(2, configuration.maxQueueSize / max(1, configuration.maxExportBatchSize))
            : max(1, settings.maxQueuedBatches)
        report = configuration.report
        state = Guarded(State())
        multi = settings.endpoint == nil ? nil : CurlMulti()
    }

    private var isForked: Bool { getpid() != process }

    // MARK: The queue

    var hasRoom: Bool { isForked || state.withLock { $0.queue.count < maxQueuedBatches } }

    /// Takes a batch, also beyond `hasRoom`. An empty one is not sent.
    func enqueue(_ batch: Batch) {
        guard batch.itemCount > 0, !isForked else { return }
        state.withLock { state in
            state.ledger.taken += UInt64(batch.itemCount)
            guard !state.isClosed else {
                state.ledger.dropped[.shutdown, default: 0] += UInt64(batch.itemCount)
                return
            }
            state.lastSequence += 1
            state.outstanding.append(state.lastSequence)
            state.queue.append((batch, state.lastSequence))
        }
        multi?.wakeUp()
    }

    func waitForRoom(until deadline: ContinuousClock.Instant) {
        if isForked { return }
        state.wait(until: deadline) { $0.queue.count < maxQueuedBatches }
    }

    /// Returns true once every batch taken so far is done with, or false at the deadline.
    func finishTaken(until deadline: ContinuousClock.Instant) -> Bool {
        if isForked { return true }
        let last = state.withLock { $0.lastSequence }
        let isDone = { (state: State) in
            (state.outstanding.first ?? .max) > last && (state.disk.oldestSequence ?? .max) > last
        }
        state.wait(until: deadline, isDone)
        return state.withLock { isDone($0) }
    }

    /// Lets the thread end once the queue is empty.
    func stop() { end { $0.isStopping = true } }

    /// Ends everything now. What is left is counted as dropped, or goes to the disk queue where there is one.
    func abort() { end { $0.isAborted = true } }

    private func end(_ change: (inout State) -> Void) {
        if isForked { return }
        state.withLock { change(&$0) }
        multi?.wakeUp()
    }

    // MARK: The ledger

    /// Where the items went, at this moment.
    var ledger: ExportLedger { isForked ? ExportLedger() : state.withLock { $0.ledger } }

    /// The same for what an earlier process had left on disk.
    var recoveredLedger: ExportLedger { isForked ? ExportLedger() : state.withLock { $0.recovered } }

    var diskQueueStatus: DiskQueueStatus { isForked ? DiskQueueStatus() : state.withLock { $0.disk } }

    func account(in ledger: inout SpanLedger) {
        let own = self.ledger
        ledger.exported = own.exported
        ledger.rejected = own.rejected
        ledger.dropped.merge(own.dropped, uniquingKeysWith: +)
        ledger.queued += own.queued
    }

    /// Whether the last attempt failed.
    var isFailing: Bool { !isForked && state.withLock { $0.isFailing } }

    /// Counts items that were lost before they were in a batch.
    func drop(_ count: Int, as reason: ExportLedger.DropReason) {
        if isForked { return }
        state.withLock { state in
            state.ledger.taken += UInt64(count)
            state.ledger.dropped[reason, default: 0] += UInt64(count)
        }
    }

    // MARK: The thread

    /// Runs until `stop` and an empty queue, or `abort`.
    func run() {
        if let multi, let loop = ExportLoop(exporter: self, multi: multi) { loop.run() }
        state.withLock { state in
            state.isClosed = true
            for (batch, _) in state.queue { state.ledger.dropped[.shutdown, default: 0] += UInt64(batch.itemCount) }
            state.queue = []
            state.outstanding = []
        }
        state.broadcast()
    }

    struct Wishes {
        let isAborted: Bool
        let isStopping: Bool
        let hasQueued: Bool
    }

    var wishes: Wishes {
        state.withLock {
            Wishes(isAborted: $0.isAborted, isStopping: $0.isStopping, hasQueued: !$0.queue.isEmpty)
        }
    }

    func next() -> (batch: Batch, sequence: UInt64)? {
        let next = state.withLock { $0.queue.isEmpty ? nil : $0.queue.removeFirst() }
        if next != nil { state.broadcast() }
        return next
    }

    /// The batch is done with, or on disk.
    func finish(_ sequence: UInt64, disk: DiskQueueStatus?) {
        state.withLock { state in
            state.outstanding.removeAll { $0 == sequence }
            if let disk { state.disk = disk }
        }
        state.broadcast()
    }

    func setDisk(_ status: DiskQueueStatus) {
        state.withLock { $0.disk = status }
        state.broadcast()
    }

    func foundOnDisk(_ count: UInt64) {
        state.withLock { $0.recovered.taken += count }
    }

    /// A batch is done with.
    func operationEnded(after duration: Duration, errorType: String?) {
        guard let operationDuration else { return }
        var attributes = component
        if let errorType { attributes.append(KeyValue("error.type", .string(errorType))) }
        operationDuration.record(duration / .seconds(1), attributes)
    }

    func attemptFailed() {
        state.withLock { $0.isFailing = true }
    }

    /// The endpoint has taken a batch but for so many items.
    func accepted(_ count: Int, rejected: Int64, message: String, isRecovered: Bool) {
        let rejected = UInt64(min(max(0, rejected), Int64(count)))
        state.withLock { state in
            let ledger = isRecovered ? \State.recovered : \State.ledger
            state[keyPath: ledger].exported += UInt64(count) - rejected
            state[keyPath: ledger].rejected += rejected
            state.isFailing = false
        }
        if rejected > 0 || !message.isEmpty {
            let shown = Answer.printable(Array(message.utf8))
            warn("\(settings.publicEndpoint) rejected \(rejected) of \(count) \(signal.itemNoun): \(shown)")
        }
    }

    /// Items are lost: refused for good, or for a reason of our own.
    func lost(_ count: Int, _ reason: ExportLedger.DropReason?, _ cause: String, isRecovered: Bool) {
        state.withLock { state in
            let ledger = isRecovered ? \State.recovered : \State.ledger
            if let reason {
                state[keyPath: ledger].dropped[reason, default: 0] += UInt64(count)
            } else {
                state[keyPath: ledger].rejected += UInt64(count)
            }
            state.isFailing = true
        }
        let label = reason?.rawValue ?? "rejected"
        warn(
            "\(count) \(signal.itemNoun) were not exported to \(settings.publicEndpoint) (\(label)): \(cause)",
            lost: UInt64(count))
    }

    /// At most one line a minute; the next one says how much was lost without a line.
    func warn(_ text: String, lost: UInt64 = 0) {
        let suppressed: UInt64? = state.withLock { state in
            if let last = state.lastReport, .now - last < Self.reportInterval {
                state.unreported += lost
                return nil
            }
            state.lastReport = .now
            defer { state.unreported = 0 }
            return state.unreported
        }
        guard let suppressed else { return }
        report(redacted(suppressed == 0 ? text : "\(text); \(suppressed) more since the last line"))
    }

    /// An endpoint may repeat what it was sent.
    private func redacted(_ text: String) -> String {
        var text = text
        for (_, value) in settings.headers where value.utf8.count >= 4 {
            while let found = text.firstRange(of: value) { text.replaceSubrange(found, with: "<redacted>") }
        }
        return text
    }
}
