import OTLP

extension HeatmapDistribution {
    /// Most ranges in a terminal and in a page.
    private static let maxRanges = 24

    private var subject: [String] {
        ["Spread of \(TextLayout.subject(grid.stage))", "\(grid.groupName) \(row?.group ?? group ?? "(all)")"]
    }

    /// `181–215`, the unit being milliseconds unless another stands there.
    private static func range(_ bucket: Bucket) -> String {
        bucket.upperNano == 0 ? "0" : "\(Figures.edge(bucket.lowerNano))–\(Figures.edge(bucket.upperNano))"
    }

    // MARK: Text

    /// The slowest range first; below, the quantile and the number of each window.
    public func text(width: Int, style: HeatmapText.Style = .plain) -> String {
        let width = max(width, 40)
        guard row != nil else {
            return TextLayout.wrap(
                subject.map(TextWidth.clean) + ["no latencies in this range yet"], width: width
            ).joined(separator: "\n") + "\n"
        }
        let labelWidth = 14
        let room = max(1, (width - labelWidth - HeatmapText.countWidth) / HeatmapText.cellWidth(grid))
        let shown = HeatmapDistribution(grid.joined(toAtMost: room), group: group)
        let joined = shown.grid
        guard let row = joined.rows.first else { return "" }
        let cellWidth = HeatmapText.cellWidth(joined)
        var text = TextLayout.title(joined, subject: subject.map(TextWidth.clean), width: width).joined(separator: "\n")
        var header = TextWidth.fit("ms", labelWidth)
        for window in joined.windows { header += TextWidth.right(HeatmapText.label(window, joined), cellWidth) }
        text += "\n" + header + TextWidth.right("n", HeatmapText.countWidth) + "\n"

        var lines = TextBytes(style: style, cellWidth: cellWidth)
        func end(_ count: UInt64) {
            let count = Figures.short(count)
            lines.blanks(HeatmapText.countWidth - count.utf8.count)
            lines.add(count)
            lines.endLine()
        }
        for bucket in shown.buckets(atMost: Self.maxRanges).reversed() {
            lines.add(TextWidth.fit(Self.range(bucket), labelWidth))
            for count in bucket.counts {
                if count > 0 { lines.add(Figures.short(count), bucket.level) } else { lines.add(nil) }
            }
            end(bucket.total)
        }
        lines.add(TextWidth.fit(joined.quantileName, labelWidth))
        for cell in row.cells { lines.add(cell) }
        end(row.total.count)
        lines.add(TextWidth.fit("n", labelWidth))
        for cell in row.cells {
            let count = cell.map { Figures.short($0.count) } ?? "·"
            lines.blanks(cellWidth - 3 - (cell == nil ? 1 : count.utf8.count))
            lines.add(count)
            lines.blanks(3)
        }
        lines.endLine()
        let isJoined = joined.windows.count < grid.windows.count
        return text + String(decoding: lines.bytes, as: UTF8.self)
            + TextLayout.notes(
                joined, shown: joined.rows.count, joinedFrom: isJoined ? grid.windowSeconds : nil, marks: style.marks,
                width: width
            ).joined(separator: "\n") + "\n"
    }

    // MARK: CSV and JSON

    /// A line for each range and window that has latencies.
    var csv: ReportParts {
        let header = "window_start,window_end,device_group,stage,from_ms,to_ms,count,level\r\n"
        let spans = grid.windows.map { "\(grid.civil.rfc3339($0.start)),\(grid.civil.rfc3339($0.end))," }
        let names = HeatmapCSV.field(row?.group ?? "") + "," + HeatmapCSV.field(grid.stage) + ","
        return ReportParts(Array(header.utf8), buckets) { _, bucket in
            let (lower, upper) = (bucket.lowerNano, bucket.upperNano)
            let range = "\(Figures.wholeMilliseconds(lower)),\(Figures.wholeMilliseconds(upper)),"
            var text = ""
            for (index, count) in bucket.counts.enumerated() where count > 0 {
                text += spans[index] + names + range + "\(count),\(bucket.level.rawValue)\r\n"
            }
            return Array(text.utf8)
        }
    }

