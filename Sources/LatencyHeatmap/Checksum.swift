/// CRC-32C (Castagnoli), as iSCSI and ext4 use it: RFC 3720, appendix B.4 has test vectors.
enum Checksum {
    /// Eight tables, for eight bytes at a time.
    nonisolated(unsafe) private static let tables: UnsafePointer<UInt32> = {
        let tables = UnsafeMutablePointer<UInt32>.allocate(capacity: 8 * 256)
        for byte in 0..<256 {
            var value = UInt32(byte)
            for _ in 0..<8 { value = value & 1 == 1 ? value >> 1 ^ 0x82F6_3B78 : value >> 1 }
            tables[byte] = value
        }
        for table in 1..<8 {
            for byte in 0..<256 {
                let before = tables[(table - 1) * 256 + byte]
                tables[table * 256 + byte] = before >> 8 ^ tables[Int(before & 0xFF)]
            }
        }
        return UnsafePointer(tables)
    }()

    static func crc32c(_ bytes: UnsafeRawBufferPointer) -> UInt32 {
        let tables = tables
        var crc = UInt32.max
        var at = 0
        guard let start = bytes.baseAddress else { return 0 }
        while at &+ 8 <= bytes.count {
            let word = UInt64(littleEndian: start.loadUnaligned(fromByteOffset: at, as: UInt64.self)) ^ UInt64(crc)
            crc = 0
            for byte in 0..<8 {
                crc ^= tables[(7 &- byte) &* 256 &+ Int(word >> UInt64(byte &* 8) & 0xFF)]
            }
            at &+= 8
        }
        while at < bytes.count {
            crc = crc >> 8 ^ tables[Int((crc ^ UInt32(start.load(fromByteOffset: at, as: UInt8.self))) & 0xFF)]
            at &+= 1
        }
        return ~crc
    }
}
