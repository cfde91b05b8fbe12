import Glibc
import OTLP

/// What the page's script works with: the grid's sketches, so that it can answer for another quantile or longer windows by
/// merging them, as the engine does.
///
/// `header` is JSON; `body` is base64 of a range-coded stream (`RangeEncoder`), read in this order:
///
///     for each group, each column and then the total of its columns:
///       1 or 0: whether there is anything; then
///       the quantile: 0 and its bucket at scale 6, or 1 and all bits of its ns | largest in ns, 11 bits
///       latencies over the SLO | late | state 0 open 1 final 2 revised
///       zeros | buckets in use, and for each the distance from the one before and its count less one
///       when the grid has stages: which of them, as a number's bits, and the percents of all but the last;
///       the mean of the whole in ns, 9 bits
///       traces, and for each its latency in ns, 11 bits, and its 16 bytes
///       in a comparison, what it is compared with: 1 or 0: whether there is anything; then
///       0 unclear 1 slower 2 faster | quantile and largest | zeros and buckets, all as above
///     when the grid's windows were joined for the columns, for each group and each of the windows:
///       latencies | from 20 on: bucket of the quantile, and its level where a level begins inside of the bucket;
///       in a comparison 0 unclear 1 slower 2 faster
///
/// Buckets are OpenTelemetry's indices at the scale that the header names. Scale, number of traces and the precision of the
/// windows are the finest for which the body probably fits its limit: that is reckoned from some of the rows.
struct PageData {
    let header: JSONWriter
    let body: String

