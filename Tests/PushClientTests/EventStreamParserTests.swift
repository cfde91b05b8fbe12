import Foundation
import PushClient
import TestSupport
import Testing

/// What a stream gave.
struct Parsed: Equatable, CustomStringConvertible {
    var events: [ServerSentEvent] = []
    var lastEventID: String?
    var retry: Duration?

    /// By the unicode scalars: `String` holds canonically equivalent texts for equal.
    var scalars: [[UInt32]] {
        events.flatMap { [$0.id ?? "-", $0.type, $0.data, $0.traceparent ?? "-"] }.map {
            $0.unicodeScalars.map(\.value)
        }
    }

    var description: String { "\(events) last \(lastEventID ?? "nil") retry \(retry.map { "\($0)" } ?? "nil")" }

    static func whole(_ bytes: [UInt8]) throws -> Parsed { try pieces([bytes]) }

    static func pieces(_ pieces: [[UInt8]]) throws -> Parsed {
        var parser = EventStreamParser()
        var parsed = Parsed()
        for piece in pieces { try piece.withUnsafeBytes { try parser.push($0) { parsed.events.append($0) } } }
        parsed.lastEventID = parser.lastEventID
        parsed.retry = parser.retry
        return parsed
    }
}

/// One stream and the data of its events.
struct Vector: Sendable, CustomTestStringConvertible {
    let name: String
    let stream: String
    let events: [ServerSentEvent]
    var lastEventID: String?
    var retry: Duration?
    var testDescription: String { name }

    init(
        _ name: String, _ stream: String, _ events: [ServerSentEvent], last: String? = nil, retry: Duration? = nil
    ) {
        (self.name, self.stream, self.events, self.lastEventID, self.retry) = (name, stream, events, last, retry)
    }
}

private func event(_ data: String, type: String = "message", id: String? = nil, trace: String? = nil) -> ServerSentEvent
{
    ServerSentEvent(id: id, type: type, data: data, traceparent: trace)
}

