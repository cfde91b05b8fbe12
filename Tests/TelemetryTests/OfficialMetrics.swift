import Foundation
import TestSupport

/// Metrics requests, read by the official Python protobuf classes.
struct OfficialMetric: Decodable {
    struct Exemplar: Decodable {
        let value: Double
        let trace: String
        let span: String
        let time: UInt64
        let attributes: [String: String]
    }

    struct Point: Decodable {
        let attributes: [String: String]
        let start: UInt64
        let time: UInt64
        /// `int 3`, `double 0.5`; empty for distributions.
        let value: String
        let count: UInt64?
        let sum: Double?
        let min: Double?
        let max: Double?
        let bounds: [Double]?
        let counts: [UInt64]?
        let scale: Int?
        let zeroCount: UInt64?
        let offset: Int?
        let negativeOffset: Int?
        let negativeCounts: [UInt64]?
        let exemplars: [Exemplar]

        /// Counts by bucket index, at a coarser scale.
        func buckets(scale coarser: Int) -> [Int: UInt64] {
            var found: [Int: UInt64] = [:]
            for (index, count) in (counts ?? []).enumerated() where count > 0 {
                found[((offset ?? 0) + index) >> ((scale ?? 0) - coarser), default: 0] += count
            }
            return found
        }
    }

    let scope: String
    let scopeVersion: String
    let service: String
    let name: String
    let unit: String
    let description: String
    /// `gauge`, `sum`, `histogram` or `exponential_histogram`.
    let kind: String
    /// 1 delta, 2 cumulative, 0 for gauges.
    let temporality: Int
    let isMonotonic: Bool
    let points: [Point]

    /// One array for each body.
    static func decode(_ bodies: [[UInt8]], gzip: Bool = false) throws -> [[OfficialMetric]] {
        let output = try Peers.python(program, [gzip ? "gzip" : "plain"], input: OfficialRequest.framed(bodies))
        return try JSONDecoder().decode([[OfficialMetric]].self, from: output.standardOutput)
    }

    private static let program =
        OfficialRequest.prelude + """

            from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
            def exemplar(e):
                return dict(value=getattr(e, e.WhichOneof("value")), trace=e.trace_id.hex(), span=e.span_id.hex(),
                    time=e.time_unix_nano, attributes=pairs(e.filtered_attributes))
            def point(p, kind):
                out = dict(attributes=pairs(p.attributes), start=p.start_time_unix_nano, time=p.time_unix_nano, value="",
                    exemplars=[exemplar(e) for e in p.exemplars])
                if kind in ("gauge", "sum"):
                    field = p.WhichOneof("value")
                    out["value"] = f"{field.removeprefix('as_')} {getattr(p, field)}"
                    return out
                for name in ("sum", "min", "max"): out[name] = getattr(p, name) if p.HasField(name) else None
                out["count"] = p.count
                if kind == "histogram":
                    out.update(bounds=list(p.explicit_bounds), counts=list(p.bucket_counts))
                    assert sum(p.bucket_counts) == p.count
                else:
                    out.update(scale=p.scale, zeroCount=p.zero_count, offset=p.positive.offset,
                        counts=list(p.positive.bucket_counts), negativeOffset=p.negative.offset,
                        negativeCounts=list(p.negative.bucket_counts))
                    assert sum(p.positive.bucket_counts) + sum(p.negative.bucket_counts) + p.zero_count == p.count
                return out
            result = []
            for body in bodies():
                message = ExportMetricsServiceRequest.FromString(body)
                no_unknown(message)
                found = []
                for resource in message.resource_metrics:
                    for scope in resource.scope_metrics:
                        for m in scope.metrics:
                            kind = m.WhichOneof("data")
                            data = getattr(m, kind)
                            found.append(dict(scope=scope.scope.name, scopeVersion=scope.scope.version,
                                service=pairs(resource.resource.attributes).get("service.name", ""), name=m.name,
                                unit=m.unit, description=m.description, kind=kind,
                                temporality=getattr(data, "aggregation_temporality", 0),
                                isMonotonic=getattr(data, "is_monotonic", False),
                                points=[point(p, kind) for p in data.data_points]))
                result.append(found)
            print(json.dumps(result))
            """
}

/// Log requests, read by the official Python protobuf classes.
struct OfficialLog: Decodable {
    let scope: String
    let service: String
    let time: UInt64
    let observed: UInt64
    let severity: Int
    let severityText: String
    let body: String
    let attributes: [String: String]
    let dropped: Int
    let flags: Int
    let trace: String
    let span: String
    let event: String

    static func decode(_ bodies: [[UInt8]], gzip: Bool = false) throws -> [[OfficialLog]] {
        let output = try Peers.python(program, [gzip ? "gzip" : "plain"], input: OfficialRequest.framed(bodies))
        return try JSONDecoder().decode([[OfficialLog]].self, from: output.standardOutput)
    }

    private static let program =
        OfficialRequest.prelude + """

            from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
            result = []
            for body in bodies():
                message = ExportLogsServiceRequest.FromString(body)
                no_unknown(message)
                result.append([dict(scope=scope.scope.name,
                    service=pairs(resource.resource.attributes).get("service.name", ""), time=r.time_unix_nano,
                    observed=r.observed_time_unix_nano, severity=r.severity_number, severityText=r.severity_text,
                    body=text(r.body) if r.HasField("body") else "", attributes=pairs(r.attributes),
                    dropped=r.dropped_attributes_count, flags=r.flags, trace=r.trace_id.hex(), span=r.span_id.hex(),
                    event=r.event_name)
                    for resource in message.resource_logs for scope in resource.scope_logs for r in scope.log_records])
            print(json.dumps(result))
            """
}

extension OfficialRequest {
    /// Each body behind its length.
    static func framed(_ bodies: [[UInt8]]) -> Data {
        var input = Data()
        for body in bodies {
            withUnsafeBytes(of: UInt32(body.count).bigEndian) { input.append(contentsOf: $0) }
            input.append(contentsOf: body)
        }
        return input
    }

    /// What reads them back in Python.
    static let prelude = """
        import gzip, json, struct, sys
        from google.protobuf.unknown_fields import UnknownFieldSet

        def bodies():
            data, at = sys.stdin.buffer.read(), 0
            while at < len(data):
                size = struct.unpack_from(">I", data, at)[0]
                body = data[at + 4:at + 4 + size]
                at += 4 + size
                yield gzip.decompress(body) if sys.argv[1] == "gzip" else body

        def no_unknown(message):
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
            return v if name == "string" else f"{name} {v}"

        def pairs(attributes):
            assert len({a.key for a in attributes}) == len(attributes), "a key occurs twice"
            return {a.key: text(a.value) for a in attributes}
        """
}

extension OfficialMetric.Point {
    /// The value of a sum or a gauge of integers.
    var int: Int? { value.hasPrefix("int ") ? Int(value.dropFirst(4)) : nil }
    var double: Double? { value.hasPrefix("double ") ? Double(value.dropFirst(7)) : nil }
}
