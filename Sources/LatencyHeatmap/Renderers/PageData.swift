import Glibc
import OTLP

/// What the page's script works with: the grid's sketches, so that it can answer for another quantile or longer windows by
/// merging them, as the engine does.
///
/// `header` is JSON; `body` is base64 of a range-coded stream (`RangeEncoder`), read in this order:
///
///     for each group: the buckets of all columns together (`RowBuckets`), in a comparison those of what it is compared
///     with; then for each column, and then for all of them:
///       1 or 0: whether there is anything (of all columns there is); then
///       latencies (of all columns: the sum) | their buckets, unless it is all columns
///       the quantile: 0 and its bucket at scale 6, or 1 and all bits of its ns | largest in ns, 11 bits
///       latencies over the SLO, less those in buckets above the SLO's | late | state 0 open 1 final 2 revised
///       when the grid has stages: which of them, as a number's bits, and the percents of all but the last;
///       the mean of the whole in ns, 9 bits
///       traces, and for each its latency in ns, 11 bits, and its 16 bytes
///       in a comparison, what it is compared with: 1 or 0: whether there is anything; then
///       0 unclear 1 slower 2 faster | latencies and buckets | quantile and largest, all as above
///     when the grid's windows were joined for the columns, for each group and each of the windows:
///       latencies | from 20 on: bucket of the quantile, and its level where a level begins inside of the bucket;
///       in a comparison 0 unclear 1 slower 2 faster
///
/// Buckets are OpenTelemetry's indices at the scale that the header names. Scale, number of traces and the precision of the
/// windows are the finest for which the body fits.
struct PageData {
    let header: JSONWriter
    let body: String

    /// Nil when nothing fits.
    ///
    /// - Parameters:
    ///   - columns: the grid of the page's table; `grid` itself unless it has too many windows for a table.
    ///   - hasNames: whether the header has the groups' names; else they are in the table.
    ///   - leastScale: of the cells' sketches, unless they came coarser.
    ///   - limit: of the bytes of both, as they are in a page.
    init?(
        grid: HeatmapGrid, columns: HeatmapGrid, rows: Int, hasNames: Bool, traceURL: String?, leastScale: Int,
        limit: Int
    ) {
        let isJoined = grid.windows.count > columns.windows.count
        // Sketches that came coarser stay so.
        let finest = columns.rows.prefix(rows).reduce(BucketScale.scale) { Swift.min($0, $1.total.sketchScale) }
        let head = Head(grid: grid, columns: columns, rows: rows, hasNames: hasNames, traceURL: traceURL)
        let room = (limit - head.size(.widest)) / 4 * 3
        guard room > 0 else { return nil }

        var fine: [UInt8] = []
        var fineScale: Int?
        if isJoined {
            let some = Self.some(rows)
            let found = stride(from: BucketScale.scale, through: 0, by: -1).first {
                Self.expected(Self.windows(grid, rows: some, scale: $0), some, rows) <= room * 3 / 4
            }
            guard let found else { return nil }
            fineScale = found
            fine = Self.windows(grid, rows: Array(0..<rows), scale: found)
        }
        func place(_ cells: Cells) -> Head.Place {
            Head.Place(
                scale: cells.scale, isCoarser: cells.scale < finest, traces: cells.traces,
                hasMoreTraces: cells.hasMoreTraces, fineScale: fineScale, fineAt: cells.bytes.count)
        }
        let cells = Cells(
            columns, rows: rows, stages: head.stages, scales: Swift.min(finest, leastScale)...finest,
            room: room - fine.count
        ) { (($0.bytes.count + fine.count + 2) / 3 * 4) + head.size(place($0)) <= limit }
        guard let cells else { return nil }
        body = Base64.encode(cells.bytes + fine)
        header = head.json(place(cells))
    }

    // MARK: The header

    private struct Head {
        struct Place {
            let scale: Int
            let isCoarser: Bool
            let traces: Int
            let hasMoreTraces: Bool
            let fineScale: Int?
            let fineAt: Int

            static let widest = Place(
                scale: -10, isCoarser: false, traces: 3, hasMoreTraces: false, fineScale: 6, fineAt: 1_000_000)
        }

        let grid: HeatmapGrid
        let columns: HeatmapGrid
        let rows: Int
        let hasNames: Bool
        let traceURL: String?
        let stages: [String]

