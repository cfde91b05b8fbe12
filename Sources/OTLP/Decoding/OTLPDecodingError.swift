/// Why a message from outside could not be read, and where.
public struct OTLPDecodingError: Error, Equatable, Sendable, CustomStringConvertible {
    /// A closed set; `rawValue` is the metric label.
    public enum Code: String, Sendable, CaseIterable {
        case truncated
        case malformed
        case tooDeep = "too_deep"
        case tooLarge = "too_large"
        case invalidUTF8 = "invalid_utf8"
        case unexpectedType = "unexpected_type"
    }

    public let code: Code
    /// Byte offset into the message that was given, 0-based.
    public let offset: Int
    /// What was expected there. A constant, so that failing never allocates.
    public let cause: StaticString

    public init(code: Code, offset: Int, cause: StaticString) {
        self.code = code
        self.offset = offset
        self.cause = cause
    }

    public var description: String { "\(code.rawValue) at byte \(offset): \(cause)" }

    public static func == (a: OTLPDecodingError, b: OTLPDecodingError) -> Bool {
        a.code == b.code && a.offset == b.offset && a.cause.description == b.cause.description
    }
}
