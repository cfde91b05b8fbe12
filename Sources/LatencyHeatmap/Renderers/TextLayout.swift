/// What stands above and below a table in a terminal.
enum TextLayout {
    /// `push latency`, or the latency of another stage.
    static func subject(_ stage: String) -> String {
        stage == "deliver" ? "push latency" : "latency, stage \(TextWidth.clean(stage))"
    }

    /// - Parameter subject: what the figures are. Nil: a quantile of the latencies.
    static func title(_ grid: HeatmapGrid, subject: [String]? = nil, width: Int) -> [String] {
        var parts = subject ?? ["\(grid.quantileName) \(Self.subject(grid.stage))"]
        parts += [
            HeatmapText.range(grid), "window \(Figures.span(grid.windowSeconds))",
            "n=\(Figures.grouped(grid.count))", "late \(Figures.percent(grid.late, of: grid.count))",
            grid.relativeError == 0 ? "exact" : "error ≤\(Figures.decimal(grid.relativeError * 100, 2))%",
        ]
        parts += grid.filters.map(TextWidth.clean)
        if let comparison = grid.comparison { parts.append("against \(TextWidth.clean(comparison))") }
        return wrap(parts, width: width)
    }

    /// As many parts on a line as fit. A part that is too long for any line is divided at its blanks, and then cut.
    static func wrap(_ parts: [String], width: Int, gap: String = "  ") -> [String] {
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

    /// - Parameter joinedFrom: length of the windows that were joined to fit.
    static func notes(
        _ grid: HeatmapGrid, shown: Int, joinedFrom: Int64?, marks: HeatmapText.Marks, width: Int
    ) -> [String] {
        var parts = zip(LatencyLevel.allCases, Figures.legend(grid.levels)).map { level, meaning in
            marks.mark(level) + meaning.dropFirst()
        }
        parts += ["~ n<\(HeatmapGrid.lowSample)", "-- n<\(HeatmapGrid.noSample)", "· none", "* revised"]
        if grid.comparison != nil { parts += ["▲ slower", "▼ faster", "for sure (95%)"] }
        var lines = wrap(parts, width: width)
        if let joinedFrom {
            lines += wrap(
                [
                    "windows of \(Figures.span(joinedFrom)) are joined to fit:",
                    "a wider terminal or a shorter range shows them",
                ], width: width)
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
}
