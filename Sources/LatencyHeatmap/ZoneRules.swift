import Glibc

/// How far a zone's clocks are ahead of UTC, and since when: read from TZif (RFC 9636), the form in which the tz database is
/// installed. Nothing in the bytes is trusted.
struct ZoneRules: Sendable {
    /// Seconds since 1970, ascending; from each on the offset of the same number is in force.
    private let transitions: [Int64]
    private let offsets: [Int64]
    /// Before the first transition.
    private let first: Int64
    /// After the last one; nil: that one's offset stays.
    private let after: YearlyRule?

    /// A file is smaller than this: the largest that is known has 4 KiB.
    static let maxBytes = 1 << 20
    /// What RFC 9636 allows, a day and some hours.
    private static let offsetRange: ClosedRange<Int64> = -89_999...93_599

    /// Nil unless the bytes are a whole TZif file. One with leap seconds (`right/…`) is refused: it counts other seconds.
    init?(tzif bytes: [UInt8]) {
        guard bytes.count <= Self.maxBytes, var block = Block(bytes, at: 0, timeBytes: 4) else { return nil }
        if block.version >= UInt8(ascii: "2") {
            // The first block is for readers that know 32 bits only.
            guard let wide = Block(bytes, at: block.end, timeBytes: 8) else { return nil }
            block = wide
        }
        guard block.leapCount == 0 else { return nil }
        var types: [Int64] = []
        for number in 0..<block.typeCount {
            let offset = Int64(Int32(truncatingIfNeeded: Block.number(bytes, block.types + number * 6, 4)))
            guard Self.offsetRange.contains(offset) else { return nil }
            types.append(offset)
        }
        var transitions: [Int64] = []
        var offsets: [Int64] = []
        for number in 0..<block.timeCount {
            let time = Block.number(bytes, block.times + number * block.timeBytes, block.timeBytes)
            let type = Int(bytes[block.indices + number])
            guard type < types.count, transitions.last.map({ $0 < time }) ?? true else { return nil }
            transitions.append(time)
            offsets.append(types[type])
        }
        var after: YearlyRule?
        if block.version >= UInt8(ascii: "2") {
            guard block.end < bytes.count, bytes[block.end] == 0x0A,
                let end = bytes[(block.end + 1)...].firstIndex(of: 0x0A)
            else { return nil }
            let text = bytes[(block.end + 1)..<end]
            if !text.isEmpty {
                guard let rule = YearlyRule(posix: Array(text)) else { return nil }
                after = rule
            }
        }
        (self.transitions, self.offsets, self.after) = (transitions, offsets, after)
        first = types[0]
    }

    /// Seconds to add to UTC.
    func offset(atUnixSecond second: Int64) -> Int64 {
        guard let last = transitions.last else { return after?.offset(atUnixSecond: second) ?? first }
        if second >= last, let after { return after.offset(atUnixSecond: second) }
        // The number of transitions that are not later.
        var (low, high) = (0, transitions.count)
        while low < high {
            let middle = (low + high) / 2
            if transitions[middle] <= second { low = middle + 1 } else { high = middle }
        }
        return low == 0 ? first : offsets[low - 1]
    }

    // MARK: Files

    private static let directories = ["/usr/share/zoneinfo", "/usr/lib/zoneinfo", "/etc/zoneinfo"]

    /// `Asia/Shanghai`, as the tz database names it.
    init?(named name: String) {
        // Only names: nothing that leads out of the directory.
        let isName = name.utf8.allSatisfy {
            (0x30...0x39).contains($0) || (0x41...0x5A).contains($0) || (0x61...0x7A).contains($0)
                || "_+-/".utf8.contains($0)
        }
        guard isName, (1...64).contains(name.utf8.count), !name.hasPrefix("/"), !name.hasSuffix("/") else { return nil }
        for directory in Self.directories {
            if let rules = ZoneRules(file: "\(directory)/\(name)") {
                self = rules
                return
            }
        }
        return nil
    }

