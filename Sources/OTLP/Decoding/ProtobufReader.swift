/// A bounds-checked cursor over protobuf wire format; it never allocates and never reads outside its bytes.
///
/// The bytes must outlive the reader. Offsets in errors count from `origin`, so a reader for a nested message still
/// reports positions in the whole one. Format: https://protobuf.dev/programming-guides/encoding/
public struct ProtobufReader {
    /// Groups (wire types 3 and 4) deeper than this are refused.
    public static let maxGroupDepth = 32

    @usableFromInline let origin: UnsafeRawPointer
    @usableFromInline var cursor: UnsafeRawPointer
    @usableFromInline let end: UnsafeRawPointer

    public init(_ bytes: UnsafeRawBufferPointer) {
        // A zero-length buffer may have no address; any valid pointer serves, since nothing is read through it.
        let start = bytes.baseAddress ?? ProtobufReader.nowhere
        self.init(origin: start, start: start, end: start + bytes.count)
    }

    @usableFromInline
    init(origin: UnsafeRawPointer, start: UnsafeRawPointer, end: UnsafeRawPointer) {
        self.origin = origin
        self.cursor = start
        self.end = end
    }

    nonisolated(unsafe) private static let nowhere = UnsafeRawPointer(
        UnsafeMutableRawPointer.allocate(byteCount: 8, alignment: 8))

    @inlinable public var isAtEnd: Bool { @inline(__always) get { cursor == end } }
    @inlinable public var offset: Int { cursor - origin }
    @inlinable public var remaining: Int { end - cursor }

    @inlinable
    func failure(_ code: OTLPDecodingError.Code, _ cause: StaticString) -> OTLPDecodingError {
        OTLPDecodingError(code: code, offset: cursor - origin, cause: cause)
    }

    /// Bits beyond the 64th are dropped, as the official decoders do; more than ten bytes are malformed.
    @inlinable @inline(__always)
    public mutating func varint() throws(OTLPDecodingError) -> UInt64 {
        guard cursor < end else { throw failure(.truncated, "a varint ends here") }
        let first = cursor.load(as: UInt8.self)
        if first < 0x80 {
            cursor += 1
            return UInt64(first)
        }
        if end - cursor >= 2 {
            let second = cursor.load(fromByteOffset: 1, as: UInt8.self)
            if second < 0x80 {
                cursor += 2
                return UInt64(first & 0x7F) | UInt64(second) << 7
            }
        }
        return try longVarint()
    }

    @inline(never) @usableFromInline
    mutating func longVarint() throws(OTLPDecodingError) -> UInt64 {
        var value: UInt64 = 0
        var shift: UInt64 = 0
        var at = cursor
        while shift < 70 {
            guard at < end else { throw failure(.truncated, "a varint ends here") }
            let byte = at.load(as: UInt8.self)
            at += 1
            value |= UInt64(byte & 0x7F) << shift
            if byte < 0x80 {
                cursor = at
                return value
            }
            shift += 7
        }
        throw failure(.malformed, "a varint of more than ten bytes")
    }

    @inlinable @inline(__always)
    public mutating func fixed64() throws(OTLPDecodingError) -> UInt64 {
        guard end - cursor >= 8 else { throw failure(.truncated, "a 64-bit value ends here") }
        let value = cursor.loadUnaligned(as: UInt64.self)
        cursor += 8
        return UInt64(littleEndian: value)
    }

    @inlinable @inline(__always)
    public mutating func fixed32() throws(OTLPDecodingError) -> UInt32 {
        guard end - cursor >= 4 else { throw failure(.truncated, "a 32-bit value ends here") }
        let value = cursor.loadUnaligned(as: UInt32.self)
        cursor += 4
        return UInt32(littleEndian: value)
    }

    /// Field number and wire type, as they stand on the wire: `number << 3 | type`.
    @inlinable @inline(__always)
    public mutating func tag() throws(OTLPDecodingError) -> UInt64 {
        let value = try varint()
        // Numbers are 1 to 2^29 - 1, so a tag is 8 to 2^32 - 1.
        guard value >= 8, value <= 0xFFFF_FFFF else { throw failure(.malformed, "a field number out of range") }
        return value
    }

    /// The bytes of a length-delimited field.
    @inlinable @inline(__always)
    public mutating func bytes() throws(OTLPDecodingError) -> UnsafeRawBufferPointer {
        let length = try varint()
        guard length <= UInt64(end - cursor) else { throw failure(.truncated, "a length runs past the end") }
        let start = cursor
        cursor += Int(length)
        return UnsafeRawBufferPointer(start: start, count: Int(length))
    }

    /// A reader for the nested message at the cursor.
    @inlinable @inline(__always)
    public mutating func message() throws(OTLPDecodingError) -> ProtobufReader {
        let field = try bytes()
        let start = field.baseAddress ?? cursor
        return ProtobufReader(origin: origin, start: start, end: start + field.count)
    }

    /// Passes over the value that belongs to `tag`.
    @inlinable @inline(__always)
    public mutating func skip(_ tag: UInt64) throws(OTLPDecodingError) {
        if tag & 7 == 2 {
            _ = try bytes()
        } else {
            try skipOther(tag, depth: 0)
        }
    }

    @inline(never) @usableFromInline
    mutating func skipOther(_ tag: UInt64, depth: Int) throws(OTLPDecodingError) {
        switch tag & 7 {
        case 0: _ = try varint()
        case 1: _ = try fixed64()
        case 2: _ = try bytes()
        case 5: _ = try fixed32()
        case 3:
            guard depth < ProtobufReader.maxGroupDepth else { throw failure(.tooDeep, "groups nested too deeply") }
            while true {
                let inner = try self.tag()
                if inner & 7 == 4 {
                    guard inner >> 3 == tag >> 3 else { throw failure(.malformed, "a group ends under another number") }
                    return
                }
                try skipOther(inner, depth: depth + 1)
            }
        default: throw failure(.malformed, "an unknown wire type")
        }
    }
}
