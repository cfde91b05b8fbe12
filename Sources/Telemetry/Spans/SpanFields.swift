import Glibc
import OTLP

/// Writes a span's OTLP fields into its slot: what is on the hot path. See `SpanSlot` for their order.
///
/// An attribute is field 9 of the span:
///
///     4A length  KeyValue{ 0A length key  12 length AnyValue{ tag value } }
///
/// In the short form, which nearly all attributes have, every length is one byte.
@usableFromInline
enum SpanFields {
    // Tags of AnyValue: 1 string_value, 2 bool_value, 3 int_value, 4 double_value, 7 bytes_value.
    @usableFromInline static let string: UInt32 = 0x0A
    @usableFromInline static let boolean: UInt32 = 0x10
    @usableFromInline static let integer: UInt32 = 0x18
    @usableFromInline static let float: UInt32 = 0x21
    @usableFromInline static let data: UInt32 = 0x3A

    /// Bytes of `KeyValue` around key and value.
    @usableFromInline static let overhead = 6

    // MARK: Start and end

    /// Makes a claimed slot ready.
    @inline(__always)
    static func begin(
        _ slot: UnsafeMutablePointer<SpanSlot>, _ slab: UnsafeMutablePointer<SpanSlab>, _ span: Span,
        wireParent: UInt64, isParentRemote: Bool, kind: SpanKind, scope: UInt16, startUnixNano: UInt64
    ) {
        let start = SpanSlot.inlineBytes(slot)
        // 1 trace_id, 2 span_id
        start.storeBytes(of: 0x100A, as: UInt16.self)
        start.storeBytes(of: span.wireHigh, toByteOffset: 2, as: UInt64.self)
        start.storeBytes(of: span.wireLow, toByteOffset: 10, as: UInt64.self)
        start.storeBytes(of: 0x0812, toByteOffset: 18, as: UInt16.self)
        start.storeBytes(of: span.wireID, toByteOffset: SpanSlot.spanIDOffset, as: UInt64.self)
        // 7 start_time_unix_nano
        start.storeBytes(of: 0x39, toByteOffset: 28, as: UInt8.self)
        start.storeBytes(of: startUnixNano.littleEndian, toByteOffset: SpanSlot.startOffset, as: UInt64.self)
        // 6 kind, 16 flags: 0x100 says that 0x200, a remote parent, is known.
        let kindAndTag = UInt32(kind.rawValue) << 8 | 0x0185_0030
        start.storeBytes(of: kindAndTag.littleEndian, toByteOffset: 37, as: UInt32.self)
        let flags = UInt32(span.flags) | (isParentRemote ? 0x300 : 0x100)
        start.storeBytes(of: flags.littleEndian, toByteOffset: 41, as: UInt32.self)
        var place = start + 45
        if wireParent != 0 {
            // 4 parent_span_id
            place.storeBytes(of: 0x0822, as: UInt16.self)
            place.storeBytes(of: wireParent, toByteOffset: 2, as: UInt64.self)
            place += 10
        }
        slot.pointee.write = place
        slot.pointee.shortLimit = UnsafeMutableRawPointer(slot) + slab.pointee.shortLimit
        slot.pointee.keyFilter = 0
        slot.pointee.furtherAttributes = 0
        slot.pointee.scope = scope
        slot.pointee.isRecordOnly = false
        slot.pointee.slab = slab
    }

    /// What one slot's spans share: what stood there at some moment, to which it can be taken back.
    struct Shared {
        private let write: UnsafeMutableRawPointer
        private let keyFilter: UInt64
        private let furtherAttributes: Int32

        init(_ slot: UnsafeMutablePointer<SpanSlot>) {
            write = slot.pointee.write
            keyFilter = slot.pointee.keyFilter
            furtherAttributes = slot.pointee.furtherAttributes
        }

        /// The same again under another id.
        @inline(__always)
        func begin(_ slot: UnsafeMutablePointer<SpanSlot>, wireID: UInt64) {
            SpanSlot.inlineBytes(slot).storeBytes(of: wireID, toByteOffset: SpanSlot.spanIDOffset, as: UInt64.self)
            slot.pointee.write = write
            slot.pointee.keyFilter = keyFilter
            slot.pointee.furtherAttributes = furtherAttributes
        }
    }