        init(grid: HeatmapGrid, columns: HeatmapGrid, rows: Int, hasNames: Bool, traceURL: String?) {
            (self.grid, self.columns, self.rows) = (grid, columns, rows)
            (self.hasNames, self.traceURL) = (hasNames, traceURL)
            // The row with most stages names them in order.
            stages =
                columns.rows.prefix(rows).map { $0.total.stages }.max { $0.count < $1.count }?.map(\.stage) ?? []
        }

        func json(_ place: Place) -> JSONWriter {
            var json = JSONWriter()
            json.beginObject()
            json.field("quantile", grid.quantile)
            json.field("stage", grid.stage)
            json.field("by", grid.groupName)
            json.field("tz", grid.timeZone)
            json.field("length", columns.windowSeconds)
            json.field("edges", Self.edges(columns.windows))
            if let fineScale = place.fineScale, grid.windows.count > columns.windows.count {
                json.field("fineLength", grid.windowSeconds)
                json.field("fineEdges", Self.edges(grid.windows))
                json.field("fineScale", Int64(fineScale))
                json.field("fineAt", Int64(place.fineAt))
            }
            json.field("scale", Int64(place.scale))
            json.field("traces", Int64(place.traces))
            json.field("isCoarser", place.isCoarser)
            json.field("hasMoreTraces", place.hasMoreTraces)
            json.field("levels", grid.levels)
            json.field("slo", grid.sloNano)
            json.field("sloAt", Int64(PageData.index(ofNanoseconds: grid.sloNano, scale: place.scale)))
            if hasNames { json.field("groups", grid.rows.prefix(rows).map { HeatmapHTML.visible($0.group) }) }
            json.field("stages", stages.map(HeatmapHTML.visible))
            if let traceURL { json.field("traceURL", traceURL) }
            if let comparison = grid.comparison { json.field("compared", HeatmapHTML.visible(comparison)) }
            json.endObject()
            return json
        }

        /// In a page.
        func size(_ place: Place) -> Int {
            var html = PageBytes()
            html.json(json(place).bytes)
            return html.bytes.count
        }

        /// Start of the first, then runs of equal lengths as length and number.
        private static func edges(_ windows: [HeatmapGrid.Window]) -> [Int64] {
            guard let first = windows.first else { return [] }
            var runs = [first.start]
            for window in windows {
                let length = window.end - window.start
                if runs.count > 1, runs[runs.count - 2] == length {
                    runs[runs.count - 1] += 1
                } else {
                    runs += [length, 1]
                }
            }
            return runs
        }
    }

    fileprivate static func index(ofNanoseconds nanoseconds: UInt64, scale: Int) -> Int {
        let position = Swift.max(1, BucketScale.position(nanoseconds: nanoseconds))
        return BucketScale.index(position, shift: 0) >> (BucketScale.scale - scale)
    }

    /// Some rows, spread over all: the rest takes as much in proportion.
    fileprivate static func some(_ rows: Int) -> [Int] { Array(stride(from: 0, to: rows, by: Swift.max(1, rows / 6))) }

    fileprivate static func expected(_ bytes: [UInt8], _ some: [Int], _ rows: Int) -> Int {
        bytes.count * rows / Swift.max(1, some.count)
    }

    fileprivate static func number(_ change: HeatmapGrid.Change?) -> UInt64 {
        switch change?.verdict {
        case .slower: 1
        case .faster: 2
        case .unclear, nil: 0
        }
    }

    // MARK: Cells

    /// The columns' cells, as finely as fits.
    private struct Cells {
        var bytes: [UInt8] = []
        var scale = 0
        var traces = 0
        var hasMoreTraces = false

