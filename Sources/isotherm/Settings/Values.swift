/// Why a setting or an option cannot be used: names it, its value, what is allowed.
struct SettingError: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

/// The forms in which values are written.
enum Values {
    /// `500ms`, `30s`, `5m`, `1h`, `7d`.
    static func duration(_ text: String) throws(SettingError) -> Duration {
        let units: [(String, Int64)] = [
            ("ms", 1_000_000), ("s", 1_000_000_000), ("m", 60_000_000_000), ("h", 3_600_000_000_000),
            ("d", 86_400_000_000_000),
        ]
        for (unit, nanoseconds) in units where text.hasSuffix(unit) {
            guard let number = Int64(text.dropLast(unit.count)), number >= 0, number <= 100_000 else { continue }
            return .nanoseconds(number * nanoseconds)
        }
        throw SettingError("\"\(text)\" is no duration; write for example 500ms, 30s, 5m, 1h or 7d")
    }

    static func text(_ duration: Duration) -> String {
        let (seconds, attoseconds) = duration.components
        if attoseconds != 0 || seconds == 0 { return "\(seconds * 1_000 + attoseconds / 1_000_000_000_000_000)ms" }
        for (unit, length) in [("d", Int64(86_400)), ("h", 3_600), ("m", 60)] where seconds % length == 0 {
            return "\(seconds / length)\(unit)"
        }
        return "\(seconds)s"
    }

    /// `4096`, `256KiB`, `8MiB`, `2GiB`.
    static func bytes(_ text: String) throws(SettingError) -> Int {
        for (unit, size) in [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("", 1)] where text.hasSuffix(unit) {
            guard let number = Int(text.dropLast(unit.count)), number >= 0, number <= 1 << 32 else { continue }
            return number * size
        }
        throw SettingError("\"\(text)\" is no size in bytes; write for example 4096, 256KiB, 8MiB or 2GiB")
    }

    static func text(bytes: Int) -> String {
        for (unit, size) in [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] where bytes > 0 && bytes % size == 0
        {
            return "\(bytes / size)\(unit)"
        }
        return "\(bytes)"
    }

    static func bool(_ text: String) throws(SettingError) -> Bool {
        switch text {
        case "true": return true
        case "false": return false
        default: throw SettingError("\"\(text)\" is neither true nor false")
        }
    }

    static func integer(_ text: String) throws(SettingError) -> Int {
        guard let number = Int(text) else { throw SettingError("\"\(text)\" is no whole number") }
        return number
    }

    static func number(_ text: String) throws(SettingError) -> Double {
        guard let number = Double(text), number >= 0, number.isFinite else {
            throw SettingError("\"\(text)\" is no number from 0 up")
        }
        return number
    }

    static func list(_ text: String) -> [String] { text.split(separator: ",").map { $0.trimmingBlanks() } }

    /// `127.0.0.1:8080`, `[::1]:8080`, `localhost:0`.
    static func address(_ text: String) throws(SettingError) -> (host: String, port: Int) {
        guard let colon = text.lastIndex(of: ":"), let port = Int(text[text.index(after: colon)...]),
            (0...65_535).contains(port)
        else {
            throw SettingError("\"\(text)\" is no address; write HOST:PORT, for example 127.0.0.1:8080")
        }
        var host = String(text[..<colon])
        if host.hasPrefix("["), host.hasSuffix("]") { host = String(host.dropFirst().dropLast()) }
        guard !host.isEmpty else { throw SettingError("\"\(text)\" names no host; write for example 0.0.0.0:\(port)") }
        return (host, port)
    }
}

extension StringProtocol {
    func trimmingBlanks() -> String {
        var text = Substring(self)
        while text.first == " " { text.removeFirst() }
        while text.last == " " { text.removeLast() }
        return String(text)
    }
}

/// The known name that a misspelt one was meant to be.
enum Spelling {
    static func nearest(to name: String, among known: [String]) -> String? {
        let scored = known.map { (distance: distance(name, $0), name: $0) }
        guard let best = scored.min(by: { ($0.distance, $0.name) < ($1.distance, $1.name) }) else { return nil }
        return best.distance <= max(2, name.count / 2) ? best.name : nil
    }

    /// Levenshtein's.
    private static func distance(_ a: String, _ b: String) -> Int {
        let (a, b) = (Array(a.utf8), Array(b.utf8))
        var row = Array(0...b.count)
        for i in 0..<a.count {
            var diagonal = row[0]
            row[0] = i + 1
            for j in 0..<b.count {
                let substitution = diagonal + (a[i] == b[j] ? 0 : 1)
                diagonal = row[j + 1]
                row[j + 1] = min(substitution, row[j] + 1, diagonal + 1)
            }
        }
        return row[b.count]
    }
}
