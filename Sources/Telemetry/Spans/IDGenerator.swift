/// Random ids, by wyrand (Wang Yi): a sequence and one multiplication. Seeded from the system's generator, since reading
/// that one for each id would be a system call each time.
@usableFromInline
struct IDGenerator: RandomNumberGenerator {
    @usableFromInline var sequence: UInt64
    /// Makes a thread's trace ids differ from another's that has come to the same place in the sequence.
    @usableFromInline let key: UInt64

    init() {
        var system = SystemRandomNumberGenerator()
        sequence = system.next()
        key = system.next()
    }

    @inlinable @inline(__always)
    mutating func next() -> UInt64 {
        sequence &+= 0xA076_1D64_78BD_642F
        let product = sequence.multipliedFullWidth(by: sequence ^ 0xE703_7ED1_A0B4_28DB)
        return product.high ^ product.low
    }

    /// Ids are never zero.
    @inlinable @inline(__always)
    mutating func nextNonZero() -> UInt64 {
        let value = next()
        return value != 0 ? value : 1
    }

    @inlinable @inline(__always)
    mutating func nextTrace() -> (high: UInt64, low: UInt64) { (next() ^ key, nextNonZero()) }
}

/// Ids of a span that is not recorded. Few ever ask for them, so the span keeps a seed, and all its copies make the same
/// ids of it.
@usableFromInline
enum DerivedID {
    /// The finaliser of splitmix64 (Steele, Lea and Flood), over seeds that are a random number plus a count.
    @usableFromInline
    static func make(_ seed: UInt64, _ stream: UInt64) -> UInt64 {
        var value = seed &+ stream &* 0x9E37_79B9_7F4A_7C15
        value = (value ^ (value >> 30)) &* 0xBF58_476D_1CE4_E5B9
        value = (value ^ (value >> 27)) &* 0x94D0_49BB_1331_11EB
        value ^= value >> 31
        return value == 0 ? 1 : value
    }
}
