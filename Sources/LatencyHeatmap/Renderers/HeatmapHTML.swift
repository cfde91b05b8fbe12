import OTLP

/// The report as one HTML file: a table that reads without scripts and without any other file. Where scripts run, it
/// answers more: other quantiles, longer windows, another zone, and for each cell its distribution, stages and traces.
public enum HeatmapHTML {
    public struct Options: Sendable {
        /// Where a trace can be seen: an http or https URL with `{trace_id}` in it. Nil: ids are text.
        public let traceURL: String?
        /// Address, on the server that the page came from, of an event stream with new data: see `update(_:options:)`.
        /// Nil: the page stays as it is.
        public let liveAddress: String?

        public init() { (traceURL, liveAddress) = (nil, nil) }

        /// Nil when the URL is none that a page may lead to.
        public init?(traceURL: String?, liveAddress: String? = nil) {
            if let traceURL {
                let isWeb = ["http://", "https://"].contains { traceURL.lowercased().hasPrefix($0) }
                let isPlain = traceURL.utf8.allSatisfy { 0x21..<0x7F ~= $0 }
                guard isWeb, isPlain, traceURL.utf8.count <= 2_048, traceURL.contains("{trace_id}") else { return nil }
            }
            (self.traceURL, self.liveAddress) = (traceURL, liveAddress)
        }
    }

    /// Rows beyond this many are left out and counted: a browser lays out a larger table slowly.
    public static let maxRows = 500
    /// The table's columns are joined until there are at most so many; the script shows each window.
    static let maxColumns = 62
    /// What a document of 100 rows should not exceed.
    static let size = 278_000

    /// Strict also where the document is opened from a disk: nothing is loaded, only the script and the style that are in
    /// it are taken, and only a live page may ask, its own server.
    public static func contentSecurityPolicy(isLive: Bool) -> String {
        "default-src 'none'; script-src 'sha256-\(Page.scriptHash)'; style-src 'sha256-\(Page.styleHash)'; "
            + "connect-src \(isLive ? "'self'" : "'none'"); base-uri 'none'; form-action 'none'; "
            + "require-trusted-types-for 'script'; trusted-types 'none'"
    }

    public static func render(_ grid: HeatmapGrid, options: Options = Options()) -> String {
        let rows = Swift.min(grid.rows.count, maxRows)
        let columns = columns(grid)
        var html = Bytes()
        begin(title(grid), line(grid), isLive: options.liveAddress != nil, &html)
        legend(grid, &html)
        html.add("<div id=\"tools\" class=\"tools\" hidden></div>\n</header>\n<main>\n")
        if rows == 0 { html.add("<p class=\"empty\">No latencies in this range yet.</p>\n") }
        table(columns, rows, isJoined: columns.windows.count < grid.windows.count ? grid.windowSeconds : nil, &html)
        html.add(
            """
            <div id="fine" hidden><div id="sizer"><canvas id="canvas" tabindex="0" role="application" \
            aria-label="Every window of every group. Arrow keys move, Enter opens."></canvas></div></div>
            <p id="said" class="spoken" aria-live="polite"></p>
            <aside id="panel" tabindex="-1" aria-label="Cell" hidden></aside>
            <div id="tip" aria-hidden="true" hidden></div>

            """)
        if rows > 0 { summary(columns, rows, options, &html) }
        html.add("</main>\n")
        footer(grid, shown: rows, &html)
        let limit = Swift.max(60_000, size - html.bytes.count - Page.script.utf8.count - 1_000) * 3 / 4
        let data = PageData(
            grid: grid, columns: columns, rows: rows, traceURL: options.traceURL, limit: limit)
        html.add("<script type=\"application/json\" id=\"grid\" data-body=\"\(data.body)\"")
        if let address = options.liveAddress {
            html.add(" data-live=\"")
            html.text(address)
            html.add("\"")
        }
        html.add(">")
        html.json(data.header.bytes)
        html.add("</script>\n<script>\(Page.script)</script>\n</body>\n</html>\n")
        return String(decoding: html.bytes, as: UTF8.self)
    }

    /// A document up to what follows its title.
    static func begin(_ title: String, _ line: String, isLive: Bool, _ html: inout Bytes) {
        html.add(
            """
            <!doctype html>
            <html lang="en">
            <head>
            <meta charset="utf-8">
            <meta http-equiv="Content-Security-Policy" content="\(contentSecurityPolicy(isLive: isLive))">
            <meta name="viewport" content="width=device-width, initial-scale=1">
            <meta name="color-scheme" content="light dark">
            <meta name="referrer" content="no-referrer">
            <title>
            """)
        html.text(title)
        html.add("</title>\n<style>\(Page.style)</style>\n</head>\n<body>\n<header>\n<h1>")
        html.text(title)
        html.add("</h1>\n<p id=\"line\">")
        html.text(line)
        html.add("</p>\n")
        if isLive { html.add("<p id=\"live\" role=\"status\"></p>\n") }
    }

