import EventStreams
import NIOCore
import PushPipeline
import Synchronization

/// One loop's way to the log and back. What its connections publish in one turn of the loop reaches the log's writer
/// together, and is answered together: one commit and one wake-up for many requests, and the clients are not woken one by
/// one between two of them.
///
/// Everything but `complete` is for the loop only, which guards it: `@unchecked Sendable`.
final class PublishLane: @unchecked Sendable {
    private struct Answer: Sendable {
        let door: FrontDoor
        let outcome: PublishOutcome
    }

    private let loop: any EventLoop
    let hubLoop: HubLoop
    private let gateway: Gateway
    private let store: EmbeddedEventStore
    private var isTurnOpen = false
    /// To requests that need no disk.
    private var answers: [Answer] = []
    private let committed = Mutex<[Answer]>([])
    /// Lends its space to the two above while they are worked off.
    private var leaving: [Answer] = []

    /// Up to so many devices get an event before its publisher is answered, so that they do not wait for what answering
    /// sets in motion. To more of them sending would take longer than the answer should.
    static let fewDevices = 16

    init(loop: any EventLoop, hubLoop: HubLoop, gateway: Gateway, store: EmbeddedEventStore) {
        self.loop = loop
        self.hubLoop = hubLoop
        self.gateway = gateway
        self.store = store
    }

    /// Comes before what is published. The turn ends after everything that was ready to be read; whatever is published in
    /// it has its deliveries queued behind that end.
    func openTurn() {
        guard !isTurnOpen else { return }
        isTurnOpen = true
        loop.execute { self.endTurn() }
    }

    private func endTurn() {
        isTurnOpen = false
        if (1...Self.fewDevices).contains(hubLoop.subscriptionCount) {
            loop.execute { self.finishTurn() }
        } else {
            finishTurn()
        }
    }

    private func finishTurn() {
        swap(&answers, &leaving)
        answerLeaving()
        store.wake()
    }

    private func answerLeaving() {
        for answer in leaving { answer.door.answerPublish(gateway.conclude(answer.outcome)) }
        leaving.removeAll(keepingCapacity: true)
    }

    /// Answers on the loop, together with others: at the end of the turn, or when what a commit has made durable comes back
    /// from the log's thread.
    func complete(_ door: FrontDoor, _ outcome: PublishOutcome) {
        let answer = Answer(door: door, outcome: outcome)
        if loop.inEventLoop {
            answers.append(answer)
            return openTurn()
        }
        let isFirst = committed.withLock { committed in
            committed.append(answer)
            return committed.count == 1
        }
        guard isFirst else { return }
        loop.execute {
            self.committed.withLock { swap(&$0, &self.leaving) }
            self.answerLeaving()
        }
    }
}
