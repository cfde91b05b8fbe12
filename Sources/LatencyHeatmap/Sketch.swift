/// A distribution of latencies: exact up to 64 values, then a base-2 exponential histogram of scale 6.
///
/// Quantiles are nearest rank, ⌈q·n⌉, with a relative error of at most `relativeError`. Merging is commutative and
/// associative: the same values give the same sketch and the same bytes, in whatever order and in whatever parts they
/// came. The merger of sketches of different scales has the coarsest of them.
public struct Sketch: Sendable, Equatable {
    /// Up to this many values are kept as they are.
    public static let exactLimit = 64

    public private(set) var count: UInt64 = 0
    /// Largest latency in nanoseconds; 0 when there is none.
    public private(set) var max: UInt64 = 0
    /// Sum of the latencies in nanoseconds, for means and shares; stays at the largest number when it overflows.
    public private(set) var sum: UInt64 = 0
    /// How many scales coarser than 6 the buckets are; 0 unless memory was short or an imported histogram was coarser.
    public private(set) var shift = 0
    /// Whether some values came in buckets with other edges than these, and may be in a neighbour's.
    public private(set) var isApproximate = false
    /// Whether there are buckets instead of values.
    private(set) var hasBuckets = false
    /// The values in ascending order, unless there are buckets.
    private var values: [UInt64] = []
    /// Number of latencies that are zero; those have no bucket.
    private(set) var zeroCount: UInt64 = 0
    /// Number of values in each bucket from `firstPosition` on.
    private var counts: [UInt64] = []
    private var firstPosition = 0

    public init() {}

    public var isEmpty: Bool { count == 0 }
    public var isExact: Bool { !hasBuckets }
    /// OpenTelemetry's scale of the buckets.
    public var scale: Int { BucketScale.scale - shift }
    /// What may be wrong with a quantile, relative to it.
    public var relativeError: Double {
        isExact ? 0 : Self.relativeError(shift: shift, isApproximate: isApproximate)
    }

    static func relativeError(shift: Int, isApproximate: Bool) -> Double {
        // A value may be off by as much in its own bucket, and that bucket's middle again in this one.
        let error = BucketScale.relativeError(shift: shift)
        return isApproximate ? Swift.min(1, error * (2 + error)) : error
    }

    // MARK: Adding

    @inline(__always)
    public mutating func insert(nanoseconds: UInt64, count added: UInt64 = 1) {
        guard added > 0 else { return }
        let total = count.saturatingAdding(added)
        if hasBuckets || total > UInt64(Self.exactLimit) {
            spill()
            increment(BucketScale.position(nanoseconds: nanoseconds), by: added)
        } else {
            insertExact(nanoseconds, added)
        }
        count = total
        if nanoseconds > max { max = nanoseconds }
        let (product, overflow) = nanoseconds.multipliedReportingOverflow(by: added)
        sum = overflow ? .max : sum.saturatingAdding(product)
    }

    public mutating func insert(contentsOf latencies: UnsafeBufferPointer<UInt64>) {
        for latency in latencies { insert(nanoseconds: latency) }
    }

    public mutating func merge(_ other: Sketch) {
        guard !other.isEmpty else { return }
        if isEmpty {
            self = other
            return
        }
        if !other.hasBuckets {
            for value in other.values { insert(nanoseconds: value) }
            return
        }
        begin(merging: other.count, sum: other.sum, max: other.max, shift: other.shift, other.isApproximate)
        zeroCount = zeroCount.saturatingAdding(other.zeroCount)
        guard !other.counts.isEmpty else { return }
        if other.shift == shift {
            let last = other.firstPosition + other.counts.count - 1
            if firstPosition > other.firstPosition || counts.isEmpty || firstPosition + counts.count <= last {
                reserve(other.firstPosition, through: last)
            }
            let gap = other.firstPosition - firstPosition
            // Where neither has its top bit set, nothing can wrap around.
            var seen: UInt64 = 0
            counts.withUnsafeMutableBufferPointer { counts in
                other.counts.withUnsafeBufferPointer { added in
                    for index in 0..<added.count {
                        let (before, new) = (counts[gap &+ index], added[index])
                        seen |= before | new
                        counts[gap &+ index] = before &+ new
                    }
                }
            }
            if seen >> 63 != 0 { saturate(other, gap) }
        } else {
            for (index, inBucket) in other.counts.enumerated() where inBucket > 0 {
                let position = BucketScale.coarser(other.firstPosition + index, from: other.shift, to: shift)
                add(inBucket, at: position)
            }
        }
    }

    /// Buckets that wrapped around while they were added stay at the largest number.
    @inline(never)
    private mutating func saturate(_ other: Sketch, _ gap: Int) {
        for (index, added) in other.counts.enumerated() where counts[gap + index] < added {
            counts[gap + index] = .max
        }
    }

