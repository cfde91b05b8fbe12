/// Why a request or a stream failed.
public struct PushClientError: Error, Sendable, CustomStringConvertible {
    public enum Code: String, Sendable, CaseIterable {
        /// No connection, or one that broke before the whole answer had come.
        case connectionFailed
        /// An answer with a status that refuses the request.
        case rejected
        /// No connection, or no more bytes, within the time allowed.
        case timedOut
        /// An answer or an event beyond its limit.
        case tooLarge
        /// A URL or a header that cannot be sent, or an answer that is not what was asked for.
        case malformed
    }

    public let code: Code
    /// For a person: names the URL, with credentials left out, and the value that was wrong.
    public let cause: String
    /// The HTTP status of the answer; nil when none came.
    public let status: Int?

    public init(code: Code, cause: String, status: Int? = nil) {
        self.code = code
        self.cause = cause
        self.status = status
    }

    public var description: String { "\(code.rawValue): \(cause)" }
}

/// A URL as messages show it: without user information, and without the values of parameters that look like secrets.
func displayed(_ url: String) -> String {
    var text = url
    if let scheme = text.firstRange(of: "://") {
        let authorityEnd = text[scheme.upperBound...].firstIndex { "/?#".contains($0) } ?? text.endIndex
        if let at = text[scheme.upperBound..<authorityEnd].lastIndex(of: "@") {
            text.replaceSubrange(scheme.upperBound..<at, with: "<redacted>")
        }
    }
    guard let query = text.firstIndex(of: "?") else { return text }
    let words = ["token", "key", "secret", "password", "signature"]
    let parameters = text[text.index(after: query)...].split(separator: "&", omittingEmptySubsequences: false).map {
        guard let equals = $0.firstIndex(of: "=") else { return String($0) }
        let name = $0[..<equals].lowercased()
        return words.contains { name.contains($0) } ? "\($0[..<equals])=<redacted>" : String($0)
    }
    return text[...query] + parameters.joined(separator: "&")
}