@Suite("Reading an event stream")
struct EventStreamParserTests {
    /// "spec": the examples of HTML, section 9.2.6. "wpt": web-platform-tests, `eventsource/format-*.any.js`, with what
    /// those tests assert, some of them shortened.
    static let vectors: [Vector] = [
        Vector("spec: stocks", "data: YHOO\ndata: +2\ndata: 10\n\n", [event("YHOO\n+2\n10")]),
        Vector(
            "spec: four blocks",
            ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n",
            [event("first event", id: "1"), event("second event", id: "")], last: ""),
        Vector(
            "spec: four blocks, the last one complete",
            ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
            [event("first event", id: "1"), event("second event", id: ""), event(" third event", id: "")], last: ""),
        Vector("spec: empty data", "data\n\ndata\ndata\n\ndata:", [event(""), event("\n")]),
        Vector("spec: one space", "data:test\n\ndata: test\n\n", [event("test"), event("test")]),
        Vector(
            "spec: named events", "event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\n",
            [event("73857293", type: "add"), event("2153", type: "remove")]),
        Vector("wpt format-bom", "\u{FEFF}data:1\n\n\u{FEFF}data:2\n\ndata:3\n\n", [event("1"), event("3")]),
        Vector("wpt format-bom-2", "\u{FEFF}\u{FEFF}data:1\n\ndata:2\n\ndata:3\n\n", [event("2"), event("3")]),
        Vector(
            "wpt format-comments",
            "data:1\r:\0\n:\r\ndata:2\n:" + String(repeating: "x", count: 2 * 1024) + "\rdata:3\n:data:fail\r:"
                + String(repeating: "x", count: 2 * 1024) + "\ndata:4\n\n",
            [event("1\n2\n3\n4")]),
        Vector(
            "wpt format-data-before-final-empty-line", "retry:1000\ndata:test1\n\nid:test\ndata:test2",
            [event("test1")], retry: .seconds(1)),
        Vector(
            "wpt format-field-data", "data:\n\ndata\ndata\n\ndata:test\n\n", [event(""), event("\n"), event("test")]),
        Vector("wpt format-field-event", "event:test\ndata:x\n\ndata:x\n\n", [event("x", type: "test"), event("x")]),
        Vector("wpt format-field-event-empty", "event: \ndata:data\n\n", [event("data")]),
        Vector(
            "wpt format-field-id", "id: 1\ndata: a\n\ndata: b\n\n", [event("a", id: "1"), event("b", id: "1")],
            last: "1"),
        Vector(
            "wpt format-field-id-2", "id:…\ndata:1\n\nid:\ndata:2\n\nid\ndata:3\n\n",
            [event("1", id: "…"), event("2", id: ""), event("3", id: "")], last: ""),
        Vector(
            "wpt format-field-id-null", "id:1\0\ndata:hello\n\nid:\0\ndata:2\n\nid:3\ndata:3\n\nid:4\0 5\ndata:4\n\n",
            [event("hello"), event("2"), event("3", id: "3"), event("4", id: "3")], last: "3"),
        Vector(
            "wpt format-field-parsing",
            "data:\0\ndata:  2\rData:1\ndata\0:2\ndata:1\r\0data:4\nda-ta:3\rdata_5\ndata:3\rdata:\r\n data:32\n"
                + "data:4\n\n", [event("\0\n 2\n1\n3\n\n4")]),
        Vector("wpt format-field-retry", "retry:03000\ndata:x\n\n", [event("x")], retry: .seconds(3)),
        Vector("wpt format-field-retry-bogus", "retry:3000\nretry:1000x\ndata:x\n\n", [event("x")], retry: .seconds(3)),
        Vector("wpt format-field-retry-empty", "retry\ndata:test\n\n", [event("test")]),
        Vector(
            "wpt format-field-unknown", "data:test\n data\ndata\nfoobar:xxx\njustsometext\n:thisisacommentyay\n\n",
            [event("test\n")]),
        Vector("wpt format-leading-space", "data:\ttest\rdata: \ndata:test\n\n", [event("\ttest\n\ntest")]),
        Vector("wpt format-newlines", "data:test\r\ndata\ndata:test\r\n\r", [event("test\n\ntest")]),
        Vector("wpt format-null-character", "data:\0\n\n\n\n", [event("\0")]),
        Vector("wpt format-utf-8", "data:ok…\n\n", [event("ok…")]),
        Vector("retry takes digits only", "retry:-1\nretry:1.5\nretry: 7 \nretry:1e3\nretry:٣\nretry:  5\n\n", []),
        Vector("retry counts without an event", "retry: 250\n", [], retry: .milliseconds(250)),
        Vector("a huge retry stays a number", "retry: 99999999999999999999999\n", [], retry: .milliseconds(Int64.max)),
        Vector("an id without data moves the point to resume from", "id: 9\n\n", [], last: "9"),
        Vector("an id without its empty line does not", "id: 9\ndata: x\n", []),
        Vector("a type without data is forgotten", "event: lost\n\ndata: x\n\n", [event("x")]),
        Vector(
            "only the last of several types and ids counts", "event:a\nevent:b\nid:1\nid:2\ndata:x\n\n",
            [event("x", type: "b", id: "2")], last: "2"),
        Vector("field names are compared exactly", "DATA: x\ndata : y\n data: z\nid : 1\n\n", []),
        Vector("a colon in the value belongs to it", "data: a: b\ndata::\n\n", [event("a: b\n:")]),
        Vector(
            "a traceparent belongs to its own event",
            "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\ndata: a\n\ndata: b\n\n",
            [event("a", trace: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), event("b")]),
        Vector("a traceparent of a block without data is forgotten", "traceparent: x\n\ndata: b\n\n", [event("b")]),
        Vector(
            "the type isotherm.reset is like any other", "event: isotherm.reset\nid: 5\ndata: {}\n\n",
            [event("{}", type: "isotherm.reset", id: "5")], last: "5"),
        Vector("an empty stream has no event", "", []),
    ]

    @Test("each vector gives its events, whole and cut at every position", arguments: vectors)
    func vector(_ vector: Vector) throws {
        let expected = Parsed(events: vector.events, lastEventID: vector.lastEventID, retry: vector.retry)
        let bytes = Array(vector.stream.utf8)
        #expect(try Parsed.whole(bytes) == expected)
        #expect(try Parsed.pieces(bytes.map { [$0] }) == expected)
        for cut in bytes.indices {
            let parsed = try Parsed.pieces([Array(bytes[..<cut]), [], Array(bytes[cut...])])
            #expect(parsed == expected, "cut at \(cut)")
        }
    }

