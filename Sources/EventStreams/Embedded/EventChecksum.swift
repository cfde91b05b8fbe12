/// A 64-bit checksum of a stored event's fields, against damage, not against an adversary.
///
/// Every step is a bijection of the state for a given word and of the word for a given state, so damage confined to
/// one 8-byte word is always noticed, other damage all but once in 2^64.
struct EventChecksum {
    private var state: UInt64 = 0x6973_6f74_6865_726d

    mutating func add(_ word: UInt64) {
        let mixed = (state ^ word) &* 0x9e37_79b9_7f4a_7c15
        state = mixed << 29 | mixed >> 35
    }

    /// A length of `nil` (an absent field) differs from an empty one.
    mutating func add(_ bytes: UnsafeRawBufferPointer?) {
        guard let bytes else { return add(UInt64.max) }
        add(UInt64(bytes.count))
        var index = 0
        while index &+ 8 <= bytes.count {
            add(UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: index, as: UInt64.self)))
            index &+= 8
        }
        if index < bytes.count {
            var word: UInt64 = 0
            var shift: UInt64 = 0
            while index < bytes.count {
                word |= UInt64(bytes[index]) << shift
                shift &+= 8
                index &+= 1
            }
            add(word)
        }
    }

    var value: UInt64 {
        var result = state
        result ^= result >> 32
        result = result &* 0xd6e8_feb8_6659_fd93
        return result ^ result >> 32
    }
}
