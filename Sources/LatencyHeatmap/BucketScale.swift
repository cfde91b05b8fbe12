import Glibc

/// The buckets of a base-2 exponential histogram of scale 6, with edges in seconds.
///
/// OpenTelemetry's bucket `i` holds values in (2^(i/64), 2^((i+1)/64)] seconds; Prometheus calls the same bucket `i + 1`.
/// https://opentelemetry.io/docs/specs/otel/metrics/data-model/#exponentialhistogram
/// Here a bucket is named by its *position*: 0 is for zero itself, `p` is OpenTelemetry's index `p + firstIndex - 1`.
public enum BucketScale {
    /// OpenTelemetry's index of the bucket of one nanosecond.
    public static let firstIndex = -1_914
    /// Positions are smaller than this; the last bucket holds the largest 64-bit number of nanoseconds.
    public static let positionCount = 4_100
    /// Largest relative error of a bucket's representative value: (b - 1) / (b + 1) for b = 2^(1/64).
    public static let relativeError = 0.005_416

    /// The scale at which latencies are counted. A coarser one is `scale - shift`.
    public static let scale = 6
    /// A shift beyond this is not used: at OpenTelemetry's smallest scale, −10.
    static let maxShift = 16

    /// Largest relative error of a representative value at a coarser scale; 1 where a bucket's edges are too far apart.
    public static func relativeError(shift: Int) -> Double {
        if shift == 0 { return relativeError }
        let ratio = exp2(exp2(Double(shift - scale)))
        return ratio.isFinite ? (ratio - 1) / (ratio + 1) : 1
    }

    /// The position at a coarser scale of what is at a position of scale 6. Edges of coarser scales are among those of
    /// finer ones, so that nothing but the resolution is lost.
    @inline(__always)
    static func coarser(_ position: Int, shift: Int) -> Int {
        position == 0 || shift == 0
            ? position : ((position + firstIndex - 1) >> shift) - (firstIndex >> shift) + 1
    }

    /// The same between two shifts.
    static func coarser(_ position: Int, from: Int, to: Int) -> Int {
        guard position > 0, from < to else { return position }
        return (index(position, shift: from) >> (to - from)) - (firstIndex >> to) + 1
    }

    /// OpenTelemetry's index of a position above 0.
    static func index(_ position: Int, shift: Int) -> Int { position + (firstIndex >> shift) - 1 }

    /// The position of OpenTelemetry's index; what is below a nanosecond or beyond 584 years is in the first or the last.
    static func position(index: Int, shift: Int) -> Int {
        Swift.min(Swift.max(index - (firstIndex >> shift) + 1, 1), coarser(positionCount - 1, shift: shift))
    }

    /// Largest whole number of nanoseconds in a bucket; a bucket begins above that of the one before.
    static func upperEdge(_ position: Int, shift: Int) -> UInt64 {
        if position <= 0 { return 0 }
        if shift == 0 { return upperEdges[Swift.min(position, positionCount - 1)] }
        let last = ((index(position, shift: shift) + 1) << shift) - 1 - firstIndex + 1
        return last >= positionCount ? .max : upperEdges[Swift.max(last, 1)]
    }

    /// Largest whole number of nanoseconds in each bucket: exact up to 2^46, 19 hours; beyond, to one part in 2^52.
    nonisolated(unsafe) private static let upperEdges: UnsafePointer<UInt64> = {
        let edges = UnsafeMutablePointer<UInt64>.allocate(capacity: positionCount)
        edges[0] = 0
        for position in 1..<positionCount {
            let edge = exp2(Double(position + firstIndex) / 64) * 1e9
            edges[position] = edge >= 0x1p64 ? .max : UInt64(edge)
        }
        return UnsafePointer(edges)
    }()

    /// For the highest set bit and the seven bits after it: the first position that may hold such a value.
    nonisolated(unsafe) private static let starts: UnsafePointer<UInt16> = {
        let starts = UnsafeMutablePointer<UInt16>.allocate(capacity: 64 * 128)
        var position = 1
        for exponent in 0..<64 {
            for step in 0..<128 {
                let low = exponent >= 7 ? UInt64(128 + step) << (exponent - 7) : UInt64(128 + step) >> (7 - exponent)
                // Below 2^7 several steps fall on one number, so the order of `low` is still ascending.
                while upperEdges[position] < low { position += 1 }
                starts[exponent * 128 + step] = UInt16(position)
            }
        }
        return UnsafePointer(starts)
    }()

    /// The bucket that holds a latency.
    @inline(__always)
    static func position(nanoseconds: UInt64) -> Int { tables.position(nanoseconds: nanoseconds) }

    /// What it takes to find a bucket. To be held where many are looked for: a global that is made when it is first needed
    /// asks each time whether it is there.
    struct Tables {
        fileprivate let starts: UnsafePointer<UInt16>
        fileprivate let upperEdges: UnsafePointer<UInt64>

        @inline(__always)
        func position(nanoseconds: UInt64) -> Int {
            if nanoseconds == 0 { return 0 }
            let exponent = 63 - nanoseconds.leadingZeroBitCount
            let step = Int((nanoseconds << UInt64(63 - exponent)) >> 56) & 127
            let position = Int(starts[exponent * 128 + step])
            // A step is narrower than any bucket that begins in it, so that at most one edge lies inside.
            return position &+ (upperEdges[position] < nanoseconds ? 1 : 0)
        }
    }

    nonisolated(unsafe) static let tables = Tables(starts: starts, upperEdges: upperEdges)

    /// The value that stands for a bucket: the one whose relative distance to both edges is the same.
    @inline(__always)
    static func representative(_ position: Int) -> UInt64 { representatives[position] }

    static func representative(_ position: Int, shift: Int) -> UInt64 {
        if shift == 0 || position == 0 { return representatives[position] }
        let lower = exp2(exp2(Double(shift - scale)) * Double(index(position, shift: shift))) * 1e9
        let upper = exp2(exp2(Double(shift - scale)) * Double(index(position, shift: shift) + 1)) * 1e9
        let value = upper.isFinite ? (2 * lower * upper / (lower + upper)).rounded() : (2 * lower).rounded()
        return value >= 0x1p64 ? .max : max(1, UInt64(value))
    }

    nonisolated(unsafe) private static let representatives: UnsafePointer<UInt64> = {
        let values = UnsafeMutablePointer<UInt64>.allocate(capacity: positionCount)
        values[0] = 0
        for position in 1..<positionCount {
            let upper = exp2(Double(position + firstIndex) / 64) * 1e9
            let lower = upper / exp2(1.0 / 64)
            let value = (2 * lower * upper / (lower + upper)).rounded()
            values[position] = value >= 0x1p64 ? .max : max(1, UInt64(value))
        }
        return UnsafePointer(values)
    }()
}
