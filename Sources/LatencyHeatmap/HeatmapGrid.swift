/// Four levels of slowness, always shown by letter too, not by colour alone.
public enum LatencyLevel: String, Sendable, CaseIterable {
    case green, yellow, orange, red

    public var letter: Character {
        switch self {
        case .green: "G"
        case .yellow: "Y"
        case .orange: "O"
        case .red: "R"
        }
    }
}

/// A P95 (or another quantile) per group and window: what all forms of the report are made from.
public struct HeatmapGrid: Sendable {
    /// A column, in seconds since 1970: from `start` up to, not including, `end`.
    public struct Window: Sendable, Equatable {
        public let start: Int64
        public let end: Int64
    }

    public enum State: String, Sendable {
        /// More may come.
        case open
        case final
        /// Latencies came after the window was over.
        case revised
    }

    public struct Row: Sendable {
        public let group: String
        /// One for each window; nil where no latency ended.
        public internal(set) var cells: [Cell?]
        /// Over all windows of the grid, from the merged sketches.
        public internal(set) var total: Cell
        /// What the cells are compared with, one for each window; empty when they are not.
        var baseline: [Cell?] = []
        var baselineTotal: Cell?
    }

    public let quantile: Double
    public let stage: String
    public internal(set) var windows: [Window]
    /// Length of a column in seconds.
    public internal(set) var windowSeconds: Int64
    public internal(set) var rows: [Row]
    /// Rows that the query's limit left out.
    public let omittedRows: Int
    public let count: UInt64
    public let late: UInt64
    /// Largest relative error of a figure in the grid; 0 when all are exact.
    public let relativeError: Double
    /// Where yellow, orange and red begin, in nanoseconds.
    public let levels: [UInt64]
    public let sloNano: UInt64
    public let groupBy: [String]
    /// What a group is: `device.group`, or a pair joined by `+`.
    public let groupName: String
    public let timeZone: String
    /// Set when too many groups came, and how many latencies are in the row `(other)`.
    public let overflowed: UInt64
    /// `attribute=value`, as the query had them.
    public let filters: [String]
    /// What the cells are compared with, as the query had it; nil when they are not.
    public let comparison: String?
    /// Whether more may come.
    public let isLive: Bool

    let civil: CivilTime
    let measure: Measure

    /// Below this many, a P95 says little: `~`.
    public static let lowSample: UInt64 = 59
    /// Below this many, it says nothing: `--`.
    public static let noSample: UInt64 = 20

    /// `P95`, `P99.9`.
    public var quantileName: String {
        let percent = (quantile * 1_000_000).rounded() / 10_000
        return "P" + (percent == percent.rounded() ? "\(Int(percent))" : "\(percent)")
    }
}
