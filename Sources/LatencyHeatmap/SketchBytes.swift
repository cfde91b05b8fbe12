// version 1 | count | when count > 0: sum, max, then
//   count ≤ 64: the values, ascending, each as the difference to the one before
//   otherwise:  number of buckets in use, and for each the difference of positions and its count
// version 2, for buckets that version 1 cannot tell: shift | 1 if approximate, otherwise 0 | count, sum, max, buckets
// Everything after the version is a protobuf varint. Position 0 is for zeros.

extension Sketch {
    private static let version: UInt8 = 1
    private static let versionOfBuckets: UInt8 = 2

    private var fitsVersion1: Bool {
        !hasBuckets || (shift == 0 && !isApproximate && count > UInt64(Self.exactLimit))
    }

    /// Bytes that depend only on the values. Read them back with `init(encoded:)`.
    public func encoded() -> [UInt8] {
        var bytes: [UInt8] = [fitsVersion1 ? Self.version : Self.versionOfBuckets]
        if !fitsVersion1 {
            Varint.append(UInt64(shift), to: &bytes)
            Varint.append(isApproximate ? 1 : 0, to: &bytes)
        }
        Varint.append(count, to: &bytes)
        guard count > 0 else { return bytes }
        Varint.append(sum, to: &bytes)
        Varint.append(max, to: &bytes)
        if let values = exactValues {
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
        self.init()
        var reader = Varint(bytes: bytes, at: 1)
        var (shift, isApproximate): (UInt64, UInt64) = (0, 0)
        switch bytes.first {
        case Self.version: break
        case Self.versionOfBuckets:
            guard let first = reader.next(), first <= UInt64(BucketScale.maxShift), let second = reader.next(),
                second <= 1
            else { return nil }
            (shift, isApproximate) = (first, second)
        default: return nil
        }
        guard let total = reader.next() else { return nil }
        if bytes.first == Self.versionOfBuckets {
            guard total > 0, shift > 0 || isApproximate > 0 || total <= UInt64(Self.exactLimit) else { return nil }
        }
        if total > 0 {
            guard let sum = reader.next(), let max = reader.next() else { return nil }
            if bytes.first == Self.version, total <= UInt64(Self.exactLimit) {
                guard readValues(&reader, total), self.max == max, self.sum == sum else { return nil }
            } else {
                begin(merging: total, sum: sum, max: max, shift: Int(shift), isApproximate == 1)
                guard readBuckets(&reader) else { return nil }
            }
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

    private mutating func readBuckets(_ reader: inout Varint) -> Bool {
        guard let used = reader.next(), used > 0, used <= UInt64(BucketScale.positionCount) else { return false }
        // The largest value says where the buckets end.
        let last = BucketScale.coarser(BucketScale.position(nanoseconds: max), shift: shift)
        var position = 0
        var seen: UInt64 = 0
        for index in 0..<used {
            guard let difference = reader.next(), let inBucket = reader.next(), inBucket > 0,
                difference < UInt64(BucketScale.positionCount), index == 0 || difference > 0
            else { return false }
            position += Int(difference)
            guard position <= last else { return false }
            // As `insert` does: a count stays at the largest number.
            seen = seen.saturatingAdding(inBucket)
            if position == 0 {
                addZeros(inBucket)
            } else {
                // Room for all of them at once.
                if isFresh { reserve(position, through: last) }
                add(inBucket, at: position)
            }
        }
        return seen == count && position == last
    }

    private var isFresh: Bool { withCounts { _, counts in counts.isEmpty } }
}

/// Protobuf's base-128 varints, in their shortest form only.
struct Varint {
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
