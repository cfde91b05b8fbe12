import OTLP

extension HeatmapSLO {
    /// `99.9 %`.
    private var goal: String { Self.percent(objective) + " %" }

    /// Two digits, never rounded up to the whole.
    private static func percent(_ part: Double) -> String {
        let hundredths = Int((part * 10_000 + 1e-7).rounded(.down))
        let digits = hundredths % 100
        return digits == 0 ? "\(hundredths / 100)" : "\(hundredths / 100)." + (digits < 10 ? "0" : "") + "\(digits)"
    }

    private static func attained(_ tally: Tally) -> String {
        let hundredths = Int((tally.attainment * 10_000 + 1e-7).rounded(.down))
        return "\(hundredths / 100)." + (hundredths % 100 < 10 ? "0" : "") + "\(hundredths % 100)"
    }

    private func burn(_ tally: Tally) -> (figure: String, level: LatencyLevel) {
        let rate = tally.burnRate(objective: objective)
        let figure = rate < 9.95 ? Figures.decimal(rate, rate < 0.995 ? 2 : 1) : Figures.short(UInt64(rate.rounded()))
        return (figure, Self.level(ofBurnRate: rate))
    }

    private var parts: [String] {
        var parts = ["SLO \(goal) of \(TextLayout.subject(stage)) by \(groupName)"]
        if let range = spans.first {
            let seconds = range.start % 60 != 0 || range.end % 60 != 0
            parts.append(HeatmapText.range(range.start, range.end, withSeconds: seconds, civil))
        }
        return parts + ["n=\(Figures.grouped(count))"] + filters
    }

    private var meanings: [String] {
        zip(LatencyLevel.allCases, ["<1", "≥1", "≥6", "≥14.4"]).map { "\($0.letter)\($1)" }
    }

    private var notes: [String] {
        var notes = [
            "burn: how many times faster the budget of \(Self.percent(1 - objective)) % is used than it may be"
        ]
        if rows.contains(where: { $0.thresholds.contains { !$0.isExact } }) {
            notes.append("≈ counted by buckets: what is within 0.54% of the threshold may be on its other side")
        }
        if omittedRows > 0 { notes.append("\(omittedRows) more groups are not shown") }
        return notes
    }

    // MARK: Text

    public func text(width: Int, style: HeatmapText.Style = .plain) -> String {
        let width = max(width, 40)
        var text = TextLayout.wrap(parts.map(TextWidth.clean), width: width).joined(separator: "\n") + "\n"
        guard !rows.isEmpty else { return text + "no latencies in this range yet\n" }
        let (thresholdWidth, attainedWidth, cellWidth) = (8, 9, 8)
        let counts = width >= 80 ? 2 * HeatmapText.countWidth : 0
        let fixed = thresholdWidth + attainedWidth + 1 + counts
        let longest = rows.reduce(5) { max($0, TextWidth.of($1.group)) }
        let groupWidth = min(longest, max(HeatmapText.minGroupWidth, width - fixed - 3 * cellWidth), 40) + 1
        let shown = spans.prefix(max(1, (width - fixed - groupWidth) / cellWidth))
        var header = TextWidth.fit("group", groupWidth) + TextWidth.right("slo", thresholdWidth)
        header += TextWidth.right("within", attainedWidth) + " "
        // Above the figure, not above its letter.
        for span in shown { header += TextWidth.right(span.name, cellWidth - 3) + "   " }
        if counts > 0 {
            header += TextWidth.right("n", HeatmapText.countWidth) + TextWidth.right("over", HeatmapText.countWidth)
        }
        while header.last == " " { header.removeLast() }
        text += header + "\n"
        var lines = TextBytes(style: style, cellWidth: cellWidth)
        for row in rows.prefix(HeatmapText.maxRows) {
            for (number, threshold) in row.thresholds.enumerated() {
                lines.add(TextWidth.fit(number == 0 ? row.group : "", groupWidth - 1))
                lines.add(" ")
                let limit = (threshold.isExact ? "" : "≈") + Figures.edge(threshold.nanoseconds)
                lines.add(TextWidth.right(limit, thresholdWidth))
                let whole = threshold.tallies[0]
                lines.add(TextWidth.right(whole.map { Self.attained($0) + "%" } ?? "·", attainedWidth) + " ")
                for tally in threshold.tallies.prefix(shown.count) {
                    guard let tally else {
                        lines.add(nil)
                        continue
                    }
                    let (figure, level) = burn(tally)
                    lines.add(figure, level, isLow: tally.count < lowSample)
                }
                if counts > 0, let whole {
                    lines.add(TextWidth.right(Figures.short(whole.count), HeatmapText.countWidth))
                    lines.add(TextWidth.right(Figures.short(whole.over), HeatmapText.countWidth))
                }
                lines.endLine()
            }
        }
        text += String(decoding: lines.bytes, as: UTF8.self)
        var signs = zip(LatencyLevel.allCases, meanings).map { style.marks.mark($0) + $1.dropFirst() }
        signs += ["~ n<\(lowSample)", "· none"]
        text += TextLayout.wrap(signs, width: width).joined(separator: "\n") + "\n"
        var notes = notes
        if shown.count < spans.count {
            notes.append(
                "burn of \(spans.dropFirst(shown.count).map(\.name).joined(separator: ", ")): in a wider terminal")
        }
        let left = rows.count - HeatmapText.maxRows
        if left > 0 { notes.append("\(left) more groups are not shown: see the CSV") }
        return text + notes.flatMap { TextLayout.wrap([$0], width: width) }.joined(separator: "\n") + "\n"
    }

