import Foundation
import Telemetry
import TestSupport
import Testing

@Suite("Metrics")
struct MetricsTests {
    private struct Sample: Decodable, Equatable {
        let name: String
        let labels: [String: String]
        let value: Double
    }

    private struct Family: Decodable {
        let name: String
        let type: String
        let unit: String
        let help: String
        let samples: [Sample]
    }

    /// What Prometheus' own Python client reads.
    private func parsed(_ registry: MetricRegistry, _ format: MetricFormat) throws -> [Family] {
        let program = """
            import json, sys
            if sys.argv[1] == "open":
                from prometheus_client.openmetrics.parser import text_string_to_metric_families
            else:
                from prometheus_client.parser import text_string_to_metric_families
            text = sys.stdin.buffer.read().decode()
            print(json.dumps([dict(name=f.name, type=f.type, unit=f.unit, help=f.documentation,
                samples=[dict(name=s.name, labels=s.labels, value=s.value) for s in f.samples]) for f in text_string_to_metric_families(text)]))
            """
        let output = try Peers.python(
            program, [format == .openMetrics ? "open" : "text"], input: Data(registry.render(format)))
        return try JSONDecoder().decode([Family].self, from: output.standardOutput)
    }

    private func text(_ registry: MetricRegistry, _ format: MetricFormat = .prometheusText) -> String {
        String(decoding: registry.render(format), as: UTF8.self)
    }

    /// One of everything.
    private func filled() -> MetricRegistry {
        let registry = MetricRegistry()
        registry.counter("plain_total", help: "Plain.").add(3)
        let labelled = registry.counter(
            "events_total", help: "Events, with a \\ and \"quotes\"\nand a line end.", labels: ["tenant", "kind"])
        labelled.with("acme", "a").add()
        labelled.with("zeta", "b").add(UInt64(1) << 53)
        registry.gauge("queue_bytes", help: "Bytes in the queue.").set(-5)
        registry.gauge("depth", help: "Depth.", labels: ["stream"]).with("größe 🎈").add(7)
        let histogram = registry.histogram("wait_seconds", help: "Wait.", labels: ["group"], bounds: [0.1, 1])
        histogram.with("x").record(nanoseconds: 50_000_000)
        _ = registry.counter("unused_total", help: "No series yet.", labels: ["a"])
        registry.observe("computed_ratio", type: .gauge, labels: ["of"], help: "Computed.") { emitter in
            emitter.emit(0.25, "half")
            emitter.emit(0.25, "half")
            emitter.emit(1.5, "other")
        }
        registry.registerProcessMetrics()
        return registry
    }

    @Test("promtool finds nothing wrong with the text format")
    func promtool() throws {
        let output = try Peers.run(
            "promtool", ["check", "metrics"], input: Data(filled().render(.prometheusText)), expected: nil)
        #expect(output.status == 0, "\(output.standardError)")
        #expect(output.standardError.isEmpty)
    }

