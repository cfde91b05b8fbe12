import Foundation
import TestSupport
import Testing

@Suite("Reports and metrics, in their readers' programs")
struct ReportTests {
    /// A server whose heatmap has groups with awkward names.
    private static func filled() throws -> IsothermProcess {
        // Acknowledgements are sampled, so their number is not known beforehand.
        let server = try IsothermProcess(arguments: ["--set", "delivery.acknowledgement_probes=0"])
        let groups = [
            "iOS-15%2B", "%E5%BE%AE%E4%BF%A1-%E5%AE%89%E5%8D%93", "%3D1%2B1", "%3Cscript%3Ealert(1)%3C/script%3E",
            "a,%22b%22",
        ]
        let devices = try groups.map { try Device(port: server.port, "/v1/events/t?group=\($0)") }
        for number in 1...70 { try server.publish("t", "\(number)") }
        for device in devices { _ = try device.events(70) }
        let heatmap = "isotherm_heatmap_latencies_total{kind=\"all\"}"
        // Three stages of each delivery.
        try Wait.until("all deliveries are in cells") { try server.metric(heatmap) == 70 * 5 * 3 }
        return server
    }

    @Test("the HTML opens in a browser from disk, wide and narrow, without a request to anywhere")
    func browser() throws {
        let server = try Self.filled()
        let directory = IsothermProcess.temporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let reply = try HTTP.get("/heatmap", port: server.port, fields: [("Accept", "text/html,*/*;q=0.8")])
        #expect(reply.field("Content-Security-Policy")?.contains("default-src 'none'") == true)
        try reply.body.write(toFile: directory + "/heatmap.html", atomically: true, encoding: .utf8)
        for width in [390, 1280] {
            try Browser.run(
                [
                    "--window-size=\(width),900", "--screenshot=\(directory)/\(width).png",
                    "--log-net-log=\(directory)/net.json", "file://\(directory)/heatmap.html",
                ])
            let png = try Data(contentsOf: URL(fileURLWithPath: "\(directory)/\(width).png"))
            #expect(png.starts(with: [0x89, 0x50, 0x4E, 0x47]) && png.count > 5_000)
        }
        let dom = try Browser.run(["--dump-dom", "file://\(directory)/heatmap.html"]).text
        #expect(dom.contains("微信-安卓"))
        #expect(dom.contains("&lt;script&gt;alert(1)&lt;/script&gt;"))
        // Whatever the page would fetch is in its text: nothing is.
        for reference in ["src=", "href=", "url(", "@import", "<link", "<img"] {
            #expect(!reply.body.contains(reference), "\(reference)")
        }
        let net = try String(contentsOfFile: directory + "/net.json", encoding: .utf8)
        // The browser's own services ask Google; the page must ask nobody, the server least of all.
        #expect(!net.contains("127.0.0.1:\(server.port)"))
    }

    @Test("a browser's EventSource gets events, resumes after a restart, and misses none")
    func eventSource() throws {
        let server = try IsothermProcess(arguments: [
            "--set", "cors.allowed_origins=*", "--set", "delivery.retry=200ms",
        ])
        let directory = IsothermProcess.temporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        // What the page has seen it publishes itself, since a request without CORS needs no permission.
        let page = """
            <!doctype html><script>
            const server = "http://127.0.0.1:\(server.port)";
            const seen = [];
            const source = new EventSource(server + "/v1/events?topic=t&group=browser");
            source.onmessage = event => {
                seen.push(event.data);
                if (event.data != "end") return;
                source.close();
                fetch(server + "/v1/events/seen", {method: "POST", mode: "no-cors", body: seen.join(" ")});
            };
            </script>
            """
        try page.write(toFile: directory + "/page.html", atomically: true, encoding: .utf8)
        let browser = try ChildProcess(
            Browser.path,
            Browser.arguments(profile: directory + "/profile")
                + ["--remote-debugging-port=0", "file://\(directory)/page.html"])
        let connections = "isotherm_connections{tenant=\"default\",device_group=\"browser\"}"
        try Wait.until(seconds: 30, "the browser listens") { try server.metric(connections) == 1 }
        for number in 1...3 { try server.publish("t", "\(number)") }
        try Wait.until("they are delivered") {
            try server.metric("isotherm_events_delivered_total{tenant=\"default\",device_group=\"browser\"}") == 3
        }
        server.killNow()
        let second = try IsothermProcess(
            dataDirectory: server.dataDirectory, port: server.port, arguments: ["--set", "cors.allowed_origins=*"])
        let listener = try Device(port: second.port, "/v1/events/seen")
        for number in 4...6 { try second.publish("t", "\(number)") }
        try second.publish("t", "end")
        #expect(try listener.events(1, seconds: 40)[0].data == "1 2 3 4 5 6 end")
        browser.stop()
    }

