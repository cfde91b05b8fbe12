import Foundation
import TestSupport
import Testing

@testable import LatencyHeatmap

@Suite("The report in a browser", .serialized)
struct PageTests {
    private static let options = HeatmapHTML.Options(traceURL: "https://jaeger.example/trace/{trace_id}") ?? .init()

    /// Lets Chromium read the page and Python compare it with the grid's JSON or CSV.
    @discardableResult
    private func check(_ task: String, _ grid: HeatmapGrid, against table: String) throws -> String {
        let directory = FileManager.default.temporaryDirectory.appendingPathComponent("isotherm-page-\(UUID())")
        try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: directory) }
        let html = HeatmapHTML.render(grid, options: Self.options)
        let (page, other) = (directory.appendingPathComponent("page.html"), directory.appendingPathComponent("grid"))
        try html.write(to: page, atomically: true, encoding: .utf8)
        try table.write(to: other, atomically: true, encoding: .utf8)
        let program = Peers.repositoryRoot.appendingPathComponent("Tests/Peers/heatmap_page.py").path
        let output = try Peers.run(Peers.python, [program, task, page.path, other.path])
        #expect(output.text == "ok\n")
        return html
    }

    private static func small() throws -> HeatmapGrid {
        try PageFixtures.engine(groups: PageFixtures.names, minutes: 24, perCell: 100)
            .grid([("tz", "Asia/Shanghai")])
    }

    /// The table wide and narrow, light and dark, with and without scripts; axe; keys, pointer, quantiles, windows, exports.
    @Test("what the page says is what the JSON says, however it is looked at and used")
    func uses() throws {
        let grid = try Self.small()
        try check("look,use", grid, against: HeatmapJSON.render(grid))
    }

    @Test("marks of a comparison are the engine's, for other quantiles, windows and zones too")
    func compares() throws {
        let engine = try PageFixtures.engine(groups: PageFixtures.names, minutes: 24, perCell: 300)
        let range = [("since", "2026-11-23T08:12:00Z"), ("compare", "12m")].map { (name: $0.0, value: $0.1) }
        let asked = try engine.grid(range)
        let grids = [
            "asked": asked, "median": try engine.grid(range + [("quantile", "p50")]),
            "longer": try engine.grid(range + [("window", "5m")]), "zone": asked,
        ].map { "\"\($0.key)\":\(HeatmapJSON.render($0.value))" }
        try check("look,compare", asked, against: "{\(grids.joined(separator: ","))}")
    }

    @Test("columns that are joined are compared as longer windows are")
    func joinsComparisons() throws {
        let engine = try PageFixtures.engine(groups: Array(PageFixtures.hundred.prefix(4)), minutes: 240, perCell: 30)
        let range = [("since", "2026-11-23T10:00:00Z"), ("compare", "2h")].map { (name: $0.0, value: $0.1) }
        let joined = try engine.grid(range + [("window", "1m")]).joined(toAtMost: 8)
        let longer = try engine.grid(range + [("window", "15m")])
        #expect(joined.windowSeconds == 900)
        #expect(joined.rows.map { $0.cells.map { $0?.change } } == longer.rows.map { $0.cells.map { $0?.change } })
        #expect(joined.rows.contains { $0.cells.contains { $0?.change?.verdict == .slower } })
    }

    @Test("a hundred groups by a day of minutes are a page of at most 300 kB")
    func size() throws {
        let engine = try makeEngine()
        var generator = SeededGenerator(5)
        let stage = engine.stage("deliver")
        // One call for a cell: what differs between windows is what takes room.
        for (number, name) in PageFixtures.hundred.enumerated() {
            let group = engine.group(name)
            for minute in 0..<UInt64(1_440) {
                let typical = Double(10 + number % 7 * 15)
                let milliseconds = typical * Double.random(in: 0.6...1.8, using: &generator)
                engine.record(
                    stage: stage, group: group, endUnixNano: (monday + minute * 60) * second,
                    latencyNano: UInt64(milliseconds * 1e6), count: UInt64.random(in: 65...195, using: &generator),
                    traceID: minute % 8 == 0 ? (UInt64.random(in: 1...(.max), using: &generator), minute) : nil)
            }
        }
        let html = HeatmapHTML.render(try engine.grid([("window", "1m")]), options: Self.options)
        #expect(html.utf8.count <= 300_000, "\(html.utf8.count)")
    }

    @Test("a page is no larger than it may be, and leaves out no more than it has to")
    func limits() throws {
        let grid = try PageFixtures.engine(groups: PageFixtures.names, minutes: 30, perCell: 60).grid()
        func page(_ limit: Int) -> String { HeatmapHTML.render(grid, options: Self.options, limit: limit) }
        let whole = page(.max)
        let size = whole.utf8.count
        for sign in ["\"scale\":6", "\"isCoarser\":false", "\"hasMoreTraces\":false"] { #expect(whole.contains(sign)) }
        #expect(page(size + 1) == whole)
        #expect(page(size) == whole)
        let less = page(size - 1)
        #expect(less.utf8.count < size)
        #expect(less.contains("\"isCoarser\":true"))

        // Precision and traces first, then windows, and rows last.
        let signs = ["isCoarser\":true", "hasMoreTraces\":true", "windows of 1m joined", "more groups are in the CSV"]
        var found: [Set<String>] = []
        for limit in stride(from: size - 1, to: 55_000, by: -5_000) {
            let html = page(limit)
            #expect(html.utf8.count <= limit)
            found.append(Set(signs.filter { html.contains($0) }))
        }
        for sign in signs { #expect(found.contains { $0.contains(sign) }, "\(sign)") }
        #expect(found.first == [signs[0]])
    }

    @Test("hostile names are text, and ask nobody")
    func hostile() throws {
        let names = [
            "<script>window.pwned=1</script>", "<img src=x onerror=window.pwned=1>", "\" onmouseover=\"window.pwned=1",
            "</script><script>window.pwned=1</script>", "]]></style><!--", "=cmd|' /C calc'!A0", "\u{202E}evil\u{202C}",
            "a\r\nb", "nul\u{0}", "&lt;&#0;", "{trace_id}", "עברית", "${window.pwned=1}", "`",
            String(repeating: "語", count: 42),
        ]
        let grid = try PageFixtures.engine(groups: names, minutes: 3, perCell: 60).grid()
        let html = try check("look", grid, against: HeatmapJSON.render(grid))
        // The page's own two, and nothing that a name began.
        #expect(html.ranges(of: "<script").count == 2)
    }

    @Test("a day of minutes is joined in the table, and each minute's level and count are there")
    func day() throws {
        let engine = try PageFixtures.engine(groups: Array(PageFixtures.names.prefix(6)), minutes: 1_440, perCell: 40)
        let grid = try engine.grid([("window", "1m"), ("tz", "Asia/Shanghai")])
        #expect(grid.windows.count == 1_440)
        let html = try check("windows", grid, against: HeatmapCSV.render(grid))
        #expect(html.utf8.count <= 300_000)
        #expect(html.contains("windows of 1m joined into 1h"))
    }

    @Test("the policy names the hashes of the script and the style, as Python reckons them")
    func policy() throws {
        let html = HeatmapHTML.render(try Self.small())
        let program = """
            import base64, hashlib, re, sys
            html = sys.stdin.read()
            policy = re.search('<meta http-equiv="Content-Security-Policy" content="([^"]*)">', html).group(1)
            for tag, kind in [("script", "script-src"), ("style", "style-src")]:
                content = re.search(f"<{tag}>(.*?)</{tag}>", html, re.S).group(1)
                hash = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
                assert f"{kind} 'sha256-{hash}';" in policy, (kind, hash, policy)
            assert policy.startswith("default-src 'none';") and "connect-src 'none'" in policy and "unsafe" not in policy
            for reference in ["src=", "url(", "@import", "<link", "<img", "style="]: assert reference not in html, reference
            print("ok")
            """
        #expect(try Peers.python(program, input: Data(html.utf8)).text == "ok\n")
        #expect(HeatmapHTML.contentSecurityPolicy(isLive: true).contains("connect-src 'self'"))
    }

    @Test(
        "a page leads to the web only",
        arguments: [
            "javascript:alert('{trace_id}')", "data:text/html,{trace_id}", "https://jaeger.example/", "//x/{trace_id}",
            "https://x/{trace_id}\u{202E}", "https://x y/{trace_id}", " https://x/{trace_id}",
            "https://x/" + String(repeating: "a", count: 2_039) + "{trace_id}",
        ])
    func traceURLs(url: String) {
        #expect(HeatmapHTML.Options(traceURL: url) == nil)
    }

    /// NIST's vectors: FIPS 180-4 examples.
    @Test(
        "SHA-256 is NIST's",
        arguments: [
            ("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            ("abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (
                "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
            ),
        ])
    func hash(message: String, digest: String) {
        let hex = SHA256.hash(Array(message.utf8)).map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
        #expect(hex == digest)
    }
}
