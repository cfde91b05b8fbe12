extension HeatmapHTML {
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
        var html = PageBytes()
        begin(visible(title), visible(line), headline: nil, isLive: false, &html)
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
                "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Table\">\n<table id=\"table\">\n<caption><span>"
            )
            html.text(caption)
            html.add("</span></caption>\n<thead><tr>")
            for (number, name) in head.enumerated() {
                html.add(
                    "<th scope=\"col\"" + (number == 0 ? " class=\"group\">" : name == "all" ? " class=\"all\">" : ">"))
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
}
