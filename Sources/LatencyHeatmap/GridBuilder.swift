extension HeatmapGrid {
    static func build(from engine: HeatmapEngine, query: HeatmapQuery) throws(HeatmapError) -> HeatmapGrid {
        try GridBuilder(engine: engine, query: query).grid()
    }
}

/// From a question to a grid: chooses the view, the range and its columns, reads, and compares.
struct GridBuilder {
    let engine: HeatmapEngine
    let query: HeatmapQuery
    let civil: CivilTime
    /// Number of the engine's view.
    let view: Int
    /// Attributes whose values name the rows; nil: as the view has them.
    let by: [String]?
    /// What attributes of the view must be.
    let filter: [(attribute: String, value: String)]
    /// Length of a window that is kept, in seconds.
    let base: Int64
    private let asked: Int64?

    static func invalid(_ cause: String) -> HeatmapError { HeatmapQuery.invalid(cause) }

    init(engine: HeatmapEngine, query: HeatmapQuery) throws(HeatmapError) {
        try query.validate()
        guard let civil = CivilTime(named: query.timeZone) else {
            throw Self.invalid("tz: \"\(query.timeZone)\" is no zone")
        }
        (self.engine, self.query, self.civil) = (engine, query, civil)
        base = Int64(engine.windowNano / 1_000_000_000)
        asked = query.window.map { Int64($0.nanoseconds / 1_000_000_000) }
        guard (asked ?? base) >= base, (asked ?? base) % base == 0,
            (query.window?.nanoseconds ?? 0) % 1_000_000_000 == 0
        else {
            throw Self.invalid(
                "window: \(query.window ?? .zero) is not a multiple of \(base)s, the length of the windows kept")
        }
        filter = query.filters.map { ($0.attribute, $0.value) }
        (view, by) = try Self.choose(from: engine.views, query)
    }

    /// The view with the fewest attributes that has all that the question names.
    private static func choose(
        from views: [HeatmapView], _ query: HeatmapQuery
    ) throws(HeatmapError) -> (view: Int, by: [String]?) {
        var wanted = query.filters.map(\.attribute)
        if case .values(let attribute, _, _) = query.comparison { wanted.append(attribute) }
        guard query.by != nil || !wanted.isEmpty else { return (0, nil) }
        let by: [String]
        if let text = query.by {
            guard let parsed = HeatmapView(parsing: text) else {
                throw invalid("by: \"\(text)\" is neither an attribute nor a pair such as tenant.id+device.group")
            }
            by = parsed.attributes
        } else {
            by = [views[0].attributes[0]]
        }
        let needed = Set(by + wanted)
        let number = views.indices.filter { needed.isSubset(of: views[$0].attributes) }
            // The first that is there of several names a group, so that its others cannot be told apart.
            .filter { needed.count == 1 || !views[$0].takesFirst }
            .min { views[$0].attributes.count < views[$1].attributes.count }
        guard let number else {
            let name = query.by == nil ? "where" : "by"
            throw invalid(
                "\(name): groups are made from \(views.map(\.description).joined(separator: ", ")), not from "
                    + "\"\(needed.sorted().joined(separator: "+"))\"; add it to what the heatmap groups by")
        }
        return (number, views[number].takesFirst ? nil : by)
    }

    // MARK: The range

    struct Range {
        let since: Int64
        let until: Int64
        var columns: [HeatmapGrid.Window]
        let length: Int64
    }

    func grid() throws(HeatmapError) -> HeatmapGrid {
        let settings = engine.configuration
        let reading = engine.read(view: view, from: .max)
        let now = reading.nowUnixNano
        let range = try range(now)
        let shown = try rows(range, now, comparison(side: .shown))
        var rows = shown.rows
        if let comparison = query.comparison {
            let baseline = try self.rows(try baseline(range, comparison, now), now, self.comparison(side: .baseline))
            compare(&rows, with: baseline.rows)
        }
        let all = ordered(rows)
        let kept = query.limit.map { Array(all.prefix($0)) } ?? all
        return HeatmapGrid(
            quantile: query.quantile, stage: shown.stage, windows: range.columns, windowSeconds: range.length,
            rows: kept, omittedRows: all.count - kept.count,
            count: all.reduce(0) { $0.saturatingAdding($1.total.count) },
            late: all.reduce(0) { $0.saturatingAdding($1.total.late) },
            relativeError: all.reduce(0) { Swift.max($0, $1.total.relativeError) }, levels: measure.levels,
            sloNano: measure.sloNano, groupBy: by ?? engine.views[view].attributes, groupName: groupName,
            timeZone: query.timeZone,
            overflowed: rows.contains(where: \.isOverflow) ? shown.overflowed : 0,
            filters: query.appliedFilters + filter.map { "\($0.attribute)=\($0.value)" },
            comparison: query.comparison?.description,
            isLive: settings.lateness != nil, civil: civil, measure: measure)
    }

    var groupName: String {
        let view = engine.views[view]
        return by?.joined(separator: "+") ?? (view.takesFirst ? view.attributes[0] : view.description)
    }

