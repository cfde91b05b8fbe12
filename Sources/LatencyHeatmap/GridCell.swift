import Synchronization

extension HeatmapGrid {
    public struct StageShare: Sendable, Equatable {
        public let stage: String
        /// Mean time in this stage alone, in nanoseconds.
        public let meanNano: UInt64
        /// Of the means' sum, from 0 to 1.
        public let share: Double
        /// The share as a whole number; those of a cell add up to 100.
        public let percent: Int
    }

    /// What a cell's latencies are against those that the query compares with.
    public struct Change: Sendable, Equatable {
        public enum Verdict: String, Sendable { case slower, faster, unclear }

        public let baselineNano: UInt64
        public let baselineCount: UInt64
        /// `unclear` unless the 95 % confidence intervals of both quantiles lie apart.
        public let verdict: Verdict
    }

    /// Latencies of one group in one window. Figures beside the quantile are worked out when they are asked for.
    public struct Cell: Sendable {
        public let count: UInt64
        public let quantileNano: UInt64
        public let late: UInt64
        public let level: LatencyLevel
        public let state: State
        /// Nil unless the query compares, and where there is nothing to compare with.
        public internal(set) var change: Change?
        let content: Content
        let totals: [StageTotal]
        private let quantile: Double
        private let sloNano: UInt64
    }

    /// Where a cell's latencies are: in a window of the engine, shared with it, or added up from several.
    enum Content: @unchecked Sendable {  // a packed plane never changes
        case packed(PackedCell, PackedPlane)
        case sum(Summed)
    }

    /// A sum that is shared by all copies of its cell: most cells have none, and are small.
    final class Summed: Sendable {
        let cells: CellSum
        /// Whose traces these are, where the sum does not have them.
        private let tracesOf: [Cell?]
        private let found = AtomicLazyReference<Traces>()

        private final class Traces: Sendable {
            let traces: [SlowTrace]

            init(_ traces: [SlowTrace]) { self.traces = traces }
        }

        init(_ cells: CellSum, tracesOf: [Cell?] = []) {
            self.cells = cells
            self.tracesOf = tracesOf
        }

        /// Looked for once, and only when somebody asks.
        var slowest: [SlowTrace] {
            if let found = found.load() { return found.traces }
            var all = cells.exemplars
            for case let cell? in tracesOf { for trace in cell.slowest { all.note(trace) } }
            return found.storeIfNil(Traces(all.traces)).traces
        }

        var sketch: Sketch { cells.sketch }
    }

    /// The count and the sum of one stage's latencies in a cell.
    struct StageTotal: Sendable, Equatable {
        let stage: String
        var count: UInt64
        var sumNano: UInt64
        /// These are parts of a later stage's latencies, not spans of their own.
        var isPart: Bool
    }

    /// What the cells of one grid have in common.
    struct Measure: Sendable {
        let quantile: Double
        let levels: [UInt64]
        let sloNano: UInt64

        func level(_ nanoseconds: UInt64) -> LatencyLevel {
            nanoseconds >= levels[2]
                ? .red : nanoseconds >= levels[1] ? .orange : nanoseconds >= levels[0] ? .yellow : .green
        }
    }
}

extension HeatmapGrid.Cell {
    /// A window's cell; nil when there are no latencies.
    ///
    /// - Parameter total: what they are added to, without their traces. Both take one pass over them.
    init?(
        _ cell: PackedCell, of plane: PackedPlane, addedTo total: inout CellSum, isOpen: Bool,
        totals: [HeatmapGrid.StageTotal], _ measure: HeatmapGrid.Measure
    ) {
        guard let rank = Sketch.rank(measure.quantile, of: cell.count) else { return nil }
        self.init(
            .packed(cell, plane), count: cell.count, late: cell.late, total.add(cell, rank: rank), isOpen: isOpen,
            totals: totals, measure)
    }

    /// Nil when there are no latencies.
    init?(
        _ sum: CellSum, tracesOf: [Self?] = [], isOpen: Bool, totals: [HeatmapGrid.StageTotal],
        _ measure: HeatmapGrid.Measure
    ) {
        guard let value = sum.sketch.quantile(measure.quantile) else { return nil }
        self.init(
            .sum(HeatmapGrid.Summed(sum, tracesOf: tracesOf)), count: sum.sketch.count, late: sum.late, value,
            isOpen: isOpen, totals: totals, measure)
    }

    private init(
        _ content: HeatmapGrid.Content, count: UInt64, late: UInt64, _ value: UInt64, isOpen: Bool,
        totals: [HeatmapGrid.StageTotal], _ measure: HeatmapGrid.Measure
    ) {
        (self.content, self.count, self.late, self.totals) = (content, count, late, totals)
        quantileNano = value
        level = measure.level(value)
        state = late > 0 ? .revised : isOpen ? .open : .final
        quantile = measure.quantile
        sloNano = measure.sloNano
    }

    /// All of the latencies.
    public var sketch: Sketch {
        switch content {
        case .sum(let sum): return sum.sketch
        case .packed(let cell, _):
            var sketch = Sketch()
            sketch.merge(cell)
            return sketch
        }
    }

    public var maxNano: UInt64 {
        switch content {
        case .sum(let sum): sum.sketch.max
        case .packed(let cell, _): cell.sumAndMax.max
        }
    }

