/// How far groups keep below thresholds, and how fast they use up what an objective allows them.
public struct HeatmapSLO: Sendable {
    /// A time in which latencies are counted, in seconds since 1970.
    public struct Span: Sendable, Equatable {
        /// `range` for the one that was asked for, else its length: `1h`.
        public let name: String
        public let start: Int64
        /// Not part of it.
        public let end: Int64
    }

    public struct Tally: Sendable, Equatable {
        public internal(set) var count: UInt64 = 0
        /// Above the threshold.
        public internal(set) var over: UInt64 = 0

        /// Part of the latencies that is not above the threshold.
        public var attainment: Double { 1 - Double(over) / Double(Swift.max(1, count)) }

        /// How many times faster the budget is used up than it may be: 1 uses it up exactly.
        public func burnRate(objective: Double) -> Double {
            Double(over) / Double(Swift.max(1, count)) / (1 - objective)
        }
    }

    public struct Threshold: Sendable, Equatable {
        public let nanoseconds: UInt64
        /// Otherwise counted by buckets: what lies within 0.54 % of it may be on its other side.
        public internal(set) var isExact: Bool
        /// One for each span; nil where no latency ended.
        public internal(set) var tallies: [Tally?]
    }

    public struct Row: Sendable {
        public let group: String
        /// In the order of the question.
        public internal(set) var thresholds: [Threshold]
    }

    /// Usual lengths of burn-rate alerts, in seconds; those that are shorter than what is kept are shown.
    static let lengths: [Int64] = [300, 1_800, 3_600, 21_600, 86_400, 3 * 86_400, 30 * 86_400]
    /// From these on a budget burns: yellow spends it within its period, orange a twentieth in six hours, red a fiftieth in
    /// one, of 30 days. https://sre.google/workbook/alerting-on-slos/
    static let burnLevels = [1.0, 6, 14.4]

    public let stage: String
    public let objective: Double
    /// The range first, then lengths that end with it, ascending.
    public let spans: [Span]
    public let rows: [Row]
    /// Rows that the query's limit left out.
    public let omittedRows: Int
    /// In the range.
    public let count: UInt64
    public let groupName: String
    public let timeZone: String
    public let filters: [String]
    let civil: CivilTime

    /// From so few latencies on a single slow one is within the objective.
    public var lowSample: UInt64 { UInt64((1 / (1 - objective) - 1e-6).rounded(.up)) }

    static func level(ofBurnRate rate: Double) -> LatencyLevel {
        LatencyLevel.allCases[burnLevels.count { rate >= $0 }]
    }
}

extension GridBuilder {
    func slo() throws(HeatmapError) -> HeatmapSLO {
        let now = engine.read(view: view, from: .max).nowUnixNano
        let range = try range(now)
        let spans = spans(range, now)
        let thresholds = query.thresholds.map(\.nanoseconds)
        let reading = engine.read(
            view: view, from: spans.reduce(range.since) { Swift.min($0, $1.start) }, until: range.until)
        let stage = try stage(in: reading).stage
        let selection = selection(reading, nil)
        // Without a window there is nothing to tell.
        var rows = (spans.isEmpty ? [] : selection.names).map { name in
            HeatmapSLO.Row(
                group: name,
                thresholds: thresholds.map {
                    HeatmapSLO.Threshold(nanoseconds: $0, isExact: true, tallies: spans.map { _ in nil })
                })
        }
        for plane in reading.windows {
            let inside = spans.indices.filter { number in
                // What the grid of the same question counts, and after it whole windows only.
                number == 0
                    ? plane.end > range.since && plane.start < range.until
                    : plane.start >= spans[number].start && plane.start < spans[number].end
            }
            guard !inside.isEmpty else { continue }
            var cells = plane.cells
            while let cell = cells.next(stages: 1 << UInt64(stage)) {
                guard cell.group < selection.rows.count, selection.rows[cell.group] >= 0 else { continue }
                let row = Int(selection.rows[cell.group])
                for (number, threshold) in thresholds.enumerated() {
                    let over = cell.countAbove(nanoseconds: threshold)
                    if !cell.isExact, !plane.thresholds.contains(threshold) {
                        rows[row].thresholds[number].isExact = false
                    }
                    for span in inside {
                        var tally = rows[row].thresholds[number].tallies[span] ?? HeatmapSLO.Tally()
                        tally.count = tally.count.saturatingAdding(cell.count)
                        tally.over = tally.over.saturatingAdding(over)
                        rows[row].thresholds[number].tallies[span] = tally
                    }
                }
            }
        }
        let overflow = selection.overflowRow
        let all = rows.indices.filter { rows[$0].thresholds.contains { $0.tallies[0] != nil } }
            .sorted { a, b in
                // What did not fit comes last, whatever the order.
                if (a == overflow) != (b == overflow) { return b == overflow }
                let (x, y) = (rows[a].thresholds[0].tallies[0], rows[b].thresholds[0].tallies[0])
                let (slowX, slowY) = (x?.burnRate(objective: 0) ?? 0, y?.burnRate(objective: 0) ?? 0)
                switch query.order {
                case .slowest where slowX != slowY: return slowX > slowY
                case .count where x?.count != y?.count: return (x?.count ?? 0) > (y?.count ?? 0)
                default: return NaturalOrder.precedes(rows[a].group, rows[b].group)
                }
            }.map { rows[$0] }
        let kept = query.limit.map { Array(all.prefix($0)) } ?? all
        return HeatmapSLO(
            stage: reading.stageNames[stage], objective: query.objective, spans: spans, rows: kept,
            omittedRows: all.count - kept.count,
            count: all.reduce(0) { $0.saturatingAdding($1.thresholds[0].tallies[0]?.count ?? 0) }, groupName: groupName,
            timeZone: query.timeZone, filters: query.appliedFilters + filter.map { "\($0.attribute)=\($0.value)" },
            civil: civil)
    }

    /// The range, and what ends with it: on a running server, now.
    private func spans(_ range: Range, _ now: UInt64) -> [HeatmapSLO.Span] {
        guard let first = range.columns.first, let last = range.columns.last else { return [] }
        var end = last.end
        if query.until == nil, engine.configuration.lateness != nil {
            end = Swift.max(end, CivilTime.floor(Int64(now / 1_000_000_000) + base - 1, base))
        }
        let oldest = engine.windows(view: view).first?.start ?? first.start
        return [HeatmapSLO.Span(name: "range", start: first.start, end: last.end)]
            + HeatmapSLO.lengths.filter { $0 % base == 0 && $0 < end - oldest }
            .map { HeatmapSLO.Span(name: Figures.span($0), start: end - $0, end: end) }
    }
}
