/// Decides which spans are recorded and exported.
///
///     configuration.sampler = .parentBased(.traceIDRatio(0.1))
///
/// Two samplers are equal when they are described alike.
public struct Sampler: Sendable, Equatable, CustomStringConvertible {
    /// A share of all trace ids: those whose low 8 bytes, read as a big-endian number, are below a bound.
    @usableFromInline
    struct Share: Sendable {
        @usableFromInline let bound: UInt64
        /// Every id, for which there is no bound in 64 bits.
        @usableFromInline let isWhole: Bool

        static let all = Share(bound: 0, isWhole: true)
        static let none = Share(bound: 0, isWhole: false)

        @inlinable @inline(__always)
        func contains(_ traceID: TraceID) -> Bool { isWhole || traceID.low < bound }
    }

    /// What a parent means for a sampler that is not general.
    @usableFromInline
    enum ParentRule: UInt8, Sendable {
        /// The trace id decides.
        case ignored
        /// Its decision is taken over.
        case followed
        /// `parents` has a sampler for it.
        case asked
    }

    /// The decision needs more than the trace id and the parent's flags: `sample` must be asked.
    @usableFromInline let isGeneral: Bool
    @usableFromInline let share: Share
    @usableFromInline let parentRule: ParentRule
    let parents: ParentSamplers?
    let policy: (any SamplingPolicy)?
    /// By the specification, such as `ParentBased{root:TraceIdRatioBased{0.1},…}`.
    public let description: String

    init(
        isGeneral: Bool = false, share: Share = .none, parentRule: ParentRule = .ignored,
        parents: ParentSamplers? = nil, policy: (any SamplingPolicy)? = nil, _ description: String
    ) {
        self.isGeneral = isGeneral
        self.share = share
        self.parentRule = parentRule
        self.parents = parents
        self.policy = policy
        self.description = description
    }

    public static let alwaysOn = Sampler(share: .all, "AlwaysOnSampler")
    public static let alwaysOff = Sampler("AlwaysOffSampler")

    /// A share of all traces, the same ones in every service that uses the same ratio. Clamped to 0…1.
    ///
    /// The parent's decision is not looked at: see `parentBased`.
    public static func traceIDRatio(_ ratio: Double) -> Sampler {
        let ratio = ratio.isNaN ? 1 : min(max(ratio, 0), 1)
        // Rounded as in Python's SDK, with which this agrees for every trace id.
        let share =
            ratio == 1
            ? Share.all
            : Share(bound: UInt64((ratio * 0x1p64).rounded(.toNearestOrEven)), isWhole: false)
        return Sampler(share: share, "TraceIdRatioBased{\(ratio)}")
    }

    /// A sampler of one's own, in OpenTelemetry's terms an implementation of `ShouldSample`.
    public static func custom(_ policy: some SamplingPolicy) -> Sampler {
        Sampler(isGeneral: true, policy: policy, policy.description)
    }

    /// A sampler of one's own as a closure, which runs on the thread that starts the span.
    ///
    ///     .custom("NotOnSundays") { span in
    ///         SamplingResult(decision: isSunday() ? .drop : .recordAndSample, traceState: span.parent?.traceState)
    ///     }
    public static func custom(
        _ description: String, shouldSample: @escaping @Sendable (SamplingParameters) -> SamplingResult
    ) -> Sampler {
        custom(ClosurePolicy(description: description, decide: shouldSample))
    }

    /// Decides about one span. Works for every sampler.
    public func sample(_ parameters: SamplingParameters) -> SamplingResult {
        if let policy { return policy.shouldSample(parameters) }
        let isSampled = isSampled(traceID: parameters.traceID, parent: parameters.parent)
        return SamplingResult(
            decision: isSampled ? .recordAndSample : .drop, traceState: parameters.parent?.traceState)
    }

    /// The decision where `isGeneral` is false. The parent, if there is one, is valid.
    @inlinable @inline(__always)
    func isSampled(traceID: TraceID, parent: SpanContext?) -> Bool {
        if parentRule != .ignored, let parent {
            if parentRule == .followed { return parent.isSampled }
            return isSampledByParents(traceID: traceID, parent: parent)
        }
        return share.contains(traceID)
    }

    @usableFromInline
    func isSampledByParents(traceID: TraceID, parent: SpanContext) -> Bool {
        parents?.sampler(for: parent).isSampled(traceID: traceID, parent: parent) ?? parent.isSampled
    }

    public static func == (one: Sampler, other: Sampler) -> Bool {
        one.isGeneral == other.isGeneral && one.description == other.description
    }
}

private struct ClosurePolicy: SamplingPolicy {
    let description: String
    let decide: @Sendable (SamplingParameters) -> SamplingResult

    func shouldSample(_ parameters: SamplingParameters) -> SamplingResult { decide(parameters) }
}
