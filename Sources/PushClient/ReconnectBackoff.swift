import CCurl
import Glibc

/// How long to wait before the next connection.
///
/// The base is the server's `retry`, doubled for each failure in a row, and at most `maximum`. The wait is drawn evenly
/// from half of that up to one and a half, so that devices which lost one server do not come back together; but never
/// above `maximum`, and without heaping up there.
struct ReconnectBackoff: Sendable {
    /// Of a server that sends no `retry`.
    static let defaultBase: Duration = .seconds(1)
    /// Even when a server says `retry: 0`: a server that refuses at once must not be asked in a busy loop.
    static let minimumBase: Duration = .milliseconds(10)
    /// The longest `Retry-After` that is honoured.
    static let maximumRetryAfter: Duration = .seconds(3600)

    let maximum: Duration
    private(set) var failures = 0

    init(maximum: Duration) { self.maximum = maximum }

    mutating func succeeded() { failures = 0 }

    /// The wait after a stream that had brought something: the base, with jitter.
    func afterEnd(retry: Duration?, random: Double) -> Duration { wait(retry, doublings: 0, random) }

    /// The wait after another failure in a row.
    ///
    /// - Parameters:
    ///   - retryAfter: a server's demand; the wait is at least that long, even beyond `maximum`.
    ///   - random: from 0 up to 1.
    mutating func afterFailure(retry: Duration?, retryAfter: Duration?, random: Double) -> Duration {
        let wait = wait(retry, doublings: failures, random)
        failures += 1
        // Added, not the larger of both: everyone was told the same time.
        return retryAfter.map { min($0, Self.maximumRetryAfter) + wait } ?? wait
    }

    private func wait(_ retry: Duration?, doublings: Int, _ random: Double) -> Duration {
        var middle = min(max(retry ?? Self.defaultBase, Self.minimumBase), maximum)
        for _ in 0..<min(doublings, 64) where middle < maximum { middle = min(middle * 2, maximum) }
        let longest = min(middle * 1.5, maximum)
        return middle * 0.5 + (longest - middle * 0.5) * random
    }
}

/// `Retry-After`: seconds, or an HTTP date (RFC 9110, section 10.2.3). Nil for anything else; zero for a past date.
func retryAfter(_ text: String) -> Duration? {
    if text.utf8.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }), !text.isEmpty {
        return .seconds(min(Int64(text) ?? .max, 1_000_000_000))
    }
    let date = curl_getdate(text, nil)
    return date < 0 ? nil : .seconds(max(0, Int64(date) - Int64(time(nil))))
}
