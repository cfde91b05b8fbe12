/// The report as one HTML file: a table that works without scripts and without any other file.
public enum HeatmapHTML {
    /// For the response header; the document needs nothing but its own style.
    public static let contentSecurityPolicy =
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

    /// Rows beyond this many are left out and counted: a browser lays out a larger table slowly.
    public static let maxRows = 500

    public static func render(_ grid: HeatmapGrid) -> String {
        let rows = grid.rows.prefix(maxRows)
        let subject = grid.stage == "deliver" ? "push latency" : "latency, stage \(grid.stage)"
        let title = "\(grid.quantileName) \(subject) by \(grid.groupBy.first ?? "group")"
        var html = """
            <!doctype html>
            <html lang="en">
            <head>
            <meta charset="utf-8">
            <meta name="viewport" content="width=device-width, initial-scale=1">
            <meta name="color-scheme" content="light dark">
            <title>\(escape(title))</title>
            <style>\(style)</style>
            </head>
            <body>
            <header>
            <h1>\(escape(title))</h1>
            <p>\(escape(HeatmapText.range(grid))) · windows of \(Figures.span(grid.windowSeconds)) · \
            <b>\(Figures.grouped(grid.count))</b> latencies · late \(Figures.percent(grid.late, of: grid.count)) · \
            \(grid.relativeError == 0 ? "exact" : "error ≤ \(Figures.decimal(grid.relativeError * 100, 2)) %")</p>
            </header>

            """
        if rows.isEmpty {
            html += "<p class=\"empty\">No latencies in this range yet.</p>\n"
        } else {
            html += table(grid, rows)
        }
        html += legend(grid, shown: rows.count)
        return html + "</body>\n</html>\n"
    }

    // MARK: The table

    private static func table(_ grid: HeatmapGrid, _ rows: ArraySlice<HeatmapGrid.Row>) -> String {
        let hasStages = rows.contains { !$0.total.stages.isEmpty }
        let unit = "\(grid.quantileName) in milliseconds"
        var html = "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"\(unit)\">\n<table>\n"
        html +=
            "<caption>\(unit), for each group and window. Open a cell for its slowest traces.</caption>\n<thead><tr>"
        html += "<th scope=\"col\" class=\"group\">group</th>"
        for window in grid.windows { html += "<th scope=\"col\">\(label(window, grid))</th>" }
        html += "<th scope=\"col\">all</th><th scope=\"col\">n</th>"
        if hasStages { html += "<th scope=\"col\" class=\"worst\">worst stage</th>" }
        html += "</tr></thead>\n<tbody>\n"
        for row in rows {
            html += "<tr><th scope=\"row\" class=\"group\" dir=\"auto\" title=\"\(escape(row.group))\">"
            html += "\(escape(row.group))</th>"
            for (index, cell) in row.cells.enumerated() {
                html += self.cell(cell, grid, label(grid.windows[index], grid))
            }
            html += self.cell(row.total, grid, "all windows")
            html += "<td class=\"n\">\(Figures.short(row.total.count))</td>"
            if hasStages {
                let worst = row.total.stages.max { $0.share < $1.share }
                html += "<td class=\"worst\">"
                html += worst.map { "\(escape($0.stage)) \(Int(($0.share * 100).rounded())) %" } ?? "·"
                html += "</td>"
            }
            html += "</tr>\n"
        }
        return html + "</tbody>\n</table>\n</div>\n"
    }

    private static func label(_ window: HeatmapGrid.Window, _ grid: HeatmapGrid) -> String {
        grid.windowSeconds >= 86_400
            ? grid.civil.monthAndDay(window.start)
            : grid.civil.time(window.start, withSeconds: grid.windowSeconds % 60 != 0)
    }

    private static func cell(_ cell: HeatmapGrid.Cell?, _ grid: HeatmapGrid, _ label: String) -> String {
        guard let cell else { return "<td class=\"none\">·</td>" }
        let hasValue = cell.count >= HeatmapGrid.noSample
        let figure =
            hasValue
            ? (cell.count < HeatmapGrid.lowSample ? "~" : "") + Figures.milliseconds(cell.quantileNano) : "--"
        let classes = hasValue ? cell.level.letter.lowercased() : "few"
        var html = "<td class=\"\(classes)\"><details name=\"cell\"><summary>\(figure)"
        if hasValue { html += "<i>\(cell.level.letter)</i>" }
        if cell.state == .revised { html += "<sup>*</sup>" }
        html += "</summary><div><b>\(label)</b> n=\(Figures.grouped(cell.count))"
        if cell.late > 0 { html += ", late \(Figures.grouped(cell.late))" }
        html += "<br>P50 \(Figures.latency(cell.p50Nano)) · P90 \(Figures.latency(cell.p90Nano))"
        html += " · P95 \(Figures.latency(cell.p95Nano)) · P99 \(Figures.latency(cell.p99Nano))"
        html += " · max \(Figures.latency(cell.maxNano))"
        html += "<br>over \(Figures.latency(grid.sloNano)): \(Figures.grouped(cell.overSLO))"
        if !cell.stages.isEmpty {
            html +=
                "<br>mean: "
                + cell.stages.map {
                    "\(escape($0.stage)) \(Figures.latency($0.meanNano)) (\(Int(($0.share * 100).rounded())) %)"
                }.joined(separator: " · ")
        }
        for trace in cell.slowest {
            html += "<br><code>\(trace.traceID)</code> \(Figures.latency(trace.latencyNano))"
        }
        return html + "</div></details></td>"
    }

