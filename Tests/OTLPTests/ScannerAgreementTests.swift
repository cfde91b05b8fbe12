import Foundation
import OTLP
import TestSupport
import Testing

/// The scanner against the official Python protobuf classes, which build the messages and say what is in them.
@Suite("The scanner agrees with the official protobuf classes")
struct ScannerAgreementTests {
    @Test("for random requests in protobuf and in OTLP/JSON (cases 1 to 5)", arguments: [1, 2, 3])
    func randomRequests(seed: Int) throws {
        let output = try Peers.python(OfficialRequests.program, ["\(seed)", "120"]).text
        let scanner = TraceRequestScanner(interest: OfficialRequests.interest)
        let scan = TraceScan()
        var spans = 0
        for line in output.split(separator: "\n") {
            let official = try JSONDecoder().decode(OfficialRequests.Request.self, from: Data(line.utf8))
            let protobuf = try #require(Data(base64Encoded: official.protobuf))
            try protobuf.withUnsafeBytes { bytes in
                try scanner.scan(protobuf: bytes, into: scan)
                #expect(Described.spans(of: scan) == official.spans)
                #expect(Described.resources(of: scan) == official.resources)
            }
            try Data(official.json.utf8).withUnsafeBytes { bytes in
                try scanner.scan(json: bytes, into: scan)
                #expect(Described.spans(of: scan) == official.spans)
                #expect(Described.resources(of: scan) == official.resources)
            }
            spans += official.spans.count
        }
        #expect(spans > 300)
    }

    @Test("the last of two equal JSON keys counts, unknown ones are passed over, null is the same as absent (case 4)")
    func repeatedKeys() throws {
        let text = """
            {"new":{"a":[1,{"b":null}]},"resourceSpans":[{"resource":null,"scopeSpans":[{"scope":{"name":"x"},"spans":[
            {"name":"first","kind":2,"traceId":"0102030405060708090a0b0c0d0e0f10","kind":"SPAN_KIND_CONSUMER",
            "attributes":[{"key":"tenant.id","value":{"stringValue":"one"}}],"startTimeUnixNano":18446744073709551615,
            "endTimeUnixNano":"18446744073709551615","name":"second","attributes":null,
            "attributes":[{"key":"tenant.id","value":{"intValue":-9223372036854775808}}],"droppedEventsCount":1.5e3}
            ]}]}]}
            """
        let scan = TraceScan()
        try Data(text.utf8).withUnsafeBytes {
            try TraceRequestScanner(interest: OfficialRequests.interest).scan(json: $0, into: scan)
            #expect(
                Described.spans(of: scan) == [
                    OfficialRequests.Span(
                        traceID: "0102030405060708090a0b0c0d0e0f10", start: "18446744073709551615",
                        end: "18446744073709551615", name: "second", kind: 5,
                        attributes: ["0 int -9223372036854775808"], resource: 0)
                ])
        }
    }

    @Test("a value that came in two parts is the merged one, as protobuf has it")
    func splitValue() throws {
        // From Python: KeyValue(key="tenant.id", value=AnyValue(string_value="a")) followed by an empty second value.
        let program = """
            import base64
            from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest as R
            from opentelemetry.proto.trace.v1.trace_pb2 import Span, ScopeSpans, ResourceSpans
            from opentelemetry.proto.common.v1.common_pb2 import KeyValue, AnyValue
            def field(number, body): return bytes([number << 3 | 2, len(body)]) + body
            pair = KeyValue(key="tenant.id", value=AnyValue(string_value="a")).SerializeToString() + field(2, b"")
            message = field(1, field(2, field(2, field(9, pair))))
            parsed = R.FromString(message).resource_spans[0].scope_spans[0].spans[0].attributes[0]
            assert parsed.value.string_value == "a"
            print(base64.b64encode(message).decode(), end="")
            """
        let message = try #require(Data(base64Encoded: Peers.python(program).text))
        let scan = TraceScan()
        try message.withUnsafeBytes {
            try TraceRequestScanner(interest: OfficialRequests.interest).scan(protobuf: $0, into: scan)
            #expect(Described.spans(of: scan).first?.attributes == ["0 string a"])
        }
    }
}

/// What a scan found, in the words that the Python program uses.
enum Described {
    static func spans(of scan: TraceScan) -> [OfficialRequests.Span] {
        scan.spans.map { span in
            let id = hex(span.traceIDHigh) + hex(span.traceIDLow)
            return OfficialRequests.Span(
                traceID: id, start: "\(span.startUnixNano)", end: "\(span.endUnixNano)", name: text(span.name, scan),
                kind: Int(span.kind), attributes: scan.attributes(of: span).map { describe($0, scan) },
                resource: Int(span.resource))
        }
    }

