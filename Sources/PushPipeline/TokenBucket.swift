/// A rate limit: holds up to `burst` tokens and gains `rate` a second. Not synchronised.
struct TokenBucket {
    let rate: Double
    let burst: Double
    private var tokens: Double
    private var updatedUnixNano: UInt64

    init(rate: Double, burst: Double, nowUnixNano: UInt64) {
        self.rate = rate
        self.burst = burst
        self.tokens = burst
        self.updatedUnixNano = nowUnixNano
    }

    /// Nil when `count` tokens are there now, else the time until they would be. Takes nothing. A request above the
    /// burst is let through a full bucket, which then owes the rest: it could never pass otherwise.
    mutating func wait(for count: Double, nowUnixNano: UInt64) -> Duration? {
        if nowUnixNano > updatedUnixNano {
            tokens = min(burst, tokens + Double(nowUnixNano - updatedUnixNano) / 1e9 * rate)
            updatedUnixNano = nowUnixNano
        }
        let needed = min(count, burst)
        return tokens >= needed ? nil : .nanoseconds(Int64((needed - tokens) / rate * 1e9) + 1)
    }

    mutating func take(_ count: Double) { tokens -= count }
}
