/// What an engine knows. Guarded by its lock.
struct HeatmapState {
    var views: [ViewState]
    let stages = NameTable(limit: HeatmapEngine.maxStages)
    /// For each tier the second before which it has nothing, because the next one has taken it.
    var borders: [Int64]
    var ledger = HeatmapLedger()
    /// Of histograms' points.
    var histograms = HeatmapLedger()
    var memory = HeatmapMemory()
    /// Latest end of a latency.
    var latestUnixNano: UInt64 = 0
    /// Read once for each call, not for each latency.
    var nowUnixNano: UInt64 = 0
    /// How often names have given up their numbers.
    var reclaims = 0
    /// Bytes of the packed planes, as they were counted last.
    var packedBytes = 0
    /// Of the first view, what has been taken out of windows and is not in the totals yet.
    var closed: [OpenPlane] = []
    /// Memory is short: no new cell is made, and none grows, until upkeep has made room.
    var isShort = false
}

/// One view's groups and windows.
final class ViewState {
    let view: HeatmapView
    let groups: NameTable
    /// By the second at which they start.
    var slots: [Int64: WindowSlot] = [:]
    /// The one that was written last.
    var current: OpenPlane?
    /// Latencies in the row `(other)`.
    var overflowed: UInt64 = 0

    init(view: HeatmapView, maxGroups: Int) {
        self.view = view
        groups = NameTable(limit: maxGroups)
    }
}

/// One window of one view: what is packed, and what has come since.
final class WindowSlot {
    let start: Int64
    let end: Int64
    let tier: Int
    var packed: PackedPlane?
    var open: OpenPlane?
    /// How much memory was saved at the cost of detail.
    var saving = Saving.none
    /// Taken out of `open`, and not packed yet; nothing comes to it any more.
    var closing: OpenPlane?
    /// Of the last journal record that the packed cells include.
    var sequence: UInt64 = 0
    /// Whether the packed cells are on disk as they are.
    var isStored = false

    enum Saving: Int { case none, exemplars, shift1, shift2, shift3 }

    init(start: Int64, end: Int64, tier: Int) {
        self.start = start
        self.end = end
        self.tier = tier
    }

    var byteCount: Int { (packed?.byteCount ?? 0) + (open?.byteCount ?? 0) + (closing?.byteCount ?? 0) + 128 }
    var cellCount: Int { (packed?.cellCount ?? 0) + (open?.cellCount ?? 0) + (closing?.cellCount ?? 0) }
}

/// What the engine has done to keep within its memory.
public struct HeatmapMemory: Sendable, Equatable {
    /// What the cells take, in bytes.
    public internal(set) var bytes = 0
    /// Windows whose exemplars were dropped.
    public internal(set) var strippedWindows: UInt64 = 0
    /// Windows whose cells have lost resolution; the relative error that reports state grows with it.
    public internal(set) var coarsenedWindows: UInt64 = 0
    /// Windows that were forgotten before their time.
    public internal(set) var droppedWindows: UInt64 = 0
}
