import Foundation
import TestSupport

/// A span with everything that OTLP knows of it, as the official Python classes have read it.
struct ReceivedSpan: Decodable {
    struct Event: Decodable {
        let name: String
        let time: UInt64
        let attributes: [String: String]
    }

    struct Link: Decodable, Equatable {
        let trace: String
        let span: String
        let attributes: [String: String]
    }

    let name: String
    let kind: Int
    let trace: String
    let span: String
    let parent: String
    let flags: Int
    let state: String
    let start: UInt64
    let end: UInt64
    /// `string x`, `int 1`, `array [int 1, int 2]`, …
    let attributes: [String: String]
    let events: [Event]
    let links: [Link]
    let status: Int
    let message: String
    /// Of the resource.
    let schema: String
}

extension OTLPSink {
    func receivedSpans() throws -> [ReceivedSpan] { try decode(ReceivedSpan.self, by: Self.spanProgram) }

    /// - Parameter program: prints a line of JSON for each value; `files(signal)` and `text(AnyValue)` are there for it.
    func decode<Value: Decodable>(_ type: Value.Type, by program: String) throws -> [Value] {
        try Peers.python(Self.prelude + program, [directory]).text.split(separator: "\n").map {
            try JSONDecoder().decode(Value.self, from: Data($0.utf8))
        }
    }

    private static let prelude = """
        import glob, json, sys
        def files(signal):
            return [open(name, "rb").read() for name in sorted(glob.glob(f"{sys.argv[1]}/*.{signal}.pb"))]
        def text(value):
            kind = value.WhichOneof("value")
            if kind is None: return "empty"
            v, name = getattr(value, kind), kind.removesuffix("_value")
            if name == "array": return "array [" + ", ".join(text(x) for x in v.values) + "]"
            if name == "kvlist": return "kvlist {" + ", ".join(f"{x.key}: {text(x.value)}" for x in sorted(v.values, key=lambda x: x.key)) + "}"
            if name == "bool": return "bool " + str(v).lower()
            return f"{name} {v}"
        def pairs(attributes): return {a.key: text(a.value) for a in attributes}

        """

    private static let spanProgram = """
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
        for body in files("traces"):
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    for s in scope.spans:
                        print(json.dumps(dict(
                            name=s.name, kind=s.kind, trace=s.trace_id.hex(), span=s.span_id.hex(),
                            parent=s.parent_span_id.hex(), flags=s.flags, state=s.trace_state,
                            start=s.start_time_unix_nano, end=s.end_time_unix_nano, attributes=pairs(s.attributes),
                            events=[dict(name=e.name, time=e.time_unix_nano, attributes=pairs(e.attributes)) for e in s.events],
                            links=[dict(trace=l.trace_id.hex(), span=l.span_id.hex(), attributes=pairs(l.attributes)) for l in s.links],
                            status=s.status.code, message=s.status.message, schema=resource.schema_url)))
        """
}
