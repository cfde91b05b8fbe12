import Foundation
import TestSupport
import Testing

@testable import LatencyHeatmap

@Suite("Distributions and objectives")
struct ViewTests {
    private static func report(_ engine: HeatmapEngine, _ items: [(name: String, value: String)]) throws
        -> HeatmapReport
    {
        try engine.report(query: HeatmapQuery(items: items))
    }

    /// Latencies in nanoseconds by minute, of two groups, with a zero and one of a day.
    private static func spread() throws -> (engine: HeatmapEngine, values: [String: [[UInt64]]]) {
        let engine = try makeEngine()
        var generator = SeededGenerator(11)
        var values: [String: [[UInt64]]] = [:]
        for group in ["iOS-15+", "微信-安卓"] {
            let id = engine.group(group), stage = engine.stage("deliver")
            values[group] = (0..<5).map { (minute: Int) -> [UInt64] in
                // 40 in one window are kept as values, 900 as buckets; the fourth window has none.
                let count = [40, 900, 64, 0, 65][minute]
                let latencies: [UInt64] = (0..<count).map { number in
                    let most: UInt64 = 1 << UInt64(20 + number % 9)
                    if number == 3 { return 0 }
                    return number == 7 ? 86_400 * second : UInt64.random(in: 1...most, using: &generator)
                }
                for latency in latencies {
                    engine.record(
                        stage: stage, group: id, endUnixNano: (monday + UInt64(minute) * 60) * second,
                        latencyNano: latency)
                }
                return latencies
            }
        }
        return (engine, values)
    }

    /// Every form of a report, and the raw values, for Python.
    private static func check(_ program: String, _ report: HeatmapReport, _ more: [String: Any]) throws -> String {
        let root = Peers.repositoryRoot
        var input = more
        input["csv"] = report.csv.text
        input["json"] = report.json.text
        input["text"] = report.text(width: 200)
        input["html"] = report.html()
        for view in ["distribution", "slo"] {
            input[view] = try String(
                contentsOf: root.appendingPathComponent("docs/heatmap-\(view).schema.json"), encoding: .utf8)
        }
        let head = """
            import csv, io, json, math, re, sys
            from html.parser import HTMLParser
            from jsonschema import Draft202012Validator
            given = json.load(sys.stdin)
            rows = list(csv.DictReader(io.StringIO(given["csv"], newline="")))
            tree = json.loads(given["json"])
            Draft202012Validator(json.loads(given[tree["view"]])).validate(tree)
            class Table(HTMLParser):
                def __init__(self):
                    super().__init__()
                    self.rows = []
                def handle_starttag(self, tag, attributes):
                    if tag == "tr": self.rows.append([])
                    if tag in ("td", "th"): self.rows[-1].append("")
                def handle_data(self, text):
                    if self.rows and self.rows[-1]: self.rows[-1][-1] += text.strip()
            page = Table()
            page.feed(given["html"].split("<tbody>")[1].split("</tbody>")[0])

            """
        let data = try JSONSerialization.data(withJSONObject: input)
        return try Peers.python(head + program, input: data).text
    }

    @Test("each range of a distribution has the values that are in it, in every form", arguments: ["iOS-15+", nil])
    func distribution(group: String?) throws {
        let (engine, values) = try Self.spread()
        let items = [("view", "distribution")] + (group.map { [("group", $0)] } ?? [])
        let report = try Self.report(engine, items.map { (name: $0.0, value: $0.1) })
        let truth = (0..<5).map { minute in
            values.filter { group == nil || $0.key == group }.values.flatMap { $0[minute] }
        }
        let program = """
            truth = given["truth"]
            assert [w["count"] for w in tree["windows"]] == [len(t) for t in truth]
            edges = {0} | {math.floor(2 ** (i / 64) * 1e9) for i in range(-1914, 1100)}
            for b in tree["buckets"]:
                assert b["above_ns"] in edges and b["to_ns"] in edges, b
                for count, window in zip(b["counts"], truth):
                    assert count == sum(b["above_ns"] < v <= b["to_ns"] or v == b["to_ns"] == 0 for v in window), b
            ns = lambda ms: int(ms.replace(".", ""))
            assert {(r["window_start"], ns(r["from_ms"]), ns(r["to_ms"]), r["level"]): int(r["count"]) for r in rows} == {
                (w["start"], b["above_ns"], b["to_ns"], b["level"]): c
                for b in tree["buckets"] for w, c in zip(tree["windows"], b["counts"]) if c}
            # The text and the page join ranges, and lose nothing.
            total = [len(t) for t in truth]
            lines = given["text"].splitlines()
            figures = [re.findall(r"(\\d+) [GYOR]|(·)", l) for l in lines if re.match(r"(\\S+–\\S+|0) ", l)]
            sums = [sum(int(f[c][0] or 0) for f in figures) for c in range(5)]
            assert sums == total, (sums, total)
            ranges = [r for r in page.rows if re.search(" [GYOR]$", r[0])]
            assert [sum(int(r[c + 1].replace("·", "0")) for r in ranges) for c in range(5)] == total, ranges
            assert len(ranges) <= 24 and page.rows[-1][1:-1] == [str(t or "·") for t in total]
            print("ok", sum(total))
            """
        let count = truth.reduce(0) { $0 + $1.count }
        #expect(try Self.check(program, report, ["truth": truth]) == "ok \(count)\n")
    }