    static func resources(of scan: TraceScan) -> [[String]] {
        scan.resources.map { scan.attributes(of: $0).map { describe($0, scan) } }
    }

    private static func describe(_ attribute: ScannedAttribute, _ scan: TraceScan) -> String {
        let value =
            switch attribute.kind {
            case .empty, .other: ""
            case .string: text(attribute.bytes, scan)
            case .bool: attribute.bool ? "true" : "false"
            case .int: "\(attribute.int)"
            case .double: attribute.double.isNaN ? "nan" : hex(attribute.double.bitPattern)
            case .bytes: scan.bytes(attribute.bytes).map { hex(UInt64($0)).suffix(2) }.joined()
            }
        return "\(attribute.key) \(attribute.kind) \(value)"
    }

    private static func text(_ range: ScannedBytes, _ scan: TraceScan) -> String {
        String(decoding: scan.bytes(range), as: UTF8.self)
    }

    private static func hex(_ value: UInt64) -> String {
        let digits = String(value, radix: 16)
        return String(repeating: "0", count: 16 - digits.count) + digits
    }
}

/// Random requests, made and described by Python.
enum OfficialRequests {
    struct Request: Decodable {
        let protobuf: String
        let json: String
        let spans: [Span]
        let resources: [[String]]
    }

    struct Span: Decodable, Equatable {
        var traceID: String
        var start: String
        var end: String
        var name: String
        var kind: Int
        var attributes: [String]
        var resource: Int
    }

    static let interest = TraceScanInterest(
        spanKeys: ["tenant.id", "größe", "a", String(repeating: "k", count: 70), "tenant.ix"],
        resourceKeys: ["service.name", "tenant.id"])

    /// Arguments: seed, number of requests. A line of JSON for each.
    static let program = #"""
        import base64, json, random, struct, sys
        from google.protobuf import json_format
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
        from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status
        from opentelemetry.proto.resource.v1.resource_pb2 import Resource
        from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList

        rng = random.Random(int(sys.argv[1]))
        SPAN_KEYS = ["tenant.id", "größe", "a", "k" * 70, "tenant.ix"]
        RESOURCE_KEYS = ["service.name", "tenant.id"]
        TEXTS = ["", "plain", "größe", "日本語", "🎈 up", "quote\" back\\slash /", "line\nfeed\ttab\r\b\f", "\u0000\u001f\u007f", "\u2028\uffff", "x" * 300]
        INTS = [0, 1, -1, 127, 128, 2**31, 2**53 + 1, 2**63 - 1, -2**63]
        DOUBLES = [0.0, -0.0, 1.5, 1e300, 5e-324, 0.1, -123456.789, float("inf"), float("-inf"), float("nan")]

        def varint(value):
            out = b""
            while value >= 0x80:
                out += bytes([value & 0x7F | 0x80]); value >>= 7
            return out + bytes([value])

        def field(number, body):
            return varint(number << 3 | 2) + varint(len(body)) + body

        def unknown():
            """Fields that no version of the format has: varint, fixed64, bytes, group (nested), fixed32."""
            one = rng.choice([
                varint(900 << 3) + varint(rng.getrandbits(64)), varint(901 << 3 | 1) + rng.randbytes(8), field(902, rng.randbytes(5)),
                varint(903 << 3 | 3) + field(1, b"in") + varint(7 << 3 | 3) + varint(7 << 3 | 4) + varint(903 << 3 | 4),
                varint(904 << 3 | 5) + rng.randbytes(4)])
            return one if rng.random() < 0.2 else b""

        def value(depth=0):
            kind = rng.randrange(8 if depth < 3 else 6)
            if kind == 0: return AnyValue(string_value=rng.choice(TEXTS))
            if kind == 1: return AnyValue(bool_value=rng.random() < 0.5)
            if kind == 2: return AnyValue(int_value=rng.choice(INTS))
            if kind == 3: return AnyValue(double_value=rng.choice(DOUBLES))
            if kind == 4: return AnyValue(bytes_value=rng.randbytes(rng.randrange(6)))
            if kind == 5: return AnyValue()
            if kind == 6: return AnyValue(array_value=ArrayValue(values=[value(depth + 1) for _ in range(rng.randrange(3))]))
            return AnyValue(kvlist_value=KeyValueList(values=[KeyValue(key=rng.choice(TEXTS), value=value(depth + 1)) for _ in range(rng.randrange(3))]))

        def attribute(keys):
            pair = KeyValue(key=rng.choice(keys + ["other", "tenant.iy", "k" * 71, ""]))
            if rng.random() < 0.95: pair.value.CopyFrom(value())
            return pair.SerializeToString() + unknown()

