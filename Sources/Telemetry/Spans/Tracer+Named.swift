import OTLP

extension Span {
    /// A span of another trace that a new span belongs to.
    public struct Link: Hashable, Sendable {
        public var context: SpanContext
        public var attributes: [KeyValue]

        public init(_ context: SpanContext, attributes: [KeyValue] = []) {
            self.context = context
            self.attributes = attributes
        }
    }
}

extension Tracer {
    /// Starts a span whose name is known at run time only, or of which the sampler should know more.
    ///
    /// - Parameter attributes: what the sampler may look at; it does not see those that are set later.
    /// - Parameter links: the same for links. They count against the span's limits like all others.
    public func startSpan(
        named name: String, kind: SpanKind = .internal, parent: SpanContext? = nil, attributes: [KeyValue] = [],
        links: [Span.Link] = [], at instant: Instant? = nil
    ) -> Span {
        let slab = core.slab()
        guard core.path != .off else { return core.unrecorded(slab, parent) }
        let parent = parent.flatMap { $0.isValid ? $0 : nil }
        let (high, low) =
            parent.map { ($0.traceID.high.bigEndian, $0.traceID.low.bigEndian) } ?? slab.pointee.ids.nextTrace()
        let traceID = TraceID(high: high.bigEndian, low: low.bigEndian)
        var result = SamplingResult(decision: .drop, traceState: parent?.traceState)
        if core.path == .simple {
            if core.sampler.isSampled(traceID: traceID, parent: parent) { result.decision = .recordAndSample }
        } else {
            result = core.sampler.sample(
                SamplingParameters(
                    traceID: traceID, parent: parent, name: name, kind: kind, attributes: attributes,
                    links: links.map(\.context)))
        }
        let random = parent.map { $0.traceFlags.rawValue & TraceFlags.randomBit } ?? TraceFlags.randomBit
        guard result.decision != .drop else {
            return core.sampledOut(slab, traceID, flags: random, result.traceState)
        }
        let isSampled = result.decision == .recordAndSample
        let span = record(
            slab, kind, wireHigh: high, wireLow: low, wireParent: parent?.spanID.rawValue.bigEndian ?? 0,
            isParentRemote: parent?.isRemote ?? false, flags: isSampled ? random | 1 : random, result.traceState,
            (instant ?? Clock.now()).unixNano)
        guard let slot = span.slot else { return span }
        slot.pointee.isRecordOnly = !isSampled
        SpanFields.writeName(slot, name)
        for attribute in attributes { SpanFields.set(slot, attribute.key, attribute.value) }
        for attribute in result.attributes { SpanFields.set(slot, attribute.key, attribute.value) }
        for link in links { SpanFields.addLink(slot, link.context, link.attributes) }
        return span
    }
}

extension TracerCore {
    /// A span that a general sampler left out, with the ids on which the decision was made.
    func sampledOut(
        _ slab: UnsafeMutablePointer<SpanSlab>, _ traceID: TraceID, flags: UInt8, _ traceState: TraceState?
    ) -> Span {
        let seed = slab.pointee.seed &+ SpanSlab.bump(slab, .sampledOut)
        return Span(
            slot: nil, word: 0, flags: flags, ids: .seededSpan, wireHigh: traceID.high.bigEndian,
            wireLow: traceID.low.bigEndian, wireID: seed, traceState: traceState)
    }
}
