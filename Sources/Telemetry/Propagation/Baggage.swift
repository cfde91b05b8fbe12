/// Names and values that travel along with a trace, such as a tenant or a release.
///
///     baggage: KEY "=" VALUE *( ";" PROPERTY ) *( "," … )
///
/// KEY is a token, VALUE percent-encoded UTF-8, PROPERTY a token, or a token, `=` and a value. White space around them
/// is not part of them. https://www.w3.org/TR/baggage/
///
/// It reaches every service behind this one, also other people's: nothing secret belongs in it.
public struct Baggage: Hashable, Sendable, Sequence, ExpressibleByDictionaryLiteral, CustomStringConvertible {
    public struct Entry: Hashable, Sendable {
        public let key: String
        /// Decoded.
        public let value: String
        /// The properties as they are on the wire, such as `ttl=5;private`; empty without any.
        public let metadata: String

        public init(key: String, value: String, metadata: String = "") {
            self.key = key
            self.value = value
            self.metadata = metadata
        }
    }

    /// That many are passed on, and that many bytes.
    public static let maxEntries = 64
    public static let maxBytes = 8_192

    /// In the order in which they came. A key that came twice is there twice.
    public private(set) var entries: [Entry] = []

    public init() {}

    public init(dictionaryLiteral elements: (String, String)...) {
        for (key, value) in elements { set(key, to: value) }
    }

    /// Reads headers; several count as one. A member that is not valid is left out, and so is one beyond the limits.
    public init(headers: [String]) {
        var bytes = 0
        for header in headers {
            var rest = header.utf8[...]
            while !rest.isEmpty, entries.count < Self.maxEntries {
                let end = rest.firstIndex(of: UInt8(ascii: ",")) ?? rest.endIndex
                let member = rest[..<end]
                rest = rest[end...].dropFirst()
                guard let entry = Self.entry(member), let text = entry.member else { continue }
                let added = text.utf8.count + (entries.isEmpty ? 0 : 1)
                if bytes + added > Self.maxBytes { continue }
                bytes += added
                entries.append(entry)
            }
        }
    }

    public var isEmpty: Bool { entries.isEmpty }
    public func makeIterator() -> IndexingIterator<[Entry]> { entries.makeIterator() }

    /// The value of a key; the last one, if it is there twice.
    public subscript(key: String) -> String? { entries.last { $0.key == key }?.value }

    /// Adds the entry, in place of those with the same key. One whose key is no token is not sent.
    ///
    /// - Parameter metadata: properties as on the wire; not sent where they are not valid.
    public mutating func set(_ key: String, to value: String, metadata: String = "") {
        let entry = Entry(key: key, value: value, metadata: metadata)
        if let place = entries.firstIndex(where: { $0.key == key }) {
            entries[place] = entry
            entries[(place + 1)...].removeAll { $0.key == key }
        } else {
            entries.append(entry)
        }
    }

    public mutating func remove(_ key: String) { entries.removeAll { $0.key == key } }

    /// The header's value, at most 64 entries and 8,192 bytes of ASCII: what does not fit is left out. Empty without any.
    public var header: String {
        var header = ""
        var count = 0
        for entry in entries where count < Self.maxEntries {
            guard let member = entry.member else { continue }
            let added = member.utf8.count + (count == 0 ? 0 : 1)
            if header.utf8.count + added > Self.maxBytes { continue }
            if count > 0 { header += "," }
            header += member
            count += 1
        }
        return header
    }

    public var description: String { header }

    private static func entry(_ member: Substring.UTF8View) -> Entry? {
        let semicolon = member.firstIndex(of: UInt8(ascii: ";")) ?? member.endIndex
        let pair = member[..<semicolon]
        guard let equals = pair.firstIndex(of: UInt8(ascii: "=")) else { return nil }
        let key = pair[..<equals].trimmed
        let value = pair[equals...].dropFirst().trimmed
        guard key.isToken, value.allSatisfy(isOctet), let metadata = canonical(member[semicolon...].dropFirst()) else {
            return nil
        }
        return Entry(key: String(Substring(key)), value: PercentEncoding.decoded(value), metadata: metadata)
    }

