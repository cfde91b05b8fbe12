import NIOCore

/// How long a client may take for what it is doing. Whoever reads the connection says what happens, and is told what is
/// due by the loop's `PaceKeeper`.
struct Pace {
    enum Phase: Equatable {
        /// A head is on its way, or the first one is waited for.
        case head
        /// A body is on its way: `headTimeout`, and a second for every `bodyRate` bytes that have come.
        case body(bytes: Int)
        /// Between requests.
        case idle
        /// It is the server's turn.
        case busy
    }

    struct Limits {
        let head: TimeAmount
        let idle: TimeAmount
        /// Bytes a second.
        let bodyRate: Int64

        init(_ configuration: PushServerConfiguration) {
            head = TimeAmount(configuration.headTimeout)
            idle = TimeAmount(configuration.idleTimeout)
            bodyRate = Int64(max(1, configuration.limits.bodyRate))
        }
    }

    private(set) var phase = Phase.head
    private var since: NIODeadline

    init(now: NIODeadline) { since = now }

    mutating func enter(_ phase: Phase, now: @autoclosure () -> NIODeadline) {
        self.phase = phase
        if phase != .busy { since = now() }
    }

    mutating func received(bodyBytes: Int) {
        if case .body(let bytes) = phase { phase = .body(bytes: bytes + bodyBytes) }
    }

    /// When the connection is to end if nothing happens, and why.
    func due(_ limits: Limits) -> (at: NIODeadline, end: ConnectionEnd)? {
        switch phase {
        case .head: (since + limits.head, .headTimeout)
        case .body(let bytes):
            (since + limits.head + .milliseconds(Int64(bytes) * 1_000 / limits.bodyRate), .bodyTimeout)
        case .idle: (since + limits.idle, .idle)
        case .busy: nil
        }
    }
}

/// One connection's pace, watched until it is cancelled. Belongs to its loop.
final class PaceTimer {
    @exclusivity(unchecked) var pace: Pace
    private let keeper: PaceKeeper
    fileprivate var place = -1
    fileprivate let onDue: (ConnectionEnd) -> Void

    init(_ keeper: PaceKeeper, onDue: @escaping (ConnectionEnd) -> Void) {
        pace = Pace(now: .now())
        self.keeper = keeper
        self.onDue = onDue
        keeper.add(self)
    }

    func cancel() { keeper.remove(self) }
}

/// Looks, a few times a second, at all connections of a loop that are timed: cheaper than a timer for each, which nearly
/// always would be cancelled before it fires. Streams are not timed, so ten thousand of them cost nothing here.
///
/// Belongs to its loop, which guards it: `@unchecked Sendable`.
final class PaceKeeper: @unchecked Sendable {
    private let loop: any EventLoop
    private let limits: Pace.Limits
    private var watched: [PaceTimer] = []
    private var isLooking = false

    /// By so much may a limit be passed.
    static let interval = TimeAmount.milliseconds(200)

    init(loop: any EventLoop, limits: Pace.Limits) {
        self.loop = loop
        self.limits = limits
    }

    fileprivate func add(_ timer: PaceTimer) {
        loop.preconditionInEventLoop()
        timer.place = watched.count
        watched.append(timer)
        if !isLooking { lookLater() }
    }

    fileprivate func remove(_ timer: PaceTimer) {
        guard timer.place >= 0, let last = watched.popLast() else { return }
        if last !== timer {
            watched[timer.place] = last
            last.place = timer.place
        }
        timer.place = -1
    }

    private func lookLater() {
        isLooking = true
        loop.scheduleTask(in: Self.interval) { self.look() }
    }

    private func look() {
        isLooking = false
        let now = NIODeadline.now()
        var ended: [(PaceTimer, ConnectionEnd)] = []
        for timer in watched {
            if let due = timer.pace.due(limits), due.at <= now { ended.append((timer, due.end)) }
        }
        for (timer, end) in ended {
            // Ending one connection may have ended another.
            guard timer.place >= 0 else { continue }
            remove(timer)
            timer.onDue(end)
        }
        if !watched.isEmpty, !isLooking { lookLater() }
    }
}
