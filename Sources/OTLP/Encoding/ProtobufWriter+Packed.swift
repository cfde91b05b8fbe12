/// The field types that metrics and logs need beside those of spans.
extension ProtobufWriter {
    /// `sint32`: zigzag.
    mutating func signed(field: UInt32, _ value: Int32) {
        varint(field: field, UInt64(UInt32(bitPattern: value << 1 ^ value >> 31)))
    }

    mutating func packedFixed64(field: UInt32, _ values: [UInt64]) {
        guard !values.isEmpty else { return }
        let bytes = values.flatMap { value in withUnsafeBytes(of: value.littleEndian) { Array($0) } }
        data(field: field, bytes)
    }

    mutating func packedVarint(field: UInt32, _ values: [UInt64]) {
        guard !values.isEmpty else { return }
        let size = values.reduce(0) { $0 + Wire.varintBytes($1) }
        let bytes = [UInt8](unsafeUninitializedCapacity: size) { buffer, count in
            guard let start = UnsafeMutableRawPointer(buffer.baseAddress) else { return }
            var place = start
            for value in values { place = Wire.varint(value, at: place) }
            count = place - start
        }
        data(field: field, bytes)
    }

    /// An id, most significant byte first.
    mutating func bigEndian(field: UInt32, _ words: UInt64...) {
        data(field: field, words.flatMap { word in withUnsafeBytes(of: word.bigEndian) { Array($0) } })
    }
}