        /// - Parameters:
        ///   - room: what the bytes will probably have.
        ///   - fits: whether they have it.
        init?(
            _ grid: HeatmapGrid, rows: Int, stages: [String], scales: ClosedRange<Int>, room: Int,
            fits: (Self) -> Bool
        ) {
            let some = PageData.some(rows)
            var sizes: [Int: Int] = [:]
            func size(_ scale: Int) -> Int {
                if let known = sizes[scale] { return known }
                let bytes = Self.encode(grid, rows: some, scale: scale, traces: 0, stages: stages)
                let size = PageData.expected(bytes, some, rows)
                sizes[scale] = size
                return size
            }
            let held = some.flatMap { row in
                grid.rows[row].cells.map { $0?.slowest.count ?? 0 } + [grid.rows[row].total.slowest.count]
            }
            let most = held.max() ?? 0
            for number in [3, 1, 0] where number <= 1 || most > 1 {
                // Of a trace nothing can be guessed: 16 bytes, and its latency in one more or two.
                let ids =
                    held.reduce(0) { $0 + Swift.min(number, $1) } * 18 * rows / Swift.max(1, some.count)
                guard ids < room else { continue }
                // With much coarser buckets, traces are worth less than buckets.
                let scales = number == 0 ? scales : Swift.min(scales.upperBound, 3)...scales.upperBound
                // A few rows take more in proportion than all, whose chances are known better.
                guard let probable = Self.finest(of: scales, where: { size($0) * 15 / 16 + ids <= room })
                else { continue }
                (traces, hasMoreTraces) = (number, number < Swift.min(3, most))
                for scale in stride(from: probable, through: scales.lowerBound, by: -1) {
                    self.scale = scale
                    bytes = Self.encode(grid, rows: Array(0..<rows), scale: scale, traces: number, stages: stages)
                    if fits(self) { return }
                }
            }
            return nil
        }

        /// The finer, the larger: by halves.
        private static func finest(of scales: ClosedRange<Int>, where fits: (Int) -> Bool) -> Int? {
            if fits(scales.upperBound) { return scales.upperBound }
            var (low, high) = (scales.lowerBound - 1, scales.upperBound)
            while low + 1 < high {
                let middle = (low + high) / 2
                if fits(middle) { low = middle } else { high = middle }
            }
            return low < scales.lowerBound ? nil : low
        }

        static func encode(_ grid: HeatmapGrid, rows: [Int], scale: Int, traces: Int, stages: [String]) -> [UInt8] {
            var coder = RangeEncoder(models: CellCoder.models + stages.count)
            var cell = CellCoder(
                scale: scale, traces: traces, stages: stages,
                sloAt: PageData.index(ofNanoseconds: grid.sloNano, scale: scale), &coder)
            for row in rows { cell.encode(grid.rows[row], hasBaseline: grid.comparison != nil, &coder) }
            return coder.finish()
        }
    }

    private struct CellCoder: ~Copyable {
        typealias Model = RangeEncoder.Model
        static let models = 14 + 2 * RowBuckets.models

        let scale: Int
        let traces: Int
        let stages: [String]
        let sloAt: Int
        var buckets: RowBuckets
        var baseline: RowBuckets
        let presence, exactness, count, over, late, state, mask, traceCount, verdict: Model
        var bucket, quantile, largest, mean, traceLatency: Model
        var percent: [Model]

        init(scale: Int, traces: Int, stages: [String], sloAt: Int, _ coder: inout RangeEncoder) {
            (self.scale, self.traces, self.stages, self.sloAt) = (scale, traces, stages, sloAt)
            buckets = RowBuckets(scale: scale, &coder)
            baseline = RowBuckets(scale: scale, &coder)
            (presence, exactness, count, over) = (coder.model(), coder.model(), coder.model(), coder.model())
            (late, state, mask, traceCount) = (coder.model(), coder.model(), coder.model(), coder.model())
            (verdict, bucket, quantile, largest) = (coder.model(), coder.model(), coder.model(), coder.model())
            (mean, traceLatency) = (coder.model(), coder.model())
            percent = stages.map { _ in coder.model() }
        }

        mutating func encode(_ row: HeatmapGrid.Row, hasBaseline: Bool, _ coder: inout RangeEncoder) {
            buckets.collect(row.cells)
            buckets.encodeTotal(&coder)
            let above = buckets.totalAbove(index: sloAt)
            if hasBaseline {
                baseline.collect(row.baseline.isEmpty ? row.cells.map { _ in nil } : row.baseline)
                baseline.encodeTotal(&coder)
            }
            for (column, cell) in row.cells.enumerated() {
                coder.number(cell == nil ? 0 : 1, presence)
                if let cell {
                    let counts = buckets.count(cell: column, above: sloAt)
                    coder.number(counts.all, count)
                    buckets.encode(cell: column, count: counts.all, &coder)
                    encode(cell, above: counts.above, &coder)
                }
                guard hasBaseline else { continue }
                let old = row.baseline.isEmpty ? nil : row.baseline[column]
                coder.number(old == nil ? 0 : 1, presence)
                guard let old else { continue }
                coder.number(PageData.number(cell?.change), verdict)
                let all = baseline.count(cell: column, above: sloAt).all
                coder.number(all, count)
                baseline.encode(cell: column, count: all, &coder)
                encodeValues(old, &coder)
            }
            encode(row.total, above: above, &coder)
            guard hasBaseline else { return }
            coder.number(row.baselineTotal == nil ? 0 : 1, presence)
            guard let old = row.baselineTotal else { return }
            coder.number(PageData.number(row.total.change), verdict)
            encodeValues(old, &coder)
        }

