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

    public struct StageShare: Sendable, Equatable {
        public let stage: String
        /// Mean time in this stage alone, in nanoseconds.
        public let meanNano: UInt64
        /// Of the means' sum, from 0 to 1.
        public let share: Double
    }

    public struct Cell: Sendable {
        public let count: UInt64
        public let quantileNano: UInt64
        public let p50Nano: UInt64
        public let p90Nano: UInt64
        public let p95Nano: UInt64
        public let p99Nano: UInt64
        public let maxNano: UInt64
        public let overSLO: UInt64
        public let late: UInt64
        public let level: LatencyLevel
        public let state: State
        /// Slowest first.
        public let slowest: [SlowTrace]
        /// In the order of the event's way; empty when it is not known.
        public let stages: [StageShare]
    }

    public struct Row: Sendable {
        public let group: String
        /// One for each window; nil where no latency ended.
        public let cells: [Cell?]
        /// Over all windows of the grid, from the merged sketches.
        public let total: Cell
    }

    public let quantile: Double
    public let stage: String
    public let windows: [Window]
    /// Length of a column in seconds.
    public let windowSeconds: Int64
    public let rows: [Row]
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
    public let timeZone: String
    /// Set when too many groups came, and how many latencies are in the row `(other)`.
    public let overflowed: UInt64

    let civil: CivilTime

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

// MARK: Building

extension HeatmapGrid {
    static func build(from engine: HeatmapEngine, query: HeatmapQuery) throws(HeatmapError) -> HeatmapGrid {
        func invalid(_ cause: String) -> HeatmapError { HeatmapQuery.invalid(cause) }
        try query.validate()
        let settings = engine.configuration
        if let by = query.by, !settings.groupBy.contains(by) {
            throw invalid("by: groups are made from \(settings.groupBy.joined(separator: ", ")), not from \"\(by)\"")
        }
        guard let civil = CivilTime(named: query.timeZone) else {
            throw invalid("tz: \"\(query.timeZone)\" is no zone")
        }
        let base = Int64(engine.windowNano / 1_000_000_000)
        let asked = query.window.map { Int64($0.nanoseconds / 1_000_000_000) }
        guard (asked ?? base) >= base, (asked ?? base) % base == 0,
            (query.window?.nanoseconds ?? 0) % 1_000_000_000 == 0
        else {
            throw invalid(
                "window: \(query.window ?? .zero) is not a multiple of \(base)s, the length of the windows kept")
        }

        // The range, in base windows.
        let (indices, latest, overflowed) = engine.locked { state in
            (state.planes.keys.sorted(), state.latestUnixNano, state.ledger.overflowed)
        }
        let now = settings.lateness == nil ? latest : settings.now()
        func second(_ bound: HeatmapQuery.TimeBound) -> Int64 {
            switch bound {
            case .unixNano(let moment): Int64(moment / 1_000_000_000)
            case .ago(let age): Int64((now - Swift.min(now, age.nanoseconds)) / 1_000_000_000)
            }
        }
        let until = query.until.map(second) ?? .max
        let last = indices.last { $0 * base < until } ?? 0
        let isWhole = query.since == nil && settings.lateness == nil
        let since = query.since.map(second) ?? (isWhole ? .min / 2 : Self.start(last * base, 59, asked ?? base, civil))
        guard since < until else {
            throw invalid("since: \(civil.rfc3339(since)) is not before until, \(civil.rfc3339(until))")
        }
        let chosen = indices.filter { ($0 + 1) * base > since && $0 * base < until }
        let length = asked ?? Self.length(for: ((chosen.last ?? 0) - (chosen.first ?? 0) + 1) * base, base: base)
        if let first = chosen.first, let last = chosen.last, (last - first) * base / length >= HeatmapQuery.maxWindows {
            throw invalid(
                "window: \((last - first) * base / length + 1) windows are more than \(HeatmapQuery.maxWindows); "
                    + "give a longer --window or a shorter range")
        }

        let reading = engine.read(from: (chosen.first ?? 0) * base, until: ((chosen.last ?? -1) + 1) * base)
        let (stageNames, groupNames) = (reading.stageNames, reading.groupNames)
        let stageNumbers = Dictionary(stageNames.enumerated().map { ($1, $0) }, uniquingKeysWith: { first, _ in first })
        let chain = settings.stageChain.compactMap { stageNumbers[$0] }
        var wanted = Set(chain)
        if let stage = query.stage {
            guard let number = stageNumbers[stage] else {
                throw invalid(
                    "stage: \"\(stage)\" has not occurred; there are "
                        + stageNames.dropFirst().sorted().joined(separator: ", "))
            }
            wanted.insert(number)
        } else {
            wanted.formUnion([1, HeatmapEngine.foreignStage])
        }
        let mask = wanted.reduce(UInt64(0)) { $0 | 1 << UInt64($1) }
        func has(_ stage: Int) -> Bool {
            reading.windows.contains { window in
                var cells = window.cells
                return cells.next(stages: 1 << UInt64(stage)) != nil
            }
        }
        let stage =
            query.stage.flatMap { stageNumbers[$0] }
            ?? (has(1) || !has(HeatmapEngine.foreignStage) ? 1 : HeatmapEngine.foreignStage)

        var builder = Builder(
            stage: stage, chain: chain, stageNames: stageNames, query: query, length: length, base: base, civil: civil,
            now: now, lateness: settings.lateness?.nanoseconds)
        for window in reading.windows { builder.add(window, stages: mask) }
        let all = builder.rows(groupNames)
        let kept = query.limit.map { Array(all.prefix($0)) } ?? all
        return HeatmapGrid(
            quantile: query.quantile, stage: stageNames[stage], windows: builder.windows, windowSeconds: length,
            rows: kept, omittedRows: all.count - kept.count,
            count: all.reduce(0) { $0.saturatingAdding($1.total.count) },
            late: all.reduce(0) { $0.saturatingAdding($1.total.late) },
            relativeError: all.contains { $0.total.count > UInt64(Sketch.exactLimit) } ? BucketScale.relativeError : 0,
            levels: query.levels.map(\.nanoseconds), sloNano: (query.slo ?? query.levels[2]).nanoseconds,
            groupBy: settings.groupBy, timeZone: query.timeZone,
            overflowed: all.contains { $0.group == NameTable.overflowName } ? overflowed : 0, civil: civil)
    }

