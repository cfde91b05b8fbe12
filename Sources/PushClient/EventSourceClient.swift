import Glibc

/// Follows a stream: connects again when it ends, with capped and jittered waits, and resumes with `Last-Event-ID`.
///
/// A browser's `EventSource` for programs, with these differences: it sends headers of one's own, notices a connection
/// that has gone silent, honours `Retry-After`, tries again after 429 and 5xx, and does not follow redirects, since the
/// request may carry credentials. Used by one thread at a time.
///
/// https://html.spec.whatwg.org/multipage/server-sent-events.html
public final class EventSourceClient {
    public struct Configuration: Sendable {
        /// `http` or `https`.
        public var url: String
        /// Sent with every connection, beside `Accept`, `Cache-Control` and `Last-Event-ID`.
        public var headers: [(String, String)]
        /// The id of the last event that was handled; nil to take what the server starts with.
        public var lastEventID: String?
        /// For a name's resolution, TCP and TLS together.
        public var connectTimeout: Duration
        /// A connection that brings no byte for so long is given up. A server's comments count, so this must be longer
        /// than its heartbeat.
        public var idleTimeout: Duration
        /// The longest wait before another connection, unless the server demands more by `Retry-After`.
        public var maxBackoff: Duration
        /// False: one connection only.
        public var reconnects: Bool
        /// The most that the lines of one event may have together.
        public var maxEventBytes: Int
        /// An event whose id is among that of the last so many is not given again; zero gives all. For servers that begin
        /// a resumed stream with what was there already.
        public var rememberedIDs: Int

        public init(
            url: String, headers: [(String, String)] = [], lastEventID: String? = nil,
            connectTimeout: Duration = .seconds(10), idleTimeout: Duration = .seconds(45),
            maxBackoff: Duration = .seconds(30), reconnects: Bool = true, maxEventBytes: Int = 1 << 20,
            rememberedIDs: Int = 256
        ) {
            self.url = url
            self.headers = headers
            self.lastEventID = lastEventID
            self.connectTimeout = connectTimeout
            self.idleTimeout = idleTimeout
            self.maxBackoff = maxBackoff
            self.reconnects = reconnects
            self.maxEventBytes = maxEventBytes
            self.rememberedIDs = rememberedIDs
        }
    }

    public enum Action: Sendable { case `continue`, stop }

    public enum Notice: Sendable {
        /// A stream has been opened; the URL is without credentials.
        case connected(url: String)
        /// The connection failed, was refused for now, or was lost.
        case disconnected(reason: String, retryIn: Duration)
        /// The stream is over for good: the server said so, or `reconnects` is false. `run` returns next.
        case ended(String)
    }

    /// The id to resume from: that of the last event given to `onEvent`, or of a later block that had an id but no data.
    /// Nil when there never was one; empty when the server took it back.
    public private(set) var lastEventID: String?

    /// Events that were not given, since they had been before.
    public private(set) var duplicates = 0

    private let configuration: Configuration
    private var remembered: RecentIDs
    private var parser: EventStreamParser

    public init(configuration: Configuration) {
        self.configuration = configuration
        lastEventID = configuration.lastEventID
        remembered = RecentIDs(capacity: configuration.rememberedIDs)
        parser = EventStreamParser(maxEventBytes: configuration.maxEventBytes, lastEventID: configuration.lastEventID)
    }

    /// How one connection came to its end.
    private enum Ending {
        case stopped
        /// Status 204: nothing will ever come.
        case noContent
        /// The stream was open and is over.
        case streamOver(String, hadBytes: Bool)
        /// No stream this time.
        case failed(PushClientError, retryAfter: Duration?)
    }

    /// Follows the stream, blocking the thread. May be called again, and then resumes.
    ///
    /// Returns when `onEvent` says stop, when `shouldStop` returns true, when the server answers 204, or, without
    /// `reconnects`, when the stream has ended.
    ///
    /// - Parameters:
    ///   - shouldStop: asked about ten times a second, also while waiting.
    ///   - onNotice: for a log; called in order with the events.
    ///   - onEvent: each event once per connection. After `stop` no other is given, and `lastEventID` stays.
    /// - Throws: `PushClientError` for what will not change: `rejected` for a status other than 200, 204, 408, 425, 429
    ///   and 5xx; `malformed` for a bad URL, a bad header or another content type; `tooLarge` for an event beyond the
    ///   limit. Without `reconnects` for any failure before the end of a stream.
    public func run(
        shouldStop: @escaping () -> Bool, onNotice: (Notice) -> Void, onEvent: (ServerSentEvent) -> Action
    ) throws(PushClientError) {
        let connection = try StreamConnection(
            connectTimeout: configuration.connectTimeout, idleTimeout: configuration.idleTimeout)
        var backoff = ReconnectBackoff(maximum: configuration.maxBackoff)
        while !shouldStop() {
            let reason: String
            let wait: Duration
            switch try follow(connection, shouldStop, onNotice, onEvent) {
            case .stopped:
                return
            case .noContent:
                return onNotice(.ended("\(displayed(configuration.url)) answered 204: the stream is over for good"))
            case .streamOver(let text, let hadBytes):
                guard configuration.reconnects else { return onNotice(.ended(text)) }
                reason = text
                let random = Double.random(in: 0..<1)
                if hadBytes {
                    backoff.succeeded()
                    wait = backoff.afterEnd(retry: parser.retry, random: random)
                } else {
                    wait = backoff.afterFailure(retry: parser.retry, retryAfter: nil, random: random)
                }
            case .failed(let error, let retryAfter):
                guard configuration.reconnects else { throw error }
                reason = error.cause
                wait = backoff.afterFailure(
                    retry: parser.retry, retryAfter: retryAfter, random: Double.random(in: 0..<1))
            }
            onNotice(.disconnected(reason: reason, retryIn: wait))
            let end = ContinuousClock.now + wait
            while !shouldStop() {
                let rest = end - ContinuousClock.now
                guard rest > .zero else { break }
                usleep(UInt32(min(rest, StreamConnection.pollInterval).curlMilliseconds) * 1000)
            }
        }
    }

