import Glibc
import OTLP

/// What few spans need: long values, keys that are set again, events, links, status, and spans that outgrow their slot.
extension SpanFields {
    static let maxMessageBytes = 1_024
    static let maxNameBytes = 1_024

    /// How many bytes of valid UTF-8 fit `limit` without a part of a character.
    static func wholeCharacters(_ bytes: UnsafeBufferPointer<UInt8>, in limit: Int) -> Int {
        guard bytes.count > limit else { return bytes.count }
        var count = limit
        while count > 0, bytes[count] & 0xC0 == 0x80 { count -= 1 }
        return count
    }

    // MARK: Attributes

    @usableFromInline @inline(never)
    static func setSlow(
        _ slot: UnsafeMutablePointer<SpanSlot>, _ word: UInt32, _ key: UnsafePointer<UInt8>, _ keyCount: Int,
        _ tag: UInt32, _ value: UnsafePointer<UInt8>, _ count: Int
    ) {
        guard SpanSlot.state(slot).load() == word else { return }
        let limits = slot.pointee.slab.pointee.limits
        let all = UnsafeBufferPointer(start: value, count: count)
        let kept = tag == string ? limits.cut(all) : min(count, limits.attributeValueLength ?? count)
        let valueBytes = 1 + Wire.varintBytes(UInt64(kept)) + kept
        guard let place = beginAttribute(slot, key, keyCount, valueBytes: valueBytes) else { return }
        let after = Wire.varint(UInt64(kept), at: Wire.byte(UInt8(tag), at: place))
        slot.pointee.write = Wire.copy(value, count: kept, to: after)
    }

    @usableFromInline @inline(never)
    static func setSlow(
        _ slot: UnsafeMutablePointer<SpanSlot>, _ word: UInt32, _ key: UnsafePointer<UInt8>, _ keyCount: Int,
        _ value: String
    ) {
        withBytes(value) { setSlow(slot, word, key, keyCount, string, $0.baseAddress ?? key, $0.count) }
    }

    @usableFromInline @inline(never)
    static func setSlow(
        _ slot: UnsafeMutablePointer<SpanSlot>, _ word: UInt32, _ key: UnsafePointer<UInt8>, _ keyCount: Int,
        _ tag: UInt32, _ value: UInt64
    ) {
        guard SpanSlot.state(slot).load() == word,
            let place = beginAttribute(slot, key, keyCount, valueBytes: 1 + Wire.varintBytes(value))
        else { return }
        slot.pointee.write = Wire.varint(value, at: Wire.byte(UInt8(tag), at: place))
    }

    @usableFromInline @inline(never)
    static func setSlow(
        _ slot: UnsafeMutablePointer<SpanSlot>, _ word: UInt32, _ key: UnsafePointer<UInt8>, _ keyCount: Int,
        double value: Double
    ) {
        guard SpanSlot.state(slot).load() == word,
            let place = beginAttribute(slot, key, keyCount, valueBytes: 9)
        else { return }
        slot.pointee.write = Wire.fixed64(value.bitPattern, at: Wire.byte(UInt8(float), at: place))
    }

    static func set(_ slot: UnsafeMutablePointer<SpanSlot>, _ key: String, _ value: AnyValue) {
        var writer = ProtobufWriter()
        slot.pointee.slab.pointee.limits.cut(value).encode(into: &writer)
        var key = key
        key.withUTF8 { key in
            guard let base = key.baseAddress,
                let place = beginAttribute(slot, base, key.count, valueBytes: writer.bytes.count)
            else { return }
            slot.pointee.write = copy(writer.bytes, to: place)
        }
    }

