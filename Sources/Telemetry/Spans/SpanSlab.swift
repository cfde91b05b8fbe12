import CTelemetry
import Glibc
import Synchronization

/// One thread's span memory: a ring of slots, each of which holds one span. See `SpanSlot`.
///
/// The owning thread claims slots in ring order, passing over those that are still live, and publishes how far it has
/// come in `next`; the collector follows with a cursor of its own. Memory of its own, not an object: the hot path takes
/// no reference and checks no access.
@usableFromInline
struct SpanSlab {
    /// Claims that look at more live slots than this give up: the ring is full of live spans.
    @usableFromInline static let maxProbes = 64

    /// The collector's number, 0 once that is gone. An address would not do: it may be used again.
    @usableFromInline var owner: UInt64
    @usableFromInline let slots: UnsafeMutableRawPointer
    @usableFromInline let slotMask: UInt32
    /// 0 where there are no slots: a thread too many, or a process that was forked.
    @usableFromInline let probes: UInt32
    /// What several threads look at; see `SharedWord`.
    @usableFromInline let shared: UnsafeMutableRawPointer
    /// Where attributes in their short form have to end in a slot; 0 where they have a limit that the short form does not
    /// look at.
    let shortLimit: Int
    /// The collector is woken where the claims' number has none of these bits: at each half of the ring.
    let wakeMask: UInt32
    @usableFromInline var ids: IDGenerator
    /// For ids that are made of a seed.
    @usableFromInline let seed: UInt64

    /// What `dropped` counts.
    let dropReason: SpanLedger.DropReason
    let limits: SpanLimits
    /// Kept alive by the tracers through which alone the slab is reached.
    @usableFromInline let collector: Unmanaged<SpanCollector>

    /// Places in `shared`, in bytes. Memory of their own, since taking the address of a stored property is an access to all
    /// of the structure, which two threads may not have at once.
    @usableFromInline
    enum SharedWord {
        /// 32 bits: where the next claim begins. Stored after the slots before it have been made live.
        @usableFromInline static let next = 0
        /// 32 bits: 1 while a running thread owns this slab.
        static let ownership = 4
        static let bytes = 64
    }

    /// Places of the counters in `shared`.
    @usableFromInline
    enum Counter: Int {
        /// Spans that were sampled out are not in it.
        case started = 8
        case sampledOut = 16
        case dropped = 24
    }

