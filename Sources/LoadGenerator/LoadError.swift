/// Why a load could not be put on a server.
public struct LoadError: Error, Sendable, CustomStringConvertible {
    public enum Code: String, Sendable, CaseIterable {
        /// A setting that makes no sense, alone or beside another.
        case invalidPlan
        /// This process may not open enough descriptors.
        case openFiles
        /// The server's name has no address.
        case unresolved
        /// The server took no connection, or answered every one with something else than a stream.
        case refused
        /// The system gave no socket, thread or memory.
        case system
    }

    public let code: Code
    /// For a person: the value, the limit and the remedy.
    public let cause: String

    public init(code: Code, cause: String) {
        self.code = code
        self.cause = cause
    }

    public var description: String { "\(code.rawValue): \(cause)" }
}
