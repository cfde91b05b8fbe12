import Foundation
import TestSupport
import Testing

@Suite("The command line")
struct CommandLineTests {
    private func isotherm(
        _ arguments: [String], input: String = "", environment: [String: String] = [:], expected: Int32? = 0
    ) throws -> Peers.Output {
        try Peers.run(
            IsothermProcess.executable, arguments, input: Data(input.utf8), environment: environment, expected: expected
        )
    }

    @Test("the demo delivers every event to every device once, and says so with its status")
    func demo() throws {
        let directory = IsothermProcess.temporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let output = try isotherm(["demo", "--duration", "8s", "--devices", "70", "--output", directory])
        #expect(!output.text.contains("FAIL"))
        #expect(output.text.components(separatedBy: "\nok  ").count >= 7)
        let csv = try String(contentsOfFile: directory + "/heatmap.csv", encoding: .utf8)
        for group in ["iOS-18", "Android-12", "Car-EU", "TV-slow-reader"] {
            #expect(csv.contains(",\(group),receive,"))
        }
        #expect(try String(contentsOfFile: directory + "/heatmap.html", encoding: .utf8).contains("TV-slow-reader"))
        #expect(try String(contentsOfFile: directory + "/heatmap.txt", encoding: .utf8).contains("Car-EU"))
    }

    @Test("the demo exports to the collector that the environment names")
    func demoWithCollector() throws {
        let sink = try OTLPSink()
        let directory = IsothermProcess.temporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let output = try isotherm(
            ["demo", "--duration", "3s", "--devices", "20", "--output", directory],
            environment: ["OTEL_EXPORTER_OTLP_ENDPOINT": sink.endpoint])
        let exported = try #require(output.text.firstMatch(of: /exported (\d+)/)?.1)
        #expect(try sink.spans().count == Int(exported))
    }

    @Test("publish and listen: arguments, lines, types, and a cursor")
    func publishAndListen() throws {
        let server = try IsothermProcess()
        let url = ["--server", "http://127.0.0.1:\(server.port)"]
        let first = try isotherm(["publish", "t", "one", "--type", "greeting"] + url).text
        #expect(first.hasPrefix("ev_") && first.hasSuffix("\n"))
        let ids = try isotherm(["publish", "t", "-"] + url, input: "two\n\nthree\n").text.split(separator: "\n")
        #expect(ids.count == 2)
        let id = first.trimmingCharacters(in: .newlines)
        let data = try isotherm(["listen", "t", "--after", id, "--count", "2", "--format", "data"] + url).text
        #expect(data == "two\nthree\n")
        let json = try isotherm(["listen", "t", "--after", id, "--count", "1", "--format", "json", "--receipts"] + url)
            .text
        #expect(json.contains("\"data\":\"two\"") && json.contains("\"traceparent\":\"00-"))
        #expect(try server.metric("isotherm_receipts_total{outcome=\"accepted\"}") == 1)
        let refused = try isotherm(["publish", "no such topic", "x"] + url, expected: 1)
        #expect(refused.standardError.contains("topic"))
    }

    @Test("listen resumes after the server has been killed, and misses nothing")
    func listenResumes() throws {
        let server = try IsothermProcess(arguments: ["--set", "delivery.retry=100ms"])
        let listener = try ChildProcess(
            IsothermProcess.executable,
            ["listen", "t", "--count", "6", "--format", "data", "--server", "http://127.0.0.1:\(server.port)"])
        _ = try listener.waitForLine("listening on")
        for number in 1...3 { try server.publish("t", "event \(number)") }
        _ = try listener.waitForLine("event 3")
        server.killNow()
        let second = try IsothermProcess(dataDirectory: server.dataDirectory, port: server.port)
        for number in 4...6 { try second.publish("t", "event \(number)") }
        try Wait.until("all have come") { !listener.isRunning }
        let events = listener.output.split(separator: "\n").filter { $0.hasPrefix("event ") }
        #expect(events == (1...6).map { "event \($0)" }[...].map { $0[...] })
    }

