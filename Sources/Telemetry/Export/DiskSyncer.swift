import Glibc

/// An open file or directory, closed when nobody has it any more.
final class DiskFile: Sendable {
    let descriptor: Int32

    /// Takes the descriptor over.
    init(_ descriptor: Int32) { self.descriptor = descriptor }

    deinit { close(descriptor) }
}

/// Makes files survive a loss of power, on a thread of its own: a disk takes as long as it likes, a second and more while
/// others write to it, and whoever has spans to put away cannot wait for that.
final class DiskSyncer: Sendable {
    private let state: Guarded<State>
    private let thread: BackgroundThread

    private struct State {
        /// Each at most once, so that it is bounded by the number of open files.
        var waiting: [DiskFile] = []
        var isStopping = false
    }

    init() {
        let state = Guarded(State())
        self.state = state
        thread = BackgroundThread(name: "otel-disk") { Self.run(state) }
    }

    /// Waits for what is still to be done.
    deinit {
        state.withLock { $0.isStopping = true }
        state.broadcast()
        thread.join()
    }

    /// Begins soon; for what was written so far.
    func sync(_ file: DiskFile) {
        state.withLock { state in
            if !state.waiting.contains(where: { $0 === file }) { state.waiting.append(file) }
        }
        state.broadcast()
    }

    private static func run(_ state: Guarded<State>) {
        while true {
            state.wait(until: nil) { !$0.waiting.isEmpty || $0.isStopping }
            let files = state.withLock { state in
                defer { state.waiting = [] }
                return state.waiting
            }
            if files.isEmpty { return }
            for file in files { fdatasync(file.descriptor) }
        }
    }
}