    /// A document that is one table, without a script.
    ///
    /// - Parameters:
    ///   - legend: class and words of what the colours and signs mean.
    ///   - head: of its columns; the first is the rows' own.
    ///   - rows: name, class and text of the cells.
    static func page(
        _ title: String, _ line: String, legend: [(kind: String, words: String)], caption: String, head: [String],
        rows: [(name: String, cells: [(kind: String, text: String)])], notes: [String]
    ) -> String {
        var html = Bytes()
        begin(visible(title), visible(line), isLive: false, &html)
        html.add("<ul class=\"legend\" aria-label=\"Legend\">")
        for entry in legend {
            html.add("<li class=\"\(entry.kind)\">")
            html.text(entry.words)
            html.add("</li>")
        }
        html.add("</ul>\n</header>\n<main>\n")
        if rows.isEmpty {
            html.add("<p class=\"empty\">No latencies in this range yet.</p>\n")
        } else {
            html.add(
                "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Table\">\n<table id=\"table\">\n<caption>"
            )
            html.text(caption)
            html.add("</caption>\n<thead><tr>")
            for (number, name) in head.enumerated() {
                html.add(number == 0 ? "<th scope=\"col\" class=\"group\">" : "<th scope=\"col\">")
                html.text(name)
                html.add("</th>")
            }
            html.add("</tr></thead>\n<tbody>\n")
            for row in rows {
                html.add("<tr><th scope=\"row\" class=\"group\" dir=\"auto\" title=\"")
                html.text(visible(row.name))
                html.add("\">")
                html.text(visible(row.name))
                html.add("</th>")
                for cell in row.cells {
                    html.add("<td class=\"\(cell.kind)\">")
                    html.text(cell.text)
                    html.add("</td>")
                }
                html.add("</tr>\n")
            }
            html.add("</tbody>\n</table>\n</div>\n")
        }
        html.add("</main>\n<footer>\n")
        for note in notes {
            html.add("<p>")
            html.text(note)
            html.add("</p>\n")
        }
        html.add("<p>Written by Isotherm.</p>\n</footer>\n</body>\n</html>\n")
        return String(decoding: html.bytes, as: UTF8.self)
    }

    /// What a live page takes instead of its own data: one line of JSON.
    public static func update(_ grid: HeatmapGrid, options: Options = Options()) -> String {
        let data = PageData(
            grid: grid, columns: columns(grid), rows: Swift.min(grid.rows.count, maxRows), traceURL: options.traceURL,
            limit: size * 3 / 5)
        var json = JSONWriter()
        json.beginObject()
        json.field("line", line(grid))
        json.field("body", data.body)
        json.key("header")
        json.raw(data.header.bytes)
        json.endObject()
        return String(decoding: json.bytes, as: UTF8.self)
    }

    private static func columns(_ grid: HeatmapGrid) -> HeatmapGrid {
        guard grid.windows.count > maxColumns else { return grid }
        // Far fewer than fit when there is each window as well: the file has to hold both.
        return grid.joined(toAtMost: grid.rows.count > 50 ? 15 : 31)
    }

    // MARK: Texts

    private static func title(_ grid: HeatmapGrid) -> String {
        visible("\(grid.quantileName) \(TextLayout.subject(grid.stage)) by \(grid.groupName)")
    }

    static func line(_ grid: HeatmapGrid) -> String {
        var parts = [
            HeatmapText.range(grid), "windows of \(Figures.span(grid.windowSeconds))",
            "\(Figures.grouped(grid.count)) latencies", "late \(Figures.percent(grid.late, of: grid.count))",
            grid.relativeError == 0 ? "exact" : "error ≤ \(Figures.decimal(grid.relativeError * 100, 2)) %",
        ]
        parts += grid.filters
        if let comparison = grid.comparison { parts.append("against \(comparison)") }
        return parts.map(visible).filter { !$0.isEmpty }.joined(separator: " · ")
    }

    /// Without what moves, hides or turns around the text beside it.
    static func visible(_ text: String) -> String {
        guard text.unicodeScalars.contains(where: TextWidth.isControl) else { return text }
        var clean = String.UnicodeScalarView()
        for scalar in text.unicodeScalars { clean.append(TextWidth.isControl(scalar) ? "\u{FFFD}" : scalar) }
        return String(clean)
    }

    // MARK: The table

