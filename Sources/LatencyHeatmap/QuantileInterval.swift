import Glibc

/// Between which two of n ordered values a quantile of the whole lies, whatever the distribution.
///
/// B, the number of values that are at most the true quantile, is binomial with n and q. The interval from the l-th to the
/// u-th smallest value misses when B < l or B ≥ u; l and u are the narrowest for which each of the two has at most half of
/// what the confidence leaves. https://online.stat.psu.edu/stat415/lesson/19/19.2
public enum QuantileInterval {
    /// From here on the binomial is taken for a normal distribution: the ranks differ by less than a bucket is wide.
    static let normalFrom: UInt64 = 100_000

    /// Ranks from 1 to n; nil when there are too few values for such a statement: below 73 for P95 with 95 %.
    public static func ranks(
        count: UInt64, quantile q: Double, confidence: Double = 0.95
    ) -> (lower: UInt64, upper: UInt64)? {
        guard count > 0, q > 0, q < 1, confidence > 0, confidence < 1 else { return nil }
        let n = Double(count)
        let tail = (1 - confidence) / 2
        let reach = deviations(tail) * (n * q * (1 - q)).squareRoot()
        if count >= normalFrom {
            let lower = (n * q - reach).rounded(.down)
            let upper = (n * q + reach).rounded(.up) + 1
            guard lower >= 1, upper <= n, upper < 0x1p64 else { return nil }
            return (UInt64(lower), UInt64(upper))
        }
        // The largest l with P(B ≤ l − 1) ≤ tail, and by the mirror image the smallest u with P(B ≥ u) ≤ tail.
        guard let below = largest(n, q, tail, from: n * q - reach),
            let above = largest(n, 1 - q, tail, from: n * (1 - q) - reach)
        else { return nil }
        return (UInt64(below + 1), UInt64(n - above))
    }

    /// The largest k with P(B ≤ k) ≤ tail for a binomial B; nil when there is none.
    private static func largest(_ n: Double, _ p: Double, _ tail: Double, from guess: Double) -> Double? {
        var k = Swift.min(Swift.max(guess.rounded(.down), 0), n - 1)
        var sum = cumulative(k, n, p)
        while sum > tail {
            guard k > 0 else { return nil }
            sum -= mass(k, n, p)
            k -= 1
        }
        while k < n - 1 {
            let next = sum + mass(k + 1, n, p)
            if next > tail { break }
            sum = next
            k += 1
        }
        return k
    }

    /// P(B ≤ k), from k down to where nothing more comes.
    private static func cumulative(_ k: Double, _ n: Double, _ p: Double) -> Double {
        var term = mass(k, n, p)
        var sum = term
        var at = k
        while at > 0, term > sum * 1e-17 {
            term *= at / (n - at + 1) * (1 - p) / p
            sum += term
            at -= 1
        }
        return sum
    }

    private static func mass(_ k: Double, _ n: Double, _ p: Double) -> Double {
        var sign: Int32 = 0
        let ways = lgamma_r(n + 1, &sign) - lgamma_r(k + 1, &sign) - lgamma_r(n - k + 1, &sign)
        return exp(ways + k * log(p) + (n - k) * log1p(-p))
    }

    /// How many standard deviations leave such a tail, by Newton's method.
    private static func deviations(_ tail: Double) -> Double {
        var z = 2.0
        for _ in 0..<30 {
            let step = (erfc(z / 2.0.squareRoot()) / 2 - tail) / (exp(-z * z / 2) / (2 * Double.pi).squareRoot())
            z += Swift.min(Swift.max(step, -1), 1)
        }
        return z
    }
}
