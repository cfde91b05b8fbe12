import Foundation
import TestSupport
import Testing

@Suite("Traces, through a collector")
struct TraceTests {
    @Test("one event is one trace of its stages under the caller's span, as the official classes decode it")
    func fourStages() throws {
        let sink = try OTLPSink()
        let collector = try RotelCollector(exporterEndpoint: sink.endpoint)
        let server = try IsothermProcess(environment: [
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
            "OTEL_BSP_SCHEDULE_DELAY": "200", "OTEL_SERVICE_NAME": "push",
        ])
        let device = try Device(port: server.port, "/v1/events/orders?group=iOS-15+&device=d17")
        // The example of the W3C recommendation.
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736"
        let reply = try server.publish(
            "orders", "{}", fields: [("traceparent", "00-\(trace)-00f067aa0ba902b7-01"), ("tracestate", "vendor=1")])
        #expect(reply.trace_id == trace)
        _ = try device.events(1)
        var spans: [OTLPSink.Span] = []
        try Wait.until("five spans at the far end") {
            spans = try sink.spans()
            return spans.count >= 5
        }
        #expect(spans.allSatisfy { $0.traceID == trace && $0.service == "push" })
        let byName = Dictionary(spans.map { ($0.name, $0) }) { first, _ in first }
        let produce = try #require(byName["produce"])
        #expect(produce.parentID == "00f067aa0ba902b7")
        #expect(produce.kind == 4, "PRODUCER")
        #expect(try #require(byName["gateway"]).parentID == produce.spanID)
        #expect(try #require(byName["stream"]).parentID == produce.spanID)
        let deliver = try #require(byName["deliver"])
        #expect(deliver.parentID == produce.spanID)
        #expect(deliver.kind == 5, "CONSUMER")
        let acknowledge = try #require(byName["acknowledge"])
        #expect(acknowledge.parentID == produce.spanID)
        #expect(acknowledge.end >= deliver.end, "written first, then acknowledged")
        for span in spans {
            #expect(span.start <= span.end)
            #expect(span.attributes["isotherm.stage"] == span.name)
            #expect(span.attributes["messaging.system"] == "isotherm")
            #expect(span.attributes["messaging.destination.name"] == "orders")
            #expect(span.attributes["tenant.id"] == "default")
        }
        #expect(deliver.attributes["device.group"] == "iOS-15+")
        #expect(deliver.attributes["device.id"] == "d17")
        #expect(deliver.attributes["messaging.message.id"] == reply.id)
        #expect(UInt64(deliver.attributes["isotherm.latency_ns"] ?? "") ?? 0 > 0)
        // The payload goes on with the trace: a device's agent continues from the produce span.
        server.stop()
        #expect(server.output.contains("exported 5 "))
    }

    @Test("ten thousand spans of the official SDK, through a collector: exact counts, P95 within 0.54 %")
    func officialSDK() throws {
        let server = try IsothermProcess()
        let collector = try RotelCollector(exporterEndpoint: "http://127.0.0.1:\(server.port)")
        // Prints "group count exact-p95-in-ns" for each group: nearest rank on the durations themselves.
        let program = """
            import math, random, sys, time
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            random.seed(11)
            provider = TracerProvider()
            provider.add_span_processor(BatchSpanProcessor(
                OTLPSpanExporter(endpoint=sys.argv[1] + "/v1/traces"), max_queue_size=20000, max_export_batch_size=512))
            tracer = provider.get_tracer("test")
            # All in one minute, the window's length.
            now = time.time_ns() // 60_000_000_000 * 60_000_000_000
            groups = {}
            for index in range(10000):
                group = "group-%d" % (index % 7)
                duration = int(random.lognormvariate(17.5, 1.1))
                end = now - 1_000_000_000 - index
                span = tracer.start_span("work", start_time=end - duration)
                span.set_attribute("device.group", group)
                span.end(end_time=end)
                groups.setdefault(group, []).append(duration)
            provider.shutdown()
            for group, durations in sorted(groups.items()):
                durations.sort()
                print(group, len(durations), durations[math.ceil(len(durations) * 95 / 100) - 1])
            """
        let expected = try Peers.python(program, [collector.endpoint]).text.split(separator: "\n").map {
            $0.split(separator: " ").map(String.init)
        }
        #expect(expected.count == 7)
        try Wait.until("10,000 spans are counted") {
            try server.metric("isotherm_otlp_received_spans_total{outcome=\"counted\"}") == 10_000
        }
        struct Report: Decodable {
            struct Group: Decodable {
                struct Cell: Decodable {
                    let count: UInt64
                    let p95_ns: Double
                }
                let group: String
                let cells: [Cell?]
            }
            let count: UInt64
            let stage: String
            let groups: [Group]
        }
        let report = try JSONDecoder().decode(
            Report.self, from: Data(HTTP.get("/heatmap.json", port: server.port).body.utf8))
        #expect(report.count == 10_000)
        #expect(report.stage == "span")
        #expect(report.groups.map(\.group) == expected.map { $0[0] })
        for (group, exact) in zip(report.groups, expected) {
            let cells = group.cells.compactMap { $0 }
            #expect(cells.count == 1)
            #expect(cells[0].count == UInt64(exact[1]))
            let p95 = try #require(Double(exact[2]))
            #expect(abs(cells[0].p95_ns - p95) <= p95 * 0.0054166, "\(group.group): \(cells[0].p95_ns), exact \(p95)")
        }
        #expect(try server.metric("isotherm_otlp_received_spans_total{outcome=\"received\"}") == 10_000)
    }

