import Glibc
import OTLP
import Synchronization

/// A span that was started. A handle of a few words: copying it copies no span, and starting, describing and ending one
/// allocates nothing.
///
/// One task at a time describes a span; any thread may end it. What is set after the end is ignored, and so is a second
/// end. A span that is not sampled has a valid context, with the sampled flag off, and ignores everything else. Where
/// nothing is exported at all, a span has its parent's context.
public struct Span: Sendable {
    public let context: SpanContext
    @usableFromInline nonisolated(unsafe) let slot: UnsafeMutablePointer<SpanSlot>?
    /// The slot's word while this span is live.
    @usableFromInline let word: UInt32
    @usableFromInline let name: StaticString
    @usableFromInline let limits: SpanLimits

    @inlinable
    init(
        context: SpanContext, slot: UnsafeMutablePointer<SpanSlot>?, word: UInt32, name: StaticString,
        limits: SpanLimits
    ) {
        self.context = context
        self.slot = slot
        self.word = word
        self.name = name
        self.limits = limits
    }

    /// Whether what is set on this span goes anywhere.
    @inlinable public var isRecording: Bool {
        guard let slot else { return false }
        return SpanSlot.state(slot).load(ordering: .relaxed) == word
    }

    // MARK: Attributes

    @inlinable
    public func setAttribute(_ key: StaticString, _ value: StaticString) {
        let bytes = UnsafeBufferPointer(start: value.utf8Start, count: value.utf8CodeUnitCount)
        setBytes(key.utf8Start, key.utf8CodeUnitCount, 0x0A, value.utf8Start, limits.cut(bytes))
    }

    // A literal is a StaticString, which is copied without being looked at.
    @inlinable @_disfavoredOverload
    public func setAttribute(_ key: StaticString, _ value: String) {
        guard slot != nil else { return }
        var value = value
        value.withUTF8 { bytes in
            setAttribute(key, utf8: bytes)
        }
    }

    /// A string value that is known to be UTF-8.
    @inlinable
    public func setAttribute(_ key: StaticString, utf8 bytes: UnsafeBufferPointer<UInt8>) {
        // Empty bytes may have no address.
        let base = bytes.baseAddress ?? key.utf8Start
        setBytes(key.utf8Start, key.utf8CodeUnitCount, 0x0A, base, limits.cut(bytes))
    }

    /// A `bytes` value.
    @inlinable
    public func setAttribute(_ key: StaticString, bytes: UnsafeBufferPointer<UInt8>) {
        let base = bytes.baseAddress ?? key.utf8Start
        let count = min(bytes.count, limits.attributeValueLength ?? bytes.count)
        setBytes(key.utf8Start, key.utf8CodeUnitCount, 0x3A, base, count)
    }

    @inlinable
    public func setAttribute(_ key: StaticString, _ value: Int64) {
        setNumber(key.utf8Start, key.utf8CodeUnitCount, 0x18, UInt64(bitPattern: value))
    }

    @inlinable
    public func setAttribute(_ key: StaticString, _ value: Int) { setAttribute(key, Int64(value)) }

    @inlinable
    public func setAttribute(_ key: StaticString, _ value: Bool) {
        setNumber(key.utf8Start, key.utf8CodeUnitCount, 0x10, value ? 1 : 0)
    }

    @inlinable
    public func setAttribute(_ key: StaticString, _ value: Double) {
        setDouble(key.utf8Start, key.utf8CodeUnitCount, value)
    }

    /// Any value under a key that is not known at compile time. Allocates.
    @_disfavoredOverload
    public func setAttribute(_ key: String, _ value: AnyValue) {
        guard slot != nil, !key.isEmpty else { return }
        var writer = ProtobufWriter()
        limits.cut(value).encode(into: &writer)
        var key = key
        key.withUTF8 { key in
            guard let base = key.baseAddress else { return }
            writer.bytes.withUnsafeBytes { value in
                guard
                    let place = begin(
                        base, key.count, valueBytes: value.count, reserve: value.count + 10)
                else { return }
                let after = value.baseAddress.map { Wire.copy($0, count: value.count, to: place) } ?? place
                finish(after)
            }
        }
    }