    /// This machine's zone: `TZ`, as every program takes it, or `/etc/localtime`.
    static func local() -> ZoneRules? {
        if let variable = getenv("TZ") {
            var name = String(cString: variable)
            if name.hasPrefix(":") { name.removeFirst() }
            if name.hasPrefix("/") { return ZoneRules(file: name) }
            return ZoneRules(named: name)
        }
        return ZoneRules(file: "/etc/localtime")
    }

    init?(file path: String) {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        var status = stat()
        guard fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG, status.st_size <= Self.maxBytes
        else {
            return nil
        }
        var bytes = [UInt8](repeating: 0, count: Int(status.st_size))
        var filled = 0
        while filled < bytes.count {
            let got = bytes.withUnsafeMutableBytes {
                read(descriptor, $0.baseAddress.map { $0 + filled }, $0.count - filled)
            }
            if got < 0, errno == EINTR { continue }
            guard got > 0 else { return nil }
            filled += got
        }
        self.init(tzif: bytes)
    }
}

/// Where the parts of a TZif header's data block are.
private struct Block {
    let version: UInt8
    let timeBytes: Int
    let leapCount: Int
    let timeCount: Int
    let typeCount: Int
    let times: Int
    let indices: Int
    let types: Int
    /// Behind it.
    let end: Int

    /// Nil if it does not lie within the bytes.
    init?(_ bytes: [UInt8], at start: Int, timeBytes: Int) {
        guard bytes.count - start >= 44, bytes[start..<(start + 4)].elementsEqual("TZif".utf8) else { return nil }
        version = bytes[start + 4]
        self.timeBytes = timeBytes
        // Six numbers of 32 bits; sums of them fit into 64.
        let counts = (0..<6).map { Int(UInt32(truncatingIfNeeded: Self.number(bytes, start + 20 + $0 * 4, 4))) }
        leapCount = counts[2]
        timeCount = counts[3]
        typeCount = counts[4]
        times = start + 44
        indices = times + timeCount * timeBytes
        types = indices + timeCount
        end = types + typeCount * 6 + counts[5] + leapCount * (timeBytes + 4) + counts[1] + counts[0]
        guard end <= bytes.count, (1...256).contains(typeCount) else { return nil }
    }

    /// Big-endian, with its sign.
    static func number(_ bytes: [UInt8], _ start: Int, _ count: Int) -> Int64 {
        let bits = bytes[start..<(start + count)].reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        return Int64(bitPattern: bits << UInt64(64 - count * 8)) >> Int64(64 - count * 8)
    }
}

/// Standard time, and perhaps another in a part of each year: what POSIX writes in `TZ`, such as
/// `CET-1CEST,M3.5.0,M10.5.0/3`.
struct YearlyRule: Sendable {
    private enum Day {
        /// 1 to 365, without 29 February.
        case julian(Int64)
        /// 0 to 365, with it.
        case ofYear(Int64)
        case weekday(month: Int64, week: Int64, day: Int64)
    }

    private struct Change {
        var day: Day
        /// Seconds after midnight, by the clock as it was before.
        var time: Int64
    }

    private let standard: Int64
    private let summer: (offset: Int64, begins: Change, ends: Change)?

    init?(posix text: [UInt8]) {
        var reader = Reader(text)
        guard reader.name(), let standard = reader.offset(hours: 24) else { return nil }
        self.standard = -standard
        guard !reader.isAtEnd else {
            summer = nil
            return
        }
        guard reader.name() else { return nil }
        var offset = -standard + 3_600
        if reader.peek != UInt8(ascii: ",") {
            guard let given = reader.offset(hours: 24) else { return nil }
            offset = -given
        }
        guard reader.take(","), let begins = reader.change(), reader.take(","), let ends = reader.change(),
            reader.isAtEnd
        else { return nil }
        summer = (offset, begins, ends)
    }

