/// The report as JSON (RFC 8259): `windows`, and for each group as many `cells`, null where there is nothing.
/// Latencies are whole nanoseconds, times RFC 3339.
public enum HeatmapJSON {
    public static func render(_ grid: HeatmapGrid) -> String {
        var text = "{\"quantile\":\(grid.quantile),\"stage\":\(string(grid.stage)),\"group_by\":["
        text += grid.groupBy.map(string).joined(separator: ",")
        text += "],\"time_zone\":\(string(grid.timeZone)),\"window_seconds\":\(grid.windowSeconds)"
        text += ",\"count\":\(grid.count),\"late_count\":\(grid.late),\"relative_error\":\(grid.relativeError)"
        text += ",\"slo_ns\":\(grid.sloNano),\"levels_ns\":[\(grid.levels.map(String.init).joined(separator: ","))]"
        text += ",\"overflowed_count\":\(grid.overflowed),\"omitted_groups\":\(grid.omittedRows),\"windows\":["
        text += grid.windows.map {
            "{\"start\":\"\(grid.civil.rfc3339($0.start))\",\"end\":\"\(grid.civil.rfc3339($0.end))\"}"
        }.joined(separator: ",")
        text += "],\"groups\":["
        for (index, row) in grid.rows.enumerated() {
            text +=
                (index > 0 ? "," : "") + "{\"group\":\(string(row.group)),\"total\":" + cell(row.total) + ",\"cells\":["
            text += row.cells.map { $0.map(cell) ?? "null" }.joined(separator: ",")
            text += "]}"
        }
        return text + "]}\n"
    }

    private static func cell(_ cell: HeatmapGrid.Cell) -> String {
        var text = "{\"count\":\(cell.count),\"value_ns\":\(cell.quantileNano),\"p50_ns\":\(cell.p50Nano)"
        text += ",\"p90_ns\":\(cell.p90Nano),\"p95_ns\":\(cell.p95Nano),\"p99_ns\":\(cell.p99Nano)"
        text += ",\"max_ns\":\(cell.maxNano),\"level\":\"\(cell.level.rawValue)\",\"over_slo_count\":\(cell.overSLO)"
        text += ",\"late_count\":\(cell.late),\"state\":\"\(cell.state.rawValue)\",\"trace_ids\":["
        text += cell.slowest.map { "\"\($0.traceID)\"" }.joined(separator: ",")
        text += "],\"stages\":["
        text += cell.stages.map {
            "{\"stage\":\(string($0.stage)),\"mean_ns\":\($0.meanNano),\"share\":\(Figures.decimal($0.share, 4))}"
        }.joined(separator: ",")
        return text + "]}"
    }

    private static func string(_ text: String) -> String {
        var quoted = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": quoted += "\\\""
            case "\\": quoted += "\\\\"
            case _ where scalar.value < 0x20 || scalar.value == 0x7F:
                let hex = String(scalar.value, radix: 16)
                quoted += "\\u" + String(repeating: "0", count: 4 - hex.count) + hex
            default: quoted.unicodeScalars.append(scalar)
            }
        }
        return quoted + "\""
    }
}
