import EventStreams
import NIOCore
import Synchronization

/// One loop's way to the log and back. What its connections publish in one turn of the loop reaches the log's writer
/// together, and is answered together: one commit and one wake-up for many requests, and the clients are not woken one by
/// one between two of them.
///
/// Everything but `complete` is for the loop only, which guards it: `@unchecked Sendable`.
final class PublishLane: @unchecked Sendable {
    typealias Completion = @Sendable () -> Void

    private let loop: any EventLoop
    private let store: EmbeddedEventStore
    private var isTurnOpen = false
    /// Of requests that were answered in the turn in which they came.
    private var answers: [Completion] = []
    private let committed = Mutex<[Completion]>([])

    init(loop: any EventLoop, store: EmbeddedEventStore) {
        self.loop = loop
        self.store = store
    }

    /// Comes before what is published. The turn ends after everything that was ready to be read, and before the devices get
    /// what was published in it: that was asked for later.
    func openTurn() {
        guard !isTurnOpen else { return }
        isTurnOpen = true
        loop.execute { self.endTurn() }
    }

    private func endTurn() {
        isTurnOpen = false
        store.wake()
        let answers = self.answers
        self.answers.removeAll(keepingCapacity: true)
        for answer in answers { answer() }
    }

    /// Runs `completion` on the loop, together with others: at the end of the turn, or when what a commit has made durable
    /// comes back from the log's thread.
    func complete(_ completion: @escaping Completion) {
        if loop.inEventLoop {
            answers.append(completion)
            return openTurn()
        }
        let isFirst = committed.withLock { committed in
            committed.append(completion)
            return committed.count == 1
        }
        guard isFirst else { return }
        loop.execute {
            let committed = self.committed.withLock { committed in
                let all = committed
                committed = []
                return all
            }
            for completion in committed { completion() }
        }
    }
}
