import Foundation
import Gzip
import OTLP
import TestSupport
import Testing

@testable import Telemetry

@Suite("Requests and answers on the wire")
struct WireTests {
    private func send(
        _ spans: Int = 3, to receiver: Receiver, _ change: (inout TelemetryConfiguration) -> Void = { _ in }
    ) -> (sdk: TelemetrySDK, reports: Reports) {
        let reports = Reports()
        let sdk = TelemetrySDK(
            configuration: .test(receiver) {
                $0.scheduleDelay = .seconds(60)
                $0.tracesExporter.initialBackoff = .milliseconds(10)
                $0.tracesExporter.maxBackoff = .milliseconds(40)
                $0.report = { reports.append($0) }
                change(&$0)
            })
        for index in 0..<spans {
            let span = sdk.tracer.startSpan("größe \u{1F7E2}")
            span.setAttribute("index", index)
            span.end()
        }
        #expect(sdk.shutdown(deadline: .seconds(30)).undelivered == 0)
        #expect(sdk.ledger.isBalanced && sdk.ledger.queued == 0)
        return (sdk, reports)
    }

    @Test(
        "JSON says what protobuf says, in every compression, and is read by the official classes (cases 1 to 5)",
        arguments: OTLPExporterSettings.Compression.allCases)
    func json(compression: OTLPExporterSettings.Compression) throws {
        let receiver = try Receiver(replies: [.status(503), .status(200, body: Array("{}".utf8))])
        defer { receiver.stop() }
        let (sdk, _) = send(to: receiver) {
            $0.tracesExporter.encoding = .json
            $0.compression = compression
        }
        #expect(sdk.ledger.exported == 3)
        let requests = receiver.requests
        try #require(requests.count == 2)
        #expect(requests[0].headers["content-type"] == "application/json")
        #expect(requests[0].headers["content-encoding"] == (compression == .none ? nil : compression.rawValue))
        // The same bytes again (case 18).
        #expect(requests[0].body == requests[1].body)
        let program = """
            import base64, gzip, json, subprocess, sys
            from google.protobuf import json_format
            from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
            body = sys.stdin.buffer.read()
            if sys.argv[1] == "gzip": body = gzip.decompress(body)
            if sys.argv[1] == "zstd": body = subprocess.run(["zstd", "-dc"], input=body, stdout=subprocess.PIPE, check=True).stdout
            def ids(v):
                if isinstance(v, dict):
                    return {k: base64.b64encode(bytes.fromhex(x)).decode() if k.endswith("Id") else ids(x) for k, x in v.items()}
                return [ids(x) for x in v] if isinstance(v, list) else v
            sys.stdout.buffer.write(json_format.ParseDict(ids(json.loads(body)), ExportTraceServiceRequest()).SerializeToString())
            """
        let output = try Peers.python(program, [compression.rawValue], input: Data(requests[1].body))
        let spans = try OfficialRequest.spans([Array(output.standardOutput)])
        #expect(spans.map(\.name) == Array(repeating: "größe \u{1F7E2}", count: 3))
        #expect(spans.map { $0["index"] } == ["int 0", "int 1", "int 2"])
    }

    @Test("zstd compresses protobuf, and a library that is missing is no library")
    func zstd() throws {
        let receiver = try Receiver()
        defer { receiver.stop() }
        let (_, reports) = send(to: receiver) { $0.compression = .zstd }
        let body = try #require(receiver.bodies.first)
        // https://www.rfc-editor.org/rfc/rfc8878#section-3.1.1
        #expect(body.starts(with: [0x28, 0xB5, 0x2F, 0xFD]) && reports.lines.isEmpty)
        let plain = try Peers.run("zstd", ["-dc"], input: Data(body)).standardOutput
        #expect(try OfficialRequest.spans([Array(plain)]).count == 3)
        #expect(Zstandard(library: "libzstd-is-not-here.so.1") == nil)
    }

    @Test("requests one after another share a connection, and name their sender (case 18)")
    func keepAlive() throws {
        let receiver = try Receiver()
        defer { receiver.stop() }
        let sdk = TelemetrySDK(configuration: .test(receiver) { $0.scheduleDelay = .seconds(60) })
        for _ in 0..<20 {
            sdk.tracer.startSpan("kept").end()
            #expect(sdk.flush(deadline: .seconds(10)).undelivered == 0)
        }
        // No empty envelope.
        #expect(sdk.flush(deadline: .seconds(10)).undelivered == 0)
        sdk.shutdown(deadline: .seconds(10))
        #expect(receiver.requests.count == 20)
        #expect(receiver.connectionCount == 1)
        for request in receiver.requests {
            // https://opentelemetry.io/docs/specs/otel/protocol/exporter/#user-agent
            #expect(request.headers["user-agent"]?.hasPrefix("OTel-OTLP-Exporter-Swift/") == true)
            // The exporter never traces itself.
            #expect(request.headers["traceparent"] == nil && request.headers["expect"] == nil)
            #expect(request.target.hasPrefix("POST /v1/traces "))
        }
        #expect(try OfficialRequest.spans(receiver.bodies).map(\.name) == Array(repeating: "kept", count: 20))
    }

