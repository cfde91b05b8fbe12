import Foundation
import OTLP
import Telemetry
import TestSupport
import Testing

/// A registry that is pushed to a receiver when a test says so.
struct PushedMetrics {
    let receiver: Receiver
    let sdk: TelemetrySDK

    init(_ receiver: Receiver, _ change: (inout MetricsConfiguration) -> Void = { _ in }) {
        self.receiver = receiver
        var configuration = TelemetryConfiguration()
        configuration.metricsExporter.endpoint = receiver.endpoint
        configuration.metrics.exportInterval = .seconds(3_600)
        change(&configuration.metrics)
        sdk = TelemetrySDK(configuration: configuration)
    }

    init(_ change: (inout MetricsConfiguration) -> Void = { _ in }) throws {
        self.init(try Receiver(), change)
    }

    var meter: Meter { sdk.meter("test", version: "1.2") }

    func push() { #expect(sdk.flush(deadline: .seconds(10)).undeliveredDataPoints == 0) }

    /// For each push the metrics of the test's own meter.
    func pushed() throws -> [[OfficialMetric]] {
        try OfficialMetric.decode(receiver.bodies).map { $0.filter { $0.scope == "test" } }
    }

    func end() {
        sdk.shutdown(deadline: .seconds(5))
        receiver.stop()
    }
}

@Suite("Instruments, by the official protobuf classes and the official Python SDK")
struct InstrumentTests {
    private struct Run: Encodable {
        var maxSize: Int?
        var temporality = "CUMULATIVE"
        let batches: [[Double]]
    }

    /// What the official SDK makes of the same measurements: for each run one point, or none, for each collection.
    private func official(_ runs: [Run]) throws -> [[OfficialPoint?]] {
        let program = """
            import json, sys
            from opentelemetry.sdk.metrics import MeterProvider, Histogram
            from opentelemetry.sdk.metrics.export import InMemoryMetricReader, AggregationTemporality
            from opentelemetry.sdk.metrics.view import (ExplicitBucketHistogramAggregation,
                ExponentialBucketHistogramAggregation)
            def collect(run):
                size = run.get("maxSize")
                aggregation = ExponentialBucketHistogramAggregation(max_size=size) if size \
                    else ExplicitBucketHistogramAggregation()
                reader = InMemoryMetricReader(preferred_aggregation={Histogram: aggregation},
                    preferred_temporality={Histogram: AggregationTemporality[run["temporality"]]})
                histogram = MeterProvider(metric_readers=[reader]).get_meter("m").create_histogram("h")
                for batch in run["batches"]:
                    for value in batch: histogram.record(value)
                    data = reader.get_metrics_data()
                    points = [] if data is None else [p for r in data.resource_metrics for s in r.scope_metrics
                        for m in s.metrics for p in m.data.data_points]
                    if not points:
                        yield None
                        continue
                    p = points[0]
                    point = dict(count=p.count, sum=p.sum, min=p.min, max=p.max)
                    if hasattr(p, "scale"):
                        point.update(scale=p.scale, zeroCount=p.zero_count, offset=p.positive.offset,
                            counts=list(p.positive.bucket_counts))
                    else:
                        point.update(counts=list(p.bucket_counts))
                    yield point
            print(json.dumps([list(collect(run)) for run in json.load(sys.stdin)]))
            """
        let output = try Peers.python(program, input: JSONEncoder().encode(runs))
        return try JSONDecoder().decode([[OfficialPoint?]].self, from: output.standardOutput)
    }

    private struct OfficialPoint: Decodable {
        let count: UInt64
        let sum: Double
        let min: Double
        let max: Double
        let scale: Int?
        let zeroCount: UInt64?
        let offset: Int?
        let counts: [UInt64]

        func buckets(scale coarser: Int) -> [Int: UInt64] {
            var found: [Int: UInt64] = [:]
            for (index, count) in counts.enumerated() where count > 0 {
                found[((offset ?? 0) + index) >> ((scale ?? 0) - coarser), default: 0] += count
            }
            return found
        }
    }