    /// Start of the column that lies so many before the one of a moment. Columns of a day may differ by an hour.
    private static func start(_ second: Int64, _ columns: Int64, _ length: Int64, _ civil: CivilTime) -> Int64 {
        let start = civil.windowStart(second, length: length)
        return civil.windowStart(start - columns * length + length / 2, length: length)
    }

    /// The shortest usual length that gives at most 60 columns.
    private static func length(for range: Int64, base: Int64) -> Int64 {
        let usual: [Int64] = [60, 300, 900, 3_600, 21_600, 86_400]
        if range / base <= 60 { return base }
        return usual.first { $0 % base == 0 && range / $0 <= 60 } ?? (range / 60 / 86_400 + 1) * 86_400
    }

    private struct Builder {
        let stage: Int
        let chain: [Int]
        let stageNames: [String]
        let query: HeatmapQuery
        let length: Int64
        /// Length of the windows that are kept.
        let base: Int64
        let civil: CivilTime
        let now: UInt64
        /// For so long after its end a window may still get latencies that are not late; nil: all are final.
        let lateness: UInt64?
        private(set) var windows: [Window] = []
        /// For each column, by group, then stage.
        private var columns: [[Int: [Int: CellSum]]] = []

        init(
            stage: Int, chain: [Int], stageNames: [String], query: HeatmapQuery, length: Int64, base: Int64,
            civil: CivilTime, now: UInt64, lateness: UInt64?
        ) {
            self.stage = stage
            self.chain = chain
            self.stageNames = stageNames
            self.query = query
            self.length = length
            self.base = base
            self.civil = civil
            self.now = now
            self.lateness = lateness
        }

        /// A zone's window ends inside of one that is kept when that one is longer than the zone's offset can be divided
        /// by; then all of it belongs to the column in which it begins.
        private func keptWindow(from second: Int64) -> Int64 { CivilTime.floor(second + base - 1, base) }

        mutating func add(_ plane: PackedPlane, stages: UInt64) {
            let second = plane.start
            // Columns without a latency are there too: a gap in time must look like one.
            while windows.last.map({ $0.end <= second }) ?? true {
                let start = windows.last?.end ?? keptWindow(from: civil.windowStart(second, length: length))
                let end = keptWindow(from: civil.windowEnd(start, length: length))
                windows.append(Window(start: start, end: Swift.max(end, start + base)))
                columns.append([:])
            }
            let column = columns.count - 1
            var cells = plane.cells
            while let cell = cells.next(stages: stages) {
                columns[column][cell.group, default: [:]][cell.stage, default: CellSum()].add(cell)
            }
        }

