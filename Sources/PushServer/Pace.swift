import NIOCore

/// How long a client may take for what it is doing. Whoever reads the connection says what happens, and is told what is
/// due; one timer per connection is moved only when something is due earlier than it fires.
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

    private let configuration: PushServerConfiguration
    private(set) var phase = Phase.head
    private var since: NIODeadline

    init(_ configuration: PushServerConfiguration, now: NIODeadline) {
        self.configuration = configuration
        since = now
    }

    mutating func enter(_ phase: Phase, now: NIODeadline) {
        self.phase = phase
        since = now
    }

    mutating func received(bodyBytes: Int) {
        if case .body(let bytes) = phase { phase = .body(bytes: bytes + bodyBytes) }
    }

    /// When the connection is to end if nothing happens, and why.
    var due: (at: NIODeadline, end: ConnectionEnd)? {
        switch phase {
        case .head: (since + TimeAmount(configuration.headTimeout), .headTimeout)
        case .body(let bytes):
            (
                since + TimeAmount(configuration.headTimeout)
                    + .milliseconds(Int64(bytes) * 1_000 / Int64(max(1, configuration.limits.bodyRate))), .bodyTimeout
            )
        case .idle: (since + TimeAmount(configuration.idleTimeout), .idle)
        case .busy: nil
        }
    }
}

/// The one timer of a connection's pace. Belongs to its loop.
final class PaceTimer {
    var pace: Pace
    private var timer: (at: NIODeadline, scheduled: Scheduled<Void>)?
    private var onDue: ((ConnectionEnd) -> Void)?

    init(_ configuration: PushServerConfiguration, onDue: @escaping (ConnectionEnd) -> Void) {
        pace = Pace(configuration, now: .now())
        self.onDue = onDue
    }

    /// Makes sure that the timer fires in time.
    func arm(on loop: any EventLoop) {
        guard onDue != nil, let due = pace.due else { return }
        if let timer, timer.at <= due.at { return }
        timer?.scheduled.cancel()
        let bound = NIOLoopBound(self, eventLoop: loop)
        timer = (due.at, loop.scheduleTask(deadline: due.at) { bound.value.fire(on: loop) })
    }

    private func fire(on loop: any EventLoop) {
        timer = nil
        guard let onDue, let due = pace.due else { return }
        if due.at <= .now() { onDue(due.end) } else { arm(on: loop) }
    }

    func cancel() {
        timer?.scheduled.cancel()
        timer = nil
        onDue = nil
    }
}
