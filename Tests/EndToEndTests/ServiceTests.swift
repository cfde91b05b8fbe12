import Foundation
import Telemetry
import TestSupport
import Testing
import Tracing
import TracingBridge

/// `Examples/HummingbirdApp`: a service that has nothing but Hummingbird's own middleware and one bootstrap call.
@Suite("A Hummingbird service, instrumented by its standard middleware")
struct ServiceTests {
    private struct Fields: Injector {
        func inject(_ value: String, forKey key: String, into fields: inout [(String, String)]) {
            fields.append((key, value))
        }
    }

    private struct Received: Decodable {
        struct Span: Decodable {
            let service: String
            let name: String
            let kind: Int
            let trace: String
            let span: String
            let parent: String
            let status: Int
            let attributes: [String: String]
            let events: [String]
        }
        struct Log: Decodable {
            let service: String
            let body: String
            let trace: String
            let span: String
        }
        struct Point: Decodable {
            let service: String
            let metric: String
            let unit: String
            let attributes: [String: String]
            /// Of a sum or a gauge its value, of a histogram its count.
            let value: Double
        }

        let spans: [Span]
        let logs: [Log]
        let points: [Point]
    }

    private static var executable: String {
        URL(fileURLWithPath: IsothermProcess.executable).deletingLastPathComponent()
            .appendingPathComponent("hummingbird-app").path
    }

