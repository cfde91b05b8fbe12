import Foundation
import OTLP
import TestSupport

/// Export requests in which the official classes have set every field there is, made from their descriptors.
enum OfficialMessages {
    /// In the order of `OTLPRequest.allCases`, several of each.
    static func make() throws -> [(request: OTLPRequest, body: [UInt8])] {
        var rest = try Peers.python(common + generator).standardOutput[...]
        var messages: [(OTLPRequest, [UInt8])] = []
        while let kind = rest.popFirst() {
            let size = rest.prefix(4).reduce(0) { $0 << 8 | Int($1) }
            rest = rest.dropFirst(4)
            messages.append((OTLPRequest.allCases[Int(kind)], Array(rest.prefix(size))))
            rest = rest.dropFirst(size)
        }
        return messages
    }

    /// Runs a Python program with `messages`, a list of `(class, [bytes, …])`.
    static func check(_ program: String, _ messages: [(request: OTLPRequest, parts: [[UInt8]])]) throws -> String {
        var input = Data()
        for (request, parts) in messages {
            input.append(UInt8(OTLPRequest.allCases.firstIndex(of: request) ?? 0))
            input.append(UInt8(parts.count))
            for part in parts {
                withUnsafeBytes(of: UInt32(part.count).bigEndian) { input.append(contentsOf: $0) }
                input.append(contentsOf: part)
            }
        }
        return try Peers.python(common + reader + program, input: input).text
    }

    private static let common = """
        import json, math, random, struct, sys
        from google.protobuf import json_format
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
        from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
        classes = [ExportTraceServiceRequest, ExportMetricsServiceRequest, ExportLogsServiceRequest]

        """

    private static let reader = """
        data, at, messages = sys.stdin.buffer.read(), 0, []
        while at < len(data):
            kind, count = data[at], data[at + 1]
            at += 2
            parts = []
            for _ in range(count):
                size = struct.unpack_from(">I", data, at)[0]
                parts.append(data[at + 4:at + 4 + size])
                at += 4 + size
            messages.append((classes[kind], parts))

        """

    private static let generator = #"""
        rng = random.Random(20261125)
        texts = ["plain", "", "\"quoted\" \\ back\nline\ttab\x01\x1f\x7f", "größe 温度 🟢", "</script>"]
        doubles = [1.5, 0.0, -0.0, math.nan, math.inf, -math.inf, 5e-324, 1.7976931348623157e308, 1e16, 0.1, -2.5e-9]

        def value(field):
            t = field.type
            if t == field.TYPE_STRING: return rng.choice(texts)
            if t == field.TYPE_BYTES:
                if "trace_id" in field.name: return rng.randbytes(16)
                if "span_id" in field.name: return rng.randbytes(8)
                return rng.randbytes(rng.randrange(7))
            if t == field.TYPE_BOOL: return rng.choice([True, False])
            if t == field.TYPE_DOUBLE: return rng.choice(doubles)
            if t == field.TYPE_ENUM: return rng.choice([v.number for v in field.enum_type.values])
            if t in (field.TYPE_UINT32, field.TYPE_FIXED32): return rng.choice([0, 1, 2**32 - 1])
            if t in (field.TYPE_INT32, field.TYPE_SINT32): return rng.choice([0, 1, -1, 2**31 - 1, -2**31])
            if t in (field.TYPE_INT64, field.TYPE_SFIXED64): return rng.choice([0, -1, 2**63 - 1, -2**63, 2**53 + 1])
            if t in (field.TYPE_UINT64, field.TYPE_FIXED64): return rng.choice([0, 1, 2**64 - 1, 2**53 + 1])
            raise Exception(f"a kind that the test does not know: {field.full_name}")

        def fill(message, depth=0):
            for field in message.DESCRIPTOR.fields:
                one_of = field.containing_oneof
                if one_of and len(one_of.fields) > 1 and rng.randrange(len(one_of.fields)) != one_of.fields.index(field): continue
                if field.message_type:
                    # Values nest a few times; the rest stay empty.
                    if field.message_type.name in ("ArrayValue", "KeyValueList") and depth > 12: continue
                    if field.is_repeated:
                        for _ in range(rng.choice([0, 1, 1, 2, 3])): fill(getattr(message, field.name).add(), depth + 1)
                    else:
                        getattr(message, field.name).SetInParent()
                        fill(getattr(message, field.name), depth + 1)
                elif field.is_repeated:
                    getattr(message, field.name).extend([value(field) for _ in range(rng.choice([0, 1, 5]))])
                else:
                    setattr(message, field.name, value(field))

        for kind, cls in enumerate(classes):
            seen = set()
            def note(message):
                for field, inner in message.ListFields():
                    seen.add(field.full_name)
                    if field.message_type:
                        for one in (inner if field.is_repeated else [inner]): note(one)
            for _ in range(40):
                message = cls()
                while not message.ByteSize(): fill(message)
                note(message)
                body = message.SerializeToString()
                sys.stdout.buffer.write(bytes([kind]) + struct.pack(">I", len(body)) + body)
            def all_fields(descriptor, done):
                if descriptor.full_name in done: return
                done.add(descriptor.full_name)
                for field in descriptor.fields:
                    assert field.full_name in seen, f"never set: {field.full_name}"
                    if field.message_type: all_fields(field.message_type, done)
            all_fields(cls.DESCRIPTOR, set())
        """#
}
