import Glibc

/// A thread that hands on what has gathered: at intervals, when nudged, and when somebody waits for it.
final class BatchWorker: Sendable {
    enum Occasion {
        case interval, nudge
        /// Everything is to go.
        case flush, stop
    }

    private let interval: Duration
    private let step: @Sendable (Occasion) -> Void
    private let state = Guarded(State())

    private struct State {
        /// Flushes that were asked for, and that are done.
        var requested: UInt64 = 0
        var done: UInt64 = 0
        var isNudged = false
        var isStopping = false
        var hasEnded = false

        var occasion: Occasion {
            if isStopping { return .stop }
            if requested > done { return .flush }
            return isNudged ? .nudge : .interval
        }
    }

    /// - Parameter step: runs on the worker's thread only.
    init(interval: Duration, step: @escaping @Sendable (Occasion) -> Void) {
        self.interval = interval
        self.step = step
    }

    /// Runs until `stop`, with a last step then.
    func run() {
        var next = ContinuousClock.now + interval
        var isStopping = false
        while !isStopping {
            state.wait(until: next) { $0.requested > $0.done || $0.isNudged || $0.isStopping }
            let (occasion, requested) = state.withLock { state in
                defer { state.isNudged = false }
                return (state.occasion, state.requested)
            }
            isStopping = occasion == .stop
            step(occasion)
            switch occasion {
            // After a long step the missed ones are left out.
            case .interval: next = max(next + interval, .now)
            case .flush: next = .now + interval
            case .nudge, .stop: break
            }
            state.withLock { state in
                state.done = requested
                state.hasEnded = isStopping
            }
            state.broadcast()
        }
    }

    func nudge() {
        state.withLock { $0.isNudged = true }
        state.broadcast()
    }

    /// Lets a step run that begins after the call. False at the deadline.
    func flush(until deadline: ContinuousClock.Instant) -> Bool {
        let number = state.withLock { state in
            // One that waits already will do; one that runs may have begun too early.
            state.requested += 1
            return state.requested
        }
        state.broadcast()
        state.wait(until: deadline) { $0.done >= number || $0.hasEnded }
        return state.withLock { $0.done >= number || $0.hasEnded }
    }

    func stop() {
        state.withLock { $0.isStopping = true }
        state.broadcast()
    }

    func waitForEnd(until deadline: ContinuousClock.Instant) -> Bool {
        state.wait(until: deadline) { $0.hasEnded }
        return state.withLock { $0.hasEnded }
    }
}

/// What a signal beside spans needs to leave the process: a thread that makes batches and one that sends them.
/// In a forked process neither exists, and nothing is waited for.
final class SignalPipeline: Sendable {
    private let process = getpid()
    private let exporter: Exporter
    private let worker: BatchWorker
    private let threads: Guarded<Threads>

    private struct Threads {
        var worker: BackgroundThread?
        var exporter: BackgroundThread?
    }

    /// After its deadline a shutdown waits this long for the worker to notice that everything was aborted.
    private static let grace = Duration.milliseconds(50)

    init(exporter: Exporter, worker: BatchWorker) {
        self.exporter = exporter
        self.worker = worker
        let name = exporter.signal.rawValue
        threads = Guarded(
            Threads(
                worker: BackgroundThread(name: "otel-\(name)") { worker.run() },
                exporter: BackgroundThread(name: "otel-\(name)-exp") { exporter.run() }))
    }

    deinit { _ = shutdown(until: .now) }

    /// False when something was not done with at the deadline.
    func flush(until deadline: ContinuousClock.Instant) -> Bool {
        if getpid() != process { return true }
        return worker.flush(until: deadline) && exporter.finishTaken(until: deadline)
    }

    /// Lets the worker hand on a last time and the exporter send, until the deadline. A second call does nothing.
    func shutdown(until deadline: ContinuousClock.Instant) -> Bool {
        if getpid() != process { return true }
        let (workerThread, exporterThread) = threads.withLock { threads in
            defer { threads = Threads() }
            return (threads.worker, threads.exporter)
        }
        guard let workerThread, let exporterThread else { return true }
        worker.stop()
        var hasEnded = worker.waitForEnd(until: deadline)
        let isDone = hasEnded && exporter.finishTaken(until: deadline)
        if isDone { exporter.stop() } else { exporter.abort() }
        if !hasEnded { hasEnded = worker.waitForEnd(until: .now + Self.grace) }
        // A callback of the program's that never returns keeps its thread; nobody waits for it.
        if hasEnded { workerThread.join() }
        exporterThread.join()
        return isDone
    }
}
