/// The `tracestate` of a trace: vendors' entries, the newest first. Immutable and shared.
///
///     tracestate: KEY "=" VALUE *( "," KEY "=" VALUE )       at most 32 entries, none twice; sent: 512 characters
///
/// https://www.w3.org/TR/trace-context-2/#tracestate-header
public final class TraceState: Hashable, Sendable, CustomStringConvertible {
    public struct Entry: Hashable, Sendable {
        public let key: String
        public let value: String

        fileprivate var length: Int { key.utf8.count + value.utf8.count + 1 }
    }

    public static let maxEntries = 32
    public static let maxCharacters = 512

    public let entries: [Entry]
    /// The header's value, at most 512 characters.
    public let description: String

    /// Nil for a header that is not valid, or of which no entry remains. Several headers are joined with commas first.
    public convenience init?(header: String) {
        var entries: [Entry] = []
        var rest = header.utf8[...]
        while !rest.isEmpty {
            let end = rest.firstIndex(of: UInt8(ascii: ",")) ?? rest.endIndex
            let member = rest[..<end].trimmed
            rest = rest[end...].dropFirst()
            if member.isEmpty { continue }
            guard entries.count < Self.maxEntries, let equals = member.firstIndex(of: UInt8(ascii: "=")),
                let entry = Self.entry(
                    String(Substring(member[..<equals])), String(Substring(member[equals...].dropFirst()))),
                !entries.contains(where: { $0.key == entry.key })
            else { return nil }
            entries.append(entry)
        }
        self.init(valid: entries)
    }

    /// One entry; nil where key or value is not valid.
    public convenience init?(key: String, value: String) {
        guard let entry = Self.entry(key, value) else { return nil }
        self.init(valid: [entry])
    }

    private init?(valid entries: [Entry]) {
        self.entries = Self.shortened(entries)
        guard !self.entries.isEmpty else { return nil }
        description = self.entries.map { "\($0.key)=\($0.value)" }.joined(separator: ",")
    }

    public subscript(key: String) -> String? { entries.first { $0.key == key }?.value }

    /// The state with this entry in front, whether it is new or changed; the last one goes if there are too many. As it
    /// is where key or value is not valid.
    public func setting(_ key: String, to value: String) -> TraceState {
        guard let entry = Self.entry(key, value) else { return self }
        let others = entries.filter { $0.key != key }.prefix(Self.maxEntries - 1)
        return TraceState(valid: [entry] + others) ?? self
    }

    /// Nil when no entry remains.
    public func removing(_ key: String) -> TraceState? { TraceState(valid: entries.filter { $0.key != key }) }

    public static func == (one: TraceState, other: TraceState) -> Bool { one.entries == other.entries }
    public func hash(into hasher: inout Hasher) { hasher.combine(entries) }

    /// Whole entries go until 512 characters are enough: first those over 128 characters, then from the end.
    private static func shortened(_ entries: [Entry]) -> [Entry] {
        var entries = entries
        func length() -> Int { entries.reduce(-1) { $0 + $1.length + 1 } }
        while length() > maxCharacters, let long = entries.lastIndex(where: { $0.length > 128 }) {
            entries.remove(at: long)
        }
        while length() > maxCharacters { entries.removeLast() }
        return entries
    }

    private static func entry(_ key: String, _ value: String) -> Entry? {
        isKey(key.utf8) && isValue(value.utf8) ? Entry(key: key, value: value) : nil
    }

    /// Up to 256 of `a-z 0-9 _ - * /`, beginning with a letter or a digit. With `@`, as W3C's test suite demands:
    /// a tenant of up to 241 characters, `@`, and a vendor of up to 14 that begins with a letter.
    private static func isKey(_ key: String.UTF8View) -> Bool {
        guard let first = key.first, isLower(first) || isDigit(first), key.count <= 256 else { return false }
        guard let at = key.firstIndex(of: UInt8(ascii: "@")) else { return key.allSatisfy(isKeyCharacter) }
        let vendor = key[at...].dropFirst()
        guard let first = vendor.first, isLower(first), vendor.count <= 14 else { return false }
        return key[..<at].count <= 241 && key[..<at].allSatisfy(isKeyCharacter) && vendor.allSatisfy(isKeyCharacter)
    }

    /// Up to 256 printable characters without `,` and `=`, not ending in a space.
    private static func isValue(_ value: String.UTF8View) -> Bool {
        guard let last = value.last, last != 0x20, value.count <= 256 else { return false }
        return value.allSatisfy { $0 >= 0x20 && $0 <= 0x7E && $0 != UInt8(ascii: ",") && $0 != UInt8(ascii: "=") }
    }

    private static func isKeyCharacter(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "_"), UInt8(ascii: "-"), UInt8(ascii: "*"), UInt8(ascii: "/"): true
        default: isLower(byte) || isDigit(byte)
        }
    }

    private static func isLower(_ byte: UInt8) -> Bool { (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte) }
    private static func isDigit(_ byte: UInt8) -> Bool { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) }
}

extension Substring.UTF8View {
    /// Without the optional white space of RFC 9110 at both ends: spaces and tabs.
    var trimmed: Substring.UTF8View {
        var text = self
        while let first = text.first, first == 0x20 || first == 0x09 { text.removeFirst() }
        while let last = text.last, last == 0x20 || last == 0x09 { text.removeLast() }
        return text
    }
}
