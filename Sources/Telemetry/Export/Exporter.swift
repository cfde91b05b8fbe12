import CCurl
import Glibc
import Gzip
import OTLP
import Synchronization

/// Sends batches to an OTLP/HTTP endpoint, one at a time, on a thread of its own. Nothing here is traced.
///
/// Retries by OTLP's rules: 429, 502, 503, 504, a connection that could not be made and one that broke before an answer
/// are tried again, with the same bytes, until the export time-out; everything else is final.
final class Exporter: Sendable {
    let signal: Signal
    private let settings: OTLPExporterSettings
    private let maxQueuedBatches: Int
    private let report: @Sendable (String) -> Void
    private let state: Guarded<State>

    private struct State {
        var queue: [Batch] = []
        /// Batches that were taken, and those of them that are done with.
        var taken: UInt64 = 0
        var finished: UInt64 = 0
        var ledger = ExportLedger()
        var isStopping = false
        /// Requests still under way are aborted.
        var isAborted = false
        var isFailing = false
        var lastReport: ContinuousClock.Instant?
    }

    /// An answer may be this long; more is not read.
    private static let maxResponseBytes = 4 * 1024 * 1024
    private static let firstBackoff = Duration.milliseconds(500)
    private static let maxBackoff = Duration.seconds(30)

    init(configuration: TelemetryConfiguration, signal: Signal) {
        self.signal = signal
        settings = configuration[signal]
        maxQueuedBatches =
            signal == .traces
            ? max(2, configuration.maxQueueSize / max(1, configuration.maxExportBatchSize)) : settings.maxQueuedBatches
        report = configuration.report
        state = Guarded(State())
    }

    // MARK: The queue

    var hasRoom: Bool { state.withLock { $0.queue.count < maxQueuedBatches } }

    func enqueue(_ batch: Batch) {
        state.withLock { state in
            state.taken += 1
            state.ledger.taken += UInt64(batch.itemCount)
            if state.isAborted {
                state.ledger.dropped[.shutdown, default: 0] += UInt64(batch.itemCount)
                state.finished += 1
            } else {
                state.queue.append(batch)
            }
        }
        state.broadcast()
    }

    func waitForRoom(until deadline: ContinuousClock.Instant) {
        state.wait(until: deadline) { $0.queue.count < maxQueuedBatches }
    }

    /// Returns true once every batch taken so far is done with, or false at the deadline.
    func finishTaken(until deadline: ContinuousClock.Instant) -> Bool {
        let taken = state.withLock { $0.taken }
        state.wait(until: deadline) { $0.finished >= taken }
        return state.withLock { $0.finished >= taken }
    }

    /// Counts items that were lost before they were in a batch.
    func drop(_ count: Int, as reason: SpanLedger.DropReason) {
        state.withLock { state in
            state.ledger.taken += UInt64(count)
            state.ledger.dropped[reason, default: 0] += UInt64(count)
        }
    }

    /// Where the items went, at this moment.
    var ledger: ExportLedger { state.withLock { $0.ledger } }

    func account(in ledger: inout SpanLedger) {
        let own = self.ledger
        ledger.exported = own.exported
        ledger.rejected = own.rejected
        ledger.dropped.merge(own.dropped, uniquingKeysWith: +)
        ledger.queued += own.queued
    }

    /// Whether the last attempt failed.
    var isFailing: Bool { state.withLock { $0.isFailing } }

    /// Lets the thread end once the queue is empty.
    func stop() {
        state.withLock { $0.isStopping = true }
        state.broadcast()
    }

    /// Ends everything now; what is left is counted as dropped.
    func abort() {
        state.withLock { state in
            state.isStopping = true
            state.isAborted = true
            let left = state.queue.reduce(0) { $0 + $1.itemCount }
            state.ledger.dropped[.shutdown, default: 0] += UInt64(left)
            state.finished += UInt64(state.queue.count)
            state.queue = []
        }
        state.broadcast()
    }

