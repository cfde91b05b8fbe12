import Glibc
import Synchronization

/// One thread's span memory: slots of fixed size, each of which holds one span from its start until the collector has
/// gathered it.
///
/// A slot is a header followed by the span's finished OTLP bytes (fields of `opentelemetry.proto.trace.v1.Span` without
/// the enclosing tag and length). Attributes are appended as they are set; `end` appends the fixed fields, so that a
/// span is encoded when it ends and the collector only copies it.
///
/// Slots are claimed by the owning thread in ring order, passing over those that are still live. A slot's state word
/// says who may touch it:
///
///     free  → live      by the owner, at start
///     live  → ending    by whoever ends the span, on any thread (compare and exchange: a second end loses)
///     ending → ended    the same, releasing
///     ended → free      by the collector, releasing
///
/// The upper 30 bits of the word count the slot's uses, so that a handle to an ended span finds another number.
@usableFromInline
final class SpanSlab: @unchecked Sendable {  // guarded by the slots' state words; counters have one writer each
    @usableFromInline static let slotBytes = 1024
    /// Of a slot, for encoded fields.
    @usableFromInline static let capacity = slotBytes - MemoryLayout<SpanSlot>.stride
    /// Claims that look at more live slots than this give up: the ring is full of live spans.
    @usableFromInline static let maxProbes = 64

    @usableFromInline let slots: UnsafeMutableRawPointer
    @usableFromInline let slotMask: Int
    /// Kept alive by the tracers through which alone the slab is reached.
    @usableFromInline unowned(unsafe) let collector: Collector
    /// The collector's number, 0 once that is gone. An address would not do: it may be used again.
    @usableFromInline var collectorID: UInt64
    /// Owner only.
    @usableFromInline var next = 0
    @usableFromInline var random: Xoshiro

    // Counters of the owner, in a block of their own: the collector reads them, and its own fields stand elsewhere.
    @usableFromInline let counters: Counters
    /// Whether a running thread owns this slab.
    let isOwned = Atomic(true)

    @usableFromInline
    final class Counters: Sendable {
        @usableFromInline let started = Atomic<UInt64>(0)
        @usableFromInline let sampledOut = Atomic<UInt64>(0)
        @usableFromInline let droppedQueueFull = Atomic<UInt64>(0)

        init() {}

        /// Only the owner writes, so no locked instruction is needed. In the order in which they are written: whoever
        /// sees what became of a span also sees that it was started.
        @inlinable @inline(__always)
        static func bump(_ counter: borrowing Atomic<UInt64>) {
            counter.store(counter.load(ordering: .relaxed) &+ 1, ordering: .releasing)
        }
    }

    /// - Parameter slotCount: rounded up to a power of two.
    init(slotCount: Int, collector: Collector) {
        var count = 64
        while count < slotCount { count *= 2 }
        // Straight from the system: pages that no span has used cost nothing, and they can be given back. Zeroes are a
        // free slot.
        let bytes = count * Self.slotBytes
        guard let memory = mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
            memory != MAP_FAILED
        else { fatalError("no memory for \(bytes) bytes of spans") }
        slots = memory
        slotMask = count - 1
        self.collector = collector
        collectorID = collector.id
        counters = Counters()
        random = Xoshiro()
    }

    /// The SDK is gone. The slab itself stays, since handles of spans that never ended still point into it, and threads
    /// still know it; its pages are given back. Handles find another use count then, and do nothing.
    func retire() {
        collectorID = 0
        for index in 0..<slotCount {
            slot(index).pointee.spill?.deallocate()
            slot(index).pointee.statusMessage?.deallocate()
        }
        madvise(slots, slotCount * Self.slotBytes, MADV_DONTNEED)
    }

    var slotCount: Int { slotMask + 1 }

    func slot(_ index: Int) -> UnsafeMutablePointer<SpanSlot> {
        (slots + index * Self.slotBytes).assumingMemoryBound(to: SpanSlot.self)
    }

    /// A free slot, made live; nil when there is none, which the caller counts.
    @inlinable @inline(__always)
    func claim() -> UnsafeMutablePointer<SpanSlot>? {
        var probes = 0
        while probes < Self.maxProbes {
            let index = next & slotMask
            next &+= 1
            let slot = (slots + index &* Self.slotBytes).assumingMemoryBound(to: SpanSlot.self)
            let word = SpanSlot.state(slot).load(ordering: .acquiring)
            if index & (slotMask >> 1) == 0 { collector.wake() }
            if word & 3 == SpanSlot.free {
                SpanSlot.state(slot).store(word &+ 4 | SpanSlot.live, ordering: .relaxed)
                return slot
            }
            probes &+= 1
        }
        return nil
    }
}

/// The head of a slot.
@usableFromInline
struct SpanSlot {
    @usableFromInline static let free: UInt32 = 0
    @usableFromInline static let live: UInt32 = 1
    @usableFromInline static let ending: UInt32 = 2
    @usableFromInline static let ended: UInt32 = 3