    private static func table(_ grid: HeatmapGrid, _ rows: Int, isJoined window: Int64?, _ html: inout Bytes) {
        let hasStages = grid.rows.prefix(rows).contains { !$0.total.stages.isEmpty }
        html.add("<div id=\"scroll\" class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Heatmap\"")
        html.add(rows == 0 ? " hidden>\n" : ">\n")
        html.add("<table id=\"table\">\n<caption>\(grid.quantileName) in milliseconds")
        if let window {
            html.add(", windows of \(Figures.span(window)) joined into \(Figures.span(grid.windowSeconds))")
        }
        html.add("</caption>\n<thead><tr><th scope=\"col\" class=\"group\">group</th>")
        var day = ""
        for window in grid.windows {
            let isDay = grid.windowSeconds >= 86_400
            let date = grid.civil.monthAndDay(window.start)
            html.add("<th scope=\"col\">")
            if !isDay, !day.isEmpty, day != date { html.add("<span>\(date)</span>") }
            day = date
            html.add(
                isDay ? date : grid.civil.time(window.start, withSeconds: grid.windowSeconds % 60 != 0))
            html.add("</th>")
        }
        html.add("<th scope=\"col\" class=\"all\">all</th><th scope=\"col\">n</th>")
        if hasStages { html.add("<th scope=\"col\" class=\"worst\">worst stage</th>") }
        html.add("</tr></thead>\n<tbody>\n")
        for row in grid.rows.prefix(rows) {
            html.add("<tr><th scope=\"row\" class=\"group\" dir=\"auto\" title=\"")
            html.text(visible(row.group))
            html.add("\">")
            html.text(visible(row.group))
            html.add("</th>")
            for each in row.cells { cell(each, isTotal: false, &html) }
            cell(row.total, isTotal: true, &html)
            html.add("<td class=\"n\">\(Figures.short(row.total.count))</td>")
            if hasStages {
                html.add("<td class=\"worst\">")
                if let worst = row.total.stages.max(by: { $0.percent < $1.percent }) {
                    html.text(visible(worst.stage))
                    html.add(" \(worst.percent) %")
                } else {
                    html.add("·")
                }
                html.add("</td>")
            }
            html.add("</tr>\n")
        }
        html.add("</tbody>\n</table>\n</div>\n")
    }

    /// Attributes without quotes and no end tags: a large table is made of these.
    private static func cell(_ cell: HeatmapGrid.Cell?, isTotal: Bool, _ html: inout Bytes) {
        guard let cell else { return html.add(isTotal ? "<td class=\"none all\">·" : "<td class=none>·") }
        let hasValue = cell.count >= HeatmapGrid.noSample
        let kind: StaticString =
            hasValue
            ? cell.level == .green ? "g" : cell.level == .yellow ? "y" : cell.level == .orange ? "o" : "r" : "few"
        html.add(isTotal ? "<td class=\"" : "<td class=")
        html.add(kind)
        html.add(isTotal ? " all\">" : ">")
        guard hasValue else {
            html.add(cell.state == .revised ? "--*" : "--")
            return
        }
        if cell.count < HeatmapGrid.lowSample { html.add("~") }
        html.add(Figures.milliseconds(cell.quantileNano))
        html.add(" ")
        html.bytes.append(cell.level.letter.asciiValue ?? 0x3F)
        if let mark = cell.change?.verdict.mark { html.add(mark) }
        if cell.state == .revised { html.add("*") }
    }

    // MARK: Around it

    private static func legend(_ grid: HeatmapGrid, _ html: inout Bytes) {
        html.add("<ul class=\"legend\" aria-label=\"Legend\">")
        for (level, meaning) in zip(LatencyLevel.allCases, Figures.legend(grid.levels)) {
            html.add("<li class=\"\(level.letter.lowercased())\">")
            html.text(meaning)
            html.add("</li>")
        }
        var words = [
            "~ n < \(HeatmapGrid.lowSample)", "-- n < \(HeatmapGrid.noSample)", "· none", "* revised by late ones",
        ]
        if grid.comparison != nil { words += ["▲ slower", "▼ faster, with 95 % confidence"] }
        for word in words {
            html.add("<li class=\"word\">")
            html.text(word)
            html.add("</li>")
        }
        html.add("</ul>\n")
    }