    /// What comes next are the buckets of something with these figures.
    mutating func begin(
        merging added: UInt64, sum otherSum: UInt64, max otherMax: UInt64, shift otherShift: Int, _ approximate: Bool
    ) {
        if otherShift > shift { coarsen(to: otherShift) }
        spill()
        hasBuckets = true
        isApproximate = isApproximate || approximate
        count = count.saturatingAdding(added)
        sum = sum.saturatingAdding(otherSum)
        max = Swift.max(max, otherMax)
    }

    mutating func addZeros(_ added: UInt64) { zeroCount = zeroCount.saturatingAdding(added) }

    /// At a position of this sketch's own scale.
    @inline(__always)
    mutating func add(_ added: UInt64, at position: Int) {
        let index = position - firstPosition
        if index < 0 || index >= counts.count { reserve(position, through: position) }
        let slot = position - firstPosition
        counts[slot] = counts[slot].saturatingAdding(added)
    }

    /// Buckets of scale 6 as a packed cell has them.
    ///
    /// - Returns: the added buckets' own value at a rank from 1.
    mutating func addTokens(_ buckets: PackedCell.Buckets, rank: UInt64) -> UInt64 {
        let first = buckets.first
        // The largest latency's is the last of them.
        let last = Swift.max(BucketScale.position(nanoseconds: buckets.max), first)
        if buckets.used > 0, counts.isEmpty || first < firstPosition || last >= firstPosition + counts.count {
            reserve(first, through: last)
        }
        if buckets.used == 0 { return buckets.zeros >= rank ? 0 : buckets.max }
        // No bucket counts more than all of them.
        let found =
            count == .max
            ? addTokens(buckets, rank: rank) { $0.saturatingAdding($1) } : addTokens(buckets, rank: rank) { $0 &+ $1 }
        if buckets.zeros >= rank { return 0 }
        return found >= 0 ? Swift.min(BucketScale.representative(found &+ firstPosition), buckets.max) : buckets.max
    }

    /// - Returns: the slot that has the value at the rank; -1 where none has.
    @inline(__always)
    private mutating func addTokens(
        _ buckets: PackedCell.Buckets, rank: UInt64, _ sum: (UInt64, UInt64) -> UInt64
    ) -> Int {
        let start = buckets.first &- firstPosition
        return counts.withUnsafeMutableBufferPointer { counts in
            let counts = counts
            var at = buckets.tokens
            var slot = start
            var left = buckets.used
            /// How many more values there are up to the rank; the first bucket that has more than these has the value.
            var before = buckets.zeros < rank ? rank &- 1 &- buckets.zeros : .max
            var found = -1
            repeat {
                let token = PackedCell.next(&at)
                slot &+= token.gap
                counts[slot] = sum(counts[slot], token.count)
                left &-= 1
                if before < token.count {
                    found = slot
                    break
                }
                before &-= token.count
            } while left > 0
            while left > 0 {
                let token = PackedCell.next(&at)
                slot &+= token.gap
                counts[slot] = sum(counts[slot], token.count)
                left &-= 1
            }
            return found
        }
    }

    /// Halves the resolution as often as it takes; the values that are kept as they are stay.
    public mutating func coarsen(to newShift: Int) {
        let newShift = Swift.min(newShift, BucketScale.maxShift)
        guard newShift > shift else { return }
        let old = counts
        let (first, from) = (firstPosition, shift)
        counts = []
        shift = newShift
        for (index, inBucket) in old.enumerated() where inBucket > 0 {
            add(inBucket, at: BucketScale.coarser(first + index, from: from, to: newShift))
        }
    }

    /// Forgets everything but the memory.
    mutating func removeAll() {
        let (kept, keptCounts) = (values, counts)
        self = Sketch()
        values = kept
        values.removeAll(keepingCapacity: true)
        counts = keptCounts
        counts.removeAll(keepingCapacity: true)
    }

    private mutating func insertExact(_ value: UInt64, _ times: UInt64) {
        var at = values.count
        while at > 0, values[at - 1] > value { at -= 1 }
        for _ in 0..<times { values.insert(value, at: at) }
    }

    /// From values to buckets.
    @inline(__always)
    private mutating func spill() { if !hasBuckets { spillValues() } }

    @inline(never)
    private mutating func spillValues() {
        hasBuckets = true
        let kept = values
        values.removeAll(keepingCapacity: true)
        for value in kept { increment(BucketScale.position(nanoseconds: value), by: 1) }
    }

    /// At a position of scale 6.
    @inline(__always)
    private mutating func increment(_ position: Int, by added: UInt64) {
        if position == 0 {
            zeroCount = zeroCount.saturatingAdding(added)
        } else {
            add(added, at: BucketScale.coarser(position, shift: shift))
        }
    }

