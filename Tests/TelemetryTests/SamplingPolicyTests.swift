import OTLP
import Synchronization
import Telemetry
import TestSupport
import Testing

/// Hand-worked cases; the order of branches and the descriptions are those of
/// https://opentelemetry.io/docs/specs/otel/trace/sdk/#sampling.
@Suite("Samplers that look at more than the id")
struct SamplingPolicyTests {
    private static let trace = TraceID(high: 1, low: 2)

    private func parent(sampled: Bool, remote: Bool, state: String? = nil) -> SpanContext {
        SpanContext(
            traceID: Self.trace, spanID: SpanID(rawValue: 3), traceFlags: sampled ? .sampled : [],
            traceState: state.flatMap(TraceState.init(header:)), isRemote: remote)
    }

    private func decide(
        _ sampler: Sampler, parent: SpanContext? = nil, name: String = "x", kind: SpanKind = .internal,
        _ attributes: [KeyValue] = []
    ) -> SamplingDecision {
        sampler.sample(
            SamplingParameters(traceID: Self.trace, parent: parent, name: name, kind: kind, attributes: attributes)
        ).decision
    }

    @Test("samplers are described as the specification says")
    func descriptions() {
        #expect(Sampler.alwaysOn.description == "AlwaysOnSampler")
        #expect(Sampler.alwaysOff.description == "AlwaysOffSampler")
        #expect(Sampler.traceIDRatio(0.25).description == "TraceIdRatioBased{0.25}")
        #expect(
            Sampler.parentBased(.alwaysOn).description
                == "ParentBased{root:AlwaysOnSampler,remoteParentSampled:AlwaysOnSampler,"
                + "remoteParentNotSampled:AlwaysOffSampler,localParentSampled:AlwaysOnSampler,"
                + "localParentNotSampled:AlwaysOffSampler}")
        #expect(Sampler.traceIDRatio(0.25) != .traceIDRatio(0.250000001))
        #expect(Sampler.parentBased(.alwaysOn) != .parentBased(.alwaysOff))
    }

    @Test("each of parentbased's five branches is asked for its kind of parent and for no other", arguments: 0..<5)
    func branches(only: Int) {
        func branch(_ number: Int) -> Sampler { number == only ? .alwaysOn : .alwaysOff }
        let simple = Sampler.parentBased(
            branch(0), remoteParentSampled: branch(1), remoteParentNotSampled: branch(2),
            localParentSampled: branch(3), localParentNotSampled: branch(4))
        func marked(_ number: Int) -> Sampler {
            .custom("\(number)") { _ in
                SamplingResult(decision: number == only ? .recordOnly : .drop, traceState: nil)
            }
        }
        let general = Sampler.parentBased(
            marked(0), remoteParentSampled: marked(1), remoteParentNotSampled: marked(2),
            localParentSampled: marked(3), localParentNotSampled: marked(4))
        let parents: [SpanContext?] = [
            nil, parent(sampled: true, remote: true), parent(sampled: false, remote: true),
            parent(sampled: true, remote: false), parent(sampled: false, remote: false),
        ]
        for (number, parent) in parents.enumerated() {
            #expect(decide(simple, parent: parent) == (number == only ? .recordAndSample : .drop), "\(number)")
            #expect(decide(general, parent: parent) == (number == only ? .recordOnly : .drop), "\(number)")
        }
        // A parent that is not valid is none.
        let none = SpanContext(traceID: TraceID(high: 0, low: 0), spanID: SpanID(rawValue: 3), traceFlags: .sampled)
        #expect(decide(simple, parent: none) == (only == 0 ? .recordAndSample : .drop))
    }

    @Test("the tracer asks parentbased's own branches, too")
    func branchesInTracer() {
        var configuration = TelemetryConfiguration()
        configuration.endpoint = "http://127.0.0.1:1/v1/traces"
        configuration.sampler = .parentBased(
            .alwaysOff, remoteParentSampled: .alwaysOff, remoteParentNotSampled: .traceIDRatio(1))
        let sdk = TelemetrySDK(configuration: configuration)
        for isSampled in [true, false] {
            let context = parent(sampled: isSampled, remote: true)
            #expect(sdk.tracer.startSpan("x", parent: context).context.isSampled != isSampled)
        }
        sdk.shutdown(deadline: .zero)
    }

    @Test("simple samplers pass the parent's tracestate on", arguments: [Sampler.alwaysOn, .alwaysOff, .recordOnly])
    func traceState(sampler: Sampler) {
        let result = sampler.sample(
            SamplingParameters(
                traceID: Self.trace, parent: parent(sampled: true, remote: true, state: "a=1,ot=th:8"), name: "x"))
        #expect(result.traceState?.description == "a=1,ot=th:8")
    }

    @Test("a policy of one's own sees everything and may set attributes and tracestate")
    func custom() {
        let sampler = Sampler.custom("mine") { span in
            #expect(span.name == "name" && span.kind == .client && span["k"] == .int(2) && span.links.count == 1)
            return SamplingResult(
                decision: .recordAndSample, traceState: TraceState(key: "mine", value: "1"),
                attributes: [KeyValue("why", .string("mine"))])
        }
        let result = sampler.sample(
            SamplingParameters(
                traceID: Self.trace, name: "name", kind: .client,
                attributes: [KeyValue("k", .int(1)), KeyValue("k", .int(2))],
                links: [parent(sampled: true, remote: false)]))
        #expect(result.decision == .recordAndSample && result.traceState?.description == "mine=1")
        #expect(result.attributes == [KeyValue("why", .string("mine"))])
        #expect(sampler.description == "mine")
    }

    @Test("the first rule that holds decides")
    func rules() {
        let sampler = Sampler.ruleBased(
            [
                (.name("GET /livez"), .alwaysOff), (.attribute("tenant.id", .string("acme")), .alwaysOn),
                (.all([.kind(.server), .not(.parent(.none))]), .recordOnly),
                (.any([.attributeMatches("http.route", "/admin/*"), .kind(.producer)]), .alwaysOn),
            ], otherwise: .alwaysOff)
        let acme = [KeyValue("tenant.id", .string("acme"))]
        #expect(decide(sampler, name: "GET /livez", acme) == .drop)
        #expect(decide(sampler, name: "GET /", acme) == .recordAndSample)
        #expect(decide(sampler, parent: parent(sampled: false, remote: true), kind: .server) == .recordOnly)
        #expect(decide(sampler, kind: .server) == .drop)
        #expect(decide(sampler, kind: .producer) == .recordAndSample)
        #expect(decide(sampler, [KeyValue("http.route", .string("/admin/users"))]) == .recordAndSample)
        #expect(decide(sampler, [KeyValue("http.route", .string("/"))]) == .drop)
        #expect(decide(sampler, [KeyValue("tenant.id", .string("acme2"))]) == .drop)
        #expect(
            sampler.description.contains("(name=GET /livez:AlwaysOffSampler),(tenant.id=acme:AlwaysOnSampler)"))
    }

    @Test(
        "an attribute's text matches a pattern whatever its kind",
        arguments: [
            (.int(404), "4*", true), (.bool(true), "tr?e", true), (.double(0.5), "0.5", true), (.empty, "*", false),
            (.array([.string("a"), .string("bc")]), "b?", true), (.array([]), "*", false),
            (.bytes([0x61]), "a", false),
        ] as [(AnyValue, Glob, Bool)])
    func attributeText(value: AnyValue, glob: Glob, expected: Bool) {
        let span = SamplingParameters(traceID: Self.trace, name: "x", attributes: [KeyValue("k", value)])
        #expect(SpanCondition.attributeMatches("k", glob).matches(span) == expected)
        #expect(!SpanCondition.attributeMatches("other", glob).matches(span))
    }

    /// Expected values from Python's fnmatch.fnmatchcase, whose `*` and `?` mean the same.
    @Test(
        "patterns match the whole text",
        arguments: [
            ("", "", true), ("", "a", false), ("*", "", true), ("*", "anything", true), ("?", "", false),
            ("?", "é", true), ("a*b*c", "aXbYc", true), ("a*b*c", "aXcYb", false), ("*.json", "x.json", true),
            ("*.json", "x.jsonl", false), ("GET /v?/*", "GET /v1/events", true), ("**", "ab", true),
            ("a?c", "abc", true), ("a?c", "ac", false), ("*a*a*b", "aaaaaaaaaac", false), ("[a]", "a", false),
        ])
    func globs(pattern: String, text: String, expected: Bool) {
        #expect(Glob(pattern).matches(text) == expected)
        #expect(Glob(pattern).description == pattern)
    }

    @Test("record-only spans have the sampled flag off, and what is dropped can be recorded all the same")
    func recordOnly() {
        #expect(decide(.recordOnly) == .recordOnly)
        #expect(decide(.alwaysRecord(.alwaysOff)) == .recordOnly)
        #expect(decide(.alwaysRecord(.alwaysOn)) == .recordAndSample)
        #expect(Sampler.alwaysRecord(.alwaysOff).description == "AlwaysRecordSampler{AlwaysOffSampler}")
    }

    // MARK: rate limit

    private final class Time: Sendable {
        let nanoseconds = Atomic<UInt64>(5_000_000_000)
        func advance(milliseconds: UInt64) { nanoseconds.add(milliseconds * 1_000_000, ordering: .relaxed) }
    }

    private func limited(_ time: Time, perSecond: Double, burst: Double? = nil, maxKeys: Int = 1_000) -> Sampler {
        .rateLimited(perSecond: perSecond, burst: burst, maxKeys: maxKeys) {
            time.nanoseconds.load(ordering: .relaxed)
        }
    }

    private func sampled(_ sampler: Sampler, tenant: AnyValue?, of count: Int) -> Int {
        let attributes = tenant.map { [KeyValue("tenant.id", $0)] } ?? []
        return (0..<count).count { _ in decide(sampler, attributes) == .recordAndSample }
    }

    @Test("each tenant has its own tokens, and gets new ones as time goes by")
    func perTenant() {
        let time = Time()
        let sampler = limited(time, perSecond: 10, burst: 20)
        #expect(sampled(sampler, tenant: .string("busy"), of: 100) == 20)
        #expect(sampled(sampler, tenant: .string("quiet"), of: 19) == 19)
        #expect(sampled(sampler, tenant: .int(7), of: 100) == 20)
        #expect(sampled(sampler, tenant: nil, of: 100) == 20)
        time.advance(milliseconds: 99)
        #expect(sampled(sampler, tenant: .string("busy"), of: 5) == 0)
        time.advance(milliseconds: 1)
        #expect(sampled(sampler, tenant: .string("busy"), of: 5) == 1)
        time.advance(milliseconds: 3_600_000)
        #expect(sampled(sampler, tenant: .string("busy"), of: 100) == 20)
    }

    @Test("a clock that seems to step back gives no tokens and takes none")
    func steppingBack() {
        let time = Time()
        let sampler = limited(time, perSecond: 1, burst: 1)
        #expect(sampled(sampler, tenant: .string("a"), of: 2) == 1)
        time.nanoseconds.subtract(4_000_000_000, ordering: .relaxed)
        #expect(sampled(sampler, tenant: .string("a"), of: 2) == 0)
        time.advance(milliseconds: 5_000)
        #expect(sampled(sampler, tenant: .string("a"), of: 2) == 1)
    }

    @Test("tenants beyond the limit share one bucket, until quiet ones make room")
    func overflow() {
        let time = Time()
        let sampler = limited(time, perSecond: 1, burst: 2, maxKeys: 2)
        for tenant in ["a", "b"] { #expect(sampled(sampler, tenant: .string(tenant), of: 5) == 2) }
        // c and d share two, and so does a key that is too long.
        #expect(sampled(sampler, tenant: .string("c"), of: 1) == 1)
        #expect(sampled(sampler, tenant: .string("d"), of: 5) == 1)
        #expect(sampled(sampler, tenant: .string(String(repeating: "e", count: 257)), of: 5) == 0)
        #expect(sampled(sampler, tenant: .string("a"), of: 5) == 0)
        // After two seconds all buckets are full: a and b make room.
        time.advance(milliseconds: 2_000)
        #expect(sampled(sampler, tenant: .string("c"), of: 5) == 2)
        #expect(sampled(sampler, tenant: .string("d"), of: 5) == 2)
        #expect(sampled(sampler, tenant: .string("e"), of: 5) == 2)
        #expect(sampled(sampler, tenant: .string("f"), of: 5) == 0)
    }

    @Test("a rate of nothing, or none at all, still has a burst of one", arguments: [0, -1, .nan, .infinity])
    func oddRates(rate: Double) {
        #expect(sampled(limited(Time(), perSecond: rate), tenant: .string("a"), of: 10) == 1)
    }

    @Test("what the inner sampler drops costs no token, and a threshold does not survive a limit")
    func inner() {
        let time = Time()
        let sampler = Sampler.rateLimited(
            .ruleBased([(.name("keep"), .consistentProbability(0.5))]), perSecond: 1, burst: 1,
            nanoseconds: { time.nanoseconds.load(ordering: .relaxed) })
        #expect(sampled(sampler, tenant: .string("a"), of: 10) == 0)
        let kept = SamplingParameters(traceID: TraceID(high: 1, low: 0x00FF_FFFF_FFFF_FFFF), name: "keep")
        let result = sampler.sample(kept)
        #expect(result.decision == .recordAndSample && result.traceState == nil)
        #expect(sampler.sample(kept).decision == .drop)
    }

    @Test("under contention exactly the burst is sampled")
    func contention() async {
        let sampler = limited(Time(), perSecond: 1, burst: 1_000)
        let total = await withTaskGroup(of: Int.self) { group in
            for _ in 0..<4 { group.addTask { self.sampled(sampler, tenant: .string("a"), of: 2_000) } }
            return await group.reduce(0, +)
        }
        #expect(total == 1_000)
    }
}
