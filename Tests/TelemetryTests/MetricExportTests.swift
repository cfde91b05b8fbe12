import Foundation
import OTLP
import Synchronization
import Telemetry
import TestSupport
import Testing

@Suite("Views, limits, temporality and exemplars of pushed metrics")
struct MetricExportTests {
    private func sum(_ points: [OfficialMetric.Point]) -> Int { points.compactMap(\.int).reduce(0, +) }

    // MARK: Views

    @Test("a view selects by name, kind, unit and meter, and renames, describes, filters and aggregates")
    func views() throws {
        var renamed = View(instrumentName: "http.duration")
        renamed.instrumentKind = .histogram
        renamed.instrumentUnit = "ms"
        renamed.meterName = "test"
        renamed.meterVersion = "1.2"
        renamed.name = "latency"
        renamed.description = "How long."
        renamed.attributeKeys = ["route"]
        renamed.aggregation = .explicitHistogram(boundaries: [100])
        var counted = View(instrumentName: "HTTP.D?ration")
        counted.name = "ignored: a pattern may not name a stream"
        counted.aggregation = .sum
        counted.excludedAttributeKeys = ["route", "user"]
        var dropped = View(instrumentName: "noise*")
        dropped.aggregation = .drop
        var wrong = View(instrumentName: "watched")
        wrong.aggregation = .exponentialHistogram()
        let lines = Lines()
        let metrics = try PushedMetrics {
            $0.views = [renamed, counted, dropped, wrong]
            $0.report = lines.configuration().report
        }
        defer { metrics.end() }
        let histogram = metrics.meter.histogram("http.duration", unit: "ms")
        histogram.record(50, [KeyValue("route", "/a"), KeyValue("user", "u1")])
        histogram.record(150, [KeyValue("route", "/a"), KeyValue("user", "u2")])
        metrics.meter.counter("noise.one").add(1)
        metrics.meter.counter("nois").add(1)
        metrics.meter.observableGauge("watched") { $0.observe(4) }
        metrics.push()
        let found = Dictionary(grouping: try metrics.pushed().flatMap(\.self), by: \.name)
        #expect(Set(found.keys) == ["latency", "http.duration", "nois", "watched"])
        let latency = try #require(found["latency"]?.first)
        #expect(latency.description == "How long." && latency.unit == "ms")
        #expect(latency.points.map(\.attributes) == [["route": "/a"]])
        #expect(latency.points.map(\.counts) == [[1, 1]])
        let counts = try #require(found["http.duration"]?.first)
        #expect(counts.kind == "sum" && counts.isMonotonic && counts.points.first?.double == 200)
        #expect(counts.points.first?.attributes == [:])
        #expect(found["watched"]?.first?.points.first?.int == 4)
        // The name of a pattern's stream, and the observable's histogram.
        #expect(lines.all.count == 2, "\(lines.all)")
    }

