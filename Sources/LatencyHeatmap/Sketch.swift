/// A distribution of latencies: exact up to 64 values, then a base-2 exponential histogram of scale 6.
///
/// Quantiles are nearest rank, ⌈q·n⌉, with a relative error of at most `BucketScale.relativeError`. Merging is
/// commutative and associative: the same values give the same sketch and the same bytes, in whatever order and in
/// whatever parts they came.
public struct Sketch: Sendable, Equatable {
    /// Up to this many values are kept as they are.
    public static let exactLimit = 64

    public private(set) var count: UInt64 = 0
    /// Largest latency in nanoseconds; 0 when there is none.
    public private(set) var max: UInt64 = 0
    /// Sum of the latencies in nanoseconds, for means and shares; stays at the largest number when it overflows.
    public private(set) var sum: UInt64 = 0
    /// The values in ascending order, as long as there are at most `exactLimit`.
    private var values: [UInt64] = []
    /// Number of values in each bucket from `firstPosition` on.
    private var counts: [UInt64] = []
    private var firstPosition = 0

    public init() {}

    public var isEmpty: Bool { count == 0 }
    public var isExact: Bool { count <= UInt64(Self.exactLimit) }
    /// What may be wrong with a quantile, relative to it.
    public var relativeError: Double { isExact ? 0 : BucketScale.relativeError }

    // MARK: Adding

