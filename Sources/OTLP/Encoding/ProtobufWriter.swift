/// Builds a protobuf message in a growing buffer, for what is not on a hot path.
public struct ProtobufWriter {
    public private(set) var bytes: [UInt8] = []

    public init() {}

    public mutating func varint(field: UInt32, _ value: UInt64) {
        tag(field, 0)
        varint(value)
    }

    public mutating func fixed64(field: UInt32, _ value: UInt64) {
        tag(field, 1)
        withUnsafeBytes(of: value.littleEndian) { bytes.append(contentsOf: $0) }
    }

    public mutating func fixed32(field: UInt32, _ value: UInt32) {
        tag(field, 5)
        withUnsafeBytes(of: value.littleEndian) { bytes.append(contentsOf: $0) }
    }

    public mutating func data(field: UInt32, _ value: some Collection<UInt8>) {
        tag(field, 2)
        varint(UInt64(value.count))
        bytes.append(contentsOf: value)
    }

    public mutating func string(field: UInt32, _ value: String) {
        data(field: field, value.utf8)
    }

    public mutating func message(field: UInt32, _ body: (inout ProtobufWriter) -> Void) {
        var inner = ProtobufWriter()
        body(&inner)
        data(field: field, inner.bytes)
    }

    /// Fields that are encoded already.
    mutating func raw(_ encoded: some Collection<UInt8>) { bytes.append(contentsOf: encoded) }

    private mutating func tag(_ field: UInt32, _ type: UInt64) { varint(UInt64(field) << 3 | type) }

    private mutating func varint(_ value: UInt64) {
        var value = value
        while value >= 0x80 {
            bytes.append(UInt8(truncatingIfNeeded: value) | 0x80)
            value >>= 7
        }
        bytes.append(UInt8(truncatingIfNeeded: value))
    }
}