    private static func legend(_ grid: HeatmapGrid, shown: Int) -> String {
        var html = "<footer><p class=\"legend\">"
        for (level, meaning) in zip(LatencyLevel.allCases, Figures.legend(grid.levels)) {
            html += "<span class=\"\(level.letter.lowercased())\">\(escape(meaning))</span> "
        }
        html += "~ n &lt; \(HeatmapGrid.lowSample)  -- n &lt; "
        html += "\(HeatmapGrid.noSample)  · none  * revised: latencies came after the window was over</p>"
        let omitted = grid.omittedRows + grid.rows.count - shown
        if omitted > 0 { html += "<p>\(Figures.grouped(UInt64(omitted))) more groups are in the CSV.</p>" }
        if grid.overflowed > 0 {
            html +=
                "<p>\(Figures.grouped(grid.overflowed)) latencies are in (other): more groups came than the settings "
            html += "allow.</p>"
        }
        html += "<p>Percentiles are nearest rank on merged base-2 exponential sketches of scale 6, exact up to "
        html += "\(Sketch.exactLimit) values; they are never averaged. Written by Isotherm.</p></footer>\n"
        return html
    }

    /// For text and for attribute values in double quotes.
    private static func escape(_ text: String) -> String {
        var escaped = ""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "&": escaped += "&amp;"
            case "<": escaped += "&lt;"
            case ">": escaped += "&gt;"
            case "\"": escaped += "&quot;"
            case "'": escaped += "&#39;"
            case _ where TextWidth.isControl(scalar): escaped += "\u{FFFD}"
            default: escaped.unicodeScalars.append(scalar)
            }
        }
        return escaped
    }

    private static let style = """
        :root{--ink:#1b1f24;--soft:#59636e;--page:#fff;--line:#d9dee3;--g:#c7ecd0;--y:#fbeeb0;--o:#fbd3a4;--r:#f4a9a1}
        @media(prefers-color-scheme:dark){:root{--ink:#e8ebee;--soft:#9aa4ae;--page:#14171a;--line:#333a41;
        --g:#1d4a2b;--y:#574b10;--o:#68400f;--r:#75251f}}
        *{box-sizing:border-box}
        body{margin:0 auto;padding:1.25rem;font:15px/1.45 system-ui,sans-serif;color:var(--ink);background:var(--page)}
        h1{font-size:1.35rem;margin:0 0 .25rem}
        header p,footer p{margin:.25rem 0;color:var(--soft)}
        header b{color:var(--ink)}
        .scroll{overflow-x:auto;margin:1rem 0;padding-bottom:.5rem}
        table{border-collapse:separate;border-spacing:2px;font-variant-numeric:tabular-nums}
        caption{text-align:left;color:var(--soft);padding-bottom:.4rem;caption-side:top}
        thead th{font-weight:500;color:var(--soft);text-align:right;padding:.15rem .45rem;white-space:nowrap}
        th.group{position:sticky;left:0;background:var(--page);text-align:left;font-weight:600;max-width:16rem;
        padding:.15rem .6rem .15rem 0;white-space:nowrap;overflow:hidden;text-overflow:ellipsis;z-index:1}
        td{padding:0;text-align:right;white-space:nowrap;border-radius:4px;vertical-align:top}
        td.none,td.n,td.worst{padding:.2rem .5rem;color:var(--soft)}
        td.worst,th.worst{text-align:left}
        td.few{color:var(--soft)}
        .g{background:var(--g)}.y{background:var(--y)}.o{background:var(--o)}.r{background:var(--r)}
        summary{padding:.2rem .5rem;cursor:pointer;list-style:none;min-width:3.4rem}
        summary::-webkit-details-marker{display:none}
        summary i{font-style:normal;font-size:.72em;opacity:.75;margin-left:.3em}
        summary:focus-visible{outline:2px solid currentColor;outline-offset:1px;border-radius:4px}
        details{position:relative}
        details div{position:absolute;left:0;top:100%;z-index:2;padding:.5rem .7rem;text-align:left;width:max-content;
        max-width:min(26rem,75vw);white-space:normal;color:var(--ink);background:var(--page);font-size:.85rem;
        border:1px solid var(--line);border-radius:6px;box-shadow:0 4px 16px #0003}
        .scroll:has(details[open]){padding-bottom:13rem}
        code{font:.78rem ui-monospace,monospace;overflow-wrap:anywhere}
        .legend span{padding:.1rem .45rem;border-radius:4px;color:var(--ink)}
        .empty{padding:2rem 0;color:var(--soft)}
        @media(max-width:40rem){body{padding:.75rem;font-size:14px}th.group{max-width:8.5rem}}
        @media print{body{padding:0}.scroll{overflow:visible}td,.legend span{print-color-adjust:exact;
        -webkit-print-color-adjust:exact}}
        """
}
