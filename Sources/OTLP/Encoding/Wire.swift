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
        (70 - (value | 1).leadingZeroBitCount) / 7
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
}
