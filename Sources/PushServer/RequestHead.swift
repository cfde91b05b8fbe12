import Glibc
import NIOCore

/// The head of an HTTP/1.1 request, read in one pass over its bytes; a text is made only of what is asked for.
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
final class RequestHead {
    /// Nil when there is no Content-Length.
    let contentLength: Int?
    private let bytes: ByteBuffer
    private let places: (method: Place, path: Place, query: Place)
    /// Where the first value of each known field is, from the head's beginning.
    private let values: Values

    private typealias Values = InlineArray<20, Place>

    private struct Place {
        var start: Int32 = -1
        var count: Int32 = 0
        var isThere: Bool { start >= 0 }

        init() {}

        init(_ range: Range<Int>) {
            start = Int32(clamping: range.lowerBound)
            count = Int32(clamping: range.count)
        }
    }

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
    private static let http2Preface: StaticString = "PRI * HTTP/2.0\r\n\r\n"

    /// - Parameter scanned: bytes at the beginning that are known to hold no end of the head.
    static func read(_ buffer: ByteBuffer, scanned: Int = 0, maxFields: Int = 100) -> Outcome {
        buffer.withUnsafeReadableBytes { all in
            switch endOfHead(all, from: scanned) {
            case .bareLineFeed: return .refused(.malformed("a line ends in LF alone; end lines with CR LF"))
            case .notYet: return .incomplete
            case .at(let end):
                let bytes = UnsafeRawBufferPointer(rebasing: all[..<end])
                if bytes.equals(http2Preface) { return .http2 }
                do throws(Refusal) {
                    var parser = Parser(bytes: bytes)
                    try parser.parse(maxFields: maxFields)
                    guard parser.isPlain else { return .notPlain }
                    return .head(RequestHead(parser, buffer.getSlice(at: buffer.readerIndex, length: end) ?? buffer))
                } catch {
                    return .refused(error)
                }
            }
        }
    }

    private init(_ parser: Parser, _ bytes: ByteBuffer) {
        places = (Place(parser.method), Place(parser.path), Place(parser.query))
        contentLength = parser.contentLength
        values = parser.values
        self.bytes = bytes
    }

    /// Bytes of the head, the blank line included.
    var byteCount: Int { bytes.readableBytes }

    var method: String { text(places.method) }
    /// As it was sent, its escapes not decoded.
    var path: String { text(places.path) }
    /// Without the question mark; empty when there is none.
    var query: String { places.query.count == 0 ? "" : text(places.query) }

    func hasMethod(_ method: StaticString) -> Bool { withBytes(of: places.method) { $0.equals(method) } }

    /// What follows `prefix` in the path; nil for a path that begins with something else.
    func path(after prefix: StaticString) -> String? {
        let count = prefix.utf8CodeUnitCount
        return withBytes(of: places.path) { path in
            guard path.count >= count, UnsafeRawBufferPointer(rebasing: path[..<count]).equals(prefix) else {
                return nil
            }
            return String(decoding: UnsafeRawBufferPointer(rebasing: path[count...]), as: UTF8.self)
        }
    }

    /// The first field of that name.
    subscript(_ field: RequestField) -> String? {
        let place = values[field.rawValue]
        return place.isThere ? text(place) : nil
    }

    func has(_ field: RequestField) -> Bool { values[field.rawValue].isThere }

    /// Whether the first field of that name begins so. `prefix` is in lower case, the value's case is ignored.
    func value(of field: RequestField, hasPrefix prefix: StaticString) -> Bool {
        let count = prefix.utf8CodeUnitCount
        let place = values[field.rawValue]
        guard place.isThere, place.count >= count else { return false }
        return withBytes(of: place) {
            UnsafeRawBufferPointer(rebasing: $0[..<count]).equals(prefix, ignoringCase: true)
        }
    }

    var wantsClose: Bool { has(.connection) && self[.connection]?.lowercased().contains("close") == true }

    /// Whether the bytes are all ASCII, or valid UTF-8 at least, was looked at when the head was read.
    private func text(_ place: Place) -> String {
        withBytes(of: place) { String(decoding: $0, as: UTF8.self) }
    }

    private func withBytes<Result>(of place: Place, _ body: (UnsafeRawBufferPointer) -> Result) -> Result {
        bytes.withUnsafeReadableBytes { all in
            body(UnsafeRawBufferPointer(rebasing: all[Int(place.start)..<Int(place.start + place.count)]))
        }
    }

    // MARK: Reading

    private enum End {
        case at(Int)
        case bareLineFeed
        case notYet
    }

