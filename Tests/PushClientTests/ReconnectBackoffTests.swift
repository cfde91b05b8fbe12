import Testing

@testable import PushClient

@Suite("Waits between connections")
struct ReconnectBackoffTests {
    // Expected values by hand: base × 2ⁿ, from half of it up to one and a half.
    @Test("the wait doubles with each failure, is capped, and starts again after a success")
    func doubling() {
        var backoff = ReconnectBackoff(maximum: .seconds(30))
        let shortest = (0..<8).map { _ in backoff.afterFailure(retry: nil, retryAfter: nil, random: 0) }
        #expect(shortest == [0.5, 1, 2, 4, 8, 15, 15, 15].map { .seconds($0) })
        backoff.succeeded()
        #expect(backoff.afterFailure(retry: nil, retryAfter: nil, random: 0) == .milliseconds(500))
    }

    @Test("no wait is longer than the cap, and waits at the cap are still spread", arguments: [0, 5, 40, 1_000])
    func cap(_ failures: Int) {
        var backoff = ReconnectBackoff(maximum: .seconds(30))
        for _ in 0..<failures { _ = backoff.afterFailure(retry: nil, retryAfter: nil, random: 0.5) }
        var waits: Set<Duration> = []
        for step in 0..<100 {
            var copy = backoff
            let wait = copy.afterFailure(retry: .seconds(60), retryAfter: nil, random: Double(step) / 100)
            #expect(wait >= .seconds(15) && wait <= .seconds(30))
            waits.insert(wait)
        }
        #expect(waits.count == 100)
    }

    @Test("the server's retry is the base, give or take one half", arguments: [0.0, 0.25, 0.5, 0.75, 0.999])
    func base(_ random: Double) {
        let wait = ReconnectBackoff(maximum: .seconds(30)).afterEnd(retry: .seconds(4), random: random)
        let expected = 2 + 4 * random
        #expect(abs((wait - .seconds(expected)) / .seconds(1)) < 1e-6)
    }

    @Test("a server that sends retry: 0 is not asked in a busy loop")
    func zero() {
        var backoff = ReconnectBackoff(maximum: .seconds(30))
        #expect(backoff.afterEnd(retry: .zero, random: 0) == .milliseconds(5))
        for _ in 0..<20 { _ = backoff.afterFailure(retry: .zero, retryAfter: nil, random: 0) }
        #expect(backoff.afterFailure(retry: .zero, retryAfter: nil, random: 0) == .seconds(15))
    }

    @Test("Retry-After is waited for in full, beyond the cap, but for an hour at most")
    func retryAfterIsAMinimum() {
        var backoff = ReconnectBackoff(maximum: .seconds(30))
        #expect(backoff.afterFailure(retry: nil, retryAfter: .seconds(120), random: 0) == .seconds(120.5))
        #expect(backoff.afterFailure(retry: nil, retryAfter: .seconds(1 << 40), random: 0) == .seconds(3601))
    }

    // RFC 9110, sections 5.6.7 and 10.2.3.
    @Test("Retry-After is a number of seconds or a date")
    func retryAfterForms() {
        #expect(retryAfter("120") == .seconds(120))
        #expect(retryAfter("0") == .zero)
        #expect(retryAfter("Sun, 06 Nov 1994 08:49:37 GMT") == .zero)
        #expect((retryAfter("Fri, 31 Dec 2100 23:59:59 GMT") ?? .zero) > .seconds(1 << 20))
        #expect(retryAfter("99999999999999999999") == .seconds(1_000_000_000))
        #expect(retryAfter("-5") == nil)
        #expect(retryAfter("soon") == nil)
        #expect(retryAfter("") == nil)
    }
}