    /// One connection, from the request to its end.
    private func follow(
        _ connection: StreamConnection, _ shouldStop: () -> Bool, _ onNotice: (Notice) -> Void,
        _ onEvent: (ServerSentEvent) -> Action
    ) throws(PushClientError) -> Ending {
        var headers = configuration.headers
        headers.append(("Accept", "text/event-stream"))
        headers.append(("Cache-Control", "no-cache"))
        if let lastEventID, !lastEventID.isEmpty { headers.append(("Last-Event-ID", lastEventID)) }
        parser.resume(from: lastEventID)
        let url = displayed(configuration.url)
        try connection.open(configuration.url, headers: headers)
        defer { connection.close() }
        var isOpen = false
        var hadBytes = false
        while true {
            if shouldStop() { return .stopped }
            let progress = connection.step()
            let received = connection.received
            if received.isHeadComplete, received.status != 200 {
                // A refusal's body says why; it is read to its end, or as far as it fits.
                if received.status == 204 { return .noContent }
                if case .waiting = progress, received.body.count < StreamConnection.maxRefusalBytes { continue }
                return try refusal(received, url)
            }
            if received.isHeadComplete, !isOpen {
                let type = received.headers.value(of: "Content-Type")
                guard type.map(ProblemDetails.mediaType) == "text/event-stream" else {
                    throw PushClientError(
                        code: .malformed,
                        cause: "\(url) answered 200 with the content type \(type?.debugDescription ?? "(none)"), not "
                            + "text/event-stream; is it the URL of a stream?",
                        status: 200)
                }
                isOpen = true
                onNotice(.connected(url: url))
            }
            if isOpen, !received.body.isEmpty {
                hadBytes = true
                if try deliver(received.body, url, onEvent) == .stop { return .stopped }
                received.body.removeAll(keepingCapacity: true)
            }
            switch progress {
            case .waiting:
                continue
            case .ended:
                guard isOpen else {
                    let cause = "\(url) closed the connection without an answer"
                    return .failed(PushClientError(code: .connectionFailed, cause: cause), retryAfter: nil)
                }
                return .streamOver("\(url) ended the stream", hadBytes: hadBytes)
            case .failed(let error):
                if error.code == .malformed, !received.isHeadComplete, error.status == nil { throw error }
                // Without `reconnects` a silence is a failure; a cut is an end like any other, as most are.
                if isOpen, configuration.reconnects || error.code != .timedOut {
                    return .streamOver(error.cause, hadBytes: hadBytes)
                }
                return .failed(error, retryAfter: nil)
            }
        }
    }

    private func deliver(
        _ bytes: [UInt8], _ url: String, _ onEvent: (ServerSentEvent) -> Action
    ) throws(PushClientError) -> Action {
        var action = Action.continue
        // `withUnsafeBytes` does not pass a typed error on.
        let failure: EventStreamError? = bytes.withUnsafeBytes { buffer in
            do throws(EventStreamError) {
                try parser.push(buffer) { event, hasOwnID in
                    guard action == .continue else { return }
                    lastEventID = event.id
                    // A reset has the id of an event that may have been given.
                    if hasOwnID, event.type != "isotherm.reset", let id = event.id, !remembered.isNew(id) {
                        duplicates += 1
                        return
                    }
                    action = onEvent(event)
                }
                return nil
            } catch {
                return error
            }
        }
        if let failure, action == .continue {
            throw PushClientError(code: .tooLarge, cause: "\(url): \(failure.cause)", status: 200)
        }
        // What the parser has read after the last event given does not count.
        if action == .continue { lastEventID = parser.lastEventID }
        return action
    }

    /// An answer that is not a stream: thrown when it will not change.
    private func refusal(_ received: CurlTransfer.Received, _ url: String) throws(PushClientError) -> Ending {
        let status = received.status
        var cause = "\(url) answered \(status)"
        let type = received.headers.value(of: "Content-Type")
        if let text = ProblemDetails.text(contentType: type, body: received.body) { cause += ": \(text)" }
        if (300..<400).contains(status), let target = received.headers.value(of: "Location") {
            cause += ": redirects are not followed; if you trust it, use \(ProblemDetails.printable(displayed(target)))"
        }
        let error = PushClientError(code: .rejected, cause: cause, status: status)
        // 408, 425 and 429 are about this attempt, not about the request.
        guard status >= 500 || [408, 425, 429].contains(status) else { throw error }
        return .failed(error, retryAfter: received.headers.value(of: "Retry-After").flatMap(retryAfter))
    }
}