        private mutating func encode(_ cell: HeatmapGrid.Cell, above: UInt64, _ coder: inout RangeEncoder) {
            encodeValues(cell, &coder)
            coder.signed(Int(Swift.min(cell.overSLO, 1 << 52)) - Int(above), over)
            coder.number(cell.late, late)
            coder.number(cell.state == .open ? 0 : cell.state == .final ? 1 : 2, state)
            if !stages.isEmpty {
                let own = cell.stages
                func place(_ share: HeatmapGrid.StageShare) -> Int { stages.firstIndex(of: share.stage) ?? 0 }
                coder.number(own.reduce(0) { $0 | 1 << UInt64(place($1)) }, mask)
                for share in own.dropLast() { coder.near(share.percent, &percent[place(share)]) }
                coder.figure(cell.sumNano / Swift.max(cell.count, 1), bits: 8, &mean)
            }
            guard traces > 0 else { return }
            let kept = cell.slowest.prefix(traces)
            coder.number(UInt64(kept.count), traceCount)
            for trace in kept {
                coder.figure(trace.latencyNano, bits: 10, &traceLatency)
                coder.raw(trace.high, bits: 64)
                coder.raw(trace.low, bits: 64)
            }
        }

        private mutating func encodeValues(_ cell: HeatmapGrid.Cell, _ coder: inout RangeEncoder) {
            let position = BucketScale.position(nanoseconds: cell.quantileNano)
            if position > 0, BucketScale.representative(position) == cell.quantileNano {
                coder.number(0, exactness)
                coder.near(BucketScale.index(position, shift: 0), &bucket)
            } else {
                coder.number(1, exactness)
                coder.figure(cell.quantileNano, &quantile)
            }
            coder.figure(cell.maxNano, bits: 10, &largest)
        }
    }

    // MARK: Windows

    private static func windows(_ grid: HeatmapGrid, rows: [Int], scale: Int) -> [UInt8] {
        var coder = RangeEncoder(models: 4)
        var (counts, figures) = (coder.model(), coder.model())
        let (levels, verdicts) = (coder.model(), coder.model())
        for row in rows {
            coder.restart(&counts)
            coder.restart(&figures)
            for cell in grid.rows[row].cells {
                let count = cell?.count ?? 0
                coder.near(scale < BucketScale.scale ? step(count) : Int(Swift.min(count, 1 << 40)), &counts)
                guard let cell, cell.count >= HeatmapGrid.noSample else { continue }
                let index = index(ofNanoseconds: cell.quantileNano, scale: scale)
                coder.near(index, &figures)
                // The colour is always the true one.
                let lowest = Self.level(index, scale, grid.levels)
                if Self.level(index + 1, scale, grid.levels) > lowest {
                    coder.number(UInt64(Swift.max(0, cell.level.number - lowest)), levels)
                }
                if grid.comparison != nil { coder.number(number(cell.change), verdicts) }
            }
        }
        return coder.finish()
    }

    /// Of what is just above the lower edge of a bucket.
    private static func level(_ index: Int, _ scale: Int, _ levels: [UInt64]) -> Int {
        let edge = exp2(Double(index) / Double(1 << scale)) * 1e9
        return levels.count { edge >= Double($0) }
    }

    /// Exact below 20; from there on four steps for each doubling, and one more at 59: what is a low sample stays one.
    private static func step(_ count: UInt64) -> Int {
        guard count >= HeatmapGrid.noSample else { return Int(count) }
        let length = 64 - count.leadingZeroBitCount
        let step = (length - 5) * 4 + Int(count >> UInt64(length - 3) & 3)
        return 19 + step + (count >= HeatmapGrid.lowSample ? 1 : 0)
    }
}

extension HeatmapGrid.Cell {
    fileprivate var sumNano: UInt64 {
        switch content {
        case .packed(let cell, _): cell.sumAndMax.sum
        case .sum(let sum): sum.sketch.sum
        }
    }

    fileprivate var sketchScale: Int {
        switch content {
        case .packed(let cell, _): cell.isExact ? BucketScale.scale : BucketScale.scale - cell.buckets().shift
        case .sum(let sum): sum.sketch.scale
        }
    }
}
