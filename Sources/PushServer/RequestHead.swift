import NIOCore

/// The head of an HTTP/1.1 request, read without building objects for what is not asked for.
///
///     METHOD SP request-target SP HTTP/1.1 CRLF
///     *( field-name ":" OWS field-value OWS CRLF )
///     CRLF
///
/// This reader serves two routes only, and it is strict: whatever is out of the ordinary (another version, a bare LF,
/// a folded line, white space before a colon, Transfer-Encoding, two lengths, Expect, Upgrade) is not *plain*, and the
/// request goes, byte for byte, to the general HTTP codec, which decides what to make of it. So there is one judge of
/// odd requests, and nothing to smuggle between two.
struct RequestHead {
    let method: Substring
    let path: Substring
    /// Without the question mark; empty when there is none.
    let query: Substring
    /// Bytes of the head, the blank line included.
    let byteCount: Int
    /// Nil when there is no Content-Length.
    let contentLength: Int?
    private let fields: [(name: Substring, value: Substring)]

    enum Outcome {
        case head(RequestHead)
        /// For the general codec.
        case notPlain
        /// The blank line has not come yet.
        case incomplete
    }

    static func read(_ buffer: ByteBuffer) -> Outcome {
        let view = buffer.readableBytesView
        guard let end = endOfHead(view) else { return .incomplete }
        guard let text = String(validating: view[view.startIndex..<end], as: UTF8.self) else { return .notPlain }
        var lines = text.utf8.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)[...]
        guard let requestLine = lines.popFirst().flatMap(withoutCR) else { return .notPlain }
        let parts = requestLine.split(separator: " ", omittingEmptySubsequences: false)
        guard parts.count == 3, parts[2] == "HTTP/1.1", parts[1].utf8.first == UInt8(ascii: "/"),
            parts[1].utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F })
        else { return .notPlain }

        var fields: [(Substring, Substring)] = []
        var contentLength: Int?
        for line in lines {
            guard let field = withoutCR(line) else {
                if line.isEmpty { continue }
                return .notPlain
            }
            if field.isEmpty { continue }
            guard let colon = field.utf8.firstIndex(of: UInt8(ascii: ":")), colon > field.startIndex else {
                return .notPlain
            }
            let name = field[..<colon]
            guard name.utf8.allSatisfy(isTokenByte) else { return .notPlain }
            let value = trimmed(field[field.utf8.index(after: colon)...])
            guard value.utf8.allSatisfy({ $0 >= 0x20 && $0 != 0x7F || $0 == 0x09 }) else { return .notPlain }
            if equal(name, "content-length") {
                guard contentLength == nil, !value.isEmpty, value.utf8.count <= 12,
                    value.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let length = Int(value)
                else { return .notPlain }
                contentLength = length
            } else if equal(name, "transfer-encoding") || equal(name, "expect") || equal(name, "upgrade") {
                return .notPlain
            }
            fields.append((name, value))
        }
        let target = parts[1]
        let mark = target.utf8.firstIndex(of: UInt8(ascii: "?"))
        return .head(
            RequestHead(
                method: parts[0], path: target[..<(mark ?? target.endIndex)],
                query: mark.map { target[target.utf8.index(after: $0)...] } ?? "", byteCount: end - view.startIndex,
                contentLength: contentLength, fields: fields))
    }

    /// The first field of that name, which is given in lower case.
    func first(_ name: StaticString) -> String? {
        for field in fields where Self.equal(field.name, name) { return String(field.value) }
        return nil
    }

    /// How often the field is there.
    func count(_ name: StaticString) -> Int { fields.count { Self.equal($0.name, name) } }

    var wantsClose: Bool { first("connection")?.lowercased().contains("close") ?? false }

    private static func endOfHead(_ view: ByteBufferView) -> Int? {
        view.withUnsafeBytes { bytes -> Int? in
            var index = 3
            while index < bytes.count {
                // Three of four positions are passed over: only a line end can be the last byte of the blank line.
                if bytes[index] == 0x0A {
                    if bytes[index - 1] == 0x0D, bytes[index - 2] == 0x0A, bytes[index - 3] == 0x0D { return index + 1 }
                    index += 1
                } else if bytes[index] == 0x0D {
                    index += 1
                } else {
                    index += 2
                }
            }
            return nil
        }.map { view.startIndex + $0 }
    }

    private static func withoutCR(_ line: Substring.UTF8View) -> Substring? {
        line.last == UInt8(ascii: "\r") ? Substring(line.dropLast()) : nil
    }

    private static func trimmed(_ text: Substring) -> Substring {
        var utf8 = text.utf8
        while let first = utf8.first, first == 0x20 || first == 0x09 { utf8.removeFirst() }
        while let last = utf8.last, last == 0x20 || last == 0x09 { utf8.removeLast() }
        return Substring(utf8)
    }

    private static func isTokenByte(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"):
            true
        default: "!#$%&'*+-.^_`|~".utf8.contains(byte)
        }
    }

    /// ASCII case-insensitive; `name` is in lower case.
    private static func equal(_ field: Substring, _ name: StaticString) -> Bool {
        guard field.utf8.count == name.utf8CodeUnitCount else { return false }
        var index = 0
        for byte in field.utf8 {
            let lower = byte >= 0x41 && byte <= 0x5A ? byte | 0x20 : byte
            if lower != name.utf8Start[index] { return false }
            index += 1
        }
        return true
    }
}

/// A query string. `+` stands for itself, as in RFC 3986: device groups such as `iOS-15+` are typed as they are.
struct QueryString {
    let items: [(name: String, value: String)]

    /// Nil for a percent escape that is broken or does not decode to UTF-8.
    init?(_ text: some StringProtocol) {
        var items: [(String, String)] = []
        for pair in text.utf8.split(separator: UInt8(ascii: "&")) {
            let equals = pair.firstIndex(of: UInt8(ascii: "="))
            guard let name = Self.decode(pair[..<(equals ?? pair.endIndex)]),
                let value = Self.decode(equals.map { pair[pair.index(after: $0)...] } ?? pair[pair.endIndex...])
            else { return nil }
            items.append((name, value))
        }
        self.items = items
    }

    func first(_ name: String) -> String? { items.first { $0.name == name }?.value }
    func all(_ name: String) -> [String] { items.lazy.filter { $0.name == name }.map(\.value) }

    static func decode(_ bytes: some Collection<UInt8>) -> String? {
        var result: [UInt8] = []
        result.reserveCapacity(bytes.count)
        var iterator = bytes.makeIterator()
        while let byte = iterator.next() {
            guard byte == UInt8(ascii: "%") else {
                result.append(byte)
                continue
            }
            guard let high = iterator.next().flatMap(hexValue), let low = iterator.next().flatMap(hexValue) else {
                return nil
            }
            result.append(high << 4 | low)
        }
        return String(validating: result, as: UTF8.self)
    }

    private static func hexValue(_ byte: UInt8) -> UInt8? {
        switch byte {
        case 0x30...0x39: byte - 0x30
        case 0x41...0x46: byte - 0x37
        case 0x61...0x66: byte - 0x57
        default: nil
        }
    }
}
