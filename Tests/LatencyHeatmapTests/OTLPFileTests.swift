import Foundation
import LatencyHeatmap
import OTLP
import TestSupport
import Testing

@Suite("Files of OTLP")
struct OTLPFileTests {
    /// Three requests of 1, 2 and 3 spans in each of the layouts, by Python: [name, base64, spans].
    static let program = """
        import base64, json, struct
        from google.protobuf.json_format import MessageToDict
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
        requests = []
        for n in [1, 2, 3]:
            request = ExportTraceServiceRequest()
            scope = request.resource_spans.add().scope_spans.add()
            for i in range(n):
                span = scope.spans.add()
                span.name = 'a { "b" } \\\\ [\\n\\u65e5 ' + 'x' * i
                span.start_time_unix_nano = 1795420800 * 10 ** 9
                span.end_time_unix_nano = 1795420800 * 10 ** 9 + 5
            requests.append(request)
        objects = [MessageToDict(r, use_integers_for_enums=True) for r in requests]
        blobs = [r.SerializeToString() for r in requests]
        line = json.dumps(objects[2])
        def named_0x7b():
            # One span whose name makes the first ResourceSpans 123 bytes long: the file begins 0x0A 0x7B.
            for n in range(200):
                r = ExportTraceServiceRequest()
                r.CopyFrom(requests[0])
                r.resource_spans[0].scope_spans[0].spans[0].name = 'n' * n
                data = r.SerializeToString()
                if data[1] == 0x7B: return data
        lines = ''.join(json.dumps(o) + '\\n' for o in objects).encode()
        framed = b''.join(struct.pack('>I', len(b)) + b for b in blobs)
        files = [
            ('JSON lines', lines, 6),
            ('JSON lines without the last line break', lines[:-1], 6),
            ('JSON lines with CRLF and empty lines', lines.replace(b'\\n', b'\\r\\n\\r\\n'), 6),
            ('JSON lines after empty lines', b'\\n \\n\\t' + lines, 6),
            ('JSON lines after one line break', b'\\n' + lines, 6),
            ('one object over several lines', json.dumps(objects[2], indent=2).encode(), 3),
            ('objects over several lines', b'\\n'.join(json.dumps(o, indent=1).encode() for o in objects), 6),
            ('unescaped characters', '\\n'.join(json.dumps(o, ensure_ascii=False) for o in objects).encode(), 6),
            ('messages with their lengths', framed, 6),
            ('messages with their lengths, one empty', framed + bytes(4), 6),
            ('one message with its length', struct.pack('>I', len(blobs[2])) + blobs[2], 3),
            ('a single message', blobs[2], 3),
            ('messages one after another are one', b''.join(blobs), 6),
            ('a single message whose second byte is a brace', named_0x7b(), 1),
            ('a message that begins 0x0A 0x7B and others', named_0x7b() + blobs[1], 3),
        ]
        assert named_0x7b()[:2] == b'\\x0a{'
        print(json.dumps([[n, base64.b64encode(d).decode(), str(c)] for n, d, c in files]))
        """

    /// Spans counted, as the command line does it, of a file that comes in pieces of such a length.
    private func count(_ bytes: [UInt8], pieces: Int = 1 << 20) throws -> UInt64 {
        let engine = try makeEngine { $0.duplicateWindow = .zero }
        var stream = OTLPMessageStream()
        func ingest(_ isJSON: Bool, _ message: UnsafeRawBufferPointer) throws {
            if isJSON { try engine.ingest(json: message) } else { try engine.ingest(protobuf: message) }
        }
        for start in stride(from: 0, to: bytes.count, by: pieces) {
            try stream.append(Array(bytes[start..<min(start + pieces, bytes.count)]), ingest)
        }
        try stream.finish(ingest)
        return engine.ledger.counted
    }

    @Test("every layout is recognised by its bytes, and read in pieces (case 6)", arguments: [7, 64, 1_000, 1 << 20])
    func pieces(length: Int) throws {
        let files = try JSONDecoder().decode([[String]].self, from: Peers.python(Self.program).standardOutput)
        #expect(files.count == 15)
        for file in files {
            let bytes = Array(try #require(Data(base64Encoded: file[1])))
            // What a file is shows only when a message or two are there.
            if length < 1_000, bytes.starts(with: [0x0A]) { continue }
            #expect(throws: Never.self, "\(file[0])") {
                let counted = try count(bytes, pieces: length)
                #expect(counted == UInt64(file[2]), "\(file[0])")
            }
        }
    }

    @Test("a message that is too long, or cut off, is refused before it is held")
    func tooLong() throws {
        var stream = OTLPMessageStream()
        var given = 0
        let tooLong = #expect(throws: OTLPDecodingError.self) {
            try stream.append([0, 0, 0, 2, 0x0A, 0, 0x04, 0, 0, 1]) { _, message in given += message.count }
        }
        #expect(tooLong?.code == .tooLarge)
        #expect(given == 2)
        var cut = OTLPMessageStream()
        try cut.append([0, 0, 0, 9, 0x0A, 1]) { _, _ in }
        let error = #expect(throws: OTLPDecodingError.self) { try cut.finish { _, _ in } }
        #expect(error?.code == .truncated)
        var endless = OTLPMessageStream()
        let piece = Array(repeating: UInt8(ascii: " "), count: 1 << 20)
        let refusal = #expect(throws: OTLPDecodingError.self) {
            try endless.append(Array("{\"a\":\"".utf8)) { _, _ in }
            for _ in 0..<65 { try endless.append(piece) { _, _ in } }
        }
        #expect(refusal?.code == .tooLarge)
    }

    @Test("a file with nothing in it has no messages", arguments: ["", "\n", " \n\t\r\n", "\n\n\n"])
    func empty(text: String) throws {
        #expect(try count(Array(text.utf8)) == 0)
    }

    @Test(
        "a file that is something else is refused when its message is read",
        arguments: [
            "hello", "[{\"resourceSpans\":[]}]", "{\"resourceSpans\":", "{}{}", "}", "\0\0\0\u{5}ab",
        ])
    func somethingElse(text: String) throws {
        #expect(throws: OTLPDecodingError.self) { _ = try count(Array(text.utf8)) }
    }

    @Test("the messages of a hostile file are no longer than the file, in whatever pieces it comes")
    func hostile() throws {
        let files = try JSONDecoder().decode([[String]].self, from: Peers.python(Self.program).standardOutput)
        let engine = try makeEngine { $0.duplicateWindow = .zero }
        var generator = SeededGenerator(7)
        var (read, refused) = (0, 0)
        for round in 0..<2_000 {
            let bytes = mutated(Array(Data(base64Encoded: files[round % files.count][1]) ?? Data()), &generator)
            var stream = OTLPMessageStream()
            var given = 0
            func ingest(_ isJSON: Bool, _ message: UnsafeRawBufferPointer) throws {
                given += message.count
                if isJSON { try engine.ingest(json: message) } else { try engine.ingest(protobuf: message) }
            }
            do {
                let cut = Int.random(in: 0...bytes.count, using: &generator)
                try stream.append(Array(bytes[..<cut]), ingest)
                try stream.append(Array(bytes[cut...]), ingest)
                try stream.finish(ingest)
                read += 1
            } catch {
                refused += 1
            }
            #expect(given <= bytes.count)
        }
        #expect(read > 100 && refused > 100)
        #expect(engine.ledger.isBalanced)
    }
}