    /// Two hours of two latencies a second, more than a cell keeps as values. `steady`: every 50th takes 300 ms, 2 %.
    /// `bad`: the last half hour all of them do.
    private static func burning() throws -> HeatmapEngine {
        let engine = try makeEngine { $0.thresholds = [.milliseconds(200)] }
        let stage = engine.stage("deliver")
        let (steady, bad) = (engine.group("steady"), engine.group("=bad"))
        for number in 0..<UInt64(7_200) {
            let end = (monday + number) * second
            engine.record(
                stage: stage, group: steady, endUnixNano: end, latencyNano: (number % 50 == 0 ? 300 : 30) * millisecond,
                count: 2)
            engine.record(
                stage: stage, group: bad, endUnixNano: end, latencyNano: (number >= 5_400 ? 300 : 200) * millisecond,
                count: 2)
        }
        return engine
    }

    /// By hand: of 99 %, 2 % slow burn 2 times too fast; half an hour of two is 25 times too fast, of one 50.
    @Test("attainment and burn rates are these, in every form")
    func objective() throws {
        let engine = try Self.burning()
        let report = try Self.report(engine, [("view", "slo"), ("slo", "200ms,250ms")])
        let program = """
            assert [s["name"] for s in tree["spans"]] == ["range", "5m", "30m", "1h"]
            found = {(g["group"], t["threshold_ns"] // 1000000): t for g in tree["groups"] for t in g["thresholds"]}
            expected = {"steady": [(14400, 288), (600, 12), (3600, 72), (7200, 144)],
                        "=bad": [(14400, 3600), (600, 600), (3600, 3600), (7200, 3600)]}
            for (group, limit), threshold in found.items():
                assert threshold["is_exact"] == (limit == 200)
                for tally, (count, over) in zip(threshold["spans"], expected[group], strict=True):
                    assert (tally["count"], tally["over_count"]) == (count, over), (group, tally)
                    assert math.isclose(tally["attainment"], 1 - over / count)
                    assert math.isclose(tally["burn_rate"], over / count / 0.01)
            assert len(rows) == 16
            for row in rows:
                group, limit = row["device_group"].removeprefix("'"), int(float(row["threshold_ms"]))
                place = [s["name"] for s in tree["spans"]].index(row["span"])
                tally = found[group, limit]["spans"][place]
                assert (int(row["count"]), int(row["over_count"])) == (tally["count"], tally["over_count"])
                assert math.isclose(float(row["burn_rate"]), tally["burn_rate"]) and row["objective"] == "0.99"
                assert (row["span_start"], row["span_end"]) == (tree["spans"][place]["start"], tree["spans"][place]["end"])
            lines = given["text"].splitlines()
            steady = next(l for l in lines if l.startswith("steady "))
            bad = next(l for l in lines if l.startswith("=bad "))
            assert re.split(r"\\s{2,}", steady) == ["steady", "200", "98.00%", "2.0 Y", "2.0 Y", "2.0 Y", "2.0 Y", "14k", "288"]
            assert re.findall(r"[\\d.]+ [GYOR]", bad) == ["25 R", "100 R", "100 R", "50 R"], bad
            assert any("≈250" in l for l in lines) and any(l.startswith("≈ counted by buckets") for l in lines)
            assert page.rows[2] == ["steady", "200 ms", "98.00 %", "2.0 Y", "2.0 Y", "2.0 Y", "2.0 Y", "14,400", "288"], page.rows
            assert page.rows[0][3:7] == ["25 R", "100 R", "100 R", "50 R"]
            print("ok")
            """
        #expect(try Self.check(program, report, [:]) == "ok\n")
    }