    func offset(atUnixSecond second: Int64) -> Int64 {
        guard let summer else { return standard }
        // Further than this the year makes no difference.
        let bounded = Swift.min(Swift.max(second, -1 << 50), 1 << 50)
        let year = CivilTime.year(ofDay: CivilTime.floor(bounded + standard, 86_400) / 86_400)
        // The last change that is not later; at the same time, that to summer.
        var latest = (time: Int64.min, offset: standard)
        for year in (year - 1)...(year + 1) {
            let ends = Self.moment(summer.ends, year) - summer.offset
            if ends <= bounded, ends > latest.time { latest = (ends, standard) }
            let begins = Self.moment(summer.begins, year) - standard
            if begins <= bounded, begins >= latest.time { latest = (begins, summer.offset) }
        }
        return latest.offset
    }

    /// By the clock there, as if it were UTC.
    private static func moment(_ change: Change, _ year: Int64) -> Int64 {
        let first = CivilTime.day(year: year, month: 1, day: 1)
        let isLeap = CivilTime.day(year: year + 1, month: 1, day: 1) - first == 366
        let day: Int64
        switch change.day {
        case .julian(let number): day = first + number - 1 + (isLeap && number >= 60 ? 1 : 0)
        case .ofYear(let number): day = first + number
        case .weekday(let month, let week, let weekday):
            let begin = CivilTime.day(year: year, month: month, day: 1)
            let next = month == 12 ? first + (isLeap ? 366 : 365) : CivilTime.day(year: year, month: month + 1, day: 1)
            // 1 January 1970 was a Thursday.
            let of = ((begin + 4) % 7 + 7) % 7
            let found = begin + (weekday - of + 7) % 7 + (week - 1) * 7
            day = found < next ? found : found - 7
        }
        return day * 86_400 + change.time
    }

    private struct Reader {
        private let text: [UInt8]
        private var at = 0

        init(_ text: [UInt8]) { self.text = text }

        var isAtEnd: Bool { at == text.count }
        var peek: UInt8? { at < text.count ? text[at] : nil }

        mutating func take(_ character: Unicode.Scalar) -> Bool {
            guard peek == UInt8(ascii: character) else { return false }
            at += 1
            return true
        }

        /// Three letters or more, or anything of that length between angle brackets.
        mutating func name() -> Bool {
            let isQuoted = take("<")
            let start = at
            while let byte = peek {
                let isLetter = (0x41...0x5A).contains(byte) || (0x61...0x7A).contains(byte)
                let isSign = byte == UInt8(ascii: "+") || byte == UInt8(ascii: "-") || (0x30...0x39).contains(byte)
                guard isLetter || isQuoted && isSign else { break }
                at += 1
            }
            let length = at - start
            return (isQuoted ? take(">") : true) && length >= 3
        }

        mutating func number(_ range: ClosedRange<Int64>) -> Int64? {
            var value: Int64?
            while let byte = peek, (0x30...0x39).contains(byte), (value ?? 0) <= range.upperBound {
                value = (value ?? 0) * 10 + Int64(byte - 0x30)
                at += 1
            }
            return value.flatMap { range.contains($0) ? $0 : nil }
        }

        /// `[+-]hh[:mm[:ss]]` in seconds.
        mutating func offset(hours limit: Int64) -> Int64? {
            let sign: Int64 = take("-") ? -1 : 1
            if sign == 1 { _ = take("+") }
            guard var seconds = number(0...limit).map({ $0 * 3_600 }) else { return nil }
            for unit: Int64 in [60, 1] where peek == UInt8(ascii: ":") {
                at += 1
                guard let part = number(0...59) else { return nil }
                seconds += part * unit
            }
            return sign * seconds
        }

        mutating func change() -> Change? {
            guard let day = self.day() else { return nil }
            guard take("/") else { return Change(day: day, time: 7_200) }
            return offset(hours: 167).map { Change(day: day, time: $0) }
        }

        private mutating func day() -> Day? {
            if take("J") { return number(1...365).map { .julian($0) } }
            guard take("M") else { return number(0...365).map { .ofYear($0) } }
            guard let month = number(1...12), take("."), let week = number(1...5), take("."), let day = number(0...6)
            else { return nil }
            return .weekday(month: month, week: week, day: day)
        }
    }
}
