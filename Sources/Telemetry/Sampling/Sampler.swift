/// Decides which traces are exported. Names as in `OTEL_TRACES_SAMPLER`.
public struct Sampler: Sendable, Equatable, CustomStringConvertible {
    @usableFromInline
    enum Root: Sendable, Equatable {
        case alwaysOn, alwaysOff
        /// Sampled when the upper 63 bits of the trace id's low 8 bytes, read as big-endian, are below.
        case below(UInt64)
    }

    @usableFromInline let root: Root
    /// A parent's decision is taken over; `root` decides for traces that begin here.
    @usableFromInline let isParentBased: Bool
    public let description: String

    public static let alwaysOn = Sampler(.alwaysOn, "always_on")
    public static let alwaysOff = Sampler(.alwaysOff, "always_off")

    /// A share of all traces, the same ones in every service that uses the same ratio. Clamped to 0…1.
    public static func traceIDRatio(_ ratio: Double) -> Sampler {
        let ratio = ratio.isNaN ? 1 : min(max(ratio, 0), 1)
        // 63 bits, since a ratio of 1 must have a bound as well. Python's and Go's SDKs draw the same line.
        let bound = ratio >= 1 ? UInt64(1) << 63 : UInt64(ratio * 9_223_372_036_854_775_808)
        return Sampler(.below(bound), "traceidratio{\(ratio)}")
    }

    public static func parentBased(_ root: Sampler) -> Sampler {
        Sampler(root.root, "parentbased_\(root.description)", isParentBased: true)
    }

    private init(_ root: Root, _ description: String, isParentBased: Bool = false) {
        self.root = root
        self.isParentBased = isParentBased
        self.description = description
    }

    @inlinable @inline(__always)
    func isSampled(traceID: TraceID, parent: SpanContext?) -> Bool {
        if isParentBased, let parent { return parent.isSampled }
        switch root {
        case .alwaysOn: return true
        case .alwaysOff: return false
        case .below(let bound): return traceID.low >> 1 < bound
        }
    }
}
