import Foundation
import Telemetry
import TestSupport
import Testing
import Tracing
import TracingBridge

@Suite("Telemetry behind swift-distributed-tracing")
struct BridgeTests {
    private struct Headers: Injector, Extractor {
        func inject(_ value: String, forKey key: String, into carrier: inout [String: String]) { carrier[key] = value }
        func extract(key: String, from carrier: [String: String]) -> String? { carrier[key] }
    }

    private struct Broken: Error {}

    private func telemetry(_ sink: OTLPSink) -> TelemetrySDK {
        TelemetrySDK(
            configuration: TelemetryConfiguration.fromEnvironment([
                "OTEL_EXPORTER_OTLP_ENDPOINT": sink.endpoint, "OTEL_SERVICE_NAME": "bridged",
            ]).configuration)
    }

    @Test("withSpan nests, carries attributes, errors and names, as the official classes decode it")
    func nesting() async throws {
        let sink = try OTLPSink()
        let telemetry = telemetry(sink)
        let tracer = BridgedTracer(telemetry)
        var incoming = ServiceContext.topLevel
        tracer.extract(
            ["traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "tracestate": "a=1"],
            into: &incoming, using: Headers())
        var outgoing: [String: String] = [:]
        await tracer.withSpan("GET /orders", context: incoming, ofKind: .server) { span in
            span.attributes["http.response.status_code"] = 200
            span.attributes["flag"] = true
            span.attributes["list"] = SpanAttribute.stringArray(["a", "b"])
            span.operationName = "GET /orders/{id}"
            await Task.yield()
            try? tracer.withSpan("query", ofKind: .client) { inner in
                #expect(inner.context.spanContext?.traceID == span.context.spanContext?.traceID)
                throw Broken()
            }
            tracer.inject(span.context, into: &outgoing, using: Headers())
            span.setStatus(SpanStatus(code: .ok))
        }
        telemetry.shutdown(deadline: .seconds(10))
        #expect(telemetry.ledger.exported == 2 && telemetry.ledger.isBalanced)
        let spans = try sink.spans()
        let outer = try #require(spans.first { $0.name == "GET /orders/{id}" })
        let inner = try #require(spans.first { $0.name == "query" })
        #expect(outer.traceID == "4bf92f3577b34da6a3ce929d0e0e4736" && outer.parentID == "00f067aa0ba902b7")
        #expect(inner.parentID == outer.spanID && inner.traceID == outer.traceID)
        #expect(outer.kind == 2 && inner.kind == 3)
        #expect(outer.attributes["http.response.status_code"] == "200" && outer.attributes["flag"] == "True")
        #expect(outgoing["traceparent"] == "00-\(outer.traceID)-\(outer.spanID)-01")
        #expect(outgoing["tracestate"] == "a=1")
    }

    @Test("an invalid traceparent begins a new trace, and a span that has ended takes nothing more")
    func edges() throws {
        let sink = try OTLPSink()
        let telemetry = telemetry(sink)
        let tracer = BridgedTracer(telemetry)
        var context = ServiceContext.topLevel
        tracer.extract(["traceparent": ".0-garbage"], into: &context, using: Headers())
        #expect(context.spanContext == nil)
        let span = tracer.startSpan("first", context: context)
        span.end()
        span.end()
        span.operationName = "second"
        span.attributes["late"] = 1
        span.addEvent(SpanEvent(name: "late"))
        span.setStatus(SpanStatus(code: .error, message: "late"))
        telemetry.shutdown(deadline: .seconds(10))
        let spans = try sink.spans()
        #expect(spans.map(\.name) == ["first"])
        #expect(spans[0].attributes.isEmpty && spans[0].parentID.isEmpty)
    }

    @Test("spans that were sampled out still carry their decision to the next service")
    func sampledOut() {
        let telemetry = TelemetrySDK(
            configuration: TelemetryConfiguration.fromEnvironment([
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_TRACES_SAMPLER": "always_off",
            ]).configuration)
        let tracer = BridgedTracer(telemetry)
        var headers: [String: String] = [:]
        let span = tracer.startSpan("s")
        tracer.inject(span.context, into: &headers, using: Headers())
        span.end()
        #expect(headers["traceparent"]?.hasSuffix("-00") == true || headers["traceparent"]?.hasSuffix("-02") == true)
        telemetry.shutdown(deadline: .seconds(1))
        #expect(telemetry.ledger.sampledOut == 1 && telemetry.ledger.isBalanced)
    }
}