    /// Appends `KeyValue{key, AnyValue{tag: bytes}}` as field 9 of the span.
    @inlinable
    func setBytes(
        _ key: UnsafePointer<UInt8>, _ keyCount: Int, _ tag: UInt8, _ value: UnsafePointer<UInt8>, _ count: Int
    ) {
        let valueBytes = 1 + Wire.varintBytes(UInt64(count)) + count
        guard var place = begin(key, keyCount, valueBytes: valueBytes, reserve: valueBytes) else { return }
        place = Wire.byte(tag, at: place)
        place = Wire.varint(UInt64(count), at: place)
        finish(Wire.copy(value, count: count, to: place))
    }

    @inlinable
    func setNumber(_ key: UnsafePointer<UInt8>, _ keyCount: Int, _ tag: UInt8, _ value: UInt64) {
        let valueBytes = 1 + Wire.varintBytes(value)
        guard var place = begin(key, keyCount, valueBytes: valueBytes, reserve: valueBytes) else { return }
        place = Wire.byte(tag, at: place)
        finish(Wire.varint(value, at: place))
    }

    @inlinable
    func setDouble(_ key: UnsafePointer<UInt8>, _ keyCount: Int, _ value: Double) {
        guard var place = begin(key, keyCount, valueBytes: 9, reserve: 9) else { return }
        place = Wire.byte(0x21, at: place)
        finish(Wire.fixed64(value.bitPattern, at: place))
    }

    /// Writes the attribute up to its value, and returns where the value goes; nil when there is no place for it.
    @inlinable
    func begin(
        _ key: UnsafePointer<UInt8>, _ keyCount: Int, valueBytes: Int, reserve: Int
    ) -> UnsafeMutableRawPointer? {
        guard let slot, SpanSlot.state(slot).load(ordering: .relaxed) == word, keyCount > 0 else { return nil }
        let bit = UInt64(1) << ((UInt64(keyCount) &* 31 &+ UInt64(key[0]) &* 7 &+ UInt64(key[keyCount &- 1])) & 63)
        if slot.pointee.keyFilter & bit != 0 {
            SpanFields.removeAttribute(slot, key, keyCount)
        }
        let keyValue = 1 + Wire.varintBytes(UInt64(keyCount)) + keyCount + 1 + Wire.varintBytes(UInt64(valueBytes))
        let needed = 1 + Wire.varintBytes(UInt64(keyValue + valueBytes)) + keyValue + reserve
        guard Int(slot.pointee.attributeCount) < limits.attributeCount,
            Int(slot.pointee.count) &+ needed <= SpanSlot.capacity(slot) &- SpanFields.reservedBytes
                || SpanFields.spill(slot, needed: needed)
        else {
            slot.pointee.droppedAttributes &+= 1
            return nil
        }
        slot.pointee.keyFilter |= bit
        slot.pointee.attributeCount &+= 1
        var place = SpanSlot.bytes(slot) + Int(slot.pointee.count)
        place = Wire.byte(0x4A, at: place)
        place = Wire.varint(UInt64(keyValue + valueBytes), at: place)
        place = Wire.byte(0x0A, at: place)
        place = Wire.varint(UInt64(keyCount), at: place)
        place = Wire.copy(key, count: keyCount, to: place)
        place = Wire.byte(0x12, at: place)
        return Wire.varint(UInt64(valueBytes), at: place)
    }

    @inlinable @inline(__always)
    func finish(_ place: UnsafeMutableRawPointer) {
        guard let slot else { return }
        slot.pointee.count = Int32(truncatingIfNeeded: place - SpanSlot.bytes(slot))
    }

    // MARK: Status, events and the end

    /// `ok` is final; `unset` changes nothing. A message is kept for `error` only.
    public func setStatus(_ code: StatusCode, _ message: String = "") {
        guard let slot, isRecording, slot.pointee.statusCode != StatusCode.ok.rawValue, code != .unset else { return }
        slot.pointee.statusCode = code.rawValue
        slot.pointee.statusMessage?.deallocate()
        slot.pointee.statusMessage = nil
        slot.pointee.statusMessageCount = 0
        guard code == .error, !message.isEmpty else { return }
        let bytes = Array(message.utf8)
        let count = bytes.withUnsafeBufferPointer { SpanFields.wholeCharacters($0, in: SpanFields.maxMessageBytes) }
        let copy = UnsafeMutablePointer<UInt8>.allocate(capacity: count)
        for index in 0..<count { copy[index] = bytes[index] }
        slot.pointee.statusMessage = copy
        slot.pointee.statusMessageCount = UInt16(count)
    }

