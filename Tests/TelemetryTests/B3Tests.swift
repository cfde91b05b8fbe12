import Telemetry
import Testing

/// Vectors from https://github.com/openzipkin/b3-propagation and OpenTelemetry's requirements for B3
/// (https://opentelemetry.io/docs/specs/otel/context/api-propagators/#b3-requirements).
@Suite("B3")
struct B3Tests {
    private static let trace = "80f198ee56343ba864fe8b2a57d3eff7"
    private static let span = "e457b5a2e4d86bd1"
    private static let parent = "05e3ac9a4f6e3b90"

    private func extract(_ headers: [String: String], _ propagator: B3Propagator = B3Propagator()) -> PropagationContext
    {
        Propagators([propagator]).extract { headers[$0].map { [$0] } ?? [] }
    }

    private func inject(_ context: PropagationContext, _ encoding: B3Propagator.Encoding) -> [String: String] {
        let propagator = B3Propagator(encoding)
        var headers: [String: String] = [:]
        propagator.inject(context) {
            #expect(propagator.fields.contains($0))
            headers[$0] = $1
        }
        return headers
    }

    @Test(
        "a single header is read with every sampling state",
        arguments: [
            ("\(trace)-\(span)-1-\(parent)", true, nil), ("\(trace)-\(span)-1", true, nil),
            ("\(trace)-\(span)-0", false, nil), ("\(trace)-\(span)-d", true, .debug), ("\(trace)-\(span)", false, nil),
            (" \(trace)-\(span)-d-\(parent)\t", true, .debug),
        ] as [(String, Bool, B3Sampling?)])
    func single(header: String, isSampled: Bool, b3: B3Sampling?) throws {
        // Both propagators read both forms.
        for encoding in [B3Propagator.Encoding.single, .multi] {
            let context = extract(["b3": header], B3Propagator(encoding))
            let found = try #require(context.spanContext)
            #expect(found.traceID.description == Self.trace && found.spanID.description == Self.span)
            #expect(found.isSampled == isSampled && found.isRemote && context.b3 == b3)
            let state = b3?.rawValue ?? (isSampled ? "1" : "0")
            // The parent's id is not passed on.
            #expect(inject(context, .single) == ["b3": "\(Self.trace)-\(Self.span)-\(state)"])
        }
    }

    @Test(
        "several headers are read with every sampling state",
        arguments: [
            (["x-b3-sampled": "1"], true, nil), (["x-b3-sampled": "0"], false, nil), ([:], false, nil),
            (["x-b3-sampled": "true"], true, nil), (["x-b3-sampled": "false"], false, nil),
            (["x-b3-flags": "1"], true, .debug), (["x-b3-flags": "1", "x-b3-sampled": "0"], true, .debug),
            (["x-b3-flags": "0", "x-b3-sampled": "1"], true, nil), (["x-b3-sampled": "maybe"], false, nil),
        ] as [([String: String], Bool, B3Sampling?)])
    func multi(states: [String: String], isSampled: Bool, b3: B3Sampling?) throws {
        let ids = ["x-b3-traceid": Self.trace, "x-b3-spanid": Self.span, "x-b3-parentspanid": Self.parent]
        let context = extract(ids.merging(states) { $1 }, B3Propagator(.multi))
        #expect(context.spanContext?.isSampled == isSampled && context.b3 == b3)
        var expected = ["x-b3-traceid": Self.trace, "x-b3-spanid": Self.span]
        if b3 == .debug { expected["x-b3-flags"] = "1" } else { expected["x-b3-sampled"] = isSampled ? "1" : "0" }
        #expect(inject(context, .multi) == expected)
    }

    @Test("a trace id of 64 bits gets zeros in front, in either form")
    func shortTraceID() {
        let short = String(Self.trace.suffix(16))
        let full = "0000000000000000" + short
        for headers in [["b3": "\(short)-\(Self.span)-1"], ["x-b3-traceid": short, "x-b3-spanid": Self.span]] {
            #expect(extract(headers).spanContext?.traceID.description == full)
        }
        #expect(inject(extract(["b3": "\(short)-\(Self.span)-1"]), .single) == ["b3": "\(full)-\(Self.span)-1"])
    }

