import OTLP
import Telemetry

/// Something that reads input, with inputs to begin from.
struct FuzzTarget: Sendable {
    let name: String
    let corpus: [[UInt8]]
    /// Whether the input was accepted, at least in part.
    let check: @Sendable ([UInt8]) throws -> Bool

    struct Broken: Error, CustomStringConvertible {
        let description: String
    }

    init(_ name: String, _ corpus: [String], _ check: @escaping @Sendable (String) throws -> Bool) {
        self.init(name, bytes: corpus.map { Array($0.utf8) }) { try check(String(decoding: $0, as: UTF8.self)) }
    }

    init(_ name: String, bytes corpus: [[UInt8]], _ check: @escaping @Sendable ([UInt8]) throws -> Bool) {
        self.name = name
        self.corpus = corpus
        self.check = check
    }

    static let all = [
        traceparent, tracestate, probability, baggage, b3, headers, environmentList, environment, retryAfter,
        partialSuccess,
    ]

    private static let trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    private static let span = "00f067aa0ba902b7"

    private static func require(_ isTrue: Bool, _ rule: @autoclosure () -> String) throws {
        if !isTrue { throw Broken(description: rule()) }
    }

    // MARK: propagation

    private static let traceparent = FuzzTarget(
        "traceparent",
        ["00-\(trace)-\(span)-01", "cc-\(trace)-\(span)-03-what-the-future-will-be-like", ".0-\(trace)-\(span)-01"]
    ) { text in
        guard let context = TraceContext.parse(traceparent: text) else { return false }
        try require(context.isValid && context.isRemote, "valid and remote")
        let written = context.traceparent
        try require(written.utf8.count == 55 && written.hasPrefix("00-"), "55 bytes of version 00")
        try require(TraceContext.parse(traceparent: written) == context, "reads what it wrote: \(written)")
        return true
    }

    private static let tracestate = FuzzTarget(
        "tracestate",
        [
            "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", "foo=1 \t , \t bar=2,,baz=3", "fw529a3039@dt=FfAKTh,a_-*/b= 2",
            "k=" + String(repeating: "v", count: 256), String(repeating: "k", count: 256) + "=v",
            (0..<32).map { "k\($0)=v" }.joined(separator: ","),
        ]
    ) { text in
        guard let state = TraceState(header: text) else { return false }
        try check(state)
        let first = state.entries[state.entries.count - 1]
        try check(state.setting(first.key, to: "1"))
        try check(state.setting("new", to: first.value))
        if let less = state.removing(first.key) { try check(less) }
        return true
    }

    private static func check(_ state: TraceState) throws {
        try require((1...32).contains(state.entries.count), "1 to 32 entries, not \(state.entries.count)")
        try require(state.description.utf8.count <= 512, "512 characters, not \(state.description.utf8.count)")
        try require(Set(state.entries.map(\.key)).count == state.entries.count, "no key twice")
        try require(TraceState(header: state.description) == state, "reads what it wrote: \(state)")
    }

    private static let probability = FuzzTarget(
        "probability",
        [
            "ot=th:c8;rv:0123456789abcd;other:1,a=1", "ot=th:0", "ot=rv:ffffffffffffff", "a=1,ot=th:fffffffffffff8",
            "ot=o:" + String(repeating: "x", count: 250),
        ]
    ) { text in
        let state = TraceState(header: text)
        for (isSampled, sampler) in [(true, Sampler.consistentProbability(0.5)), (false, .composite(.alwaysOn))] {
            let parent = SpanContext(
                traceID: TraceID(high: 1, low: 0x0080_0000_0000_0000), spanID: SpanID(rawValue: 1),
                traceFlags: isSampled ? .sampled : [], traceState: state, isRemote: true)
            let result = sampler.sample(SamplingParameters(traceID: parent.traceID, parent: parent, name: "x"))
            try require(result.decision == .recordAndSample, "follows a sampled parent, and samples always")
            guard let outcome = result.traceState else { continue }
            try check(outcome)
            try require((outcome["ot"]?.utf8.count ?? 0) <= 256, "256 characters")
            // A child that follows decides the same and changes nothing more.
            let next = SpanContext(
                traceID: parent.traceID, spanID: SpanID(rawValue: 2), traceFlags: .sampled, traceState: outcome)
            let again = Sampler.consistentProbability(0.5).sample(
                SamplingParameters(traceID: next.traceID, parent: next, name: "x"))
            try require(again == result, "the same again: \(outcome), \(again.traceState?.description ?? "")")
        }
        return state?["ot"] != nil
    }

