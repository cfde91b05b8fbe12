import CPrefetch

/// A cell that is being written. Its values or buckets are a piece of the plane's arena.
///
/// Laid out so that counting a latency mostly touches the first of the cell's four cache lines, and one of its block.
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

    /// In bytes, in memory. After the struct come, for each class of `Exemplars`, the latency of its slowest trace; the
    /// counters of slow latencies; the ids of those traces; and what is rarely touched.
    static let stride = 256
    static let maxThresholds = 4
    private static let latencyOffset = 48
    private static let counterOffset = 96
    private static let idOffset = 128
    private static let rareOffset = 224

    var count: UInt64 = 0
    var sum: UInt64 = 0
    var max: UInt64 = 0
    /// `values` in the order of arrival, or buckets from `first` on.
    var block: UnsafeMutableRawPointer
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
    private static func words(
        _ cell: UnsafeMutablePointer<OpenCell>, _ offset: Int
    ) -> UnsafeMutablePointer<UInt64> {
        (UnsafeMutableRawPointer(cell) + offset).assumingMemoryBound(to: UInt64.self)
    }

    @inline(__always)
    static func counters(_ cell: UnsafeMutablePointer<OpenCell>) -> UnsafeMutablePointer<UInt64> {
        words(cell, counterOffset)
    }

    /// Latencies that came late.
    static func late(_ cell: UnsafeMutablePointer<OpenCell>) -> UnsafeMutablePointer<UInt64> { words(cell, rareOffset) }

    /// Latencies of zero, once there are buckets.
    static func zeros(_ cell: UnsafeMutablePointer<OpenCell>) -> UnsafeMutablePointer<UInt64> {
        words(cell, rareOffset + 8)
    }

    /// A class is a part of the one before, so that what is too fast for its last class is so for all.
    @inline(__always)
    static func isExemplar(_ cell: UnsafeMutablePointer<OpenCell>, _ latency: UInt64, rank: Int) -> Bool {
        latency >= words(cell, latencyOffset)[rank]
    }

    /// What keeping an exemplar will write to.
    @inline(__always)
    static func prefetchIDs(_ cell: UnsafeMutablePointer<OpenCell>, rank: Int) {
        isotherm_prefetch(words(cell, idOffset))
        if rank >= 2 { isotherm_prefetch(words(cell, counterOffset - 8)) }
        if rank >= 4 { isotherm_prefetch(words(cell, idOffset + 64)) }
    }

    @inline(__always)
    static func note(
        _ cell: UnsafeMutablePointer<OpenCell>, _ latency: UInt64, _ high: UInt64, _ low: UInt64, rank: Int
    ) {
        if isExemplar(cell, latency, rank: rank) { keep(cell, rank, latency, high, low) }
    }

    static func note(_ cell: UnsafeMutablePointer<OpenCell>, _ latency: UInt64, _ high: UInt64, _ low: UInt64) {
        note(cell, latency, high, low, rank: SlowTrace.rank(high: high, low: low))
    }

    @inline(never)
    private static func keep(
        _ cell: UnsafeMutablePointer<OpenCell>, _ rank: Int, _ latency: UInt64, _ high: UInt64, _ low: UInt64
    ) {
        let latencies = words(cell, latencyOffset)
        let ids = words(cell, idOffset)
        for at in 0...rank where latency >= latencies[at] {
            let id = ids + at * 2
            if latency > latencies[at] || id[0] | id[1] == 0 || (high, low) < (id[0], id[1]) {
                (latencies[at], id[0], id[1]) = (latency, high, low)
            }
        }
    }

    /// Slowest first, each once.
    static func traces(_ cell: UnsafeMutablePointer<OpenCell>) -> [SlowTrace] {
        let latencies = words(cell, latencyOffset)
        let ids = words(cell, idOffset)
        var traces: [SlowTrace] = []
        for at in 0..<Exemplars.classes {
            let id = ids + at * 2
            guard id[0] | id[1] != 0 else { break }
            let trace = SlowTrace(latencyNano: latencies[at], high: id[0], low: id[1])
            if traces.last != trace { traces.append(trace) }
        }
        return traces
    }
}
