import CTelemetry
import OTLP
import Synchronization

/// Starts spans. A value that can be copied freely; all copies of one SDK's tracer are the same.
///
///     let span = tracer.startSpan("checkout", kind: .server, parent: incoming)
///     span.setAttribute("cart.items", 3)
///     span.end()
public struct Tracer: Sendable {
    @usableFromInline let core: TracerCore

    init(core: TracerCore) { self.core = core }

    /// Whether any span that is started now could be exported.
    @inlinable public var isRecording: Bool { core.isRecording }

    /// Starts a span. Never blocks and allocates nothing, but for the first span of a thread.
    ///
    /// - Parameter name: names the operation, not the case: ids belong in attributes.
    /// - Parameter parent: the span that this one belongs to; nil begins a trace.
    /// - Parameter instant: when it started; now, if nil. A neighbour's end saves a look at the clock.
    @inlinable
    public func startSpan(
        _ name: StaticString, kind: SpanKind = .internal, parent: SpanContext? = nil, at instant: Instant? = nil
    ) -> Span {
        let slab = core.slab()
        SpanSlab.Counters.bump(slab.counters.started)
        let traceID: TraceID
        if let parent, parent.isValid {
            traceID = parent.traceID
        } else {
            traceID = TraceID(high: slab.random.next(), low: slab.random.nextNonZero())
        }
        let spanID = SpanID(rawValue: slab.random.nextNonZero())
        let hasParent = parent != nil && parent!.isValid
        // A trace that begins here has a random id; a parent's flag is passed on as it came.
        let randomFlag =
            hasParent ? parent!.traceFlags.rawValue & TraceFlags.random.rawValue : TraceFlags.random.rawValue
        guard core.isRecording, core.sampler.isSampled(traceID: traceID, parent: hasParent ? parent : nil) else {
            SpanSlab.Counters.bump(slab.counters.sampledOut)
            // Where nothing is exported no decision is made: a parent's goes through as it came.
            if hasParent, !core.isRecording {
                return Span(context: parent!, slot: nil, word: 0, name: name, limits: core.limits)
            }
            let context = SpanContext(
                traceID: traceID, spanID: spanID, traceFlags: TraceFlags(rawValue: randomFlag),
                traceState: hasParent ? parent!.traceState : nil)
            return Span(context: context, slot: nil, word: 0, name: name, limits: core.limits)
        }
        let context = SpanContext(
            traceID: traceID, spanID: spanID, traceFlags: TraceFlags(rawValue: randomFlag | 1),
            traceState: hasParent ? parent!.traceState : nil)
        guard let slot = slab.claim() else {
            // The context stays sampled: what follows belongs to a sampled trace, though this span of it is lost.
            SpanSlab.Counters.bump(slab.counters.droppedQueueFull)
            return Span(context: context, slot: nil, word: 0, name: name, limits: core.limits)
        }
        slot.pointee.count = 0
        slot.pointee.keyFilter = 0
        slot.pointee.attributeCount = 0
        slot.pointee.droppedAttributes = 0
        slot.pointee.droppedEvents = 0
        slot.pointee.droppedLinks = 0
        slot.pointee.statusCode = 0
        slot.pointee.kind = kind.rawValue
        slot.pointee.parentSpanID = hasParent ? parent!.spanID.rawValue : 0
        slot.pointee.isParentRemote = hasParent && parent!.isRemote
        slot.pointee.startUnixNano = (instant ?? Clock.now()).unixNano
        return Span(
            context: context, slot: slot, word: SpanSlot.state(slot).load(ordering: .relaxed), name: name,
            limits: core.limits)
    }
}

/// What a tracer's copies share.
@usableFromInline
final class TracerCore: Sendable {
    @usableFromInline let sampler: Sampler
    @usableFromInline let limits: SpanLimits
    @usableFromInline let isRecording: Bool
    @usableFromInline let collector: Collector

    init(sampler: Sampler, limits: SpanLimits, isRecording: Bool, collector: Collector) {
        self.sampler = sampler
        self.limits = limits
        self.isRecording = isRecording
        self.collector = collector
    }

    /// The running thread's slab. Asked for at every span: the thread may be another one after a suspension.
    @inlinable @inline(__always)
    func slab() -> SpanSlab {
        if let pointer = isotherm_thread_slab() {
            let slab = Unmanaged<SpanSlab>.fromOpaque(pointer)._withUnsafeGuaranteedRef { $0 }
            if slab.collectorID == collector.id { return slab }
        }
        return collector.slabForThisThread()
    }
}
