/// The report as tidy CSV (RFC 4180): a row for each cell, also for empty ones, whose figures are blank, not zero.
public enum HeatmapCSV {
    static let header = [
        "window_start", "window_end", "device_group", "stage", "count", "p50_ms", "p90_ms", "p95_ms", "p99_ms",
        "max_ms",
        "level", "slo_ms", "over_slo_count", "late_count", "state", "trace_ids",
    ]

    /// Lines end in CRLF. Times are RFC 3339 with the zone's offset; `trace_ids` are separated by blanks.
    public static func render(_ grid: HeatmapGrid) -> String { parts(grid).text }

    /// The same in parts, one for each group.
    static func parts(_ grid: HeatmapGrid) -> ReportParts {
        let slo = Figures.exactMilliseconds(grid.sloNano)
        let spans = grid.windows.map { "\(grid.civil.rfc3339($0.start)),\(grid.civil.rfc3339($0.end))," }
        let stage = field(grid.stage)
        return ReportParts(Array((header.joined(separator: ",") + "\r\n").utf8), grid.rows) { _, row in
            let group = field(row.group)
            var text = ""
            for (index, cell) in row.cells.enumerated() {
                text += spans[index] + group + "," + stage + ","
                if let cell {
                    text += "\(cell.count),"
                    for figure in [cell.p50Nano, cell.p90Nano, cell.p95Nano, cell.p99Nano, cell.maxNano] {
                        text += Figures.exactMilliseconds(figure) + ","
                    }
                    text += "\(cell.level.rawValue),\(slo),\(cell.overSLO),\(cell.late),\(cell.state.rawValue),"
                    text += cell.slowest.map(\.traceID).joined(separator: " ")
                } else {
                    text += "0,,,,,,,\(slo),,,empty,"
                }
                text += "\r\n"
            }
            return Array(text.utf8)
        }
    }

    /// Quoted where it must be. A leading `= + - @`, also full-width, or control character would make a spreadsheet
    /// compute: an apostrophe before it makes it text (OWASP, "CSV Injection").
    static func field(_ text: String) -> String {
        var safe = text
        if let first = text.unicodeScalars.first, "=+-@\t\r\n＝＋－＠".unicodeScalars.contains(first) { safe = "'" + text }
        guard safe.unicodeScalars.contains(where: { ",\"\r\n".unicodeScalars.contains($0) }) || safe != text else {
            return safe
        }
        var quoted = "\""
        // By scalars: a quotation mark with an accent on it is still one.
        for scalar in safe.unicodeScalars {
            if scalar == "\"" { quoted.unicodeScalars.append(scalar) }
            quoted.unicodeScalars.append(scalar)
        }
        return quoted + "\""
    }
}
