/// The parts of a page that read without a script: the table with its legend, and each group in figures.
struct PageTable {
    let grid: HeatmapGrid
    /// With the table's own columns.
    let columns: HeatmapGrid
    let rows: Int
    let options: HeatmapHTML.Options
    var html: PageBytes

    /// Rows beyond this many have no figures of their own below the table.
    private static let mostSummaries = 100

    private var isJoined: Bool { columns.windows.count < grid.windows.count }

    // MARK: The table

    mutating func cells() {
        let hasStages = columns.rows.prefix(rows).contains { !$0.total.stages.isEmpty }
        html.add("<div id=\"scroll\" class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Heatmap\"")
        html.add(rows == 0 ? " hidden>\n" : ">\n")
        html.add("<table id=\"table\">\n<caption><span>\(HeatmapHTML.caption(grid))")
        if isJoined {
            html.add("; windows of \(Figures.span(grid.windowSeconds)) joined into ")
            html.add(Figures.span(columns.windowSeconds))
        }
        html.add("</span></caption>\n<thead><tr><th scope=\"col\" class=\"group\">group</th>")
        var day = ""
        for window in columns.windows {
            let isDay = columns.windowSeconds >= 86_400
            let date = columns.civil.monthAndDay(window.start)
            html.add("<th scope=\"col\">")
            if !isDay, !day.isEmpty, day != date { html.add("<span>\(date)</span>") }
            day = date
            html.add(
                isDay ? date : columns.civil.time(window.start, withSeconds: columns.windowSeconds % 60 != 0))
            html.add("</th>")
        }
        html.add("<th scope=\"col\" class=\"all\">all</th><th scope=\"col\">n</th>")
        if hasStages { html.add("<th scope=\"col\" class=\"worst\">worst stage</th>") }
        html.add("</tr></thead>\n<tbody>\n")
        for row in columns.rows.prefix(rows) {
            name(row)
            for each in row.cells { cell(each, isTotal: false) }
            cell(row.total, isTotal: true)
            html.add("<td class=n>")
            html.add(Figures.short(row.total.count))
            if hasStages {
                html.add("<td class=worst>")
                if let worst = row.total.stages.max(by: { $0.percent < $1.percent }) {
                    html.text(HeatmapHTML.visible(worst.stage))
                    html.add(" \(worst.percent) %")
                } else {
                    html.add("·")
                }
            }
            html.add("\n")
        }
        html.add("</tbody>\n</table>\n</div>\n")
    }

    /// Attributes without quotes and no end tags: a large table is made of these.
    private mutating func name(_ row: HeatmapGrid.Row) {
        html.add("<tr><th scope=row dir=auto>")
        html.text(HeatmapHTML.visible(row.group))
    }

    /// Green is what a cell is without a class.
    private mutating func cell(_ cell: HeatmapGrid.Cell?, isTotal: Bool) {
        guard let cell else { return html.add(isTotal ? "<td class=\"none all\">·" : "<td class=none>·") }
        let hasValue = cell.count >= HeatmapGrid.noSample
        if isTotal {
            html.add("<td class=\"all ")
            html.add(hasValue ? Self.kind(cell.level) : "few")
            html.add("\">")
        } else if hasValue, cell.level == .green {
            html.add("<td>")
        } else {
            html.add("<td class=")
            html.add(hasValue ? Self.kind(cell.level) : "few")
            html.add(">")
        }
        guard hasValue else { return html.add(cell.state == .revised ? "--*" : "--") }
        if cell.count < HeatmapGrid.lowSample { html.add("~") }
        html.add(Figures.short(milliseconds: cell.quantileNano))
        html.add(" ")
        html.bytes.append(cell.level.letter.asciiValue ?? 0x3F)
        if let mark = cell.change?.verdict.mark { html.add(mark) }
        if cell.state == .revised { html.add("*") }
    }

    private static func kind(_ level: LatencyLevel) -> StaticString {
        switch level {
        case .green: "g"
        case .yellow: "y"
        case .orange: "o"
        case .red: "r"
        }
    }

