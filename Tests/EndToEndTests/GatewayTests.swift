import Foundation
import TestSupport
import Testing

@Suite("The gateway")
struct GatewayTests {
    private struct ProblemBody: Decodable {
        let type: String
        let title: String
        let status: Int
        let detail: String
    }

    /// Every error is a problem by RFC 9457.
    private func problem(_ reply: HTTPReply, _ status: Int) throws -> String {
        #expect(reply.status == status, "\(reply.body)")
        #expect(reply.field("Content-Type") == "application/problem+json")
        let body = try JSONDecoder().decode(ProblemBody.self, from: Data(reply.body.utf8))
        #expect(body.status == status)
        #expect(!body.title.isEmpty && !body.type.isEmpty)
        return body.detail
    }

    @Test("bad input gets a clear error, and the server stays up")
    func badInput() throws {
        let server = try IsothermProcess()
        let port = server.port
        let megabyte = String(repeating: "x", count: 1 << 20)
        #expect(try problem(HTTP.post("/v1/events/t", megabyte, port: port), 413).contains("262144"))
        #expect(try problem(HTTP.post("/v1/events/a%20b", "x", port: port), 400).contains("topic"))
        #expect(try problem(HTTP.post("/v1/events/%0D%0Aid:1", "x", port: port), 400).contains("topic"))
        #expect(
            try problem(HTTP.post("/v1/events/\(String(repeating: "t", count: 129))", "x", port: port), 400).contains(
                "128"))
        for field in ["X-Event-Type", "X-Event-Key"] {
            // CR and LF cannot come inside a header; NUL and other controls can be tried.
            let reply = try HTTP.post("/v1/events/t", "x", port: port, fields: [(field, "a\u{01}b")])
            #expect((400..<500).contains(reply.status))
            let null = try HTTP.post("/v1/events/t", "x", port: port, fields: [(field, "a\u{00}b")])
            #expect((400..<500).contains(null.status))
            let split = try HTTP.post("/v1/events/t", "x", port: port, fields: [(field, "a\rdata: forged")])
            #expect((400..<500).contains(split.status))
        }
        _ = try problem(HTTP.post("/v1/events/t", "x", port: port, fields: [("X-Event-Time", "yesterday")]), 400)
        _ = try problem(HTTP.get("/v1/events/t?limit=0", port: port), 400)
        _ = try problem(HTTP.get("/v1/events/t?wait=a", port: port), 400)
        _ = try problem(HTTP.get("/v1/events", port: port, fields: [("Accept", "text/event-stream")]), 400)
        _ = try problem(HTTP.get("/nowhere", port: port), 404)
        _ = try problem(HTTP.get("/heatmap?quantile=200", port: port), 400)
        _ = try problem(HTTP.get("/heatmap?colour=red", port: port), 400)

        let garbage = [UInt8]("\u{1}\u{2}garbage".utf8)
        let protobuf = [("Content-Type", "application/x-protobuf")]
        _ = try problem(HTTP.request("POST", "/v1/traces", port: port, fields: protobuf, body: garbage), 400)
        _ = try problem(
            HTTP.request("POST", "/v1/traces", port: port, fields: [("Content-Type", "text/plain")], body: garbage), 415
        )
        let truncated: [UInt8] = [0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 3, 0x4B]
        _ = try problem(
            HTTP.request(
                "POST", "/v1/traces", port: port, fields: protobuf + [("Content-Encoding", "gzip")], body: truncated),
            400)
        _ = try problem(
            HTTP.request(
                "POST", "/v1/traces", port: port, fields: protobuf + [("Content-Encoding", "br")], body: truncated),
            415)
        _ = try problem(HTTP.post("/v1/receipts", "{}", port: port), 400)

        // Not HTTP at all.
        let connection = try RawConnection(port: port)
        try connection.send([UInt8](repeating: 0xFF, count: 4_096))
        _ = connection.receiveAll(milliseconds: 3_000)