    /// Something that happened during the span. `Span.events`, field 11: 1 time, 2 name, 3 attributes. Allocates.
    public func addEvent(_ name: String, at instant: Instant = Clock.now(), attributes: [KeyValue] = []) {
        let isAppended = append(field: 11) { event in
            event.fixed64(field: 1, instant.unixNano)
            event.string(field: 2, name)
            for attribute in attributes { event.message(field: 3) { limits.cut(attribute).encode(into: &$0) } }
        }
        if !isAppended { slot?.pointee.droppedEvents &+= 1 }
    }

    /// A span of another trace that this one belongs to. `Span.links`, field 13: 1 trace, 2 span, 3 state, 4
    /// attributes, 6 flags. Allocates.
    public func addLink(_ linked: SpanContext, attributes: [KeyValue] = []) {
        let isAppended = append(field: 13) { link in
            link.data(field: 1, Self.bigEndian(linked.traceID.high) + Self.bigEndian(linked.traceID.low))
            link.data(field: 2, Self.bigEndian(linked.spanID.rawValue))
            if let state = linked.traceState { link.string(field: 3, state.description) }
            for attribute in attributes { link.message(field: 4) { limits.cut(attribute).encode(into: &$0) } }
            link.fixed32(field: 6, UInt32(linked.traceFlags.rawValue) | 0x100 | (linked.isRemote ? 0x200 : 0))
        }
        if !isAppended { slot?.pointee.droppedLinks &+= 1 }
    }

    /// An exception event by OpenTelemetry's conventions. The status is the caller's to set.
    public func recordError(_ error: any Error, at instant: Instant = Clock.now()) {
        addEvent(
            "exception", at: instant,
            attributes: [
                KeyValue("exception.type", .string("\(type(of: error))")),
                KeyValue("exception.message", .string("\(error)")),
            ])
    }

    /// False when the span has no place for it.
    private func append(field: UInt32, _ body: (inout ProtobufWriter) -> Void) -> Bool {
        guard let slot, isRecording else { return true }
        var writer = ProtobufWriter()
        writer.message(field: field, body)
        let count = writer.bytes.count
        guard
            Int(slot.pointee.count) + count <= SpanSlot.capacity(slot) - SpanFields.reservedBytes
                || SpanFields.spill(slot, needed: count)
        else { return false }
        writer.bytes.withUnsafeBytes { bytes in
            guard let base = bytes.baseAddress else { return }
            finish(Wire.copy(base, count: count, to: SpanSlot.bytes(slot) + Int(slot.pointee.count)))
        }
        return true
    }

    private static func bigEndian(_ value: UInt64) -> [UInt8] { withUnsafeBytes(of: value.bigEndian) { Array($0) } }

    /// Ends the span: it is encoded and waits for the collector. A time before the start counts as the start.
    @inlinable
    public func end(at instant: Instant? = nil) {
        end(name: UnsafeBufferPointer(start: name.utf8Start, count: name.utf8CodeUnitCount), at: instant)
    }

    /// The same under another name, for names that are known only at run time. 96 bytes of it are kept.
    public func end(name: String, at instant: Instant? = nil) {
        var name = name
        name.withUTF8 { end(name: $0, at: instant) }
    }

    @inlinable @inline(__always)
    func end(name: UnsafeBufferPointer<UInt8>, at instant: Instant?) {
        guard let slot, SpanSlot.state(slot).exchange(from: word, to: word & ~3 | SpanSlot.ending) else { return }
        let end = (instant ?? Clock.now()).unixNano
        SpanFields.encode(slot, context, name, endUnixNano: max(end, slot.pointee.startUnixNano))
        SpanSlot.state(slot).store(word | SpanSlot.ended, ordering: .releasing)
    }
}

