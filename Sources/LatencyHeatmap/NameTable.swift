/// Names that get small numbers in the order in which they appear, up to a limit; the rest share number 0.
///
/// An open-addressing table over the names' bytes: a name that is known is found without building a `String`.
struct NameTable {
    /// What number 0 is called.
    static let overflowName = "(other)"

    private(set) var names: [String] = [NameTable.overflowName]
    private var bytes: [[UInt8]] = [[]]
    /// Power of two; 0 is free, otherwise number.
    private var slots: [UInt32]
    private var hashes: [UInt32] = [0]
    private let limit: Int
    /// Look-ups of names that found no room.
    private(set) var overflowCount: UInt64 = 0

    init(limit: Int) {
        self.limit = limit
        slots = [UInt32](repeating: 0, count: 64)
    }

    mutating func number(_ name: String) -> Int {
        var name = name
        return name.withUTF8 { number(UnsafeRawBufferPointer($0)) }
    }

    mutating func number(_ name: UnsafeRawBufferPointer) -> Int {
        let hash = Self.hash(name)
        var at = Int(hash) & (slots.count - 1)
        while slots[at] != 0 {
            let number = Int(slots[at])
            if hashes[number] == hash, bytes[number].elementsEqual(name) { return number }
            at = (at + 1) & (slots.count - 1)
        }
        guard names.count <= limit else {
            overflowCount += 1
            return 0
        }
        let number = names.count
        names.append(String(decoding: name, as: UTF8.self))
        bytes.append(Array(name))
        hashes.append(hash)
        slots[at] = UInt32(number)
        if names.count * 2 > slots.count { grow() }
        return number
    }

    func find(_ name: String) -> Int? {
        name == Self.overflowName ? 0 : names.indices.dropFirst().first { names[$0] == name }
    }

    private mutating func grow() {
        slots = [UInt32](repeating: 0, count: slots.count * 2)
        for number in 1..<names.count {
            var at = Int(hashes[number]) & (slots.count - 1)
            while slots[at] != 0 { at = (at + 1) & (slots.count - 1) }
            slots[at] = UInt32(number)
        }
    }

    /// Eight bytes at a time, multiplied and folded. The table has a limit, so a sender who forces collisions slows down
    /// his own requests at most to a walk over `limit` entries.
    private static func hash(_ name: UnsafeRawBufferPointer) -> UInt32 {
        var hash: UInt64 = 0x9E37_79B9_7F4A_7C15 ^ UInt64(name.count)
        var at = 0
        while at + 8 <= name.count {
            hash = fold(hash ^ name.loadUnaligned(fromByteOffset: at, as: UInt64.self))
            at += 8
        }
        var tail: UInt64 = 0
        while at < name.count {
            tail = tail << 8 | UInt64(name[at])
            at += 1
        }
        return UInt32(truncatingIfNeeded: fold(hash ^ tail) >> 16)
    }

    private static func fold(_ value: UInt64) -> UInt64 {
        let product = value.multipliedFullWidth(by: 0xBF58_476D_1CE4_E5B9)
        return product.high ^ product.low
    }
}