    private static let baggage = FuzzTarget(
        "baggage",
        [
            "key1=value1;property1;property2, key2 = value2, key3=value3; propertyKey=propertyValue",
            "serverNode=DF%2028,userId=%E5%8C%97", "a=1,a=2,=,b", "k=\u{E9},ok=1", "a=%FF%zz%",
            "k=" + String(repeating: "%20", count: 60), (0..<64).map { "k\($0)=v" }.joined(separator: ","),
        ]
    ) { text in
        let middle = text.utf8.index(text.startIndex, offsetBy: text.utf8.count / 2)
        let halves = [
            String(decoding: text.utf8[..<middle], as: UTF8.self),
            String(decoding: text.utf8[middle...], as: UTF8.self),
        ]
        var isAccepted = false
        for headers in [[text], halves] {
            let baggage = Baggage(headers: headers)
            let header = baggage.header
            try require(baggage.entries.count <= Baggage.maxEntries, "64 entries")
            try require(header.utf8.count <= Baggage.maxBytes, "8,192 bytes")
            try require(header.utf8.allSatisfy { $0 >= 0x20 && $0 < 0x7F }, "printable ASCII: \(header)")
            let again = Baggage(headers: [header])
            try require(again == baggage && again.header == header, "reads what it wrote: \(header)")
            isAccepted = isAccepted || !baggage.isEmpty
        }
        return isAccepted
    }

    private static let b3 = FuzzTarget(
        "b3",
        ["\(trace)-\(span)-1-\(span)", "\(span)-\(span)-d", "\(trace)-\(span)", "0", "1", "d", "\(trace)-\(span)-0"]
    ) { text in
        var context = PropagationContext()
        B3Propagator().extract(into: &context) { $0 == "b3" ? [text] : [] }
        for propagator in [B3Propagator(.single), B3Propagator(.multi)] {
            var headers: [String: String] = [:]
            propagator.inject(context) { headers[$0] = $1 }
            var again = PropagationContext()
            propagator.extract(into: &again) { headers[$0].map { [$0] } ?? [] }
            try require(again == context, "reads what it wrote: \(headers)")
        }
        return context != PropagationContext()
    }

    /// A request's lines; those with another name are other headers.
    private static let headers = FuzzTarget(
        "headers",
        [
            "traceparent:00-\(trace)-\(span)-01\ntracestate:a=1\ntracestate:b=2\nbaggage:k=v\nb3:\(trace)-\(span)-d",
            "x-b3-traceid:\(trace)\nx-b3-spanid:\(span)\nx-b3-sampled:1\nx-b3-flags:1\nbaggage:a=1\nbaggage:b=2;p",
            "traceparent: 00-\(trace)-\(span)-03 \nx-b3-sampled:0",
        ]
    ) { text in
        var fields: [String: [String]] = [:]
        for line in text.utf8.split(separator: UInt8(ascii: "\n")) {
            guard let colon = line.firstIndex(of: UInt8(ascii: ":")) else { continue }
            fields[String(Substring(line[..<colon])), default: []].append(String(Substring(line[colon...].dropFirst())))
        }
        var isAccepted = false
        let b3: [any Propagator] = [B3Propagator(.single), B3Propagator(.multi)]
        for members in [Propagators.standard.members, b3, Propagators.standard.members + b3] {
            let propagators = Propagators(members)
            var context = propagators.extract { fields[$0] ?? [] }
            // Beside a trace, its own flag counts.
            if context.spanContext != nil, context.b3 != .debug { context.b3 = nil }
            var headers: [String: String] = [:]
            propagators.inject(context) { headers[$0] = $1 }
            try require(headers.keys.allSatisfy(propagators.fields.contains), "sets only its fields: \(headers)")
            try require(propagators.extract { headers[$0].map { [$0] } ?? [] } == context, "reads what it wrote")
            isAccepted = isAccepted || context != PropagationContext()
        }
        return isAccepted
    }