    @Test("Isotherm, a collector, Isotherm: every span is counted at both ends")
    func chain() throws {
        let output = try Peers.run(
            Peers.repositoryRoot.appendingPathComponent("collector/rotel-chain.sh").path, [],
            environment: [
                "ISOTHERM": IsothermProcess.executable, "A_PORT": "\(Peers.freePort())",
                "B_PORT": "\(Peers.freePort())",
                "ROTEL_PORT": "\(Peers.freePort())", "ROTEL_GRPC_PORT": "\(Peers.freePort())", "EVENTS": "150",
            ])
        #expect(output.standardError.contains("every exported span arrived"))
        // Three stages and one delivery for each event.
        #expect(output.text.contains(/received by B +600/), "\(output.text)")
    }

    @Test(
        "a span for each delivery gets a queue for bursts, unless the environment says how large",
        arguments: [("summary", nil, 2_048), ("all", nil, 16_384), ("all", "4000", 4_000)] as [(String, String?, Int)])
    func queue(spans: String, given: String?, capacity: Int) throws {
        var environment = ["OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"]
        environment["OTEL_BSP_MAX_QUEUE_SIZE"] = given
        let server = try IsothermProcess(
            arguments: ["--set", "delivery.spans=\(spans)"], environment: environment)
        let line = try HTTP.get("/metrics", port: server.port).body.split(separator: "\n")
            .first { $0.hasPrefix("otel_sdk_processor_span_queue_capacity{") }
        #expect(line?.hasSuffix(" \(capacity)") == true, "\(line ?? "no such metric")")
    }

    @Test("a collector that is away costs no event, and every span is accounted for")
    func collectorAway() throws {
        let server = try IsothermProcess(environment: [
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:\(Peers.freePort())", "OTEL_BSP_SCHEDULE_DELAY": "50",
            "OTEL_BSP_EXPORT_TIMEOUT": "500", "OTEL_BSP_MAX_QUEUE_SIZE": "64", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "16",
        ])
        let device = try Device(port: server.port, "/v1/events/t")
        for number in 1...200 { try server.publish("t", "\(number)") }
        #expect(try device.events(200).count == 200)
        try Wait.until("the exporter is degraded") {
            try server.metric("isotherm_degraded{dependency=\"exporter\"}") == 1
        }
        let ready = try HTTP.get("/readyz", port: server.port)
        #expect(ready.status == 200 && ready.body.contains("\"degraded\":[\"exporter\"]"))
        #expect(server.stop() == 0)
        let ledger = try #require(
            server.output.firstMatch(
                of:
                    /spans: started (\d+) = sampled out (\d+) \+ exported (\d+) \+ rejected (\d+) \+ dropped (\d+) .* \+ live (\d+) \+ queued (\d+)/
            ))
        let figures = [ledger.1, ledger.2, ledger.3, ledger.4, ledger.5, ledger.6, ledger.7].compactMap { Int($0) }
        #expect(figures[0] == figures[1...].reduce(0, +))
        #expect(figures[0] >= 800 && figures[2] == 0 && figures[4] > 0)
    }
}