    @Test("requests under way are as many as configured and no more", arguments: [1, 2, 4])
    func concurrency(limit: Int) throws {
        let receiver = try Receiver(otherwise: .status(200, delay: .milliseconds(100)))
        defer { receiver.stop() }
        let (sdk, _) = send(200, to: receiver) {
            $0.maxExportBatchSize = 20
            $0.tracesExporter.maxConcurrentRequests = limit
        }
        #expect(sdk.ledger.exported == 200)
        #expect(receiver.connectionCount == limit)
        let spans = try OfficialRequest.spans(receiver.bodies)
        #expect(Set(spans.map(\.span)).count == 200 && spans.count == 200)
    }

    @Test("a request is not larger than its limit: it is split, and an item that is larger alone is dropped (case 17)")
    func maxRequestBytes() throws {
        let receiver = try Receiver()
        defer { receiver.stop() }
        let reports = Reports()
        let sdk = TelemetrySDK(
            configuration: .test(receiver) {
                $0.scheduleDelay = .seconds(60)
                $0.report = { reports.append($0) }
                $0.tracesExporter.maxRequestBytes = 8_000
            })
        for index in 0..<40 {
            let span = sdk.tracer.startSpan("wide")
            // One of them does not fit by itself.
            span.setAttribute("text", String(repeating: "x", count: index == 7 ? 8_000 : 500))
            span.end()
        }
        sdk.shutdown(deadline: .seconds(20))
        #expect(sdk.ledger.exported == 39 && sdk.ledger.dropped[.oversize] == 1 && sdk.ledger.isBalanced)
        #expect(receiver.bodies.allSatisfy { $0.count <= 8_000 } && receiver.requests.count > 2)
        #expect(reports.lines.count == 1 && reports.lines[0].contains("8000 bytes"))
        #expect(try Set(OfficialRequest.spans(receiver.bodies).map(\.span)).count == 39)
    }

