/// A cell that is being written. Its values or buckets are a piece of the plane's arena.
///
/// Laid out so that counting a latency touches one cache line of the cell, and one of its buckets.
struct OpenCell {
    enum Flag {
        static let part: UInt8 = 1
        static let buckets: UInt8 = 2
        /// Buckets of 64 bits instead of 32.
        static let wide: UInt8 = 4
        static let approximate: UInt8 = 8
        /// Changed since it was last written to the journal.
        static let dirty: UInt8 = 16
    }

    /// In bytes, in memory: the struct, the counters of slow latencies, and the exemplars.
    static let stride = 256
    static let maxThresholds = 4
    private static let counterOffset = 64
    private static let exemplarOffset = 96

    var count: UInt64 = 0
    var sum: UInt64 = 0
    var max: UInt64 = 0
    /// `values` in the order of arrival, or buckets from `first` on.
    var block: UnsafeMutableRawPointer
    var late: UInt64 = 0
    var zeros: UInt64 = 0
    var first: Int32 = 0
    /// Of the block, in values or buckets.
    var capacity: UInt32
    /// Group · 64 + stage.
    var key: UInt32
    var shift: UInt8 = 0
    var flags: UInt8 = 0
    var pieceClass: UInt8
    private var unused: UInt8 = 0

    init(key: UInt32, block: UnsafeMutableRawPointer, pieceClass: Int) {
        self.key = key
        self.block = block
        self.pieceClass = UInt8(pieceClass)
        capacity = UInt32((32 << pieceClass) / 8)
    }

    var isExact: Bool { flags & Flag.buckets == 0 }

    @inline(__always)
    static func counters(_ cell: UnsafeMutablePointer<OpenCell>) -> UnsafeMutablePointer<UInt64> {
        (UnsafeMutableRawPointer(cell) + counterOffset).assumingMemoryBound(to: UInt64.self)
    }

    /// For each class of `Exemplars` its slowest trace: latency and the halves of its id, which are 0 if there is none.
    @inline(__always)
    static func exemplars(_ cell: UnsafeMutablePointer<OpenCell>) -> UnsafeMutablePointer<UInt64> {
        (UnsafeMutableRawPointer(cell) + exemplarOffset).assumingMemoryBound(to: UInt64.self)
    }

    @inline(__always)
    static func note(_ cell: UnsafeMutablePointer<OpenCell>, _ latency: UInt64, _ high: UInt64, _ low: UInt64) {
        let rank = SlowTrace.rank(high: high, low: low)
        let slots = exemplars(cell)
        var at = 0
        while at <= rank {
            let slot = slots + at * 3
            if latency >= slot[0] {
                let isSlower = latency > slot[0] || slot[1] | slot[2] == 0 || (high, low) < (slot[1], slot[2])
                if isSlower { (slot[0], slot[1], slot[2]) = (latency, high, low) }
            }
            at &+= 1
        }
    }

    /// Slowest first, each once.
    static func traces(_ cell: UnsafeMutablePointer<OpenCell>) -> [SlowTrace] {
        let slots = exemplars(cell)
        guard slots[1] | slots[2] != 0 else { return [] }
        var traces: [SlowTrace] = []
        for at in 0..<Exemplars.classes {
            let slot = slots + at * 3
            guard slot[1] | slot[2] != 0 else { break }
            let trace = SlowTrace(latencyNano: slot[0], high: slot[1], low: slot[2])
            if traces.last != trace { traces.append(trace) }
        }
        return traces
    }
}
