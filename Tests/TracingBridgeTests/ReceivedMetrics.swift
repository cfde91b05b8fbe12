import TestSupport

/// A data point as the official Python classes have read it.
struct ReceivedPoint: Decodable {
    let scope: String
    let metric: String
    let unit: String
    /// `sum`, `gauge`, `histogram`, `exponential_histogram`.
    let kind: String
    let isMonotonic: Bool
    let attributes: [String: String]
    /// Of a sum or a gauge.
    let value: Double
    /// Of a histogram.
    let count: UInt64
    let sum: Double
    let bounds: [Double]
    let buckets: [UInt64]
    let exemplarTraces: [String]
    let schema: String
}

/// A log record as the official Python classes have read it.
struct ReceivedLog: Decodable {
    let scope: String
    let severity: Int
    let severityText: String
    let body: String
    let attributes: [String: String]
    let trace: String
    let span: String
    let flags: Int
    let time: UInt64
    let schema: String
}

extension OTLPSink {
    /// The last export's points are last.
    func receivedPoints() throws -> [ReceivedPoint] {
        try decode(
            ReceivedPoint.self,
            by: """
                from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
                for body in files("metrics"):
                    for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                        for scope in resource.scope_metrics:
                            for m in scope.metrics:
                                kind = m.WhichOneof("data")
                                data = getattr(m, kind)
                                for p in data.data_points:
                                    isHistogram = kind == "histogram"
                                    value = 0
                                    if kind in ("sum", "gauge"): value = getattr(p, p.WhichOneof("value"))
                                    print(json.dumps(dict(
                                        scope=scope.scope.name, metric=m.name, unit=m.unit, kind=kind,
                                        isMonotonic=kind == "sum" and data.is_monotonic, attributes=pairs(p.attributes),
                                        value=value, count=p.count if "histogram" in kind else 0,
                                        sum=p.sum if "histogram" in kind else 0,
                                        bounds=list(p.explicit_bounds) if isHistogram else [],
                                        buckets=list(p.bucket_counts) if isHistogram else [],
                                        exemplarTraces=[e.trace_id.hex() for e in p.exemplars], schema=resource.schema_url)))
                """)
    }

    func receivedLogs() throws -> [ReceivedLog] {
        try decode(
            ReceivedLog.self,
            by: """
                from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
                for body in files("logs"):
                    for resource in ExportLogsServiceRequest.FromString(body).resource_logs:
                        for scope in resource.scope_logs:
                            for r in scope.log_records:
                                print(json.dumps(dict(
                                    scope=scope.scope.name, severity=r.severity_number, severityText=r.severity_text,
                                    body=text(r.body), attributes=pairs(r.attributes), trace=r.trace_id.hex(),
                                    span=r.span_id.hex(), flags=r.flags, time=r.time_unix_nano, schema=resource.schema_url)))
                """)
    }
}
