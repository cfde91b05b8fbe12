import Foundation
import OTLP
import Telemetry
import TestSupport
import Testing

@Suite("Sampling")
struct SamplerTests {
    private struct Decisions: Decodable {
        let trace: String
        let sampled: [Bool]
    }

    private static let ratios = [
        0.0, 0x1p-64, 3e-20, 1e-17, 1e-9, 1.0 / 3 / 1024, 0.001, 0.1, 0.25, 1.0 / 3, 0.5, 0.9, 0.999, 1 - 0x1p-53, 1.0,
    ]

    private func sdk(_ sampler: Sampler) -> TelemetrySDK {
        var configuration = TelemetryConfiguration()
        // Nothing is sent: the port is closed, and nothing ends.
        configuration.endpoint = "http://127.0.0.1:1/v1/traces"
        configuration.scheduleDelay = .seconds(60)
        configuration.sampler = sampler
        configuration.maxQueueSize = 65_536
        return TelemetrySDK(configuration: configuration)
    }

    @Test("a ratio decides for every trace id as the Python SDK's TraceIdRatioBased does, to the last bit")
    func ratioAgainstPython() throws {
        let program = """
            import json, random, sys
            from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
            rng = random.Random(42)
            ratios = json.loads(sys.argv[1])
            bounds = [TraceIdRatioBased.get_bound_for_rate(r) for r in ratios]
            edges = [b + d for b in bounds for d in (-2**20, -2, -1, 0, 1, 2, 2**20)]
            ids = [rng.getrandbits(128) or 1 for _ in range(5000)] + [0xABCD << 64 | e for e in edges if 0 <= e < 2**64]
            print(json.dumps([dict(trace=f"{i:032x}", sampled=[TraceIdRatioBased(r).should_sample(None, i, "x").decision.is_sampled() for r in ratios]) for i in ids]))
            """
        let ratios = String(decoding: try JSONEncoder().encode(Self.ratios), as: UTF8.self)
        let decisions = try JSONDecoder().decode([Decisions].self, from: Peers.python(program, [ratios]).standardOutput)
        #expect(decisions.count > 5_000)
        for (index, ratio) in Self.ratios.enumerated() {
            let sampler = Sampler.traceIDRatio(ratio)
            for decision in decisions {
                let trace = try #require(TraceID(hex: decision.trace))
                // The parent's own flag says the opposite: a ratio looks at the id alone.
                let parent = SpanContext(
                    traceID: trace, spanID: SpanID(rawValue: 1), traceFlags: decision.sampled[index] ? [] : .sampled,
                    isRemote: true)
                let result = sampler.sample(SamplingParameters(traceID: trace, parent: parent, name: "sampled?"))
                #expect(
                    result.decision == (decision.sampled[index] ? .recordAndSample : .drop),
                    "\(decision.trace) at \(ratio)")
            }
        }
        // The tracer decides by the same rule.
        let sdk = sdk(.traceIDRatio(0.25))
        let index = try #require(Self.ratios.firstIndex(of: 0.25))
        for decision in decisions {
            let trace = try #require(TraceID(hex: decision.trace))
            let parent = SpanContext(traceID: trace, spanID: SpanID(rawValue: 1), traceFlags: [])
            #expect(
                sdk.tracer.startSpan("x", parent: parent).context.isSampled == decision.sampled[index],
                "\(decision.trace)")
        }
        sdk.shutdown(deadline: .zero)
    }

    @Test("parentbased takes the parent's decision over, and asks its root where there is none")
    func parentBased() {
        for root in [Sampler.alwaysOn, .alwaysOff] {
            let sdk = sdk(.parentBased(root))
            #expect(sdk.tracer.startSpan("root").context.isSampled == (root == .alwaysOn))
            for isSampled in [true, false] {
                for isRemote in [true, false] {
                    let parent = SpanContext(
                        traceID: TraceID(high: 1, low: .max), spanID: SpanID(rawValue: 1),
                        traceFlags: isSampled ? .sampled : [],
                        isRemote: isRemote)
                    #expect(sdk.tracer.startSpan("child", parent: parent).context.isSampled == isSampled)
                }
            }
            // A parent that is not valid is none.
            let none = SpanContext(traceID: TraceID(high: 0, low: 0), spanID: SpanID(rawValue: 1), traceFlags: .sampled)
            #expect(sdk.tracer.startSpan("root", parent: none).context.isSampled == (root == .alwaysOn))
            sdk.shutdown(deadline: .zero)
        }
    }

    @Test(
        "a span that is sampled out carries a valid context on, with the flag off and the random flag as it came (case 24)"
    )
    func sampledOut() throws {
        let sdk = sdk(.alwaysOff)
        let parent = try #require(
            TraceContext.parse(
                traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03", tracestate: "congo=1"))
        let child = sdk.tracer.startSpan("child", parent: parent)
        #expect(!child.isRecording)
        #expect(child.context.isValid && !child.context.isSampled)
        #expect(child.context.traceID == parent.traceID)
        #expect(child.context.spanID != parent.spanID)
        #expect(child.context.traceparent.hasSuffix("-02"))
        #expect(child.context.traceState?.description == "congo=1")
        child.setAttribute("ignored", 1)
        child.setStatus(.error, "ignored")
        child.end()
        let plain = try #require(
            TraceContext.parse(traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"))
        #expect(sdk.tracer.startSpan("child", parent: plain).context.traceparent.hasSuffix("-00"))
        // A trace that begins here has a random id and says so.
        #expect(sdk.tracer.startSpan("root").context.traceparent.hasSuffix("-02"))
        sdk.shutdown(deadline: .zero)
        #expect(sdk.ledger.sampledOut == 3)
        #expect(sdk.ledger.started == 3 && sdk.ledger.isBalanced)
    }

    @Test("about a quarter of new traces is sampled at a ratio of 0.25")
    func share() {
        let sdk = sdk(.traceIDRatio(0.25))
        let sampled = (0..<20_000).count { _ in sdk.tracer.startSpan("x").context.isSampled }
        // 5,000 ± 8 standard deviations of 61: wrong once in 10^15 runs.
        #expect((4_510...5_490).contains(sampled))
        sdk.shutdown(deadline: .zero)
    }

    @Test(
        "a ratio outside 0 to 1 is clamped",
        arguments: [(-1.0, false), (0.0, false), (1.0, true), (7.0, true), (.infinity, true)])
    func clamped(ratio: Double, isSampled: Bool) {
        let sdk = sdk(.traceIDRatio(ratio))
        for low in [1, UInt64.max, 1 << 63] as [UInt64] {
            let parent = SpanContext(traceID: TraceID(high: 1, low: low), spanID: SpanID(rawValue: 1), traceFlags: [])
            #expect(sdk.tracer.startSpan("x", parent: parent).context.isSampled == isSampled)
        }
        sdk.shutdown(deadline: .zero)
    }
}
