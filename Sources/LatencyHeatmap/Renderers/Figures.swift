/// Numbers as a person reads them.
enum Figures {
    /// At most eight ASCII characters without memory of their own: a grid has thousands of these.
    struct Short {
        /// The first in the lowest byte.
        private var packed: UInt64 = 0
        private(set) var count = 0

        fileprivate init(_ number: UInt64) {
            var left = number
            repeat {
                packed = packed << 8 | (0x30 + left % 10)
                left /= 10
                count += 1
            } while left > 0 && count < 8
        }

        fileprivate mutating func append(_ character: UInt8) {
            packed |= UInt64(character) << UInt64(8 * count)
            count += 1
        }

        func append(to bytes: inout [UInt8]) {
            var left = packed
            for _ in 0..<count {
                bytes.append(UInt8(truncatingIfNeeded: left))
                left >>= 8
            }
        }

        var text: String {
            var bytes: [UInt8] = []
            append(to: &bytes)
            return String(decoding: bytes, as: UTF8.self)
        }
    }

    /// Milliseconds in few columns: `0.31`, `8.4`, `217`, `99999`, then with a unit: `140s`, `167m`, `28h`, `12d`, `3y`.
    ///
    /// - Parameter columns: from four to seven.
    static func short(milliseconds nanoseconds: UInt64, columns: Int = 5) -> Short {
        let value = Double(nanoseconds) / 1e6
        if value < 9.95 {
            let (hundredths, digits) =
                value < 0.995 ? (UInt64((value * 100).rounded()), 2) : (UInt64((value * 10).rounded()), 1)
            var short = Short(digits == 2 ? 0 : hundredths / 10)
            short.append(UInt8(ascii: "."))
            if digits == 2 { short.append(UInt8(0x30 + hundredths / 10)) }
            short.append(UInt8(0x30 + hundredths % 10))
            return short
        }
        let whole = Short(UInt64(value.rounded()))
        return whole.count <= columns ? whole : inLargerUnits(value, columns)
    }

    private static func inLargerUnits(_ milliseconds: Double, _ columns: Int) -> Short {
        var short = Short(0)
        for (unit, length) in [("s", 1e3), ("m", 6e4), ("h", 36e5), ("d", 864e5), ("y", 315_576e5)] {
            short = Short(UInt64((milliseconds / length).rounded()))
            guard short.count >= columns else {
                short.append(unit.utf8.first ?? 0)
                break
            }
        }
        return short
    }

    /// The same as a text.
    static func milliseconds(_ nanoseconds: UInt64, columns: Int = 5) -> String {
        short(milliseconds: nanoseconds, columns: columns).text
    }

    /// As `milliseconds`, and below a tenth of one in microseconds or nanoseconds: `23µs`, `7ns`.
    static func edge(_ nanoseconds: UInt64) -> String {
        switch nanoseconds {
        case 0: "0"
        case ..<1_000: "\(nanoseconds)ns"
        case ..<100_000: "\((nanoseconds + 500) / 1_000)µs"
        default: milliseconds(nanoseconds)
        }
    }

    /// `217 ms`, or `140s`.
    static func latency(_ nanoseconds: UInt64) -> String {
        let text = milliseconds(nanoseconds)
        return text.last?.isNumber == true ? text + " ms" : text
    }

    /// What each level means: `G<50`, `Y<100`, `O<200`, `R≥200 ms`; with units everywhere when they differ.
    static func legend(_ levels: [UInt64]) -> [String] {
        let isPlain = levels.allSatisfy { milliseconds($0).last?.isNumber == true }
        return ["G", "Y", "O"].enumerated().map { index, letter in
            "\(letter)<" + (isPlain ? milliseconds(levels[index]) : latency(levels[index]))
        } + ["R≥" + latency(levels[2])]
    }

    /// Milliseconds to the microsecond, without an exponent: for machines.
    static func exactMilliseconds(_ nanoseconds: UInt64) -> String {
        let microseconds = nanoseconds / 1_000 + (nanoseconds % 1_000 >= 500 ? 1 : 0)
        let fraction = "\(microseconds % 1_000)"
        return "\(microseconds / 1_000)." + String(repeating: "0", count: 3 - fraction.count) + fraction
    }

    /// Milliseconds to the nanosecond: for edges of ranges.
    static func wholeMilliseconds(_ nanoseconds: UInt64) -> String {
        let fraction = "\(nanoseconds % 1_000_000)"
        return "\(nanoseconds / 1_000_000)." + String(repeating: "0", count: 6 - fraction.count) + fraction
    }

    static func decimal(_ value: Double, _ digits: Int) -> String {
        var scale = 1.0
        for _ in 0..<digits { scale *= 10 }
        let scaled = UInt64((value * scale).rounded())
        let fraction = "\(scaled % UInt64(scale))"
        return "\(scaled / UInt64(scale))."
            + String(repeating: "0", count: digits - fraction.count) + fraction
    }

    /// `1,284,031`.
    static func grouped(_ number: UInt64) -> String {
        var digits = ""
        for (index, digit) in "\(number)".reversed().enumerated() {
            if index > 0, index % 3 == 0 { digits.append(",") }
            digits.append(digit)
        }
        return String(digits.reversed())
    }

    /// `593k`, `1.2M`; at most five columns.
    static func short(_ number: UInt64) -> String {
        if number < 10_000 { return "\(number)" }
        let value = Double(number)
        if value < 999_500 { return "\(Int((value / 1e3).rounded()))k" }
        for (unit, size) in [("M", 1e6), ("G", 1e9), ("T", 1e12), ("P", 1e15)] {
            if value < 9.95 * size { return decimal(value / size, 1) + unit }
            if value < 999.5 * size { return "\(Int((value / size).rounded()))" + unit }
        }
        return decimal(value / 1e18, 1) + "E"
    }

    /// `60s`, `5m`, `1h`, `1d`.
    static func span(_ seconds: Int64) -> String {
        for (unit, length) in [("d", Int64(86_400)), ("h", 3_600), ("m", 60)] where seconds % length == 0 {
            return "\(seconds / length)\(unit)"
        }
        return "\(seconds)s"
    }

    static func percent(_ part: UInt64, of whole: UInt64) -> String {
        whole == 0 ? "0%" : decimal(Double(part) / Double(whole) * 100, 2) + "%"
    }
}
