import Glibc
import NIOCore

/// The head of an HTTP/1.1 request, read without building objects for what is not asked for.
///
///     METHOD SP request-target SP HTTP/1.1 CRLF
///     *( field-name ":" OWS field-value OWS CRLF )
///     CRLF
///
/// This reader serves two routes only, and it is strict. What could be read in two ways (a line that ends in a bare LF, a
/// folded line, white space before a colon, control characters, two lengths, a length and a transfer coding) is refused,
/// since a proxy in front may have read it the other way. What is merely out of the ordinary (another version, an absolute
/// target, `Transfer-Encoding: chunked`, `Expect`, `Upgrade`) is not *plain*, and the request goes, byte for byte, to the
/// general HTTP codec.
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
        /// HTTP/2's connection preface.
        case http2
        /// Can be read in more than one way, or in none.
        case refused(Refusal)
        /// The blank line has not come yet.
        case incomplete
    }

    enum Refusal: Error {
        case malformed(String)
        case tooManyFields
    }

    /// What every HTTP/2 connection begins with, up to its first blank line (RFC 9113, section 3.4).
    private static let http2Preface = Array("PRI * HTTP/2.0\r\n\r\n".utf8)

    /// - Parameter scanned: bytes at the beginning that are known to hold no end of the head.
    static func read(_ buffer: ByteBuffer, scanned: Int = 0, maxFields: Int = 100) -> Outcome {
        let view = buffer.readableBytesView
        let end: Int
        switch endOfHead(view, from: scanned) {
        case .at(let index): end = index
        case .bareLineFeed: return .refused(.malformed("a line ends in LF alone; end lines with CR LF"))
        case .notYet: return .incomplete
        }
        let bytes = view[view.startIndex..<end]
        if bytes.elementsEqual(http2Preface) { return .http2 }
        do throws(Refusal) {
            return try parse(bytes, maxFields: maxFields)
        } catch {
            return .refused(error)
        }
    }

    private static func parse(_ bytes: ByteBufferView, maxFields: Int) throws(Refusal) -> Outcome {
        let valid = String(validating: bytes, as: UTF8.self)
        let text = valid ?? String(decoding: bytes, as: UTF8.self)
        var lines = text.utf8.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)[...]
        guard let requestLine = lines.popFirst().flatMap(withoutCR), !requestLine.isEmpty else {
            throw .malformed("no request line")
        }
        let parts = requestLine.split(separator: " ", omittingEmptySubsequences: false)
        guard parts.count == 3, parts[0].utf8.allSatisfy(isTokenByte), !parts[0].isEmpty,
            parts[1].utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F }), !parts[1].isEmpty
        else { throw .malformed("the request line is not METHOD SP TARGET SP HTTP/1.1") }
        guard parts[2] == "HTTP/1.1" || parts[2] == "HTTP/1.0" else {
            throw .malformed("the version is not HTTP/1.1")
        }
        var isPlain = valid != nil && parts[2] == "HTTP/1.1" && parts[1].utf8.first == UInt8(ascii: "/")

        var fields: [(Substring, Substring)] = []
        var contentLength: Int?
        var isChunked = false
        var hasHost = false
        for line in lines {
            guard let field = withoutCR(line) else {
                if line.isEmpty { continue }
                throw .malformed("a line ends in LF alone; end lines with CR LF")
            }
            if field.isEmpty { continue }
            guard fields.count < maxFields else { throw .tooManyFields }
            guard let colon = field.utf8.firstIndex(of: UInt8(ascii: ":")), colon > field.startIndex else {
                throw .malformed("a line is not NAME: VALUE")
            }
            let name = field[..<colon]
            guard name.utf8.allSatisfy(isTokenByte) else {
                throw .malformed("a field's name has a character that no name has, such as a space before its colon")
            }
            let value = trimmed(field[field.utf8.index(after: colon)...])
            guard value.utf8.allSatisfy({ $0 >= 0x20 && $0 != 0x7F || $0 == 0x09 }) else {
                throw .malformed("a field's value has a control character")
            }
            if equal(name, "content-length") {
                guard contentLength == nil else { throw .malformed("Content-Length is there twice") }
                guard !value.isEmpty, value.utf8.allSatisfy({ (0x30...0x39).contains($0) }),
                    let length = Int(value), length <= 1 << 40
                else { throw .malformed("Content-Length is not one number of bytes") }
                contentLength = length
            } else if equal(name, "transfer-encoding") {
                guard !isChunked, equal(value, "chunked"), parts[2] == "HTTP/1.1" else {
                    throw .malformed("Transfer-Encoding is not chunked, once, in HTTP/1.1")
                }
                (isChunked, isPlain) = (true, false)
            } else if equal(name, "host") {
                guard !hasHost else { throw .malformed("Host is there twice") }
                hasHost = true
            } else if equal(name, "expect") || equal(name, "upgrade") {
                isPlain = false
            }
            fields.append((name, value))
        }
        guard contentLength == nil || !isChunked else {
            throw .malformed("Content-Length and Transfer-Encoding exclude each other")
        }
        guard isPlain else { return .notPlain }
        let target = parts[1]
        let mark = target.utf8.firstIndex(of: UInt8(ascii: "?"))
        return .head(
            RequestHead(
                method: parts[0], path: target[..<(mark ?? target.endIndex)],
                query: mark.map { target[target.utf8.index(after: $0)...] } ?? "", byteCount: bytes.count,
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

    private enum End {
        case at(Int)
        case bareLineFeed
        case notYet
    }

    private static func endOfHead(_ view: ByteBufferView, from scanned: Int) -> End {
        view.withUnsafeBytes { bytes -> End in
            guard let base = bytes.baseAddress else { return .notYet }
            // A line feed within the last bytes that were looked at may be one of the blank line's.
            var index = max(0, scanned - 3)
            while index < bytes.count {
                guard let found = memchr(base + index, 0x0A, bytes.count - index) else { return .notYet }
                let feed = UnsafeRawPointer(found) - base
                guard feed > 0, bytes[feed - 1] == 0x0D else { return .bareLineFeed }
                if feed >= 3, bytes[feed - 2] == 0x0A, bytes[feed - 3] == 0x0D {
                    return .at(view.startIndex + feed + 1)
                }
                index = feed + 1
            }
            return .notYet
        }
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
