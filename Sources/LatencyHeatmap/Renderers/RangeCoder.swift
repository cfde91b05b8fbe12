/// An adaptive binary range coder with a carry, as LZMA has it: numbers that repeat or are small take fractions of bits.
///
/// The page's script holds the decoder. 100 groups × 1440 windows have to fit into a file that a browser loads at once;
/// Huffman codes and base64 of whole bytes do not get there.
struct RangeEncoder: ~Copyable {
    /// The chances of one kind of number, and what `figure` and `near` expect next.
    struct Model {
        fileprivate let table: Int
        fileprivate var expected = 0
    }

    /// As many of a kind, for numbers that something is known of.
    struct Models {
        fileprivate let first: Int

        @inline(__always)
        subscript(number: Int) -> Model { Model(table: first + number * 2 * RangeEncoder.lengths) }
    }

    /// Chances of a zero bit, of 2,048: for each model those of the length, then those of the second bit.
    private let chances: UnsafeMutablePointer<UInt16>
    private let room: Int
    private var used = 0
    fileprivate static let lengths = 66

    private(set) var bytes: [UInt8] = []
    private var low: UInt64 = 0
    private var range: UInt32 = .max
    private var pending: UInt8 = 0
    private var pendingCount = 1

    /// - Parameter models: how many there will be at most.
    init(models: Int) {
        room = models
        chances = .allocate(capacity: models * 2 * Self.lengths)
        chances.initialize(repeating: 1_024, count: models * 2 * Self.lengths)
    }

    deinit { chances.deallocate() }

    mutating func model() -> Model {
        precondition(used < room)
        used += 1
        return Model(table: (used - 1) * 2 * Self.lengths)
    }

    mutating func models(_ count: Int) -> Models {
        precondition(used + count <= room)
        used += count
        return Models(first: (used - count) * 2 * Self.lengths)
    }

    @inline(__always)
    private mutating func bit(_ isOne: Bool, at place: Int) {
        let chance = chances[place]
        let bound = (range >> 11) &* UInt32(chance)
        if isOne {
            low &+= UInt64(bound)
            range &-= bound
            chances[place] = chance &- chance >> 4
        } else {
            range = bound
            chances[place] = chance &+ (2_048 &- chance) >> 4
        }
        normalise()
    }

    @inline(__always)
    private mutating func normalise() {
        while range < 1 << 24 {
            range <<= 8
            shift()
        }
    }

    /// Bits that nothing is known of, most significant first, sixteen at a time.
    mutating func raw(_ value: UInt64, bits: Int) {
        var left = bits
        while left > 0 {
            let taken = min(left, 16)
            left -= taken
            range >>= UInt32(taken)
            low &+= (value >> UInt64(left) & (1 << UInt64(taken) - 1)) &* UInt64(range)
            normalise()
        }
    }

    /// Exp-Golomb: the length of `value + 1` in unary, then its bits after the first; length and second bit adapt.
    @inline(__always)
    mutating func number(_ value: UInt64, _ model: Model) {
        // Most numbers are zero, and one bit says it.
        if value == 0 { bit(false, at: model.table) } else { positive(value, model) }
    }

    @inline(never)
    private mutating func positive(_ value: UInt64, _ model: Model) {
        let plusOne = value == .max ? value : value + 1
        let length = 63 - plusOne.leadingZeroBitCount
        for at in 0..<length { bit(true, at: model.table &+ at) }
        bit(false, at: model.table &+ length)
        bit(plusOne >> UInt64(length - 1) & 1 == 1, at: model.table &+ Self.lengths &+ length)
        if length > 1 { raw(plusOne, bits: length - 1) }
    }

    mutating func signed(_ value: Int, _ model: Model) {
        number(value < 0 ? UInt64(-value) * 2 - 1 : UInt64(value) * 2, model)
    }

    /// A number by its bit length, which changes little from one to the next, and its bits after the first, of which all
    /// but so many are zero.
    mutating func figure(_ value: UInt64, bits: Int = 64, _ model: inout Model) {
        let length = 64 - value.leadingZeroBitCount
        signed(length - model.expected, model)
        model.expected = length
        guard length > 1 else { return }
        let kept = min(length - 1, bits)
        raw(value >> UInt64(length - 1 - kept), bits: kept)
    }

    /// A number by its distance from the average of those before, of which the latest weigh most.
    mutating func near(_ value: Int, _ model: inout Model) {
        signed(value - ((model.expected + 8) >> 4), model)
        model.expected += ((value * 16) - model.expected) >> 3
    }

    /// For what has no neighbour before it.
    func restart(_ model: inout Model) { model.expected = 0 }

    consuming func finish() -> [UInt8] {
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