    @Test("Prometheus' Python client reads both formats alike", arguments: MetricFormat.allCases)
    func pythonClient(format: MetricFormat) throws {
        let families = try parsed(filled(), format)
        func family(_ name: String) throws -> Family { try #require(families.first { $0.name == name }, "\(name)") }
        // The client names counters without their suffix in both formats.
        #expect(try family("plain").samples == [Sample(name: "plain_total", labels: [:], value: 3)])
        #expect(try family("plain").type == "counter")
        let events = try family("events")
        #expect(
            events.samples == [
                Sample(name: "events_total", labels: ["tenant": "acme", "kind": "a"], value: 1),
                Sample(name: "events_total", labels: ["tenant": "zeta", "kind": "b"], value: 9_007_199_254_740_992),
            ])
        #expect(events.help == "Events, with a \\ and \"quotes\"\nand a line end.")
        #expect(try family("queue_bytes").samples == [Sample(name: "queue_bytes", labels: [:], value: -5)])
        #expect(try family("queue_bytes").unit == (format == .openMetrics ? "bytes" : ""))
        #expect(try family("depth").samples == [Sample(name: "depth", labels: ["stream": "größe 🎈"], value: 7)])
        #expect(
            try family("computed_ratio").samples == [
                Sample(name: "computed_ratio", labels: ["of": "half"], value: 0.5),
                Sample(name: "computed_ratio", labels: ["of": "other"], value: 1.5),
            ])
        #expect(try family("unused").samples.isEmpty)
        let started = try #require(try family("process_start_time_seconds").samples.first?.value)
        #expect(abs(started - Date().timeIntervalSince1970) < 3_600)
        #expect(try #require(family("process_resident_memory_bytes").samples.first?.value) > 1_000_000)
        #expect(try #require(family("process_open_fds").samples.first?.value) > 2)
        #expect(try #require(family("process_threads").samples.first?.value) >= 1)
    }

    @Test("a histogram's buckets, sum and count are the hand-worked ones", arguments: MetricFormat.allCases)
    func histogram(format: MetricFormat) throws {
        let registry = MetricRegistry()
        let histogram = registry.histogram("wait_seconds", help: "Wait.", bounds: [0.001, 0.05, 0.1, 2.5])
        // At an edge belongs below it; a nanosecond more does not.
        histogram.record(nanoseconds: 0)
        histogram.record(nanoseconds: 1_000_000)
        histogram.record(nanoseconds: 1_000_001)
        histogram.record(nanoseconds: 50_000_000, count: 3)
        let batch: [UInt64] = [99_999_999, 100_000_000, 2_500_000_000, 2_500_000_001, 10_000_000_000]
        batch.withUnsafeBufferPointer { histogram.recordBatch(nanoseconds: $0) }
        // Sum: 0.001 + 0.001000001 + 0.15 + 0.099999999 + 0.1 + 2.5 + 2.500000001 + 10 = 15.352000001 s.
        #expect(
            text(registry, format).contains(
                """
                wait_seconds_bucket{le="0.001"} 2
                wait_seconds_bucket{le="0.05"} 6
                wait_seconds_bucket{le="0.1"} 8
                wait_seconds_bucket{le="2.5"} 9
                wait_seconds_bucket{le="+Inf"} 11
                wait_seconds_sum 15.352000001
                wait_seconds_count 11

                """))
        #expect(histogram.snapshot().bucketCounts == [2, 4, 2, 1, 2])
        #expect(histogram.snapshot().sumNanoseconds == 15_352_000_001)
        let family = try #require(parsed(registry, format).first { $0.name == "wait_seconds" })
        #expect(family.type == "histogram")
        #expect(
            family.samples.map(\.value) == [2, 6, 8, 9, 11, 15.352000001, 11]
                || family.samples.map(\.value) == [2, 6, 8, 9, 11, 11, 15.352000001])
    }

    @Test("a histogram's sum goes beyond 64 bits, and loses nothing under eight threads")
    func histogramSums() {
        let registry = MetricRegistry()
        let large = registry.histogram("large_seconds", help: "Large.", bounds: [1])
        large.record(nanoseconds: .max, count: 3)
        large.record(nanoseconds: 5)
        #expect(large.snapshot().sumNanoseconds == UInt128(UInt64.max) * 3 + 5)
        let shared = registry.histogram("shared_seconds", help: "Shared.", bounds: [0.000_000_5])
        DispatchQueue.concurrentPerform(iterations: 8) { _ in
            for value in 1...1_000 as ClosedRange<UInt64> { shared.record(nanoseconds: value) }
        }
        #expect(shared.snapshot().bucketCounts == [4_000, 4_000])
        #expect(shared.snapshot().sumNanoseconds == 8 * 500_500)
    }

    @Test("label values are escaped, and a reader gets them back", arguments: MetricFormat.allCases)
    func escaping(format: MetricFormat) throws {
        let values = [
            "plain", "quote\"", "back\\slash", "line\nend", "\\n is no line end", "\\\\\"\n", "ü🎈", "", " ",
            "{a=\"b\"} 1", "tab\t",
        ]
        let registry = MetricRegistry()
        let family = registry.counter("escaped_total", help: "Escaped.", labels: ["value"])
        for value in values { family.with(value).add() }
        let read = try parsed(registry, format).first { $0.name == "escaped" }?.samples.compactMap {
            $0.labels["value"] ?? ""
        }
        #expect(Set(read ?? []) == Set(values))
        #expect(text(registry, format).contains(#"escaped_total{value="\\\\\"\n"} 1"#))
    }

    @Test("a long label value is cut at 256 bytes, between characters")
    func longLabels() throws {
        let registry = MetricRegistry()
        let family = registry.counter("long_total", help: "Long.", labels: ["value"])
        family.with(String(repeating: "x", count: 256)).add()
        family.with(String(repeating: "x", count: 257)).add()
        family.with(String(repeating: "x", count: 255) + "ü").add()
        let samples = try parsed(registry, .prometheusText).first { $0.name == "long" }?.samples ?? []
        #expect(
            samples == [
                Sample(name: "long_total", labels: ["value": String(repeating: "x", count: 255)], value: 1),
                Sample(name: "long_total", labels: ["value": String(repeating: "x", count: 256)], value: 2),
            ])
    }

    @Test("beyond the limit of series the rest is counted as __other__; closed labels are kept")
    func overflow() throws {
        let registry = MetricRegistry()
        let family = registry.counter(
            "requests_total", help: "Requests.", labels: ["tenant", "outcome"], closedLabels: ["outcome"],
            seriesLimit: 3)
        for index in 0..<10 { family.with("tenant\(index)", index % 2 == 0 ? "ok" : "failed").add() }
        // A series that was there before stays its own.
        family.with("tenant1", "failed").add()
        #expect(family.overflowedLookups == 7)
        let families = try parsed(registry, .openMetrics)
        #expect(
            families.first { $0.name == "requests" }?.samples == [
                Sample(name: "requests_total", labels: ["tenant": "__other__", "outcome": "failed"], value: 4),
                Sample(name: "requests_total", labels: ["tenant": "__other__", "outcome": "ok"], value: 3),
                Sample(name: "requests_total", labels: ["tenant": "tenant0", "outcome": "ok"], value: 1),
                Sample(name: "requests_total", labels: ["tenant": "tenant1", "outcome": "failed"], value: 2),
                Sample(name: "requests_total", labels: ["tenant": "tenant2", "outcome": "ok"], value: 1),
            ])
        let overflows = families.first { $0.name == "isotherm_metric_overflows" }?.samples
        #expect(
            overflows?.last
                == Sample(name: "isotherm_metric_overflows_total", labels: ["metric": "requests_total"], value: 7))
    }

    @Test("an observed metric keeps to its limit of series, and nothing is lost from its sum")
    func observedOverflow() throws {
        let registry = MetricRegistry()
        registry.observe("seen_total", type: .counter, labels: ["id"], seriesLimit: 2, help: "Seen.") { emitter in
            for index in 0..<5 { emitter.emit(UInt64(index + 1), "id\(index)") }
        }
        #expect(
            try parsed(registry, .prometheusText).first { $0.name == "seen" }?.samples == [
                Sample(name: "seen_total", labels: ["id": "__other__"], value: 12),
                Sample(name: "seen_total", labels: ["id": "id0"], value: 1),
                Sample(name: "seen_total", labels: ["id": "id1"], value: 2),
            ])
    }

    @Test("a label value that is __other__ itself does not occur twice", arguments: MetricFormat.allCases)
    func reservedValue(format: MetricFormat) throws {
        let registry = MetricRegistry()
        let family = registry.counter("odd_total", help: "Odd.", labels: ["id"], seriesLimit: 1)
        family.with("__other__").add()
        family.with("next").add()
        #expect(
            try parsed(registry, format).first { $0.name == "odd" }?.samples == [
                Sample(name: "odd_total", labels: ["id": "__other__"], value: 2)
            ])
    }

    @Test("special numbers are written as both formats want them", arguments: MetricFormat.allCases)
    func specialNumbers(format: MetricFormat) throws {
        let registry = MetricRegistry()
        let values: [(String, Double)] = [
            ("nan", .nan), ("inf", .infinity), ("minus", -.infinity), ("tiny", .leastNonzeroMagnitude),
            ("large", 1e300), ("zero", -0.0),
        ]
        registry.observe("odd", type: .gauge, labels: ["id"], help: "Odd.") { emitter in
            for (name, value) in values { emitter.emit(value, name) }
            emitter.emit(nanoseconds: 1_000_000_001, "nano")
            emitter.emit(nanoseconds: 20_000_000_000, "whole")
            emitter.emit(Int.min, "int")
        }
        let lines = text(registry, format)
        for line in [
            #"odd{id="nan"} NaN"#, #"odd{id="inf"} +Inf"#, #"odd{id="minus"} -Inf"#, #"odd{id="nano"} 1.000000001"#,
            #"odd{id="whole"} 20.0"#, #"odd{id="int"} -9223372036854775808"#,
        ] {
            #expect(lines.contains(line + "\n"), "\(line)")
        }
        // JSON has no NaN: the client's own text says what it read.
        let program = """
            import math, sys
            from prometheus_client.\(format == .openMetrics ? "openmetrics." : "")parser import text_string_to_metric_families as read
            found = {s.labels["id"]: s.value for f in read(sys.stdin.read()) if f.name == "odd" for s in f.samples}
            assert math.isnan(found["nan"]) and found["inf"] == math.inf and found["minus"] == -math.inf
            assert found["tiny"] == 5e-324 and found["large"] == 1e300 and found["zero"] == 0
            """
        try Peers.python(program, input: Data(registry.render(format)))
    }

    @Test(
        "the format is negotiated by weight (RFC 9110, section 12.5.1)",
        arguments: [
            (nil, .prometheusText), ("", .prometheusText), ("*/*", .prometheusText), ("text/plain", .prometheusText),
            ("text/html", .prometheusText),
            ("application/openmetrics-text", .openMetrics),
            ("application/openmetrics-text; version=1.0.0; charset=utf-8", .openMetrics),
            ("application/openmetrics-text;version=2.0.0", .prometheusText),
            ("application/openmetrics-text;q=0", .prometheusText),
            ("application/openmetrics-text;q=0.5,text/plain;q=0.6", .prometheusText),
            ("application/openmetrics-text;q=0.6,text/plain;q=0.5", .openMetrics),
            ("APPLICATION/OpenMetrics-Text;Q=0.7,text/plain;q=0.7", .openMetrics),
            ("text/plain;version=0.0.4;q=0.5,*/*;q=0.1", .prometheusText),
            ("application/openmetrics-text;q=garbage", .prometheusText), ("application/json", .prometheusText),
            // Sent by Prometheus 2.x and 3.x.
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                .openMetrics
            ),
            (
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
                .openMetrics
            ),
            // A browser.
            ("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8", .prometheusText),
        ] as [(String?, MetricFormat)])
    func negotiation(accept: String?, expected: MetricFormat) {
        #expect(MetricFormat.negotiate(accept: accept) == expected)
    }

    @Test("OpenMetrics ends with its mark, and only it; both name their content type")
    func framing() {
        let registry = filled()
        #expect(text(registry, .openMetrics).hasSuffix("\n# EOF\n"))
        #expect(!text(registry).contains("# EOF") && !text(registry).contains("# UNIT"))
        #expect(MetricFormat.prometheusText.contentType == "text/plain; version=0.0.4; charset=utf-8")
        #expect(MetricFormat.openMetrics.contentType == "application/openmetrics-text; version=1.0.0; charset=utf-8")
    }

    @Test("counters and gauges lose nothing under eight threads, and series are made once")
    func concurrency() throws {
        let registry = MetricRegistry()
        let counters = registry.counter("raced_total", help: "Raced.", labels: ["id"])
        let gauge = registry.gauge("level", help: "Level.")
        DispatchQueue.concurrentPerform(iterations: 8) { _ in
            for index in 0..<1_000 {
                counters.with("\(index % 10)").add(2)
                gauge.add(3)
                gauge.subtract(2)
                if index % 250 == 0 { _ = registry.render(.openMetrics) }
            }
        }
        #expect((0..<10).allSatisfy { counters.with("\($0)").value == 1_600 })
        #expect(gauge.value == 8_000)
    }
}