    private var measure: HeatmapGrid.Measure {
        HeatmapGrid.Measure(
            quantile: query.quantile, levels: query.levels.map(\.nanoseconds),
            sloNano: (query.slos.first ?? query.levels[2]).nanoseconds)
    }

    func second(_ bound: HeatmapQuery.TimeBound, _ now: UInt64) -> Int64 {
        switch bound {
        case .unixNano(let moment): Int64(moment / 1_000_000_000)
        case .ago(let age): Int64((now - Swift.min(now, age.nanoseconds)) / 1_000_000_000)
        }
    }

    func range(_ now: UInt64) throws(HeatmapError) -> Range {
        let windows = engine.windows(view: view)
        let until = query.until.map { second($0, now) } ?? .max
        let last = windows.last { $0.start < until }?.start ?? 0
        let isWhole = query.since == nil && engine.configuration.lateness == nil
        let since =
            query.since.map { second($0, now) } ?? (isWhole ? .min / 2 : start(last, columns: 59, asked ?? base))
        guard since < until else {
            throw Self.invalid("since: \(civil.rfc3339(since)) is not before until, \(civil.rfc3339(until))")
        }
        return try columns(windows.filter { $0.end > since && $0.start < until }, since, until)
    }

    /// Columns without a latency are there too: a gap in time must look like one.
    private func columns(
        _ windows: [HeatmapWindow], _ since: Int64, _ until: Int64
    ) throws(HeatmapError) -> Range {
        guard let first = windows.first, let last = windows.last else {
            return Range(since: since, until: until, columns: [], length: asked ?? base)
        }
        let kept = windows.reduce(base) { Swift.max($0, $1.end - $1.start) }
        if let asked, asked < kept, kept <= 86_400 {
            throw Self.invalid(
                "window: \(asked)s is shorter than \(kept)s, in which the oldest windows of this range are kept; give "
                    + "--window \(kept)s, or a later --since")
        }
        let length = asked ?? Self.length(for: last.end - first.start, base: kept)
        let count = (last.start - first.start) / length + 1
        guard count <= HeatmapQuery.maxWindows else {
            throw Self.invalid(
                "window: \(count) windows are more than \(HeatmapQuery.maxWindows); "
                    + "give a longer --window or a shorter range")
        }
        var columns: [HeatmapGrid.Window] = []
        while columns.last.map({ $0.end <= last.start }) ?? true {
            let start = columns.last?.end ?? keptWindow(from: civil.windowStart(first.start, length: length))
            let end = keptWindow(from: civil.windowEnd(start, length: length))
            columns.append(HeatmapGrid.Window(start: start, end: Swift.max(end, start + base)))
        }
        return Range(since: since, until: until, columns: columns, length: length)
    }

    /// Start of the column that lies so many before the one of a moment. Columns of a day may differ by an hour.
    private func start(_ second: Int64, columns: Int64, _ length: Int64) -> Int64 {
        let start = civil.windowStart(second, length: length)
        return civil.windowStart(start - columns * length + length / 2, length: length)
    }

    /// The shortest usual length that gives at most 60 columns.
    private static func length(for range: Int64, base: Int64) -> Int64 {
        let usual: [Int64] = [60, 300, 900, 3_600, 21_600, 86_400]
        if range / base <= 60 { return base }
        return usual.first { $0 % base == 0 && range / $0 <= 60 } ?? (range / 60 / 86_400 + 1) * 86_400
    }

    /// A zone's window ends inside of one that is kept when that one is longer than the zone's offset can be divided
    /// by; then all of it belongs to the column in which it begins.
    private func keptWindow(from second: Int64) -> Int64 { CivilTime.floor(second + base - 1, base) }

    // MARK: Rows

    private typealias Found = (row: HeatmapGrid.Row, isOverflow: Bool)
    private enum Side { case shown, baseline }

    /// What the compared attribute must be.
    private func comparison(side: Side) -> (attribute: String, value: String)? {
        guard case .values(let attribute, let baseline, let shown) = query.comparison else { return nil }
        return (attribute, side == .shown ? shown : baseline)
    }

    private func rows(
        _ range: Range, _ now: UInt64, _ extra: (attribute: String, value: String)?
    ) throws(HeatmapError) -> (rows: [Found], stage: String, overflowed: UInt64) {
        let reading = engine.read(view: view, from: range.since, until: range.until)
        let (stage, chain) = try stage(in: reading)
        var planes = reading.windows[...]
        let columns = range.columns.map { window in
            let own = planes.prefix { $0.start < window.end }
            planes = planes.dropFirst(own.count)
            return (window, own)
        }
        let lateness = engine.configuration.lateness?.nanoseconds
        let build = GridRows(measure: measure, stage: stage, chain: chain, stageNames: reading.stageNames) { end in
            guard let lateness else { return false }
            let (nano, overflow) = UInt64(Swift.max(0, end)).multipliedReportingOverflow(by: 1_000_000_000)
            return (overflow ? .max : nano.saturatingAdding(lateness)) >= now
        }
        let selection = selection(reading, extra)
        return (build.build(columns, selection), reading.stageNames[stage], reading.overflowed)
    }