    // MARK: Sending

    /// Runs until `stop` and an empty queue, or `abort`.
    func run() {
        guard let request = HTTPRequest(settings: settings) else {
            return
        }
        while let batch = next() {
            send(batch, with: request)
            state.withLock { $0.finished += 1 }
            state.broadcast()
        }
    }

    private func next() -> Batch? {
        state.wait(until: nil) { !$0.queue.isEmpty || $0.isStopping }
        return state.withLock { state in
            guard !state.queue.isEmpty else { return nil }
            let batch = state.queue.removeFirst()
            return batch
        }
    }

    private func send(_ batch: Batch, with request: HTTPRequest) {
        let plain = batch.body()
        let compressed = settings.compression == .gzip ? Gzip.compress(plain) : []
        let deadline = ContinuousClock.now + settings.exportTimeout
        var backoff = Self.firstBackoff
        while true {
            let left = deadline - ContinuousClock.now
            let timeout = min(settings.timeout, max(left, .milliseconds(1)))
            switch perform(request, plain: plain, compressed: compressed, timeout: timeout) {
            case .accepted(let rejected, let message):
                let rejected = min(UInt64(max(0, rejected)), UInt64(batch.itemCount))
                state.withLock { state in
                    state.ledger.exported += UInt64(batch.itemCount) - rejected
                    state.ledger.rejected += rejected
                    state.isFailing = false
                }
                if rejected > 0 || !message.isEmpty {
                    warn(
                        "\(settings.publicEndpoint) rejected \(rejected) of \(batch.itemCount) \(signal.itemNoun): \(message.prefix(256))"
                    )
                }
                return
            case .final(let cause):
                return fail(batch, as: nil, cause)
            case .tooLarge(let cause):
                return fail(batch, as: .oversize, cause)
            case .retry(let cause, let retryAfter):
                state.withLock { $0.isFailing = true }
                // Half to one and a half of the backoff, so that a fleet does not come back at once.
                let jittered = backoff * Double.random(in: 0.5...1.5)
                let wait = max(jittered, retryAfter ?? .zero)
                guard ContinuousClock.now + wait < deadline, !state.withLock({ $0.isAborted }) else {
                    let isAborted = state.withLock { $0.isAborted }
                    return fail(batch, as: isAborted ? .shutdown : .retryExpired, cause)
                }
                state.wait(until: .now + wait) { $0.isAborted }
                backoff = min(backoff * 2, Self.maxBackoff)
            }
        }
    }

    private func perform(
        _ request: HTTPRequest, plain: UnsafeRawBufferPointer, compressed: [UInt8], timeout: Duration
    ) -> HTTPRequest.Outcome {
        let isAborted: () -> Bool = { [state] in state.withLock { $0.isAborted } }
        if settings.compression != .gzip {
            return request.post(plain, timeout: timeout, maxResponseBytes: Self.maxResponseBytes, isAborted: isAborted)
        }
        return compressed.withUnsafeBytes {
            request.post($0, timeout: timeout, maxResponseBytes: Self.maxResponseBytes, isAborted: isAborted)
        }
    }

    private func fail(_ batch: Batch, as reason: SpanLedger.DropReason?, _ cause: String) {
        state.withLock { state in
            if let reason {
                state.ledger.dropped[reason, default: 0] += UInt64(batch.itemCount)
            } else {
                state.ledger.rejected += UInt64(batch.itemCount)
            }
            state.isFailing = true
        }
        warn("\(batch.itemCount) \(signal.itemNoun) were not exported to \(settings.publicEndpoint): \(cause)")
    }

    /// At most one line a minute.
    private func warn(_ text: String) {
        let isDue = state.withLock { state in
            if let last = state.lastReport, ContinuousClock.now - last < .seconds(60) { return false }
            state.lastReport = .now
            return true
        }
        if isDue { report(text) }
    }
}