    @Test("a burn rate is shown over what is kept before the range, and only over times shorter than that")
    func spans() throws {
        let engine = try Self.burning()
        guard case .slo(let slo) = try Self.report(engine, [("view", "slo"), ("since", "10m"), ("objective", "99.9%")])
        else {
            Issue.record("not the view that was asked for")
            return
        }
        #expect(slo.spans.map(\.name) == ["range", "5m", "30m", "1h"])
        let steady = try #require(slo.rows.last?.thresholds.last)
        #expect(steady.nanoseconds == 200 * millisecond && steady.isExact)
        #expect(steady.tallies.map { $0?.count } == [1_320, 600, 3_600, 7_200])
        // 2 % of what may be 0.1 %.
        #expect(abs((steady.tallies[3]?.burnRate(objective: slo.objective) ?? 0) - 20) < 1e-9)
        #expect(slo.lowSample == 1_000)
    }

    @Test("levels begin at 1, 6 and 14.4")
    func levels() {
        let rates = [0, 0.999, 1, 5.99, 6, 14.39, 14.4, 100]
        #expect(rates.map { String(HeatmapSLO.level(ofBurnRate: $0).letter) }.joined() == "GGYYOORR")
    }

    @Test(
        "lines fit, whatever the width and the names", arguments: [40, 60, 80, 200],
        [HeatmapQuery.View.distribution, .slo])
    func widths(width: Int, view: HeatmapQuery.View) throws {
        let engine = try PageFixtures.engine(
            groups: ["iOS", "微信-安卓", String(repeating: "語", count: 60), "a\u{1B}[2J\r\nb"], minutes: 90, perCell: 20)
        let text = try Self.report(engine, [("view", view.rawValue)]).text(width: width)
        for line in text.split(separator: "\n") {
            #expect(TextWidth.of(line) <= width, "\(line)")
            #expect(!line.unicodeScalars.contains { TextWidth.isControl($0) })
            #expect(line.last != " ")
        }
        #expect(text.contains("90m") || text.contains("08:00"))
    }

    @Test("pages of a single table are strict, have no script, and axe finds nothing")
    func pages() throws {
        let engine = try PageFixtures.engine(
            groups: PageFixtures.names + ["<script>1</script>"], minutes: 60, perCell: 40)
        let directory = FileManager.default.temporaryDirectory.appendingPathComponent("isotherm-view-\(UUID())")
        try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: directory) }
        var paths: [String] = []
        for view in ["distribution", "slo"] {
            let html = try Self.report(engine, [("view", view)]).html()
            #expect(!html.contains("<script") && html.contains("Content-Security-Policy"))
            let path = directory.appendingPathComponent(view + ".html")
            try html.write(to: path, atomically: true, encoding: .utf8)
            paths.append(path.path)
        }
        let program = Peers.repositoryRoot.appendingPathComponent("Tests/Peers/heatmap_page.py").path
        #expect(try Peers.run(Peers.python, [program, "plain"] + paths).text == "ok\n")
    }

    @Test(
        "a question that makes no sense says why",
        arguments: [
            (["view": "3d"], "view: \"3d\" is none of grid, distribution, slo"),
            (["objective": "100%"], "objective: \"100%\" is no part of a whole; give 99.9% or 0.999"),
            (["objective": "0"], "objective: \"0\" is no part of a whole; give 99.9% or 0.999"),
            (["slo": "1ms,2ms,3ms,4ms,5ms"], "slo: 5 thresholds are more than 4"),
            (["slo": ""], "slo: \"\" is no duration; give for example 500ms, 30s, 5m, 1h or 1d"),
            (
                ["view": "slo", "compare": "1d"],
                "view: slo compares nothing; leave out compare and against, or show the grid"
            ),
        ])
    func refused(items: [String: String], cause: String) throws {
        let engine = try makeEngine()
        let error = #expect(throws: HeatmapError.self) {
            _ = try Self.report(engine, items.map { (name: $0.key, value: $0.value) })
        }
        #expect(error?.cause == cause)
    }

    @Test("four thresholds are taken, one group is shown alone, and nothing is nothing in every form")
    func edges() throws {
        let engine = try Self.burning()
        guard
            case .slo(let slo) = try Self.report(
                engine, [("view", "slo"), ("slo", "1ms,2ms,3ms,200ms"), ("group", "steady")])
        else { return }
        #expect(slo.rows.map(\.group) == ["steady"] && slo.rows[0].thresholds.count == 4)
        #expect(try engine.grid([("group", "=bad")]).rows.map(\.group) == ["=bad"])
        for view in ["distribution", "slo"] {
            for (engine, group) in [(try makeEngine(), "a"), (engine, "nobody")] {
                let report = try Self.report(engine, [("view", view), ("group", group)])
                #expect(report.text(width: 80).contains("no latencies in this range yet"))
                #expect(report.csv.text.split(separator: "\r\n").count == 1)
                #expect(report.html().contains("No latencies in this range yet."))
                #expect(try JSONSerialization.jsonObject(with: Data(report.json.text.utf8)) is [String: Any])
            }
        }
    }
}