    public var overSLO: UInt64 {
        switch content {
        case .sum(let sum): sum.cells.over.first ?? sum.sketch.countAbove(nanoseconds: sloNano)
        case .packed(let cell, _): cell.countAbove(nanoseconds: sloNano)
        }
    }

    /// Traces to look at, slowest first: the slowest, and some near the high percentiles.
    public var slowest: [SlowTrace] {
        switch content {
        case .sum(let sum): sum.slowest
        case .packed(let cell, _): cell.exemplars
        }
    }

    /// The trace whose latency is nearest the quantile.
    public var nearestTrace: SlowTrace? {
        slowest.min { a, b in
            let (x, y) = (distance(a.latencyNano), distance(b.latencyNano))
            return x != y ? x < y : SlowTrace.precedes(a, b)
        }
    }

    private func distance(_ nanoseconds: UInt64) -> UInt64 {
        nanoseconds > quantileNano ? nanoseconds - quantileNano : quantileNano - nanoseconds
    }

    /// Where the time went, in the order of the event's way; empty when it is not known.
    public var stages: [HeatmapGrid.StageShare] { HeatmapGrid.StageShare.of(totals) }

    /// Between which latencies the quantile of the whole lies with 95 %; nil when there are too few to say.
    public var interval: (lower: UInt64, upper: UInt64)? {
        switch content {
        case .sum(let sum): sum.sketch.quantileInterval(quantile)
        case .packed(let cell, _): cell.quantileInterval(quantile)
        }
    }

    /// Largest relative error of the quantile.
    public var relativeError: Double {
        switch content {
        case .sum(let sum): sum.sketch.relativeError
        case .packed(let cell, _): cell.relativeError
        }
    }

    public var p50Nano: UInt64 { value(0.5) }
    public var p90Nano: UInt64 { value(0.9) }
    public var p95Nano: UInt64 { value(0.95) }
    public var p99Nano: UInt64 { value(0.99) }

    private func value(_ quantile: Double) -> UInt64 {
        switch content {
        case .sum(let sum): sum.sketch.quantile(quantile) ?? 0
        case .packed(let cell, _): cell.quantile(quantile) ?? 0
        }
    }

    /// Several cells of one group as one, as if their windows had been one from the beginning.
    static func joined(_ cells: [Self], _ measure: HeatmapGrid.Measure) -> Self? {
        if cells.count < 2 { return cells.first }
        var sum = CellSum(thresholds: [measure.sloNano])
        var totals: [HeatmapGrid.StageTotal] = []
        for cell in cells {
            switch cell.content {
            case .packed(let packed, _): sum.add(packed, withExemplars: false)
            case .sum(let other): sum.add(other.cells, withExemplars: false)
            }
            totals.add(cell.totals)
        }
        return Self(
            sum, tracesOf: cells, isOpen: cells.contains { $0.state == .open }, totals: totals, measure)
    }
}

extension [HeatmapGrid.StageTotal] {
    mutating func add(_ others: Self) {
        for other in others {
            guard let at = firstIndex(where: { $0.stage == other.stage }) else {
                append(other)
                continue
            }
            self[at].count = self[at].count.saturatingAdding(other.count)
            self[at].sumNano = self[at].sumNano.saturatingAdding(other.sumNano)
            self[at].isPart = self[at].isPart || other.isPart
        }
    }
}

extension HeatmapGrid.StageShare {
    /// Own time of each stage: parts as they are, the others less what came before. Empty for one stage alone.
    ///
    /// - Parameter totals: in the order of the event's way, up to the stage that is shown.
    static func of(_ totals: [HeatmapGrid.StageTotal]) -> [Self] {
        guard totals.count > 1 else { return [] }
        var before = 0.0
        var own: [(stage: String, mean: Double)] = []
        for total in totals where total.count > 0 {
            let mean = Double(total.sumNano) / Double(total.count)
            if total.isPart {
                own.append((total.stage, mean))
                before += mean
            } else {
                own.append((total.stage, max(0, mean - before)))
                before = max(before, mean)
            }
        }
        guard own.count > 1 else { return [] }
        let sum = own.reduce(0) { $0 + $1.mean }
        let percents = wholePercents(own.map { sum > 0 ? $0.mean / sum * 100 : 0 })
        return zip(own, percents).map { own, percent in
            Self(
                stage: own.stage, meanNano: UInt64(own.mean.rounded()), share: sum > 0 ? own.mean / sum : 0,
                percent: percent)
        }
    }

    /// Whole numbers that add up to 100: those that lose most by rounding down are rounded up (largest remainder).
    static func wholePercents(_ exact: [Double]) -> [Int] {
        guard exact.contains(where: { $0 > 0 }) else { return exact.map { _ in 0 } }
        var whole = exact.map { Int($0.rounded(.down)) }
        let byRemainder = exact.indices.sorted { a, b in
            let (x, y) = (exact[a] - exact[a].rounded(.down), exact[b] - exact[b].rounded(.down))
            return x != y ? x > y : a < b
        }
        for index in byRemainder.prefix(max(0, 100 - whole.reduce(0, +))) { whole[index] += 1 }
        return whole
    }
}