    /// Reproducible, over many orders of magnitude.
    private static func values(_ count: Int, seed: UInt64, decades: Double) -> [Double] {
        var state = seed
        return (0..<count).map { _ in
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return pow(10, (Double(state >> 11) / Double(1 << 53) - 0.5) * decades)
        }
    }

    static let distributions: [(name: String, maxSize: Int, values: [Double])] = [
        ("one value keeps the finest scale", 160, [1.5]),
        ("powers of two", 160, (-20...20).map { pow(2, Double($0)) }),
        ("one decade", 160, values(2_000, seed: 1, decades: 1)),
        ("twelve decades", 160, values(2_000, seed: 2, decades: 12)),
        ("four buckets", 4, values(500, seed: 3, decades: 6)),
        ("two buckets, to the coarsest scales", 2, [1e-300, 1e300, 1, 2, 4]),
        ("growing upwards", 20, (0..<300).map { pow(1.1, Double($0)) }),
        ("growing downwards", 20, (0..<300).map { pow(1.1, Double(-$0)) }),
        ("zeros among others", 160, [1, 0, 2, 0, 0, 1_000]),
        (
            "subnormal and smallest normal", 160,
            [.leastNonzeroMagnitude, .leastNormalMagnitude, .leastNormalMagnitude / 100]
        ),
        ("the largest", 160, [.greatestFiniteMagnitude, 1]),
    ]

    @Test("exponential histograms have the official SDK's buckets and scale")
    func exponential() throws {
        let receiver = try Receiver()
        for (_, maxSize, values) in Self.distributions {
            let metrics = PushedMetrics(receiver) {
                $0.defaultHistogramAggregation = .exponentialHistogram(maxSize: maxSize)
            }
            let histogram = metrics.meter.histogram("h").bind()
            for value in values { histogram.record(value) }
            metrics.sdk.shutdown(deadline: .seconds(10))
        }
        receiver.stop()
        let points = try OfficialMetric.decode(receiver.bodies).map {
            try #require($0.first { $0.name == "h" }?.points[0])
        }
        let expected = try official(Self.distributions.map { Run(maxSize: $0.maxSize, batches: [$0.values]) })
        #expect(points.count == Self.distributions.count && expected.count == points.count)
        for (index, point) in points.enumerated() {
            let name = Self.distributions[index].name
            let expected = try #require(expected[index][0])
            #expect(point.scale == expected.scale, "\(name)")
            #expect(point.count == expected.count && point.zeroCount == expected.zeroCount, "\(name)")
            #expect(point.sum == expected.sum && point.min == expected.min && point.max == expected.max, "\(name)")
            #expect(
                point.buckets(scale: point.scale ?? 0) == expected.buckets(scale: expected.scale ?? 0), "\(name)")
        }
    }

    @Test("sequences of exponential pushes agree with the official SDK's", arguments: ["DELTA", "CUMULATIVE"])
    func exponentialSequence(temporality: String) throws {
        let batches = [
            Self.values(100, seed: 7, decades: 1), Self.values(100, seed: 8, decades: 4), [],
            Self.values(100, seed: 9, decades: 8),
        ]
        let metrics = try PushedMetrics {
            $0.defaultHistogramAggregation = .exponentialHistogram()
            $0.temporality = temporality == "DELTA" ? .delta : .cumulative
        }
        defer { metrics.end() }
        let histogram = metrics.meter.histogram("h")
        for batch in batches {
            for value in batch { histogram.record(value) }
            metrics.push()
        }
        let expected = try official([Run(maxSize: 160, temporality: temporality, batches: batches)])[0]
        let pushes = try metrics.pushed()
        #expect(pushes.count == batches.count)
        for (push, official) in zip(pushes, expected) {
            guard let official else {
                #expect(push.isEmpty, "nothing was recorded, so nothing is pushed")
                continue
            }
            let point = try #require(push.first?.points.first)
            #expect(push.first?.temporality == (temporality == "DELTA" ? 1 : 2))
            #expect(point.count == official.count && point.min == official.min && point.max == official.max)
            // The sums of doubles are made in another order.
            #expect(abs((point.sum ?? 0) - official.sum) <= official.sum * 1e-12)
            // A delta here has the scale of the whole distribution, in the official SDK the interval's own.
            let scale = min(point.scale ?? 0, official.scale ?? 0)
            #expect(point.buckets(scale: scale) == official.buckets(scale: scale))
        }
    }