    /// - Parameters:
    ///   - columns: the grid of the page's table; `grid` itself unless it has too many windows for a table.
    ///   - limit: of the body's bytes.
    init(grid: HeatmapGrid, columns: HeatmapGrid, rows: Int, traceURL: String?, limit: Int) {
        let isJoined = grid.windows.count > columns.windows.count
        let all = Array(0..<rows)
        // A tenth of the rows, spread over all.
        let some = all.filter { $0 % 10 == 0 }
        func expected(_ bytes: [UInt8]) -> Int { bytes.count * rows / Swift.max(1, some.count) }

        var fine: [UInt8] = []
        var fineScale = BucketScale.scale
        if isJoined {
            fineScale =
                stride(from: BucketScale.scale, to: 0, by: -1).first {
                    expected(Self.windows(grid, rows: some, scale: $0)) <= limit * 3 / 4
                } ?? 0
            fine = Self.windows(grid, rows: all, scale: fineScale)
        }
        // Sketches that came coarser stay so.
        let finest = columns.rows.prefix(rows).reduce(BucketScale.scale) { Swift.min($0, $1.total.sketch.scale) }
        let sizes = stride(from: finest, through: Swift.min(finest, 2), by: -1).map {
            (scale: $0, bytes: expected(Self.cells(columns, rows: some, scale: $0, traces: 0)))
        }
        var (scale, traces) = (Swift.min(finest, 2), 0)
        search: for number in [3, 1, 0] {
            // Of a trace nothing can be guessed: 16 bytes, and its latency in one more or two.
            let ids = some.reduce(0) { sum, row in
                let cells = columns.rows[row].cells + [columns.rows[row].total]
                return cells.reduce(sum) { $0 + Swift.min(number, $1?.slowest.count ?? 0) }
            }
            for size in sizes where number == 0 || size.scale > 2 {
                guard size.bytes + ids * 18 * rows / Swift.max(1, some.count) <= limit - fine.count else { continue }
                (scale, traces) = (size.scale, number)
                break search
            }
        }
        let coarse = Self.cells(columns, rows: all, scale: scale, traces: traces)
        body = Base64.encode(coarse + fine)

        var json = JSONWriter()
        json.beginObject()
        json.field("quantile", grid.quantile)
        json.field("stage", grid.stage)
        json.field("by", grid.groupName)
        json.field("tz", grid.timeZone)
        json.field("length", columns.windowSeconds)
        json.field("edges", Self.edges(columns.windows))
        if isJoined {
            json.field("fineLength", grid.windowSeconds)
            json.field("fineEdges", Self.edges(grid.windows))
            json.field("fineScale", Int64(fineScale))
            json.field("fineAt", Int64(coarse.count))
        }
        json.field("scale", Int64(scale))
        json.field("traces", Int64(traces))
        json.field("levels", grid.levels)
        json.field("slo", grid.sloNano)
        json.field("groups", grid.rows.prefix(rows).map { HeatmapHTML.visible($0.group) })
        json.field("stages", Self.stageNames(columns, rows).map(HeatmapHTML.visible))
        if let traceURL { json.field("traceURL", traceURL) }
        if let comparison = grid.comparison { json.field("compared", HeatmapHTML.visible(comparison)) }
        json.endObject()
        header = json
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

    private static func stageNames(_ grid: HeatmapGrid, _ rows: Int) -> [String] {
        // The row with most stages names them in order.
        let longest = grid.rows.prefix(rows).max { $0.total.stages.count < $1.total.stages.count }
        return longest?.total.stages.map(\.stage) ?? []
    }

    // MARK: Cells

    private static func cells(_ grid: HeatmapGrid, rows: [Int], scale: Int, traces: Int) -> [UInt8] {
        var coder = RangeEncoder()
        var cell = CellCoder(scale: scale, traces: traces, stages: stageNames(grid, grid.rows.count))
        for row in rows.map({ grid.rows[$0] }) {
            for (column, each) in row.cells.enumerated() {
                cell.encode(each, &coder)
                guard grid.comparison != nil else { continue }
                cell.encode(baseline: row.baseline.isEmpty ? nil : row.baseline[column], each?.change, &coder)
            }
            cell.encode(row.total, &coder)
            if grid.comparison != nil { cell.encode(baseline: row.baselineTotal, row.total.change, &coder) }
        }
        return coder.finish()
    }

    private struct CellCoder {
        typealias Model = RangeEncoder.Model
        let scale: Int
        let traces: Int
        let stages: [String]
        var presence = Model(), exactness = Model(), bucket = Model(), quantile = Model(), largest = Model()
        var over = Model(), late = Model(), state = Model(), zeros = Model(), used = Model(), first = Model()
        var gap = Model(), few = Model(), many = Model(), mask = Model(), percent = Model(), mean = Model()
        var traceCount = Model(), traceLatency = Model(), before = Model(), verdict = Model()

        mutating func encode(_ cell: HeatmapGrid.Cell?, _ coder: inout RangeEncoder) {
            coder.number(cell == nil ? 0 : 1, &presence)
            guard let cell else { return }
            let sketch = cell.sketch
            encodeValues(cell.quantileNano, sketch.max, &coder)
            coder.number(cell.overSLO, &over)
            coder.number(cell.late, &late)
            coder.number(cell.state == .open ? 0 : cell.state == .final ? 1 : 2, &state)
            encodeBuckets(sketch, &coder)
            if !stages.isEmpty {
                let own = cell.stages
                coder.number(own.reduce(0) { $0 | 1 << UInt64(stages.firstIndex(of: $1.stage) ?? 0) }, &mask)
                for stage in own.dropLast() { coder.number(UInt64(stage.percent), &percent) }
                coder.figure(sketch.sum / sketch.count, bits: 8, &mean)
            }
            guard traces > 0 else { return }
            let kept = cell.slowest.prefix(traces)
            coder.number(UInt64(kept.count), &traceCount)
            for trace in kept {
                coder.figure(trace.latencyNano, bits: 10, &traceLatency)
                coder.raw(trace.high, bits: 64)
                coder.raw(trace.low, bits: 64)
            }
        }

        mutating func encode(
            baseline: HeatmapGrid.Cell?, _ change: HeatmapGrid.Change?, _ coder: inout RangeEncoder
        ) {
            coder.number(baseline == nil ? 0 : 1, &before)
            guard let baseline else { return }
            coder.number(PageData.number(change), &verdict)
            let sketch = baseline.sketch
            encodeValues(baseline.quantileNano, sketch.max, &coder)
            encodeBuckets(sketch, &coder)
        }

        private mutating func encodeValues(_ quantileNano: UInt64, _ max: UInt64, _ coder: inout RangeEncoder) {
            let position = BucketScale.position(nanoseconds: quantileNano)
            if position > 0, BucketScale.representative(position) == quantileNano {
                coder.number(0, &exactness)
                coder.near(BucketScale.index(position, shift: 0), &bucket)
            } else {
                coder.number(1, &exactness)
                coder.figure(quantileNano, &quantile)
            }
            coder.figure(max, bits: 10, &largest)
        }

        private mutating func encodeBuckets(_ sketch: Sketch, _ coder: inout RangeEncoder) {
            let (zeroCount, buckets) = PageData.buckets(sketch, scale: scale)
            coder.number(zeroCount, &zeros)
            coder.number(UInt64(buckets.count), &used)
            var previous: Int?
            for (index, count) in buckets {
                if let previous {
                    coder.number(UInt64(index - previous - 1), &gap)
                } else {
                    coder.near(index, &first)
                }
                previous = index
                if buckets.count > 16 { coder.number(count - 1, &many) } else { coder.number(count - 1, &few) }
            }
        }
    }

    /// OpenTelemetry's indices at a scale, ascending, and how many values are zero.
    private static func buckets(_ sketch: Sketch, scale: Int) -> (zeros: UInt64, [(index: Int, count: UInt64)]) {
        var zeros: UInt64 = 0
        var found: [(index: Int, count: UInt64)] = []
        for (position, count) in sketch.buckets {
            guard position > 0 else {
                zeros = count
                continue
            }
            let index = BucketScale.index(position, shift: sketch.shift) >> Swift.max(0, sketch.scale - scale)
            if found.last?.index == index {
                found[found.count - 1].count = found[found.count - 1].count.saturatingAdding(count)
            } else {
                found.append((index, count))
            }
        }
        return (zeros, found)
    }

    private static func number(_ change: HeatmapGrid.Change?) -> UInt64 {
        switch change?.verdict {
        case .slower: 1
        case .faster: 2
        case .unclear, nil: 0
        }
    }

    // MARK: Windows

    private static func windows(_ grid: HeatmapGrid, rows: [Int], scale: Int) -> [UInt8] {
        var coder = RangeEncoder()
        var (counts, figures, levels) = (RangeEncoder.Model(), RangeEncoder.Model(), RangeEncoder.Model())
        var verdicts = RangeEncoder.Model()
        for row in rows {
            coder.restart(&counts)
            coder.restart(&figures)
            for cell in grid.rows[row].cells {
                let count = cell?.count ?? 0
                coder.near(scale < BucketScale.scale ? step(count) : Int(Swift.min(count, 1 << 40)), &counts)
                guard let cell, cell.count >= HeatmapGrid.noSample else { continue }
                let position = Swift.max(1, BucketScale.position(nanoseconds: cell.quantileNano))
                let index = BucketScale.index(position, shift: 0) >> (BucketScale.scale - scale)
                coder.near(index, &figures)
                // The colour is always the true one.
                let lowest = Self.level(index, scale, grid.levels)
                if Self.level(index + 1, scale, grid.levels) > lowest {
                    coder.number(UInt64(Swift.max(0, cell.level.number - lowest)), &levels)
                }
                if grid.comparison != nil { coder.number(number(cell.change), &verdicts) }
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