/// How much a span may hold.
public struct SpanLimits: Sendable, Equatable {
    /// `OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT`.
    public var attributeCount = 128
    /// `OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT`, in characters, or in bytes for a `bytes` value; nil for no
    /// limit but the span's size.
    public var attributeValueLength: Int?

    public init() {}

    /// Bytes to keep of a valid UTF-8 text: never a part of a character.
    @inlinable
    func cut(_ bytes: UnsafeBufferPointer<UInt8>) -> Int {
        guard let attributeValueLength, bytes.count > attributeValueLength else { return bytes.count }
        return cutSlow(bytes, attributeValueLength)
    }

    @usableFromInline
    func cutSlow(_ bytes: UnsafeBufferPointer<UInt8>, _ limit: Int) -> Int {
        var characters = 0
        for index in bytes.indices where bytes[index] & 0xC0 != 0x80 {
            if characters == limit { return index }
            characters += 1
        }
        return bytes.count
    }

    /// Recursively, as the specification says.
    func cut(_ value: AnyValue) -> AnyValue {
        guard let limit = attributeValueLength else { return value }
        switch value {
        case .string(let text): return .string(String(text.unicodeScalars.prefix(limit)))
        case .bytes(let bytes): return .bytes(Array(bytes.prefix(limit)))
        case .array(let values): return .array(values.map { cut($0) })
        case .keyValueList(let values): return .keyValueList(values.map { cut($0) })
        default: return value
        }
    }

    func cut(_ attribute: KeyValue) -> KeyValue { KeyValue(attribute.key, cut(attribute.value)) }
}

/// Encoded fields in a slot.
@usableFromInline
enum SpanFields {
    /// Kept free for the fields that `encode` appends, but for the name, the trace state and the status message: those
    /// are added where they are known.
    @usableFromInline static let reservedBytes = 208
    /// Longest name that fits the reserve.
    @usableFromInline static let maxNameBytes = 96
    static let maxMessageBytes = 1_024
    static let maxSpanBytes = 64 * 1024

    /// How many bytes of valid UTF-8 fit `limit` without a part of a character.
    @inlinable
    static func wholeCharacters(_ bytes: UnsafeBufferPointer<UInt8>, in limit: Int) -> Int {
        guard bytes.count > limit else { return bytes.count }
        var count = limit
        while count > 0, bytes[count] & 0xC0 == 0x80 { count -= 1 }
        return count
    }

    /// `Span`: 1 trace_id, 2 span_id, 3 trace_state, 4 parent_span_id, 5 name, 6 kind, 7 start, 8 end, 10
    /// dropped_attributes_count, 12 dropped_events_count, 14 dropped_links_count, 15 status{2 message, 3
    /// code}, 16 flags.
    @inlinable
    static func encode(
        _ slot: UnsafeMutablePointer<SpanSlot>, _ context: SpanContext, _ name: UnsafeBufferPointer<UInt8>,
        endUnixNano: UInt64
    ) {
        let dropped = slot.pointee.droppedAttributes | slot.pointee.droppedEvents | slot.pointee.droppedLinks
        let isSpecial = slot.pointee.statusCode != 0 || context.traceState != nil || dropped != 0
        var place = SpanSlot.bytes(slot) + Int(slot.pointee.count)
        place = Wire.byte(0x0A, at: place)
        place = Wire.byte(16, at: place)
        place = Wire.bigEndian64(context.traceID.high, at: place)
        place = Wire.bigEndian64(context.traceID.low, at: place)
        place = Wire.byte(0x12, at: place)
        place = Wire.byte(8, at: place)
        place = Wire.bigEndian64(context.spanID.rawValue, at: place)
        if slot.pointee.parentSpanID != 0 {
            place = Wire.byte(0x22, at: place)
            place = Wire.byte(8, at: place)
            place = Wire.bigEndian64(slot.pointee.parentSpanID, at: place)
        }
        let nameCount = wholeCharacters(name, in: maxNameBytes)
        place = Wire.byte(0x2A, at: place)
        place = Wire.byte(UInt8(truncatingIfNeeded: nameCount), at: place)
        if let start = name.baseAddress { place = Wire.copy(start, count: nameCount, to: place) }
        place = Wire.byte(0x30, at: place)
        place = Wire.byte(slot.pointee.kind, at: place)
        place = Wire.byte(0x39, at: place)
        place = Wire.fixed64(slot.pointee.startUnixNano, at: place)
        place = Wire.byte(0x41, at: place)
        place = Wire.fixed64(endUnixNano, at: place)
        // Field 16 has a tag of two bytes.
        place = Wire.byte(0x85, at: place)
        place = Wire.byte(0x01, at: place)
        let remote: UInt32 = slot.pointee.isParentRemote ? 0x300 : 0x100
        place = Wire.fixed32(UInt32(context.traceFlags.rawValue) | remote, at: place)
        slot.pointee.count = Int32(truncatingIfNeeded: place - SpanSlot.bytes(slot))
        if isSpecial { encodeRare(slot, context) }
    }

