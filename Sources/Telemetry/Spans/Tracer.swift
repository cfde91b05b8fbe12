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
    /// Of the instrumentation scope, for the collector.
    @usableFromInline let scope: UInt16

    init(core: TracerCore, scope: UInt16 = 0) {
        self.core = core
        self.scope = scope
    }

    /// Whether any span that is started now could be exported or observed.
    @inlinable public var isRecording: Bool { core.path != .off }

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
        if core.path != .simple {
            return core.path == .off
                ? core.unrecorded(slab, parent)
                : startSpan(named: name.description, kind: kind, parent: parent, at: instant)
        }
        let high: UInt64
        let low: UInt64
        if let parent, parent.isValid {
            (high, low) = (parent.traceID.high, parent.traceID.low)
            guard core.sampler.isSampled(traceID: parent.traceID, parent: parent) else {
                return core.unrecorded(slab, parent)
            }
            return record(
                slab, name, kind, high, low, parent: parent.spanID.rawValue, isParentRemote: parent.isRemote,
                // A parent's random flag is passed on as it came.
                flags: parent.traceFlags.rawValue & TraceFlags.random.rawValue | 1, parent.traceState, instant)
        }
        (high, low) = slab.pointee.ids.nextTrace()
        guard core.sampler.isSampled(traceID: TraceID(high: high, low: low), parent: nil) else {
            return core.unrecorded(slab, nil)
        }
        return record(
            slab, name, kind, high, low, parent: 0, isParentRemote: false, flags: TraceFlags.random.rawValue | 1, nil,
            instant)
    }

    @inlinable @inline(__always)
    func record(
        _ slab: UnsafeMutablePointer<SpanSlab>, _ name: StaticString, _ kind: SpanKind, _ high: UInt64, _ low: UInt64,
        parent: UInt64, isParentRemote: Bool, flags: UInt8, _ traceState: TraceState?, _ instant: Instant?
    ) -> Span {
        SpanSlab.bump(slab, .started)
        let id = slab.pointee.ids.nextNonZero()
        let slot = SpanSlab.claim(slab)
        let span = Span(
            // Without a slot the context stays sampled: what follows belongs to a sampled trace, though this span of it
            // is lost.
            slot: slot, word: slot.map { SpanSlot.state($0).load() } ?? 0, flags: flags, ids: .made, high: high,
            low: low, id: id, traceState: traceState)
        if let slot {
            SpanFields.begin(
                slot, slab, span, parent: parent, isParentRemote: isParentRemote, kind: kind, name: name, scope: scope,
                startUnixNano: (instant ?? Clock.now()).unixNano)
        }
        return span
    }
}

/// What a tracer's copies share.
@usableFromInline
final class TracerCore: Sendable {
    @usableFromInline let sampler: Sampler
    @usableFromInline let path: Path
    /// Where nothing is exported no decision is made: a parent's goes through as it came.
    @usableFromInline let isPassingThrough: Bool
    @usableFromInline let collector: SpanCollector
    @usableFromInline let collectorID: UInt64

    /// The way of a span that starts.
    @usableFromInline
    enum Path: UInt8, Sendable {
        case simple
        /// Nothing is recorded, whatever comes.
        case off
        /// The sampler wants to know more than ids.
        case general
    }

    init(sampler: Sampler, isPassingThrough: Bool, collector: SpanCollector) {
        self.sampler = sampler
        self.isPassingThrough = isPassingThrough
        path = isPassingThrough || sampler == .alwaysOff ? .off : sampler.isGeneral ? .general : .simple
        self.collector = collector
        collectorID = collector.id
    }

    /// The running thread's slab. Asked for at every span: the thread may be another one after a suspension.
    @inlinable @inline(__always)
    func slab() -> UnsafeMutablePointer<SpanSlab> {
        if let pointer = isotherm_thread_slab() {
            let slab = pointer.assumingMemoryBound(to: SpanSlab.self)
            if slab.pointee.owner == collectorID { return slab }
        }
        return collector.slabForThisThread()
    }

    /// A span that is not sampled. Its ids are made when somebody asks for them.
    @inlinable @inline(__always)
    func unrecorded(_ slab: UnsafeMutablePointer<SpanSlab>, _ parent: SpanContext?) -> Span {
        let seed = slab.pointee.seed &+ SpanSlab.bump(slab, .sampledOut)
        guard let parent, parent.isValid else {
            return Span(
                slot: nil, word: 0, flags: TraceFlags.random.rawValue, ids: .seededTrace, high: seed, low: 0, id: 0,
                traceState: nil)
        }
        let (high, low) = (parent.traceID.high, parent.traceID.low)
        if isPassingThrough {
            return Span(
                slot: nil, word: 0, flags: parent.traceFlags.rawValue, ids: parent.isRemote ? .remote : .made,
                high: high, low: low, id: parent.spanID.rawValue, traceState: parent.traceState)
        }
        return Span(
            slot: nil, word: 0, flags: parent.traceFlags.rawValue & TraceFlags.random.rawValue, ids: .seededSpan,
            high: high, low: low, id: seed, traceState: parent.traceState)
    }
}
