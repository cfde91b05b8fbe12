import EventStreams

/// Why an event or a connection was refused. `code` is the metric label and the problem's `type`.
public struct GatewayError: Error, Sendable, CustomStringConvertible {
    public enum Code: String, Sendable, CaseIterable {
        case invalidTopic = "invalid_topic"
        case invalidHeader = "invalid_header"
        case invalidBody = "invalid_body"
        case bodyTooLarge = "body_too_large"
        case batchTooLarge = "batch_too_large"
        case unauthorized
        case quotaExceeded = "quota_exceeded"
        case tooManyConnections = "too_many_connections"
        case overloaded
        case storageFull = "storage_full"
        case unavailable
        case draining

        /// The HTTP status of the answer.
        public var status: Int {
            switch self {
            case .invalidTopic, .invalidHeader, .invalidBody: 400
            case .unauthorized: 401
            case .bodyTooLarge, .batchTooLarge: 413
            case .quotaExceeded, .tooManyConnections: 429
            case .storageFull: 507
            case .overloaded, .unavailable, .draining: 503
            }
        }
    }

    public let code: Code
    /// For a person: names the value, the limit and the remedy.
    public let cause: String
    /// When to try again; nil where trying again does not help.
    public let retryAfter: Duration?

    public init(code: Code, cause: String, retryAfter: Duration? = nil) {
        self.code = code
        self.cause = cause
        self.retryAfter = retryAfter
    }

    public init(_ error: StreamError) {
        switch error.code {
        case .full:
            self.init(code: .overloaded, cause: error.cause, retryAfter: .seconds(1))
        case .storageFull:
            self.init(code: .storageFull, cause: error.cause, retryAfter: .seconds(30))
        default:
            self.init(code: .unavailable, cause: "\(error.code.rawValue): \(error.cause)", retryAfter: .seconds(5))
        }
    }

    public var description: String { "\(code.rawValue): \(cause)" }
}