    /// Writes an attribute up to its value, and returns where the value goes; nil when there is no place for it.
    private static func beginAttribute(
        _ slot: UnsafeMutablePointer<SpanSlot>, _ key: UnsafePointer<UInt8>, _ keyCount: Int, valueBytes: Int
    ) -> UnsafeMutableRawPointer? {
        guard keyCount > 0 else { return nil }
        let bit = keyBit(key, keyCount)
        if slot.pointee.keyFilter & bit != 0 { removeAttribute(slot, key, keyCount) }
        let slab = slot.pointee.slab
        let keyValue = 1 + Wire.varintBytes(UInt64(keyCount)) + keyCount + 1 + Wire.varintBytes(UInt64(valueBytes))
        let needed = 1 + Wire.varintBytes(UInt64(keyValue + valueBytes)) + keyValue + valueBytes
        let attributeCount = slot.pointee.keyFilter.nonzeroBitCount + Int(slot.pointee.furtherAttributes)
        guard attributeCount < slab.pointee.limits.attributeCount, makeRoom(slot, needed) else {
            SpanSlot.extras(slot).droppedAttributes &+= 1
            return nil
        }
        if slot.pointee.keyFilter & bit != 0 { slot.pointee.furtherAttributes += 1 }
        slot.pointee.keyFilter |= bit
        var place = Wire.byte(0x4A, at: slot.pointee.write)
        place = Wire.varint(UInt64(keyValue + valueBytes), at: place)
        place = Wire.varint(UInt64(keyCount), at: Wire.byte(0x0A, at: place))
        place = Wire.copy(key, count: keyCount, to: place)
        return Wire.varint(UInt64(valueBytes), at: Wire.byte(0x12, at: place))
    }

    /// Takes the attribute with that key out, if it is there: the last value set is the one that counts.
    private static func removeAttribute(
        _ slot: UnsafeMutablePointer<SpanSlot>, _ key: UnsafePointer<UInt8>, _ keyCount: Int
    ) {
        let isRemoved = removeField(slot, tag: 0x4A) { value in
            // KeyValue begins with its key, since this library wrote it.
            var place = value + 1
            return readVarint(&place) == UInt64(keyCount) && memcmp(place, key, keyCount) == 0
        }
        if isRemoved { slot.pointee.furtherAttributes -= 1 }
    }

    private static func removeName(_ slot: UnsafeMutablePointer<SpanSlot>) {
        _ = removeField(slot, tag: 0x2A) { _ in true }
    }

    /// Removes the first field with that tag, which is of the kind that has a length, and for whose value the closure
    /// says so.
    private static func removeField(
        _ slot: UnsafeMutablePointer<SpanSlot>, tag wanted: UInt64, where isIt: (UnsafeMutableRawPointer) -> Bool
    ) -> Bool {
        var place = SpanSlot.bytes(slot)
        while place < slot.pointee.write {
            let field = place
            let tag = readVarint(&place)
            switch tag & 7 {
            case 0: _ = readVarint(&place)
            case 1: place += 8
            case 5: place += 4
            default:
                let length = Int(readVarint(&place))
                let next = place + length
                if tag == wanted, isIt(place) {
                    memmove(field, next, slot.pointee.write - next)
                    slot.pointee.write -= next - field
                    return true
                }
                place = next
            }
        }
        return false
    }

    private static func readVarint(_ place: inout UnsafeMutableRawPointer) -> UInt64 {
        var value: UInt64 = 0
        var shift: UInt64 = 0
        while true {
            let byte = place.load(as: UInt8.self)
            place += 1
            value |= UInt64(byte & 0x7F) << shift
            if byte < 0x80 { return value }
            shift += 7
        }
    }

    // MARK: Name, events and links

    /// Writes the name of a span that has none.
    static func writeName(_ slot: UnsafeMutablePointer<SpanSlot>, _ name: String) {
        withBytes(name) { bytes in
            if let start = bytes.baseAddress { writeName(slot, start, bytes.count) }
        }
    }

