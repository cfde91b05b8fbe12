import CoreMetrics
import Telemetry
import TestSupport
import Testing
import Tracing

@testable import TracingBridge

@Suite("Telemetry behind swift-metrics")
struct MetricsTests {
    /// What the official classes read of what `body` measures.
    private func points(
        _ environment: [String: String] = [:], configure: (inout TelemetryConfiguration) -> Void = { _ in },
        _ body: (BridgedMetrics, TelemetrySDK) -> Void
    ) throws -> [ReceivedPoint] {
        let sink = try OTLPSink()
        var configuration = TelemetryConfiguration.fromEnvironment(
            environment.merging(["OTEL_EXPORTER_OTLP_ENDPOINT": sink.endpoint]) { $1 }
        ).configuration
        configure(&configuration)
        let telemetry = TelemetrySDK(configuration: configuration)
        body(BridgedMetrics(telemetry), telemetry)
        telemetry.shutdown(deadline: .seconds(10))
        return try sink.receivedPoints().filter { $0.scope == "swift-metrics" }
    }

    @Test("each of swift-metrics' kinds arrives as the instrument that it is")
    func kinds() throws {
        let points = try points { factory, _ in
            let dimensions = [("region", "eu"), ("region", "us"), ("", "none")]
            let counter = Counter(label: "requests", dimensions: dimensions, factory: factory)
            counter.increment(by: 41)
            counter.increment()
            FloatingPointCounter(label: "joules", factory: factory).increment(by: 0.75)
            let meter = Meter(label: "active", factory: factory)
            meter.set(10)
            meter.increment(by: 2.5)
            meter.decrement()
            Gauge(label: "temperature", factory: factory).record(-3.5)
            let recorder = Recorder(label: "sizes", factory: factory)
            recorder.record(3)
            recorder.record(700.5)
            let timer = Timer(label: "latency", preferredDisplayUnit: .milliseconds, factory: factory)
            timer.recordNanoseconds(5_000_000)
            timer.recordMilliseconds(30)
            timer.recordSeconds(20)
        }
        func only(_ name: String) throws -> ReceivedPoint {
            let found = points.filter { $0.metric == name }
            #expect(found.count == 1)
            return try #require(found.first)
        }
        let requests = try only("requests")
        #expect(requests.kind == "sum" && requests.isMonotonic && requests.value == 42)
        #expect(requests.attributes == ["region": "string us"])
        #expect(requests.schema == ResourceDetection.schemaURL)
        let joules = try only("joules")
        #expect(joules.kind == "sum" && joules.isMonotonic && joules.value == 0.75)
        let active = try only("active")
        #expect(active.kind == "gauge" && active.value == 11.5)
        let temperature = try only("temperature")
        #expect(temperature.kind == "gauge" && temperature.value == -3.5)
        let sizes = try only("sizes")
        #expect(sizes.kind == "histogram" && sizes.count == 2 && sizes.sum == 703.5 && sizes.unit.isEmpty)
        let latency = try only("latency")
        // Semantic conventions, http.server.request.duration: the advised boundaries, in seconds.
        #expect(latency.bounds == [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10])
        // 5 ms is in the first bucket, whose upper edge it is; 30 ms in the fourth; 20 s beyond the last edge.
        #expect(latency.buckets == [1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])
        #expect(latency.kind == "histogram" && latency.unit == "s" && latency.count == 3)
        #expect(abs(latency.sum - 20.035) < 1e-9)
    }

    @Test("timers follow the setting for exponential histograms")
    func exponential() throws {
        let variable = "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION"
        let points = try points([variable: "base2_exponential_bucket_histogram"]) { factory, _ in
            Timer(label: "latency", factory: factory).recordMilliseconds(30)
        }
        #expect(points.map(\.kind) == ["exponential_histogram"] && points[0].count == 1 && points[0].unit == "s")
    }

