import Foundation
import OTLP
import TestSupport
import Testing

@testable import LatencyHeatmap

@Suite("Counting received histograms")
struct MetricsIngestTests {
    struct Peer: Decodable {
        let protobuf: String
        let json: String
        /// By metric: what the SDK's own data points say.
        let counts: [UInt64]
        let offset: Int
        let scale: Int
        let total: UInt64
    }

    /// A request as OpenTelemetry's SDK and exporter make it: an exponential histogram in seconds, delta, with its own
    /// aggregation; and beside it one of explicit buckets, a counter, and a cumulative exponential histogram.
    static let program = """
        import base64, json, random
        from google.protobuf.json_format import MessageToDict
        from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
        from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
        from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
        from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
        from opentelemetry.sdk.resources import Resource
        r = random.Random(10)
        def run(temporality):
            reader = InMemoryMetricReader(preferred_temporality={Histogram: temporality, Counter: temporality})
            provider = MeterProvider(
                metric_readers=[reader], resource=Resource({'service.name': 'shop'}),
                views=[View(instrument_name='http.*', aggregation=ExponentialBucketHistogramAggregation(max_scale=6))])
            meter = provider.get_meter('peer')
            duration = meter.create_histogram('http.server.request.duration', unit='s')
            other = meter.create_histogram('db.duration', unit='s')
            meter.create_counter('requests').add(3)
            for _ in range(900):
                value = r.lognormvariate(-3, 0.3)
                duration.record(value, {'device.group': 'iOS', 'http.route': '/'})
                other.record(value)
            return encode_metrics(reader.get_metrics_data())
        delta, cumulative = run(AggregationTemporality.DELTA), run(AggregationTemporality.CUMULATIVE)
        delta.MergeFrom(cumulative)
        points = [m.exponential_histogram.data_points[0] for rm in delta.resource_metrics for sm in rm.scope_metrics
                  for m in sm.metrics if m.WhichOneof('data') == 'exponential_histogram']
        for rm in delta.resource_metrics:
            for sm in rm.scope_metrics:
                for m in sm.metrics:
                    for p in list(m.exponential_histogram.data_points) + list(m.histogram.data_points):
                        p.time_unix_nano = 1795420800 * 10 ** 9
        print(json.dumps(dict(
            protobuf=base64.b64encode(delta.SerializeToString()).decode(),
            json=json.dumps(MessageToDict(delta, use_integers_for_enums=True)),
            counts=list(points[0].positive.bucket_counts), offset=points[0].positive.offset, scale=points[0].scale,
            total=points[0].count)))
        """

    static let peer = Result { try JSONDecoder().decode(Peer.self, from: Peers.python(program).standardOutput) }

    @Test(
        "an exponential histogram of the SDK counts with its own buckets; the others are discarded by reason",
        arguments: [true, false])
    func sdk(isJSON: Bool) throws {
        let peer = try Self.peer.get()
        let engine = try makeEngine()
        let bytes = isJSON ? Array(peer.json.utf8) : Array(Data(base64Encoded: peer.protobuf) ?? Data())
        let result = try bytes.withUnsafeBytes {
            isJSON ? try engine.ingestMetrics(json: $0) : try engine.ingestMetrics(protobuf: $0)
        }
        #expect(result.received == 4)
        #expect(result.counted == 1)
        #expect(result.discarded == [.explicitBuckets: 2, .cumulative: 1])
        #expect(engine.histogramLedger.isBalanced)
        #expect(engine.ledger.latencies == peer.total)
        let row = try #require(engine.grid([("stage", "http.server.request.duration")]).row("iOS"))
        #expect(row.total.count == peer.total)
        let window = try #require(engine.read().windows.first)
        var cells = window.cells
        var sketch = Sketch()
        while let cell = cells.next() { sketch.merge(cell) }
        let histogram = sketch.exponentialHistogram
        #expect(histogram.scale == peer.scale)
        let leading = peer.counts.firstIndex { $0 > 0 } ?? 0
        let trailing = peer.counts.lastIndex { $0 > 0 } ?? 0
        #expect(histogram.offset == peer.offset + leading)
        #expect(histogram.counts == Array(peer.counts[leading...trailing]))
    }

    @Test("hostile metrics are refused or discarded, never read outside of themselves")
    func mutations() throws {
        let peer = try Self.peer.get()
        let messages = [Array(Data(base64Encoded: peer.protobuf) ?? Data()), Array(peer.json.utf8)]
        var generator = SeededGenerator(31)
        let engine = try makeEngine { $0.duplicateWindow = .zero }
        var refused = 0
        for round in 0..<500 {
            let bytes = mutated(messages[round % 2], &generator)
            do {
                _ = try bytes.withUnsafeBytes {
                    round % 2 == 0 ? try engine.ingestMetrics(protobuf: $0) : try engine.ingestMetrics(json: $0)
                }
            } catch {
                refused += 1
            }
        }
        #expect(engine.histogramLedger.isBalanced)
        #expect(engine.histogramLedger.counted > 30)
        #expect(refused > 30)
    }
}
