import Foundation
import OTLP
import Telemetry
import TestSupport
import Testing

/// https://opentelemetry.io/docs/specs/otel/trace/tracestate-probability-sampling/ and the official Python SDK's
/// composite sampler.
@Suite("Consistent probability sampling")
struct ConsistentProbabilityTests {
    private func sample(
        _ sampler: ComposableSampler, low: UInt64, state: String? = nil, sampled: Bool? = nil, name: String = "x"
    ) -> SamplingResult {
        let parent = sampled.map { isSampled in
            SpanContext(
                traceID: TraceID(high: 1, low: low), spanID: SpanID(rawValue: 1), traceFlags: isSampled ? .sampled : [],
                traceState: state.flatMap(TraceState.init(header:)), isRemote: true)
        }
        return Sampler.composite(sampler).sample(
            SamplingParameters(traceID: TraceID(high: 1, low: low), parent: parent, name: name))
    }

    /// The specification's own table, by 1-in-N and precision 3, 4 and 5.
    @Test(
        "a probability becomes the threshold of the specification's table",
        arguments: [
            (1, ["0", "0", "0"]), (2, ["8", "8", "8"]), (3, ["aab", "aaab", "aaaab"]), (4, ["c", "c", "c"]),
            (5, ["ccd", "cccd", "ccccd"]), (8, ["e", "e", "e"]), (10, ["e66", "e666", "e6666"]), (16, ["f", "f", "f"]),
            (100, ["fd71", "fd70a", "fd70a4"]), (1_000, ["ffbe7", "ffbe77", "ffbe76d"]),
            (10_000, ["fff972", "fff9724", "fff97247"]), (100_000, ["ffff584", "ffff583a", "ffff583a5"]),
            (1_000_000, ["ffffef4", "ffffef39", "ffffef391"]),
        ])
    func thresholds(oneIn: Int, expected: [String]) {
        for (precision, threshold) in zip(3...5, expected) {
            // The largest randomness is always sampled, and its threshold told.
            let result = sample(.probability(1 / Double(oneIn), precision: precision), low: .max)
            #expect(result.decision == .recordAndSample)
            #expect(result.traceState?.description == "ot=th:\(threshold)", "precision \(precision)")
        }
        #expect(sample(.probability(1 / Double(oneIn)), low: .max).traceState?.description == "ot=th:\(expected[1])")
    }

    @Test(
        "a probability near 0 or 1 is never rounded to nothing",
        arguments: [0x1p-56, 0x1p-57, 1e-16, 1 - 0x1p-53, 0.99999, 0x1p-52])
    func extremes(probability: Double) {
        for precision in [1, 4, 14, 0, -5, 99] {
            let result = sample(.probability(probability, precision: precision), low: .max)
            // Below 2⁻⁵⁶ nothing is sampled; half of that is rounded to the even 0.
            #expect((result.decision == .recordAndSample) == (probability > 0x1p-57), "\(precision)")
        }
    }

    private struct Case: Decodable {
        let trace: String
        let state: String
        let flag: Bool?
        let sampled: Bool
        let outcome: String
    }

    @Test("decision and tracestate are those of the Python SDK's composite sampler, for 4,000 spans")
    func againstPython() throws {
        let program = """
            import json, random
            from opentelemetry import trace
            from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState, set_span_in_context
            from opentelemetry.sdk.trace._sampling_experimental import *
            from opentelemetry.context import Context
            rng = random.Random(7)
            ratios = [0.0, 2**-56, 1e-6, 0.001, 0.1, 1/3, 0.5, 0.75, 1.0]
            out = []
            for ratio in ratios:
                for parent_based in (True, False):
                    sampler = composable_traceid_ratio_based(ratio)
                    if parent_based: sampler = composable_parent_threshold(sampler)
                    sampler = composite_sampler(sampler)
                    cases = []
                    for _ in range(230):
                        trace_id = rng.getrandbits(128) | 1 << 100
                        randomness = trace_id & 2**56 - 1
                        context, ts, state, flag = Context(), None, "", None
                        if rng.random() < 0.7:
                            members = []
                            if rng.random() < 0.4:
                                randomness = rng.getrandbits(56)
                                members.append(f"rv:{randomness:014x}")
                            threshold = None
                            if rng.random() < 0.6:
                                digits = rng.randint(1, 14)
                                text = f"{rng.getrandbits(4 * digits):0{digits}x}"
                                threshold = int(text.ljust(14, "0"), 16)
                                members.insert(0, f"th:{text.rstrip('0') or '0'}")
                            # An entry of which nothing remains: the SDK leaves it as it was, threshold and all.
                            if threshold is not None or rng.random() < 0.3: members.append("other:1")
                            # A flag that agrees with the threshold: about one that does not, see the next test.
                            flag = rng.random() < 0.5 if threshold is None else randomness >= threshold
                            entries = ([("ot", ";".join(members))] if members else []) + ([("x", "1")] if rng.random() < 0.5 else [])
                            ts = TraceState(entries) if entries else None
                            state = ts.to_header() if ts else ""
                            span = SpanContext(trace_id, 1, True, TraceFlags(1 if flag else 0), ts)
                            context = set_span_in_context(NonRecordingSpan(span), Context())
                        result = sampler.should_sample(context, trace_id, "x", trace_state=ts)
                        cases.append(dict(trace=f"{trace_id:032x}", state=state, flag=flag, sampled=result.decision.is_sampled(),
                            outcome=result.trace_state.to_header() if result.trace_state else ""))
                    out.append(cases)
            print(json.dumps(dict(ratios=ratios, out=out)))
            """
        struct Output: Decodable {
            let ratios: [Double]
            let out: [[Case]]
        }
        let output = try JSONDecoder().decode(Output.self, from: Peers.python(program).standardOutput)
        var cases = 0
        for (index, list) in output.out.enumerated() {
            let probability = ComposableSampler.probability(output.ratios[index / 2], precision: 14)
            for one in list {
                let trace = try #require(TraceID(hex: one.trace))
                let parent = one.flag.map { isSampled in
                    SpanContext(
                        traceID: trace, spanID: SpanID(rawValue: 1), traceFlags: isSampled ? .sampled : [],
                        traceState: TraceState(header: one.state), isRemote: true)
                }
                let sampler = Sampler.composite(index % 2 == 0 ? .parentThreshold(probability) : probability)
                let result = sampler.sample(SamplingParameters(traceID: trace, parent: parent, name: "x"))
                #expect((result.decision == .recordAndSample) == one.sampled, "\(one)")
                #expect(result.traceState?.description ?? "" == one.outcome, "\(one)")
                cases += 1
            }
        }
        #expect(cases >= 4_000)
    }