        def span():
            s = Span(trace_id=rng.choice([b"", rng.randbytes(16), rng.randbytes(16)]), span_id=rng.randbytes(8), parent_span_id=rng.choice([b"", rng.randbytes(8)]),
                     name=rng.choice(TEXTS), kind=rng.randrange(6), start_time_unix_nano=rng.getrandbits(64), end_time_unix_nano=rng.choice([0, 2**64 - 1, rng.getrandbits(62)]),
                     flags=rng.getrandbits(10), trace_state=rng.choice(["", "a=b"]), status=Status(code=rng.randrange(3), message=rng.choice(TEXTS)))
            if rng.random() < 0.3: s.events.add(name="e", time_unix_nano=5).attributes.add(key="tenant.id", value=value())
            if rng.random() < 0.3: s.links.add(trace_id=rng.randbytes(16), span_id=rng.randbytes(8)).attributes.add(key="a", value=value())
            parts = [s.SerializeToString(), unknown()] + [field(9, attribute(SPAN_KEYS)) for _ in range(rng.randrange(6))]
            # A scalar that occurs twice: the last one counts.
            if rng.random() < 0.2: parts += [Span(name="later", kind=rng.randrange(1, 6), start_time_unix_nano=7).SerializeToString()]
            rng.shuffle(parts)
            return b"".join(parts)

        def resource_spans():
            parts = [field(2, b"".join([field(1, InstrumentationScope(name="s", version="1").SerializeToString())]
                     + [field(2, span()) for _ in range(rng.randrange(4))]) + unknown()) for _ in range(rng.randrange(3))]
            # The resource before, between or after its spans, and perhaps in two parts.
            parts += [field(1, b"".join(field(1, attribute(RESOURCE_KEYS)) for _ in range(rng.randrange(4))) + unknown()) for _ in range(rng.randrange(3))]
            parts += [unknown(), field(3, b"https://schema")]
            rng.shuffle(parts)
            return b"".join(parts)

        def described(attributes, keys):
            out = []
            for pair in attributes:
                if pair.key not in keys: continue
                kind = pair.value.WhichOneof("value") if pair.HasField("value") else None
                v = getattr(pair.value, kind) if kind else None
                name, text = {
                    None: lambda: ("empty", ""), "string_value": lambda: ("string", v), "bool_value": lambda: ("bool", "true" if v else "false"),
                    "int_value": lambda: ("int", str(v)), "double_value": lambda: ("double", "nan" if v != v else struct.pack(">d", v).hex()),
                    "bytes_value": lambda: ("bytes", v.hex()), "array_value": lambda: ("other", ""), "kvlist_value": lambda: ("other", ""),
                }[kind]()
                out.append(f"{keys.index(pair.key)} {name} {text}")
            return out

        def as_json(message):
            tree = json_format.MessageToDict(message, use_integers_for_enums=True)
            def hexed(owner, *names):
                for name in names:
                    if name in owner: owner[name] = base64.b64decode(owner[name]).hex()
            for rs in tree.get("resourceSpans", []):
                for ss in rs.get("scopeSpans", []):
                    for s in ss.get("spans", []):
                        hexed(s, "traceId", "spanId", "parentSpanId")
                        for link in s.get("links", []): hexed(link, "traceId", "spanId")
                        for name in ("startTimeUnixNano", "endTimeUnixNano"):
                            if name in s and rng.random() < 0.3: s[name] = int(s[name])
                        for pair in s.get("attributes", []):
                            if "intValue" in pair.get("value", {}) and rng.random() < 0.3: pair["value"]["intValue"] = int(pair["value"]["intValue"])
                        if rng.random() < 0.2: s["notYetInvented"] = {"deep": [1, -2.5e-3, "x", None, True, {}, []]}
                        items = list(s.items()); rng.shuffle(items); s.clear(); s.update(items)
                items = list(rs.items()); rng.shuffle(items); rs.clear(); rs.update(items)
            return json.dumps(tree, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, 1]))

        for _ in range(int(sys.argv[2])):
            parts = [field(1, resource_spans()) for _ in range(rng.randrange(5))] + [unknown()]
            rng.shuffle(parts)
            protobuf = b"".join(parts)
            message = ExportTraceServiceRequest.FromString(protobuf)
            spans = [
                dict(traceID=s.trace_id.hex().rjust(32, "0"), start=str(s.start_time_unix_nano), end=str(s.end_time_unix_nano), name=s.name, kind=s.kind,
                     attributes=described(s.attributes, SPAN_KEYS), resource=index)
                for index, rs in enumerate(message.resource_spans) for ss in rs.scope_spans for s in ss.spans]
            print(json.dumps(dict(protobuf=base64.b64encode(protobuf).decode(), json=as_json(message), spans=spans,
                                  resources=[described(rs.resource.attributes, RESOURCE_KEYS) for rs in message.resource_spans])))
        """#
}
