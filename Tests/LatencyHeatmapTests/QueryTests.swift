import Foundation
import TestSupport
import Testing

@testable import LatencyHeatmap

@Suite("Questions to the heatmap")
struct QueryTests {
    // MARK: Zones

    /// Where the window of every quarter of an hour begins, by Python's zoneinfo: where the reading of the wall clock
    /// passes a multiple of the length.
    static let zoneProgram = """
        import sys
        from datetime import datetime, timezone
        from zoneinfo import ZoneInfo
        name, length, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
        zone = ZoneInfo(name)
        def number(t):
            d = datetime.fromtimestamp(t, zone)
            wall = int(d.replace(tzinfo=timezone.utc).timestamp())
            return wall // length
        start = last = None
        for t in range(first - 2 * 86400, first + count * 900, 900):
            now = number(t)
            if now != last:
                start, last = t, now
            if t >= first:
                print(t, start)
        """

    @Test(
        "days begin at midnight on the zone's own clock, also when the clock changes",
        arguments: [
            ("Europe/Berlin", 86_400, "2026-10-20"), ("Europe/Berlin", 86_400, "2026-03-25"),
            ("Asia/Shanghai", 86_400, "2026-10-20"), ("America/New_York", 86_400, "2026-03-05"),
            ("America/New_York", 86_400, "2026-10-28"), ("America/Havana", 86_400, "2026-10-28"),
            ("Asia/Beirut", 86_400, "2026-03-25"), ("Australia/Lord_Howe", 86_400, "2026-04-01"),
            ("Europe/Berlin", 21_600, "2026-10-20"), ("Europe/Berlin", 21_600, "2026-03-25"),
            ("Europe/Berlin", 10_800, "2026-10-20"), ("Europe/Berlin", 7_200, "2026-03-25"),
            ("Europe/Berlin", 3_600, "2026-03-25"), ("Asia/Kathmandu", 3_600, "2026-10-20"),
            ("Asia/Kathmandu", 86_400, "2026-10-20"), ("Australia/Adelaide", 86_400, "2026-09-28"),
        ])
    func zones(zone: String, length: Int, day: String) throws {
        let formatter = ISO8601DateFormatter()
        let first = Int(try #require(formatter.date(from: day + "T00:00:00Z")).timeIntervalSince1970)
        let engine = try makeEngine()
        // 11 days, a latency every quarter of an hour, with as many as the quarter's number: a count names its quarters.
        let count = 11 * 96
        let (stage, group) = (engine.stage("deliver"), engine.group("a"))
        for quarter in 0..<count {
            engine.record(
                stage: stage, group: group, endUnixNano: UInt64(first + quarter * 900) * second,
                latencyNano: millisecond, count: UInt64(quarter + 1))
        }
        let lines = try Peers.python(Self.zoneProgram, [zone, "\(length)", "\(first)", "\(count)"]).text
            .split(separator: "\n").map { $0.split(separator: " ").compactMap { Int64($0) } }
        #expect(lines.count == count)
        var expected: [(start: Int64, count: UInt64)] = []
        for (quarter, line) in lines.enumerated() {
            if expected.last?.start == line[1] {
                expected[expected.count - 1].count += UInt64(quarter + 1)
            } else {
                expected.append((line[1], UInt64(quarter + 1)))
            }
        }
        let grid = try engine.grid([("window", "\(length)s"), ("tz", zone)])
        #expect(grid.windows.map(\.start) == expected.map(\.start))
        #expect(grid.row("a")?.cells.map { $0?.count ?? 0 } == expected.map(\.count))
        for (before, after) in zip(grid.windows, grid.windows.dropFirst()) { #expect(before.end == after.start) }
    }

    @Test("an hour that the clock shows twice is two windows")
    func doubledHour() throws {
        let engine = try makeEngine()
        // Berlin, 2026-10-25: 02:00+02:00 is 00:00Z, 02:00+01:00 is 01:00Z, 03:00+01:00 is 02:00Z.
        let midnight: UInt64 = 1_792_886_400
        for hour: UInt64 in 0..<3 { engine.record("a", at: midnight + hour * 3_600 + 1_800, ms: [1], count: hour + 1) }
        let grid = try engine.grid([("window", "1h"), ("tz", "Europe/Berlin")])
        #expect(grid.windows.map(\.start) == (0..<3).map { Int64(midnight) + $0 * 3_600 })
        #expect(grid.row("a")?.cells.map { $0?.count } == [1, 2, 3])
        let csv = HeatmapCSV.render(grid)
        #expect(csv.contains("\r\n2026-10-25T02:00:00+02:00,2026-10-25T02:00:00+01:00,a"))
        #expect(csv.contains("\r\n2026-10-25T02:00:00+01:00,2026-10-25T03:00:00+01:00,a"))
    }

    @Test(
        "the day on which the clock changes has 25 or 23 hours, as the report says",
        arguments: [
            ("2026-10-25T12:00:00Z", "2026-10-25T00:00:00+02:00,2026-10-26T00:00:00+01:00"),
            ("2026-03-29T12:00:00Z", "2026-03-29T00:00:00+01:00,2026-03-30T00:00:00+02:00"),
        ])
    func longDay(noon: String, window: String) throws {
        let engine = try makeEngine()
        let second = UInt64(try #require(ISO8601DateFormatter().date(from: noon)).timeIntervalSince1970)
        for hours: UInt64 in [0, 24, 48] {
            engine.record("a", at: second - 86_400 + hours * 3_600, ms: [1])
        }
        let grid = try engine.grid([("window", "1d"), ("tz", "Europe/Berlin")])
        #expect(grid.row("a")?.cells.map { $0?.count } == [1, 1, 1])
        #expect(HeatmapCSV.render(grid).split(separator: "\r\n")[2].hasPrefix(window))
    }

    @Test(
        "an offset aligns windows as a name does",
        arguments: [("+05:45", -20_700), ("-03:30", 12_600), ("+08:00", -28_800)])
    func offsets(zone: String, midnight: Int64) throws {
        let engine = try makeEngine()
        engine.record("a", at: monday, ms: [1])
        let grid = try engine.grid([("window", "1d"), ("tz", zone)])
        let start = grid.windows[0].start
        #expect((start - midnight) % 86_400 == 0)
        #expect(start <= Int64(monday) && Int64(monday) < grid.windows[0].end)
        #expect(HeatmapCSV.render(grid).contains("T00:00:00\(zone),"))
    }

    @Test("windows that are kept too long to be divided are shown with the times that they really have")
    func unalignable() throws {
        let engine = try makeEngine { $0.window = .seconds(86_400) }
        let midnight = monday - 8 * 3_600
        engine.record("a", at: midnight, ms: [1])
        engine.record("a", at: midnight + 86_399, ms: [1])
        let grid = try engine.grid([("tz", "Asia/Shanghai")])
        #expect(grid.windows.map(\.start) == [Int64(midnight)])
        #expect(grid.windows.map(\.end) == [Int64(midnight) + 86_400])
        #expect(grid.row("a")?.cells.map { $0?.count } == [2])
    }

    // MARK: Ranges

    @Test("a range takes the windows that lie in it")
    func ranges() throws {
        let clock = TestClock(monday + 3_600)
        let engine = try makeEngine(clock: clock)
        for minute: UInt64 in 0..<60 { engine.record("a", at: monday + minute * 60, ms: [1]) }
        #expect(try engine.grid([("since", "2026-11-23T08:10:00Z"), ("until", "2026-11-23T08:20:00Z")]).count == 10)
        #expect(try engine.grid([("since", "10m")]).count == 10)
        #expect(try engine.grid([("until", "2026-11-23T16:20:00+08:00")]).count == 20)
        #expect(try engine.grid([("since", "2026-11-23T08:10:00.5Z"), ("until", "2026-11-23T08:11:00Z")]).count == 1)
        #expect(try engine.grid([("since", "2026-11-24T08:00:00Z")]).rows.isEmpty)
        #expect(try engine.grid([("window", "30m")]).windows.count == 2)
    }

    @Test("the first of 60 columns is whole when no start is given")
    func firstColumnIsWhole() throws {
        let clock = TestClock(monday + 70 * 300)
        let engine = try makeEngine(clock: clock)
        for minute: UInt64 in 0..<347 { engine.record("a", at: monday + minute * 60, ms: [1]) }
        let grid = try engine.grid([("window", "5m")])
        #expect(grid.windows.count == 60)
        #expect(grid.row("a")?.cells.map { $0?.count } == Array(repeating: 5, count: 59) + [2])
    }

    @Test(
        "a file's whole range is shown in at most 62 columns of a usual length",
        arguments: [
            (3_540, 60), (3_700, 300), (86_400, 3_600), (86_400 * 30, 86_400), (86_400 * 400, 604_800),
        ])
    func automaticLength(range: UInt64, length: Int64) throws {
        let engine = try makeEngine()
        engine.record("a", at: monday, ms: [1])
        engine.record("a", at: monday + range, ms: [1])
        let grid = try engine.grid()
        #expect(grid.windowSeconds == length)
        #expect(grid.windows.count <= 62)
        #expect(grid.count == 2)
    }

    // MARK: Filters, pairs and comparisons

    /// Spans of OTLP/JSON, as files have them.
    private func request(_ spans: [(minute: UInt64, ms: UInt64, attributes: [String: String])]) -> [UInt8] {
        let items = spans.map { span in
            let end = (monday + span.minute * 60 + 30) * second
            let attributes = span.attributes.sorted { $0.key < $1.key }.map {
                "{\"key\":\"\($0.key)\",\"value\":{\"stringValue\":\"\($0.value)\"}}"
            }.joined(separator: ",")
            return
                "{\"name\":\"\(span.attributes["op"] ?? "x")\",\"startTimeUnixNano\":\"\(end - span.ms * millisecond)\","
                + "\"endTimeUnixNano\":\"\(end)\",\"attributes\":[\(attributes)]}"
        }
        return Array(
            "{\"resourceSpans\":[{\"scopeSpans\":[{\"spans\":[\(items.joined(separator: ","))]}]}]}".utf8)
    }

    /// What `isotherm heatmap FILE` answers.
    private func answer(_ items: [(name: String, value: String)], to message: [UInt8]) throws -> HeatmapGrid {
        var query = try HeatmapQuery(items: items)
        let engine = try HeatmapEngine(configuration: .files(answering: &query))
        try engine.ingest(json: message)
        return try engine.snapshot(query: query)
    }

    /// 100 of each kind: shop a is slow under v2, shop b is as it was.
    private var releases: [UInt8] {
        request(
            (0..<UInt64(100)).flatMap { number -> [(minute: UInt64, ms: UInt64, attributes: [String: String])] in
                let ms = 10 + number % 20
                return [
                    (0, ms, ["shop": "a", "version": "v1", "op": "buy"]),
                    (0, ms + 100, ["shop": "a", "version": "v2", "op": "buy"]),
                    (0, ms, ["shop": "b", "version": "v1", "op": "look"]),
                    (0, ms, ["shop": "b", "version": "v2", "op": "look"]),
                ]
            })
    }

    @Test("filters leave out what they say, and a pair names its groups by both values")
    func filters() throws {
        let all = try answer([("by", "shop")], to: releases)
        #expect(all.rows.map(\.group) == ["a", "b"] && all.count == 400)
        let some = try answer([("by", "shop"), ("where", "version=v2"), ("where", "name=buy")], to: releases)
        #expect(some.rows.map(\.group) == ["a"] && some.count == 100)
        #expect(some.filters == ["version=v2", "name=buy"])
        // Rank ⌈0.95 · 100⌉ = 95 of 10…29, five of each, is 28, and 100 more.
        #expect(abs(Double(some.rows[0].total.quantileNano) - 128e6) <= 128e6 * BucketScale.relativeError)
        let pair = try answer([("by", "shop+version")], to: releases)
        #expect(pair.rows.map(\.group) == ["a / v1", "a / v2", "b / v1", "b / v2"])
        #expect(pair.rows.allSatisfy { $0.total.count == 100 })
    }

    @Test("a server filters by what it groups by, and says so of the rest")
    func serverFilters() throws {
        let engine = try makeEngine {
            $0.groupBy = ["shop"]
            $0.views = [HeatmapView("shop", "version")]
        }
        try engine.ingest(json: releases)
        let grid = try engine.grid([("where", "version=v2")])
        #expect(grid.rows.map(\.group) == ["a", "b"] && grid.count == 200)
        #expect(try engine.grid([("by", "version")]).rows.map(\.total.count) == [200, 200])
        let error = #expect(throws: HeatmapError.self) { _ = try engine.grid([("where", "op=buy")]) }
        #expect(error?.cause.contains("shop+version") == true && error?.cause.contains("op") == true)
    }

    @Test("two values of an attribute are compared, and only what is sure is marked")
    func values() throws {
        let grid = try answer([("by", "shop"), ("compare", "version=v1,v2")], to: releases)
        #expect(grid.count == 200)
        #expect(grid.row("a")?.total.change?.verdict == .slower)
        #expect(grid.row("b")?.total.change?.verdict == .unclear)
        #expect(grid.row("a")?.total.change?.baselineCount == 100)
        let back = try answer([("by", "shop"), ("compare", "version=v2,v1")], to: releases)
        #expect(back.row("a")?.total.change?.verdict == .faster)
        #expect(
            HeatmapText.render(grid, width: 80).contains("R▲") || HeatmapText.render(grid, width: 80).contains("O▲"))
    }

    @Test("a range is compared with an earlier one, column by column, and a small sample is never sure")
    func earlier() throws {
        let engine = try makeEngine()
        for minute: UInt64 in 0..<3 {
            engine.record("a", at: monday + minute * 60, ms: [20], count: 100)
            engine.record(
                "a", at: monday + 3_600 + minute * 60, ms: [minute == 1 ? 90 : 20], count: minute == 2 ? 20 : 100)
        }
        let since = [(name: "since", value: "2026-11-23T09:00:00Z")]
        let grid = try engine.grid(since + [("compare", "1h")])
        let verdicts = grid.row("a")?.cells.map { $0?.change?.verdict }
        #expect(verdicts == [.unclear, .slower, .unclear])
        #expect(grid.row("a")?.cells.map { $0?.change?.baselineCount } == [100, 100, 100])
        let against = try engine.grid(since + [("against", "2026-11-23T08:00:00Z..2026-11-23T08:02:00Z")])
        // The third column has nothing to be compared with.
        #expect(against.row("a")?.cells.map { $0?.change?.baselineCount } == [100, 100, nil])
    }

    @Test("shares are whole numbers that add up to 100", arguments: [[1, 1, 1], [1, 2, 3, 4], [0, 0, 5], [999, 1]])
    func shares(parts: [Double]) {
        let sum = parts.reduce(0, +)
        let percents = HeatmapGrid.StageShare.wholePercents(parts.map { $0 / sum * 100 })
        #expect(percents.reduce(0, +) == 100)
        for (percent, part) in zip(percents, parts) { #expect(abs(Double(percent) - part / sum * 100) < 1) }
    }

    // MARK: Refusals

    @Test(
        "a value that cannot be used is named, with what can",
        arguments: [
            ("by", "color", "color"), ("by", "a+b+c", "a+b+c"), ("where", "tenant.id", "tenant.id"),
            ("where", "=x", "=x"),
            ("where", "color=red", "color"), ("compare", "soon", "soon"), ("compare", "v=1", "v=1"),
            ("compare", "90s", "90"), ("against", "1d", "1d"), ("against", "1h..2h", "not before"),
            ("quantile", "0", "\"0\""),
            ("quantile", "101", "101"),
            ("quantile", "nan", "nan"),
            ("quantile", "-1", "-1"), ("quantile", "fast", "fast"), ("quantile", "", "\"\""), ("window", "7", "\"7\""),
            ("window", "0s", "0s"), ("window", "-5m", "-5m"), ("window", "500ms", "0.5"), ("window", "90s", "90"),
            ("window", "999999d", "999999d"), ("window", "99999999999999999999s", "99999999999999999999s"),
            ("since", "999999d", "999999d"), ("since", "yesterday", "yesterday"),
            ("until", "2026-13-01T00:00:00Z", "2026-13"),
            ("since", "1969-12-31T00:00:00Z", "1969"), ("stage", "teleport", "teleport"),
            ("tz", "Mars/Olympus", "Mars/Olympus"),
            ("tz", "+25:00", "+25:00"), ("tz", "+05:99", "+05:99"), ("tz", "+-1:30", "+-1:30"),
            ("tz", "++1:30", "++1:30"),
            ("tz", "", "\"\""), ("tz", "../../etc/passwd", "../../etc/passwd"), ("slo", "soon", "soon"),
            ("levels", "1ms,2ms", "1ms,2ms"), ("levels", "3ms,2ms,1ms", "3ms,2ms,1ms"),
            ("levels", "1ms,1ms,2ms", "1ms,1ms"),
            ("sort", "random", "random"), ("limit", "-1", "-1"), ("limit", "many", "many"), ("colour", "red", "colour"),
        ])
    func refusals(name: String, value: String, mentioned: String) throws {
        let engine = try makeEngine()
        engine.record("a", at: monday, ms: [1])
        let error = #expect(throws: HeatmapError.self) { _ = try engine.grid([(name, value)]) }
        #expect(error?.code == .invalidQuery)
        let cause = try #require(error?.cause)
        #expect(cause.contains(mentioned), "\(cause)")
        #expect(cause.contains(name), "\(cause)")
    }

    @Test("values of the query's own type are checked too")
    func typedRefusals() throws {
        let engine = try makeEngine()
        engine.record("a", at: monday, ms: [1])
        let changes: [(inout HeatmapQuery) -> Void] = [
            { $0.quantile = .nan }, { $0.quantile = 1.5 }, { $0.quantile = -0.1 }, { $0.levels = [] },
            { $0.levels = [.seconds(1), .seconds(2), .seconds(3), .seconds(4)] }, { $0.limit = -1 },
            { $0.levels = [.seconds(3), .seconds(2), .seconds(1)] }, { $0.window = .zero }, { $0.timeZone = "nowhere" },
        ]
        for change in changes {
            var query = HeatmapQuery()
            change(&query)
            #expect(throws: HeatmapError.self) { _ = try engine.snapshot(query: query) }
        }
    }

    @Test("a range that ends before it begins is refused with both of its ends")
    func emptyRange() throws {
        let engine = try makeEngine()
        engine.record("a", at: monday, ms: [1])
        let error = #expect(throws: HeatmapError.self) {
            _ = try engine.grid([("since", "2026-11-23T09:00:00Z"), ("until", "2026-11-23T08:00:00Z")])
        }
        #expect(error?.cause.contains("2026-11-23T09:00:00Z") == true)
        #expect(error?.cause.contains("2026-11-23T08:00:00Z") == true)
    }

    @Test("1,500 windows are shown, and one more is refused with its number")
    func maxWindows() throws {
        let engine = try makeEngine()
        engine.record("a", at: monday, ms: [1])
        engine.record("a", at: monday + 60 * 1_499, ms: [1])
        #expect(try engine.grid([("window", "1m")]).windows.count == 1_500)
        engine.record("a", at: monday + 60 * 1_500, ms: [1])
        let error = #expect(throws: HeatmapError.self) { _ = try engine.grid([("window", "1m")]) }
        #expect(error?.cause.contains("1501") == true)
    }

    @Test(
        "values that can be used are read",
        arguments: [
            ("0.95", 0.95), ("95", 0.95), ("p95", 0.95), ("P99.9", 0.999), ("1", 1), ("100", 1), ("p1", 0.01),
            ("50", 0.5),
        ])
    func quantiles(text: String, value: Double) throws {
        let query = try HeatmapQuery(items: [("quantile", text)])
        #expect(abs(query.quantile - value) < 1e-12)
    }

    @Test(
        "settings that cannot be used are named",
        arguments: [
            "window", "max_groups", "group_by", "retained_windows",
        ])
    func settings(name: String) throws {
        let error = #expect(throws: HeatmapError.self) {
            _ = try makeEngine {
                switch name {
                case "window": $0.window = .milliseconds(1_500)
                case "max_groups": $0.maxGroups = 0
                case "group_by": $0.groupBy = []
                default: $0.retainedWindows = 0
                }
            }
        }
        #expect(error?.code == .invalidConfiguration)
        #expect(error?.cause.hasPrefix(name) == true)
    }
}
