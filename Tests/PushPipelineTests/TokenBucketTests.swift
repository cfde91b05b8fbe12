import Testing

@testable import PushPipeline

@Suite("Token buckets, on an injected clock")
struct TokenBucketTests {
    private let second: UInt64 = 1_000_000_000

    @Test("a full bucket lets its burst through, then one token at a time")
    func burst() {
        var bucket = TokenBucket(rate: 4, burst: 2, nowUnixNano: 0)
        for _ in 1...2 {
            #expect(bucket.wait(for: 1, nowUnixNano: 0) == nil)
            bucket.take(1)
        }
        // A quarter of a second for a token at four a second.
        #expect(bucket.wait(for: 1, nowUnixNano: 0) == .nanoseconds(250_000_001))
        #expect(bucket.wait(for: 1, nowUnixNano: second / 4 - 1) != nil)
        #expect(bucket.wait(for: 1, nowUnixNano: second / 4) == nil)
        bucket.take(1)
        #expect(bucket.wait(for: 2, nowUnixNano: 100 * second) == nil)
        bucket.take(2)
        #expect(bucket.wait(for: 1, nowUnixNano: 100 * second) != nil, "it never holds more than its burst")
    }

    @Test("a request above the burst passes a full bucket, which then owes the rest")
    func aboveBurst() {
        var bucket = TokenBucket(rate: 10, burst: 10, nowUnixNano: 0)
        #expect(bucket.wait(for: 30, nowUnixNano: 0) == nil)
        bucket.take(30)
        #expect(bucket.wait(for: 1, nowUnixNano: 2 * second) != nil)
        #expect(bucket.wait(for: 1, nowUnixNano: second * 21 / 10) == nil)
    }

    @Test("a clock that steps back gives nothing and takes nothing")
    func clock() {
        var bucket = TokenBucket(rate: 1, burst: 1, nowUnixNano: 10 * second)
        bucket.take(1)
        #expect(bucket.wait(for: 1, nowUnixNano: 5 * second) != nil)
        #expect(bucket.wait(for: 1, nowUnixNano: 11 * second) == nil)
    }
}
