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