    @Test(
        "wildcards match as in a shell",
        arguments: [
            ("*", "anything", true), ("", "x", false), ("a?c", "abc", true), ("a?c", "ac", false), ("a*c", "ac", true),
            ("*.b.*", "a.b.c", true), ("*.b.*", "a.bc", false), ("A*", "abc", true), ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false), ("***", "x", true), ("x", "xx", false),
        ])
    func wildcards(pattern: String, name: String, isMatch: Bool) throws {
        var configuration = MetricsConfiguration()
        var view = View(instrumentName: pattern)
        view.aggregation = .drop
        configuration.views = [view]
        let registry = MetricRegistry(configuration: configuration)
        registry.meter("m").counter(name).add(1)
        let text = String(decoding: registry.render(.prometheusText), as: UTF8.self)
        #expect(text.contains("otel_scope_name=\"m\"} 1\n") != isMatch)
    }

    // MARK: Cardinality

    @Test("a metric has as many series as its limit, the last of them for all the rest, and no count is lost")
    func overflow() throws {
        for (series, expected) in [(8, 8), (9, 9), (10, 10), (11, 10), (50, 10)] {
            let metrics = try PushedMetrics { $0.cardinalityLimit = 10 }
            defer { metrics.end() }
            let counter = metrics.meter.counter("c")
            for _ in 0..<3 { for index in 0..<series { counter.add(1, [KeyValue("id", .int(Int64(index)))]) } }
            metrics.meter.observableCounter("o") { observer in
                for index in 0..<series { observer.observe(3, [KeyValue("id", .int(Int64(index)))]) }
            }
            metrics.push()
            for metric in try metrics.pushed().flatMap(\.self) {
                #expect(metric.points.count == expected, "\(metric.name), \(series) series")
                #expect(sum(metric.points) == series * 3)
                let overflow = metric.points.filter { $0.attributes == ["otel.metric.overflow": "bool true"] }
                #expect(sum(overflow) == max(0, series - 9) * 3)
            }
        }
    }

    @Test("the limit is 2,000 unless told otherwise, and a view may set its own")
    func defaultLimit() throws {
        var view = View(instrumentName: "small")
        view.cardinalityLimit = 1
        let metrics = try PushedMetrics { $0.views = [view] }
        defer { metrics.end() }
        let (large, small) = (metrics.meter.counter("large"), metrics.meter.counter("small"))
        for index in 0..<2_100 {
            large.add(1, [KeyValue("id", .int(Int64(index)))])
            small.add(1, [KeyValue("id", .int(Int64(index)))])
        }
        metrics.push()
        let found = try metrics.pushed().flatMap(\.self)
        #expect(found.first { $0.name == "large" }?.points.count == 2_000)
        #expect(found.first { $0.name == "small" }?.points.map(\.int) == [2_100])
        let text = String(decoding: metrics.sdk.metrics.render(.prometheusText), as: UTF8.self)
        #expect(text.contains("isotherm_metric_overflows_total{metric=\"large\"} 101\n"))
    }

    // MARK: Temporality

    @Test(
        "each preference has its own temporality for each kind",
        arguments: [
            // https://opentelemetry.io/docs/specs/otel/metrics/sdk_exporters/otlp/#additional-environment-variable-configuration
            (MetricsConfiguration.Temporality.cumulative, ["c": 2, "h": 2, "oc": 2, "u": 2, "ou": 2, "g": 0]),
            (.delta, ["c": 1, "h": 1, "oc": 1, "u": 2, "ou": 2, "g": 0]),
            (.lowMemory, ["c": 1, "h": 1, "oc": 2, "u": 2, "ou": 2, "g": 0]),
        ])
    func preferences(preference: MetricsConfiguration.Temporality, expected: [String: Int]) throws {
        let metrics = try PushedMetrics { $0.temporality = preference }
        defer { metrics.end() }
        let meter = metrics.meter
        let step = Mutex(0)
        meter.observableCounter("oc") { observer in observer.observe(step.withLock { $0 } * 10) }
        meter.observableUpDownCounter("ou") { observer in observer.observe(step.withLock { $0 } * 10) }
        for number in 1...3 {
            step.withLock { $0 = number }
            meter.counter("c").add(10)
            meter.upDownCounter("u").add(10)
            meter.gauge("g").record(number)
            meter.histogram("h").record(10)
            metrics.push()
        }
        let pushes = try metrics.pushed()
        for (index, push) in pushes.enumerated() {
            for metric in push {
                let isDelta = metric.temporality == 1
                #expect(metric.temporality == expected[metric.name], "\(metric.name)")
                let point = try #require(metric.points.first)
                #expect(point.time >= point.start)
                switch metric.name {
                case "h": #expect(point.count == UInt64(isDelta ? 1 : index + 1))
                case "g": #expect(point.int == index + 1 && point.start == 0)
                default: #expect(point.int == (isDelta ? 10 : 10 * (index + 1)), "\(metric.name)")
                }
                guard index > 0, metric.name != "g" else { continue }
                let before = try #require(pushes[index - 1].first { $0.name == metric.name }?.points.first)
                // Deltas follow each other without a gap; cumulative points keep their start.
                #expect(point.start == (isDelta ? before.time : before.start), "\(metric.name)")
            }
        }
    }

    @Test("an observed counter that falls has begun anew, at the last look and from zero", arguments: [true, false])
    func resets(isDelta: Bool) throws {
        let metrics = try PushedMetrics { $0.temporality = isDelta ? .delta : .cumulative }
        defer { metrics.end() }
        let values = Mutex([10, 15, 4, 4, 9])
        metrics.meter.observableCounter("o") { observer in
            // The shutdown looks once more.
            if let value = values.withLock({ $0.isEmpty ? nil : $0.removeFirst() }) { observer.observe(value) }
        }
        for _ in 0..<5 { metrics.push() }
        let points = try metrics.pushed().compactMap { $0.first?.points.first }
        #expect(points.compactMap(\.int) == (isDelta ? [10, 5, 4, 0, 5] : [10, 15, 4, 4, 9]))
        #expect(points[2].start == points[1].time)
        if !isDelta {
            #expect(points[0].start == points[1].start && points[2].start == points[4].start)
        }
    }

    @Test("a series that is observed again after a gap is not counted twice")
    func gap() throws {
        let metrics = try PushedMetrics { $0.temporality = .delta }
        defer { metrics.end() }
        let values = Mutex<[Int?]>([10, nil, 12])
        metrics.meter.observableCounter("o") { observer in
            if let value = values.withLock({ $0.isEmpty ? nil : $0.removeFirst() }) { observer.observe(value) }
        }
        for _ in 0..<3 { metrics.push() }
        #expect(try metrics.pushed().map { $0.first?.points.first?.int } == [10, nil, 2])
    }

    @Test("a delta whose export fails is tried again by the exporter, once it arrived it is not told again")
    func failedDelta() throws {
        let receiver = try Receiver(replies: [.ok, .status(503, headers: ["Retry-After": "0"]), .ok, .status(400), .ok])
        let metrics = PushedMetrics(receiver) { $0.temporality = .delta }
        defer { metrics.end() }
        let counter = metrics.meter.counter("c").bind()
        for amount in [1, 10, 100, 1_000] {
            counter.add(amount)
            metrics.push()
        }
        let bodies = receiver.bodies
        // The second look was sent twice, byte for byte; the third was refused for good, and is no part of the fourth.
        #expect(bodies.count == 5 && bodies[1] == bodies[2])
        #expect(try metrics.pushed().map { $0.first?.points.first?.int } == [1, 10, 10, 100, 1_000])
        let ledger = metrics.sdk.metricLedger
        #expect(ledger.rejected > 0 && ledger.queued == 0)
        #expect(ledger.taken == ledger.exported + ledger.rejected)
    }

    @Test("scrapes and pushes take nothing from each other")
    func scrapesBetweenDeltas() throws {
        let metrics = try PushedMetrics { $0.temporality = .delta }
        defer { metrics.end() }
        let counter = metrics.meter.counter("c").bind()
        let families = metrics.sdk.metrics.counter("family_total", help: "Family.")
        for _ in 0..<3 {
            counter.add(5)
            families.add(2)
            _ = metrics.sdk.metrics.render(.openMetrics)
            metrics.push()
        }
        let text = String(decoding: metrics.sdk.metrics.render(.prometheusText), as: UTF8.self)
        #expect(text.contains("c_total{otel_scope_name=\"test\",otel_scope_version=\"1.2\"} 15\n"))
        #expect(text.contains("family_total 6\n"))
        let all = try OfficialMetric.decode(metrics.receiver.bodies).flatMap(\.self)
        #expect(all.filter { $0.name == "c" }.flatMap(\.points).map(\.int) == [5, 5, 5])
        #expect(all.filter { $0.name == "family_total" }.flatMap(\.points).map(\.int) == [2, 2, 2])
        #expect(all.first { $0.name == "family_total" }?.scope == "isotherm")
    }

    @Test("a family's histogram is pushed in seconds, with its edges")
    func families() throws {
        let metrics = try PushedMetrics()
        defer { metrics.end() }
        let family = metrics.sdk.metrics.histogram(
            "wait_seconds", help: "Wait.", labels: ["group"], bounds: [0.05, 0.1])
        family.with("a").record(nanoseconds: 50_000_000)
        family.with("a").record(nanoseconds: 70_000_000)
        metrics.push()
        let found = try OfficialMetric.decode(metrics.receiver.bodies).flatMap(\.self)
        let metric = try #require(found.first { $0.name == "wait_seconds" })
        #expect(metric.unit == "s" && metric.kind == "histogram" && metric.description == "Wait.")
        #expect(metric.points.map(\.counts) == [[1, 1, 0]] && metric.points.map(\.bounds) == [[0.05, 0.1]])
        #expect(metric.points.first?.sum == 0.12 && metric.points.first?.attributes == ["group": "a"])
    }

    // MARK: Exemplars

    static let sampled = SpanContext(
        traceID: TraceID(high: 0x0AF7_6519_16CD_43DD, low: 0x8448_EB21_1C80_319C),
        spanID: SpanID(rawValue: 0xB7AD_6B71_6920_3331), traceFlags: .sampled)

    @Test(
        "the filter decides what may become an exemplar",
        arguments: [
            (MetricsConfiguration.ExemplarFilter.alwaysOff, [0, 0, 0]), (.traceBased, [0, 0, 1]),
            (.alwaysOn, [1, 1, 1]),
        ])
    func exemplarFilter(filter: MetricsConfiguration.ExemplarFilter, expected: [Int]) throws {
        let metrics = try PushedMetrics { $0.exemplarFilter = filter }
        defer { metrics.end() }
        let unsampled = SpanContext(traceID: Self.sampled.traceID, spanID: Self.sampled.spanID, traceFlags: [])
        for (index, context) in [nil, unsampled, Self.sampled].enumerated() {
            metrics.meter.counter("c\(index)").bind().add(3, context: context)
        }
        metrics.push()
        let found = try metrics.pushed().flatMap(\.self)
        #expect(
            (0..<3).map { index in found.first { $0.name == "c\(index)" }?.points.first?.exemplars.count } == expected)
        if let exemplar = found.first(where: { $0.name == "c2" })?.points.first?.exemplars.first {
            #expect(exemplar.trace == "0af7651916cd43dd8448eb211c80319c" && exemplar.span == "b7ad6b7169203331")
            #expect(exemplar.value == 3)
        }
    }

    @Test("each bucket keeps its newest measurement, with the attributes that the view left out")
    func alignedExemplars() throws {
        var view = View(instrumentName: "h")
        view.attributeKeys = ["route"]
        let metrics = try PushedMetrics {
            $0.views = [view]
            $0.temporality = .delta
        }
        defer { metrics.end() }
        let histogram = metrics.meter.histogram("h", boundaries: [1, 2])
        for (index, value) in [0.5, 1.5, 0.75, 2, 5].enumerated() {
            histogram.record(
                value, [KeyValue("route", "/"), KeyValue("user", .int(Int64(index)))], context: Self.sampled)
        }
        metrics.push()
        histogram.record(0.25, [KeyValue("route", "/")], context: Self.sampled)
        metrics.push()
        let pushes = try metrics.pushed()
        let point = try #require(pushes[0].first?.points.first)
        let exemplars = point.exemplars
        #expect(exemplars.allSatisfy { $0.time >= point.start && $0.time <= point.time })
        #expect(exemplars.map(\.value) == [0.75, 2, 5])
        #expect(exemplars.map(\.attributes) == [["user": "int 2"], ["user": "int 3"], ["user": "int 4"]])
        // A delta has only what belongs to its own time.
        #expect(pushes[1].first?.points.first?.exemplars.map(\.value) == [0.25])
    }

    @Test("a reservoir of fixed size keeps each measurement with the same chance")
    func uniformExemplars() throws {
        let metrics = try PushedMetrics {
            $0.defaultHistogramAggregation = .exponentialHistogram()
            $0.exemplarFilter = .alwaysOn
        }
        defer { metrics.end() }
        let histogram = metrics.meter.histogram("h")
        // 100 series of 20 exemplars out of 200 measurements.
        for series in 0..<100 {
            let bound = histogram.bind([KeyValue("series", .int(Int64(series)))])
            for value in 1...200 { bound.record(Double(value)) }
        }
        metrics.push()
        let values = try metrics.pushed().flatMap(\.self).flatMap(\.points).flatMap(\.exemplars).map(\.value)
        #expect(values.count == 2_000)
        // The mean of a uniform choice is 100.5 with a standard error of 57.7 / √2000 = 1.3; seven of those.
        let mean = values.reduce(0, +) / 2_000
        #expect(abs(mean - 100.5) < 9, "\(mean)")
    }

    @Test("exemplars are in OpenMetrics, where Prometheus' client reads them, and not in the text format")
    func exposedExemplars() throws {
        let registry = MetricRegistry()
        registry.histogram("wait_seconds", help: "Wait.", bounds: [0.1, 1]).record(
            nanoseconds: 50_000_000, context: Self.sampled)
        let meter = registry.meter("shop", version: "2")
        meter.counter("shop.orders", unit: "{order}").add(2, [KeyValue("shop.country", "NL")], context: Self.sampled)
        meter.histogram("shop.size", unit: "By", boundaries: [10]).record(7, context: Self.sampled)
        let program = """
            import json, sys
            from prometheus_client.openmetrics.parser import text_string_to_metric_families as read
            print(json.dumps({f"{s.name}{s.labels.get('le', '')}": [s.exemplar.labels, s.exemplar.value]
                for f in read(sys.stdin.read()) for s in f.samples if s.exemplar}))
            """
        let output = try Peers.python(program, input: Data(registry.render(.openMetrics)))
        let ids = #"{"trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "b7ad6b7169203331"}"#
        #expect(
            output.text == #"{"shop_orders_total": [\#(ids), 2], "shop_size_bytes_bucket10.0": [\#(ids), 7.0], "#
                + #""wait_seconds_bucket0.1": [\#(ids), 0.05]}"# + "\n")
        let text = registry.render(.prometheusText)
        #expect(!String(decoding: text, as: UTF8.self).contains("trace_id"))
        let checked = try Peers.run("promtool", ["check", "metrics"], input: Data(text), expected: nil)
        #expect(checked.status == 0, "\(checked.standardError)")
    }

    // MARK: Exposition of OpenTelemetry's names

    @Test("OpenTelemetry's names, units and attributes become Prometheus'")
    func prometheusNames() throws {
        let registry = MetricRegistry()
        let meter = registry.meter("m")
        meter.counter("http.server.requests", unit: "{request}").add(1)
        meter.histogram("http.server.duration", unit: "ms").record(3)
        meter.gauge("cpu.utilization", unit: "1").record(1)
        meter.upDownCounter("heap/size", unit: "KiBy").add(2)
        meter.counter("io.total", unit: "By/s").add(4)
        meter.gauge("speed", unit: "m/s").record(
            5, [KeyValue("a.b", "x"), KeyValue("a_b", "y"), KeyValue("l", .array([1, "t\"", true]))])
        let text = String(decoding: registry.render(.openMetrics), as: UTF8.self)
        for line in [
            "# TYPE http_server_requests counter", #"http_server_requests_total{otel_scope_name="m"} 1"#,
            "# TYPE http_server_duration_milliseconds histogram",
            "# UNIT http_server_duration_milliseconds milliseconds",
            #"cpu_utilization_ratio{otel_scope_name="m"} 1"#, #"heap_size_kibibytes{otel_scope_name="m"} 2"#,
            #"io_bytes_per_second_total{otel_scope_name="m"} 4"#,
            #"speed_meters_per_second{a_b="x;y",l="[1,\"t\\\"\",true]",otel_scope_name="m"} 5"#,
        ] {
            #expect(text.contains(line + "\n"), "\(line) in \(text)")
        }
        try Peers.python(
            "import sys\nfrom prometheus_client.openmetrics.parser import text_string_to_metric_families as r\n"
                + "list(r(sys.stdin.read()))", input: Data(text.utf8))
    }

    @Test("an exponential histogram is scraped between powers of two, with exact counts")
    func exposedExponential() throws {
        var configuration = MetricsConfiguration()
        configuration.defaultHistogramAggregation = .exponentialHistogram()
        let registry = MetricRegistry(configuration: configuration)
        let histogram = registry.meter("").histogram("h")
        for value in [0, 0.5, 0.75, 1, 1.5, 2, 3] { histogram.record(value) }
        #expect(
            String(decoding: registry.render(.prometheusText), as: UTF8.self).contains(
                """
                h_bucket{le="0.0"} 1
                h_bucket{le="0.5"} 2
                h_bucket{le="1.0"} 4
                h_bucket{le="2.0"} 6
                h_bucket{le="4.0"} 7
                h_bucket{le="+Inf"} 7
                h_sum 8.75
                h_count 7

                """))
    }

    // MARK: Threads, deadlines, environment

    @Test("eight threads record while deltas are pushed: the deltas add up to everything")
    func concurrentDeltas() throws {
        let metrics = try PushedMetrics {
            $0.temporality = .delta
            $0.defaultHistogramAggregation = .exponentialHistogram(maxSize: 20)
        }
        defer { metrics.end() }
        let meter = metrics.meter
        let counter = meter.counter("c").bind()
        let doubles = meter.counter("d", of: Double.self).bind()
        let histogram = meter.histogram("h").bind()
        let spread = meter.counter("s")
        let isDone = Atomic(false)
        let group = DispatchGroup()
        for thread in 0..<8 {
            group.enter()
            Thread.detachNewThread {
                for index in 1...10_000 {
                    counter.add(1)
                    doubles.add(0.5)
                    histogram.record(Double(index))
                    spread.add(1, [KeyValue("id", .int(Int64((index + thread) % 50)))])
                }
                group.leave()
            }
        }
        Thread.detachNewThread {
            group.wait()
            isDone.store(true, ordering: .releasing)
        }
        while !isDone.load(ordering: .acquiring) { metrics.push() }
        metrics.push()
        let pushes = try metrics.pushed()
        #expect(pushes.count > 1)
        func points(_ name: String) -> [OfficialMetric.Point] {
            pushes.flatMap(\.self).filter { $0.name == name }.flatMap(\.points)
        }
        #expect(sum(points("c")) == 80_000)
        #expect(points("d").compactMap(\.double).reduce(0, +) == 40_000)
        #expect(points("h").compactMap(\.count).reduce(0, +) == 80_000)
        // Integers far below 2^53: exact.
        #expect(points("h").compactMap(\.sum).reduce(0, +) == 8 * 50_005_000)
        #expect(sum(points("s")) == 80_000)
    }

    @Test("a callback that never returns delays neither a flush nor a shutdown beyond its deadline")
    func hungCallback() throws {
        let metrics = try PushedMetrics()
        let release = DispatchSemaphore(value: 0)
        metrics.meter.observableGauge("hung") { observer in
            release.wait()
            observer.observe(1)
        }
        let begin = ContinuousClock.now
        metrics.sdk.flush(deadline: .milliseconds(100))
        metrics.sdk.shutdown(deadline: .milliseconds(100))
        // Generous: what matters is that it returns at all.
        #expect(ContinuousClock.now - begin < .seconds(20))
        release.signal()
        release.signal()
        metrics.receiver.stop()
    }

    @Test("an endpoint that never answers delays a shutdown only to its deadline, and the points count as dropped")
    func blackHole() throws {
        let receiver = try Receiver(otherwise: .blackHole)
        defer { receiver.stop() }
        let metrics = PushedMetrics(receiver)
        metrics.meter.counter("c").add(1)
        let report = metrics.sdk.shutdown(deadline: .milliseconds(200))
        let ledger = metrics.sdk.metricLedger
        #expect(report.undeliveredDataPoints > 0 && report.undeliveredDataPoints == ledger.dropped[.shutdown])
        #expect(ledger.queued == 0 && ledger.exported == 0)
    }

    @Test("metrics are pushed by themselves at the interval, and a last time at the shutdown")
    func periodic() throws {
        let receiver = try Receiver()
        let metrics = PushedMetrics(receiver) { $0.exportInterval = .milliseconds(20) }
        let counter = metrics.meter.counter("c").bind()
        counter.add(1)
        #expect(eventually { receiver.requests.count >= 3 })
        counter.add(1)
        metrics.end()
        #expect(try metrics.pushed().last?.first?.points.first?.int == 2)
    }

    @Test("the environment's variables set what they name, and a bad value is a warning")
    func environment() {
        let (configuration, warnings) = TelemetryConfiguration.fromEnvironment([
            "OTEL_METRIC_EXPORT_INTERVAL": "1500", "OTEL_METRIC_EXPORT_TIMEOUT": "2500",
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "LowMemory",
            "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "base2_exponential_bucket_histogram",
            "OTEL_METRICS_EXEMPLAR_FILTER": "always_on", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://m:1/x",
        ])
        #expect(warnings.isEmpty, "\(warnings)")
        #expect(configuration.metrics.exportInterval == .milliseconds(1_500))
        #expect(configuration.metricsExporter.exportTimeout == .milliseconds(2_500))
        #expect(configuration.metrics.temporality == .lowMemory)
        #expect(configuration.metrics.defaultHistogramAggregation == .exponentialHistogram())
        #expect(configuration.metrics.exemplarFilter == .alwaysOn)
        #expect(configuration.metricsExporter.endpoint == "http://m:1/x" && configuration.logsExporter.endpoint == nil)
        for (name, value) in [
            ("OTEL_METRIC_EXPORT_INTERVAL", "soon"), ("OTEL_METRIC_EXPORT_TIMEOUT", "-1"),
            ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "both"),
            ("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "linear"),
            ("OTEL_METRICS_EXEMPLAR_FILTER", "sometimes"),
        ] {
            let (configuration, warnings) = TelemetryConfiguration.fromEnvironment([name: value])
            #expect(warnings.count == 1 && warnings[0].contains(name) && warnings[0].contains(value))
            #expect(configuration.metrics.exportInterval == .seconds(60))
            #expect(configuration.metrics.temporality == .cumulative)
            #expect(configuration.metrics.exemplarFilter == .traceBased)
        }
        for exporter in ["none", "prometheus"] {
            let environment = ["OTEL_METRICS_EXPORTER": exporter, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"]
            let (configuration, warnings) = TelemetryConfiguration.fromEnvironment(environment)
            #expect(configuration.metricsExporter.endpoint == nil && warnings.isEmpty)
            #expect(configuration.logsExporter.endpoint == "http://c:4318/v1/logs")
        }
    }

    // MARK: The SDK about itself

    @Test("the SDK tells of its spans, logs and points by the semantic conventions, in agreement with the ledgers")
    func selfObservation() throws {
        let receiver = try Receiver()
        defer { receiver.stop() }
        var configuration = TelemetryConfiguration.test(receiver)
        configuration.metricsExporter.endpoint = receiver.endpoint
        configuration.logsExporter.endpoint = receiver.endpoint
        configuration.metrics.exportInterval = .seconds(3_600)
        configuration.logs.scheduleDelay = .seconds(3_600)
        let sdk = TelemetrySDK(configuration: configuration)
        for _ in 0..<5 { sdk.tracer.startSpan("done").end() }
        let live = sdk.tracer.startSpan("live")
        for _ in 0..<3 { sdk.logger("l").emit(LogRecord(body: "x")) }
        sdk.flush(deadline: .seconds(10))
        // The second look has seen the first one's way.
        sdk.flush(deadline: .seconds(10))
        live.end()
        sdk.shutdown(deadline: .seconds(10))
        let bodies = receiver.requests.map(\.body)
        let isMetrics = try Peers.python(
            """
            import json, struct, sys
            from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
            data, at, out = sys.stdin.buffer.read(), 0, []
            while at < len(data):
                size = struct.unpack_from(">I", data, at)[0]
                out.append(b"otel.sdk.span.live" in data[at + 4:at + 4 + size])
                at += 4 + size
            print(json.dumps(out))
            """, input: OfficialRequest.framed(bodies))
        let flags = try JSONDecoder().decode([Bool].self, from: isMetrics.standardOutput)
        let looks = try OfficialMetric.decode(zip(bodies, flags).filter(\.1).map(\.0))
        #expect(looks.count == 3)
        func value(_ look: Int, _ name: String, _ attributes: [String: String] = [:]) -> Int? {
            looks[look].first { $0.name == name }?.points.first {
                $0.attributes.merging(attributes) { $1 } == $0.attributes
            }?.int
        }
        let sampled = ["otel.span.sampling_result": "RECORD_AND_SAMPLE"]
        #expect(value(1, "otel.sdk.span.live", sampled) == 1 && value(2, "otel.sdk.span.live", sampled) == 0)
        #expect(value(1, "otel.sdk.span.started", sampled) == 6)
        #expect(value(1, "otel.sdk.span.started", ["otel.span.sampling_result": "DROP"]) == 0)
        #expect(value(1, "otel.sdk.processor.span.processed") == 5)
        #expect(value(1, "otel.sdk.processor.span.queue.size") == 0)
        #expect(value(1, "otel.sdk.processor.span.queue.capacity") == configuration.maxQueueSize)
        let component = ["otel.component.type": "otlp_http_span_exporter", "server.address": "127.0.0.1"]
        #expect(value(1, "otel.sdk.exporter.span.exported", component) == 5)
        #expect(value(2, "otel.sdk.exporter.span.exported", component) == 6)
        #expect(value(1, "otel.sdk.exporter.span.inflight") == 0)
        #expect(value(1, "otel.sdk.log.created") == 3 && value(1, "otel.sdk.exporter.log.exported") == 3)
        #expect(value(1, "otel.sdk.processor.log.processed") == 3)
        let first = looks[0].reduce(0) { $0 + $1.points.count }
        #expect(value(1, "otel.sdk.exporter.metric_data_point.exported") == first)
        let durations = looks[1].first { $0.name == "otel.sdk.exporter.operation.duration" }
        #expect(durations?.unit == "s" && durations?.points.contains { $0.count ?? 0 > 0 } == true)
        #expect(looks[1].first { $0.name == "otel.sdk.metric_reader.collection.duration" }?.points.first?.count == 1)
    }
}