    @Test("the heatmap of OTLP files: JSON lines, protobuf and gzip give the same; a server gives its own")
    func heatmapOfFiles() throws {
        let directory = IsothermProcess.temporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let program = """
            import base64, gzip, json, struct, sys
            from google.protobuf import json_format
            from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
            messages = []
            for part in range(3):
                request = ExportTraceServiceRequest()
                spans = request.resource_spans.add().scope_spans.add().spans
                for index in range(100):
                    end = 1_795_000_000_000_000_000 + part * 60_000_000_000 + index * 1000
                    span = spans.add(name="s", trace_id=bytes([index + 1]) * 16, span_id=bytes([1]) * 8, kind=2)
                    span.start_time_unix_nano, span.end_time_unix_nano = end - (index + 1) * 1_000_000, end
                    attribute = span.attributes.add(key="region")
                    attribute.value.string_value = "eu" if index % 2 else "us"
                messages.append(request)
            def line(request):
                value = json_format.MessageToDict(request, use_integers_for_enums=True)
                for span in value["resourceSpans"][0]["scopeSpans"][0]["spans"]:
                    for key in ["traceId", "spanId"]: span[key] = base64.b64decode(span[key]).hex()
                return json.dumps(value) + "\\n"
            lines = "".join(line(m) for m in messages).encode()
            frames = b"".join(struct.pack(">I", m.ByteSize()) + m.SerializeToString() for m in messages)
            for name, data in [("a.json", lines), ("a.pb", frames), ("a.json.gz", gzip.compress(lines)),
                               ("a.pb.gz", gzip.compress(frames))]:
                open(sys.argv[1] + "/" + name, "wb").write(data)
            """
        try Peers.python(program, [directory])
        let options = ["--by", "region", "--format", "csv", "--quantile", "p95"]
        let json = try isotherm(["heatmap", directory + "/a.json"] + options).text
        for name in ["a.pb", "a.json.gz", "a.pb.gz"] {
            #expect(try isotherm(["heatmap", "\(directory)/\(name)"] + options).text == json, "\(name)")
        }
        // Durations are 1…100 ms; "us" has the odd ones: of 50 values, nearest rank 48 is 95 ms.
        let row = try #require(json.split(separator: "\r\n").first { $0.contains(",us,") })
        #expect(row.split(separator: ",", omittingEmptySubsequences: false)[4] == "50")
        #expect(row.split(separator: ",", omittingEmptySubsequences: false)[7] == "95.000")
        let both = try isotherm(["heatmap", directory + "/a.json", directory + "/a.pb"] + options).text
        #expect(both.contains(",us,span,100,"))
        let input = try String(contentsOfFile: directory + "/a.json", encoding: .utf8)
        #expect(try isotherm(["heatmap", "-"] + options, input: input).text == json)
        let html = directory + "/out.html"
        _ = try isotherm(["heatmap", directory + "/a.json", "--format", "html", "--output", html])
        #expect(try String(contentsOfFile: html, encoding: .utf8).contains("<table>"))
        let none = try isotherm(["heatmap", directory + "/a.json", "--name", "other"])
        #expect(none.standardError.contains("300 filtered"))

        let server = try IsothermProcess()
        #expect(try isotherm(["heatmap", "http://127.0.0.1:\(server.port)"]).text.contains("no latencies"))
        let refused = try isotherm(["heatmap", "http://127.0.0.1:\(server.port)", "--window", "7s"], expected: 1)
        #expect(refused.standardError.contains("7"))
    }

