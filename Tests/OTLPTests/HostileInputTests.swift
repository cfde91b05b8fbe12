import Foundation
import OTLP
import TestSupport
import Testing

@Suite("Hostile input is refused or read, and never crashes")
struct HostileInputTests {
    private let scanner = TraceRequestScanner(interest: OfficialRequests.interest)

    /// True when the scanner took it. Every range of the result is looked at, so that one outside its bytes would show.
    private func takes(_ bytes: some Collection<UInt8>, json: Bool = false, _ scan: TraceScan) -> Bool {
        // A buffer of its own, without a byte to spare: reading past the end meets the allocator's guard, not luck.
        let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes.count, alignment: 1)
        defer { copy.deallocate() }
        copy.copyBytes(from: bytes)
        do throws(OTLPDecodingError) {
            if json {
                try scanner.scan(json: UnsafeRawBufferPointer(copy), into: scan)
            } else {
                try scanner.scan(protobuf: UnsafeRawBufferPointer(copy), into: scan)
            }
        } catch {
            #expect((0...bytes.count).contains(error.offset), "the offset \(error.offset) is outside the message")
            return false
        }
        #expect(Described.spans(of: scan).count == scan.spanCount)
        #expect(Described.resources(of: scan).count == scan.resourceCount)
        return true
    }

    /// Real messages to damage, one of each form.
    private static let originals: (protobuf: [UInt8], json: [UInt8]) = {
        guard let text = try? Peers.python(OfficialRequests.program, ["77", "40"]).text else { return ([], []) }
        var protobuf: [UInt8] = []
        var json: [UInt8] = []
        for line in text.split(separator: "\n") {
            guard let request = try? JSONDecoder().decode(OfficialRequests.Request.self, from: Data(line.utf8)),
                let bytes = Data(base64Encoded: request.protobuf)
            else { continue }
            if bytes.count > protobuf.count { (protobuf, json) = (Array(bytes), Array(request.json.utf8)) }
        }
        return (protobuf, json)
    }()

    @Test("every truncation of a valid protobuf message throws, or ends where a field ends")
    func truncatedProtobuf() throws {
        let original = Self.originals.protobuf
        try #require(original.count > 500)
        let scan = TraceScan()
        #expect(takes(original, scan))
        // Fields of the outermost message end where Python says that they do.
        let taken = original.indices.filter { takes(original[..<$0], scan) }
        let program = """
            import sys
            from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest as R
            data = sys.stdin.buffer.read()
            for end in range(len(data)):
                try: R.FromString(data[:end]); print(end)
                except Exception: pass
            """
        let official = try Peers.python(program, input: Data(original)).text.split(separator: "\n").compactMap {
            Int($0)
        }
        #expect(taken == official)
    }

    @Test("every truncation of a valid JSON message throws")
    func truncatedJSON() throws {
        let original = Self.originals.json
        try #require(original.count > 500)
        let scan = TraceScan()
        #expect(takes(original, json: true, scan))
        for end in original.indices { #expect(!takes(original[..<end], json: true, scan), "cut at \(end)") }
    }

    @Test("20,000 mutations of a valid message are survived", arguments: [false, true])
    func mutations(json: Bool) throws {
        let original = json ? Self.originals.json : Self.originals.protobuf
        try #require(original.count > 500)
        var random = SeededGenerator(json ? 11 : 7)
        let scan = TraceScan()
        var taken = 0
        for _ in 0..<20_000 {
            var bytes = original
            for _ in 0...Int.random(in: 0..<4, using: &random) {
                let at = Int.random(in: bytes.indices, using: &random)
                switch Int.random(in: 0..<5, using: &random) {
                case 0: bytes[at] = UInt8.random(in: 0...255, using: &random)
                case 1: bytes[at] ^= 1 << UInt8.random(in: 0..<8, using: &random)
                case 2: bytes.remove(at: at)
                case 3:
                    bytes.insert(
                        [0, 0x7F, 0x80, 0xFF, 0x22, 0x5C, 0x7B, 0x5B].randomElement(using: &random) ?? 0, at: at)
                default:
                    let other = Int.random(in: bytes.indices, using: &random)
                    bytes.replaceSubrange(
                        at..<min(at + 8, bytes.count), with: bytes[other..<min(other + 8, bytes.count)])
                }
            }
            if takes(bytes, json: json, scan) { taken += 1 }
        }
        // Both outcomes occur, else the mutations would show nothing.
        #expect((1..<20_000).contains(taken))
    }

    @Test("random bytes are survived", arguments: [false, true])
    func noise(json: Bool) {
        var random = SeededGenerator(3)
        let scan = TraceScan()
        for _ in 0..<20_000 {
            let count = Int.random(in: 0..<64, using: &random)
            var bytes = (0..<count).map { _ in UInt8.random(in: 0...255, using: &random) }
            if json { bytes = Array("{\"resourceSpans\":[".utf8) + bytes }
            _ = takes(bytes, json: json, scan)
        }
    }

    @Test("groups may be 32 deep and no deeper", arguments: [31, 32, 33, 1_000_000])
    func groups(depth: Int) {
        let scan = TraceScan()
        let bytes = Array(repeating: UInt8(0x7B), count: depth) + Array(repeating: UInt8(0x7C), count: depth)
        #expect(takes(bytes, scan) == (depth <= 32))
    }

    @Test("JSON may be 64 deep and no deeper", arguments: [63, 64, 65, 1_000_000])
    func nesting(depth: Int) {
        let scan = TraceScan()
        // The outermost object is a level of its own.
        let text = "{\"x\":" + String(repeating: "[", count: depth - 1) + String(repeating: "]", count: depth - 1) + "}"
        #expect(takes(Array(text.utf8), json: true, scan) == (depth <= 64))
    }

    @Test(
        "a length that runs past the end is refused",
        arguments: [
            [0x0A, 0x01], [0x0A, 0x7F], [0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0x07],  // 2^31 - 1
            [0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F],  // 2^63 - 1
            [0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01],  // 2^64 - 1
            [0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01],  // eleven bytes
            [0x00, 0x00], [0x07, 0x00], [0x0E], [0x0F], [0x0C], [0x7B, 0x6C],
        ] as [[UInt8]])
    func lengths(bytes: [UInt8]) {
        #expect(!takes(bytes, TraceScan()))
    }

    @Test(
        "garbage instead of JSON is refused",
        arguments: [
            "", " ", "null", "[]", "1", "\"x\"", "{", "}", "{]", "{\"", "{\"a", "{\"a\"", "{\"a\":", "{\"a\":}",
            "{\"a\":1,}", "{,}", "{} {}",
            "{\"a\":01}", "{\"a\":1.}", "{\"a\":.5}", "{\"a\":-}", "{\"a\":1e}", "{\"a\":tru}", "{\"a\":nul",
            "{\"a\":\"\\x\"}", "{\"a\":\"\\u12\"}",
            "{\"a\":\"\\ud800\"}", "{\"a\":\"\\ud800\\u0041\"}", "{\"a\":\"\\udc00\"}", "{\"a\":\"\n\"}", "{'a':1}",
            "{\"a\":1}x", "{\"a\":NaN}",
            "{\"resourceSpans\":{}}", "{\"resourceSpans\":[1]}", "{\"resourceSpans\":\"x\"}", "\u{FEFF}{}",
            #"{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"abc"}]}]}]}"#,
            #"{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"zz02030405060708090a0b0c0d0e0f10"}]}]}]}"#,
            #"{"resourceSpans":[{"scopeSpans":[{"spans":[{"startTimeUnixNano":"-1"}]}]}]}"#,
            #"{"resourceSpans":[{"scopeSpans":[{"spans":[{"startTimeUnixNano":"18446744073709551616"}]}]}]}"#,
            #"{"resourceSpans":[{"scopeSpans":[{"spans":[{"startTimeUnixNano":1.5}]}]}]}"#,
            #"{"resourceSpans":[{"scopeSpans":[{"spans":[{"startTimeUnixNano":""}]}]}]}"#,
            #"{"resourceSpans":[{"scopeSpans":[{"spans":[{"startTimeUnixNano":"1e999999999999999999999"}]}]}]}"#,
            #"{"resourceSpans":[{"scopeSpans":[{"spans":[{"attributes":[{"key":"a","value":{"intValue":"9223372036854775808"}}]}]}]}]}"#,
            #"{"resourceSpans":[{"scopeSpans":[{"spans":[{"attributes":[{"key":"a","value":{"bytesValue":"!"}}]}]}]}]}"#,
            #"{"resourceSpans":[{"scopeSpans":[{"spans":[{"attributes":[{"key":"a","value":{"bytesValue":"A"}}]}]}]}]}"#,
            #"{"resourceSpans":[{"scopeSpans":[{"spans":[{"attributes":[{"key":"a","value":{"boolValue":"true"}}]}]}]}]}"#,
        ])
    func garbage(text: String) {
        #expect(!takes(Array(text.utf8), json: true, TraceScan()))
    }

    @Test(
        "JSON that is not UTF-8 is refused (RFC 3629)",
        arguments: [
            [0x80], [0xC0, 0xAF], [0xE0, 0x80, 0xAF], [0xED, 0xA0, 0x80], [0xF4, 0x90, 0x80, 0x80], [0xF5],
            [0xE2, 0x82], [0xFF],
        ]
            as [[UInt8]])
    func notUTF8(bytes: [UInt8]) {
        #expect(!takes(Array("{\"a\":\"12345".utf8) + bytes + Array("\"}".utf8), json: true, TraceScan()))
    }
}
