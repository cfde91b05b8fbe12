/// Token buckets, one a key. No more than `maxKeys`: what comes then shares one bucket more.
final class RateLimited: SamplingPolicy {
    private struct Bucket {
        var tokens: Double
        var atNanoseconds: UInt64
    }

    private struct State {
        var buckets: [String: Bucket] = [:]
        var withoutKey: Bucket
        var overflow: Bucket
        var sweptAtNanoseconds: UInt64
    }

    /// A longer key shares the overflow's bucket: memory stays bounded.
    private static let maxKeyBytes = 256

    private let sampler: Sampler
    private let perSecond: Double
    private let burst: Double
    private let key: String
    private let maxKeys: Int
    private let nanoseconds: @Sendable () -> UInt64
    private let state: Guarded<State>
    let description: String

    init(
        _ sampler: Sampler, perSecond: Double, burst: Double?, key: String, maxKeys: Int,
        nanoseconds: @escaping @Sendable () -> UInt64
    ) {
        self.sampler = sampler
        self.perSecond = perSecond.isFinite ? max(0, perSecond) : 0
        self.burst = max(1, burst ?? self.perSecond)
        self.key = key
        self.maxKeys = max(0, maxKeys)
        self.nanoseconds = nanoseconds
        let now = nanoseconds()
        let full = Bucket(tokens: self.burst, atNanoseconds: now)
        state = Guarded(State(withoutKey: full, overflow: full, sweptAtNanoseconds: now))
        description =
            "RateLimited{\(sampler),\(self.perSecond)/s,burst:\(self.burst),by:\(key),maxKeys:\(self.maxKeys)}"
    }

    func shouldSample(_ parameters: SamplingParameters) -> SamplingResult {
        var result = sampler.sample(parameters)
        guard result.decision == .recordAndSample else { return result }
        // How probable the sample was depends on the load, so no threshold may say it.
        result.traceState = ProbabilityState(result.traceState).withThreshold(nil).replacing(in: result.traceState)
        let now = nanoseconds()
        let value = parameters[key].map { $0.plainText ?? "" }
        if !state.withLock({ take(&$0, value, now) }) {
            result.decision = .drop
            result.attributes = []
        }
        return result
    }

    private func take(_ state: inout State, _ value: String?, _ now: UInt64) -> Bool {
        guard let value else { return take(&state.withoutKey, now) }
        if state.buckets[value] == nil {
            if state.buckets.count >= maxKeys { sweep(&state, now) }
            guard state.buckets.count < maxKeys, value.utf8.count <= Self.maxKeyBytes else {
                return take(&state.overflow, now)
            }
        }
        return take(&state.buckets[value, default: Bucket(tokens: burst, atNanoseconds: now)], now)
    }

    private func take(_ bucket: inout Bucket, _ now: UInt64) -> Bool {
        bucket.tokens = tokens(bucket, now)
        bucket.atNanoseconds = max(bucket.atNanoseconds, now)
        guard bucket.tokens >= 1 else { return false }
        bucket.tokens -= 1
        return true
    }

    /// Threads read the clock before they get the lock, so it may seem to step back a little.
    private func tokens(_ bucket: Bucket, _ now: UInt64) -> Double {
        let elapsed = now > bucket.atNanoseconds ? now - bucket.atNanoseconds : 0
        return min(burst, bucket.tokens + Double(elapsed) / 1e9 * perSecond)
    }

    /// Removes buckets that are full again: a new one would be the same. At most once a second, since it visits all.
    private func sweep(_ state: inout State, _ now: UInt64) {
        guard now > state.sweptAtNanoseconds, now - state.sweptAtNanoseconds >= 1_000_000_000 else { return }
        state.sweptAtNanoseconds = now
        state.buckets = state.buckets.filter { tokens($0.value, now) < burst }
    }
}

extension Sampler {
    /// Of what `sampler` would sample, at most so many spans a second for each value of an attribute; the rest is
    /// dropped. A tenant that is busy does not use up what another may send.
    ///
    /// Usually the root of a `parentBased`: then it limits traces, and keeps them whole.
    ///
    /// - Parameter burst: what may come at once after a quiet time; default one second's worth, at least 1.
    /// - Parameter key: the attribute, given at the span's start. Spans without it have one limit together.
    /// - Parameter maxKeys: values with a limit of their own; those beyond have one limit together. A value that was
    ///   quiet for long enough makes room.
    /// - Parameter nanoseconds: a monotonic clock.
    public static func rateLimited(
        _ sampler: Sampler = .alwaysOn, perSecond: Double, burst: Double? = nil, by key: String = "tenant.id",
        maxKeys: Int = 1_000, nanoseconds: @escaping @Sendable () -> UInt64 = { Clock.now().unixNano }
    ) -> Sampler {
        .custom(
            RateLimited(
                sampler, perSecond: perSecond, burst: burst, key: key, maxKeys: maxKeys, nanoseconds: nanoseconds))
    }
}
