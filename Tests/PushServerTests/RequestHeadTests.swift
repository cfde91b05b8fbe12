import Foundation
import NIOCore
import OTLP
import TestSupport
import Testing

@testable import PushServer

@Suite("Reading request heads")
struct RequestHeadTests {
    private func read(_ text: String) -> RequestHead.Outcome { RequestHead.read(ByteBuffer(string: text)) }

    @Test("a plain head is read, whatever the case of its names")
    func plain() throws {
        let text =
            "POST /v1/events/a?group=iOS-15+ HTTP/1.1\r\nHost: x\r\nCONTENT-length:  12 \r\nX-Event-Key: 1\r\nx-event-KEY: 2\r\nX-A: b\r\n\r\nbody"
        guard case .head(let head) = read(text) else {
            Issue.record("not plain")
            return
        }
        #expect(head.method == "POST" && head.path == "/v1/events/a" && head.query == "group=iOS-15+")
        #expect(head.contentLength == 12 && head.byteCount == text.utf8.count - 4)
        #expect(head[.eventKey] == "1" && head.has(.eventKey) && head[.eventType] == nil && !head.has(.eventType))
    }

    /// RFC 9110, section 5.6.2.
    @Test("a field's name is made of these characters and no others")
    func tokenBytes() {
        let token = Set("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ".utf8)
        for byte in UInt8.min...UInt8.max where byte != UInt8(ascii: ":") && byte != UInt8(ascii: "\n") {
            let bytes = Array("GET / HTTP/1.1\r\nA".utf8) + [byte] + Array("b: c\r\n\r\n".utf8)
            var isRead = false
            if case .head = RequestHead.read(ByteBuffer(bytes: bytes)) { isRead = true }
            #expect(isRead == token.contains(byte), "byte \(byte)")
        }
    }

    @Test("a method, a path and a value are compared where they stand")
    func comparisons() throws {
        let text = "POST /v1/events/a HTTP/1.1\r\nContent-Type: Application/X-NDJSON; a=b\r\n\r\n"
        guard case .head(let head) = read(text) else {
            Issue.record("not plain")
            return
        }
        #expect(head.hasMethod("POST") && !head.hasMethod("POS") && !head.hasMethod("POSTS") && !head.hasMethod("post"))
        #expect(head.path(after: "/v1/events/") == "a" && head.path(after: "/v1/events/a") == "")
        #expect(head.path(after: "/v1/events/a/") == nil && head.path(after: "/v2/") == nil)
        #expect(head.value(of: .contentType, hasPrefix: "application/x-ndjson"))
        #expect(head.value(of: .contentType, hasPrefix: "application/x-ndjson; a=b"))
        #expect(!head.value(of: .contentType, hasPrefix: "application/x-ndjson; a=b;"))
        #expect(!head.value(of: .contentType, hasPrefix: "application/json") && !head.value(of: .accept, hasPrefix: ""))
    }

    @Test(
        "what is out of the ordinary is left to the general codec",
        arguments: [
            "GET / HTTP/1.0\r\n\r\n", "GET http://x/ HTTP/1.1\r\n\r\n", "OPTIONS * HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", "GET / HTTP/1.1\r\nExpect: 100-continue\r\n\r\n",
            "GET / HTTP/1.1\r\nUpgrade: h2c\r\n\r\n", "POST / HTTP/1.1\r\nTRANSFER-ENCODING:\tCHUNKED \r\n\r\n",
        ])
    func odd(text: String) {
        guard case .notPlain = read(text) else {
            Issue.record("taken as plain, or refused: \(text.debugDescription)")
            return
        }
        let latin1 = Array("GET / HTTP/1.1\r\nUser-Agent: caf".utf8) + [0xE9] + Array("\r\n\r\n".utf8)
        guard case .notPlain = RequestHead.read(ByteBuffer(bytes: latin1)) else {
            Issue.record("another encoding than UTF-8")
            return
        }
    }