        func rows(_ names: [String]) -> [Row] {
            let groups = Set(columns.flatMap { $0.compactMap { $1[stage] == nil ? nil : $0 } }).filter {
                // By bytes: one sender's name must not begin with half a character of the prefix.
                names[$0].utf8.starts(with: query.groupPrefix.utf8)
            }
            let rows = groups.compactMap { group -> (isOverflow: Bool, row: Row)? in
                var total: [Int: CellSum] = [:]
                let cells = columns.indices.map { column -> Cell? in
                    guard let stages = columns[column][group] else { return nil }
                    for (stage, content) in stages { total[stage, default: CellSum()].add(content) }
                    return cell(stages, windows[column])
                }
                guard let all = cell(total, windows.last) else { return nil }
                let name = String(decoding: names[group].utf8.dropFirst(query.groupPrefix.utf8.count), as: UTF8.self)
                return (group == 0, Row(group: name, cells: cells, total: all))
            }
            return rows.sorted { a, b in
                // What did not fit comes last, whatever the order.
                if a.isOverflow != b.isOverflow { return b.isOverflow }
                switch query.order {
                case .slowest where a.row.total.quantileNano != b.row.total.quantileNano:
                    return a.row.total.quantileNano > b.row.total.quantileNano
                case .count where a.row.total.count != b.row.total.count:
                    return a.row.total.count > b.row.total.count
                default: return NaturalOrder.precedes(a.row.group, b.row.group)
                }
            }.map(\.row)
        }

        private func cell(_ stages: [Int: CellSum], _ window: Window?) -> Cell? {
            guard let content = stages[stage] else { return nil }
            let sketch = content.sketch
            guard let value = sketch.quantile(query.quantile) else { return nil }
            let levels = query.levels.map(\.nanoseconds)
            let (end, overflow) = UInt64(Swift.max(0, window?.end ?? 0)).multipliedReportingOverflow(by: 1_000_000_000)
            let isOpen = lateness.map { (overflow ? .max : end.saturatingAdding($0)) >= now } ?? false
            return Cell(
                count: sketch.count, quantileNano: value, p50Nano: sketch.quantile(0.5) ?? 0,
                p90Nano: sketch.quantile(0.9) ?? 0, p95Nano: sketch.quantile(0.95) ?? 0,
                p99Nano: sketch.quantile(0.99) ?? 0, maxNano: sketch.max,
                overSLO: sketch.countAbove(nanoseconds: (query.slo ?? query.levels[2]).nanoseconds), late: content.late,
                level: LatencyLevel.allCases[levels.count { value >= $0 }],
                state: content.late > 0 ? .revised : isOpen ? .open : .final, slowest: content.exemplars.traces,
                stages: shares(stages))
        }

        /// Own time of each stage up to the one that is shown: parts as they are, the others less what came before.
        private func shares(_ stages: [Int: CellSum]) -> [StageShare] {
            guard let end = chain.firstIndex(of: stage) else { return [] }
            var before = 0.0
            var own: [(stage: Int, mean: Double)] = []
            for number in chain[...end] {
                guard let content = stages[number] else { continue }
                guard content.sketch.count > 0 else { continue }
                let mean = Double(content.sketch.sum) / Double(content.sketch.count)
                if content.isPart {
                    own.append((number, mean))
                    before += mean
                } else {
                    own.append((number, Swift.max(0, mean - before)))
                    before = Swift.max(before, mean)
                }
            }
            // One stage alone is no breakdown.
            guard own.count > 1 else { return [] }
            let sum = own.reduce(0) { $0 + $1.mean }
            return own.map {
                StageShare(
                    stage: stageNames[$0.stage], meanNano: UInt64($0.mean.rounded()),
                    share: sum > 0 ? $0.mean / sum : 0)
            }
        }
    }
}

/// Names with numbers in them in the order of the numbers: `iOS-9` before `iOS-15`.
enum NaturalOrder {
    static func precedes(_ a: String, _ b: String) -> Bool {
        var left = Substring(a)
        var right = Substring(b)
        while let x = left.first, let y = right.first {
            if x.isASCII, y.isASCII, x.isNumber, y.isNumber {
                let m = left.prefix { $0.isASCII && $0.isNumber }
                let n = right.prefix { $0.isASCII && $0.isNumber }
                let (p, q) = (m.drop { $0 == "0" }, n.drop { $0 == "0" })
                if p.count != q.count { return p.count < q.count }
                if p != q { return p < q }
                left = left.dropFirst(m.count)
                right = right.dropFirst(n.count)
            } else {
                if x != y { return x < y }
                left = left.dropFirst()
                right = right.dropFirst()
            }
        }
        return left.isEmpty && (!right.isEmpty || a < b)
    }
}