    /// - Parameter slotCount: rounded up to a power of two; 0 for a slab that drops all spans for `dropReason`.
    static func make(
        slotCount: Int, collector: SpanCollector, limits: SpanLimits, dropReason: SpanLedger.DropReason
    ) -> UnsafeMutablePointer<SpanSlab> {
        precondition(MemoryLayout<SpanSlot>.size <= SpanSlot.stateOffset)
        var count = 0
        var memory = emptyRing
        var dropReason = dropReason
        if slotCount > 0 {
            count = 64
            while count < slotCount { count *= 2 }
            // Straight from the system: pages that no span has used cost nothing, and they can be given back. Zeroes
            // are a free slot.
            let mapped = mmap(
                nil, count * SpanSlot.slotBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
            if let mapped, mapped != MAP_FAILED {
                memory = mapped
            } else {
                // Telemetry does not end a program: what this thread makes is dropped and counted.
                count = 0
                dropReason = .limit
            }
        }
        let slab = UnsafeMutablePointer<SpanSlab>.allocate(capacity: 1)
        slab.initialize(
            to: SpanSlab(
                owner: collector.id, slots: memory, slotCount: count, limits: limits, dropReason: dropReason,
                collector: collector))
        return slab
    }

    /// Where a slab without slots points: one that is live for ever.
    private nonisolated(unsafe) static let emptyRing: UnsafeMutableRawPointer = {
        let slot = UnsafeMutableRawPointer.allocate(byteCount: SpanSlot.headBytes, alignment: 8)
        slot.initializeMemory(as: UInt8.self, repeating: 0, count: SpanSlot.headBytes)
        SpanSlot.state(slot.assumingMemoryBound(to: SpanSlot.self)).store(SpanSlot.live)
        return slot
    }()

    private init(
        owner: UInt64, slots: UnsafeMutableRawPointer, slotCount: Int, limits: SpanLimits,
        dropReason: SpanLedger.DropReason, collector: SpanCollector
    ) {
        self.owner = owner
        self.slots = slots
        slotMask = UInt32(max(1, slotCount) - 1)
        probes = slotCount == 0 ? 0 : UInt32(Self.maxProbes)
        wakeMask = slotMask >> 1
        // The short form takes at most one attribute for each bit of the filter.
        let isShortAllowed = limits.attributeValueLength == nil && limits.attributeCount >= UInt64.bitWidth
        shortLimit = isShortAllowed ? SpanSlot.slotBytes - SpanSlot.reservedBytes : 0
        shared = .allocate(byteCount: SharedWord.bytes, alignment: 64)
        shared.initializeMemory(as: UInt8.self, repeating: 0, count: SharedWord.bytes)
        ids = IDGenerator()
        seed = ids.next()
        self.limits = limits
        self.dropReason = dropReason
        self.collector = .passUnretained(collector)
    }

    /// The SDK is gone. The slab itself stays, since handles of spans that never ended still point into it, and threads
    /// still know it; its pages are given back. Handles find another use count then, and do nothing.
    static func retire(_ slab: UnsafeMutablePointer<SpanSlab>) {
        slab.pointee.owner = 0
        for index in 0..<slotCount(slab) { SpanSlot.releaseExtras(slot(slab, index)) }
        madvise(slab.pointee.slots, slotCount(slab) * SpanSlot.slotBytes, MADV_DONTNEED)
    }

    static func slotCount(_ slab: UnsafeMutablePointer<SpanSlab>) -> Int {
        slab.pointee.probes == 0 ? 0 : Int(slab.pointee.slotMask) + 1
    }

    static func slot(_ slab: UnsafeMutablePointer<SpanSlab>, _ index: Int) -> UnsafeMutablePointer<SpanSlot> {
        (slab.pointee.slots + index * SpanSlot.slotBytes).assumingMemoryBound(to: SpanSlot.self)
    }

    @inlinable @inline(__always)
    static func published(_ slab: UnsafeMutablePointer<SpanSlab>) -> UnsafeAtomic32 {
        UnsafeAtomic32(slab.pointee.shared + SharedWord.next)
    }

    static func ownership(_ slab: UnsafeMutablePointer<SpanSlab>) -> UnsafeAtomic32 {
        UnsafeAtomic32(slab.pointee.shared + SharedWord.ownership)
    }

    /// A free slot, made live, and its word; nil when there is none, which is counted.
    @inline(__always)
    static func claim(
        _ slab: UnsafeMutablePointer<SpanSlab>
    ) -> (slot: UnsafeMutablePointer<SpanSlot>, word: UInt32)? {
        let next = published(slab)
        let index = next.load()
        let slot = slot(slab, Int(index & slab.pointee.slotMask))
        let word = SpanSlot.state(slot).load()
        guard word & 3 == SpanSlot.free, index & slab.pointee.wakeMask != 0 else { return claimSlow(slab) }
        SpanSlot.state(slot).store(word &+ SpanSlot.nextUse)
        next.store(index &+ 1)
        return (slot, word &+ SpanSlot.nextUse)
    }

    @inline(never)
    private static func claimSlow(
        _ slab: UnsafeMutablePointer<SpanSlab>
    ) -> (slot: UnsafeMutablePointer<SpanSlot>, word: UInt32)? {
        if let claimed = claimProbing(slab) { return claimed }
        if slab.pointee.probes > 0 {
            slab.pointee.collector._withUnsafeGuaranteedRef { $0.relieve(slab) }
            if let claimed = claimProbing(slab) { return claimed }
        }
        bump(slab, .dropped)
        return nil
    }

    private static func claimProbing(
        _ slab: UnsafeMutablePointer<SpanSlab>
    ) -> (slot: UnsafeMutablePointer<SpanSlot>, word: UInt32)? {
        let mask = slab.pointee.slotMask
        for _ in 0..<slab.pointee.probes {
            let index = published(slab).load()
            let slot = slot(slab, Int(index & mask))
            // At half the ring, so that there is time to gather.
            if index & (mask >> 1) == 0 { slab.pointee.collector._withUnsafeGuaranteedRef { $0.wake() } }
            let word = SpanSlot.state(slot).load()
            if word & 3 == SpanSlot.free { SpanSlot.state(slot).store(word &+ SpanSlot.nextUse) }
            published(slab).store(index &+ 1)
            if word & 3 == SpanSlot.free { return (slot, word &+ SpanSlot.nextUse) }
        }
        return nil
    }

    @inlinable @inline(__always) @discardableResult
    static func bump(_ slab: UnsafeMutablePointer<SpanSlab>, _ counter: Counter) -> UInt64 {
        UnsafeCounter(slab.pointee.shared + counter.rawValue).bump()
    }

    static func add(_ slab: UnsafeMutablePointer<SpanSlab>, _ counter: Counter, _ count: UInt64) {
        UnsafeCounter(slab.pointee.shared + counter.rawValue).add(count)
    }

    static func read(_ slab: UnsafeMutablePointer<SpanSlab>, _ counter: Counter) -> UInt64 {
        UnsafeCounter(slab.pointee.shared + counter.rawValue).read()
    }
}
