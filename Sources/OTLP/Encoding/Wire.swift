/// Writes protobuf wire format onto raw memory that is known to be large enough. Each function returns the place after
/// what it wrote. Format: https://protobuf.dev/programming-guides/encoding/
public enum Wire {
    /// Most bytes of a varint.
    public static let maxVarintBytes = 10

    @inlinable @inline(__always)
    public static func varint(_ value: UInt64, at place: UnsafeMutableRawPointer) -> UnsafeMutableRawPointer {
        var place = place
        var value = value
        while value >= 0x80 {
            place.storeBytes(of: UInt8(truncatingIfNeeded: value) | 0x80, as: UInt8.self)
            place += 1
            value >>= 7
        }
        place.storeBytes(of: UInt8(truncatingIfNeeded: value), as: UInt8.self)
        return place + 1
    }

    @inlinable @inline(__always)
    public static func varintBytes(_ value: UInt64) -> Int {
        // ⌈bits ÷ 7⌉ for 1 to 64 bits, without a division.
        ((64 &- (value | 1).leadingZeroBitCount) &* 9 &+ 64) &>> 6
    }

    /// A varint of `count` bytes as one word, where up to 8 bytes may be written over behind it.
    @inlinable @inline(__always)
    public static func varintInWords(_ value: UInt64, count: Int, at place: UnsafeMutableRawPointer) {
        guard value < 1 << 28 else {
            _ = varint(value, at: place)
            return
        }
        // Seven bits to each byte, and the sign that more follows on all but the last.
        var word = UInt32(truncatingIfNeeded: value)
        word = (word & 0x0FFF_C000) << 2 | word & 0x3FFF
        word = (word & 0x3F80_3F80) << 1 | word & 0x007F_007F
        word |= 0x8080_8080 & ((1 &<< UInt32(truncatingIfNeeded: (count &- 1) &* 8)) &- 1)
        place.storeBytes(of: word.littleEndian, as: UInt32.self)
    }

    @inlinable @inline(__always)
    public static func byte(_ value: UInt8, at place: UnsafeMutableRawPointer) -> UnsafeMutableRawPointer {
        place.storeBytes(of: value, as: UInt8.self)
        return place + 1
    }

    @inlinable @inline(__always)
    public static func fixed32(_ value: UInt32, at place: UnsafeMutableRawPointer) -> UnsafeMutableRawPointer {
        place.storeBytes(of: value.littleEndian, as: UInt32.self)
        return place + 4
    }

    @inlinable @inline(__always)
    public static func fixed64(_ value: UInt64, at place: UnsafeMutableRawPointer) -> UnsafeMutableRawPointer {
        place.storeBytes(of: value.littleEndian, as: UInt64.self)
        return place + 8
    }

    /// As ids stand on the wire: most significant byte first.
    @inlinable @inline(__always)
    public static func bigEndian64(_ value: UInt64, at place: UnsafeMutableRawPointer) -> UnsafeMutableRawPointer {
        place.storeBytes(of: value.bigEndian, as: UInt64.self)
        return place + 8
    }

    @inlinable @inline(__always)
    public static func copy(
        _ source: UnsafeRawPointer, count: Int, to place: UnsafeMutableRawPointer
    ) -> UnsafeMutableRawPointer {
        place.copyMemory(from: source, byteCount: count)
        return place + count
    }

    /// The same for a few bytes, without a call: nothing beside them is touched.
    @inlinable @inline(__always)
    public static func copyShort(
        _ source: UnsafePointer<UInt8>, count: Int, to place: UnsafeMutableRawPointer
    ) {
        let from = UnsafeRawPointer(source)
        if count >= 16 {
            var at = 0
            while at &+ 16 <= count {
                copy16(from + at, to: place + at)
                at &+= 16
            }
            // The last 16, which may overlap what is there already.
            copy16(from + (count &- 16), to: place + (count &- 16))
        } else if count >= 8 {
            let low = from.loadUnaligned(as: UInt64.self)
            let high = from.loadUnaligned(fromByteOffset: count &- 8, as: UInt64.self)
            place.storeBytes(of: low, as: UInt64.self)
            place.storeBytes(of: high, toByteOffset: count &- 8, as: UInt64.self)
        } else if count >= 4 {
            let low = from.loadUnaligned(as: UInt32.self)
            let high = from.loadUnaligned(fromByteOffset: count &- 4, as: UInt32.self)
            place.storeBytes(of: low, as: UInt32.self)
            place.storeBytes(of: high, toByteOffset: count &- 4, as: UInt32.self)
        } else if count > 0 {
            let last = count &- 1
            place.storeBytes(of: source[0], as: UInt8.self)
            place.storeBytes(of: source[count &>> 1], toByteOffset: count &>> 1, as: UInt8.self)
            place.storeBytes(of: source[last], toByteOffset: last, as: UInt8.self)
        }
    }

    @inlinable @inline(__always)
    static func copy16(_ source: UnsafeRawPointer, to place: UnsafeMutableRawPointer) {
        place.storeBytes(of: source.loadUnaligned(as: SIMD2<UInt64>.self), as: SIMD2<UInt64>.self)
    }
}