    /// What the panel of a cell shows with a script, for each group as a whole.
    private static func summary(_ grid: HeatmapGrid, _ rows: Int, _ options: Options, _ html: inout Bytes) {
        html.add(
            """
            <details>
            <summary>Each group in figures, with its slowest traces</summary>
            <div class="scroll" tabindex="0" role="region" aria-label="Groups">
            <table>
            <thead><tr><th scope="col" class="group">group</th>
            """)
        for name in ["n", "P50", "P90", "P95", "P99", "max", "over \(Figures.latency(grid.sloNano))", "late"] {
            html.add("<th scope=\"col\">\(name)</th>")
        }
        html.add("<th scope=\"col\" class=\"worst\">mean by stage, slowest traces</th></tr></thead>\n<tbody>\n")
        for row in grid.rows.prefix(rows) {
            let total = row.total
            html.add("<tr><th scope=\"row\" class=\"group\" dir=\"auto\">")
            html.text(visible(row.group))
            html.add("</th><td class=n>\(Figures.grouped(total.count))")
            for figure in [total.p50Nano, total.p90Nano, total.p95Nano, total.p99Nano, total.maxNano] {
                html.add("<td class=n>\(Figures.milliseconds(figure))")
            }
            html.add("<td class=n>\(Figures.percent(total.overSLO, of: total.count))")
            html.add("<td class=n>\(Figures.grouped(total.late))<td class=\"worst ids\">")
            let stages = total.stages
            if !stages.isEmpty {
                html.text(stages.map { "\(visible($0.stage)) \($0.percent) %" }.joined(separator: ", "))
                html.add("<br>")
            }
            // Without links where they would be much of the file: the script has them.
            let own = rows > 40 ? Options() : options
            for trace in total.slowest.prefix(rows > 40 ? 1 : 3) { Self.trace(trace, own, &html) }
            html.add("</td></tr>\n")
        }
        html.add("</tbody>\n</table>\n</div>\n</details>\n")
    }

    private static func trace(_ trace: SlowTrace, _ options: Options, _ html: inout Bytes) {
        if let address = options.traceURL {
            html.add("<a rel=\"noopener noreferrer\" href=\"")
            html.text(address.replacing("{trace_id}", with: trace.traceID))
            html.add("\">\(trace.traceID)</a>")
        } else {
            html.add("<code>\(trace.traceID)</code>")
        }
        html.add(" \(Figures.latency(trace.latencyNano))<br>")
    }

    private static func footer(_ grid: HeatmapGrid, shown: Int, _ html: inout Bytes) {
        html.add("<footer>\n")
        let omitted = grid.omittedRows + grid.rows.count - shown
        if omitted > 0 { html.add("<p>\(Figures.grouped(UInt64(omitted))) more groups are in the CSV.</p>\n") }
        if grid.overflowed > 0 {
            html.add("<p>\(Figures.grouped(grid.overflowed)) latencies are in (other): ")
            html.add("more groups came than the settings allow.</p>\n")
        }
        html.add("<p>Percentiles are nearest rank on merged base-2 exponential sketches, exact up to ")
        html.add("\(Sketch.exactLimit) values; they are never averaged. Written by Isotherm.</p>\n</footer>\n")
    }

    /// The document as it grows.
    struct Bytes {
        var bytes: [UInt8] = []

        init() { bytes.reserveCapacity(1 << 18) }

        mutating func add(_ markup: String) { bytes.append(contentsOf: markup.utf8) }

        mutating func add(_ markup: StaticString) {
            bytes.append(contentsOf: UnsafeBufferPointer(start: markup.utf8Start, count: markup.utf8CodeUnitCount))
        }

        /// For text and for attribute values in double quotes.
        mutating func text(_ text: String) {
            for byte in text.utf8 {
                switch byte {
                case UInt8(ascii: "&"): add("&amp;")
                case UInt8(ascii: "<"): add("&lt;")
                case UInt8(ascii: ">"): add("&gt;")
                case UInt8(ascii: "\""): add("&quot;")
                case UInt8(ascii: "'"): add("&#39;")
                default: bytes.append(byte)
                }
            }
        }

        /// So that no name in it ends the script's element.
        mutating func json(_ json: [UInt8]) {
            for byte in json { if byte == UInt8(ascii: "<") { add("\\u003c") } else { bytes.append(byte) } }
        }
    }
}

extension HeatmapGrid.Change.Verdict {
    /// `▲`, `▼`, or nil when nothing is sure.
    var mark: String? {
        switch self {
        case .slower: "▲"
        case .faster: "▼"
        case .unclear: nil
        }
    }
}

/// The script and the style of the page, as they are in the sources, without indentation and comments of whole lines.
enum Page {
    static let script = stripped(PackageResources.page_js)
    static let style = stripped(PackageResources.page_css)
    static let scriptHash = Base64.encode(SHA256.hash(Array(script.utf8)))
    static let styleHash = Base64.encode(SHA256.hash(Array(style.utf8)))

    private static func stripped(_ source: [UInt8]) -> String {
        String(decoding: source, as: UTF8.self).split(separator: "\n").map { $0.drop { $0 == " " } }
            .filter { !$0.isEmpty && !$0.hasPrefix("//") }.joined(separator: "\n")
    }
}