    private static func endOfHead(_ bytes: UnsafeRawBufferPointer, from scanned: Int) -> End {
        guard let base = bytes.baseAddress else { return .notYet }
        // A line feed within the last bytes that were looked at may be one of the blank line's.
        var index = max(0, scanned - 3)
        while index < bytes.count {
            guard let found = memchr(base + index, 0x0A, bytes.count - index) else { return .notYet }
            let feed = UnsafeRawPointer(found) - base
            guard feed > 0, bytes[feed - 1] == 0x0D else { return .bareLineFeed }
            if feed >= 3, bytes[feed - 2] == 0x0A, bytes[feed - 3] == 0x0D { return .at(feed + 1) }
            index = feed + 1
        }
        return .notYet
    }

    /// Goes over a whole head once. Every line of it ends in CR LF, which has been seen to.
    private struct Parser {
        let bytes: UnsafeRawBufferPointer
        private(set) var method = 0..<0
        private(set) var path = 0..<0
        private(set) var query = 0..<0
        private(set) var contentLength: Int?
        private(set) var values = Values(repeating: Place())
        private(set) var isPlain = true
        private var isVersion11 = true
        private var isChunked = false
        /// All bytes of all values, or-ed.
        private var seen: UInt8 = 0

        init(bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

        mutating func parse(maxFields: Int) throws(Refusal) {
            var start = try requestLine()
            var fields = 0
            while start < bytes.count {
                let end = endOfLine(from: start)
                // The blank line.
                if end == start { break }
                guard fields < maxFields else { throw .tooManyFields }
                fields += 1
                try field(start..<end)
                start = end + 2
            }
            guard contentLength == nil || !isChunked else {
                throw .malformed("Content-Length and Transfer-Encoding exclude each other")
            }
            // Names and the target have been held to ASCII.
            if seen >= 0x80, String(validating: bytes, as: UTF8.self) == nil { isPlain = false }
        }

        private func endOfLine(from start: Int) -> Int {
            guard let base = bytes.baseAddress, let feed = memchr(base + start, 0x0A, bytes.count - start) else {
                return bytes.count
            }
            return UnsafeRawPointer(feed) - base - 1
        }

        /// Where the next line begins.
        private mutating func requestLine() throws(Refusal) -> Int {
            let end = endOfLine(from: 0)
            guard end > 0 else { throw .malformed("no request line") }
            var at = 0
            while at < end, RequestHead.isTokenByte(bytes[at]) { at += 1 }
            method = 0..<at
            let targetStart = at + 1
            at = targetStart
            var mark: Int?
            while at < end, bytes[at] > 0x20, bytes[at] < 0x7F {
                if mark == nil, bytes[at] == UInt8(ascii: "?") { mark = at }
                at += 1
            }
            let isGood =
                !method.isEmpty && at > targetStart && at < end && bytes[targetStart - 1] == UInt8(ascii: " ")
                && bytes[at] == UInt8(ascii: " ")
            guard isGood else { throw .malformed("the request line is not METHOD SP TARGET SP HTTP/1.1") }
            path = targetStart..<(mark ?? at)
            query = mark.map { ($0 + 1)..<at } ?? at..<at
            let version = UnsafeRawBufferPointer(rebasing: bytes[(at + 1)..<end])
            isVersion11 = version.equals("HTTP/1.1")
            guard isVersion11 || version.equals("HTTP/1.0") else { throw .malformed("the version is not HTTP/1.1") }
            isPlain = isVersion11 && bytes[targetStart] == UInt8(ascii: "/")
            return end + 2
        }

        private mutating func field(_ line: Range<Int>) throws(Refusal) {
            var colon = line.lowerBound
            while colon < line.upperBound, RequestHead.isTokenByte(bytes[colon]) { colon += 1 }
            guard colon < line.upperBound, bytes[colon] == UInt8(ascii: ":") else {
                throw bytes[line].contains(UInt8(ascii: ":")) && bytes[line.lowerBound] != UInt8(ascii: ":")
                    ? .malformed("a field's name has a character that no name has, such as a space before its colon")
                    : .malformed("a line is not NAME: VALUE")
            }
            guard colon > line.lowerBound else { throw .malformed("a line is not NAME: VALUE") }
            var (start, end) = (colon + 1, line.upperBound)
            while start < end, Self.isBlank(bytes[start]) { start += 1 }
            while end > start, Self.isBlank(bytes[end - 1]) { end -= 1 }
            for index in start..<end {
                let byte = bytes[index]
                guard byte >= 0x20 && byte != 0x7F || byte == 0x09 else {
                    throw .malformed("a field's value has a control character")
                }
                seen |= byte
            }
            let name = UnsafeRawBufferPointer(rebasing: bytes[line.lowerBound..<colon])
            guard let field = RequestField(name) else { return }
            let isRepeated = values[field.rawValue].isThere
            switch field {
            case .contentLength:
                guard !isRepeated else { throw .malformed("Content-Length is there twice") }
                contentLength = try length(start..<end)
            case .transferEncoding:
                guard !isRepeated, isVersion11,
                    UnsafeRawBufferPointer(rebasing: bytes[start..<end]).equals("chunked", ignoringCase: true)
                else { throw .malformed("Transfer-Encoding is not chunked, once, in HTTP/1.1") }
                (isChunked, isPlain) = (true, false)
            case .host:
                guard !isRepeated else { throw .malformed("Host is there twice") }
            case .expect, .upgrade:
                isPlain = false
            default: break
            }
            guard !isRepeated else { return }
            values[field.rawValue] = Place(start..<end)
        }

        private func length(_ range: Range<Int>) throws(Refusal) -> Int {
            var length = 0
            for byte in bytes[range] {
                guard (0x30...0x39).contains(byte), length <= 1 << 40 else {
                    throw .malformed("Content-Length is not one number of bytes")
                }
                length = length * 10 + Int(byte - 0x30)
            }
            guard !range.isEmpty, length <= 1 << 40 else {
                throw .malformed("Content-Length is not one number of bytes")
            }
            return length
        }

        private static func isBlank(_ byte: UInt8) -> Bool { byte == 0x20 || byte == 0x09 }
    }