    @Test(
        "explicit edges are upper-inclusive, and sequences agree with the official SDK's",
        arguments: ["DELTA", "CUMULATIVE"])
    func explicit(temporality: String) throws {
        let batches: [[Double]] = [
            [0, 4.999_999, 5, 5.000_001, 10, 10_000, 10_000.1], [7_500, 250, 250], [], [1e9, 0.1, 0.2, 0.3],
        ]
        let metrics = try PushedMetrics { $0.temporality = temporality == "DELTA" ? .delta : .cumulative }
        defer { metrics.end() }
        let histogram = metrics.meter.histogram("h")
        for batch in batches {
            for value in batch { histogram.record(value) }
            metrics.push()
        }
        let expected = try official([Run(temporality: temporality, batches: batches)])[0]
        for (push, official) in zip(try metrics.pushed(), expected) {
            guard let official else {
                #expect(push.isEmpty)
                continue
            }
            let point = try #require(push.first?.points.first)
            #expect(point.counts == official.counts && point.count == official.count)
            #expect(point.min == official.min && point.max == official.max)
            #expect(abs((point.sum ?? 0) - official.sum) <= abs(official.sum) * 1e-12)
            #expect(point.bounds == [0, 5, 10, 25, 50, 75, 100, 250, 500, 750, 1_000, 2_500, 5_000, 7_500, 10_000])
        }
    }

    @Test("every kind of instrument arrives as what it is")
    func kinds() throws {
        let metrics = try PushedMetrics()
        defer { metrics.end() }
        let meter = metrics.meter
        let route = [KeyValue("route", "/"), KeyValue("code", 200)]
        meter.counter("c", unit: "{request}", description: "Requests.").add(3, route)
        meter.counter("c").bind(route).add(1)
        meter.counter("cd", of: Double.self).add(0.25)
        meter.upDownCounter("u").add(-7)
        meter.upDownCounter("ud", of: Double.self).add(-0.5)
        meter.gauge("g").record(5)
        meter.gauge("gd", of: Double.self).record(-1.5)
        meter.histogram("h", of: Int.self, unit: "ms", boundaries: [1, 2]).record(2)
        meter.observableCounter("oc") { $0.observe(9) }
        meter.observableUpDownCounter("ou") { $0.observe(-9) }
        meter.observableGauge("og", unit: "Cel") { $0.observe(21.5, [KeyValue("room", "a")]) }
        metrics.push()
        let found = Dictionary(grouping: try metrics.pushed().flatMap(\.self), by: \.name)
        // Another description is not another instrument, but no description was given first.
        let counter = try #require(found["c"]?.first { $0.unit == "{request}" })
        #expect(counter.kind == "sum" && counter.isMonotonic && counter.temporality == 2)
        #expect(counter.description == "Requests." && counter.scopeVersion == "1.2")
        #expect(counter.points.map(\.int) == [3])
        #expect(counter.points.first?.attributes == ["route": "/", "code": "int 200"])
        // No unit is another unit, so the second is an instrument of its own.
        #expect(found["c"]?.count == 2)
        #expect(found["cd"]?.first?.points.first?.double == 0.25)
        #expect(found["u"]?.first?.points.first?.int == -7 && found["u"]?.first?.isMonotonic == false)
        #expect(found["ud"]?.first?.points.first?.double == -0.5)
        #expect(found["g"]?.first?.kind == "gauge" && found["g"]?.first?.points.first?.int == 5)
        #expect(found["gd"]?.first?.points.first?.double == -1.5)
        #expect(found["h"]?.first?.points.first?.counts == [0, 1, 0])
        #expect(found["oc"]?.first?.isMonotonic == true && found["oc"]?.first?.points.first?.int == 9)
        #expect(found["ou"]?.first?.isMonotonic == false && found["ou"]?.first?.points.first?.int == -9)
        #expect(found["og"]?.first?.points.first?.double == 21.5)
        #expect(found["og"]?.first?.points.first?.attributes == ["room": "a"])
    }