    /// Rows are named by what the question groups by, among the groups that pass its filters.
    func selection(_ reading: HeatmapReading, _ extra: (attribute: String, value: String)?) -> RowSelection {
        let conditions = filter + (extra.map { [$0] } ?? [])
        let attributes = reading.view.attributes
        let named = by?.compactMap { attributes.firstIndex(of: $0) }
        let required = conditions.map { (attributes.firstIndex(of: $0.attribute) ?? 0, $0.value) }
        func name(_ values: [String]) -> String? {
            if values.count == 1,
                reading.view.takesFirst || attributes.count == 1 || values[0] == NameTable.overflowName
            {
                return required.allSatisfy { $0.1 == values[0] } ? values[0] : nil
            }
            guard required.allSatisfy({ $0.0 < values.count && values[$0.0] == $0.1 }) else { return nil }
            let shown = named.map { $0.compactMap { $0 < values.count ? values[$0] : nil } } ?? values
            return shown.joined(separator: " / ")
        }
        return RowSelection(reading, prefix: query.groupPrefix) { values in
            name(values).flatMap { query.group == nil || $0 == query.group ? $0 : nil }
        }
    }

    /// The stage's number, and those on the way to it.
    func stage(in reading: HeatmapReading) throws(HeatmapError) -> (stage: Int, chain: [Int]) {
        func has(_ stage: Int) -> Bool {
            reading.windows.contains { window in
                var cells = window.cells
                return cells.next(stages: 1 << UInt64(stage)) != nil
            }
        }
        let stage: Int
        if let name = query.stage {
            guard let number = reading.stage(name) else {
                throw Self.invalid(
                    "stage: \"\(name)\" has not occurred; there are "
                        + reading.stageNames.dropFirst().sorted().joined(separator: ", "))
            }
            stage = number
        } else {
            stage = has(1) || !has(HeatmapEngine.foreignStage) ? 1 : HeatmapEngine.foreignStage
        }
        let chain = engine.configuration.stageChain.compactMap(reading.stage)
        return (stage, chain.firstIndex(of: stage).map { Array(chain[...$0]) } ?? [])
    }

    private func ordered(_ rows: [Found]) -> [HeatmapGrid.Row] {
        rows.sorted { a, b in
            // What did not fit comes last, whatever the order.
            if a.isOverflow != b.isOverflow { return b.isOverflow }
            let (x, y) = (a.row.total, b.row.total)
            switch query.order {
            case .slowest where x.quantileNano != y.quantileNano: return x.quantileNano > y.quantileNano
            case .count where x.count != y.count: return x.count > y.count
            default: return NaturalOrder.precedes(a.row.group, b.row.group)
            }
        }.map(\.row)
    }

    // MARK: Comparing

    /// The range to compare with, in as many columns: the first with the first.
    private func baseline(
        _ range: Range, _ comparison: HeatmapQuery.Comparison, _ now: UInt64
    ) throws(HeatmapError) -> Range {
        guard let first = range.columns.first, let last = range.columns.last else { return range }
        let start: Int64
        var end = Int64.max
        switch comparison {
        case .values: return range
        case .earlier(let distance):
            guard distance.nanoseconds % (UInt64(base) * 1_000_000_000) == 0 else {
                throw Self.invalid("compare: \(distance) is not a multiple of \(base)s, the length of the windows kept")
            }
            start = first.start - Int64(distance.nanoseconds / 1_000_000_000)
        case .range(let since, let until):
            start = civil.windowStart(second(since, now), length: range.length)
            end = second(until, now)
            guard start < end else {
                throw Self.invalid("against: \(civil.rfc3339(start)) is not before \(civil.rfc3339(end))")
            }
        }
        let shift = first.start - start
        let columns = range.columns.map { HeatmapGrid.Window(start: $0.start - shift, end: $0.end - shift) }
        return Range(since: start, until: Swift.min(end, last.end - shift), columns: columns, length: range.length)
    }

    private func compare(_ rows: inout [Found], with baseline: [Found]) {
        let known = Dictionary(baseline.map { ($0.row.group, $0.row) }, uniquingKeysWith: { first, _ in first })
        for index in rows.indices {
            guard let other = known[rows[index].row.group] else { continue }
            for column in rows[index].row.cells.indices {
                rows[index].row.cells[column]?.compare(with: other.cells[column])
            }
            rows[index].row.total.compare(with: other.total)
            rows[index].row.baseline = other.cells
            rows[index].row.baselineTotal = other.total
        }
    }
}

extension HeatmapGrid.Cell {
    mutating func compare(with baseline: HeatmapGrid.Cell?) {
        guard let baseline else { return }
        var verdict = HeatmapGrid.Change.Verdict.unclear
        if let own = interval, let other = baseline.interval {
            if own.lower > other.upper { verdict = .slower }
            if own.upper < other.lower { verdict = .faster }
        }
        change = HeatmapGrid.Change(
            baselineNano: baseline.quantileNano, baselineCount: baseline.count, verdict: verdict)
    }
}