    /// RFC 9112: section 2.2 (line ends), 3 (request line), 5.1 (white space before a colon), 5.2 (folding), 6.1 and 6.3
    /// (lengths and codings).
    @Test(
        "what can be read in two ways is refused",
        arguments: [
            "GET  / HTTP/1.1\r\n\r\n", "GET / HTTP/1.2\r\n\r\n", "GET / HTTP/1.1 \r\n\r\n", "G(T / HTTP/1.1\r\n\r\n",
            "GET /\u{1} HTTP/1.1\r\n\r\n", "GET /é HTTP/1.1\r\n\r\n", "\r\n\r\n",
            "GET / HTTP/1.1\r\nA : b\r\n\r\n", "GET / HTTP/1.1\r\n folded\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n", "GET / HTTP/1.1\r\n: b\r\n\r\n", "GET / HTTP/1.1\r\nA\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 1\r\ncontent-length: 2\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\n", "POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n", "POST / HTTP/1.1\r\nContent-Length: 0x1\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length:\r\n\r\n", "POST / HTTP/1.1\r\nContent-Length: 1 2\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 99999999999999\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: \u{B}chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding : chunked\r\n\r\n",
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "GET / HTTP/1.1\nA: b\r\n\r\n", "GET / HTTP/1.1\r\nA: b\n\r\n", "GET / HTTP/1.1\r\nA: b\n\n", "\n",
            "GET / HTTP/1.1\r\nA: b\rc\r\n\r\n", "GET / HTTP/1.1\r\nA: b\u{0}c\r\n\r\n",
        ])
    func ambiguous(text: String) {
        guard case .refused(.malformed) = read(text) else {
            Issue.record("not refused: \(text.debugDescription)")
            return
        }
    }

    @Test("every field that is looked at is found by its name, in any case, and no other is")
    func knownFields() {
        for field in RequestField.allCases where ![.transferEncoding, .expect, .upgrade].contains(field) {
            let value = field == .contentLength ? "7" : "a b"
            for name in ["\(field.name)", "\(field.name)".uppercased()] {
                guard case .head(let head) = read("GET / HTTP/1.1\r\n\(name): \t\(value) \t\r\n\r\n") else {
                    Issue.record("\(name) is not read")
                    return
                }
                #expect(head[field] == value)
                #expect(RequestField.allCases.filter(head.has) == [field])
            }
            guard case .head(let other) = read("GET / HTTP/1.1\r\n\(field.name)x: 1\r\nx\(field.name): 1\r\n\r\n")
            else {
                Issue.record("a name that begins or ends like \(field.name) is not read")
                return
            }
            #expect(RequestField.allCases.filter(other.has) == [])
        }
    }

    @Test("as many fields as are allowed are read, one more is refused")
    func fieldLimit() {
        func head(_ fields: Int) -> ByteBuffer {
            ByteBuffer(string: "GET / HTTP/1.1\r\n" + String(repeating: "a: b\r\n", count: fields) + "\r\n")
        }
        for fields in [1, 7, 8] {
            guard case .head = RequestHead.read(head(fields), maxFields: 8) else {
                Issue.record("\(fields) refused")
                return
            }
        }
        guard case .refused(.tooManyFields) = RequestHead.read(head(9), maxFields: 8) else {
            Issue.record("9 taken")
            return
        }
    }

    @Test("HTTP/2's preface is known")
    func preface() {
        guard case .http2 = read("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") else {
            Issue.record("not known")
            return
        }
    }

    @Test("every beginning of a head is incomplete")
    func incomplete() {
        let text = "GET /v1/events/a HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n"
        for count in 0..<text.utf8.count {
            guard case .incomplete = RequestHead.read(ByteBuffer(bytes: text.utf8.prefix(count))) else {
                Issue.record("complete after \(count) bytes")
                return
            }
        }
    }