    // MARK: CSV and JSON

    /// A line for each group, threshold and span.
    var csv: ReportParts {
        let header =
            "device_group,stage,threshold_ms,objective,span,span_start,span_end,count,over_count,attainment,burn_rate,"
            + "is_exact\r\n"
        let places = spans.map { "\($0.name),\(civil.rfc3339($0.start)),\(civil.rfc3339($0.end))," }
        let stage = HeatmapCSV.field(stage)
        return ReportParts(Array(header.utf8), rows) { _, row in
            let group = HeatmapCSV.field(row.group)
            var text = ""
            for threshold in row.thresholds {
                let limit = Figures.exactMilliseconds(threshold.nanoseconds)
                for (place, tally) in zip(places, threshold.tallies) {
                    text += "\(group),\(stage),\(limit),\(objective),\(place)"
                    if let tally {
                        text += "\(tally.count),\(tally.over),\(Figures.decimal(tally.attainment, 6)),"
                        text += Figures.decimal(tally.burnRate(objective: objective), 4)
                    } else {
                        text += "0,,,"
                    }
                    text += ",\(threshold.isExact)\r\n"
                }
            }
            return Array(text.utf8)
        }
    }

    var json: ReportParts {
        .json(head: head, array: "groups", rows) { row, json in
            json.beginObject()
            json.field("group", row.group)
            json.key("thresholds")
            json.beginArray()
            for threshold in row.thresholds {
                json.beginObject()
                json.field("threshold_ns", threshold.nanoseconds)
                json.key("is_exact")
                json.value(threshold.isExact)
                json.key("spans")
                json.beginArray()
                for tally in threshold.tallies { self.tally(tally, &json) }
                json.endArray()
                json.endObject()
            }
            json.endArray()
            json.endObject()
        }
    }

    private func tally(_ tally: Tally?, _ json: inout JSONWriter) {
        guard let tally else { return json.null() }
        json.beginObject()
        json.field("count", tally.count)
        json.field("over_count", tally.over)
        json.field("attainment", tally.attainment)
        json.field("burn_rate", tally.burnRate(objective: objective))
        json.endObject()
    }

    private func head(_ json: inout JSONWriter) {
        json.field("view", HeatmapQuery.View.slo.rawValue)
        json.field("stage", stage)
        json.field("group_by", groupName.split(separator: "+").map(String.init))
        json.field("filters", filters)
        json.field("time_zone", timeZone)
        json.field("objective", objective)
        json.field("count", count)
        json.field("omitted_groups", omittedRows)
        json.key("spans")
        json.beginArray()
        for span in spans {
            json.beginObject()
            json.field("name", span.name)
            json.field("start", civil.rfc3339(span.start))
            json.field("end", civil.rfc3339(span.end))
            json.endObject()
        }
        json.endArray()
    }

    // MARK: HTML

    func html() -> String {
        var shown: [(name: String, cells: [(kind: String, text: String)])] = []
        for row in rows.prefix(HeatmapHTML.maxRows) {
            for threshold in row.thresholds {
                var cells = [("n", (threshold.isExact ? "" : "≈") + Figures.latency(threshold.nanoseconds))]
                let whole = threshold.tallies[0]
                cells.append(("n", whole.map { Self.attained($0) + " %" } ?? "·"))
                for tally in threshold.tallies {
                    guard let tally else {
                        cells.append(("none", "·"))
                        continue
                    }
                    let (figure, level) = burn(tally)
                    cells.append(
                        (
                            level.letter.lowercased(),
                            (tally.count < lowSample ? "~" : "") + figure + " \(level.letter)"
                        ))
                }
                cells.append(("n", whole.map { Figures.grouped($0.count) } ?? "·"))
                cells.append(("n", whole.map { Figures.grouped($0.over) } ?? "·"))
                shown.append((row.group, cells))
            }
        }
        let legend = zip(LatencyLevel.allCases, meanings).map { (kind: $0.letter.lowercased(), words: $1) }
        let left = rows.count - HeatmapHTML.maxRows
        return HeatmapHTML.page(
            parts[0], parts.dropFirst().joined(separator: " · "),
            legend: legend + [("word", "~ n < \(lowSample)"), ("word", "· none")],
            caption: "part of the latencies within each threshold, and burn rates",
            head: ["group", "slo", "within"] + spans.map { "burn \($0.name)" } + ["n", "over"], rows: shown,
            notes: notes + (left > 0 ? ["\(left) more groups are in the CSV."] : []))
    }
}