    @Test("--watch gives the terminal back and exits with 0 on SIGTERM and ^C, also while a server does not answer")
    func watch() throws {
        let server = try IsothermProcess()
        let program = """
            import os, pty, select, signal, socket, sys, time
            def watch(url, isReady, end):
                child, terminal = pty.fork()
                if child == 0:
                    signal.pthread_sigmask(signal.SIG_SETMASK, [])
                    os.execve(sys.argv[1], [sys.argv[1], "heatmap", url, "--watch", "1s"], {**os.environ, "TERM": "xterm-256color"})
                seen, deadline = b"", time.time() + 30
                while not isReady(seen):
                    assert time.time() < deadline, seen
                    if select.select([terminal], [], [], 0.1)[0]: seen += os.read(terminal, 65536)
                assert seen.startswith(b"\\x1b[?1049h\\x1b[?25l"), seen
                if end == "^C": os.write(terminal, b"\\x03")
                else: os.kill(child, end)
                begin = time.time()
                _, status = os.waitpid(child, 0)
                assert time.time() - begin < 5, "it took long to end"
                try:
                    while part := os.read(terminal, 65536): seen += part
                except OSError:
                    pass
                assert os.waitstatus_to_exitcode(status) == 0, status
                assert seen.endswith(b"\\x1b[?25h\\x1b[?1049l"), seen[-200:]
            shown = lambda seen: b"no latencies" in seen
            watch(sys.argv[2], shown, signal.SIGTERM)
            watch(sys.argv[2], shown, "^C")
            silent = socket.create_server(("127.0.0.1", 0))
            asked = lambda seen: len(seen) > 0 and select.select([silent], [], [], 0)[0]
            watch("http://127.0.0.1:%d" % silent.getsockname()[1], asked, signal.SIGTERM)
            print("ok")
            """
        let arguments = [IsothermProcess.executable, "http://127.0.0.1:\(server.port)"]
        #expect(try Peers.python(program, arguments).text == "ok\n")
    }

    @Test("a long file shows how far it is on a terminal, takes that away, and shows nothing where there is none")
    func progress() throws {
        let directory = IsothermProcess.temporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let program = """
            import json, os, pty, subprocess, sys
            path = sys.argv[2] + "/traces.json"
            with open(path, "w") as file:
                for number in range(12000):
                    file.write(json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [{"name": "work", "traceId": "%032x" % (number + 1),
                        "spanId": "%016x" % (number + 1), "startTimeUnixNano": str(10 ** 18), "endTimeUnixNano": str(10 ** 18 + number * 1000),
                        "attributes": [{"key": "filler", "value": {"stringValue": "x" * 1500}}]}]}]}]}) + "\\n")
            def run(errors):
                return subprocess.run([sys.argv[1], "heatmap", path, "--format", "json"], stdout=subprocess.PIPE, stderr=errors, check=True).stdout
            ours, theirs = pty.openpty()
            shown = run(theirs)
            os.close(theirs)
            bar = b""
            try:
                while part := os.read(ours, 65536): bar += part
            except OSError:
                pass
            assert json.loads(shown)["count"] == 12000
            assert b"[#" in bar and b" % " in bar and b" MB" in bar and bar.endswith(b"\\r\\x1b[K"), bar
            quiet = subprocess.run([sys.argv[1], "heatmap", path, "--format", "json"], capture_output=True, check=True)
            assert (quiet.stdout, quiet.stderr) == (shown, b""), quiet.stderr
            print("ok")
            """
        #expect(try Peers.python(program, [IsothermProcess.executable, directory]).text == "ok\n")
    }

    @Test("every view is the same on the command line and over HTTP, in every form")
    func views() throws {
        let server = try IsothermProcess(arguments: ["--set", "delivery.acknowledgement_probes=0"])
        let device = try Device(port: server.port, "/v1/events/t?group=iOS")
        for number in 1...30 { try server.publish("t", "\(number)") }
        _ = try device.events(30)
        try Wait.until("all deliveries are in cells") {
            try server.metric("isotherm_heatmap_latencies_total{kind=\"all\"}") == 90
        }
        let until = "2100-01-01T00:00:00Z"
        for view in ["grid", "distribution", "slo"] {
            for (format, name) in [("text", "txt"), ("csv", "csv"), ("json", "json")] {
                let here = try isotherm([
                    "heatmap", "http://127.0.0.1:\(server.port)", "--view", view, "--format", format, "--width", "90",
                    "--until", until, "--group", "iOS", "--color", "none",
                ]).text
                let there = try HTTP.get(
                    "/heatmap.\(name)?view=\(view)&width=90&until=\(until)&group=iOS", port: server.port
                ).body
                #expect(here == there && here.contains("iOS"), "\(here)")
            }
        }
    }