    /// The properties without white space around their parts; nil where one is not valid. Empty ones are left out.
    fileprivate static func canonical(_ metadata: Substring.UTF8View) -> String? {
        var properties: [String] = []
        for property in metadata.split(separator: UInt8(ascii: ";")) {
            let property = property.trimmed
            if property.isEmpty { continue }
            let equals = property.firstIndex(of: UInt8(ascii: "=")) ?? property.endIndex
            let key = property[..<equals].trimmed
            let value = property[equals...].dropFirst().trimmed
            guard key.isToken, value.allSatisfy(isOctet) else { return nil }
            properties.append(
                String(Substring(key)) + (equals == property.endIndex ? "" : "=" + String(Substring(value))))
        }
        return properties.joined(separator: ";")
    }

    /// `baggage-octet`: printable ASCII without white space, `"`, `,`, `;` and `\`.
    fileprivate static func isOctet(_ byte: UInt8) -> Bool {
        switch byte {
        case 0x21, 0x23...0x2B, 0x2D...0x3A, 0x3C...0x5B, 0x5D...0x7E: true
        default: false
        }
    }
}

extension Baggage.Entry {
    /// As on the wire; nil where the key is no token.
    fileprivate var member: String? {
        guard key.utf8[...].isToken else { return nil }
        let member = key + "=" + PercentEncoding.encoded(value)
        guard !metadata.isEmpty, let properties = Baggage.canonical(metadata.utf8[...]), !properties.isEmpty else {
            return member
        }
        return member + ";" + properties
    }
}

extension Substring.UTF8View {
    /// RFC 9110, section 5.6.2.
    var isToken: Bool {
        !isEmpty
            && allSatisfy { byte in
                switch byte {
                case 0x30...0x39, 0x41...0x5A, 0x61...0x7A: true
                default: "!#$%&'*+-.^_`|~".utf8.contains(byte)
                }
            }
    }
}

/// RFC 3986, section 2.1, over UTF-8.
private enum PercentEncoding {
    /// `%` itself is encoded, and `+`, which some decoders take for a space.
    static func encoded(_ text: String) -> String {
        if text.utf8.allSatisfy(isPlain) { return text }
        var bytes: [UInt8] = []
        bytes.reserveCapacity(text.utf8.count * 3)
        for byte in text.utf8 {
            if isPlain(byte) {
                bytes.append(byte)
            } else {
                bytes.append(UInt8(ascii: "%"))
                bytes.append(digit(byte >> 4))
                bytes.append(digit(byte & 15))
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    private static func isPlain(_ byte: UInt8) -> Bool {
        Baggage.isOctet(byte) && byte != UInt8(ascii: "%") && byte != UInt8(ascii: "+")
    }

    /// A `%` without two digits stands for itself; bytes that are not UTF-8 become U+FFFD, as W3C Baggage demands.
    static func decoded(_ text: Substring.UTF8View) -> String {
        guard text.contains(UInt8(ascii: "%")) else { return String(Substring(text)) }
        var bytes: [UInt8] = []
        bytes.reserveCapacity(text.count)
        var rest = text
        while let byte = rest.popFirst() {
            if byte == UInt8(ascii: "%"), let high = rest.first.flatMap(value),
                let low = rest.dropFirst().first.flatMap(value)
            {
                bytes.append(high << 4 | low)
                rest.removeFirst(2)
            } else {
                bytes.append(byte)
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    private static func digit(_ value: UInt8) -> UInt8 {
        value < 10 ? UInt8(ascii: "0") + value : UInt8(ascii: "A") + value - 10
    }

    private static func value(_ digit: UInt8) -> UInt8? {
        switch digit {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): digit - UInt8(ascii: "0")
        case UInt8(ascii: "a")...UInt8(ascii: "f"): digit - UInt8(ascii: "a") + 10
        case UInt8(ascii: "A")...UInt8(ascii: "F"): digit - UInt8(ascii: "A") + 10
        default: nil
        }
    }
}