    var json: ReportParts {
        .json(head: head, array: "buckets", buckets) { bucket, json in
            json.beginObject()
            json.field("above_ns", bucket.lowerNano)
            json.field("to_ns", bucket.upperNano)
            json.field("level", bucket.level.rawValue)
            json.field("counts", bucket.counts)
            json.endObject()
        }
    }

    private func head(_ json: inout JSONWriter) {
        json.field("view", HeatmapQuery.View.distribution.rawValue)
        json.field("group", row?.group ?? group ?? "(all)")
        json.field("stage", grid.stage)
        json.field("group_by", grid.groupBy)
        json.field("filters", grid.filters)
        json.field("time_zone", grid.timeZone)
        json.field("window_seconds", grid.windowSeconds)
        json.field("count", grid.count)
        json.field("levels_ns", grid.levels)
        json.field("quantile", grid.quantile)
        json.key("windows")
        json.beginArray()
        for (number, window) in grid.windows.enumerated() {
            let cell = row?.cells[number]
            json.beginObject()
            json.field("start", grid.civil.rfc3339(window.start))
            json.field("end", grid.civil.rfc3339(window.end))
            json.field("count", cell?.count ?? 0)
            if let cell { json.field("value_ns", cell.quantileNano) }
            json.endObject()
        }
        json.endArray()
    }

    // MARK: HTML

    /// How much of its window is in a range, as one of five shades.
    private static func shade(_ count: UInt64, of whole: UInt64) -> String {
        let part = Double(count) / Double(max(1, whole))
        return count == 0 ? "none" : "d\([0.02, 0.08, 0.2, 0.4].count { part >= $0 })"
    }

    func html() -> String {
        let shown = HeatmapDistribution(grid.joined(toAtMost: HeatmapHTML.maxColumns), group: group)
        let joined = shown.grid
        var rows: [(name: String, cells: [(kind: String, text: String)])] = []
        if let row = joined.rows.first {
            for bucket in shown.buckets(atMost: Self.maxRanges).reversed() {
                let cells = zip(bucket.counts, row.cells).map { count, cell in
                    (Self.shade(count, of: cell?.count ?? 0), count > 0 ? Figures.short(count) : "·")
                }
                rows.append(
                    (
                        "\(Self.range(bucket)) \(bucket.level.letter)",
                        cells + [(Self.shade(bucket.total, of: row.total.count) + " all", Figures.short(bucket.total))]
                    ))
            }
            func cell(_ cell: HeatmapGrid.Cell?) -> (kind: String, text: String) {
                guard let cell else { return ("none", "·") }
                guard cell.count >= HeatmapGrid.noSample else { return ("few", "--") }
                return (
                    "\(cell.level.letter.lowercased())",
                    (cell.count < HeatmapGrid.lowSample ? "~" : "") + Figures.milliseconds(cell.quantileNano)
                        + " \(cell.level.letter)"
                )
            }
            let total = cell(row.total)
            rows.append((joined.quantileName, row.cells.map(cell) + [(total.kind + " all", total.text)]))
            rows.append(
                (
                    "n",
                    row.cells.map { ("n", $0.map { Figures.short($0.count) } ?? "·") }
                        + [("n all", Figures.short(row.total.count))]
                ))
        }
        let legend = zip(
            ["d0", "d1", "d2", "d3", "d4"], ["< 2 %", "≥ 2 %", "≥ 8 %", "≥ 20 %", "≥ 40 % of the window"])
        let joinedFrom =
            joined.windows.count < grid.windows.count
            ? ", windows of \(Figures.span(grid.windowSeconds)) joined into \(Figures.span(joined.windowSeconds))" : ""
        return HeatmapHTML.page(
            subject.joined(separator: ", "), HeatmapHTML.line(joined), legend: Array(legend),
            caption: "latencies in each range of milliseconds\(joinedFrom)",
            head: ["ms"] + joined.windows.map { HeatmapText.label($0, joined) } + ["all"], rows: rows,
            notes: ["Ranges are those of a base-2 exponential histogram, above the first figure up to the second."])
    }
}