    /// The first 1,024 bytes of it, without a part of a character.
    @usableFromInline @inline(never)
    static func writeName(_ slot: UnsafeMutablePointer<SpanSlot>, _ name: UnsafePointer<UInt8>, _ nameCount: Int) {
        let count = wholeCharacters(UnsafeBufferPointer(start: name, count: nameCount), in: maxNameBytes)
        let needed = 1 + Wire.varintBytes(UInt64(count)) + count
        if slot.pointee.write + needed > limit(slot) { grow(slot, needed) }
        let place = Wire.varint(UInt64(count), at: Wire.byte(0x2A, at: slot.pointee.write))
        slot.pointee.write = Wire.copy(name, count: count, to: place)
    }

    static func rename(_ slot: UnsafeMutablePointer<SpanSlot>, _ name: String) {
        removeName(slot)
        writeName(slot, name)
    }

    /// `Span.events`, field 11: 1 time, 2 name, 3 attributes, 4 dropped_attributes_count.
    static func addEvent(
        _ slot: UnsafeMutablePointer<SpanSlot>, _ name: String, _ instant: Instant, _ attributes: [KeyValue]
    ) {
        let extras = SpanSlot.extras(slot)
        let limits = slot.pointee.slab.pointee.limits
        guard extras.eventCount < limits.eventCount else {
            extras.droppedEvents &+= 1
            return
        }
        let (kept, dropped) = limits.cut(attributes, count: limits.attributesPerEvent)
        let isAppended = append(slot, field: 11) { event in
            event.fixed64(field: 1, instant.unixNano)
            event.string(field: 2, name)
            for attribute in kept { event.message(field: 3) { attribute.encode(into: &$0) } }
            if dropped > 0 { event.varint(field: 4, UInt64(dropped)) }
        }
        if isAppended { extras.eventCount += 1 } else { extras.droppedEvents &+= 1 }
    }

    /// `Span.links`, field 13: 1 trace, 2 span, 3 state, 4 attributes, 5 dropped_attributes_count, 6 flags.
    static func addLink(_ slot: UnsafeMutablePointer<SpanSlot>, _ linked: SpanContext, _ attributes: [KeyValue]) {
        // The specification lets invalid contexts be linked for their attributes or state; empty links say nothing.
        guard linked.isValid || linked.traceState != nil || !attributes.isEmpty else { return }
        let extras = SpanSlot.extras(slot)
        let limits = slot.pointee.slab.pointee.limits
        guard extras.linkCount < limits.linkCount else {
            extras.droppedLinks &+= 1
            return
        }
        let (kept, dropped) = limits.cut(attributes, count: limits.attributesPerLink)
        let isAppended = append(slot, field: 13) { link in
            // Ids that are all zero are never exported.
            if linked.isValid {
                link.data(field: 1, bigEndian(linked.traceID.high) + bigEndian(linked.traceID.low))
                link.data(field: 2, bigEndian(linked.spanID.rawValue))
            }
            if let state = linked.traceState { link.string(field: 3, state.description) }
            for attribute in kept { link.message(field: 4) { attribute.encode(into: &$0) } }
            if dropped > 0 { link.varint(field: 5, UInt64(dropped)) }
            link.fixed32(field: 6, UInt32(linked.traceFlags.rawValue) | 0x100 | (linked.isRemote ? 0x200 : 0))
        }
        if isAppended { extras.linkCount += 1 } else { extras.droppedLinks &+= 1 }
    }

    /// False when the span has no place for it.
    private static func append(
        _ slot: UnsafeMutablePointer<SpanSlot>, field: UInt32, _ body: (inout ProtobufWriter) -> Void
    ) -> Bool {
        var writer = ProtobufWriter()
        writer.message(field: field, body)
        guard makeRoom(slot, writer.bytes.count) else { return false }
        slot.pointee.write = copy(writer.bytes, to: slot.pointee.write)
        return true
    }

    private static func bigEndian(_ value: UInt64) -> [UInt8] { withUnsafeBytes(of: value.bigEndian) { Array($0) } }