    /// RFC 9110's `tchar`, a bit for each: `!#$%&'*+-.^_`|~`, digits and letters.
    private static func isTokenByte(_ byte: UInt8) -> Bool {
        let bits: UInt64 = byte < 64 ? 0x03FF_6CFA_0000_0000 : byte < 128 ? 0x57FF_FFFF_C7FF_FFFE : 0
        return bits >> (UInt64(byte) & 63) & 1 != 0
    }
}

/// The fields of a request that anything here looks at.
enum RequestField: Int, CaseIterable {
    case accept, authorization, connection, contentLength, contentType, deviceGroup, deviceID, eventKey, eventTime
    case eventType, expect, host, idempotencyKey, lastEventID, origin, traceparent, tracestate, transferEncoding
    case upgrade, userAgent

    /// In lower case.
    var name: StaticString {
        switch self {
        case .accept: "accept"
        case .authorization: "authorization"
        case .connection: "connection"
        case .contentLength: "content-length"
        case .contentType: "content-type"
        case .deviceGroup: "x-device-group"
        case .deviceID: "x-device-id"
        case .eventKey: "x-event-key"
        case .eventTime: "x-event-time"
        case .eventType: "x-event-type"
        case .expect: "expect"
        case .host: "host"
        case .idempotencyKey: "idempotency-key"
        case .lastEventID: "last-event-id"
        case .origin: "origin"
        case .traceparent: "traceparent"
        case .tracestate: "tracestate"
        case .transferEncoding: "transfer-encoding"
        case .upgrade: "upgrade"
        case .userAgent: "user-agent"
        }
    }

    /// Nil for a name that nothing here looks at. The length leaves three candidates at most.
    init?(_ name: UnsafeRawBufferPointer) {
        func either(_ first: RequestField, _ second: RequestField? = nil, _ third: RequestField? = nil) -> Self? {
            if name.equals(first.name, ignoringCase: true) { return first }
            if let second, name.equals(second.name, ignoringCase: true) { return second }
            if let third, name.equals(third.name, ignoringCase: true) { return third }
            return nil
        }
        let found: RequestField? =
            switch name.count {
            case 4: either(.host)
            case 6: either(.accept, .origin, .expect)
            case 7: either(.upgrade)
            case 10: either(.connection, .userAgent, .tracestate)
            case 11: either(.traceparent, .deviceID, .eventKey)
            case 12: either(.contentType, .eventType, .eventTime)
            case 13: either(.authorization, .lastEventID)
            case 14: either(.contentLength, .deviceGroup)
            case 15: either(.idempotencyKey)
            case 17: either(.transferEncoding)
            default: nil
            }
        guard let found else { return nil }
        self = found
    }
}

extension UnsafeRawBufferPointer {
    /// - Parameter text: in lower case, where case is ignored; of ASCII.
    fileprivate func equals(_ text: StaticString, ignoringCase: Bool = false) -> Bool {
        guard count == text.utf8CodeUnitCount, let base = baseAddress else { return false }
        guard ignoringCase else { return memcmp(base, text.utf8Start, count) == 0 }
        for index in 0..<count {
            let byte = self[index]
            let lower = byte >= 0x41 && byte <= 0x5A ? byte | 0x20 : byte
            if lower != text.utf8Start[index] { return false }
        }
        return true
    }
}
