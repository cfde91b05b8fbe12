/// A cell of a packed plane, read in place: nothing is copied or decoded before it is asked for.
///
/// Valid only as long as its `PackedPlane` is held.
///
/// How a cell is packed (numbers are protobuf varints):
///
///     key - key of the cell before (key = group · 64 + stage) | length of the rest
///     flags | count | late, if any
///     values:  the first, then the differences, ascending
///     buckets: shift, if not 0 | sum | max | zeros | counters, one for each threshold of the plane, if any
///              | number of buckets | position of the first | tokens
///     exemplars, if any: how many | of each 16 bytes of trace id, and its latency: for values the rank from the
///              largest, from 0
///
/// A token is a byte for one bucket: the upper three bits are the distance to the bucket before (for the first 0), the lower
/// five its count. Where a distance is above 7, or a count above 31, those bits are 0 and a varint follows.
struct PackedCell {
    enum Flag {
        static let part: UInt8 = 1
        static let late: UInt8 = 2
        static let buckets: UInt8 = 4
        static let exemplars: UInt8 = 8
        static let shift: UInt8 = 16
        static let approximate: UInt8 = 32
        static let counters: UInt8 = 64
    }

    /// Numbers that the reading's names belong to.
    let group: Int
    let stage: Int
    let count: UInt64
    /// Latencies that came after the window was over.
    let late: UInt64
    let flags: UInt8
    /// After flags, count and late.
    private let body: UnsafePointer<UInt8>
    /// The plane's.
    private let thresholds: UnsafeBufferPointer<UInt64>

    @inline(__always)
    init(key: UInt64, start: UnsafePointer<UInt8>, thresholds: UnsafeBufferPointer<UInt64>) {
        var at = start
        group = Int(key >> 6)
        stage = Int(key & 63)
        flags = at[0]
        at += 1
        count = Self.varint(&at)
        late = flags & Flag.late != 0 ? Self.varint(&at) : 0
        body = at
        self.thresholds = thresholds
    }

    /// These are parts of a later stage's latencies, not spans of their own.
    var isPart: Bool { flags & Flag.part != 0 }
    var isExact: Bool { flags & Flag.buckets == 0 }
    var isApproximate: Bool { flags & Flag.approximate != 0 }
    /// What may be wrong with a quantile, relative to it.
    var relativeError: Double {
        isExact ? 0 : Sketch.relativeError(shift: buckets().shift, isApproximate: isApproximate)
    }

    // MARK: Figures

    struct Buckets {
        var shift = 0
        var sum: UInt64 = 0
        var max: UInt64 = 0
        var zeros: UInt64 = 0
        var used = 0
        var first = 0
        var tokens: UnsafePointer<UInt8>
    }

    /// Only for cells of buckets.
    @inline(__always)
    func buckets() -> Buckets {
        var at = body
        var found = Buckets(tokens: at)
        if flags & Flag.shift != 0 {
            found.shift = Int(at[0])
            at += 1
        }
        found.sum = Self.varint(&at)
        found.max = Self.varint(&at)
        found.zeros = Self.varint(&at)
        if flags & Flag.counters != 0 { for _ in thresholds { _ = Self.varint(&at) } }
        found.used = Int(Self.varint(&at))
        found.first = Int(Self.varint(&at))
        found.tokens = at
        return found
    }

    /// Steps through tokens.
    @inline(__always)
    static func next(_ at: inout UnsafePointer<UInt8>) -> (gap: Int, count: UInt64) {
        let token = at[0]
        at += 1
        var gap = Int(token >> 5)
        var count = UInt64(token & 31)
        if gap == 0 || count == 0 {
            if gap == 0 { gap = Int(varint(&at)) }
            if count == 0 { count = varint(&at) }
        }
        return (gap, count)
    }

    @inline(__always)
    static func varint(_ at: inout UnsafePointer<UInt8>) -> UInt64 {
        var value = UInt64(at[0])
        at += 1
        if value < 0x80 { return value }
        value &= 0x7F
        var shift: UInt64 = 7
        while true {
            let byte = UInt64(at[0])
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80 { return value }
            shift += 7
        }
    }

    /// Sum and largest of the latencies in nanoseconds.
    var sumAndMax: (sum: UInt64, max: UInt64) {
        if !isExact {
            let buckets = buckets()
            return (buckets.sum, buckets.max)
        }
        var at = body
        var (value, sum): (UInt64, UInt64) = (0, 0)
        for _ in 0..<count {
            value &+= Self.varint(&at)
            sum = sum.saturatingAdding(value)
        }
        return (sum, value)
    }