    @Test("an answer may be compressed, and its cap holds for what comes out of it (cases 16 and 17)")
    func gzipAnswer() throws {
        let rejected = Gzip.compress(Array(#"{"partialSuccess":{"rejectedSpans":"2","errorMessage":"why"}}"#.utf8))
        let bomb = Gzip.compress([UInt8](repeating: 0x20, count: 64 << 20))
        for (body, expected) in [(rejected, UInt64(2)), (bomb, 0)] {
            let receiver = try Receiver(replies: [.status(200, headers: ["Content-Encoding": "gzip"], body: body)])
            defer { receiver.stop() }
            let (sdk, _) = send(to: receiver)
            #expect(sdk.ledger.rejected == expected && sdk.ledger.exported == 3 - expected)
            #expect(receiver.requests.count == 1)
        }
    }

    @Test(
        "a body of 10 MiB, one without end, and half a head are no failure of ours (cases 13, 16 and 17)",
        arguments: [
            (.status(200, body: [UInt8](repeating: 0x61, count: 10 << 20)), 1), (.drip(200), 1), (.drip(503), 2),
            (.drip(400), 0), (.raw(Array("HTTP/1.1 20".utf8)), 2),
            (.raw(Array("HTTP/1.1 200 OK\r\nContent-Le".utf8)), 1),
            (.raw([]), 2), (.raw(Array("SSH-2.0-OpenSSH_9.2\r\n".utf8)), 2), (.disconnectEarly, 1), (.last(200), 1),
            (.cutOff(429, headers: ["Retry-After": "0"], promised: 9), 2),
            (.status(200, headers: ["Content-Type": "text/html; charset=utf-8"], body: Array("<p>".utf8)), 1),
        ] as [(Receiver.Reply, Int)])
    func oddAnswers(reply: Receiver.Reply, requests: Int) throws {
        let receiver = try Receiver(replies: [reply])
        defer { receiver.stop() }
        let (sdk, _) = send(to: receiver) { $0.timeout = .milliseconds(500) }
        // No request is a refusal for good.
        #expect(sdk.ledger.exported == (requests == 0 ? 0 : 3))
        #expect(sdk.ledger.rejected == (requests == 0 ? 3 : 0))
        #expect(receiver.requests.count == max(1, requests))
    }

    @Test("in a storm of failures the ledger says what the endpoint saw, to the span", arguments: 0..<4)
    func storm(seed: Int) throws {
        var generator = SeededGenerator(UInt64(seed))
        var script: [Receiver.Reply] = []
        // Whether the endpoint has taken what it was sent, by its own status line.
        var isTaken: [Bool] = []
        for _ in 0..<60 {
            let choices: [(Receiver.Reply, Bool)] = [
                (.ok, true), (.last(200), true), (.status(204), true), (.cutOff(200, promised: 5), true),
                (.status(429, headers: ["Retry-After": "0"]), false), (.status(502), false), (.last(503), false),
                (.status(504, headers: ["Retry-After": "Sun, 06 Nov 1994 08:49:37 GMT"]), false),
                (.cutOff(503, promised: 5), false), (.disconnect, false), (.raw(Array("HTT".utf8)), false),
                (.status(400), false), (.status(500), false),
            ]
            let (reply, taken) = choices[Int(generator.next() % UInt64(choices.count))]
            script.append(reply)
            isTaken.append(taken)
        }
        let receiver = try Receiver(replies: script)
        defer { receiver.stop() }
        let (sdk, _) = send(300, to: receiver) {
            $0.maxExportBatchSize = 10
            $0.compression = seed % 2 == 0 ? .gzip : .none
        }
        let requests = receiver.requests
        let taken = requests.indices.filter { $0 >= isTaken.count || isTaken[$0] }.map { requests[$0].body }
        let spans = try OfficialRequest.spans(taken, gzip: seed % 2 == 0)
        #expect(sdk.ledger.exported == UInt64(spans.count))
        #expect(Set(spans.map(\.span)).count == spans.count)
        #expect(sdk.ledger.exported + sdk.ledger.rejected == 300)
    }

    @Test("what is secret is in no report: user, password, query, header values (case 18)")
    func secrets() throws {
        let receiver = try Receiver(replies: [.status(400, body: Array("bad key s3cret-key, Basic".utf8))])
        defer { receiver.stop() }
        let (sdk, reports) = send(to: receiver) {
            $0.endpoint = "http://user:passw0rd@127.0.0.1:\(receiver.port)/v1/traces?key=qu3ry"
            $0.headers = [("api-key", "s3cret-key"), ("Content-Type", "text/plain")]
        }
        #expect(sdk.ledger.rejected == 3)
        let line = try #require(reports.lines.first)
        #expect(line.contains("http://127.0.0.1:\(receiver.port)/v1/traces ") && line.contains("<redacted>"))
        for secret in ["user:", "passw0rd", "s3cret", "qu3ry"] { #expect(!line.contains(secret)) }
        var dumped = ""
        dump(sdk.configuration, to: &dumped)
        for text in ["\(sdk.configuration)", String(reflecting: sdk.configuration), dumped] {
            for secret in ["passw0rd", "s3cret", "qu3ry"] { #expect(!text.contains(secret)) }
        }
        // What the request is about is not for a header to say; the rest went out.
        let request = try #require(receiver.requests.first)
        #expect(request.headers["api-key"] == "s3cret-key")
        #expect(request.headers["content-type"] == "application/x-protobuf")
        #expect(request.headers["authorization"]?.hasPrefix("Basic ") == true)
    }

    @Test("an abort ends a request under way at once")
    func abort() throws {
        let receiver = try Receiver(otherwise: .blackHole)
        defer { receiver.stop() }
        let sdk = TelemetrySDK(configuration: .test(receiver) { $0.timeout = .seconds(60) })
        sdk.tracer.startSpan("stuck").end()
        #expect(eventually { receiver.requests.count == 1 })
        #expect(sdk.shutdown(deadline: .zero).undelivered == 1)
        #expect(sdk.ledger.dropped[.shutdown] == 1 && sdk.ledger.isBalanced)
    }

    @Test("lines about losses come at most once a minute, and the next one says how many had none")
    func rateLimit() throws {
        let receiver = try Receiver(otherwise: .status(400))
        defer { receiver.stop() }
        let (sdk, reports) = send(100, to: receiver) { $0.maxExportBatchSize = 10 }
        #expect(sdk.ledger.rejected == 100 && receiver.requests.count == 10)
        #expect(reports.lines.count == 1)
    }
}
