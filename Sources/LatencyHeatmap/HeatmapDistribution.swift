/// How the latencies of one group, or of all together, are spread: ranges of latencies by windows.
public struct HeatmapDistribution: Sendable {
    /// A range of latencies: above `lower` up to and including `upper`, in whole nanoseconds. Zero is a range of its own.
    public struct Bucket: Sendable, Equatable {
        public let lowerNano: UInt64
        public let upperNano: UInt64
        /// By the representative value of the range.
        public let level: LatencyLevel
        /// One for each window.
        public internal(set) var counts: [UInt64]
        public var total: UInt64 { counts.reduce(0) { $0.saturatingAdding($1) } }
    }

    /// Of the one row that is shown; without rows when it has no latencies.
    public let grid: HeatmapGrid
    /// Nil: all of them.
    public let group: String?

    public var row: HeatmapGrid.Row? { grid.rows.first }

    init(engine: HeatmapEngine, query: HeatmapQuery) throws(HeatmapError) {
        var query = query
        query.limit = nil
        self.init(try GridBuilder(engine: engine, query: query).grid(), group: query.group)
    }

    /// - Parameter grid: of all groups that are put together.
    init(_ grid: HeatmapGrid, group: String?) {
        self.group = group
        var one = grid
        if grid.rows.count > 1 {
            let cells = grid.windows.indices.map { column in
                HeatmapGrid.Cell.joined(grid.rows.compactMap { $0.cells[column] }, grid.measure)
            }
            if let total = HeatmapGrid.Cell.joined(grid.rows.map(\.total), grid.measure) {
                one.rows = [HeatmapGrid.Row(group: "(all)", cells: cells, total: total)]
            }
        }
        self.grid = one
    }

    /// Ranges that have latencies, ascending, at the finest scale that all cells have.
    public var buckets: [Bucket] { spread(shift: finest, withGaps: false) }

    /// Ascending and without gaps, at the finest scale at which there are at most so many.
    public func buckets(atMost limit: Int) -> [Bucket] {
        for shift in finest..<BucketScale.maxShift {
            let found = positions(shift: shift)
            if found.isEmpty || found.upperBound - found.lowerBound <= Swift.max(2, limit) {
                return spread(shift: shift, withGaps: true)
            }
        }
        return spread(shift: BucketScale.maxShift, withGaps: true)
    }

    private var finest: Int { row?.cells.reduce(0) { Swift.max($0, $1?.sketch.shift ?? 0) } ?? 0 }

    private func positions(shift: Int) -> Range<Int> {
        guard let buckets = row?.total.sketch, let first = buckets.buckets.first, let last = buckets.buckets.last else {
            return 0..<0
        }
        let of = { BucketScale.coarser($0, from: buckets.shift, to: shift) }
        return of(first.position)..<of(last.position) + 1
    }

    private func spread(shift: Int, withGaps: Bool) -> [Bucket] {
        guard let row else { return [] }
        let none = [UInt64](repeating: 0, count: row.cells.count)
        var counts: [Int: [UInt64]] = [:]
        for (column, cell) in row.cells.enumerated() {
            guard let sketch = cell?.sketch else { continue }
            for bucket in sketch.buckets {
                let position = BucketScale.coarser(bucket.position, from: sketch.shift, to: shift)
                let before = counts[position, default: none][column]
                counts[position, default: none][column] = before.saturatingAdding(bucket.count)
            }
        }
        guard let first = counts.keys.min(), let last = counts.keys.max() else { return [] }
        return (withGaps ? Array(first...last) : counts.keys.sorted()).map { position in
            Bucket(
                lowerNano: position > 0 ? BucketScale.upperEdge(position - 1, shift: shift) : 0,
                upperNano: BucketScale.upperEdge(position, shift: shift),
                level: grid.measure.level(BucketScale.representative(position, shift: shift)),
                counts: counts[position] ?? none)
        }
    }
}
