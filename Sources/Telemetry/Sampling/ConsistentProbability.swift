import OTLP

/// What a composable sampler would like: a threshold rather than a decision, so that several can be combined and the
/// decision stays consistent through the whole trace.
public struct SamplingIntent: Sendable {
    /// Of 2⁵⁶ traces so many are not sampled; 0 samples all, nil none.
    public var threshold: UInt64?
    /// Whether the threshold tells how probable the sample was. If so, it is passed on.
    public var isThresholdReliable: Bool
    /// Set on the span if it is sampled.
    public var attributes: [KeyValue]
    /// Changes others' entries of the tracestate.
    public var updateTraceState: (@Sendable (TraceState?) -> TraceState?)?

    public init(
        threshold: UInt64?, isThresholdReliable: Bool, attributes: [KeyValue] = [],
        updateTraceState: (@Sendable (TraceState?) -> TraceState?)? = nil
    ) {
        self.threshold = threshold
        self.isThresholdReliable = isThresholdReliable
        self.attributes = attributes
        self.updateTraceState = updateTraceState
    }

    static let none = SamplingIntent(threshold: nil, isThresholdReliable: false)
}

/// A sampler that can be combined with others before anything is decided: `Sampler.composite` decides.
/// https://opentelemetry.io/docs/specs/otel/trace/sdk/#compositesampler
public struct ComposableSampler: Sendable, CustomStringConvertible {
    public let description: String
    let intent: @Sendable (SamplingParameters) -> SamplingIntent

    /// - Parameter intent: must not depend on the trace id, or decisions would not be consistent.
    public init(_ description: String, intent: @escaping @Sendable (SamplingParameters) -> SamplingIntent) {
        self.description = description
        self.intent = intent
    }

    public static let alwaysOn = ComposableSampler("ComposableAlwaysOn") { _ in
        SamplingIntent(threshold: 0, isThresholdReliable: true)
    }

    public static let alwaysOff = ComposableSampler("ComposableAlwaysOff") { _ in .none }

    /// Samples that share of all traces; the same ones as any other participant, and more where its share is larger.
    ///
    /// - Parameter probability: clamped to 0…1. 0 is `alwaysOff`.
    /// - Parameter precision: significant hexadecimal digits of the threshold, 1…14. The specification recommends 4.
    public static func probability(_ probability: Double, precision: Int = 4) -> ComposableSampler {
        let probability = probability.isNaN ? 1 : min(max(probability, 0), 1)
        let threshold = threshold(probability, precision: precision)
        let text = threshold.map(ProbabilityState.thresholdText) ?? "max"
        return ComposableSampler("ComposableProbability{threshold=\(text), ratio=\(probability)}") { _ in
            SamplingIntent(threshold: threshold, isThresholdReliable: threshold != nil)
        }
    }

    /// Does as the parent did, with the threshold that it had; asks `root` where a trace begins.
    public static func parentThreshold(_ root: ComposableSampler) -> ComposableSampler {
        ComposableSampler("ComposableParentThreshold{root=\(root)}") { span in
            guard let parent = span.parent else { return root.intent(span) }
            let state = ProbabilityState(parent.traceState)
            // A threshold that contradicts the flag says nothing about this trace.
            if let threshold = state.threshold, (state.randomness(span.traceID) >= threshold) == parent.isSampled {
                return SamplingIntent(threshold: threshold, isThresholdReliable: true)
            }
            return SamplingIntent(threshold: parent.isSampled ? 0 : nil, isThresholdReliable: false)
        }
    }

    /// The first rule whose condition holds decides; where none does, nothing is sampled.
    public static func ruleBased(_ rules: [(SpanCondition, ComposableSampler)]) -> ComposableSampler {
        let list = rules.map { "(\($0.0):\($0.1))" }.joined(separator: ",")
        return ComposableSampler("ComposableRuleBased{[\(list)]}") { span in
            rules.first { $0.0.matches(span) }?.1.intent(span) ?? .none
        }
    }

    /// Sets attributes on what is sampled.
    public static func annotating(_ sampler: ComposableSampler, _ attributes: [KeyValue]) -> ComposableSampler {
        ComposableSampler("ComposableAnnotating{\(sampler),[\(attributes.map(\.key).joined(separator: ","))]}") {
            span in
            var intent = sampler.intent(span)
            intent.attributes += attributes
            return intent
        }
    }

    /// Nil for a probability below 2⁻⁵⁶. Small probabilities have leading `f` digits, which do not count as significant.
    static func threshold(_ probability: Double, precision: Int) -> UInt64? {
        let kept = UInt64((probability * 0x1p56).rounded(.toNearestOrEven))
        guard kept > 0 else { return nil }
        let exact = ProbabilityState.scale - kept
        // 2^exponent ≤ probability: 1/2 has -1, and so no leading `f` digit before 1/16.
        let leading = max(0, -(Int(probability.exponent) + 1)) / 4
        let digits = min(14, max(1, min(14, precision) + leading))
        let shift = UInt64(4 * (14 - digits))
        guard shift > 0 else { return exact }
        let rounded = ((exact + (1 << (shift - 1))) >> shift) << shift
        // Rounded up to everything, it would sample nothing.
        return min(rounded, ProbabilityState.scale - (1 << shift))
    }
}

extension ProbabilityState {
    /// 56 bits: the explicit ones, else the trace id's last seven bytes, which are random by W3C Trace Context level 2.
    func randomness(_ traceID: TraceID) -> UInt64 { randomness ?? traceID.low & (Self.scale - 1) }
}

private struct Composite: SamplingPolicy {
    let sampler: ComposableSampler
    var description: String { "CompositeSampler{\(sampler)}" }

    func shouldSample(_ parameters: SamplingParameters) -> SamplingResult {
        let parentState = parameters.parent?.traceState
        let state = ProbabilityState(parentState)
        let intent = sampler.intent(parameters)
        let isSampled = intent.threshold.map { state.randomness(parameters.traceID) >= $0 } ?? false
        let threshold = isSampled && intent.isThresholdReliable ? intent.threshold : nil
        let others = intent.updateTraceState.map { $0(parentState) } ?? parentState
        return SamplingResult(
            decision: isSampled ? .recordAndSample : .drop,
            traceState: state.withThreshold(threshold).replacing(in: others),
            attributes: isSampled ? intent.attributes : [])
    }
}

extension Sampler {
    /// Decides by the intent of a composable sampler, and keeps the tracestate's threshold true.
    public static func composite(_ sampler: ComposableSampler) -> Sampler { .custom(Composite(sampler: sampler)) }

    /// Samples that share of new traces and writes the threshold to the tracestate (`ot=th:…`), from which a backend
    /// counts what was not sampled; with a parent, does as the parent did.
    public static func consistentProbability(_ probability: Double, precision: Int = 4) -> Sampler {
        composite(.parentThreshold(.probability(probability, precision: precision)))
    }
}