    /// 5 name, of a span that has nothing behind its start yet.
    @inlinable @inline(__always)
    static func name(_ slot: UnsafeMutablePointer<SpanSlot>, _ name: StaticString) {
        let count = name.utf8CodeUnitCount
        guard count <= SpanSlot.maxShortName else { return writeName(slot, name.utf8Start, count) }
        let place = slot.pointee.write
        place.storeBytes(of: (0x2A | UInt16(truncatingIfNeeded: count) << 8).littleEndian, as: UInt16.self)
        Wire.copyShort(name.utf8Start, count: count, to: place + 2)
        slot.pointee.write = place + (count &+ 2)
    }

    /// Ends a span without a trace state: appends what is known at the end, and lets the collector have it.
    @usableFromInline @inline(never)
    static func end(_ slot: UnsafeMutablePointer<SpanSlot>, _ word: UInt32, _ endUnixNano: UInt64) {
        let state = SpanSlot.state(slot)
        guard state.exchange(from: word, to: word &+ (SpanSlot.ending - SpanSlot.live)) else { return }
        finish(slot, nil, endUnixNano)
        state.store(word &+ (SpanSlot.ended - SpanSlot.live))
    }

    @usableFromInline @inline(never)
    static func end(
        _ slot: UnsafeMutablePointer<SpanSlot>, _ word: UInt32, _ endUnixNano: UInt64, _ traceState: TraceState
    ) {
        let state = SpanSlot.state(slot)
        guard state.exchange(from: word, to: word &+ (SpanSlot.ending - SpanSlot.live)) else { return }
        finish(slot, traceState, endUnixNano)
        state.store(word &+ (SpanSlot.ended - SpanSlot.live))
    }

    @inline(__always)
    static func finish(_ slot: UnsafeMutablePointer<SpanSlot>, _ traceState: TraceState?, _ endUnixNano: UInt64) {
        guard slot.pointee.extras == nil, traceState == nil else {
            return finishRare(slot, traceState, endUnixNano)
        }
        let start = SpanSlot.inlineBytes(slot)
        let startUnixNano = UInt64(
            littleEndian: start.loadUnaligned(fromByteOffset: SpanSlot.startOffset, as: UInt64.self))
        let place = slot.pointee.write
        // 8 end_time_unix_nano
        place.storeBytes(of: 0x41, as: UInt8.self)
        place.storeBytes(of: max(endUnixNano, startUnixNano).littleEndian, toByteOffset: 1, as: UInt64.self)
        slot.pointee.count = UInt32(truncatingIfNeeded: place + 9 - start)
    }

    // MARK: Attributes

    /// A string or bytes.
    @inlinable @inline(__always)
    static func set(
        _ slot: UnsafeMutablePointer<SpanSlot>, _ word: UInt32, _ key: UnsafePointer<UInt8>, _ keyCount: Int,
        _ tag: UInt32, _ value: UnsafePointer<UInt8>, _ count: Int
    ) {
        guard
            let place = short(slot, word, key, keyCount, valueCount: count &+ 2, body: keyCount &+ count &+ overhead)
        else { return setSlow(slot, word, key, keyCount, tag, value, count) }
        place.storeBytes(
            of: (UInt32(truncatingIfNeeded: count) << 24 | tag << 16
                | UInt32(truncatingIfNeeded: count &+ 2) << 8 | 0x12).littleEndian, as: UInt32.self)
        Wire.copyShort(value, count: count, to: place + 4)
        slot.pointee.write = place + (4 &+ count)
    }

    /// A string. The key, which is mostly a literal, is written in place; the value by a call, since its two forms are
    /// much code.
    @inlinable @inline(__always)
    static func set(
        _ slot: UnsafeMutablePointer<SpanSlot>, _ word: UInt32, _ key: UnsafePointer<UInt8>, _ keyCount: Int,
        _ value: String
    ) {
        let count = value.utf8.count
        guard
            let place = short(slot, word, key, keyCount, valueCount: count &+ 2, body: keyCount &+ count &+ overhead)
        else { return setSlow(slot, word, key, keyCount, value) }
        place.storeBytes(
            of: (UInt32(truncatingIfNeeded: count) << 24 | string << 16
                | UInt32(truncatingIfNeeded: count &+ 2) << 8 | 0x12).littleEndian, as: UInt32.self)
        slot.pointee.write = place + (4 &+ count)
        copy(value, to: place + 4)
    }

