import OTLP

/// What of a grid goes into a page, so that the page is no larger than it may be: windows are joined for the table until it
/// and the data fit, and then rows are left out.
enum PageLayout {
    /// More cells than these make a table that leaves no room for their data.
    private static let mostCells = 9_000
    /// Of the table when each window is drawn as well: the file has to hold both.
    private static let mostJoinedCells = 1_600
    /// Coarser sketches are worth less than fewer columns.
    private static let coarsest = 2

    private struct Shape {
        var rows: Int
        var columns: HeatmapGrid

        init(_ grid: HeatmapGrid) {
            rows = Swift.min(grid.rows.count, HeatmapHTML.maxRows)
            let count = grid.windows.count
            columns =
                count <= HeatmapHTML.maxColumns && rows * count <= PageLayout.mostCells
                ? grid : grid.joined(toAtMost: Self.joinedColumns(rows))
        }

        private static func joinedColumns(_ rows: Int) -> Int {
            Swift.max(2, Swift.min(31, PageLayout.mostJoinedCells / rows))
        }

        /// Whether there is anything left that can go.
        var canShrink: Bool { rows > 1 || columns.windows.count > 1 }

        mutating func shrink(_ grid: HeatmapGrid) {
            let count = columns.windows.count
            if count > 1 {
                columns = grid.joined(toAtMost: Swift.min(count / 2, Self.joinedColumns(rows)))
            } else {
                rows = rows * 3 / 4
            }
        }

        var leastScale: Int { columns.windows.count > 1 ? PageLayout.coarsest : 0 }
    }

    /// For a page that is there already.
    static func data(_ grid: HeatmapGrid, traceURL: String?, limit: Int) -> PageData {
        var shape = Shape(grid)
        while true {
            let data = PageData(
                grid: grid, columns: shape.columns, rows: shape.rows, hasNames: true, traceURL: traceURL,
                leastScale: shape.leastScale, limit: shape.canShrink ? limit : .max)
            if let data { return data }
            shape.shrink(grid)
        }
    }

    static func page(_ grid: HeatmapGrid, options: HeatmapHTML.Options, limit: Int) -> [UInt8] {
        var shape = Shape(grid)
        while true {
            var html = PageBytes()
            document(grid, shape, options, &html)
            let last = "</script>\n<script>\(Page.script)</script>\n</body>\n</html>\n"
            let data = PageData(
                grid: grid, columns: shape.columns, rows: shape.rows, hasNames: false, traceURL: options.traceURL,
                leastScale: shape.leastScale,
                limit: shape.canShrink ? limit - html.bytes.count - last.utf8.count - 2 : .max)
            guard let data else {
                shape.shrink(grid)
                continue
            }
            html.add(data.body)
            html.add("\">")
            html.json(data.header.bytes)
            html.add(last)
            return html.bytes
        }
    }

    /// Up to the data's body.
    private static func document(
        _ grid: HeatmapGrid, _ shape: Shape, _ options: HeatmapHTML.Options, _ html: inout PageBytes
    ) {
        HeatmapHTML.begin(
            HeatmapHTML.title(grid), HeatmapHTML.line(grid), headline: HeatmapHTML.headline(grid),
            isLive: options.liveAddress != nil, &html)
        var table = PageTable(grid: grid, columns: shape.columns, rows: shape.rows, options: options, html: html)
        table.legend()
        table.html.add("<div id=\"tools\" class=\"tools\" hidden></div>\n</header>\n<main>\n")
        table.html.add(
            "<p id=\"none\" class=\"empty\"\(shape.rows > 0 ? " hidden" : "")>No latencies in this range yet.</p>\n")
        table.cells()
        table.html.add(
            """
            <p id="finenote" hidden></p>
            <div id="fine" hidden><div id="sizer"><canvas id="canvas" tabindex="0" role="application" \
            aria-label="Every window of every group. Arrow keys move, Enter opens."></canvas></div></div>
            <p id="said" class="spoken" aria-live="polite"></p>
            <aside id="panel" tabindex="-1" aria-label="Cell" hidden></aside>
            <div id="tip" aria-hidden="true" hidden></div>

            """)
        if shape.rows > 0 { table.summary() }
        table.html.add("</main>\n")
        table.footer()
        html = table.html
        html.add("<script type=\"application/json\" id=\"grid\"")
        if let address = options.liveAddress {
            html.add(" data-live=\"")
            html.text(address)
            html.add("\"")
        }
        html.add(" data-body=\"")
    }
}