    @Test("every mixture of line ends gives the same events")
    func lineEnds() throws {
        let lines = ["id: 1", "data: a", "data: b", "", "event: t", "data: c", ""]
        let ends = ["\n", "\r", "\r\n"]
        let expected = [event("a\nb", id: "1"), event("c", type: "t", id: "1")]
        for choice in 0..<2_187 {  // 3⁷
            var stream = ""
            var rest = choice
            var previous = ""
            for line in lines {
                // An empty line's LF right behind a CR would be the second half of a CRLF.
                let end = line.isEmpty && previous == "\r" && rest % 3 == 0 ? "\r" : ends[rest % 3]
                stream += line + end
                previous = end
                rest /= 3
            }
            let bytes = Array(stream.utf8)
            #expect(try Parsed.whole(bytes).events == expected)
            #expect(try Parsed.pieces(bytes.map { [$0] }).events == expected)
        }
    }

    @Test("an LF after a CR that ended the last piece is not another line end")
    func splitLineEnd() throws {
        let parsed = try Parsed.pieces([Array("data: a\r".utf8), Array("\ndata: b\r\n".utf8), Array("\r\n".utf8)])
        #expect(parsed.events == [event("a\nb")])
    }

    @Test("bytes that are not UTF-8 become replacement characters")
    func invalidUTF8() throws {
        // "Substitution of maximal subparts", Unicode 15, table 3-8: 61 F1 80 80 E1 80 C2 62 80 63 80 BF 64.
        let bytes =
            Array("data:".utf8) + [0x61, 0xF1, 0x80, 0x80, 0xE1, 0x80, 0xC2, 0x62, 0x80, 0x63, 0x80, 0xBF, 0x64]
        #expect(
            try Parsed.whole(bytes + [10, 10]).events == [event("a\u{FFFD}\u{FFFD}\u{FFFD}b\u{FFFD}c\u{FFFD}\u{FFFD}d")]
        )
    }

    @Test("after a reset the partial event is gone, the id and the retry stay, and a BOM may come")
    func reset() throws {
        var parser = EventStreamParser()
        var events: [ServerSentEvent] = []
        func push(_ text: String) throws {
            try Array(text.utf8).withUnsafeBytes { try parser.push($0) { events.append($0) } }
        }
        try push("id: 1\nretry: 5\ndata: a\n\nid: 2\nevent: lost\ntraceparent: lost\ndata: lost\ndata: los\r")
        parser.reset()
        #expect(parser.lastEventID == "1")
        #expect(parser.retry == .milliseconds(5))
        try push("\n\u{FEFF}")
        parser.reset()
        try push("\u{FEFF}data: b\n\n")
        #expect(events == [event("a", id: "1"), event("b", id: "1")])
    }

    @Test(
        "an event at its limit is taken, and one byte more is refused, whole and byte by byte",
        arguments: [true, false])
    func limit(isWhole: Bool) throws {
        func parse(_ text: String) -> ([ServerSentEvent], EventStreamError?) {
            var parser = EventStreamParser(maxEventBytes: 20)
            var events: [ServerSentEvent] = []
            let bytes = Array(text.utf8)
            for piece in isWhole ? [bytes] : bytes.map({ [$0] }) {
                do {
                    try piece.withUnsafeBytes { try parser.push($0) { events.append($0) } }
                } catch {
                    return (events, error as? EventStreamError)
                }
            }
            return (events, nil)
        }
        let below = parse("data:abcd\r\ndata:efgh\r\n\r\n")  // 18 bytes without line ends
        #expect(below.0 == [event("abcd\nefgh")] && below.1 == nil)
        let at = parse("data:abcd\ndata:efghij\n\ndata:klmn\n\n")
        #expect(at.0 == [event("abcd\nefghij"), event("klmn")] && at.1 == nil)
        let above = parse("data:a\n\ndata:abcd\ndata:efghijk\n\ndata:never\n\n")
        #expect(above.0 == [event("a")])
        #expect(above.1?.code == .tooLarge)
        #expect(above.1?.cause.contains("20") == true)
        // A line that never ends, of data or of a comment, is refused too; many comments are not.
        #expect(parse("data:" + String(repeating: "x", count: 100)).1?.code == .tooLarge)
        #expect(parse(":" + String(repeating: "x", count: 100)).1?.code == .tooLarge)
        #expect(parse(String(repeating: ":heartbeat\n", count: 100) + "data:a\n\n").0 == [event("a")])
        #expect(parse(String(repeating: "data\n", count: 6)).1?.code == .tooLarge)
    }

    /// An event-stream reader that shares nothing with ours: it decodes the whole stream first, and splits by a regular
    /// expression. Lines of hexadecimal in, lines of JSON out.
    static let pythonReader = #"""
        import json, re, sys
        for row in sys.stdin:
            text = bytes.fromhex(row).decode("utf-8", "replace")
            if text.startswith("\ufeff"):
                text = text[1:]
            lines = re.split("\r\n|\n|\r", text)[:-1]
            events, last, pending, retry = [], None, None, None
            block = {"data": [], "event": "", "traceparent": None}
            for line in lines:
                if line == "":
                    last = pending
                    if block["data"]:
                        events.append([last, block["event"] or "message", "\n".join(block["data"]), block["traceparent"]])
                    block = {"data": [], "event": "", "traceparent": None}
                    continue
                name, _, value = line.partition(":")
                if value[:1] == " ":
                    value = value[1:]
                if name == "data":
                    block["data"].append(value)
                elif name in ("event", "traceparent"):
                    block[name] = value
                elif name == "id" and "\0" not in value:
                    pending = value
                elif name == "retry" and re.fullmatch("[0-9]+", value):
                    retry = min(int(value), 2**63 - 1)
            print(json.dumps({"events": events, "last": last, "retry": retry}))
        """#

    private struct Answer: Decodable {
        let events: [[String?]]
        let last: String?
        let retry: Int64?
    }

    @Test("2,000 random streams read the same whole, byte by byte, in random pieces, and by Python")
    func random() throws {
        var generator = SeededGenerator(20_260_117)
        let streams = (0..<2_000).map { _ in Self.randomStream(&generator) }
        let input = streams.map { $0.map { String(format: "%02x", $0) }.joined() + "\n" }.joined()
        let rows = try Peers.python(Self.pythonReader, input: Data(input.utf8)).text.split(separator: "\n")
        #expect(rows.count == streams.count)
        var eventCount = 0
        for (stream, row) in zip(streams, rows) {
            let answer = try JSONDecoder().decode(Answer.self, from: Data(row.utf8))
            let expected = Parsed(
                events: answer.events.map {
                    ServerSentEvent(id: $0[0], type: $0[1] ?? "", data: $0[2] ?? "", traceparent: $0[3])
                },
                lastEventID: answer.last, retry: answer.retry.map { .milliseconds($0) })
            eventCount += expected.events.count
            let whole = try Parsed.whole(stream)
            #expect(
                whole == expected && whole.scalars == expected.scalars,
                "\(String(decoding: stream, as: UTF8.self).debugDescription)")
            #expect(try Parsed.pieces(stream.map { [$0] }) == whole)
            var rest = stream[...]
            var pieces: [[UInt8]] = []
            while !rest.isEmpty {
                let piece = rest.prefix(Int.random(in: 0...12, using: &generator))
                pieces.append(Array(piece))
                rest = rest.dropFirst(piece.count)
            }
            #expect(try Parsed.pieces(pieces) == whole)
        }
        // The streams are worth something.
        #expect(eventCount > 4_000)
    }

    private static func randomStream(_ generator: inout SeededGenerator) -> [UInt8] {
        var bytes: [UInt8] = Int.random(in: 0..<8, using: &generator) == 0 ? [0xEF, 0xBB, 0xBF] : []
        let names = [
            "data", "data", "data", "id", "event", "retry", "traceparent", "", "dat", "data ", "Data", "x", "id\0",
            "\u{FEFF}data",
        ]
        let values: [[UInt8]] = [
            Array("x".utf8), Array(" 1".utf8), Array("  two".utf8), [], [0], Array("ü…🌡\u{301}".utf8), Array("12".utf8),
            [0xF0, 0x9F, 0x8C], [0xFF, 0xC0, 0x80], [0xED, 0xA0, 0x80], Array("a:b".utf8), Array(": ".utf8),
            Array("\u{2028}\u{85}\u{B}".utf8), Array("99999999999999999999".utf8), [0xEF, 0xBB, 0xBF],
        ]
        for _ in 0..<Int.random(in: 0...60, using: &generator) {
            if Int.random(in: 0..<3, using: &generator) > 0 {
                bytes += Array((names.randomElement(using: &generator) ?? "").utf8)
                if Int.random(in: 0..<6, using: &generator) > 0 {
                    bytes.append(UInt8(ascii: ":"))
                    bytes += values.randomElement(using: &generator) ?? []
                }
            }
            bytes += [[10], [13], [13, 10], [10, 10]].randomElement(using: &generator) ?? []
        }
        return bytes
    }
}
