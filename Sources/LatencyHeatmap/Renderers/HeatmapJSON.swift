import OTLP

/// The report as JSON (RFC 8259): `windows`, and for each group as many `cells`, null where there is nothing.
/// Latencies are whole nanoseconds, times RFC 3339. `docs/heatmap.schema.json` describes it.
public enum HeatmapJSON {
    public static func render(_ grid: HeatmapGrid) -> String { parts(grid).text }

    /// The same in parts, one for each group.
    static func parts(_ grid: HeatmapGrid) -> ReportParts {
        .json(head: { head(grid, &$0) }, array: "groups", grid.rows) { row, json in
            json.beginObject()
            json.field("group", row.group)
            json.key("total")
            cell(row.total, &json)
            json.key("cells")
            json.beginArray()
            for each in row.cells { if let each { cell(each, &json) } else { json.null() } }
            json.endArray()
            json.endObject()
        }
    }

    private static func head(_ grid: HeatmapGrid, _ json: inout JSONWriter) {
        json.field("quantile", grid.quantile)
        json.field("stage", grid.stage)
        json.field("group_by", grid.groupBy)
        json.field("filters", grid.filters)
        if let comparison = grid.comparison { json.field("compared_with", comparison) }
        json.field("time_zone", grid.timeZone)
        json.field("window_seconds", grid.windowSeconds)
        json.field("count", grid.count)
        json.field("late_count", grid.late)
        json.field("relative_error", grid.relativeError)
        json.field("slo_ns", grid.sloNano)
        json.field("levels_ns", grid.levels)
        json.field("overflowed_count", grid.overflowed)
        json.field("omitted_groups", grid.omittedRows)
        json.key("windows")
        json.beginArray()
        for window in grid.windows {
            json.beginObject()
            json.field("start", grid.civil.rfc3339(window.start))
            json.field("end", grid.civil.rfc3339(window.end))
            json.endObject()
        }
        json.endArray()
    }

    private static func cell(_ cell: HeatmapGrid.Cell, _ json: inout JSONWriter) {
        json.beginObject()
        json.field("count", cell.count)
        json.field("value_ns", cell.quantileNano)
        if let interval = cell.interval { json.field("confidence_95_ns", [interval.lower, interval.upper]) }
        json.field("p50_ns", cell.p50Nano)
        json.field("p90_ns", cell.p90Nano)
        json.field("p95_ns", cell.p95Nano)
        json.field("p99_ns", cell.p99Nano)
        json.field("max_ns", cell.maxNano)
        json.field("level", cell.level.rawValue)
        json.field("over_slo_count", cell.overSLO)
        json.field("late_count", cell.late)
        json.field("state", cell.state.rawValue)
        json.field("trace_ids", cell.slowest.map(\.traceID))
        if let nearest = cell.nearestTrace { json.field("nearest_trace_id", nearest.traceID) }
        json.key("stages")
        json.beginArray()
        for stage in cell.stages {
            json.beginObject()
            json.field("stage", stage.stage)
            json.field("mean_ns", stage.meanNano)
            json.field("share", (stage.share * 10_000).rounded() / 10_000)
            json.field("percent", stage.percent)
            json.endObject()
        }
        json.endArray()
        if let change = cell.change {
            json.key("change")
            json.beginObject()
            json.field("baseline_ns", change.baselineNano)
            json.field("baseline_count", change.baselineCount)
            json.field("verdict", change.verdict.rawValue)
            json.endObject()
        }
        json.endObject()
    }
}
