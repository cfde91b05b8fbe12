/// Rows of the journal are packed: differences to the one before, as LEB128 numbers (7 bits a byte, the lowest first).
struct PackedWriter {
    private(set) var bytes: [UInt8] = []

    mutating func append(_ value: UInt64) {
        var rest = value
        while rest >= 0x80 {
            bytes.append(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest >>= 7
        }
        bytes.append(UInt8(truncatingIfNeeded: rest))
    }

    /// Small for differences of either sign.
    mutating func append(_ value: UInt64, since base: UInt64) {
        let difference = Int64(bitPattern: value &- base)
        append(UInt64(bitPattern: (difference << 1) ^ (difference >> 63)))
    }

    mutating func append(_ text: String) {
        append(UInt64(text.utf8.count))
        bytes.append(contentsOf: text.utf8)
    }
}

/// Reads what `PackedWriter` wrote; nil at the end and where the bytes make no sense.
struct PackedReader {
    private let bytes: UnsafeRawBufferPointer
    private var place = 0

    init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

    var isAtEnd: Bool { place == bytes.count }

    mutating func next() -> UInt64? {
        var value: UInt64 = 0
        var shift: UInt64 = 0
        while place < bytes.count, shift < 64 {
            let byte = bytes[place]
            place += 1
            value |= UInt64(byte & 0x7F) << shift
            if byte < 0x80 { return value }
            shift += 7
        }
        return nil
    }

    mutating func next(since base: UInt64) -> UInt64? {
        guard let value = next() else { return nil }
        return base &+ ((value >> 1) ^ (0 &- (value & 1)))
    }

    mutating func nextText() -> String? {
        guard let count = next(), count <= UInt64(bytes.count - place) else { return nil }
        defer { place += Int(count) }
        return String(decoding: bytes[place..<(place + Int(count))], as: UTF8.self)
    }
}
