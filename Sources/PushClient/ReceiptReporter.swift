import FoundationEssentials
import Glibc
import Synchronization

/// Tells a server when its events arrived: `POST /v1/receipts`, in batches, from a thread of its own, so that a slow server
/// does not hold up the device.
///
///     {"device":"d17","group":"iOS-15+","sent_at":"2026-11-25T19:30:00.123456789Z",
///      "receipts":[{"id":"ev_…","received_at":"2026-11-25T19:29:59.987654321Z"}]}
///
/// `sent_at` lets the server tell how far the device's clock is off. What the server cannot take now (no connection, 429,
/// 5xx) is sent again; what it refuses is not.
public final class ReceiptReporter: Sendable {
    public struct Configuration: Sendable {
        /// `http://host:port`.
        public var server: String
        public var headers: [(String, String)]
        public var device: String?
        public var group: String?
        /// Between two batches.
        public var interval: Duration
        /// The most receipts that wait; beyond it the oldest are given up and counted.
        public var maxQueued: Int

        public init(
            server: String, headers: [(String, String)] = [], device: String? = nil, group: String? = nil,
            interval: Duration = .seconds(1), maxQueued: Int = 10_000
        ) {
            self.server = server
            self.headers = headers
            self.device = device
            self.group = group
            self.interval = interval
            self.maxQueued = maxQueued
        }
    }

    /// The most that the server takes in one request, by number and, at 64 characters an id, by size.
    private static let maxBatch = 1_000

    private struct Receipt {
        let id: String
        let nano: UInt64
    }

    private struct Report: Encodable {
        struct Receipt: Encodable {
            let id: String
            let received_at: String
        }
        let device: String?
        let group: String?
        let sent_at: String
        let receipts: [Receipt]
    }

    private struct State {
        var queue: [Receipt] = []
        var isFinished = false
        var isDone = false
        var reported = 0
        var lost = 0

        mutating func trim(to limit: Int) {
            let excess = queue.count - limit
            guard excess > 0 else { return }
            queue.removeFirst(excess)
            lost += excess
        }
    }

    private let configuration: Configuration
    private let state = Mutex(State())

    public init(configuration: Configuration) {
        self.configuration = configuration
        var thread = pthread_t()
        let context = Unmanaged.passRetained(self)
        let status = pthread_create(
            &thread, nil,
            { context in
                if let context { Unmanaged<ReceiptReporter>.fromOpaque(context).takeRetainedValue().run() }
                return nil
            }, context.toOpaque())
        guard status == 0 else {
            // Without a thread nothing is sent: what comes is counted as lost once it is beyond the queue.
            context.release()
            state.withLock { $0.isDone = true }
            return
        }
        pthread_detach(thread)
    }

    /// Receipts that were accepted, and that were refused or given up.
    public var counts: (reported: Int, lost: Int) { state.withLock { ($0.reported, $0.lost) } }

    /// An event has just arrived. Does not wait.
    public func received(_ id: String) {
        let receipt = Receipt(id: id, nano: Self.now())
        state.withLock { state in
            state.queue.append(receipt)
            state.trim(to: configuration.maxQueued)
        }
    }

    /// Sends what waits, once, and ends. Blocks until then, for some seconds at most.
    public func finish() {
        state.withLock { $0.isFinished = true }
        while !state.withLock({ $0.isDone }) { usleep(5_000) }
    }

    private func run() {
        let client = HTTPClient(timeout: .seconds(5))
        var backoff = ReconnectBackoff(maximum: .seconds(30))
        while true {
            let (batch, isLast) = state.withLock { state in
                let batch = Array(state.queue.prefix(Self.maxBatch))
                state.queue.removeFirst(batch.count)
                return (batch, state.isFinished && state.queue.isEmpty)
            }
            let outcome = batch.isEmpty ? .taken : send(batch, client)
            var wait = configuration.interval
            var isOver = isLast
            state.withLock { state in
                switch outcome {
                case .taken:
                    state.reported += batch.count
                    backoff.succeeded()
                case .refused: state.lost += batch.count
                case .later where state.isFinished:
                    state.lost += batch.count + state.queue.count
                    state.queue = []
                    isOver = true
                case .later:
                    state.queue = batch + state.queue
                    state.trim(to: configuration.maxQueued)
                    wait = backoff.afterFailure(retry: wait, retryAfter: nil, random: Double.random(in: 0..<1))
                }
                if isOver { state.isDone = true }
            }
            if isOver { return }
            // A full batch that went has others behind it.
            if batch.count < Self.maxBatch || outcome == .later { pause(wait) }
        }
    }

    private func pause(_ wait: Duration) {
        let end = ContinuousClock.now + wait
        while ContinuousClock.now < end, !state.withLock({ $0.isFinished }) { usleep(20_000) }
    }

    private enum Outcome { case taken, refused, later }

    private func send(_ batch: [Receipt], _ client: HTTPClient) -> Outcome {
        let report = Report(
            device: configuration.device, group: configuration.group, sent_at: Self.text(Self.now()),
            receipts: batch.map { .init(id: $0.id, received_at: Self.text($0.nano)) })
        guard let body = try? JSONEncoder().encode(report) else { return .refused }
        do {
            let status = try client.post(
                "\(configuration.server)/v1/receipts",
                headers: configuration.headers + [("Content-Type", "application/json")], body: Array(body)
            ).status
            if status == 202 { return .taken }
            return status == 429 || status >= 500 ? .later : .refused
        } catch {
            return error.code == .connectionFailed || error.code == .timedOut ? .later : .refused
        }
    }

    private static func now() -> UInt64 {
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }

    /// RFC 3339 in UTC, to the nanosecond.
    static func text(_ unixNano: UInt64) -> String {
        var seconds = time_t(unixNano / 1_000_000_000)
        var parts = tm()
        gmtime_r(&seconds, &parts)
        func digits(_ number: Int, _ width: Int) -> String {
            let text = "\(number)"
            return String(repeating: "0", count: max(0, width - text.count)) + text
        }
        let date = [
            digits(Int(parts.tm_year) + 1900, 4), digits(Int(parts.tm_mon) + 1, 2), digits(Int(parts.tm_mday), 2),
        ]
        let time = [parts.tm_hour, parts.tm_min, parts.tm_sec].map { digits(Int($0), 2) }
        return date.joined(separator: "-") + "T" + time.joined(separator: ":") + "."
            + digits(Int(unixNano % 1_000_000_000), 9) + "Z"
    }
}
