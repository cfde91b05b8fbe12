import Foundation
import Telemetry
import TestSupport
import Testing
import Tracing
import TracingBridge

struct Headers: Injector, Extractor {
    func inject(_ value: String, forKey key: String, into carrier: inout [String: String]) { carrier[key] = value }
    func extract(key: String, from carrier: [String: String]) -> String? { carrier[key] }
}

@Suite("Telemetry behind swift-distributed-tracing")
struct BridgeTests {
    private struct Broken: Error, CustomStringConvertible {
        var description: String { "the pump is dry" }
    }

    private func telemetry(_ environment: [String: String] = [:]) -> TelemetrySDK {
        TelemetrySDK(configuration: TelemetryConfiguration.fromEnvironment(environment).configuration)
    }

    /// What the official classes read of the spans that `body` makes.
    private func spans(_ body: (BridgedTracer) throws -> Void) throws -> [ReceivedSpan] {
        let sink = try OTLPSink()
        let telemetry = telemetry(["OTEL_EXPORTER_OTLP_ENDPOINT": sink.endpoint])
        try body(BridgedTracer(telemetry))
        #expect(telemetry.shutdown(deadline: .seconds(10)).undelivered == 0)
        #expect(telemetry.ledger.isBalanced)
        return try sink.receivedSpans()
    }

    @Test("withSpan nests, carries attributes, errors and names, and goes on with the caller's trace")
    func nesting() async throws {
        let sink = try OTLPSink()
        let telemetry = telemetry(["OTEL_EXPORTER_OTLP_ENDPOINT": sink.endpoint])
        let tracer = BridgedTracer(telemetry)
        var incoming = ServiceContext.topLevel
        tracer.extract(
            ["traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "tracestate": "a=1"],
            into: &incoming, using: Headers())
        var outgoing: [String: String] = [:]
        await tracer.withSpan("GET /orders", context: incoming, ofKind: .server) { span in
            span.attributes["http.response.status_code"] = 200
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
        let spans = try sink.receivedSpans()
        let outer = try #require(spans.first { $0.name == "GET /orders/{id}" })
        let inner = try #require(spans.first { $0.name == "query" })
        #expect(outer.trace == "4bf92f3577b34da6a3ce929d0e0e4736" && outer.parent == "00f067aa0ba902b7")
        #expect(inner.parent == outer.span && inner.trace == outer.trace)
        // opentelemetry/proto/trace/v1/trace.proto: 0x100 flags are known, 0x200 the parent is remote.
        #expect(outer.flags == 0x301 && inner.flags == 0x101)
        #expect(outer.state == "a=1" && inner.state == "a=1")
        #expect(outer.attributes == ["http.response.status_code": "int 200"])
        #expect(outer.status == 1 && inner.status == 2)
        #expect(outgoing["traceparent"] == "00-\(outer.trace)-\(outer.span)-01")
        #expect(outgoing["tracestate"] == "a=1")
    }

    @Test("every kind of span and of attribute arrives as what it is")
    func kindsAndAttributes() throws {
        let spans = try spans { tracer in
            for (name, kind) in [
                ("internal", Tracing.SpanKind.internal), ("server", .server), ("client", .client),
                ("producer", .producer), ("consumer", .consumer),
            ] {
                tracer.startSpan(name, ofKind: kind).end()
            }
            let span = tracer.startSpan("attributes")
            span.updateAttributes { attributes in
                attributes.set("int32", value: .int32(-1))
                attributes.set("int64", value: .int64(.max))
                attributes.set("double", value: .double(0.25))
                attributes.set("bool", value: .bool(false))
                attributes.set("string", value: .string("Zürich ✓"))
                attributes.set("empty", value: .string(""))
                attributes.set("convertible", value: .stringConvertible(Broken()))
                attributes.set("int32s", value: .int32Array([1, -2]))
                attributes.set("int64s", value: .int64Array([.min]))
                attributes.set("doubles", value: .doubleArray([1.5]))
                attributes.set("bools", value: .boolArray([true, false]))
                attributes.set("strings", value: .stringArray(["a", ""]))
                attributes.set("convertibles", value: .stringConvertibleArray([Broken(), 7]))
                attributes.set("", value: .int64(1))
                attributes["a key that is longer than what a small string holds"] = "and a value that is longer too"
            }
            span.attributes["removed"] = 1
            span.attributes["removed"] = nil
            span.attributes["int32"] = Int32(-7)
            span.end()
        }
        // opentelemetry/proto/trace/v1/trace.proto, SpanKind.
        let kinds = Dictionary(uniqueKeysWithValues: spans.map { ($0.name, $0.kind) })
        #expect(
            kinds == ["internal": 1, "server": 2, "client": 3, "producer": 4, "consumer": 5, "attributes": 1])
        #expect(
            spans.first { $0.name == "attributes" }?.attributes == [
                "int32": "int -7", "int64": "int 9223372036854775807", "double": "double 0.25", "bool": "bool false",
                "string": "string Zürich ✓", "empty": "string ", "convertible": "string the pump is dry",
                "int32s": "array [int 1, int -2]", "int64s": "array [int -9223372036854775808]",
                "doubles": "array [double 1.5]", "bools": "array [bool true, bool false]",
                "strings": "array [string a, string ]", "convertibles": "array [string the pump is dry, string 7]",
                "a key that is longer than what a small string holds": "string and a value that is longer too",
            ])
    }

