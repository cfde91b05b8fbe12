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
    static func parse(_ text: String) -> Duration? {
        let text = text.drop { $0 == " " }
        let digits = text.prefix { $0 != " " }
        if let seconds = Int64(digits), seconds >= 0 { return .seconds(min(seconds, 1_000_000_000)) }
        let date = curl_getdate(String(text), nil)
        guard date >= 0 else { return nil }
        return .seconds(max(0, Int64(date) - Int64(time(nil))))
    }
}
