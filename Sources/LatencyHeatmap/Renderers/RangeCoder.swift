/// An adaptive binary range coder with a carry, as LZMA has it: numbers that repeat or are small take fractions of bits.
///
/// The page's script holds the decoder. 100 groups × 1440 windows have to fit into a file that a browser loads at once;
/// Huffman codes and base64 of whole bytes do not get there.
struct RangeEncoder {
    /// The chance of a zero bit, of 2,048; one table for each kind of number.
    struct Model {
        fileprivate var exponent = [UInt16](repeating: 1_024, count: 66)
        fileprivate var top = [UInt16](repeating: 1_024, count: 66)
        /// What `figure` and `near` expect next.
        fileprivate var expected = 0
    }

    private(set) var bytes: [UInt8] = []
    private var low: UInt64 = 0
    private var range: UInt32 = .max
    private var pending: UInt8 = 0
    private var pendingCount = 1

    mutating func reserveCapacity(_ count: Int) { bytes.reserveCapacity(count) }

    private mutating func bit(_ isOne: Bool, _ chance: inout UInt16) {
        let bound = (range >> 11) * UInt32(chance)
        if isOne {
            low += UInt64(bound)
            range -= bound
            chance -= chance >> 4
        } else {
            range = bound
            chance += (2_048 - chance) >> 4
        }
        while range < 1 << 24 {
            range <<= 8
            shift()
        }
    }

    /// Bits that nothing is known of, most significant first.
    mutating func raw(_ value: UInt64, bits: Int) {
        for at in stride(from: bits - 1, through: 0, by: -1) {
            range >>= 1
            if value >> UInt64(at) & 1 == 1 { low += UInt64(range) }
            while range < 1 << 24 {
                range <<= 8
                shift()
            }
        }
    }

    /// Exp-Golomb: the length of `value + 1` in unary, then its bits after the first; length and second bit adapt.
    mutating func number(_ value: UInt64, _ model: inout Model) {
        let plusOne = value == .max ? value : value + 1
        let length = 63 - plusOne.leadingZeroBitCount
        for at in 0..<length { bit(true, &model.exponent[at]) }
        bit(false, &model.exponent[length])
        guard length > 0 else { return }
        bit(plusOne >> UInt64(length - 1) & 1 == 1, &model.top[length])
        if length > 1 { raw(plusOne, bits: length - 1) }
    }

    mutating func signed(_ value: Int, _ model: inout Model) {
        number(value < 0 ? UInt64(-value) * 2 - 1 : UInt64(value) * 2, &model)
    }

    /// A number by its bit length, which changes little from one to the next, and its bits after the first, of which all
    /// but so many are zero.
    mutating func figure(_ value: UInt64, bits: Int = 64, _ model: inout Model) {
        let length = 64 - value.leadingZeroBitCount
        signed(length - model.expected, &model)
        model.expected = length
        guard length > 1 else { return }
        let kept = min(length - 1, bits)
        raw(value >> UInt64(length - 1 - kept), bits: kept)
    }

    /// A number by its distance from the average of those before, of which the latest weigh most.
    mutating func near(_ value: Int, _ model: inout Model) {
        signed(value - ((model.expected + 8) >> 4), &model)
        model.expected += ((value * 16) - model.expected) >> 3
    }

    /// For what has no neighbour before it.
    mutating func restart(_ model: inout Model) { model.expected = 0 }

    mutating func finish() -> [UInt8] {
        for _ in 0..<5 { shift() }
        // The first byte is always zero.
        return Array(bytes.dropFirst())
    }

    private mutating func shift() {
        if low < 0xFF00_0000 || low > 0xFFFF_FFFF {
            let carry = UInt8(truncatingIfNeeded: low >> 32)
            bytes.append(pending &+ carry)
            for _ in 1..<pendingCount { bytes.append(0xFF &+ carry) }
            pendingCount = 0
            pending = UInt8(truncatingIfNeeded: low >> 24)
        }
        pendingCount += 1
        low = (low & 0x00FF_FFFF) << 8
    }
}
