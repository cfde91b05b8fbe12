import OTLP

/// What a sampler may look at: a span that is about to start.
public struct SamplingParameters: Sendable {
    public let traceID: TraceID
    /// The span that the new one belongs to; nil where a trace begins.
    public let parent: SpanContext?
    public let name: String
    public let kind: SpanKind
    /// Those that were given at the start; later ones are not known yet.
    public let attributes: [KeyValue]
    public let links: [SpanContext]

    /// - Parameter parent: one that is not valid counts as none.
    public init(
        traceID: TraceID, parent: SpanContext? = nil, name: String, kind: SpanKind = .internal,
        attributes: [KeyValue] = [], links: [SpanContext] = []
    ) {
        self.traceID = traceID
        self.parent = parent.flatMap { $0.isValid ? $0 : nil }
        self.name = name
        self.kind = kind
        self.attributes = attributes
        self.links = links
    }

    /// The attribute's value; the last one, if it was given more than once.
    public subscript(key: String) -> AnyValue? { attributes.last { $0.key == key }?.value }
}

/// What becomes of a span.
public enum SamplingDecision: String, Hashable, Sendable, CaseIterable {
    /// Nothing is recorded.
    case drop
    /// Recorded for what runs in this process, metrics and the heatmap, and not exported. The sampled flag is off.
    case recordOnly
    /// Recorded and exported. The sampled flag is on.
    case recordAndSample
}

/// A decision, and what comes with it.
public struct SamplingResult: Hashable, Sendable {
    public var decision: SamplingDecision
    /// The new span's, as a whole: nil leaves it without one. Most samplers pass the parent's on.
    public var traceState: TraceState?
    /// Set on the span.
    public var attributes: [KeyValue]

    public init(decision: SamplingDecision, traceState: TraceState?, attributes: [KeyValue] = []) {
        self.decision = decision
        self.traceState = traceState
        self.attributes = attributes
    }
}

/// A sampler of one's own. `shouldSample` runs for every span, on the thread that starts it: it should be quick, and
/// must not start spans itself.
public protocol SamplingPolicy: Sendable, CustomStringConvertible {
    func shouldSample(_ parameters: SamplingParameters) -> SamplingResult
}
