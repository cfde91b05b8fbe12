/// One of the traces of a cell.
public struct SlowTrace: Sendable, Equatable {
    public let latencyNano: UInt64
    public let high: UInt64
    public let low: UInt64

    /// 32 lower-case hex digits.
    public var traceID: String {
        func digits(_ half: UInt64) -> String {
            let hex = String(half, radix: 16)
            return String(repeating: "0", count: 16 - hex.count) + hex
        }
        return digits(high) + digits(low)
    }

    /// Slower first; ids decide between equals, so that the order of arrival never shows.
    static func precedes(_ a: SlowTrace, _ b: SlowTrace) -> Bool {
        (b.latencyNano, a.high, a.low) < (a.latencyNano, b.high, b.low)
    }

    /// A trace belongs to class 0; one in four also to class 1, one in sixteen to class 2, and so on.
    @inline(__always)
    static func rank(high: UInt64, low: UInt64) -> Int {
        let mixed = (low ^ high &* 0x9E37_79B9_7F4A_7C15).multipliedFullWidth(by: 0xBF58_476D_1CE4_E5B9)
        return Swift.min((mixed.high ^ mixed.low).trailingZeroBitCount / 2, Exemplars.classes - 1)
    }
}

/// The traces that a cell keeps: the slowest, the slowest of every 4th, of every 16th, and so on up to 1024th.
///
/// The slowest of every 16th trace is about the 16th slowest, so that near each high percentile there is a trace to show.
/// Which ones are kept depends only on the traces, not on their order or on how they were merged. An event that has
/// several latencies in a cell counts with the largest.
struct Exemplars: Sendable {
    static let classes = 6

    /// Slowest first, each once.
    private(set) var traces: [SlowTrace] = []

    mutating func note(_ trace: SlowTrace) {
        let rank = SlowTrace.rank(high: trace.high, low: trace.low)
        // Kept if it is the slowest of some class that it is in.
        guard
            (0...rank).contains(where: { traceClass in
                guard let best = traces.first(where: { SlowTrace.rank(high: $0.high, low: $0.low) >= traceClass })
                else {
                    return true
                }
                return SlowTrace.precedes(trace, best)
            })
        else { return }
        traces.removeAll { $0.high == trace.high && $0.low == trace.low }
        traces.insert(trace, at: traces.firstIndex { SlowTrace.precedes(trace, $0) } ?? traces.count)
        // A trace stays while no slower one is in all of its classes.
        var highest = -1
        traces.removeAll { kept in
            let rank = SlowTrace.rank(high: kept.high, low: kept.low)
            guard rank > highest else { return true }
            highest = rank
            return false
        }
    }

    mutating func removeAll() { traces.removeAll(keepingCapacity: true) }
}
