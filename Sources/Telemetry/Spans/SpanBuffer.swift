import OTLP

/// Spans on their way into a request: field 2 of `ScopeSpans`, one after the other, with room before them for what a
/// request begins with. A few words without an owner, which the collector fills in place and then gives to a `Batch`.
struct SpanBuffer {
    private(set) var storage: UnsafeMutableRawPointer?
    private(set) var capacity = 0
    /// Where the spans begin.
    private(set) var itemsStart = 0
    private(set) var itemCount = 0
    private var place = Self.nowhere
    /// Not open, there is no room.
    private var limit = Self.nowhere
    /// A batch with more bytes than its most ends here.
    private var fullAt = Self.nowhere

    private nonisolated(unsafe) static let nowhere = UnsafeMutableRawPointer.allocate(byteCount: 1, alignment: 1)

    /// Bytes of tag and length, of which those up to `itemsStart` are known to be there.
    static let overhead = 1 + Wire.maxVarintBytes

    var isOpen: Bool { storage != nil }
    /// Bytes up to the last span's end.
    var end: Int { storage.map { place - $0 } ?? 0 }

    mutating func open(_ envelope: BatchEnvelope, maxBytes: Int) {
        itemsStart = envelope.maxBytes
        capacity = max(BatchBuffers.bufferBytes, itemsStart)
        let start =
            capacity == BatchBuffers.bufferBytes
            ? BatchBuffers.take() : UnsafeMutableRawPointer.allocate(byteCount: capacity, alignment: 8)
        storage = start
        place = start + itemsStart
        limit = start + capacity
        fullAt = start + itemsStart + maxBytes
        itemCount = 0
    }

    /// False where it is not open, or has to grow.
    @inline(__always)
    mutating func appendInRoom(_ span: UnsafeRawPointer, count: Int) -> Bool {
        guard place + (count &+ Self.overhead) <= limit else { return false }
        place = Self.write(span, count: count, at: place)
        itemCount &+= 1
        return true
    }

    /// Tag, length and span.
    @inline(__always)
    static func write(
        _ span: UnsafeRawPointer, count: Int, at place: UnsafeMutableRawPointer
    ) -> UnsafeMutableRawPointer {
        var at = Wire.byte(0x12, at: place)
        if count >= 0x80, count < 0x4000 {
            at.storeBytes(
                of: UInt16(truncatingIfNeeded: count & 0x7F | 0x80 | (count &>> 7) &<< 8).littleEndian, as: UInt16.self)
            at += 2
        } else {
            at = Wire.varint(UInt64(truncatingIfNeeded: count), at: at)
        }
        return Wire.copy(span, count: count, to: at)
    }

    mutating func append(_ block: SpanBlock) {
        if place + block.bytes > limit { grow(block.bytes) }
        place = Wire.copy(UnsafeRawPointer(block.memory.baseAddress.unsafelyUnwrapped), count: block.bytes, to: place)
        itemCount += block.count
    }

    mutating func append(_ span: UnsafeRawPointer, count: Int) {
        if !appendInRoom(span, count: count) { appendGrowing(span, count) }
    }

    @inline(__always)
    func isFull(_ maxItems: Int) -> Bool { itemCount >= maxItems || place >= fullAt }

    @inline(never)
    private mutating func appendGrowing(_ span: UnsafeRawPointer, _ count: Int) {
        guard isOpen else { return }
        grow(Self.overhead + count)
        append(span, count: count)
    }

    private mutating func grow(_ bytes: Int) {
        guard let storage else { return }
        let end = end
        let larger = (end + bytes) * 2
        let moved = UnsafeMutableRawPointer.allocate(byteCount: larger, alignment: 8)
        moved.copyMemory(from: storage, byteCount: end)
        BatchBuffers.release(storage, capacity: capacity)
        self.storage = moved
        capacity = larger
        fullAt = moved + (fullAt - storage)
        place = moved + end
        limit = moved + larger
    }

    /// The batch owns the bytes from now on.
    mutating func close(_ envelope: BatchEnvelope) -> Batch? {
        guard let storage, itemCount > 0 else { return nil }
        let batch = Batch(
            envelope: envelope, storage: storage, capacity: capacity, itemsStart: itemsStart, end: end,
            itemCount: itemCount)
        self = SpanBuffer()
        return batch
    }

    mutating func discard() {
        if let storage { BatchBuffers.release(storage, capacity: capacity) }
        self = SpanBuffer()
    }
}