    @Test(
        "a decision without a trace is passed on without one",
        arguments: [("0", B3Sampling.denied), ("1", .accepted), ("d", .debug)])
    func decisionOnly(header: String, b3: B3Sampling) {
        let context = extract(["b3": header])
        #expect(context.spanContext == nil && context.b3 == b3)
        #expect(inject(context, .single) == ["b3": header])
        #expect(inject(context, .multi) == (header == "d" ? ["x-b3-flags": "1"] : ["x-b3-sampled": header]))
        #expect(extract(["x-b3-sampled": "0"]).b3 == .denied)
    }

    @Test("debug is kept for the next span, and the span's own flag counts otherwise")
    func nextSpan() {
        let next = SpanContext(traceID: TraceID(high: 1, low: 2), spanID: SpanID(rawValue: 3), traceFlags: [])
        let ids = "00000000000000010000000000000002-0000000000000003"
        #expect(inject(extract(["b3": "\(Self.trace)-\(Self.span)-d"]).with(next), .single) == ["b3": "\(ids)-d"])
        #expect(inject(extract(["b3": "\(Self.trace)-\(Self.span)-1"]).with(next), .single) == ["b3": "\(ids)-0"])
        #expect(inject(extract(["b3": "1"]).with(next), .single) == ["b3": "\(ids)-0"])
    }

    @Test(
        "a header that is not valid is none",
        arguments: [
            "", "-", "2", "D", "\(trace)", "\(trace)-", "\(trace)-\(span)-", "\(trace)-\(span)-2",
            "\(trace)-\(span)-true",
            "\(trace)-\(span)-1-", "\(trace)-\(span)-1-\(parent)-", "\(trace)-\(span)-1-\(parent)-1", "-\(span)-1",
            "\(trace.uppercased())-\(span)-1", "\(trace.dropLast())-\(span)-1", "\(trace)-\(span.dropLast())-1",
            "00000000000000000000000000000000-\(span)-1", "0000000000000000-\(span)-1", "\(trace)-0000000000000000-1",
            "\(trace)-\(span)-1-xyz", "é",
        ])
    func invalid(header: String) {
        #expect(extract(["b3": header]) == PropagationContext())
        // The other form counts then.
        let both = ["b3": header, "x-b3-traceid": Self.trace, "x-b3-spanid": Self.span, "x-b3-sampled": "1"]
        #expect(extract(both).spanContext?.traceID.description == Self.trace)
    }

    @Test("the single header goes before the several, and of two single ones neither counts")
    func precedence() {
        let both = [
            "b3": "\(Self.trace)-\(Self.span)-0", "x-b3-traceid": Self.parent, "x-b3-spanid": Self.span,
            "x-b3-sampled": "1",
        ]
        #expect(extract(both).spanContext?.traceID.description == Self.trace)
        let twice = Propagators([B3Propagator()]).extract { $0 == "b3" ? [both["b3"] ?? "", both["b3"] ?? ""] : [] }
        #expect(twice == PropagationContext())
    }

    @Test("beside W3C Trace Context the later propagator's trace counts, and the same span keeps its tracestate")
    func composite() {
        let w3c = "00-\(Self.trace)-\(Self.span)-03"
        let other = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        let members: [any Propagator] = [TraceContextPropagator(), B3Propagator()]
        func trace(_ members: [any Propagator], _ traceparent: String) -> SpanContext? {
            let headers = ["b3": "\(Self.trace)-\(Self.span)-1", "traceparent": traceparent, "tracestate": "a=1"]
            return Propagators(members).extract { headers[$0].map { [$0] } ?? [] }.spanContext
        }
        #expect(trace(members, other)?.traceID.description == Self.trace)
        #expect(trace(members.reversed(), other)?.traceparent == other)
        for order in [members, members.reversed()] {
            #expect(trace(order, w3c)?.traceparent == w3c)
            #expect(trace(order, w3c)?.traceState?.description == "a=1")
        }
    }
}
