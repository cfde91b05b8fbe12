/// The report for a terminal.
public enum HeatmapText {
    public enum Style: String, Sendable, CaseIterable {
        /// Numbers and letters only.
        case plain
        /// With colours, for terminals that have them.
        case ansi
        /// With 🟢🟡🟠🔴, for chats and tickets.
        case emoji
    }

    /// Rows beyond this many are left out and counted; `limit` in the query, or the other forms, show them.
    public static let maxRows = 200

    /// Room for a value, its level, and the window's label above it.
    private static func cellWidth(_ grid: HeatmapGrid) -> Int { showsSeconds(grid) ? 10 : 8 }
    private static func showsSeconds(_ grid: HeatmapGrid) -> Bool { grid.windowSeconds % 60 != 0 }
    private static let countWidth = 8
    private static let minGroupWidth = 12

    /// Lines of at most `width` columns, of which there should be 40 or more. When not all windows fit, the latest are
    /// shown.
    public static func render(_ grid: HeatmapGrid, width: Int, style: Style = .plain) -> String {
        let width = max(width, 40)
        guard !grid.rows.isEmpty else {
            let title = "\(grid.quantileName) push latency (\(TextWidth.clean(grid.stage))):"
            return wrap([title, "no latencies in this range yet"], width: width, gap: " ").joined(separator: "\n")
                + "\n"
        }
        let rows = Array(grid.rows.prefix(maxRows))
        let cellWidth = cellWidth(grid)
        let hasStages = width >= 80 && rows.contains { !$0.total.stages.isEmpty }
        let stageWidth = hasStages ? 15 : 0
        let longest = rows.reduce(5) { max($0, TextWidth.of($1.group)) }
        // One more than the names take: a figure can fill its cell.
        let groupWidth = min(longest, max(minGroupWidth, width - countWidth - stageWidth - 3 * cellWidth), 40) + 1
        let room = max(1, (width - groupWidth - countWidth - stageWidth) / cellWidth)
        let first = max(0, grid.windows.count - room)

        var lines = title(grid, width: width)
        var header = TextWidth.fit("group", groupWidth)
        for label in labels(grid, from: first) { header += TextWidth.right(label, cellWidth) }
        header += TextWidth.right("n", countWidth) + (hasStages ? "  worst stage" : "")
        lines.append(header)
        for row in rows {
            var line = TextWidth.fit(row.group, groupWidth - 1) + " "
            for cell in row.cells[first...] { line += render(cell, style, cellWidth) }
            line += TextWidth.right(Figures.short(row.total.count), countWidth)
            if hasStages, let worst = row.total.stages.max(by: { $0.share < $1.share }) {
                line += "  \(TextWidth.cut(worst.stage, stageWidth - 7)) \(Int((worst.share * 100).rounded()))%"
            }
            lines.append(line)
        }
        lines += notes(grid, shown: rows.count, hidden: first, width: width)
        return lines.map(trimmed).joined(separator: "\n") + "\n"
    }

    private static func trimmed(_ line: String) -> String {
        var end = line.endIndex
        while end > line.startIndex, line[line.index(before: end)] == " " { end = line.index(before: end) }
        return String(line[..<end])
    }

    // MARK: Around the grid

    private static func title(_ grid: HeatmapGrid, width: Int) -> [String] {
        let subject = grid.stage == "deliver" ? "push latency" : "latency, stage \(TextWidth.clean(grid.stage))"
        let parts = [
            "\(grid.quantileName) \(subject)", range(grid), "window \(Figures.span(grid.windowSeconds))",
            "n=\(Figures.grouped(grid.count))", "late \(Figures.percent(grid.late, of: grid.count))",
            grid.relativeError == 0 ? "exact" : "error ≤\(Figures.decimal(grid.relativeError * 100, 2))%",
        ]
        return wrap(parts, width: width)
    }