    /// The values at ascending ranks, from 1 to `count`, in one pass. `values` has room for as many.
    func values(atRanks ranks: UnsafeBufferPointer<UInt64>, into values: UnsafeMutablePointer<UInt64>) {
        var next = 0
        if isExact {
            var at = body
            var value: UInt64 = 0
            for rank in 1...Swift.max(count, 1) {
                guard next < ranks.count else { return }
                value &+= Self.varint(&at)
                while next < ranks.count, ranks[next] <= rank {
                    values[next] = value
                    next += 1
                }
            }
        } else {
            let buckets = buckets()
            var at = buckets.tokens
            var position = buckets.first
            var seen = buckets.zeros
            while next < ranks.count, ranks[next] <= seen {
                values[next] = 0
                next += 1
            }
            var left = buckets.used
            while left > 0, next < ranks.count {
                let token = Self.next(&at)
                position += token.gap
                seen = seen.saturatingAdding(token.count)
                while next < ranks.count, ranks[next] <= seen {
                    values[next] = Swift.min(BucketScale.representative(position, shift: buckets.shift), buckets.max)
                    next += 1
                }
                left -= 1
            }
            while next < ranks.count {
                values[next] = buckets.max
                next += 1
            }
        }
    }

    func value(atRank rank: UInt64) -> UInt64 {
        withUnsafePointer(to: rank) { rank in
            var value: UInt64 = 0
            values(atRanks: UnsafeBufferPointer(start: rank, count: 1), into: &value)
            return value
        }
    }

    /// As `Sketch.quantile`.
    func quantile(_ q: Double) -> UInt64? { Sketch.rank(q, of: count).map(value(atRank:)) }

    /// As `Sketch.quantileInterval`.
    func quantileInterval(_ q: Double, confidence: Double = 0.95) -> (lower: UInt64, upper: UInt64)? {
        QuantileInterval.ranks(count: count, quantile: q, confidence: confidence).map {
            (value(atRank: $0.lower), value(atRank: $0.upper))
        }
    }

    /// How many latencies are above a threshold: exact for values and for the thresholds that the engine counts by; else
    /// by buckets.
    func countAbove(nanoseconds threshold: UInt64) -> UInt64 {
        if isExact {
            var at = body
            var value: UInt64 = 0
            for below in 0..<count {
                value &+= Self.varint(&at)
                if value > threshold { return count - below }
            }
            return 0
        }
        if flags & Flag.counters != 0, let number = thresholds.firstIndex(of: threshold) {
            return counter(number)
        }
        var above: UInt64 = 0
        let shift = buckets().shift
        forEachBucket { position, inBucket in
            if position > 0, BucketScale.representative(position, shift: shift) > threshold {
                above = above.saturatingAdding(inBucket)
            }
        }
        return above
    }

    private func counter(_ number: Int) -> UInt64 {
        var at = body
        if flags & Flag.shift != 0 { at += 1 }
        for _ in 0..<(3 + number) { _ = Self.varint(&at) }
        return Self.varint(&at)
    }

    /// Ascending; position 0 is for zeros. Only for cells of buckets; positions are at the cell's own shift.
    @inline(__always)
    func forEachBucket(_ body: (_ position: Int, _ count: UInt64) -> Void) {
        let buckets = buckets()
        if buckets.zeros > 0 { body(0, buckets.zeros) }
        var at = buckets.tokens
        var position = buckets.first
        for _ in 0..<buckets.used {
            let token = Self.next(&at)
            position &+= token.gap
            body(position, token.count)
        }
    }

    /// Ascending. Only for cells of values.
    @inline(__always)
    func forEachValue(_ body: (UInt64) -> Void) {
        var at = self.body
        var value: UInt64 = 0
        for _ in 0..<count {
            value &+= Self.varint(&at)
            body(value)
        }
    }

    // MARK: Exemplars

    /// Traces of the cell, slowest first; see `Exemplars`.
    var exemplars: [SlowTrace] {
        guard flags & Flag.exemplars != 0 else { return [] }
        var at = body
        var values: [UInt64] = []
        if isExact {
            values.reserveCapacity(Int(count))
            var value: UInt64 = 0
            for _ in 0..<count {
                value &+= Self.varint(&at)
                values.append(value)
            }
        } else {
            let buckets = buckets()
            at = buckets.tokens
            for _ in 0..<buckets.used { _ = Self.next(&at) }
        }
        let number = Int(at[0])
        at += 1
        return (0..<number).map { _ in
            let raw = UnsafeRawPointer(at)
            let high = UInt64(bigEndian: raw.loadUnaligned(as: UInt64.self))
            let low = UInt64(bigEndian: raw.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
            at += 16
            let figure = Self.varint(&at)
            let latency = isExact ? values[values.count - 1 - Int(Swift.min(figure, count - 1))] : figure
            return SlowTrace(latencyNano: latency, high: high, low: low)
        }
    }
}