    @Test("attributes make one series whatever their order, and a repeated key's last value counts")
    func attributeOrder() throws {
        let metrics = try PushedMetrics()
        defer { metrics.end() }
        let counter = metrics.meter.counter("c")
        counter.add(1, [KeyValue("a", 1), KeyValue("b", 2)])
        counter.add(1, [KeyValue("b", 2), KeyValue("a", 1)])
        counter.add(1, [KeyValue("a", 7), KeyValue("b", 2), KeyValue("a", 1)])
        // An integer is not its text.
        counter.add(1, [KeyValue("a", "1"), KeyValue("b", 2)])
        metrics.push()
        let points = try #require(metrics.pushed().first?.first?.points)
        #expect(points.compactMap(\.int).sorted() == [1, 3])
    }

    @Test("what an instrument may not take is left out and counted")
    func invalidMeasurements() throws {
        let metrics = try PushedMetrics()
        defer { metrics.end() }
        let counter = metrics.meter.counter("c", of: Double.self).bind()
        for value in [1, -1, .nan, .infinity, 0.5] as [Double] { counter.add(value) }
        let histogram = metrics.meter.histogram("h").bind()
        for value in [1, -1, .nan, -.infinity] as [Double] { histogram.record(value) }
        metrics.meter.gauge("g", of: Double.self).record(.nan)
        metrics.push()
        let found = try metrics.pushed().flatMap(\.self)
        #expect(found.first { $0.name == "c" }?.points.first?.double == 1.5)
        #expect(found.first { $0.name == "h" }?.points.first?.count == 1)
        #expect(!found.contains { $0.name == "g" })
        let text = String(decoding: metrics.sdk.metrics.render(.prometheusText), as: UTF8.self)
        #expect(text.contains("isotherm_metric_discarded_total 7\n"))
    }

    @Test(
        "a name is an ASCII letter and at most 254 more characters; another one is a warning, and measures nothing",
        arguments: [
            ("a", true), ("A.b_c-d/e9", true), (String(repeating: "x", count: 255), true),
            (String(repeating: "x", count: 256), false), ("", false), ("9a", false), ("_a", false), ("a b", false),
            ("ä", false), ("a\u{0}", false),
        ])
    func names(name: String, isValid: Bool) throws {
        let lines = Lines()
        let registry = MetricRegistry(configuration: lines.configuration())
        registry.meter("test").counter(name).add(1)
        #expect(lines.all.count == (isValid ? 0 : 1), "\(lines.all)")
        let text = String(decoding: registry.render(.prometheusText), as: UTF8.self)
        #expect(text.contains("otel_scope_name=\"test\"} 1\n") == isValid)
    }

    @Test("the same instrument is one; a conflict is a warning, once, and both count")
    func conflicts() throws {
        let lines = Lines()
        let metrics = try PushedMetrics { $0.report = lines.configuration().report }
        defer { metrics.end() }
        let meter = metrics.meter
        meter.counter("Requests", unit: "1").add(1)
        meter.counter("requests", unit: "1").add(1)
        #expect(lines.all.isEmpty)
        meter.counter("requests", unit: "s").add(10)
        meter.upDownCounter("requests", unit: "1").add(100)
        meter.counter("requests", of: Double.self, unit: "1").add(1_000)
        meter.counter("requests", unit: "s").add(10)
        // Other meters do not matter.
        metrics.sdk.meter("other").counter("requests").add(5)
        #expect(lines.all.count == 1, "\(lines.all)")
        metrics.push()
        let found = try metrics.pushed().flatMap(\.self).filter { $0.name.lowercased() == "requests" }
        // Of two spellings the first one seen.
        #expect(found.first { $0.points.map(\.int) == [2] }?.name == "Requests")
        let points = found.flatMap(\.points)
        #expect(points.map(\.value).sorted() == ["double 1000.0", "int 100", "int 2", "int 20"])
        // The text format cannot hold them all; what it holds is well-formed.
        try Peers.run(
            "promtool", ["check", "metrics"], input: Data(metrics.sdk.metrics.render(.prometheusText)), expected: nil)
    }