    @usableFromInline
    static func encodeRare(_ slot: UnsafeMutablePointer<SpanSlot>, _ context: SpanContext) {
        var writer = ProtobufWriter()
        if slot.pointee.droppedAttributes != 0 {
            writer.varint(field: 10, UInt64(slot.pointee.droppedAttributes))
        }
        if slot.pointee.droppedEvents != 0 { writer.varint(field: 12, UInt64(slot.pointee.droppedEvents)) }
        if slot.pointee.droppedLinks != 0 { writer.varint(field: 14, UInt64(slot.pointee.droppedLinks)) }
        if let state = context.traceState { writer.string(field: 3, state.description) }
        if slot.pointee.statusCode != 0 {
            writer.message(field: 15) { status in
                if let message = slot.pointee.statusMessage {
                    status.data(
                        field: 2, UnsafeBufferPointer(start: message, count: Int(slot.pointee.statusMessageCount)))
                }
                status.varint(field: 3, UInt64(slot.pointee.statusCode))
            }
        }
        let count = writer.bytes.count
        // These few are taken also beyond the largest span: they are bounded themselves.
        if Int(slot.pointee.count) + count > SpanSlot.capacity(slot) { grow(slot, needed: count) }
        writer.bytes.withUnsafeBytes { bytes in
            guard let base = bytes.baseAddress else { return }
            _ = Wire.copy(base, count: count, to: SpanSlot.bytes(slot) + Int(slot.pointee.count))
            slot.pointee.count += Int32(count)
        }
    }

    /// Moves the fields to the heap, with room for `needed` more; false beyond the largest span.
    @usableFromInline
    static func spill(_ slot: UnsafeMutablePointer<SpanSlot>, needed: Int) -> Bool {
        guard Int(slot.pointee.count) + needed + reservedBytes <= maxSpanBytes else { return false }
        grow(slot, needed: needed)
        return true
    }

    private static func grow(_ slot: UnsafeMutablePointer<SpanSlot>, needed: Int) {
        let count = Int(slot.pointee.count)
        let capacity = (count + needed + reservedBytes) * 2
        let larger = UnsafeMutableRawPointer.allocate(byteCount: capacity, alignment: 8)
        larger.copyMemory(from: SpanSlot.bytes(slot), byteCount: count)
        slot.pointee.spill?.deallocate()
        slot.pointee.spill = larger
        slot.pointee.spillCapacity = Int32(capacity)
    }

    /// Takes the attribute with that key out, if it is there: the last value set is the one that counts.
    @usableFromInline
    static func removeAttribute(_ slot: UnsafeMutablePointer<SpanSlot>, _ key: UnsafePointer<UInt8>, _ keyCount: Int) {
        let start = SpanSlot.bytes(slot)
        let end = start + Int(slot.pointee.count)
        var place = start
        while place < end {
            let field = place
            let tag = readVarint(&place)
            let length = Int(readVarint(&place))
            let next = place + length
            // KeyValue begins with its key, since this library wrote it.
            if tag == 0x4A, place.load(as: UInt8.self) == 0x0A {
                var inner = place + 1
                let count = Int(readVarint(&inner))
                if count == keyCount, memcmp(inner, key, keyCount) == 0 {
                    memmove(field, next, end - next)
                    slot.pointee.count -= Int32(next - field)
                    slot.pointee.attributeCount -= 1
                    return
                }
            }
            place = next
        }
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
}
