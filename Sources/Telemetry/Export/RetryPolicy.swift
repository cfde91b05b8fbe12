import CCurl
import Glibc

/// How long to wait before the next attempt: exponential, capped, with jitter.
struct Backoff {
    /// What an endpoint may ask for at most, where no deadline bounds the wait.
    private static let maxRetryAfter = Duration.seconds(300)

    private var next: Duration
    private let max: Duration

    init(_ settings: OTLPExporterSettings) {
        next = settings.initialBackoff
        max = settings.maxBackoff
    }

    /// The wait after one more failure.
    mutating func wait(retryAfter: Duration?) -> Duration {
        // Half to one and a half of the backoff, so that a fleet does not come back at once.
        let jittered = next * Double.random(in: 0.5...1.5)
        next = min(next * 2, max)
        return Swift.max(jittered, min(retryAfter ?? .zero, Self.maxRetryAfter))
    }
}

/// `Retry-After`: seconds, or an HTTP date (RFC 9110, section 10.2.3). Nil for anything else; zero for a past date.
enum RetryAfter {
    private static let field: StaticString = "retry-after:"

    /// What a header line says, without its end; nil for another field's. Every answer's every line comes by here.
    static func value(ofLine line: UnsafeRawBufferPointer) -> String? {
        let count = field.utf8CodeUnitCount
        guard let start = line.baseAddress, line.count >= count, strncasecmp(start, field.utf8Start, count) == 0
        else { return nil }
        let value = line.dropFirst(count).filter { $0 != UInt8(ascii: "\r") && $0 != UInt8(ascii: "\n") }
        return String(decoding: value, as: UTF8.self)
    }

    static func parse(_ text: String) -> Duration? {
        let text = text.drop { $0 == " " }
        let digits = text.prefix { $0 != " " }
        if let seconds = Int64(digits), seconds >= 0 { return .seconds(min(seconds, 1_000_000_000)) }
        let date = curl_getdate(String(text), nil)
        guard date >= 0 else { return nil }
        return .seconds(max(0, Int64(date) - Int64(time(nil))))
    }
}
