import CCurl
import OTLP

/// What became of one request. https://opentelemetry.io/docs/specs/otlp/#otlphttp-response
enum Answer: Equatable {
    /// Taken, but for so many items; a message may say more.
    case accepted(rejected: Int64, message: String)
    /// 429, 502, 503, 504, no connection, or one that broke before an answer.
    case retry(String, after: Duration?)
    /// Sent, and not answered in time: it may have been taken.
    case unanswered(String)
    case tooLarge(String)
    /// Any other answer.
    case refused(String)

    static func status(_ status: Int, body: [UInt8], retryAfter: String?) -> Answer {
        switch status {
        case 200..<300:
            let partial = PartialSuccess(response: body)
            return .accepted(rejected: partial.rejected, message: partial.message)
        case 429, 502, 503, 504:
            return .retry("status \(status)", after: retryAfter.flatMap(RetryAfter.parse))
        case 413:
            return .tooLarge("status 413")
        default:
            return .refused("status \(status) \(printable(body))")
        }
    }

    /// The request ended with an error of libcurl.
    /// - Parameters:
    ///   - status: of an answer that had begun, or 0.
    ///   - isSent: whether any of the request has left.
    static func failure(
        _ code: CURLcode, cause: String, status: Int, body: [UInt8], retryAfter: String?, isSent: Bool
    ) -> Answer {
        // A success whose body is cut off or endless was a success all the same.
        if (200..<300).contains(status) {
            return .accepted(rejected: 0, message: "the answer's body was not read: \(cause)")
        }
        // So was any other status an answer.
        if status >= 300 { return .status(status, body: body, retryAfter: retryAfter) }
        if code == CURLE_OPERATION_TIMEDOUT, isSent { return .unanswered("no answer in time; it may have been taken") }
        return .retry(cause, after: nil)
    }

    /// What a person may be shown of bytes from outside.
    static func printable(_ bytes: some Collection<UInt8>) -> String {
        let text = bytes.prefix(200).map { (0x20...0x7E).contains($0) ? $0 : UInt8(ascii: ".") }
        return String(decoding: text, as: UTF8.self)
    }
}
