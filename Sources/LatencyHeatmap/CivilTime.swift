/// A time zone's rules for aligning windows and writing times.
struct CivilTime: Sendable {
    private enum Zone {
        /// Seconds east of UTC.
        case fixed(Int64)
        case rules(ZoneRules)
    }

    private let zone: Zone

    static let utc = CivilTime(zone: .fixed(0))

    private init(zone: Zone) { self.zone = zone }

    /// `UTC`, `local`, a name such as `Asia/Shanghai`, or an offset such as `+08:00`. Nil also for a name that this machine
    /// has no file of.
    init?(named name: String) {
        switch name {
        case "UTC", "utc", "Z": self = .utc
        // A machine without a zone is in UTC.
        case "local": zone = ZoneRules.local().map { .rules($0) } ?? .fixed(0)
        default:
            if let seconds = Self.offset(name) {
                zone = .fixed(Int64(seconds))
            } else if let known = ZoneRules(named: name) {
                zone = .rules(known)
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
        switch zone {
        case .fixed(let offset): offset
        case .rules(let rules): rules.offset(atUnixSecond: second)
        }
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
        let (year, month, day) = Self.date(ofDay: days)
        return (
            Int(year), Int(month), Int(day), Int(rest / 3_600), Int(rest % 3_600 / 60), Int(rest % 60)
        )
    }

    // MARK: Days since 1970

    /// In years that begin in March, and eras of 400 years. https://howardhinnant.github.io/date_algorithms.html
    static func date(ofDay days: Int64) -> (year: Int64, month: Int64, day: Int64) {
        let shifted = days + 719_468
        let era = floor(shifted, 146_097) / 146_097
        let dayOfEra = shifted - era * 146_097
        let yearOfEra = (dayOfEra - dayOfEra / 1_460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let marchMonth = (5 * dayOfYear + 2) / 153
        let month = marchMonth < 10 ? marchMonth + 3 : marchMonth - 9
        let year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0)
        return (year, month, dayOfYear - (153 * marchMonth + 2) / 5 + 1)
    }

    static func year(ofDay days: Int64) -> Int64 { date(ofDay: days).year }

    static func day(year: Int64, month: Int64, day: Int64) -> Int64 {
        let year = month <= 2 ? year - 1 : year
        let era = floor(year, 400) / 400
        let dayOfYear = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1
        let yearOfEra = year - era * 400
        return era * 146_097 + yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear - 719_468
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
        let bytes = Array(text.utf8)
        func number(_ start: Int, _ count: Int) -> Int64? {
            guard start + count <= bytes.count else { return nil }
            var value: Int64 = 0
            for byte in bytes[start..<(start + count)] {
                guard (0x30...0x39).contains(byte) else { return nil }
                value = value * 10 + Int64(byte - 0x30)
            }
            return value
        }
        guard bytes.count >= 20, bytes[4] == UInt8(ascii: "-"), bytes[7] == UInt8(ascii: "-"),
            bytes[10] | 0x20 == UInt8(ascii: "t"), bytes[13] == UInt8(ascii: ":"), bytes[16] == UInt8(ascii: ":"),
            let year = number(0, 4), let month = number(5, 2), let dayOfMonth = number(8, 2), let hour = number(11, 2),
            let minute = number(14, 2), let second = number(17, 2), hour < 24, minute < 60, second < 60
        else { return nil }
        let day = Self.day(year: year, month: Swift.min(Swift.max(month, 1), 12), day: dayOfMonth)
        // The 31st of November is the 1st of another month.
        guard Self.date(ofDay: day) == (year, month, dayOfMonth) else { return nil }
        var at = 19
        var fraction: UInt64 = 0
        if bytes[at] == UInt8(ascii: ".") {
            let digits = bytes[(at + 1)...].prefix { (0x30...0x39).contains($0) }.count
            guard (1...9).contains(digits), let value = number(at + 1, digits) else { return nil }
            fraction = (digits..<9).reduce(UInt64(value)) { sum, _ in sum * 10 }
            at += 1 + digits
        }
        let zone = String(decoding: bytes[at...], as: UTF8.self)
        guard let offset = zone == "Z" || zone == "z" ? 0 : Self.offset(zone) else { return nil }
        let moment = day * 86_400 + hour * 3_600 + minute * 60 + second - Int64(offset)
        guard (0..<18_000_000_000).contains(moment) else { return nil }
        return UInt64(moment) * 1_000_000_000 + fraction
    }
}

private func two(_ number: Int) -> String { number < 10 ? "0\(number)" : "\(number)" }