    private static func copy(_ bytes: [UInt8], to place: UnsafeMutableRawPointer) -> UnsafeMutableRawPointer {
        bytes.withUnsafeBytes { source in
            source.baseAddress.map { Wire.copy($0, count: source.count, to: place) } ?? place
        }
    }

    // MARK: The end

    /// `Span`: 8 end, 10 dropped_attributes_count, 12 dropped_events_count, 14 dropped_links_count, 3
    /// trace_state, 15 status{2 message, 3 code}.
    @inline(never)
    static func finishRare(
        _ slot: UnsafeMutablePointer<SpanSlot>, _ traceState: TraceState?, _ endUnixNano: UInt64
    ) {
        let extras = slot.pointee.extras?.takeUnretainedValue()
        let startUnixNano = UInt64(
            littleEndian: SpanSlot.bytes(slot).loadUnaligned(fromByteOffset: SpanSlot.startOffset, as: UInt64.self))
        var writer = ProtobufWriter()
        writer.fixed64(field: 8, max(endUnixNano, startUnixNano))
        if let traceState { writer.string(field: 3, traceState.description) }
        if let extras {
            if extras.droppedAttributes > 0 { writer.varint(field: 10, UInt64(extras.droppedAttributes)) }
            if extras.droppedEvents > 0 { writer.varint(field: 12, UInt64(extras.droppedEvents)) }
            if extras.droppedLinks > 0 { writer.varint(field: 14, UInt64(extras.droppedLinks)) }
            if extras.statusCode != .unset {
                writer.message(field: 15) { status in
                    if !extras.statusMessage.isEmpty { status.data(field: 2, extras.statusMessage) }
                    status.varint(field: 3, UInt64(extras.statusCode.rawValue))
                }
            }
        }
        // These few are taken also beyond the largest span: they are bounded themselves.
        if slot.pointee.write + writer.bytes.count > limit(slot) + SpanSlot.reservedBytes {
            grow(slot, writer.bytes.count)
        }
        let after = copy(writer.bytes, to: slot.pointee.write)
        slot.pointee.count = UInt32(after - SpanSlot.bytes(slot))
    }

    // MARK: Room

    /// Where attributes, events and links have to end.
    private static func limit(_ slot: UnsafeMutablePointer<SpanSlot>) -> UnsafeMutableRawPointer {
        slot.pointee.extras?.takeUnretainedValue().spillLimit
            ?? UnsafeMutableRawPointer(slot) + (SpanSlot.slotBytes - SpanSlot.reservedBytes)
    }

    /// False beyond the largest span.
    private static func makeRoom(_ slot: UnsafeMutablePointer<SpanSlot>, _ needed: Int) -> Bool {
        if slot.pointee.write + needed <= limit(slot) { return true }
        let count = slot.pointee.write - SpanSlot.bytes(slot)
        guard count + needed + SpanSlot.reservedBytes <= slot.pointee.slab.pointee.limits.spanBytes else {
            return false
        }
        grow(slot, needed)
        return true
    }

    /// Moves the fields to the heap, with room for `needed` more and the end.
    private static func grow(_ slot: UnsafeMutablePointer<SpanSlot>, _ needed: Int) {
        let old = SpanSlot.bytes(slot)
        let count = slot.pointee.write - old
        let capacity = (count + needed + SpanSlot.reservedBytes) * 2
        let larger = UnsafeMutableRawPointer.allocate(byteCount: capacity, alignment: 8)
        larger.copyMemory(from: old, byteCount: count)
        let extras = SpanSlot.extras(slot)
        extras.spill?.deallocate()
        extras.spill = larger
        slot.pointee.write = larger + count
        let allowed = min(capacity, slot.pointee.slab.pointee.limits.spanBytes)
        let limit = larger + max(0, allowed - SpanSlot.reservedBytes)
        extras.spillLimit = limit
        if slot.pointee.slab.pointee.shortLimit > 0 { slot.pointee.shortLimit = limit }
    }
}
