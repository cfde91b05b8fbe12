import CTelemetry
import Glibc

/// A thread that runs one closure and can be waited for.
final class BackgroundThread: @unchecked Sendable {  // joined by whoever owns it, once
    private var thread = pthread_t()
    private var isJoined = false
    private let process = getpid()

    private final class Start {
        let name: String
        let body: @Sendable () -> Void
        init(name: String, body: @escaping @Sendable () -> Void) {
            self.name = name
            self.body = body
        }
    }

    init(name: String, _ body: @escaping @Sendable () -> Void) {
        let start = Unmanaged.passRetained(Start(name: name, body: body))
        let result = pthread_create(
            &thread, nil,
            { argument in
                guard let argument else { return nil }
                let start = Unmanaged<Start>.fromOpaque(argument).takeRetainedValue()
                isotherm_name_thread(start.name)
                start.body()
                return nil
            }, start.toOpaque())
        precondition(result == 0, "no thread could be made: errno \(result)")
    }

    /// A thread that nobody has waited for frees its memory itself when it ends.
    deinit {
        if !isJoined, getpid() == process { pthread_detach(thread) }
    }

    func join() {
        // A forked process has none of its parent's threads.
        guard !isJoined, getpid() == process else { return }
        isJoined = true
        pthread_join(thread, nil)
    }
}
