/// Numbers as a person reads them.
enum Figures {
    /// Milliseconds in at most five columns: `0.31`, `8.4`, `217`, `99999`, then seconds: `140s`.
    static func milliseconds(_ nanoseconds: UInt64) -> String {
        let value = Double(nanoseconds) / 1e6
        if value < 0.995 { return decimal(value, 2) }
        if value < 9.95 { return decimal(value, 1) }
        if value < 99_999.5 { return "\(Int(value.rounded()))" }
        return "\(UInt64((value / 1_000).rounded()))s"
    }

    /// Milliseconds to the microsecond, without an exponent: for machines.
    static func exactMilliseconds(_ nanoseconds: UInt64) -> String {
        let microseconds = nanoseconds / 1_000 + (nanoseconds % 1_000 >= 500 ? 1 : 0)
        let fraction = "\(microseconds % 1_000)"
        return "\(microseconds / 1_000)." + String(repeating: "0", count: 3 - fraction.count) + fraction
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

    /// `593k`, `1.2M`.
    static func short(_ number: UInt64) -> String {
        if number < 10_000 { return "\(number)" }
        let value = Double(number)
        if value < 999_500 { return "\(Int((value / 1e3).rounded()))k" }
        if value < 9.95e6 { return decimal(value / 1e6, 1) + "M" }
        if value < 999.5e6 { return "\(Int((value / 1e6).rounded()))M" }
        return decimal(value / 1e9, 1) + "G"
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
