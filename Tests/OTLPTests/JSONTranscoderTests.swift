import Foundation
import OTLP
import TestSupport
import Testing

/// https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding, against the official classes' own JSON mapping with
/// the two changes that OTLP makes: ids in hex, enums as integers.
@Suite("Protobuf to OTLP/JSON")
struct JSONTranscoderTests {
    private static let check = """
        import base64
        ids = {"traceId", "spanId", "parentSpanId"}
        def official(value):
            if isinstance(value, dict):
                return {k: base64.b64decode(v).hex() if k in ids else official(v) for k, v in value.items()}
            return [official(v) for v in value] if isinstance(value, list) else value
        def to_base64(value):
            if isinstance(value, dict):
                return {k: base64.b64encode(bytes.fromhex(v)).decode() if k in ids else to_base64(v) for k, v in value.items()}
            return [to_base64(v) for v in value] if isinstance(value, list) else value
        for cls, (body, text) in messages:
            message = cls.FromString(body)
            ours = json.loads(text)
            expected = official(json_format.MessageToDict(message, use_integers_for_enums=True))
            assert ours == expected, f"{ours}\\n\\nbut officially\\n\\n{expected}"
            back = json_format.ParseDict(to_base64(ours), cls(), max_recursion_depth=200)
            assert back.SerializeToString(deterministic=True) == message.SerializeToString(deterministic=True)
        print(len(messages))
        """

    @Test(
        "every field of every signal is as in the official mapping, and reads back to the same message (cases 1 to 5)")
    func agreement() throws {
        let messages = try OfficialMessages.make()
        let pairs = try messages.map { message in
            (message.request, [message.body, try Self.json(message.body, message.request)])
        }
        #expect(try OfficialMessages.check(Self.check, pairs) == "\(messages.count)\n")
        #expect(messages.count == 120)
    }

    private static func json(_ body: [UInt8], _ request: OTLPRequest) throws -> [UInt8] {
        try body.withUnsafeBytes { try JSONTranscoder.json($0, request) }
    }

    private func text(_ body: [UInt8], _ request: OTLPRequest = .traces) throws -> String {
        String(decoding: try Self.json(body, request), as: UTF8.self)
    }

    @Test("values of one field need not stand together, and the last of several counts where there is one")
    func scattered() throws {
        var writer = ProtobufWriter()
        writer.message(field: 1) { spans in
            spans.message(field: 2) { scope in
                scope.message(field: 2) { span in
                    span.message(field: 9) { $0.string(field: 1, "a") }
                    span.string(field: 5, "first")
                    span.message(field: 9) { $0.string(field: 1, "b") }
                    span.string(field: 5, "last")
                }
            }
        }
        let expected =
            #"{"resourceSpans":[{"scopeSpans":[{"spans":[{"attributes":[{"key":"a"},{"key":"b"}],"name":"last"}]}]}]}"#
        #expect(try text(writer.bytes) == expected)
    }

    @Test("packed and single numbers mix, and unknown fields are passed over (case 4)")
    func packed() throws {
        var writer = ProtobufWriter()
        writer.message(field: 1) { resource in
            resource.varint(field: 99, 1)
            resource.message(field: 2) { scope in
                scope.message(field: 2) { metric in
                    metric.message(field: 10) { histogram in
                        histogram.message(field: 1) { point in
                            point.message(field: 8) { buckets in
                                buckets.data(field: 2, [] as [UInt8])
                                buckets.data(field: 2, [1, 2])
                                buckets.varint(field: 2, 3)
                                buckets.data(field: 2, [] as [UInt8])
                            }
                        }
                    }
                }
            }
        }
        #expect(try text(writer.bytes, .metrics).contains(#""positive":{"bucketCounts":["1","2","3"]}"#))
    }

    @Test("bytes that are not UTF-8 become replacement characters")
    func repairs() throws {
        var writer = ProtobufWriter()
        writer.message(field: 1) { $0.data(field: 3, [0x61, 0xFF, 0x22]) }
        #expect(try text(writer.bytes) == #"{"resourceSpans":[{"schemaUrl":"a\#u{FFFD}\""}]}"#)
    }

    @Test("nesting is limited to 100 messages", arguments: [(46, 98), (47, 100), (48, 102)])
    func depth(levels: Int, deepest: Int) throws {
        // Request, resource, scope, record and body are five; each array around the innermost is two more, and that is
        // one by itself.
        var value = AnyValue.array([])
        for _ in 0..<levels { value = .array([value]) }
        var writer = ProtobufWriter()
        writer.message(field: 1) { resource in
            resource.message(field: 2) { scope in
                scope.message(field: 2) { $0.message(field: 5) { value.encode(into: &$0) } }
            }
        }
        if deepest <= JSONTranscoder.maxDepth {
            #expect(try text(writer.bytes, .logs).contains(#""arrayValue":{}"#))
        } else {
            #expect(throws: OTLPDecodingError.self) { try text(writer.bytes, .logs) }
        }
    }

    @Test("what is cut off or damaged is an error, never a crash")
    func damaged() throws {
        for (request, body) in try OfficialMessages.make().prefix(60) where body.count < 4_000 {
            for count in stride(from: 0, to: body.count, by: 7) { _ = try? Self.json(Array(body[..<count]), request) }
            var generator = SeededGenerator(UInt64(body.count))
            for _ in 0..<20 {
                var damaged = body
                damaged[Int(generator.next() % UInt64(body.count))] = UInt8(truncatingIfNeeded: generator.next())
                _ = try? Self.json(damaged, request)
            }
        }
    }
}
