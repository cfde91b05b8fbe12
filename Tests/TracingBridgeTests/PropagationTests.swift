import Telemetry
import TestSupport
import Testing
import Tracing
import TracingBridge

@Suite("Contexts that travel through swift-distributed-tracing")
struct PropagationTests {
    private static let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    private func tracer(_ environment: [String: String] = [:]) -> BridgedTracer {
        let base = ["OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"]
        return BridgedTracer(
            TelemetrySDK(
                configuration: TelemetryConfiguration.fromEnvironment(base.merging(environment) { $1 }).configuration))
    }

    /// What a service sends on that got `headers`.
    private func passOn(_ tracer: BridgedTracer, _ headers: [String: String]) -> [String: String] {
        var context = ServiceContext.topLevel
        tracer.extract(headers, into: &context, using: Headers())
        var outgoing: [String: String] = [:]
        tracer.withSpan("s", context: context) { span in
            // The baggage is in the task's context, as well as in the span's.
            context = ServiceContext.current ?? .topLevel
            tracer.inject(context, into: &outgoing, using: Headers())
        }
        return outgoing
    }

    @Test("trace and baggage are passed on, by W3C's headers unless told otherwise")
    func standard() throws {
        let outgoing = passOn(
            tracer(),
            ["traceparent": Self.traceparent, "tracestate": "a=1,b=2", "baggage": "tenant=acme,region=eu%20west;ttl=5"])
        #expect(Set(outgoing.keys) == ["traceparent", "tracestate", "baggage"])
        let parent = try #require(TraceContext.parse(traceparent: outgoing["traceparent", default: ""]))
        #expect(parent.traceID.description == "4bf92f3577b34da6a3ce929d0e0e4736" && parent.isSampled)
        #expect(parent.spanID.description != "00f067aa0ba902b7")
        #expect(outgoing["tracestate"] == "a=1,b=2")
        // The official propagator reads it.
        let program = """
            import sys
            from opentelemetry.baggage import get_all
            from opentelemetry.baggage.propagation import W3CBaggagePropagator
            print(sorted(get_all(W3CBaggagePropagator().extract({"baggage": sys.argv[1]})).items()))
            """
        let read = try Peers.python(program, [try #require(outgoing["baggage"])]).text
        #expect(read.contains("('tenant', 'acme')") && read.contains("('region', 'eu west"))
    }

    @Test("baggage is read and changed through the service context")
    func baggage() {
        let tracer = tracer()
        var context = ServiceContext.topLevel
        #expect(context.baggage.isEmpty)
        tracer.extract(["baggage": "tenant=acme"], into: &context, using: Headers())
        #expect(context.baggage["tenant"] == "acme" && context.spanContext == nil)
        context.baggage.set("release", to: "2")
        let outgoing = passOn(tracer, ["baggage": context.baggage.header])
        #expect(outgoing["baggage"] == "tenant=acme,release=2")
        context.baggage = [:]
        var empty: [String: String] = [:]
        tracer.inject(context, into: &empty, using: Headers())
        #expect(empty.isEmpty)
    }

    @Test("OTEL_PROPAGATORS chooses the headers")
    func chosen() throws {
        let b3 = passOn(
            tracer(["OTEL_PROPAGATORS": "b3"]), ["b3": "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1"])
        // https://github.com/openzipkin/b3-propagation#single-header
        #expect(Array(b3.keys) == ["b3"])
        #expect(b3["b3"]?.hasPrefix("4bf92f3577b34da6a3ce929d0e0e4736-") == true && b3["b3"]?.hasSuffix("-1") == true)
        #expect(passOn(tracer(["OTEL_PROPAGATORS": "none"]), ["traceparent": Self.traceparent]).isEmpty)
        let only = passOn(
            tracer(["OTEL_PROPAGATORS": "tracecontext"]), ["traceparent": Self.traceparent, "baggage": "a=1"])
        #expect(Array(only.keys) == ["traceparent"])
    }

    @Test(
        "a broken header begins a new trace, and never takes the baggage with it",
        arguments: [".0-garbage", "", "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "00-0-0-00"])
    func broken(traceparent: String) throws {
        let outgoing = passOn(tracer(), ["traceparent": traceparent, "baggage": "a=1"])
        let parent = try #require(TraceContext.parse(traceparent: outgoing["traceparent", default: ""]))
        #expect(parent.traceID.description != "4bf92f3577b34da6a3ce929d0e0e4736")
        #expect(outgoing["baggage"] == "a=1" && outgoing["tracestate"] == nil)
    }

    @Test("a context that came inside a message can be gone on with")
    func setByHand() throws {
        var context = ServiceContext.topLevel
        context.spanContext = TraceContext.parse(traceparent: Self.traceparent)
        let span = tracer().startSpan("s", context: context)
        #expect(span.context.spanContext?.traceID.description == "4bf92f3577b34da6a3ce929d0e0e4736")
        context.spanContext = nil
        #expect(context.isEmpty)
        span.end()
    }
}
