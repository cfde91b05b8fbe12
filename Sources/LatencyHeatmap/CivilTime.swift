import Foundation

/// A time zone's rules for aligning windows and writing times.
struct CivilTime: Sendable {
    let zone: TimeZone

    static let utc = CivilTime(zone: .gmt)

    init(zone: TimeZone) { self.zone = zone }

    /// `UTC`, `local`, a name such as `Asia/Shanghai`, or an offset such as `+08:00`.
    init?(named name: String) {
        switch name {
        case "UTC", "utc", "Z": self = .utc
        case "local": zone = .current
        default:
            if let seconds = Self.offset(name) {
                guard let fixed = TimeZone(secondsFromGMT: seconds) else { return nil }
                zone = fixed
            } else if let known = TimeZone(identifier: name) {
                zone = known
            } else {
                return nil
            }
        }
    }

    /// Seconds east of UTC for `±hh:mm`, or nil.
    private static func offset(_ text: String) -> Int? {
        let bytes = Array(text.utf8)
        guard bytes.count == 6, bytes[0] == UInt8(ascii: "+") || bytes[0] == UInt8(ascii: "-"),
            bytes[3] == UInt8(ascii: ":"),
            [1, 4].allSatisfy({ (0x30...0x39).contains(bytes[$0]) }),
            let hours = Int(text.dropFirst().prefix(2)), let minutes = Int(text.suffix(2)),
            hours <= 18, minutes < 60
        else { return nil }
        return (hours * 3_600 + minutes * 60) * (bytes[0] == UInt8(ascii: "-") ? -1 : 1)
    }

    func offset(atUnixSecond second: Int64) -> Int64 {
        Int64(zone.secondsFromGMT(for: Date(timeIntervalSince1970: TimeInterval(second))))
    }

    // MARK: Windows

    /// Where the window that holds a moment begins: where the wall clock's reading passed a multiple of the length.
    ///
    /// A day is one window, however long it is on that day. A shorter window begins anew when the clock is set back to its
    /// beginning.
    func windowStart(_ second: Int64, length: Int64) -> Int64 {
        let offset = offset(atUnixSecond: second)
        let reading = Self.floor(second + offset, length)
        var start = reading - offset
        let before = self.offset(atUnixSecond: start)
        // The clock was changed in between.
        if before != offset, reading - before <= second { start = reading - before }
        if length >= 86_400 {
            let earlier = self.offset(atUnixSecond: start - 1)
            if Self.floor(start - 1 + earlier, length) == reading { start = reading - earlier }
        }
        return start
    }

    /// Where the window that holds a moment ends.
    func windowEnd(_ second: Int64, length: Int64) -> Int64 {
        let start = windowStart(second, length: length)
        let offset = offset(atUnixSecond: start)
        let reading = Self.floor(start + offset, length) + length
        let end = reading - offset
        let next = windowStart(end, length: length)
        return next > start ? next : reading - self.offset(atUnixSecond: end)
    }

    /// The largest multiple that is not larger than a number.
    static func floor(_ number: Int64, _ multiple: Int64) -> Int64 {
        (number >= 0 ? number / multiple : (number - multiple + 1) / multiple) * multiple
    }

    // MARK: Texts

    /// Year, month, day, hour, minute and second on the wall there.
    func fields(atUnixSecond second: Int64) -> (year: Int, month: Int, day: Int, hour: Int, minute: Int, second: Int) {
        let local = second + offset(atUnixSecond: second)
        var days = local / 86_400
        var rest = local % 86_400
        if rest < 0 {
            rest += 86_400
            days -= 1
        }
        // Civil date from days since 1970-01-01, in years that begin in March; era of 400 years.
        let shifted = days + 719_468
        let era = (shifted >= 0 ? shifted : shifted - 146_096) / 146_097
        let dayOfEra = shifted - era * 146_097
        let yearOfEra = (dayOfEra - dayOfEra / 1_460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let marchMonth = (5 * dayOfYear + 2) / 153
        let month = marchMonth < 10 ? marchMonth + 3 : marchMonth - 9
        let year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0)
        return (
            Int(year), Int(month), Int(dayOfYear - (153 * marchMonth + 2) / 5 + 1), Int(rest / 3_600),
            Int(rest % 3_600 / 60), Int(rest % 60)
        )
    }

    func date(_ second: Int64) -> String {
        let at = fields(atUnixSecond: second)
        return "\(at.year)-\(two(at.month))-\(two(at.day))"
    }

    /// `hh:mm`, or `hh:mm:ss`.
    func time(_ second: Int64, withSeconds: Bool) -> String {
        let at = fields(atUnixSecond: second)
        return "\(two(at.hour)):\(two(at.minute))" + (withSeconds ? ":\(two(at.second))" : "")
    }

    func monthAndDay(_ second: Int64) -> String {
        let at = fields(atUnixSecond: second)
        return "\(two(at.month))-\(two(at.day))"
    }

    /// `+08:00`; `Z` for none.
    func offsetText(_ second: Int64) -> String {
        let minutes = offset(atUnixSecond: second) / 60
        if minutes == 0 { return "Z" }
        let size = abs(minutes)
        return (minutes < 0 ? "-" : "+") + two(Int(size / 60)) + ":" + two(Int(size % 60))
    }

    /// RFC 3339 with the zone's offset.
    func rfc3339(_ second: Int64) -> String {
        date(second) + "T" + time(second, withSeconds: true) + offsetText(second)
    }

    /// Nanoseconds since 1970 of an RFC 3339 time, to the second's fraction; nil for anything else.
    static func parse(_ text: String) -> UInt64? {
        let formatter = ISO8601DateFormatter()
        formatter.formatOptions = [.withInternetDateTime]
        var whole = text
        var fraction: UInt64 = 0
        if let dot = text.firstIndex(of: ".") {
            let digits = text[text.index(after: dot)...].prefix { $0.isASCII && $0.isNumber }
            guard !digits.isEmpty, digits.count <= 9, let value = UInt64(digits) else { return nil }
            fraction = (digits.count..<9).reduce(value) { sum, _ in sum * 10 }
            whole = String(text[..<dot]) + text[digits.endIndex...]
        }
        guard let date = formatter.date(from: whole), date.timeIntervalSince1970 >= 0,
            date.timeIntervalSince1970 < 18_000_000_000
        else { return nil }
        return UInt64(date.timeIntervalSince1970.rounded()) * 1_000_000_000 + fraction
    }
}

private func two(_ number: Int) -> String { number < 10 ? "0\(number)" : "\(number)" }
