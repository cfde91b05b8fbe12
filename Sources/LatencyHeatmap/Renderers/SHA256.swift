/// FIPS 180-4, for the page's content security policy, which names its script and style by their hashes.
enum SHA256 {
    static func hash(_ message: [UInt8]) -> [UInt8] {
        var padded = message + [0x80]
        while padded.count % 64 != 56 { padded.append(0) }
        for shift in stride(from: 56, through: 0, by: -8) {
            padded.append(UInt8(truncatingIfNeeded: (UInt64(message.count) * 8) >> UInt64(shift)))
        }
        var state = initial
        var words = [UInt32](repeating: 0, count: 64)
        for block in stride(from: 0, to: padded.count, by: 64) {
            for index in 0..<16 {
                words[index] = (0..<4).reduce(0) { $0 << 8 | UInt32(padded[block + index * 4 + $1]) }
            }
            for index in 16..<64 {
                let (a, b) = (words[index - 15], words[index - 2])
                words[index] =
                    words[index - 16] &+ (turned(a, 7) ^ turned(a, 18) ^ a >> 3) &+ words[index - 7]
                    &+ (turned(b, 17) ^ turned(b, 19) ^ b >> 10)
            }
            var s = state
            for index in 0..<64 {
                let first =
                    s[7] &+ (turned(s[4], 6) ^ turned(s[4], 11) ^ turned(s[4], 25))
                    &+ (s[4] & s[5] ^ ~s[4] & s[6]) &+ constants[index] &+ words[index]
                let second =
                    (turned(s[0], 2) ^ turned(s[0], 13) ^ turned(s[0], 22))
                    &+ (s[0] & s[1] ^ s[0] & s[2] ^ s[1] & s[2])
                s = [first &+ second, s[0], s[1], s[2], s[3] &+ first, s[4], s[5], s[6]]
            }
            for index in 0..<8 { state[index] &+= s[index] }
        }
        return state.flatMap { word in (0..<4).map { UInt8(truncatingIfNeeded: word >> UInt32(24 - 8 * $0)) } }
    }

    private static func turned(_ word: UInt32, _ bits: UInt32) -> UInt32 { word >> bits | word << (32 - bits) }

    /// The first 32 bits of the fractional parts of the square roots of the first eight primes.
    private static let initial: [UInt32] = primes.prefix(8).map { fraction(of: Double($0).squareRoot()) }

    /// The same of the cube roots of the first 64; by whole numbers, since 2^-32 of them needs more than a `Double` has.
    private static let constants: [UInt32] = primes.map { prime in
        // The largest root whose cube is at most prime · 2^96.
        var root: UInt64 = 0
        for bit in stride(from: UInt64(34), through: 0, by: -1) {
            let next = root | 1 << bit
            let square = next.multipliedFullWidth(by: next)
            let cube = UInt128(square.high) << 64 | UInt128(square.low)
            if cube <= UInt128(prime) << 96 / UInt128(next) { root = next }
        }
        return UInt32(truncatingIfNeeded: root)
    }

    private static func fraction(of root: Double) -> UInt32 {
        UInt32(truncatingIfNeeded: UInt64((root - root.rounded(.down)) * 0x1p32))
    }

    private static let primes: [UInt64] = (2...311).filter { number in !(2..<number).contains { number % $0 == 0 } }
}