    @Test("what no sum or histogram may take is left out, and what is no number changes no meter")
    func refused() throws {
        let points = try points { factory, _ in
            let counter = FloatingPointCounter(label: "c", factory: factory)
            counter.increment(by: 1)
            counter.increment(by: -1)
            counter.increment(by: Double.infinity)
            counter.reset()
            let recorder = Recorder(label: "r", factory: factory)
            recorder.record(2)
            recorder.record(-2)
            let meter = Meter(label: "m", factory: factory)
            meter.set(Double.nan)
            meter.increment(by: 3)
            meter.increment(by: -Double.infinity)
        }
        #expect(points.first { $0.metric == "c" }?.value == 1)
        #expect(points.first { $0.metric == "r" }?.count == 1)
        #expect(points.first { $0.metric == "m" }?.value == 3)
    }

    @Test("two handlers of one label and dimensions are one series, also after one is destroyed")
    func destroy() throws {
        let points = try points { factory, _ in
            let first = Counter(label: "c", factory: factory)
            first.increment(by: 2)
            first.destroy()
            Counter(label: "c", factory: factory).increment(by: 3)
            let one = Meter(label: "m", dimensions: [("a", "1"), ("b", "2")], factory: factory)
            let other = Meter(label: "m", dimensions: [("b", "2"), ("a", "1")], factory: factory)
            one.increment(by: 5)
            other.increment(by: 1)
            one.destroy()
            other.increment(by: 1)
            Meter(label: "m", dimensions: [("a", "1"), ("b", "2")], factory: factory).increment(by: 1)
            // Both users have gone: the next one begins anew.
            let gone = Meter(label: "gone", factory: factory)
            gone.set(9)
            gone.destroy()
            Meter(label: "gone", factory: factory).increment(by: 1)
        }
        #expect(points.first { $0.metric == "c" }?.value == 5)
        #expect(points.filter { $0.metric == "m" }.map(\.value) == [8])
        #expect(points.first { $0.metric == "gone" }?.value == 1)
    }

    @Test("series beyond the cardinality limit are counted together", arguments: [9, 10, 11, 50])
    func cardinality(series: Int) throws {
        let points = try points(configure: { $0.metrics.cardinalityLimit = 10 }) { factory, _ in
            for number in 0..<series {
                Counter(label: "c", dimensions: [("n", "\(number)")], factory: factory).increment()
            }
        }
        // OpenTelemetry's metrics SDK, "Cardinality limits": the overflow series counts towards the limit.
        #expect(points.count == min(series, 10))
        #expect(points.reduce(0) { $0 + $1.value } == Double(series))
        let overflow = points.filter { $0.attributes == ["otel.metric.overflow": "bool true"] }
        #expect(overflow.map(\.value) == (series < 10 ? [] : [Double(series - 9)]))
    }

    @Test(
        "a label becomes a name that OpenTelemetry allows",
        arguments: [
            ("http.server.duration", "http.server.duration"), ("a-b/c_d", "a-b/c_d"), ("two words", "two_words"),
            ("1st", "m1st"), ("_x", "m_x"), ("", "unnamed"), ("größe", "gr____e"),
            (String(repeating: "x", count: 255), String(repeating: "x", count: 255)),
            (String(repeating: "x", count: 256), String(repeating: "x", count: 255)),
            ("9" + String(repeating: "x", count: 254), "m9" + String(repeating: "x", count: 253)),
        ])
    func names(label: String, expected: String) {
        #expect(BridgedMetrics.name(label) == expected)
    }

    @Test("a measurement inside a sampled span becomes an exemplar of its trace")
    func exemplars() throws {
        var trace = ""
        let points = try points { factory, telemetry in
            let timer = Timer(label: "latency", factory: factory)
            BridgedTracer(telemetry).withSpan("s") { span in
                trace = span.context.spanContext?.traceID.description ?? ""
                timer.recordMilliseconds(7)
            }
        }
        #expect(points.first?.exemplarTraces == [trace] && trace.count == 32)
    }
}