    /// What is accepted must be readable in one way only, and the same however it arrives.
    @Test("sixty thousand mutated heads are read, left or refused; what is read cannot be read otherwise")
    func fuzz() {
        let corpus = [
            "POST /v1/events/a?x=%41 HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\nAccept: */*\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\n", "GET / HTTP/1.0\r\n\r\n",
            "GET /v1/events?topic=a HTTP/1.1\r\nHost: x\r\nLast-Event-ID: ev_x\r\nOrigin: http://a\r\n\r\n",
        ].map { Array($0.utf8) }
        let parts: [[UInt8]] =
            [
                "\r\n", "\n", "\r", " ", "\t", ":", "\u{0}", ",", "Content-Length: 3\r\n",
                "Transfer-Encoding: chunked\r\n",
                "\r\n\r\n", "\r\n ", "é",
            ].map { Array($0.utf8) } + [[0xFF], [0x0B], [0x7F]]
        var random = SeededGenerator(7)
        var plain = 0
        var refused = 0
        for _ in 0..<60_000 {
            var bytes = corpus.randomElement(using: &random) ?? []
            for _ in 0..<Int.random(in: 0...4, using: &random) {
                let at = Int.random(in: 0..<bytes.count, using: &random)
                switch Int.random(in: 0..<4, using: &random) {
                case 0: bytes[at] = UInt8.random(in: 0...255, using: &random)
                case 1: bytes.insert(bytes[Int.random(in: 0..<bytes.count, using: &random)], at: at)
                case 2 where bytes.count > 1: bytes.remove(at: at)
                default: bytes.insert(contentsOf: parts.randomElement(using: &random) ?? [], at: at)
                }
            }
            let whole = RequestHead.read(ByteBuffer(bytes: bytes))
            // In two parts: what was looked at before is not looked at again, and makes no difference.
            let cut = Int.random(in: 0...bytes.count, using: &random)
            if case .incomplete = RequestHead.read(ByteBuffer(bytes: bytes[..<cut])) {
                let again = RequestHead.read(ByteBuffer(bytes: bytes), scanned: cut)
                if Self.account(again) != Self.account(whole) { Issue.record("cut at \(cut): \(bytes)") }
            }
            switch whole {
            case .refused: refused += 1
            case .incomplete, .http2, .notPlain: break
            case .head(let head):
                plain += 1
                let end = bytes.firstRange(of: Array("\r\n\r\n".utf8))?.upperBound
                let lines = bytes[..<head.byteCount].split(separator: 0x0A, omittingEmptySubsequences: false).dropLast()
                let isClean =
                    head.byteCount == end && lines.allSatisfy { $0.last == 0x0D && !$0.dropLast().contains(0x0D) }
                    && !bytes[..<head.byteCount].contains(0) && !head.has(.transferEncoding)
                    && head.has(.contentLength) == (head.contentLength != nil) && (head.contentLength ?? 0) >= 0
                    && lines.dropFirst().allSatisfy { $0.first != 0x20 && $0.first != 0x09 }
                if !isClean || !head.path.hasPrefix("/") { Issue.record("\(bytes)") }
                _ = QueryString(head.query)
            }
        }
        #expect(plain > 5_000 && refused > 5_000)
    }

    /// All that a reading says, to compare two.
    private static func account(_ outcome: RequestHead.Outcome) -> String {
        guard case .head(let head) = outcome else { return "\(outcome)" }
        let fields = RequestField.allCases.map { "\($0.name): \(head[$0] ?? "-")" }
        return "\(head.method) \(head.path) \(head.query) \(head.byteCount) \(fields)"
    }