    @usableFromInline @inline(never)
    static func copy(_ value: String, to place: UnsafeMutableRawPointer) {
        withBytes(value) { bytes in
            // Empty bytes may have no address.
            if let start = bytes.baseAddress { Wire.copyShort(start, count: bytes.count, to: place) }
        }
    }

    /// A text's bytes. A variable of one's own, which `String.withUTF8` wants, would be retained and released.
    @inline(__always)
    static func withBytes(_ text: String, _ body: (UnsafeBufferPointer<UInt8>) -> Void) {
        if text.utf8.withContiguousStorageIfAvailable(body) != nil { return }
        var text = text
        text.withUTF8(body)
    }

    /// A number as a varint.
    @inlinable @inline(__always)
    static func set(
        _ slot: UnsafeMutablePointer<SpanSlot>, _ word: UInt32, _ key: UnsafePointer<UInt8>, _ keyCount: Int,
        _ tag: UInt32, _ value: UInt64
    ) {
        let count = Wire.varintBytes(value)
        guard
            let place = short(slot, word, key, keyCount, valueCount: count &+ 1, body: keyCount &+ count &+ 5)
        else { return setSlow(slot, word, key, keyCount, tag, value) }
        place.storeBytes(
            of: (tag << 16 | UInt32(truncatingIfNeeded: count &+ 1) << 8 | 0x12).littleEndian, as: UInt32.self)
        slot.pointee.write = place + (3 &+ count)
        // The words may reach beyond, into what is kept free.
        Wire.varintInWords(value, count: count, at: place + 3)
    }

    @inlinable @inline(__always)
    static func set(
        _ slot: UnsafeMutablePointer<SpanSlot>, _ word: UInt32, _ key: UnsafePointer<UInt8>, _ keyCount: Int,
        double value: Double
    ) {
        guard let place = short(slot, word, key, keyCount, valueCount: 9, body: keyCount &+ 13)
        else { return setSlow(slot, word, key, keyCount, double: value) }
        place.storeBytes(of: (float << 16 | 0x0912).littleEndian, as: UInt32.self)
        place.storeBytes(of: value.bitPattern.littleEndian, toByteOffset: 3, as: UInt64.self)
        slot.pointee.write = place + 11
    }

    /// Writes an attribute in its short form up to the value, and returns where the value's field begins; nil when the
    /// short form does not do. `body` counts the bytes of `KeyValue`.
    @inlinable @inline(__always)
    static func short(
        _ slot: UnsafeMutablePointer<SpanSlot>, _ word: UInt32, _ key: UnsafePointer<UInt8>, _ keyCount: Int,
        valueCount: Int, body: Int
    ) -> UnsafeMutableRawPointer? {
        guard SpanSlot.state(slot).load() == word, keyCount > 0, body < 128 else { return nil }
        let bit = keyBit(key, keyCount)
        let place = slot.pointee.write
        guard slot.pointee.keyFilter & bit == 0, place + (body &+ 2) <= slot.pointee.shortLimit else { return nil }
        slot.pointee.keyFilter |= bit
        place.storeBytes(
            of: (UInt32(truncatingIfNeeded: keyCount) << 24 | 0x000A_0000
                | UInt32(truncatingIfNeeded: body) << 8 | 0x4A).littleEndian, as: UInt32.self)
        Wire.copyShort(key, count: keyCount, to: place + 4)
        return place + (4 &+ keyCount)
    }

    @inlinable @inline(__always)
    static func keyBit(_ key: UnsafePointer<UInt8>, _ keyCount: Int) -> UInt64 {
        let hash = UInt64(truncatingIfNeeded: keyCount) &* 31 &+ UInt64(key[0]) &* 7 &+ UInt64(key[keyCount &- 1])
        return 1 &<< hash
    }
}