    @inline(__always)
    public mutating func insert(nanoseconds: UInt64, count added: UInt64 = 1) {
        guard added > 0 else { return }
        let total = count.saturatingAdding(added)
        if total > UInt64(Self.exactLimit) {
            if isExact { spill() }
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
        let total = count.saturatingAdding(other.count)
        if total <= UInt64(Self.exactLimit) {
            for value in other.values { insertExact(value, 1) }
        } else {
            if isExact { spill() }
            if other.isExact {
                for value in other.values { increment(BucketScale.position(nanoseconds: value), by: 1) }
            } else {
                reserve(other.firstPosition, through: other.firstPosition + other.counts.count - 1)
                let shift = other.firstPosition - firstPosition
                counts.withUnsafeMutableBufferPointer { counts in
                    other.counts.withUnsafeBufferPointer { added in
                        for index in added.indices {
                            counts[shift + index] = counts[shift + index].saturatingAdding(added[index])
                        }
                    }
                }
            }
        }
        count = total
        max = Swift.max(max, other.max)
        sum = sum.saturatingAdding(other.sum)
    }

    private mutating func insertExact(_ value: UInt64, _ times: UInt64) {
        var at = values.count
        while at > 0, values[at - 1] > value { at -= 1 }
        for _ in 0..<times { values.insert(value, at: at) }
    }

    /// From values to buckets.
    private mutating func spill() {
        let kept = values
        values = []
        for value in kept { increment(BucketScale.position(nanoseconds: value), by: 1) }
    }

    @inline(__always)
    private mutating func increment(_ position: Int, by added: UInt64) {
        let index = position - firstPosition
        if index < 0 || index >= counts.count { reserve(position, through: position) }
        let slot = position - firstPosition
        counts[slot] = counts[slot].saturatingAdding(added)
    }

    /// Makes room, with some to spare: latencies that are near one another are the rule.
    @inline(never)
    private mutating func reserve(_ low: Int, through high: Int) {
        if counts.isEmpty {
            firstPosition = low
            counts = [UInt64](repeating: 0, count: high - low + 1)
            return
        }
        if low < firstPosition {
            let new = Swift.max(0, Swift.min(low, firstPosition - 16))
            counts.insert(contentsOf: repeatElement(0, count: firstPosition - new), at: 0)
            firstPosition = new
        }
        let last = firstPosition + counts.count - 1
        if high > last { counts.append(contentsOf: repeatElement(0, count: Swift.max(high - last, 16))) }
    }

    // MARK: Reading

    /// The smallest latency, in nanoseconds, that at least ⌈q·n⌉ of the values do not exceed; nil when there are none, or
    /// when `q` is not a number.
    ///
    /// - Parameter q: from 0 to 1, used to a millionth.
    public func quantile(_ q: Double) -> UInt64? {
        guard count > 0, !q.isNaN else { return nil }
        let millionths = UInt128((Swift.min(Swift.max(q, 0), 1) * 1_000_000).rounded())
        let rank = Swift.max(1, UInt64((millionths * UInt128(count) + 999_999) / 1_000_000))
        if isExact { return values[Int(rank) - 1] }
        var seen: UInt64 = 0
        for (index, inBucket) in counts.enumerated() where inBucket > 0 {
            seen = seen.saturatingAdding(inBucket)
            if seen >= rank { return Swift.min(BucketScale.representative(firstPosition + index), max) }
        }
        return max
    }

    /// How many values are above a threshold; above 64 values, those in the threshold's own bucket count by the bucket's
    /// representative value.
    public func countAbove(nanoseconds threshold: UInt64) -> UInt64 {
        if isExact { return UInt64(values.count { $0 > threshold }) }
        var above: UInt64 = 0
        for (index, inBucket) in counts.enumerated() where inBucket > 0 {
            guard BucketScale.representative(firstPosition + index) > threshold else { continue }
            above = above.saturatingAdding(inBucket)
        }
        return above
    }

    /// Position and number of values of each bucket that has any, ascending; also when the values themselves are kept.
    public var buckets: [(position: Int, count: UInt64)] {
        if isExact {
            var found: [(position: Int, count: UInt64)] = []
            for value in values {
                let position = BucketScale.position(nanoseconds: value)
                if found.last?.position == position {
                    found[found.count - 1].count += 1
                } else {
                    found.append((position, 1))
                }
            }
            return found
        }
        return counts.enumerated().compactMap { $1 > 0 ? (firstPosition + $0, $1) : nil }
    }

    /// Memory that the sketch holds beside its own fields.
    var heapBytes: Int { (values.capacity + counts.capacity) * 8 }

    public static func == (a: Sketch, b: Sketch) -> Bool {
        a.count == b.count && a.max == b.max && a.sum == b.sum && a.values == b.values
            && a.buckets.elementsEqual(b.buckets, by: ==)
    }

    // MARK: Bytes

    // version 1 | count | when count > 0: sum, max, then
    //   count ≤ 64: the values, ascending, each as the difference to the one before
    //   otherwise:  number of buckets in use, and for each the difference of positions and its count
    // Everything after the version is a protobuf varint.
    private static let version: UInt8 = 1

    /// Bytes that depend only on the values. Read them back with `init(encoded:)`.
    public func encoded() -> [UInt8] {
        var bytes: [UInt8] = [Self.version]
        Varint.append(count, to: &bytes)
        guard count > 0 else { return bytes }
        Varint.append(sum, to: &bytes)
        Varint.append(max, to: &bytes)
        if isExact {
            var previous: UInt64 = 0
            for value in values {
                Varint.append(value - previous, to: &bytes)
                previous = value
            }
        } else {
            let buckets = buckets
            Varint.append(UInt64(buckets.count), to: &bytes)
            var previous = 0
            for bucket in buckets {
                Varint.append(UInt64(bucket.position - previous), to: &bytes)
                Varint.append(bucket.count, to: &bytes)
                previous = bucket.position
            }
        }
        return bytes
    }

    /// Nil for bytes that `encoded()` cannot have written.
    public init?(encoded bytes: UnsafeRawBufferPointer) {
        guard bytes.first == Self.version else { return nil }
        var reader = Varint(bytes: bytes, at: 1)
        guard let total = reader.next() else { return nil }
        if total > 0 {
            guard let encodedSum = reader.next(), let encodedMax = reader.next() else { return nil }
            if total <= UInt64(Self.exactLimit) {
                guard readValues(&reader, total) else { return nil }
            } else {
                guard readBuckets(&reader, total, max: encodedMax) else { return nil }
                sum = encodedSum
                max = encodedMax
            }
            guard max == encodedMax, sum == encodedSum else { return nil }
        }
        guard reader.isAtEnd else { return nil }
    }

    public init?(encoded bytes: [UInt8]) {
        guard let sketch = bytes.withUnsafeBytes({ Sketch(encoded: $0) }) else { return nil }
        self = sketch
    }

    private mutating func readValues(_ reader: inout Varint, _ total: UInt64) -> Bool {
        var value: UInt64 = 0
        for _ in 0..<total {
            guard let difference = reader.next() else { return false }
            let (next, overflow) = value.addingReportingOverflow(difference)
            guard !overflow else { return false }
            value = next
            insert(nanoseconds: value)
        }
        return true
    }

    private mutating func readBuckets(_ reader: inout Varint, _ total: UInt64, max: UInt64) -> Bool {
        guard let used = reader.next(), used > 0, used <= UInt64(BucketScale.positionCount) else { return false }
        let last = BucketScale.position(nanoseconds: max)
        var position = 0
        var seen: UInt64 = 0
        for index in 0..<used {
            guard let difference = reader.next(), let inBucket = reader.next(), inBucket > 0,
                difference < UInt64(BucketScale.positionCount), index == 0 || difference > 0
            else { return false }
            position += Int(difference)
            guard position <= last else { return false }
            // Room for all of them at once: the largest value says where they end.
            if index == 0 { reserve(position, through: last) }
            // As `insert` does: a count stays at the largest number.
            seen = seen.saturatingAdding(inBucket)
            increment(position, by: inBucket)
        }
        count = total
        return seen == total && position == last
    }
}

/// Protobuf's base-128 varints.
private struct Varint {
    let bytes: UnsafeRawBufferPointer
    var at: Int

    var isAtEnd: Bool { at == bytes.count }

    mutating func next() -> UInt64? {
        var value: UInt64 = 0
        var shift: UInt64 = 0
        while at < bytes.count, shift < 64 {
            let byte = bytes[at]
            at += 1
            // The tenth byte has room for one bit, and the shortest form has no zero at its end.
            if (shift == 63 && byte > 1) || (shift > 0 && byte == 0) { return nil }
            value |= UInt64(byte & 0x7F) << shift
            if byte < 0x80 { return value }
            shift += 7
        }
        return nil
    }

    static func append(_ value: UInt64, to bytes: inout [UInt8]) {
        var rest = value
        while rest >= 0x80 {
            bytes.append(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest >>= 7
        }
        bytes.append(UInt8(rest))
    }
}

extension UInt64 {
    @inline(__always)
    func saturatingAdding(_ other: UInt64) -> UInt64 {
        let (sum, overflow) = addingReportingOverflow(other)
        return overflow ? .max : sum
    }
}
