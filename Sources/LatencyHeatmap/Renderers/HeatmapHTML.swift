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
    public static let maxRows = 1_000
    /// A table has at most so many columns; where there are more windows they are joined, and the script draws each.
    static let maxColumns = 62
    /// A document has at most so many bytes: windows are joined, traces and precision are left out until it has.
    static let limit = 300_000

    /// Strict also where the document is opened from a disk: nothing is loaded, only the script and the style that are in
    /// it are taken, and only a live page may ask, its own server.
    public static func contentSecurityPolicy(isLive: Bool) -> String {
        "default-src 'none'; script-src 'sha256-\(Page.scriptHash)'; style-src 'sha256-\(Page.styleHash)'; "
            + "connect-src \(isLive ? "'self'" : "'none'"); base-uri 'none'; form-action 'none'; "
            + "require-trusted-types-for 'script'; trusted-types 'none'"
    }

    public static func render(_ grid: HeatmapGrid, options: Options = Options()) -> String {
        render(grid, options: options, limit: limit)
    }

    static func render(_ grid: HeatmapGrid, options: Options, limit: Int) -> String {
        String(decoding: PageLayout.page(grid, options: options, limit: limit), as: UTF8.self)
    }

    /// A document up to what follows its title.
    static func begin(
        _ title: String, _ line: String, headline: String?, isLive: Bool, _ html: inout PageBytes
    ) {
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
        if let headline {
            html.add("<p id=\"headline\">")
            html.text(headline)
            html.add("</p>\n")
        }
        if isLive { html.add("<p id=\"live\" role=\"status\"></p>\n") }
    }

    /// What a live page takes instead of its own data: one line of JSON.
    public static func update(_ grid: HeatmapGrid, options: Options = Options()) -> String {
        let data = PageLayout.data(grid, traceURL: options.traceURL, limit: limit * 3 / 5)
        var json = JSONWriter()
        json.beginObject()
        json.field("line", line(grid))
        json.field("headline", headline(grid))
        json.field("body", data.body)
        json.key("header")
        json.raw(data.header.bytes)
        json.endObject()
        return String(decoding: json.bytes, as: UTF8.self)
    }

    // MARK: Texts

    static func title(_ grid: HeatmapGrid) -> String {
        visible("\(grid.quantileName) \(TextLayout.subject(grid.stage)) by \(grid.groupName)")
    }

    static func caption(_ grid: HeatmapGrid) -> String {
        let part = (grid.quantile * 1_000_000).rounded() / 10_000
        let percent = part == part.rounded() ? "\(Int(part))" : "\(part)"
        return "\(grid.quantileName) in milliseconds: \(percent) % of a window’s latencies are at most this"
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

    /// What a reader wants to know first: which groups are slowest, and how many are too slow.
    static func headline(_ grid: HeatmapGrid) -> String {
        let known = grid.rows.filter { $0.total.count >= HeatmapGrid.noSample }
        guard !known.isEmpty else { return "" }
        let slowest = known.sorted { $0.total.quantileNano > $1.total.quantileNano }.prefix(3).map { row in
            // Isolated, so that a name that is read from right to left does not move the figure.
            let name = visible(row.group)
            return
                "\u{2068}\(name.count > 40 ? name.prefix(39) + "…" : name)\u{2069} \(Figures.latency(row.total.quantileNano))"
        }
        let all = Figures.grouped(UInt64(known.count)) + (known.count == 1 ? " group" : " groups")
        let red = known.count { $0.total.level == .red }
        var parts = ["Slowest: \(slowest.joined(separator: ", "))"]
        parts.append(
            "\(red == 0 ? "none" : Figures.grouped(UInt64(red))) of \(all) at \(Figures.latency(grid.levels[2])) or more"
        )
        if grid.comparison != nil {
            func count(_ verdict: HeatmapGrid.Change.Verdict) -> String {
                let count = known.count { $0.total.change?.verdict == verdict }
                return count == 0 ? "none" : Figures.grouped(UInt64(count))
            }
            parts.append("\(count(.slower)) slower for sure, \(count(.faster)) faster")
        }
        return parts.joined(separator: " · ")
    }

    /// Without what moves, hides or turns around the text beside it.
    static func visible(_ text: String) -> String {
        guard text.unicodeScalars.contains(where: TextWidth.isControl) else { return text }
        var clean = String.UnicodeScalarView()
        for scalar in text.unicodeScalars { clean.append(TextWidth.isControl(scalar) ? "\u{FFFD}" : scalar) }
        return String(clean)
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
