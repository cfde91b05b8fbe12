import OTLP

/// Spans on their way into a request: field 2 of `ScopeSpans`, one after the other, with room before them for what a
/// request begins with. A few words without an owner, which the collector fills in place and then gives to a `Batch`.
struct SpanBuffer {
    private(set) var storage: UnsafeMutableRawPointer?
    private(set) var capacity = 0
    /// Where the spans begin.
    private(set) var itemsStart = 0
    private(set) var itemCount = 0
    private var place: UnsafeMutableRawPointer?
    private var limit: UnsafeMutableRawPointer?

    /// Bytes of tag and length, of which those up to `itemsStart` are known to be there.
    private static let overhead = 1 + Wire.maxVarintBytes

    var isOpen: Bool { storage != nil }
    /// Bytes up to the last span's end.
    var end: Int { storage.flatMap { start in place.map { $0 - start } } ?? 0 }
    var byteCount: Int { end - itemsStart }

    mutating func open(_ envelope: BatchEnvelope) {
        itemsStart = envelope.maxBytes
        capacity = max(BatchBuffers.bufferBytes, itemsStart)
        let start =
            capacity == BatchBuffers.bufferBytes
            ? BatchBuffers.take() : UnsafeMutableRawPointer.allocate(byteCount: capacity, alignment: 8)
        storage = start
        place = start + itemsStart
        limit = start + capacity
        itemCount = 0
    }

    @inline(__always)
    mutating func append(_ span: UnsafeRawPointer, count: Int) {
        guard var at = place, let limit, at + (count &+ Self.overhead) <= limit else {
            return appendGrowing(span, count)
        }
        at = Wire.byte(0x12, at: at)
        at = Wire.varint(UInt64(truncatingIfNeeded: count), at: at)
        place = Wire.copy(span, count: count, to: at)
        itemCount &+= 1
    }

    @inline(never)
    private mutating func appendGrowing(_ span: UnsafeRawPointer, _ count: Int) {
        guard let storage else { return }
        let end = end
        let larger = (end + Self.overhead + count) * 2
        let moved = UnsafeMutableRawPointer.allocate(byteCount: larger, alignment: 8)
        moved.copyMemory(from: storage, byteCount: end)
        BatchBuffers.release(storage, capacity: capacity)
        self.storage = moved
        capacity = larger
        place = moved + end
        limit = moved + larger
        append(span, count: count)
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
