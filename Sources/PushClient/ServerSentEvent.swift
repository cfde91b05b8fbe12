/// One event of a stream, by the WHATWG event-stream format.
public struct ServerSentEvent: Sendable, Equatable {
    /// The last event id in force after this event, which an earlier event may have set; nil when no event ever
    /// carried one, empty after a field that took it back.
    public var id: String?
    /// `message` when the event names no type.
    public var type: String
    /// The lines of the event's data joined by LF, without the last LF.
    public var data: String
    /// The value of the field `traceparent` in this event's block, unchecked; nil without one.
    public var traceparent: String?

    public init(id: String? = nil, type: String = "message", data: String, traceparent: String? = nil) {
        self.id = id
        self.type = type
        self.data = data
        self.traceparent = traceparent
    }
}

/// Why a stream of events cannot be read any further.
public struct EventStreamError: Error, Sendable, Equatable, CustomStringConvertible {
    public enum Code: String, Sendable {
        /// An event is larger than the parser's limit.
        case tooLarge
    }

    public let code: Code
    /// For a person: the value, the limit and the remedy.
    public let cause: String

    public var description: String { "\(code.rawValue): \(cause)" }
}