    @Test("events and links keep their times, attributes and targets")
    func eventsAndLinks() throws {
        let trace = "0af7651916cd43dd8448eb211c80319c"
        let spans = try spans { tracer in
            var other = ServiceContext.topLevel
            tracer.extract(["traceparent": "00-\(trace)-b7ad6b7169203331-01"], into: &other, using: Headers())
            let span = tracer.startSpan("s")
            span.addEvent(
                SpanEvent(
                    name: "retry", at: DefaultTracerClock.Timestamp(nanosecondsSinceEpoch: 1_700_000_000_123_456_789),
                    attributes: ["attempt": 2]))
            span.addEvent("plain")
            span.addLink(SpanLink(context: other, attributes: ["why": "batch"]))
            // Leads nowhere, and is left out.
            span.addLink(SpanLink(context: .topLevel, attributes: [:]))
            span.end()
        }
        let span = try #require(spans.first)
        #expect(span.events.map(\.name) == ["retry", "plain"])
        #expect(span.events[0].time == 1_700_000_000_123_456_789 && span.events[0].attributes == ["attempt": "int 2"])
        #expect(
            span.links
                == [ReceivedSpan.Link(trace: trace, span: "b7ad6b7169203331", attributes: ["why": "string batch"])])
    }

    @Test("an error is an event; that it is a failure is said by the status, which then gets its message and its type")
    func errors() throws {
        let spans = try spans { tracer in
            // A server's 404: recorded, and no failure (semantic conventions for HTTP spans, "Status").
            let handled = tracer.startSpan("handled")
            handled.recordError(Broken(), attributes: ["tried": 3, "exception.type": "forged"])
            handled.end()
            try? tracer.withSpan("thrown") { _ in throw Broken() }
            let worded = tracer.startSpan("worded")
            worded.recordError(Broken())
            worded.attributes["error.type"] = "timeout"
            worded.setStatus(SpanStatus(code: .error, message: "gave up"))
            worded.end()
        }
        let handled = try #require(spans.first { $0.name == "handled" })
        #expect(handled.status == 0 && handled.attributes.isEmpty)
        #expect(handled.events.map(\.name) == ["exception"])
        let type = String(reflecting: Broken.self)
        #expect(
            handled.events[0].attributes == [
                "exception.type": "string \(type)", "exception.message": "string the pump is dry", "tried": "int 3",
            ])
        let thrown = try #require(spans.first { $0.name == "thrown" })
        // Semantic conventions, "Recording errors on spans": the description is the exception's message.
        #expect(thrown.status == 2 && thrown.message == "the pump is dry")
        #expect(thrown.attributes == ["error.type": "string \(type)"])
        let worded = try #require(spans.first { $0.name == "worded" })
        #expect(worded.message == "gave up" && worded.attributes == ["error.type": "string timeout"])
    }

    @Test("a status of OK is final, also when sixteen threads set others")
    func statusIsFinal() throws {
        let spans = try spans { tracer in
            for _ in 0..<50 {
                let span = tracer.startSpan("s")
                span.setStatus(SpanStatus(code: .error, message: "first"))
                DispatchQueue.concurrentPerform(iterations: 16) { thread in
                    span.setStatus(thread == 7 ? SpanStatus(code: .ok) : SpanStatus(code: .error, message: "\(thread)"))
                }
                span.setStatus(SpanStatus(code: .error, message: "late"))
                span.end()
            }
        }
        #expect(spans.count == 50 && spans.allSatisfy { $0.status == 1 && $0.message.isEmpty })
    }

    @Test("attributes that threads add in place at the same time are all kept")
    func concurrentAttributes() throws {
        let spans = try spans { tracer in
            let span = tracer.startSpan("s")
            DispatchQueue.concurrentPerform(iterations: 64) { span.attributes["key.\($0)"] = $0 }
            span.end()
        }
        #expect(spans[0].attributes.count == 64)
        #expect(spans[0].attributes["key.63"] == "int 63")
        #expect(spans[0].schema == ResourceDetection.schemaURL)
    }

    @Test("times are the caller's, and an end before the start counts as the start")
    func times() throws {
        let spans = try spans { tracer in
            let start = DefaultTracerClock.Timestamp(nanosecondsSinceEpoch: 1_700_000_000_000_000_001)
            tracer.startSpan("forward", at: start)
                .end(at: DefaultTracerClock.Timestamp(nanosecondsSinceEpoch: 1_700_000_000_000_000_009))
            tracer.startSpan("back", at: start)
                .end(at: DefaultTracerClock.Timestamp(nanosecondsSinceEpoch: 1_600_000_000_000_000_000))
        }
        let forward = try #require(spans.first { $0.name == "forward" })
        let back = try #require(spans.first { $0.name == "back" })
        #expect(forward.start == 1_700_000_000_000_000_001 && forward.end == 1_700_000_000_000_000_009)
        #expect(back.start == 1_700_000_000_000_000_001 && back.end == back.start)
    }

    @Test("a running span is found by its context, until it ends")
    func activeSpan() throws {
        let spans = try spans { tracer in
            #expect(tracer.activeSpan(identifiedBy: .topLevel) == nil)
            var remote = ServiceContext.topLevel
            tracer.extract(
                ["traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"], into: &remote,
                using: Headers())
            #expect(tracer.activeSpan(identifiedBy: remote) == nil)
            let span = tracer.startSpan("s", context: remote)
            let found = try #require(tracer.activeSpan(identifiedBy: span.context))
            found.attributes["by"] = "its context"
            #expect(found.operationName == "s" && found.isRecording)
            span.end()
            #expect(tracer.activeSpan(identifiedBy: span.context) == nil && !found.isRecording)
        }
        #expect(spans[0].attributes == ["by": "string its context"])
    }

    @Test("an invalid traceparent begins a new trace, and a span that has ended takes nothing more")
    func edges() throws {
        let spans = try spans { tracer in
            var context = ServiceContext.topLevel
            tracer.extract(["traceparent": ".0-garbage"], into: &context, using: Headers())
            #expect(context.spanContext == nil)
            let span = tracer.startSpan("first", context: context)
            span.attributes["kept"] = 1
            span.end()
            span.end()
            span.operationName = "second"
            span.attributes["late"] = 1
            span.addEvent(SpanEvent(name: "late"))
            span.recordError(Broken())
            span.addLink(SpanLink(context: span.context, attributes: [:]))
            span.setStatus(SpanStatus(code: .error, message: "late"))
        }
        #expect(spans.map(\.name) == ["first"])
        #expect(spans[0].attributes == ["kept": "int 1"] && spans[0].parent.isEmpty)
        #expect(spans[0].events.isEmpty && spans[0].links.isEmpty && spans[0].status == 0)
    }

    @Test("spans that were sampled out still carry their decision to the next service")
    func sampledOut() {
        let telemetry = telemetry([
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_TRACES_SAMPLER": "always_off",
        ])
        let tracer = BridgedTracer(telemetry)
        var headers: [String: String] = [:]
        let span = tracer.startSpan("s")
        #expect(!span.isRecording)
        span.attributes["ignored"] = 1
        tracer.inject(span.context, into: &headers, using: Headers())
        span.end()
        #expect(headers["traceparent"]?.hasSuffix("-00") == true || headers["traceparent"]?.hasSuffix("-02") == true)
        telemetry.shutdown(deadline: .seconds(1))
        #expect(telemetry.ledger.sampledOut == 1 && telemetry.ledger.isBalanced)
    }
}