    /// Makes room, with some to spare: latencies that are near one another are the rule.
    @inline(never)
    mutating func reserve(_ low: Int, through high: Int) {
        if counts.isEmpty {
            firstPosition = low
            counts.append(contentsOf: repeatElement(0, count: high - low + 1))
            return
        }
        if low < firstPosition {
            let new = Swift.max(1, Swift.min(low, firstPosition - 16))
            counts.insert(contentsOf: repeatElement(0, count: firstPosition - new), at: 0)
            firstPosition = new
        }
        let last = firstPosition + counts.count - 1
        if high > last { counts.append(contentsOf: repeatElement(0, count: Swift.max(high - last, 16))) }
    }

    // MARK: Reading

    /// ⌈q·n⌉, at least 1; nil when there are no values, or when `q` is not a number.
    ///
    /// - Parameter q: from 0 to 1, used to a millionth.
    public static func rank(_ q: Double, of count: UInt64) -> UInt64? {
        guard count > 0, !q.isNaN else { return nil }
        let millionths = UInt64((Swift.min(Swift.max(q, 0), 1) * 1_000_000).rounded())
        if count < 1 << 40 { return Swift.max(1, (millionths * count + 999_999) / 1_000_000) }
        return Swift.max(1, UInt64((UInt128(millionths) * UInt128(count) + 999_999) / 1_000_000))
    }

    /// The smallest latency, in nanoseconds, that at least ⌈q·n⌉ of the values do not exceed; nil when there are none, or
    /// when `q` is not a number.
    ///
    /// - Parameter q: from 0 to 1, used to a millionth.
    public func quantile(_ q: Double) -> UInt64? { Self.rank(q, of: count).map(value(atRank:)) }

    /// The value at a rank from 1 to `count`, in nanoseconds.
    public func value(atRank rank: UInt64) -> UInt64 {
        if !hasBuckets { return values.isEmpty ? 0 : values[Int(Swift.min(Swift.max(rank, 1), count)) - 1] }
        var seen = zeroCount
        if seen >= rank { return 0 }
        return counts.withUnsafeBufferPointer { counts in
            for index in 0..<counts.count {
                seen = seen.saturatingAdding(counts[index])
                if seen >= rank {
                    return Swift.min(BucketScale.representative(firstPosition + index, shift: shift), max)
                }
            }
            return max
        }
    }

    /// Between which latencies the quantile of the whole lies with such a confidence, by order statistics; nil when there
    /// are too few values to say.
    public func quantileInterval(_ q: Double, confidence: Double = 0.95) -> (lower: UInt64, upper: UInt64)? {
        QuantileInterval.ranks(count: count, quantile: q, confidence: confidence).map {
            (value(atRank: $0.lower), value(atRank: $0.upper))
        }
    }

    /// How many values are above a threshold; of buckets, those in the threshold's own count by the bucket's
    /// representative value.
    public func countAbove(nanoseconds threshold: UInt64) -> UInt64 {
        if !hasBuckets { return UInt64(values.count { $0 > threshold }) }
        var above: UInt64 = 0
        for (index, inBucket) in counts.enumerated() where inBucket > 0 {
            guard BucketScale.representative(firstPosition + index, shift: shift) > threshold else { continue }
            above = above.saturatingAdding(inBucket)
        }
        return above
    }

    /// Position and number of values of each bucket that has any, ascending; position 0 is for zeros. Also when the
    /// values themselves are kept.
    public var buckets: [(position: Int, count: UInt64)] {
        if !hasBuckets {
            var found: [(position: Int, count: UInt64)] = []
            for value in values {
                let position = BucketScale.coarser(BucketScale.position(nanoseconds: value), shift: shift)
                if found.last?.position == position {
                    found[found.count - 1].count += 1
                } else {
                    found.append((position, 1))
                }
            }
            return found
        }
        let zeros: [(position: Int, count: UInt64)] = zeroCount > 0 ? [(0, zeroCount)] : []
        return zeros + counts.enumerated().compactMap { $1 > 0 ? (firstPosition + $0, $1) : nil }
    }

    /// The values in ascending order; nil when there are buckets.
    public var exactValues: [UInt64]? { hasBuckets ? nil : values }

    /// The buckets from a position on, zeros not among them.
    func withCounts<T>(_ body: (_ firstPosition: Int, UnsafeBufferPointer<UInt64>) -> T) -> T {
        counts.withUnsafeBufferPointer { body(firstPosition, $0) }
    }

    /// Memory that the sketch holds beside its own fields.
    var heapBytes: Int { (values.capacity + counts.capacity) * 8 }

    public static func == (a: Sketch, b: Sketch) -> Bool {
        a.count == b.count && a.max == b.max && a.sum == b.sum && a.hasBuckets == b.hasBuckets
            && a.isApproximate == b.isApproximate && a.values == b.values
            && (!a.hasBuckets || a.shift == b.shift) && a.buckets.elementsEqual(b.buckets, by: ==)
    }
}

extension UInt64 {
    @inline(__always)
    func saturatingAdding(_ other: UInt64) -> UInt64 {
        let (sum, overflow) = addingReportingOverflow(other)
        return overflow ? .max : sum
    }
}