    @Test("a threshold that contradicts the parent's flag is erased, and the flag counts")
    func contradiction() {
        // Randomness 0x80…0. A threshold of 0xc… says no, the flag says yes; 0x4… says yes, the flag says no.
        let low: UInt64 = 0x0080_0000_0000_0000
        let yes = sample(.parentThreshold(.alwaysOff), low: low, state: "ot=th:c;x:1,a=1", sampled: true)
        #expect(yes.decision == .recordAndSample && yes.traceState?.description == "ot=x:1,a=1")
        let no = sample(.parentThreshold(.alwaysOn), low: low, state: "ot=th:4,a=1", sampled: false)
        #expect(no.decision == .drop && no.traceState?.description == "a=1")
    }

    @Test(
        "sub-keys that are not valid count as absent",
        arguments: [
            "th:", "th:C", "th:123456789abcdef", "th:g", "th", "rv:1", "rv:0123456789abcdef", "rv:0123456789abcg", ";;",
        ])
    func invalidMembers(entry: String) {
        let result = sample(.parentThreshold(.alwaysOff), low: 0, state: "ot=\(entry)", sampled: true)
        #expect(result.decision == .recordAndSample)
        #expect(result.traceState?.description == (entry == "th" ? "ot=th" : nil))
        let probable = sample(.probability(0.5), low: 0x0080_0000_0000_0000, state: "ot=\(entry)", sampled: false)
        #expect(probable.decision == .recordAndSample)
        #expect(probable.traceState?.description == (entry == "th" ? "ot=th:8;th" : "ot=th:8"))
    }

    @Test("explicit randomness goes before the trace id's, is passed on, and decides at the threshold")
    func randomness() {
        for (value, isSampled) in [("7fffffffffffff", false), ("80000000000000", true), ("80000000000001", true)] {
            let result = sample(.probability(0.5), low: 0, state: "ot=rv:\(value)", sampled: false)
            #expect((result.decision == .recordAndSample) == isSampled)
            #expect(result.traceState?.description == (isSampled ? "ot=th:8;rv:\(value)" : "ot=rv:\(value)"))
        }
    }

    @Test("a larger probability samples whatever a smaller one does")
    func consistency() {
        var random = SeededGenerator(3)
        let samplers = [0.01, 0.1, 0.5, 0.9].map { ComposableSampler.probability($0) }
        for _ in 0..<2_000 {
            let low = random.next()
            let decisions = samplers.map { sample($0, low: low).decision == .recordAndSample }
            #expect(decisions == decisions.sorted { !$0 && $1 })
        }
    }

    @Test("a full tracestate and an overlong entry keep their limits")
    func limits() throws {
        // 31 others and ours are 32; of 32 others the last one goes.
        for count in [31, 32] {
            let state = (0..<count).map { "k\($0)=v" }.joined(separator: ",")
            let result = sample(.alwaysOn, low: 1, state: state, sampled: true)
            let entries = try #require(result.traceState?.entries)
            #expect(entries.count == 32 && entries.first?.key == "ot" && entries.last?.key == "k30")
        }
        // 256 characters hold: with th:0; in front there is no room for the last sub-key of 251 + 5.
        for length in [249, 250, 251] {
            let other = "o:" + String(repeating: "x", count: length - 2)
            let result = sample(.alwaysOn, low: 1, state: "ot=\(other)", sampled: true)
            #expect(result.traceState?.description == (length + 5 <= 256 ? "ot=th:0;\(other)" : "ot=th:0"))
        }
    }

    @Test("rules, annotations and samplers of one's own combine")
    func composition() {
        let sampler = ComposableSampler.ruleBased([
            (.name("quiet*"), .alwaysOff),
            (.name("loud"), .annotating(.alwaysOn, [KeyValue("rule", .string("loud"))])),
            (
                .name("own"),
                ComposableSampler("own") { _ in
                    SamplingIntent(threshold: 0, isThresholdReliable: false) { $0?.setting("own", to: "1") }
                }
            ),
        ])
        #expect(sample(sampler, low: 1, name: "quiet one").decision == .drop)
        #expect(sample(sampler, low: 1, name: "none holds").decision == .drop)
        let loud = sample(sampler, low: 1, name: "loud")
        #expect(loud.attributes == [KeyValue("rule", .string("loud"))] && loud.traceState?.description == "ot=th:0")
        let own = sample(sampler, low: 1, state: "ot=th:0,b=2", sampled: true, name: "own")
        #expect(own.decision == .recordAndSample && own.traceState?.description == "own=1,b=2")
        #expect(
            Sampler.consistentProbability(0.25).description
                == "CompositeSampler{ComposableParentThreshold{root=ComposableProbability{threshold=c, ratio=0.25}}}")
    }
}
