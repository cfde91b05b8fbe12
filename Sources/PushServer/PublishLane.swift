import EventStreams
import NIOCore
import Synchronization

/// One loop's way to the log and back. What its connections publish in one turn of the loop reaches the log's writer
/// together, and what the writer has committed comes back together: one commit and one wake-up for many requests.
///
/// Everything but `complete` is for the loop only, which guards it: `@unchecked Sendable`.
final class PublishLane: @unchecked Sendable {
    /// Runs on the loop.
    /// - Parameter isLater: false while the request is still being handed over.
    typealias Completion = @Sendable (_ isLater: Bool) -> Void

    private let loop: any EventLoop
    private let store: EmbeddedEventStore
    private let completed = Mutex<[Completion]>([])
    private var isWakeDue = false

    init(loop: any EventLoop, store: EmbeddedEventStore) {
        self.loop = loop
        self.store = store
    }

    /// Wakes the log's writer at the end of this turn: after everything that was ready to be read.
    func wakeLog() {
        guard !isWakeDue else { return }
        isWakeDue = true
        loop.execute {
            self.isWakeDue = false
            self.store.wake()
        }
    }

    /// Runs `completion` on the loop: at once when it is called there, else together with others.
    func complete(_ completion: @escaping Completion) {
        if loop.inEventLoop { return completion(false) }
        let isFirst = completed.withLock { completed in
            completed.append(completion)
            return completed.count == 1
        }
        guard isFirst else { return }
        loop.execute {
            let completed = self.completed.withLock { completed in
                let all = completed
                completed = []
                return all
            }
            for completion in completed { completion(true) }
        }
    }
}
