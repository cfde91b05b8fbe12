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
    // Expanded in place for what a tracer that never samples does; the rest is a call.
    @inlinable @inline(__always)
    public func startSpan(
        _ name: StaticString, kind: SpanKind = .internal, parent: SpanContext? = nil, at instant: Instant? = nil
    ) -> Span {
        guard core.path == .simple else {
            if core.path == .off, parent == nil, let slab = core.knownSlab { return core.unrecorded(slab) }
            return startUnusual(name, kind, parent, instant)
        }
        let start = (instant ?? Clock.now()).unixNano
        // Not by `map`, which is a call of generic code.
        let span = if let parent { startChild(kind, parent, start) } else { startRoot(kind, start) }
        if let slot = span.slot { SpanFields.name(slot, name) }
        return span
    }

    // The clock is read by the caller, so that these two have no call on their way.

    /// A span without a parent and without a name, where only ids are looked at.
    @usableFromInline @inline(never)
    func startRoot(_ kind: SpanKind, _ startUnixNano: UInt64) -> Span {
        guard let slab = core.knownSlab else { return startFirst(kind, startUnixNano) }
        let (high, low) = slab.pointee.ids.nextTrace()
        guard core.sampler.isSampled(traceID: TraceID(high: high.bigEndian, low: low.bigEndian), parent: nil) else {
            return core.unrecorded(slab)
        }
        return record(
            slab, kind, wireHigh: high, wireLow: low, wireParent: 0, isParentRemote: false,
            flags: TraceFlags.randomBit | 1, nil, startUnixNano)
    }

    /// The thread's first span.
    @inline(never)
    private func startFirst(_ kind: SpanKind, _ startUnixNano: UInt64) -> Span {
        _ = core.slab()
        return startRoot(kind, startUnixNano)
    }

    @usableFromInline @inline(never)
    func startChild(_ kind: SpanKind, _ parent: SpanContext, _ startUnixNano: UInt64) -> Span {
        guard parent.isValid else { return startRoot(kind, startUnixNano) }
        let slab = core.slab()
        guard core.sampler.isSampled(traceID: parent.traceID, parent: parent) else {
            return core.unrecorded(slab, parent)
        }
        return record(
            slab, kind, wireHigh: parent.traceID.high.bigEndian, wireLow: parent.traceID.low.bigEndian,
            wireParent: parent.spanID.rawValue.bigEndian, isParentRemote: parent.isRemote,
            // A parent's random flag is passed on as it came.
            flags: parent.traceFlags.rawValue & TraceFlags.randomBit | 1, parent.traceState, startUnixNano)
    }

    @usableFromInline @inline(never)
    func startUnusual(_ name: StaticString, _ kind: SpanKind, _ parent: SpanContext?, _ instant: Instant?) -> Span {
        core.path == .off
            ? core.unrecorded(core.slab(), parent)
            : startSpan(named: name.description, kind: kind, parent: parent, at: instant)
    }

    @inline(__always)
    func record(
        _ slab: UnsafeMutablePointer<SpanSlab>, _ kind: SpanKind, wireHigh: UInt64, wireLow: UInt64, wireParent: UInt64,
        isParentRemote: Bool, flags: UInt8, _ traceState: TraceState?, _ startUnixNano: UInt64
    ) -> Span {
        SpanSlab.bump(slab, .started)
        let id = slab.pointee.ids.nextNonZero()
        let claimed = SpanSlab.claim(slab)
        let span = Span(
            // Without a slot the context stays sampled: what follows belongs to a sampled trace, though this span of it
            // is lost.
            slot: claimed?.slot, word: claimed?.word ?? 0, flags: flags, ids: .made, wireHigh: wireHigh,
            wireLow: wireLow, wireID: id, traceState: traceState)
        if let slot = claimed?.slot {
            SpanFields.begin(
                slot, slab, span, wireParent: wireParent, isParentRemote: isParentRemote, kind: kind, scope: scope,
                startUnixNano: startUnixNano)
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

    /// The running thread's slab, if it has one. Asked for at every span: the thread may be another one after a
    /// suspension.
    @inlinable @inline(__always)
    var knownSlab: UnsafeMutablePointer<SpanSlab>? {
        guard let pointer = isotherm_thread_slab() else { return nil }
        let slab = pointer.assumingMemoryBound(to: SpanSlab.self)
        return slab.pointee.owner == collectorID ? slab : nil
    }

    @inline(__always)
    func slab() -> UnsafeMutablePointer<SpanSlab> { knownSlab ?? collector.slabForThisThread() }

    /// A span that is not sampled, and has no parent. Its ids are made when somebody asks for them.
    @inlinable @inline(__always)
    func unrecorded(_ slab: UnsafeMutablePointer<SpanSlab>) -> Span {
        Span(
            slot: nil, word: 0, flags: TraceFlags.randomBit, ids: .seededTrace,
            wireHigh: slab.pointee.seed &+ SpanSlab.bump(slab, .sampledOut), wireLow: 0, wireID: 0, traceState: nil)
    }

    /// The same with a parent that may be valid.
    func unrecorded(_ slab: UnsafeMutablePointer<SpanSlab>, _ parent: SpanContext?) -> Span {
        guard let parent, parent.isValid else { return unrecorded(slab) }
        let seed = slab.pointee.seed &+ SpanSlab.bump(slab, .sampledOut)
        let (high, low) = (parent.traceID.high.bigEndian, parent.traceID.low.bigEndian)
        if isPassingThrough {
            return Span(
                slot: nil, word: 0, flags: parent.traceFlags.rawValue, ids: parent.isRemote ? .remote : .made,
                wireHigh: high, wireLow: low, wireID: parent.spanID.rawValue.bigEndian, traceState: parent.traceState)
        }
        return Span(
            slot: nil, word: 0, flags: parent.traceFlags.rawValue & TraceFlags.randomBit, ids: .seededSpan,
            wireHigh: high, wireLow: low, wireID: seed, traceState: parent.traceState)
    }
}
