/// Times as RFC 3339 has them, to the nanosecond, between 1970 and 2554 (the range of unsigned Unix nanoseconds).
package enum RFC3339 {
    package static func unixNano(_ text: String) -> UInt64? {
        var bytes = text.utf8[...]
        func digits(_ count: Int) -> Int? {
            var value = 0
            for _ in 0..<count {
                guard let byte = bytes.popFirst(), (0x30...0x39).contains(byte) else { return nil }
                value = value * 10 + Int(byte - 0x30)
            }
            return value
        }
        func literal(_ allowed: UInt8...) -> Bool { bytes.popFirst().map(allowed.contains) ?? false }
        guard let year = digits(4), literal(0x2D), let month = digits(2), literal(0x2D), let day = digits(2),
            literal(0x54, 0x74, 0x20), let hour = digits(2), literal(0x3A), let minute = digits(2), literal(0x3A),
            let second = digits(2), (1...12).contains(month), (1...31).contains(day), hour < 24, minute < 60,
            second <= 60
        else { return nil }
        var nano = 0
        if bytes.first == 0x2E {
            bytes.removeFirst()
            var scale = 100_000_000
            var count = 0
            while let byte = bytes.first, (0x30...0x39).contains(byte) {
                nano += Int(byte - 0x30) * scale
                scale /= 10
                count += 1
                bytes.removeFirst()
            }
            guard count > 0 else { return nil }
        }
        guard let zone = bytes.popFirst() else { return nil }
        var offset = 0
        switch zone {
        case 0x5A, 0x7A: break
        case 0x2B, 0x2D:
            guard let hours = digits(2), literal(0x3A), let minutes = digits(2), hours < 24, minutes < 60 else {
                return nil
            }
            offset = (hours * 60 + minutes) * 60 * (zone == 0x2D ? -1 : 1)
        default: return nil
        }
        guard bytes.isEmpty else { return nil }
        let seconds = days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second - offset
        guard seconds >= 0, seconds < 18_446_744_073 else { return nil }
        return UInt64(seconds) * 1_000_000_000 + UInt64(nano)
    }

    /// `2026-11-23T08:30:00.250000000Z`.
    package static func string(unixNano: UInt64) -> String {
        let seconds = Int(unixNano / 1_000_000_000)
        let (year, month, day) = civil(seconds / 86_400)
        let rest = seconds % 86_400
        func padded(_ value: Int, _ width: Int) -> String {
            let text = String(value)
            return String(repeating: "0", count: max(0, width - text.count)) + text
        }
        return "\(padded(year, 4))-\(padded(month, 2))-\(padded(day, 2))T\(padded(rest / 3_600, 2)):"
            + "\(padded(rest / 60 % 60, 2)):\(padded(rest % 60, 2)).\(padded(Int(unixNano % 1_000_000_000), 9))Z"
    }

    /// Days since 1970-01-01 in the proleptic Gregorian calendar, counted in eras of 400 years that begin in March.
    private static func days(_ year: Int, _ month: Int, _ day: Int) -> Int {
        let shifted = month <= 2 ? year - 1 : year
        let era = shifted / 400
        let yearOfEra = shifted - era * 400
        let dayOfYear = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1
        return era * 146_097 + yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear - 719_468
    }

    private static func civil(_ days: Int) -> (year: Int, month: Int, day: Int) {
        let shifted = days + 719_468
        let era = shifted / 146_097
        let dayOfEra = shifted - era * 146_097
        let yearOfEra = (dayOfEra - dayOfEra / 1_460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let shiftedMonth = (5 * dayOfYear + 2) / 153
        let month = shiftedMonth < 10 ? shiftedMonth + 3 : shiftedMonth - 9
        return (yearOfEra + era * 400 + (month <= 2 ? 1 : 0), month, dayOfYear - (153 * shiftedMonth + 2) / 5 + 1)
    }
}
