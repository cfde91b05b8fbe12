import OTLP
import Synchronization

/// The head of a slot: one span, from its start until the collector has gathered it. The span's OTLP bytes follow it, as
/// fields of `opentelemetry.proto.trace.v1.Span` without the enclosing tag and length:
///
///     at the start      1 trace_id, 2 span_id, 7 start, 6 kind, 16 flags, 4 parent_span_id, 5 name
///     as they are set   9 attributes, 11 events, 13 links
///     at the end        8 end, and what is rare: 3 trace_state, 10, 12 and 14 dropped counts, 15 status
///
/// The state word says who may touch a slot:
///
///     free   → live      by the slab's owner, at the start
///     live   → ending    by whoever ends the span, on any thread (compare and exchange: a second end loses)
///     ending → ended     the same, releasing
///     ended  → free      by the collector, releasing
///
/// The upper 30 bits of the word count the slot's uses, so that a handle to an ended span finds another number.
@usableFromInline
struct SpanSlot {
    @usableFromInline static let free: UInt32 = 0
    @usableFromInline static let live: UInt32 = 1
    @usableFromInline static let ending: UInt32 = 2
    @usableFromInline static let ended: UInt32 = 3
    /// Added to a free slot's word: live, and used once more.
    static let nextUse: UInt32 = 4 + live

    /// Bytes of the whole span, once it has ended.
    @usableFromInline var count: UInt32
    /// Where the next field goes.
    @usableFromInline var write: UnsafeMutableRawPointer
    /// Where attributes in their short form have to end: the slot's begin where none may be written so.
    @usableFromInline var shortLimit: UnsafeMutableRawPointer
    /// One bit for each key that was set, by a small hash: an unset bit rules a second use of the key out.
    @usableFromInline var keyFilter: UInt64
    /// Attributes beyond the bits in `keyFilter`: those whose bit was set already, less those that were taken out.
    @usableFromInline var furtherAttributes: Int32
    /// The tracer's number.
    @usableFromInline var scope: UInt16
    /// Observed, but not exported.
    @usableFromInline var isRecordOnly: Bool
    @usableFromInline var slab: UnsafeMutablePointer<SpanSlab>
    @usableFromInline var extras: Unmanaged<SpanExtras>?

    /// Of slot and head together.
    @usableFromInline static let slotBytes = 1024
    @usableFromInline static let headBytes = 80
    /// Of the state word: behind this structure, since other threads look at it while the owner changes the rest.
    @usableFromInline static let stateOffset = 76
    /// Kept free for the end, and for copies of whole words that reach beyond what they copy.
    @usableFromInline static let reservedBytes = 144
    /// Longest name whose length is one byte.
    @usableFromInline static let maxShortName = 127
    /// Where the span id's eight bytes stand.
    static let spanIDOffset = 20
    /// Where the start's eight bytes stand.
    @usableFromInline static let startOffset = 29

    @inlinable @inline(__always)
    static func state(_ slot: UnsafeMutablePointer<SpanSlot>) -> UnsafeAtomic32 {
        UnsafeAtomic32(UnsafeMutableRawPointer(slot) + stateOffset)
    }

    @inlinable @inline(__always)
    static func inlineBytes(_ slot: UnsafeMutablePointer<SpanSlot>) -> UnsafeMutableRawPointer {
        UnsafeMutableRawPointer(slot) + headBytes
    }

    /// The span's fields, in the slot or beside it.
    @inlinable @inline(__always)
    static func bytes(_ slot: UnsafeMutablePointer<SpanSlot>) -> UnsafeMutableRawPointer {
        guard let extras = slot.pointee.extras else { return inlineBytes(slot) }
        return spilled(extras) ?? inlineBytes(slot)
    }

    @usableFromInline
    static func spilled(_ extras: Unmanaged<SpanExtras>) -> UnsafeMutableRawPointer? {
        extras._withUnsafeGuaranteedRef { $0.spill }
    }

    /// Made when it is asked for.
    static func extras(_ slot: UnsafeMutablePointer<SpanSlot>) -> SpanExtras {
        if let extras = slot.pointee.extras { return extras.takeUnretainedValue() }
        let extras = SpanExtras()
        slot.pointee.extras = .passRetained(extras)
        return extras
    }

    /// Makes an ended span's slot free again.
    static func release(_ slot: UnsafeMutablePointer<SpanSlot>, _ word: UInt32) {
        if slot.pointee.extras != nil { releaseExtras(slot) }
        state(slot).store(word & ~3 | free)
    }

    @inline(never)
    static func releaseExtras(_ slot: UnsafeMutablePointer<SpanSlot>) {
        slot.pointee.extras?.release()
        slot.pointee.extras = nil
    }
}

/// What few spans have.
@usableFromInline
final class SpanExtras {
    /// Fields that outgrew the slot.
    @usableFromInline var spill: UnsafeMutableRawPointer?
    /// Where attributes, events and links have to end there.
    var spillLimit: UnsafeMutableRawPointer?
    var droppedAttributes: UInt32 = 0
    var statusCode = StatusCode.unset
    var statusMessage: [UInt8] = []
    var eventCount = 0
    var droppedEvents: UInt32 = 0
    var linkCount = 0
    var droppedLinks: UInt32 = 0

    init() {}

    deinit { spill?.deallocate() }
}

/// An atomic word in memory that is not Swift's. Loads acquire and stores release.
@usableFromInline
struct UnsafeAtomic32 {
    @usableFromInline let place: UnsafeMutablePointer<Atomic<UInt32>>

    @inlinable @inline(__always)
    init(_ place: UnsafeMutableRawPointer) { self.place = place.assumingMemoryBound(to: Atomic<UInt32>.self) }

    @inlinable @inline(__always)
    func load() -> UInt32 { place.pointee.load(ordering: .acquiring) }

    @inlinable @inline(__always)
    func store(_ value: UInt32) { place.pointee.store(value, ordering: .releasing) }

    @inlinable @inline(__always)
    func exchange(from expected: UInt32, to desired: UInt32) -> Bool {
        place.pointee.compareExchange(expected: expected, desired: desired, ordering: .acquiring).exchanged
    }
}

/// A counter with one writer, which others may read, in memory that is not Swift's.
@usableFromInline
struct UnsafeCounter {
    @usableFromInline let place: UnsafeMutablePointer<Atomic<UInt64>>

    @inlinable @inline(__always)
    init(_ place: UnsafeMutableRawPointer) { self.place = place.assumingMemoryBound(to: Atomic<UInt64>.self) }

    /// No locked instruction. Releasing: whoever sees what became of a span also sees that it was started.
    @inlinable @inline(__always)
    func bump() -> UInt64 {
        let next = place.pointee.load(ordering: .relaxed) &+ 1
        place.pointee.store(next, ordering: .releasing)
        return next
    }

    func add(_ count: UInt64) {
        place.pointee.store(place.pointee.load(ordering: .relaxed) &+ count, ordering: .releasing)
    }

    func read() -> UInt64 { place.pointee.load(ordering: .acquiring) }
}