    @Test("the CSV parses in Python, and its counts are those of the JSON and of the metrics")
    func csv() throws {
        let server = try Self.filled()
        let csv = try HTTP.get("/heatmap.csv", port: server.port).body
        let program = """
            import csv, io, sys
            rows = list(csv.DictReader(io.StringIO(sys.stdin.buffer.read().decode(), newline="")))
            print(sum(int(row["count"]) for row in rows))
            print("|".join(sorted({row["device_group"] for row in rows})))
            """
        let output = try Peers.python(program, input: Data(csv.utf8)).text.split(separator: "\n")
        #expect(output[0] == "350")
        #expect(output[1] == "'=1+1|<script>alert(1)</script>|a,\"b\"|iOS-15+|微信-安卓")
        #expect(csv.hasPrefix("window_start,window_end,device_group,stage,count,p50_ms,"))
        let json = try HTTP.get("/heatmap.json", port: server.port).body
        #expect(
            try Peers.python("import json,sys; print(json.load(sys.stdin)['count'])", input: Data(json.utf8)).text
                == "350\n")
    }

    @Test("text, CSV, JSON, HTML and metrics agree on every count and level")
    func agreement() throws {
        let server = try Self.filled()
        let program = """
            import csv, io, json, re, sys
            from html.parser import HTMLParser
            from prometheus_client.parser import text_string_to_metric_families
            forms = json.load(sys.stdin)
            grid = json.loads(forms["json"])
            truth = {g["group"]: g for g in grid["groups"]}
            def level(cell): return "--" if cell["count"] < 20 else cell["level"][0].upper()

            rows = list(csv.DictReader(io.StringIO(forms["csv"], newline="")))
            for name, group in truth.items():
                own = [r for r in rows if r["device_group"].removeprefix("'") == name]
                assert [int(r["count"]) for r in own] == [c["count"] if c else 0 for c in group["cells"]], name
                assert [r["level"] for r in own] == [c["level"] if c else "" for c in group["cells"]], name

            lines = [l for l in forms["txt"].splitlines() if re.search(r" \\d+(  |$)", l)]
            for name, group in truth.items():
                line = next(l for l in lines if l.startswith(name + " "))
                shown = re.findall(r"(?<= )([GYOR]|--)(?=[* ])", line[len(name):] + " ")
                assert shown == [level(c) for c in group["cells"] if c], (line, shown)
                assert re.search(rf" {group['total']['count']}(  |$)", line), line

            class Table(HTMLParser):
                def __init__(self):
                    super().__init__()
                    self.rows, self.isOpen = [], False
                def handle_starttag(self, tag, attributes):
                    if tag == "table": self.isOpen = dict(attributes).get("id") == "table"
                    if self.isOpen and tag == "tr": self.rows.append([])
                    if self.isOpen and tag in ("td", "th"): self.rows[-1].append("")
                def handle_endtag(self, tag):
                    if tag == "table": self.isOpen = False
                def handle_data(self, text):
                    if self.isOpen and self.rows and self.rows[-1]: self.rows[-1][-1] += text.strip()
            table = Table()
            table.feed(forms["html"])
            for row in table.rows[1:]:
                group = truth.pop(row[0])
                cells = group["cells"] + [group["total"]]
                for shown, cell in zip(row[1:], cells):
                    assert re.sub("[^GYOR-]", "", shown) == (level(cell) if cell else ""), (row, cell)
                assert row[len(cells) + 1] == str(group["total"]["count"]), row
            assert truth == {}

            counted = {}
            for family in text_string_to_metric_families(forms["metrics"]):
                for sample in family.samples:
                    if sample.name == "isotherm_push_duration_seconds_count" and sample.labels["stage"] == "deliver":
                        counted[sample.labels["device_group"]] = int(sample.value)
            assert counted == {g["group"]: g["total"]["count"] for g in grid["groups"]}, counted
            print("ok", sum(counted.values()))
            """
        var forms: [String: String] = [:]
        for form in ["txt", "csv", "json", "html"] {
            forms[form] = try HTTP.get("/heatmap.\(form)?width=200", port: server.port).body
        }
        forms["metrics"] = try HTTP.get("/metrics", port: server.port).body
        let input = try JSONSerialization.data(withJSONObject: forms)
        #expect(try Peers.python(program, input: input).text == "ok 350\n")
    }

    @Test(
        "a page that is open follows its server, also past a restart, and keeps what is chosen and where the focus is")
    func live() throws {
        let data = IsothermProcess.temporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: data) }
        let server = try IsothermProcess(dataDirectory: data)
        let port = server.port
        let device = try Device(port: port, "/v1/events/t?group=first")
        for number in 1...30 { try server.publish("t", "\(number)") }
        _ = try device.events(30)
        let program = """
            import sys, urllib.request
            sys.path.insert(0, sys.argv[1])
            from browser import Browser
            base = sys.argv[2]
            def publish(number):
                for _ in range(number): urllib.request.urlopen(base + "/v1/events/t", data=b"x").read()
            with Browser(sys.argv[3]) as browser:
                page = browser.open(base + "/heatmap.html")
                rows = "[...document.querySelectorAll('#table tbody tr')].map(r => r.cells[0].textContent + ' ' + r.querySelector('.n').textContent)"
                panel = "document.querySelector('#panel h2').textContent"
                said = "document.getElementById('live').textContent"
                page.until(lambda: page.run(rows) == ["first 30"], "the page shows the first 30")
                page.run("(c => { c.click(); c.focus(); window.chosen = c; })(document.querySelector('#table td.all'))")
                publish(12)
                page.until(lambda: page.run(rows) == ["first 42"], "the page follows")
                kept = "document.activeElement.classList.contains('all') && document.activeElement.ariaSelected === 'true'"
                assert page.run(kept) is True and page.run("window.chosen.isConnected") is True and page.run(panel) == "first"
                assert page.run("document.getElementById('panel').innerText").count("n=42") == 1
                assert page.run(said).startswith("live, ")
                assert page.errors() == [], page.errors()
                print("followed", flush=True)
                page.until(lambda: page.run(said).startswith("live updates are interrupted"), "the page notices the end")
                page.until(lambda: page.run(said).startswith("live, "), "the page follows again")
                assert page.run(rows) == ["first 42"] and page.run(kept) is True and page.run(panel) == "first"
                assert all(r.startswith(base) or r.startswith("data:") for r in page.requests()), page.requests()
            print("ok")
            """
        let peers = Peers.repositoryRoot.appendingPathComponent("Tests/Peers").path
        let reader = try ChildProcess(
            Peers.python, ["-c", program, peers, "http://127.0.0.1:\(port)", Browser.path])
        _ = try reader.waitForLine("followed", seconds: 60)
        #expect(server.stop() == 0)
        let restarted = try IsothermProcess(dataDirectory: data, port: port)
        _ = try reader.waitForLine("ok", seconds: 60)
        withExtendedLifetime(restarted) {}
    }

    @Test("the text is aligned in 60 and in 200 columns, with CJK names", arguments: [60, 200])
    func text(width: Int) throws {
        let server = try Self.filled()
        let text = try HTTP.get("/heatmap.txt?width=\(width)", port: server.port).body
        // Python's own table of East Asian widths says how wide each line is.
        let program = """
            import sys, unicodedata
            def width(text):
                return sum(2 if unicodedata.east_asian_width(c) in "WF" else 0 if unicodedata.combining(c) else 1 for c in text)
            for line in sys.stdin.buffer.read().decode().split("\\n"):
                at = line.find(" G") if " G" in line else -1
                print(width(line), width(line[:at]) if at >= 0 else -1)
            """
        let lines = try Peers.python(program, input: Data(text.utf8)).text.split(separator: "\n").map {
            $0.split(separator: " ").compactMap { Int($0) }
        }
        #expect(lines.allSatisfy { $0[0] <= width })
        // The level's letter stands in the same column in every row.
        let columns = Set(lines.map { $0[1] }.filter { $0 > 0 })
        #expect(columns.count == 1, "\(text)")
    }

    @Test("promtool and Python's client library accept the metrics; dashboards and rules name only these")
    func metrics() throws {
        let server = try Self.filled()
        let text = try HTTP.get("/metrics", port: server.port)
        #expect(text.field("Content-Type")?.hasPrefix("text/plain; version=0.0.4") == true)
        try Peers.run("promtool", ["check", "metrics"], input: Data(text.body.utf8))

        let open = try HTTP.get(
            "/metrics", port: server.port, fields: [("Accept", "application/openmetrics-text; version=1.0.0")])
        #expect(open.field("Content-Type")?.hasPrefix("application/openmetrics-text; version=1.0.0") == true)
        let program = """
            import sys
            from prometheus_client.openmetrics.parser import text_string_to_metric_families
            for family in text_string_to_metric_families(sys.stdin.buffer.read().decode()):
                for sample in family.samples:
                    if sample.name == "isotherm_events_published_total": print(int(sample.value))
            """
        #expect(try Peers.python(program, input: Data(open.body.utf8)).text == "70\n")

        let dashboards = Peers.repositoryRoot.appendingPathComponent("dashboards")
        let used = try Peers.run(
            Peers.python,
            [
                dashboards.appendingPathComponent("metric-names").path, "--exposition", "-",
                dashboards.appendingPathComponent("isotherm-overview.json").path,
                dashboards.appendingPathComponent("prometheus/isotherm.rules.yml").path,
                dashboards.appendingPathComponent("prometheus/isotherm-slo.rules.yml").path,
            ], input: Data(text.body.utf8))
        #expect(used.text.contains("isotherm_push_duration_seconds"))
        // The check can fail.
        let broken = Data(text.body.replacing("isotherm_degraded", with: "isotherm_other").utf8)
        let refused = try Peers.run(
            Peers.python,
            [
                dashboards.appendingPathComponent("metric-names").path, "--exposition", "-",
                dashboards.appendingPathComponent("prometheus/isotherm.rules.yml").path,
            ], input: broken, expected: 1)
        #expect((refused.standardError + refused.text).contains("isotherm_degraded"))
        for name in try FileManager.default.contentsOfDirectory(
            atPath: dashboards.appendingPathComponent("prometheus").path)
        {
            let path = dashboards.appendingPathComponent("prometheus/\(name)").path
            if name.hasSuffix(".test.yml") { try Peers.run("promtool", ["test", "rules", path]) }
            if name.hasSuffix(".rules.yml") { try Peers.run("promtool", ["check", "rules", path]) }
            if name == "prometheus.yml" { try Peers.run("promtool", ["check", "config", path]) }
        }
    }
}

/// Headless Chromium.
enum Browser {
    static let path =
        ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].first {
            FileManager.default.isExecutableFile(atPath: $0)
        } ?? "/usr/bin/chromium"

    static func arguments(profile: String) -> [String] {
        ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--user-data-dir=\(profile)"]
    }

    @discardableResult
    static func run(_ arguments: [String]) throws -> Peers.Output {
        let profile = IsothermProcess.temporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: profile) }
        return try Peers.run(path, Self.arguments(profile: profile) + arguments)
    }
}
