import Foundation
import TestSupport

/// Export requests, read by the official Python protobuf classes.
struct OfficialRequest: Decodable {
    struct Value: Decodable, Equatable {
        let key: String
        /// `string x`, `int 1`, `array [int 1, empty]`, …
        let value: String
    }

    struct Event: Decodable {
        let name: String
        let time: UInt64
        let attributes: [Value]
        let droppedAttributes: Int
    }

    struct Link: Decodable {
        let trace: String
        let span: String
        let state: String
        let flags: Int
        let attributes: [Value]
        let droppedAttributes: Int
    }

    struct Span: Decodable {
        let trace: String
        let span: String
        let parent: String
        let state: String
        let flags: Int
        let name: String
        let kind: Int
        let start: UInt64
        let end: UInt64
        let attributes: [Value]
        let droppedAttributes: Int
        let events: [Event]
        let droppedEvents: Int
        let links: [Link]
        let droppedLinks: Int
        let status: Int
        let statusMessage: String

        subscript(key: String) -> String? { attributes.first { $0.key == key }?.value }
    }

    let resource: [Value]
    let scope: String
    let scopeVersion: String
    let scopeAttributes: [Value]
    let scopeSchema: String
    let spans: [Span]

    /// - Parameter gzip: decompressed with Python's gzip module first.
    static func decode(_ bodies: [[UInt8]], gzip: Bool = false) throws -> [OfficialRequest] {
        var input = Data()
        for body in bodies {
            withUnsafeBytes(of: UInt32(body.count).bigEndian) { input.append(contentsOf: $0) }
            input.append(contentsOf: body)
        }
        let output = try Peers.python(program, [gzip ? "gzip" : "plain"], input: input)
        return try JSONDecoder().decode([OfficialRequest].self, from: output.standardOutput)
    }

    static func spans(_ bodies: [[UInt8]], gzip: Bool = false) throws -> [Span] {
        try decode(bodies, gzip: gzip).flatMap(\.spans)
    }

    private static let program = """
        import gzip, json, struct, sys
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
        data = sys.stdin.buffer.read()

        def no_unknown(message):
            from google.protobuf.unknown_fields import UnknownFieldSet
            assert len(UnknownFieldSet(message)) == 0, f"unknown fields in {message}"
            for descriptor, value in message.ListFields():
                if descriptor.message_type:
                    for one in (value if descriptor.is_repeated else [value]): no_unknown(one)

        def text(value):
            kind = value.WhichOneof("value")
            if kind is None: return "empty"
            v = getattr(value, kind)
            name = kind.removesuffix("_value")
            if name == "array": return "array [" + ", ".join(text(x) for x in v.values) + "]"
            if name == "kvlist": return "kvlist [" + ", ".join(f"{x.key}: {text(x.value)}" for x in v.values) + "]"
            if name == "bytes": return "bytes " + v.hex()
            if name == "bool": return "bool " + str(v).lower()
            if name == "double": return "double " + struct.pack(">d", v).hex()
            return f"{name} {v}"

        def pairs(attributes): return [dict(key=a.key, value=text(a.value)) for a in attributes]

        out = []
        at = 0
        while at < len(data):
            size = struct.unpack_from(">I", data, at)[0]
            body = data[at + 4:at + 4 + size]
            at += 4 + size
            if sys.argv[1] == "gzip": body = gzip.decompress(body)
            message = ExportTraceServiceRequest.FromString(body)
            no_unknown(message)
            assert len(message.resource_spans) == 1 and len(message.resource_spans[0].scope_spans) == 1
            rs = message.resource_spans[0]
            ss = rs.scope_spans[0]
            out.append(dict(resource=pairs(rs.resource.attributes), scope=ss.scope.name, scopeVersion=ss.scope.version, scopeAttributes=pairs(ss.scope.attributes), scopeSchema=ss.schema_url, spans=[dict(
                trace=s.trace_id.hex(), span=s.span_id.hex(), parent=s.parent_span_id.hex(), state=s.trace_state, flags=s.flags, name=s.name,
                kind=s.kind, start=s.start_time_unix_nano, end=s.end_time_unix_nano, attributes=pairs(s.attributes),
                droppedAttributes=s.dropped_attributes_count, droppedEvents=s.dropped_events_count, droppedLinks=s.dropped_links_count,
                events=[dict(name=e.name, time=e.time_unix_nano, attributes=pairs(e.attributes), droppedAttributes=e.dropped_attributes_count) for e in s.events],
                links=[dict(trace=l.trace_id.hex(), span=l.span_id.hex(), state=l.trace_state, flags=l.flags, attributes=pairs(l.attributes), droppedAttributes=l.dropped_attributes_count) for l in s.links],
                status=s.status.code, statusMessage=s.status.message) for s in ss.spans]))
        print(json.dumps(out))
        """
}