    @Test("wrong usage exits with 64 and names the value, the limit and the remedy")
    func wrongUsage() throws {
        let directory = IsothermProcess.temporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let file = directory + "/isotherm.yaml"
        func serve(_ yaml: String) throws -> String {
            try yaml.write(toFile: file, atomically: true, encoding: .utf8)
            return try isotherm(["serve", "--config", file, "--data", directory], expected: 64).standardError
        }
        #expect(try serve("gateway:\n  durabilty: fsync\n").contains("did you mean \"gateway.durability\"?"))
        #expect(try serve("gateway:\n  durability: maybe\n").contains("\"maybe\" is none of memory, written, fsync"))
        #expect(try serve("listen: 0.0.0.0:8080\n").contains("not a loopback address"))
        #expect(try serve("listen: [1, {a: 2}]\n").contains("listen"))
        #expect(try serve("a: [unclosed\n").contains("not YAML"))
        #expect(try serve("tenants:\n  acme:\n    token: x\n").contains("tenants.acme.tokens"))
        #expect(try isotherm(["heatmap"], expected: 64).standardError.contains("heatmap"))
        #expect(try isotherm(["heatmap", file, "--quantile", "p0"], expected: 64).standardError.contains("p0"))
        #expect(try isotherm(["demo", "--devices", "1"], expected: 64).standardError.contains("7"))
        #expect(try isotherm(["heatmap", directory + "/none.json"], expected: 1).standardError.contains("none.json"))
    }

    @Test("flags go before the environment, and the environment before the file; secrets are not shown")
    func layers() throws {
        let directory = IsothermProcess.temporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let file = directory + "/isotherm.yaml"
        let yaml = """
            delivery:
              retry: 1s
              heartbeat: 2s
              stall_timeout: 3s
            heatmap:
              tiers: ["10m:2d", "1d:30d"]
            tenants:
              acme:
                tokens: [very-secret]
            """
        try yaml.write(toFile: file, atomically: true, encoding: .utf8)
        let shown = try isotherm(
            [
                "serve", "--config", file, "--set", "delivery.stall_timeout=30s", "--set", "heatmap.thresholds=80ms,1s",
                "--print-config",
            ],
            environment: ["ISOTHERM_DELIVERY_HEARTBEAT": "20s", "ISOTHERM_DELIVERY_STALL_TIMEOUT": "31s"]
        ).text
        #expect(shown.contains("retry: 1s") && shown.contains("heartbeat: 20s") && shown.contains("stall_timeout: 30s"))
        #expect(!shown.contains("very-secret"))
        #expect(shown.contains("tiers: \"10m:2d,1d:30d\"") && shown.contains("thresholds: \"80ms,1s\""))
        for (setting, cause) in [
            ("tiers=7m:7d", "divides a day"), ("tiers=5m", "window:retention"), ("tiers=5m:1h", "shorter time"),
            ("thresholds=1s,2s,3s,4s,5s", "5 are more than 4"),
        ] {
            let refused = try isotherm(["serve", "--data", directory, "--set", "heatmap.\(setting)"], expected: nil)
            #expect(refused.status != 0 && refused.standardError.contains(cause), "\(refused.standardError)")
        }
        // What is printed can be read again.
        let again = shown.replacing("tokens: <redacted>", with: "tokens: [very-secret]")
        try again.write(toFile: file, atomically: true, encoding: .utf8)
        #expect(try isotherm(["serve", "--config", file, "--print-config"]).text == shown)
    }

    @Test("every command explains itself")
    func help() throws {
        for command in ["serve", "demo", "heatmap", "publish", "listen", "bench"] {
            let text = try isotherm([command, "--help"]).text
            #expect(text.contains("USAGE: isotherm \(command)"))
        }
        #expect(try isotherm(["--version"]).text.contains("."))
    }
}
