import Telemetry
import Testing

/// The rules on several headers and white space: https://www.w3.org/TR/trace-context-2/, sections 3.2 and 3.3.
@Suite("Propagators")
struct PropagatorTests {
    private static let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    private func extract(_ headers: [(String, String)], _ propagators: Propagators = .standard) -> PropagationContext {
        propagators.extract { field in headers.filter { $0.0.lowercased() == field }.map(\.1) }
    }

    private func inject(_ context: PropagationContext, _ propagators: Propagators = .standard) -> [String: String] {
        var headers: [String: String] = [:]
        propagators.inject(context) { field, value in
            #expect(headers[field] == nil, "\(field) is set twice")
            #expect(propagators.fields.contains(field))
            headers[field] = value
        }
        return headers
    }

    @Test("trace, tracestate and baggage go in and come out")
    func roundTrip() {
        let context = extract([("TraceParent", Self.parent), ("tracestate", "a=1"), ("Baggage", "k=v")])
        #expect(context.spanContext?.traceparent == Self.parent && context.spanContext?.isRemote == true)
        #expect(context.baggage["k"] == "v")
        #expect(inject(context) == ["traceparent": Self.parent, "tracestate": "a=1", "baggage": "k=v"])
        #expect(Propagators.standard.fields == ["traceparent", "tracestate", "baggage"])
    }

    @Test("without anything there is nothing to pass on, and baggage does not need a trace")
    func nothing() {
        #expect(extract([]) == PropagationContext())
        #expect(inject(PropagationContext()) == [:])
        #expect(inject(extract([("baggage", "k=v"), ("tracestate", "a=1")])) == ["baggage": "k=v"])
        let zero = SpanContext(traceID: TraceID(high: 0, low: 0), spanID: SpanID(rawValue: 1), traceFlags: .sampled)
        #expect(inject(PropagationContext(spanContext: zero)) == [:])
    }

    @Test("of two traceparents neither counts, equal or not", arguments: [parent, "00-\(parent.dropFirst(3))", ""])
    func twoParents(second: String) {
        #expect(extract([("traceparent", Self.parent), ("traceparent", second)]).spanContext == nil)
    }

    @Test("white space around a traceparent is no part of it", arguments: [" ", "\t", "\t \t"])
    func whiteSpace(space: String) {
        for header in [space + Self.parent, Self.parent + space, space + Self.parent + space] {
            #expect(extract([("traceparent", header)]).spanContext?.traceparent == Self.parent)
        }
    }

    @Test(
        "several tracestate headers are one list",
        arguments: [
            (["foo=1,bar=2", "rojo=1,congo=2", "baz=3"], "foo=1,bar=2,rojo=1,congo=2,baz=3"),
            (["foo=1", ""], "foo=1"), (["", "foo=1"], "foo=1"), ([""], nil), (["foo=1", "foo=1"], nil),
            (["foo=1", "bad"], nil),
        ] as [([String], String?)])
    func severalStates(headers: [String], expected: String?) {
        let context = extract([("traceparent", Self.parent)] + headers.map { ("tracestate", $0) })
        #expect(context.spanContext?.traceparent == Self.parent)
        #expect(context.spanContext?.traceState?.description == expected)
    }

    @Test("what is extracted before stays where nothing valid is found")
    func keeps() {
        var context = extract([("traceparent", Self.parent), ("baggage", "k=v")])
        let before = context
        Propagators.standard.extract(into: &context) { field in field == "traceparent" ? ["garbage"] : [] }
        #expect(context == before)
    }

    // MARK: OTEL_PROPAGATORS

    @Test(
        "propagators are read by name, each once; one that is not known is a warning",
        arguments: [
            (nil, "tracecontext,baggage", 0), ("", "tracecontext,baggage", 0), (" , ", "tracecontext,baggage", 0),
            ("tracecontext", "tracecontext", 0), ("b3,tracecontext, b3 ,B3", "b3,tracecontext", 0),
            ("b3multi,baggage", "b3multi,baggage", 0), ("none", "none", 0), ("none,none", "none", 0),
            ("none,b3", "b3", 1), ("jaeger,baggage", "baggage", 1), ("xray,ottrace", "tracecontext,baggage", 2),
            ("tracecontext;baggage", "tracecontext,baggage", 1),
        ] as [(String?, String, Int)])
    func environment(text: String?, expected: String, count: Int) {
        let (configuration, warnings) = TelemetryConfiguration.fromEnvironment(
            text.map { ["OTEL_PROPAGATORS": $0] } ?? [:])
        #expect(configuration.propagators.description == expected)
        #expect(warnings.count == count, "\(warnings)")
    }

    // MARK: samplers

    @Test(
        "a sampler's name is read in any case, and one that is not supported is a warning",
        arguments: [
            ("ALWAYS_OFF", nil, .alwaysOff, 0),
            ("ParentBased_TraceIdRatio", "1e-3", .parentBased(.traceIDRatio(0.001)), 0),
            ("jaeger_remote", nil, .parentBased(.alwaysOn), 1),
            ("parentbased_jaeger_remote", "endpoint=http://localhost:14250", .parentBased(.alwaysOn), 1),
            ("xray", nil, .parentBased(.alwaysOn), 1), ("no such sampler", nil, .parentBased(.alwaysOn), 1),
            ("traceidratio", "1.0000001", .traceIDRatio(1), 1), ("traceidratio", "+.5", .traceIDRatio(0.5), 0),
            ("traceidratio", "0x0.8p0", .traceIDRatio(1), 1), ("traceidratio", "inf", .traceIDRatio(1), 1),
            ("traceidratio", "1e999", .traceIDRatio(1), 1), ("traceidratio", "0,5", .traceIDRatio(1), 1),
            ("traceidratio", "50%", .traceIDRatio(1), 1), ("traceidratio", "-", .traceIDRatio(1), 1),
            ("traceidratio", "٠.٥", .traceIDRatio(1), 1), ("traceidratio", " 0.5 ", .traceIDRatio(0.5), 0),
            ("traceidratio", "0", .traceIDRatio(0), 0), ("always_on", "garbage", .alwaysOn, 0),
        ] as [(String, String?, Sampler, Int)])
    func samplerNames(name: String, argument: String?, expected: Sampler, count: Int) {
        var environment = ["OTEL_TRACES_SAMPLER": name]
        environment["OTEL_TRACES_SAMPLER_ARG"] = argument
        let (configuration, warnings) = TelemetryConfiguration.fromEnvironment(environment)
        #expect(configuration.sampler == expected)
        #expect(warnings.count == count, "\(warnings)")
    }
}