    /// As many parts on a line as fit. A part that is too long for any line is divided at its blanks, and then cut.
    private static func wrap(_ parts: [String], width: Int, gap: String = "  ") -> [String] {
        var lines = [""]
        for part in parts {
            let last = lines[lines.count - 1]
            if TextWidth.of(part) > width {
                let words = part.split(separator: " ").map { TextWidth.cut(String($0), width) }
                let divided = wrap(words, width: width, gap: " ")
                lines = (last.isEmpty ? [] : lines) + divided
            } else if last.isEmpty {
                lines[lines.count - 1] = part
            } else if TextWidth.of(last) + gap.count + TextWidth.of(part) <= width {
                lines[lines.count - 1] = last + gap + part
            } else {
                lines.append(part)
            }
        }
        return lines
    }

    static func range(_ grid: HeatmapGrid) -> String {
        guard let first = grid.windows.first, let last = grid.windows.last else { return "" }
        let civil = grid.civil
        let seconds = showsSeconds(grid)
        let startDay = civil.date(first.start)
        let endDay = civil.date(last.end)
        let zone = civil.offsetText(last.end)
        return "\(startDay) \(civil.time(first.start, withSeconds: seconds))–"
            + (startDay == endDay ? "" : "\(endDay) ") + civil.time(last.end, withSeconds: seconds)
            + " " + (zone == "Z" ? "UTC" : zone)
    }

    private static func labels(_ grid: HeatmapGrid, from first: Int) -> [String] {
        grid.windows[first...].map { window in
            grid.windowSeconds >= 86_400
                ? grid.civil.monthAndDay(window.start)
                : grid.civil.time(window.start, withSeconds: showsSeconds(grid))
        }
    }

    private static func notes(_ grid: HeatmapGrid, shown: Int, hidden: Int, width: Int) -> [String] {
        var lines = wrap(
            Figures.legend(grid.levels) + [
                "~ n<\(HeatmapGrid.lowSample)",
                "-- n<\(HeatmapGrid.noSample)", "· none", "* revised",
            ], width: width)
        if hidden > 0 {
            lines += wrap(
                ["\(hidden) earlier windows are not shown:", "use a longer window or a wider terminal"], width: width)
        }
        let omitted = grid.omittedRows + grid.rows.count - shown
        if omitted > 0 { lines += wrap(["\(omitted) more groups are not shown:", "see the CSV"], width: width) }
        if grid.overflowed > 0 {
            lines += wrap(
                [
                    "\(Figures.grouped(grid.overflowed)) latencies are in (other):",
                    "more groups came than the settings allow",
                ],
                width: width)
        }
        return lines
    }

    // MARK: A cell

    /// Right-aligned: value, level, revised.
    private static func render(_ cell: HeatmapGrid.Cell?, _ style: Style, _ cellWidth: Int) -> String {
        guard let cell else { return TextWidth.right("·", cellWidth - 3) + "   " }
        let revised = cell.state == .revised ? "*" : " "
        guard cell.count >= HeatmapGrid.noSample else { return TextWidth.right("--", cellWidth - 3) + "  " + revised }
        let figure =
            cell.count < HeatmapGrid.lowSample
            ? "~" + Figures.milliseconds(cell.quantileNano, columns: 4) : Figures.milliseconds(cell.quantileNano)
        switch style {
        case .plain: return TextWidth.right(figure, cellWidth - 3) + " \(cell.level.letter)" + revised
        case .ansi:
            return TextWidth.right("", cellWidth - 3 - TextWidth.of(figure)) + colour(cell.level)
                + "\(figure) \(cell.level.letter)\u{1B}[0m" + revised
        case .emoji: return TextWidth.right(figure, cellWidth - 3) + mark(cell.level) + revised
        }
    }

    private static func colour(_ level: LatencyLevel) -> String {
        switch level {
        case .green: "\u{1B}[32m"
        case .yellow: "\u{1B}[33m"
        case .orange: "\u{1B}[38;5;208m"
        case .red: "\u{1B}[1;31m"
        }
    }

    private static func mark(_ level: LatencyLevel) -> String {
        switch level {
        case .green: "🟢"
        case .yellow: "🟡"
        case .orange: "🟠"
        case .red: "🔴"
        }
    }
}