    /// Use count and state; touched through `state(_:)` only.
    @usableFromInline var word: UInt32 = 0
    /// Bytes of encoded fields.
    @usableFromInline var count: Int32 = 0
    /// One bit for each key that was set, by a small hash: an unset bit rules a second use of the key out.
    @usableFromInline var keyFilter: UInt64 = 0
    @usableFromInline var startUnixNano: UInt64 = 0
    @usableFromInline var parentSpanID: UInt64 = 0
    /// Encoded fields that outgrew the slot; freed by the collector.
    @usableFromInline var spill: UnsafeMutableRawPointer?
    @usableFromInline var spillCapacity: Int32 = 0
    @usableFromInline var attributeCount: UInt16 = 0
    @usableFromInline var kind: UInt8 = 1
    @usableFromInline var statusCode: UInt8 = 0
    @usableFromInline var isParentRemote = false
    @usableFromInline var statusMessageCount: UInt16 = 0
    @usableFromInline var droppedAttributes: UInt32 = 0
    /// A status message's place in the encoded fields would move; it is kept aside. Rare.
    @usableFromInline var statusMessage: UnsafeMutablePointer<UInt8>?
    @usableFromInline var droppedEvents: UInt32 = 0
    @usableFromInline var droppedLinks: UInt32 = 0

    @usableFromInline init() {}

    @inlinable @inline(__always)
    static func state(_ slot: UnsafeMutablePointer<SpanSlot>) -> UnsafeAtomicWord {
        UnsafeAtomicWord(UnsafeMutableRawPointer(slot).assumingMemoryBound(to: Atomic<UInt32>.self))
    }

    /// Makes an ended span's slot free again.
    static func release(_ slot: UnsafeMutablePointer<SpanSlot>, _ word: UInt32) {
        slot.pointee.spill?.deallocate()
        slot.pointee.spill = nil
        slot.pointee.statusMessage?.deallocate()
        slot.pointee.statusMessage = nil
        state(slot).store(word & ~3 | free, ordering: .releasing)
    }

    @inlinable @inline(__always)
    static func bytes(_ slot: UnsafeMutablePointer<SpanSlot>) -> UnsafeMutableRawPointer {
        slot.pointee.spill ?? UnsafeMutableRawPointer(slot) + MemoryLayout<SpanSlot>.stride
    }

    @inlinable @inline(__always)
    static func capacity(_ slot: UnsafeMutablePointer<SpanSlot>) -> Int {
        slot.pointee.spill == nil ? SpanSlab.capacity : Int(slot.pointee.spillCapacity)
    }
}

/// An atomic word in memory that is not Swift's.
@usableFromInline
struct UnsafeAtomicWord {
    @usableFromInline let place: UnsafeMutablePointer<Atomic<UInt32>>

    @inlinable @inline(__always)
    init(_ place: UnsafeMutablePointer<Atomic<UInt32>>) { self.place = place }

    @inlinable @inline(__always)
    func load(ordering: AtomicLoadOrdering) -> UInt32 {
        switch ordering {
        case .acquiring: place.pointee.load(ordering: .acquiring)
        default: place.pointee.load(ordering: .relaxed)
        }
    }

    @inlinable @inline(__always)
    func store(_ value: UInt32, ordering: AtomicStoreOrdering) {
        switch ordering {
        case .releasing: place.pointee.store(value, ordering: .releasing)
        default: place.pointee.store(value, ordering: .relaxed)
        }
    }

    @inlinable @inline(__always)
    func exchange(from expected: UInt32, to desired: UInt32) -> Bool {
        place.pointee.compareExchange(expected: expected, desired: desired, ordering: .acquiring).exchanged
    }
}

/// xoshiro256** (Blackman and Vigna), seeded from the system's generator: reading that one for each id would be a system
/// call each time.
@usableFromInline
struct Xoshiro: RandomNumberGenerator {
    @usableFromInline var state: (UInt64, UInt64, UInt64, UInt64)

    @usableFromInline
    init() {
        var system = SystemRandomNumberGenerator()
        state = (system.next() | 1, system.next(), system.next(), system.next())
    }

    @inlinable @inline(__always)
    mutating func next() -> UInt64 {
        let product = state.1 &* 5
        let result = ((product << 7) | (product >> 57)) &* 9
        let shifted = state.1 << 17
        state.2 ^= state.0
        state.3 ^= state.1
        state.1 ^= state.2
        state.0 ^= state.3
        state.2 ^= shifted
        state.3 = (state.3 << 45) | (state.3 >> 19)
        return result
    }

    /// Ids are never zero.
    @inlinable @inline(__always)
    mutating func nextNonZero() -> UInt64 {
        while true {
            let value = next()
            if value != 0 { return value }
        }
    }
}
