import NIOCore
import PushPipeline
import Synchronization

/// Turning streams away in a way that browsers survive.
///
/// A 4xx or 5xx ends a browser's EventSource for good. So whoever asks for an event stream in so many words gets 200, a
/// `retry:` with jitter, and the end of the stream: a browser comes back after that time, and not all of them at once.
/// Other clients get 429, or 503 while the server shuts down, with `Retry-After`.
enum Shedding {
    static let codes: [GatewayError.Code] = [.tooManyConnections, .quotaExceeded, .draining]

    static func applies(to error: GatewayError, accept: String?) -> Bool {
        codes.contains(error.code) && accept?.holds("text/event-stream") == true
    }

    /// One to two times `base`.
    static func jitteredMilliseconds(_ base: Duration) -> Int64 {
        let milliseconds = TimeAmount(base).nanoseconds / 1_000_000
        return milliseconds + Int64.random(in: 0...max(1, milliseconds))
    }
}