    /// A client's span, the request with its headers, and the end of both processes. What the collector has then.
    private func run(endpoint: String, sink: OTLPSink, _ targets: [String]) throws -> Received {
        let environment = [
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_SERVICE_NAME": "", "OTEL_RESOURCE_ATTRIBUTES": "",
        ]
        let service = try ChildProcess(Self.executable, ["0"], environment: environment)
        var port: Int?
        try Wait.until("the service listens") {
            // Hummingbird's own log line, on standard error.
            port = service.output.firstMatch(of: #/listening on 127\.0\.0\.1:(\d+)\n/#).flatMap { Int($0.output.1) }
            return port != nil || !service.isRunning
        }
        let listening = try #require(port, "\(service.output)")
        let client = TelemetrySDK(
            configuration: TelemetryConfiguration.fromEnvironment(environment, serviceName: "client").configuration)
        let tracer = BridgedTracer(client)
        for target in targets {
            try tracer.withSpan("call", ofKind: .client) { span in
                span.attributes["url.path"] = target
                var fields: [(String, String)] = []
                tracer.inject(span.context, into: &fields, using: Fields())
                _ = try HTTP.get(target, port: listening, fields: fields)
            }
        }
        #expect(client.shutdown(deadline: .seconds(10)).undelivered == 0)
        #expect(service.stop() == 0, "\(service.output)")
        return try Self.read(sink)
    }

    private static func read(_ sink: OTLPSink) throws -> Received {
        try JSONDecoder().decode(
            Received.self, from: try Peers.python(decoder, [sink.directory]).standardOutput)
    }

    @Test("client, server and inner span are one trace; metrics and logs come along")
    func connected() throws {
        let sink = try OTLPSink()
        let received = try run(endpoint: sink.endpoint, sink: sink, ["/orders/17"])
        let call = try #require(received.spans.first { $0.service == "client" })
        let server = try #require(received.spans.first { $0.kind == 2 })
        let inner = try #require(received.spans.first { $0.name == "load order" })
        #expect(received.spans.count == 3 && Set(received.spans.map(\.trace)) == [call.trace])
        #expect(call.parent.isEmpty && server.parent == call.span && inner.parent == server.span)
        #expect(server.service == "shop" && inner.service == "shop")
        // Names and attributes are Hummingbird's TracingMiddleware's.
        #expect(server.name == "/orders/{id}" && server.attributes["http.route"] == "/orders/{id}")
        #expect(server.attributes["http.response.status_code"] == "200" && server.status == 0)
        #expect(inner.attributes["order.id"] == "17")

        let logs = received.logs.filter { $0.service == "shop" }
        let request = try #require(logs.first { $0.body == "Request" })
        #expect(request.trace == call.trace && request.span == server.span)
        let loaded = try #require(logs.first { $0.body == "order loaded" })
        #expect(loaded.trace == call.trace && loaded.span == inner.span)

        let requests = received.points.filter { $0.metric == "hb.requests" }
        #expect(requests.map(\.value) == [1] && requests.first?.attributes["http.route"] == "/orders/{id}")
        let duration = try #require(received.points.first { $0.metric == "http.server.request.duration" })
        #expect(duration.value == 1 && duration.unit == "s")
        #expect(duration.attributes["http.response.status_code"] == "200")
        #expect(received.points.first { $0.metric == "http.server.active_requests" }?.value == 0)
        #expect(received.points.first { $0.metric == "shop.orders.loaded" }?.value == 1)
    }

    @Test("the same through a collector of somebody else's make")
    func throughCollector() throws {
        let sink = try OTLPSink()
        let collector = try RotelCollector(exporterEndpoint: sink.endpoint)
        _ = try run(endpoint: collector.endpoint, sink: sink, ["/orders/1", "/orders/2"])
        collector.stop()
        let received = try Self.read(sink)
        #expect(received.spans.count == 6 && Set(received.spans.map(\.trace)).count == 2)
        for call in received.spans.filter({ $0.service == "client" }) {
            let server = try #require(received.spans.first { $0.parent == call.span })
            let inner = try #require(received.spans.first { $0.parent == server.span })
            #expect([server.trace, inner.trace] == [call.trace, call.trace])
            #expect(received.logs.contains { $0.body == "order loaded" && $0.span == inner.span })
        }
        #expect(received.points.first { $0.metric == "shop.orders.loaded" }?.value == 2)
    }

    @Test("a server's 404 is recorded and no failure of the server's; what its closure threw is the inner span's")
    func notFound() throws {
        let sink = try OTLPSink()
        let received = try run(endpoint: sink.endpoint, sink: sink, ["/orders/4000"])
        let server = try #require(received.spans.first { $0.kind == 2 })
        #expect(server.status == 0 && server.attributes["http.response.status_code"] == "404")
        #expect(server.events == ["exception"] && server.attributes["error.type"] == nil)
        let inner = try #require(received.spans.first { $0.name == "load order" })
        #expect(inner.status == 2 && inner.attributes["error.type"] == "Hummingbird.HTTPError")
        #expect(received.points.first { $0.metric == "hb.request.errors" }?.value == 1)
    }

    private static let decoder = """
        import glob, json, sys
        from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
        def text(value):
            kind = value.WhichOneof("value")
            return str(getattr(value, kind)) if kind else ""
        def pairs(attributes): return {a.key: text(a.value) for a in attributes}
        def service(resource): return pairs(resource.resource.attributes).get("service.name", "")
        def requests(signal, kind):
            return [kind.FromString(open(name, "rb").read()) for name in sorted(glob.glob(f"{sys.argv[1]}/*.{signal}.pb"))]
        out = dict(spans=[], logs=[], points=[])
        for request in requests("traces", ExportTraceServiceRequest):
            for r in request.resource_spans:
                for s in (s for scope in r.scope_spans for s in scope.spans):
                    out["spans"].append(dict(
                        service=service(r), name=s.name, kind=s.kind, trace=s.trace_id.hex(), span=s.span_id.hex(),
                        parent=s.parent_span_id.hex(), status=s.status.code, attributes=pairs(s.attributes),
                        events=[e.name for e in s.events]))
        for request in requests("logs", ExportLogsServiceRequest):
            for r in request.resource_logs:
                for l in (l for scope in r.scope_logs for l in scope.log_records):
                    out["logs"].append(dict(
                        service=service(r), body=text(l.body), trace=l.trace_id.hex(), span=l.span_id.hex()))
        for request in requests("metrics", ExportMetricsServiceRequest):
            for r in request.resource_metrics:
                for m in (m for scope in r.scope_metrics for m in scope.metrics):
                    kind = m.WhichOneof("data")
                    for p in getattr(m, kind).data_points:
                        value = p.count if "histogram" in kind else getattr(p, p.WhichOneof("value"))
                        out["points"].append(dict(
                            service=service(r), metric=m.name, unit=m.unit, attributes=pairs(p.attributes), value=value))
        print(json.dumps(out))
        """
}