    // https://opentelemetry.io/docs/specs/otel/metrics/api/#instrument-unit: 63 characters, case matters; descriptions:
    // 1,023 characters of the Basic Multilingual Plane at least.
    @Test("a meter without a name works; a long unit and a long description arrive whole")
    func texts() throws {
        let metrics = try PushedMetrics()
        defer { metrics.end() }
        let unit = String(repeating: "B", count: 63)
        let description = String(repeating: "größe語", count: 170) + "xyz"
        #expect(description.unicodeScalars.count == 1_023)
        let meter = metrics.sdk.meter("")
        meter.counter("c", unit: unit, description: description).add(1)
        meter.counter("c", unit: unit.lowercased(), description: description).add(10)
        metrics.push()
        let found = try OfficialMetric.decode(metrics.receiver.bodies).flatMap(\.self).filter { $0.name == "c" }
        #expect(found.allSatisfy { $0.scope.isEmpty && $0.description == description })
        #expect(Set(found.map(\.unit)) == [unit, unit.lowercased()])
        #expect(Set(found.flatMap(\.points).map(\.int)) == [1, 10])
    }

    @Test("meters and instruments may be asked for by many threads at once, and are the same for all")
    func concurrentMeters() throws {
        let metrics = try PushedMetrics()
        defer { metrics.end() }
        DispatchQueue.concurrentPerform(iterations: 64) { index in
            for other in 0..<16 { metrics.meter.counter("c\((index + other) % 16)", unit: "1").add(1) }
        }
        metrics.push()
        let found = try metrics.pushed().flatMap(\.self)
        #expect(found.count == 16)
        #expect(found.allSatisfy { $0.points.map(\.int) == [64] })
    }

    @Test("boundaries that are not ascending are a warning, and the standard ones are used")
    func boundaries() throws {
        let lines = Lines()
        let metrics = try PushedMetrics { $0.report = lines.configuration().report }
        defer { metrics.end() }
        metrics.meter.histogram("h", boundaries: [1, 1]).record(3)
        metrics.meter.histogram("none", boundaries: []).record(3)
        #expect(lines.all.count == 1)
        metrics.push()
        let found = try metrics.pushed().flatMap(\.self)
        #expect(found.first { $0.name == "h" }?.points.first?.bounds?.count == 15)
        #expect(found.first { $0.name == "none" }?.points.first?.counts == [1])
    }

    @Test("a cancelled callback is not asked again, and several add up")
    func callbacks() throws {
        let metrics = try PushedMetrics()
        defer { metrics.end() }
        let first = metrics.meter.observableUpDownCounter("o") { $0.observe(1) }
        metrics.meter.observableUpDownCounter("o") { $0.observe(10) }
        metrics.push()
        first.cancel()
        metrics.push()
        #expect(try metrics.pushed().map { $0.first?.points.first?.int } == [11, 10])
    }
}

/// What was reported.
final class Lines: @unchecked Sendable {  // guarded by `lock`
    private let lock = NSLock()
    private var lines: [String] = []

    var all: [String] { lock.withLock { lines } }

    func configuration() -> MetricsConfiguration {
        var configuration = MetricsConfiguration()
        configuration.report = { line in self.lock.withLock { self.lines.append(line) } }
        return configuration
    }
}