    // MARK: Around it

    mutating func legend() {
        html.add("<ul class=\"legend\" aria-label=\"Legend\">")
        for (level, meaning) in zip(LatencyLevel.allCases, Figures.legend(grid.levels)) {
            html.add("<li class=")
            html.add(Self.kind(level))
            html.add(">")
            html.text(meaning)
            html.add("</li>")
        }
        var words = [
            "~ few: n < \(HeatmapGrid.lowSample)", "-- too few: n < \(HeatmapGrid.noSample)", "· none",
            "* revised by late ones",
        ]
        if grid.comparison != nil { words += ["▲ slower", "▼ faster, with 95 % confidence"] }
        for word in words {
            html.add("<li class=word>")
            html.text(word)
            html.add("</li>")
        }
        html.add("</ul>\n")
    }

    /// What the panel of a cell shows with a script, for each group as a whole.
    mutating func summary() {
        let shown = Swift.min(rows, Self.mostSummaries)
        // Few are not worth a click; without links where they would be much of the file: the script has them.
        html.add(rows <= 12 ? "<details open>\n<summary>" : "<details>\n<summary>")
        html.add(shown < rows ? "The first \(shown) groups in figures" : "Each group in figures")
        html.add(
            """
            , with its slowest traces</summary>
            <div class="scroll" tabindex="0" role="region" aria-label="Groups">
            <table>
            <thead><tr><th scope="col" class="group">group</th>
            """)
        for name in ["n", "P50", "P90", "P95", "P99", "max", "over \(Figures.latency(grid.sloNano))", "late"] {
            html.add("<th scope=\"col\">\(name)</th>")
        }
        html.add("<th scope=\"col\" class=\"worst\">mean by stage, slowest traces</th></tr></thead>\n<tbody>\n")
        let own = shown > 40 ? HeatmapHTML.Options() : options
        for row in columns.rows.prefix(shown) {
            let total = row.total
            name(row)
            html.add("<td>\(Figures.grouped(total.count))")
            for figure in [total.p50Nano, total.p90Nano, total.p95Nano, total.p99Nano, total.maxNano] {
                html.add("<td>")
                html.add(Figures.short(milliseconds: figure))
            }
            html.add("<td>\(Figures.percent(total.overSLO, of: total.count))<td>\(Figures.grouped(total.late))<td>")
            let stages = total.stages
            if !stages.isEmpty {
                html.text(stages.map { "\(HeatmapHTML.visible($0.stage)) \($0.percent) %" }.joined(separator: ", "))
                html.add("<br>")
            }
            for trace in total.slowest.prefix(shown > 40 ? 1 : 3) { self.trace(trace, own) }
            html.add("\n")
        }
        html.add("</tbody>\n</table>\n</div>\n</details>\n")
    }

    private mutating func trace(_ trace: SlowTrace, _ options: HeatmapHTML.Options) {
        if let address = options.traceURL {
            html.add("<a rel=\"noopener noreferrer\" href=\"")
            html.text(address.replacing("{trace_id}", with: trace.traceID))
            html.add("\">\(trace.traceID)</a>")
        } else {
            html.add("<code>\(trace.traceID)</code>")
        }
        html.add(" \(Figures.latency(trace.latencyNano))<br>")
    }

    mutating func footer() {
        html.add("<footer>\n<p id=\"kept\" hidden></p>\n")
        let omitted = grid.omittedRows + grid.rows.count - rows
        if omitted > 0 { html.add("<p>\(Figures.grouped(UInt64(omitted))) more groups are in the CSV.</p>\n") }
        if grid.overflowed > 0 {
            html.add("<p>\(Figures.grouped(grid.overflowed)) latencies are in (other): ")
            html.add("more groups came than the settings allow.</p>\n")
        }
        html.add("<p>Percentiles are nearest rank on merged base-2 exponential sketches, exact up to ")
        html.add("\(Sketch.exactLimit) values; they are never averaged. Written by Isotherm.</p>\n</footer>\n")
    }
}