        #expect(try server.publish("t", "still here").id.hasPrefix("ev_"))
        #expect(server.isRunning)
    }

    @Test("ten thousand groups: the first have rows, the rest are counted together")
    func manyGroups() throws {
        let server = try IsothermProcess(arguments: ["--set", "heatmap.max_groups=9000"])
        let program = """
            import sys, time
            from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
            now = time.time_ns()
            request = ExportTraceServiceRequest()
            spans = request.resource_spans.add().scope_spans.add().spans
            for index in range(10000):
                span = spans.add(name="s", trace_id=bytes([1]) * 16, span_id=bytes([1]) * 8)
                span.start_time_unix_nano, span.end_time_unix_nano = now - 1000000, now
                attribute = span.attributes.add(key="device.group")
                attribute.value.string_value = "group-%d" % index
            sys.stdout.buffer.write(request.SerializeToString())
            """
        let body = Array(try Peers.python(program).standardOutput)
        let reply = try HTTP.request(
            "POST", "/v1/traces", port: server.port, fields: [("Content-Type", "application/x-protobuf")], body: body)
        #expect(reply.status == 200)
        #expect(try server.metric("isotherm_heatmap_groups") == 9_000)
        #expect(try server.metric("isotherm_heatmap_latencies_total{kind=\"overflowed\"}") == 1_000)
        #expect(try server.metric("isotherm_otlp_received_spans_total{outcome=\"counted\"}") == 10_000)
        let text = try HTTP.get("/heatmap.txt", port: server.port).body
        #expect(text.contains("8801 more groups are not shown"))
        #expect(text.contains("1,000 latencies are in (other)"))
    }

    @Test("an Idempotency-Key adds an event once, however often it is sent")
    func idempotency() throws {
        let server = try IsothermProcess()
        let device = try Device(port: server.port, "/v1/events/t")
        let key = [("Idempotency-Key", "order-17")]
        let first = try server.publish("t", "a", fields: key)
        let second = try server.publish("t", "a", fields: key)
        #expect(second.id == first.id)
        #expect(second.duplicate == true)
        try server.publish("t", "b")
        #expect(try device.events(2).map(\.data) == ["a", "b"])
        server.killNow()
        let restarted = try IsothermProcess(dataDirectory: server.dataDirectory)
        #expect(try restarted.publish("t", "a", fields: key).id == first.id)
    }

    @Test("batches: NDJSON, CloudEvents single and batch")
    func batches() throws {
        let server = try IsothermProcess()
        let device = try Device(port: server.port, "/v1/events/t")
        let lines = try HTTP.post(
            "/v1/events/t", "{\"n\":1}\n{\"n\":2}\n\n{\"n\":3}\n", port: server.port,
            fields: [("Content-Type", "application/x-ndjson")])
        #expect(lines.status == 202)
        #expect(try device.events(3).map(\.data) == ["{\"n\":1}", "{\"n\":2}", "{\"n\":3}"])
        let event =
            "{\"specversion\":\"1.0\",\"id\":\"7\",\"source\":\"/shop\",\"type\":\"order.paid\",\"data\":{\"n\":4}}"
        let single = try HTTP.post(
            "/v1/events/t", event, port: server.port, fields: [("Content-Type", "application/cloudevents+json")])
        #expect(single.status == 202, "\(single.body)")
        let received = try device.events(1)[0]
        #expect(received.type == "order.paid")
        #expect(received.data == event)
        let batch = try HTTP.post(
            "/v1/events/t", "[\(event.replacing("\"7\"", with: "\"8\"")),\(event)]", port: server.port,
            fields: [("Content-Type", "application/cloudevents-batch+json")])
        #expect(batch.status == 202, "\(batch.body)")
        // The second has the source and the id of the one before: it is the same event.
        #expect(try device.events(1)[0].data.contains("\"id\":\"8\""))
        try server.publish("t", "end")
        #expect(try device.events(1)[0].data == "end")
        let broken = try HTTP.post(
            "/v1/events/t", "[{\"id\":\"9\"}]", port: server.port,
            fields: [("Content-Type", "application/cloudevents-batch+json")])
        #expect(try problem(broken, 400).contains("specversion"))
    }

    @Test("a quota answers 429 with Retry-After, and lets events through again")
    func quota() throws {
        let server = try IsothermProcess(
            arguments: ["--set", "gateway.quota.events_per_second=5", "--set", "gateway.quota.event_burst=3"])
        for _ in 1...3 { try server.publish("t", "x") }
        let refused = try HTTP.post("/v1/events/t", "x", port: server.port)
        _ = try problem(refused, 429)
        #expect(Int(refused.field("Retry-After") ?? "") ?? 0 >= 1)
        #expect(try server.metric("isotherm_quota_rejections_total{tenant=\"default\",quota=\"events\"}") == 1)
        try Wait.until("the bucket fills") { try HTTP.post("/v1/events/t", "y", port: server.port).status == 202 }
    }

    @Test("a tenant sees only its own events, ids and groups")
    func tenants() throws {
        let configuration = """
            tenants:
              acme:
                tokens: [acme-secret-1, acme-secret-2]
              globex:
                tokens: [globex-secret]
            """
        let server = try IsothermProcess(configuration: configuration)
        let port = server.port
        func bearer(_ token: String) -> [(String, String)] { [("Authorization", "Bearer \(token)")] }
        let refused = try HTTP.post("/v1/events/t", "x", port: port)
        _ = try problem(refused, 401)
        #expect(refused.field("WWW-Authenticate")?.hasPrefix("Bearer") == true)
        _ = try problem(HTTP.post("/v1/events/t", "x", port: port, fields: bearer("wrong-token")), 401)

        let acme = try Device(port: port, "/v1/events/t?group=acme-phones&token=acme-secret-2")
        let globex = try Device(port: port, "/v1/events/t?group=globex-phones", fields: bearer("globex-secret"))
        let id = try server.publish("t", "for acme", fields: bearer("acme-secret-1")).id
        try server.publish("t", "for globex", fields: bearer("globex-secret"))
        #expect(try acme.events(1)[0].data == "for acme")
        #expect(try globex.events(1)[0].data == "for globex")
        let carried = try Device(
            port: port, "/v1/events/t", lastEventID: id, fields: bearer("globex-secret"))
        #expect(try carried.events(1)[0].type == "isotherm.reset")

        _ = try problem(HTTP.get("/heatmap", port: port), 401)
        try Wait.until("both are counted") {
            try HTTP.get("/heatmap.csv", port: port, fields: bearer("acme-secret-1")).body.contains("acme-phones")
                && HTTP.get("/heatmap.csv", port: port, fields: bearer("globex-secret")).body.contains("globex-phones")
        }
        let mine = try HTTP.get("/heatmap.csv", port: port, fields: bearer("acme-secret-1")).body
        #expect(!mine.contains("globex"))
        #expect(!server.output.contains("secret"))
    }

    @Test("a device's receipts become the stage receive; wrong ones are counted as rejected")
    func receipts() throws {
        let server = try IsothermProcess()
        let device = try Device(port: server.port, "/v1/events/t?group=cars")
        let begun = ContinuousClock.now
        let id = try server.publish("t", "x").id
        _ = try device.events(1)
        let later = UInt64(Date().timeIntervalSince1970 * 1e9) + 3_600_000_000_000
        let body = """
            {"device":"d1","group":"cars","receipts":[
              {"id":"\(id)","received_at_unix_nano":"\(later)"},
              {"id":"\(id)","received_at":"1970-01-01T00:00:01Z"},
              {"id":"ev_forged","received_at_unix_nano":"\(later)"}]}
            """
        let reply = try HTTP.post("/v1/receipts", body, port: server.port)
        let spent = (ContinuousClock.now - begun) / .milliseconds(1)
        #expect(reply.status == 202)
        #expect(reply.body.contains("\"accepted\":1") && reply.body.contains("\"rejected\":2"))
        let csv = try HTTP.get("/heatmap.csv?stage=receive", port: server.port).body
        let cell = try #require(csv.firstMatch(of: /,cars,receive,1,([0-9.]+),/))
        // Not an hour later: it cannot have been received after the report of it came in.
        #expect(try #require(Double(cell.1)) <= spent * 1.0054)
    }
}