    @Test("queries are decoded as Python does, and + is a plus")
    func queries() throws {
        var random = SeededGenerator(3)
        let alphabet = Array("ab%4g1F+=é微 /?".unicodeScalars).map(String.init)
        let texts = (0..<2_000).map { _ in
            (0..<Int.random(in: 0...10, using: &random)).map { _ in alphabet.randomElement(using: &random) ?? "" }
                .joined()
        }
        // None where an escape is broken or the bytes are not UTF-8.
        let program = """
            import json, re, sys
            from urllib.parse import unquote_to_bytes
            for text in json.load(sys.stdin):
                value = None
                if not re.search("%(?![0-9A-Fa-f]{2})", text):
                    try: value = unquote_to_bytes(text).decode()
                    except UnicodeDecodeError: pass
                print(json.dumps(value))
            """
        let lines = try Peers.python(program, input: JSONEncoder().encode(texts)).text.split(separator: "\n")
        #expect(lines.count == texts.count)
        for (text, line) in zip(texts, lines) {
            let expected = try JSONDecoder().decode(String?.self, from: Data(line.utf8))
            #expect(QueryString.decode(text.utf8) == expected, "\(text)")
        }
        let query = try #require(QueryString("group=iOS-15+&topic=a&topic=b&empty&x=1=2"))
        #expect(query.first("group") == "iOS-15+" && query.all("topic") == ["a", "b"])
        #expect(query.first("empty") == "" && query.first("x") == "1=2")
    }

    @Test("times are read as Python reads them, to the nanosecond")
    func times() throws {
        var random = SeededGenerator(5)
        var texts: [String] = []
        for _ in 0..<500 {
            func two(_ range: ClosedRange<Int>) -> String {
                String(format: "%02d", Int.random(in: range, using: &random))
            }
            let zone = ["Z", "+08:00", "-03:30", "+05:45"].randomElement(using: &random) ?? "Z"
            let fraction = [".5", ".123456", ".000001", ""].randomElement(using: &random) ?? ""
            texts.append(
                "\(Int.random(in: 1971...2200, using: &random))-\(two(1...12))-\(two(1...28))T\(two(0...23)):\(two(0...59)):"
                    + "\(two(0...59))\(fraction)\(zone)")
        }
        let program = """
            import json, sys
            from datetime import datetime, timezone, timedelta
            epoch = datetime(1970, 1, 1, tzinfo=timezone.utc)
            for text in json.load(sys.stdin):
                delta = datetime.fromisoformat(text) - epoch
                print((delta.days * 86400 + delta.seconds) * 10**9 + delta.microseconds * 1000)
            """
        let lines = try Peers.python(program, input: JSONEncoder().encode(texts)).text.split(separator: "\n")
        for (text, line) in zip(texts, lines) { #expect(RFC3339.unixNano(text) == UInt64(line), "\(text)") }
        #expect(
            RFC3339.unixNano("2026-11-23T08:30:00.123456789Z")?.quotientAndRemainder(dividingBy: 1_000).remainder == 789
        )
        for bad in [
            "", "yesterday", "2026-13-01T00:00:00Z", "2026-01-01", "2026-01-01T00:00:00", "2026-01-01T00:00:00+8",
            "1969-12-31T23:59:59Z", "2026-01-01T24:00:00Z", "2026-01-01T00:00:00.Z", "2026-01-01T00:00:00ZZ",
        ] {
            #expect(RFC3339.unixNano(bad) == nil, "\(bad)")
        }
    }

    @Test("what the JSON writer writes, Python reads back")
    func json() throws {
        let texts = ["", "a\"b\\c/", "\u{0}\u{1}\u{1F}\u{7F}", "line\nbreak\r\ttab", "微信 🚗 é", "\u{2028}", "</script>"]
        var writer = JSONWriter()
        writer.beginObject()
        writer.key("texts")
        writer.beginArray()
        for text in texts { writer.value(text) }
        writer.endArray()
        writer.field("n", UInt64.max)
        writer.field("yes", true)
        writer.endObject()
        let program =
            "import json,sys; v=json.load(sys.stdin); print(json.dumps([v['texts'], v['n'] == 2**64-1, v['yes']]))"
        let output = try Peers.python(program, input: Data(writer.bytes)).standardOutput
        let parsed = try #require(try JSONSerialization.jsonObject(with: output) as? [Any])
        #expect(parsed[0] as? [String] == texts)
        #expect(parsed[1] as? Bool == true && parsed[2] as? Bool == true)
    }
}