    // MARK: environment

    private static let environmentList = FuzzTarget(
        "environment list",
        ["api-key=s3cret, x = a%20b ,,c=d=e", "service.name=a,host.name=%C3%A9", "a=%zz", "a=%0d%0ab:c", "novalue"]
    ) { text in
        let (members, warnings) = FuzzSurface.environmentList(text)
        for (key, value) in members {
            try require(!key.isEmpty && key.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7F }, "a token: \(key)")
            try require(value.utf8.allSatisfy { $0 >= 0x20 && $0 != 0x7F }, "no line ends: \(value)")
        }
        try require(members.count + warnings.count <= text.utf8.count + 1, "no more members than were given")
        return !members.isEmpty
    }

    private static let base = TelemetryConfiguration()

    private static let environment = FuzzTarget(
        "environment",
        ["traceidratio", "parentbased_traceidratio", "0.25", "b3,tracecontext,none", "1e-3", "true", "5000", "gzip"]
    ) { text in
        // A null character ends a variable.
        guard !text.utf8.contains(0) else { return false }
        let (configuration, warnings) = FuzzSurface.configuration(
            base,
            [
                "OTEL_TRACES_SAMPLER": text, "OTEL_PROPAGATORS": text, "OTEL_BSP_MAX_QUEUE_SIZE": text,
                "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": text, "OTEL_EXPORTER_OTLP_TIMEOUT": text,
                "OTEL_EXPORTER_OTLP_COMPRESSION": text, "OTEL_EXPORTER_OTLP_ENDPOINT": text,
                "OTEL_EXPORTER_OTLP_HEADERS": text,
            ])
        let ratio = FuzzSurface.configuration(
            base, ["OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": text]
        ).configuration.sampler
        try require(ratio.description.hasPrefix("TraceIdRatioBased{"), "a ratio: \(ratio)")
        try require(Set(configuration.propagators.members.map(\.name)).count <= 4, "each propagator once")
        return warnings.count < 8
    }

    // MARK: exporter responses

    private static let retryAfter = FuzzTarget(
        "retry-after",
        [
            "120", " 0", "Fri, 31 Dec 1999 23:59:59 GMT", "Friday, 31-Dec-99 23:59:59 GMT", "Fri Dec 31 23:59:59 1999",
            "Wed, 25 Nov 2099 10:00:00 GMT", "9223372036854775807", "-1", "1.5", "99999999999999999999",
        ]
    ) { text in
        // A header's value has no null character.
        guard !text.utf8.contains(0), let delay = FuzzSurface.retryAfter(text) else { return false }
        try require(delay >= .zero, "not negative: \(delay)")
        return true
    }

    private static let partialSuccess: FuzzTarget = {
        @Sendable func response(_ rejected: UInt64, _ message: String) -> [UInt8] {
            var writer = ProtobufWriter()
            writer.message(field: 1) {
                $0.varint(field: 1, rejected)
                $0.string(field: 2, message)
            }
            return writer.bytes
        }
        let json = [
            #"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"three \u00e9"}}"#,
            #" {"partialSuccess":{"rejectedDataPoints":-1},"other":[{"a":null},true,1e5]}"#, "{}", "not found",
        ]
        let corpus =
            [
                [], response(0, "careful"), response(3, "three were too old"), response(.max, "é"),
                response(1, String(repeating: "long ", count: 100)),
            ] + json.map { Array($0.utf8) }
        return FuzzTarget("partial success", bytes: corpus) { body in
            let partial = PartialSuccess(response: body)
            // U+FFFD takes three bytes where one was.
            try require(partial.message.utf8.count <= 3 * body.count, "no longer than the answer")
            let again = PartialSuccess(response: response(UInt64(bitPattern: partial.rejected), partial.message))
            try require(again == partial, "reads what it wrote: \(again)")
            return partial.rejected != 0 || !partial.message.isEmpty
        }
    }()
}
