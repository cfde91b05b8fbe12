import Glibc
import OTLP

/// A base-2 exponential histogram that starts at the finest scale and halves its resolution whenever the values would
/// need more buckets than it may have.
/// https://opentelemetry.io/docs/specs/otel/metrics/sdk/#base2-exponential-bucket-histogram-aggregation
struct ExponentialHistogram: Sendable {
    static let minScale = -10

    private let maxSize: Int
    private(set) var scale: Int
    private var positive: Buckets
    private var negative: Buckets
    private var zeroCount: UInt64 = 0
    private var sum = 0.0

    init(maxSize: Int, maxScale: Int) {
        self.maxSize = maxSize
        scale = maxScale
        positive = Buckets(capacity: maxSize)
        negative = Buckets(capacity: maxSize)
    }

    /// Values must be finite.
    mutating func record(_ value: Double) {
        sum += value
        if value == 0 {
            zeroCount &+= 1
        } else if value > 0 {
            if let change = positive.increment(Self.index(of: value, scale: scale), maxSize) {
                downscale(by: change)
                _ = positive.increment(Self.index(of: value, scale: scale), maxSize)
            }
        } else if let change = negative.increment(Self.index(of: -value, scale: scale), maxSize) {
            downscale(by: change)
            _ = negative.increment(Self.index(of: -value, scale: scale), maxSize)
        }
    }

    private mutating func downscale(by change: Int) {
        scale -= change
        positive.downscale(by: change)
        negative.downscale(by: change)
    }

    func point(hasSum: Bool) -> ExponentialHistogramPoint {
        ExponentialHistogramPoint(
            sum: hasSum ? sum : nil, scale: Int32(scale), zeroCount: zeroCount, positive: positive.encoded,
            negative: negative.encoded)
    }

    /// The bucket of a positive value: exact for powers of two, elsewhere within the error of a logarithm.
    static func index(of value: Double, scale: Int) -> Int {
        // Subnormal values share the bucket below the smallest normal one.
        let value = max(value, Double.leastNormalMagnitude)
        let exponent = Int(value.exponent)
        if value.significand == 1 {
            return scale > 0 ? exponent << scale - 1 : (exponent - 1) >> -scale
        }
        if scale <= 0 { return exponent >> -scale }
        let raw = Int(floor(log(value) * scalbn(1 / log(2), scale)))
        // Not outside its power of two, whatever the logarithm's last bit says.
        return min(max(raw, exponent << scale), (exponent + 1) << scale - 1)
    }

    /// Counts of adjacent buckets, in a ring: bucket `i` stands at `i` modulo the capacity.
    private struct Buckets {
        private var counts: [UInt64]
        private var low = 0
        /// Below `low` when there are none.
        private var high = -1

        init(capacity: Int) { counts = Array(repeating: 0, count: capacity) }

        private func place(_ index: Int) -> Int {
            let rest = index % counts.count
            return rest < 0 ? rest + counts.count : rest
        }

        /// Nil when it is done; otherwise by how much the scale must go down first.
        mutating func increment(_ index: Int, _ maxSize: Int) -> Int? {
            if high < low {
                (low, high) = (index, index)
            } else if index < low || index > high {
                var (first, last) = (min(low, index), max(high, index))
                var change = 0
                while last - first >= maxSize {
                    first >>= 1
                    last >>= 1
                    change += 1
                }
                if change > 0 { return change }
                (low, high) = (first, last)
            }
            counts[place(index)] &+= 1
            return nil
        }

        mutating func downscale(by change: Int) {
            guard change > 0, high >= low else { return }
            withUnsafeTemporaryAllocation(of: UInt64.self, capacity: counts.count) { merged in
                merged.initialize(repeating: 0)
                for index in low...high { merged[place(index >> change)] &+= counts[place(index)] }
                for place in counts.indices { counts[place] = merged[place] }
            }
            low >>= change
            high >>= change
        }

        var encoded: ExponentialHistogramPoint.Buckets {
            guard high >= low else { return ExponentialHistogramPoint.Buckets() }
            return ExponentialHistogramPoint.Buckets(
                offset: Int32(low), counts: (low...high).map { counts[place($0)] })
        }
    }
}

extension ExponentialHistogramPoint.Buckets {
    /// The same counts in buckets that are 2^change times as wide (in their logarithm).
    func downscaled(by change: Int32) -> Self {
        guard change > 0, !counts.isEmpty else { return self }
        let low = offset >> change
        var merged = [UInt64](repeating: 0, count: Int((offset + Int32(counts.count) - 1) >> change - low) + 1)
        for (index, count) in counts.enumerated() { merged[Int((offset + Int32(index)) >> change - low)] &+= count }
        return Self(offset: low, counts: merged)
    }

    /// What has been added since `earlier`, at the same scale; nil when that has counts which this has not.
    func subtracting(_ earlier: Self) -> Self? {
        var rest = counts
        for (index, count) in earlier.counts.enumerated() where count > 0 {
            let place = Int(earlier.offset) + index - Int(offset)
            guard rest.indices.contains(place), rest[place] >= count else { return nil }
            rest[place] -= count
        }
        guard let first = rest.firstIndex(where: { $0 > 0 }), let last = rest.lastIndex(where: { $0 > 0 }) else {
            return Self()
        }
        return Self(offset: offset + Int32(first), counts: Array(rest[first...last]))
    }
}
