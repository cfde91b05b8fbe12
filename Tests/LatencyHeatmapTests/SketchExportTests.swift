import Foundation
import LatencyHeatmap
import OTLP
import Telemetry
import TestSupport
import Testing

@Suite("Sketches leave as exponential histograms")
struct SketchExportTests {
    /// As a server does it: bucket by bucket, nothing binned again.
    private func point(_ sketch: Sketch) -> ExponentialHistogramPoint {
        let buckets = sketch.buckets.filter { $0.position > 0 }
        var positive = ExponentialHistogramPoint.Buckets()
        if let first = buckets.first, let last = buckets.last {
            positive.offset = Int32(first.position + BucketScale.firstIndex - 1)
            positive.counts = Array(repeating: 0, count: last.position - first.position + 1)
            for bucket in buckets { positive.counts[bucket.position - first.position] = bucket.count }
        }
        return ExponentialHistogramPoint(
            sum: Double(sketch.sum) / 1e9, scale: 6, zeroCount: sketch.buckets.first { $0.position == 0 }?.count ?? 0,
            positive: positive, max: Double(sketch.max) / 1e9)
    }

    private struct Official: Decodable, Equatable {
        let group: String
        let count: UInt64
        let sum: Double
        let max: Double
        let scale: Int
        let zeroCount: UInt64
        /// Index and count of the buckets in use.
        let buckets: [[Int]]
    }

    @Test("the decoded point has exactly the sketch's counts, for few values, many, zeros and the extremes")
    func counts() throws {
        var state: UInt64 = 42
        func random() -> UInt64 {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return state >> 16
        }
        var sketches: [String: Sketch] = [:]
        func make(_ name: String, _ values: [UInt64]) {
            var sketch = Sketch()
            for value in values { sketch.insert(nanoseconds: value) }
            sketches[name] = sketch
        }
        make("one", [1_000_000])
        make("exact", (0..<64).map { _ in random() % 1_000_000_000 })
        make("many", (0..<20_000).map { _ in random() % (1 << (random() % 40)) + 1 })
        make("zeros", [0, 0, 5] + Array(repeating: 0, count: 100))
        make("extremes", [0, 1, .max])
        let sink = try OTLPSink()
        var configuration = TelemetryConfiguration()
        configuration.metricsExporter.endpoint = sink.endpoint + "/v1/metrics"
        let sdk = TelemetrySDK(configuration: configuration)
        let snapshot = sketches
        sdk.meter("heatmap").observableExponentialHistogram("push.duration", unit: "s") { observer in
            for (name, sketch) in snapshot { observer.observe(point(sketch), [KeyValue("group", .string(name))]) }
        }
        #expect(sdk.shutdown(deadline: .seconds(10)).undeliveredDataPoints == 0)
        let output = try Peers.python(
            """
            import glob, json, sys
            from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
            out = []
            for name in glob.glob(sys.argv[1] + "/*.metrics.pb"):
                request = ExportMetricsServiceRequest.FromString(open(name, "rb").read())
                for m in [m for r in request.resource_metrics for s in r.scope_metrics for m in s.metrics]:
                    if m.name != "push.duration": continue
                    assert m.unit == "s" and m.exponential_histogram.aggregation_temporality == 2
                    for p in m.exponential_histogram.data_points:
                        out.append(dict(group=p.attributes[0].value.string_value, count=p.count, sum=p.sum, max=p.max,
                            scale=p.scale, zeroCount=p.zero_count,
                            buckets=[[p.positive.offset + i, c] for i, c in enumerate(p.positive.bucket_counts) if c]))
            print(json.dumps(out))
            """, [sink.directory])
        let points = try JSONDecoder().decode([Official].self, from: output.standardOutput)
        #expect(points.count == sketches.count)
        for official in points {
            let sketch = try #require(sketches[official.group])
            #expect(official.scale == 6 && official.count == sketch.count)
            #expect(official.sum == Double(sketch.sum) / 1e9 && official.max == Double(sketch.max) / 1e9)
            #expect(official.zeroCount == sketch.buckets.first { $0.position == 0 }?.count ?? 0)
            let expected = sketch.buckets.filter { $0.position > 0 }
                .map { [$0.position + BucketScale.firstIndex - 1, Int($0.count)] }
            #expect(official.buckets == expected, "\(official.group)")
        }
    }
}
