import Foundation
import OTLP
import Telemetry
import TestSupport
import Testing

@Suite("Log records are what was emitted, by the official protobuf classes")
struct LogTests {
    private func sdk(
        _ receiver: Receiver, _ change: (inout TelemetryConfiguration) -> Void = { _ in }
    ) -> TelemetrySDK {
        var configuration = TelemetryConfiguration()
        configuration.logsExporter.endpoint = receiver.endpoint
        configuration.logs.scheduleDelay = .seconds(3_600)
        change(&configuration)
        return TelemetrySDK(configuration: configuration)
    }

    private func expectBalance(_ ledger: LogLedger, sourceLocation: SourceLocation = #_sourceLocation) {
        #expect(ledger.queued == 0, "\(ledger)", sourceLocation: sourceLocation)
        #expect(
            ledger.emitted == ledger.exported + ledger.rejected + ledger.totalDropped, "\(ledger)",
            sourceLocation: sourceLocation)
    }

    @Test("every field arrives")
    func fields() throws {
        let receiver = try Receiver()
        defer { receiver.stop() }
        let sdk = sdk(receiver)
        var record = LogRecord(
            severity: .warn, body: .keyValueList([KeyValue("a", .array([1, "x"])), KeyValue("b", .empty)]),
            attributes: [KeyValue("k", 1), KeyValue("flag", true), KeyValue("k", 2.5)],
            context: MetricExportTests.sampled)
        record.time = Instant(unixNano: 1_700_000_000_123_456_789)
        record.observedTime = Instant(unixNano: 1_700_000_001_000_000_001)
        record.severityText = "WARNING"
        record.eventName = "shop.sold_out"
        sdk.logger("shop").emit(record)
        sdk.logger("other").emit(LogRecord(body: "plain"))
        sdk.shutdown(deadline: .seconds(10))
        #expect(receiver.requests.count == 1, "two scopes share a request")
        let logs = try OfficialLog.decode(receiver.bodies).flatMap(\.self)
        let full = try #require(logs.first { $0.scope == "shop" })
        #expect(full.time == 1_700_000_000_123_456_789 && full.observed == 1_700_000_001_000_000_001)
        #expect(full.severity == 13 && full.severityText == "WARNING" && full.event == "shop.sold_out")
        #expect(full.body == "kvlist [a: array [int 1, x], b: empty]")
        #expect(full.attributes == ["k": "double 2.5", "flag": "bool true"] && full.dropped == 0)
        #expect(full.trace == "0af7651916cd43dd8448eb211c80319c" && full.span == "b7ad6b7169203331" && full.flags == 1)
        let plain = try #require(logs.first { $0.scope == "other" })
        #expect(plain.time == 0 && plain.severity == 0 && plain.body == "plain" && plain.trace.isEmpty)
        #expect(abs(Double(plain.observed) / 1e9 - Date().timeIntervalSince1970) < 600)
        expectBalance(sdk.logLedger)
        #expect(sdk.logLedger.exported == 2)
    }

    @Test("attributes beyond the limit are dropped and counted; values are cut by character, recursively")
    func limits() throws {
        let receiver = try Receiver()
        defer { receiver.stop() }
        let sdk = sdk(receiver) {
            $0.logs.attributeCountLimit = 2
            $0.logs.attributeValueLengthLimit = 3
        }
        for count in 1...3 {
            sdk.logger("l").emit(
                LogRecord(
                    body: "a body is not cut",
                    attributes: (0..<count).map {
                        KeyValue("k\($0)", .array([.string("größe"), .bytes([1, 2, 3, 4])]))
                    }))
        }
        // Setting a key again is not one more.
        sdk.logger("l").emit(LogRecord(attributes: [KeyValue("a", 1), KeyValue("b", 2), KeyValue("a", 3)]))
        sdk.shutdown(deadline: .seconds(10))
        let logs = try OfficialLog.decode(receiver.bodies).flatMap(\.self)
        #expect(logs.map(\.dropped) == [0, 0, 1, 0])
        #expect(logs.map(\.attributes.count) == [1, 2, 2, 2])
        #expect(logs[0].attributes["k0"] == "array [grö, bytes 010203]" && logs[0].body == "a body is not cut")
        #expect(logs[3].attributes == ["a": "int 3", "b": "int 2"])
    }

    @Test("a full batch leaves at once, the rest at the interval or a flush, in order")
    func batches() throws {
        let receiver = try Receiver()
        defer { receiver.stop() }
        let sdk = sdk(receiver) { $0.logs.maxExportBatchSize = 10 }
        let logger = sdk.logger("l")
        for index in 0..<9 { logger.emit(LogRecord(body: .int(Int64(index)))) }
        #expect(receiver.requests.isEmpty && sdk.logLedger.queued == 9)
        logger.emit(LogRecord(body: 9))
        #expect(eventually { receiver.requests.count == 1 })
        for index in 10..<25 { logger.emit(LogRecord(body: .int(Int64(index)))) }
        #expect(sdk.flush(deadline: .seconds(10)).undeliveredLogRecords == 0)
        let requests = try OfficialLog.decode(receiver.bodies)
        #expect(requests.map(\.count).sorted() == [5, 10, 10])
        #expect(Set(requests.flatMap(\.self).map(\.body)) == Set((0..<25).map { "int \($0)" }))
        sdk.shutdown(deadline: .seconds(10))
    }

    @Test("what does not fit the queue is dropped and counted, by number and by bytes")
    func overflow() throws {
        let receiver = try Receiver()
        defer { receiver.stop() }
        let few = sdk(receiver) { $0.logs.maxQueueSize = 8 }
        for count in 1...9 {
            few.logger("l").emit(LogRecord(body: "x"))
            #expect(few.logLedger.dropped[.queueFull] == (count == 9 ? 1 : 0))
        }
        few.shutdown(deadline: .seconds(10))
        expectBalance(few.logLedger)
        #expect(few.logLedger.exported == 8)
        let small = sdk(receiver) { $0.logs.maxQueueBytes = 10_000 }
        for _ in 0..<9 { small.logger("l").emit(LogRecord(body: .string(String(repeating: "x", count: 2_000)))) }
        #expect(small.logLedger.dropped[.queueFull] == 5)
        small.shutdown(deadline: .seconds(10))
        expectBalance(small.logLedger)
    }

    @Test("the ledger balances under eight threads, refusals and a receiver that loses some")
    func ledger() throws {
        let partial: [UInt8] = [0x0A, 0x02, 0x08, 0x03]  // partial_success{rejected_log_records: 3}
        let receiver = try Receiver(
            replies: [.status(200, body: partial), .status(400), .status(503, headers: ["Retry-After": "0"])])
        defer { receiver.stop() }
        let sdk = sdk(receiver) {
            $0.logs.scheduleDelay = .milliseconds(5)
            $0.logs.maxQueueSize = 256
            $0.logs.maxExportBatchSize = 64
        }
        DispatchQueue.concurrentPerform(iterations: 8) { thread in
            let logger = sdk.logger("l")
            for index in 0..<1_000 {
                logger.emit(LogRecord(body: .string("\(thread)/\(index)")))
                if index % 100 == 0 {
                    let ledger = sdk.logLedger
                    #expect(ledger.emitted >= ledger.exported + ledger.rejected + ledger.totalDropped)
                }
            }
        }
        let report = sdk.shutdown(deadline: .seconds(20))
        #expect(report.undeliveredLogRecords == 0)
        let ledger = sdk.logLedger
        expectBalance(ledger)
        #expect(ledger.emitted == 8_000 && ledger.rejected > 3)
        // A fourth kind of answer took them: all but the refused request and the repeated one.
        let bodies = try OfficialLog.decode(receiver.bodies).map { $0.map(\.body) }
        let repeated = bodies.count - Set(bodies).count
        #expect(repeated == 1)
        #expect(UInt64(Set(bodies.flatMap(\.self)).count) == ledger.exported + ledger.rejected)
    }

    @Test("after the shutdown records count as dropped; without an endpoint nothing is emitted")
    func afterShutdown() throws {
        let receiver = try Receiver(otherwise: .blackHole)
        defer { receiver.stop() }
        let sdk = sdk(receiver)
        sdk.logger("l").emit(LogRecord(body: "held"))
        #expect(sdk.shutdown(deadline: .milliseconds(100)).undeliveredLogRecords == 1)
        sdk.logger("l").emit(LogRecord(body: "late"))
        expectBalance(sdk.logLedger)
        #expect(sdk.logLedger.dropped[.shutdown] == 2)
        let idle = TelemetrySDK()
        #expect(!idle.logger("l").isEnabled)
        idle.logger("l").emit(LogRecord(body: "nowhere"))
        #expect(idle.logLedger.emitted == 0)
    }

    @Test("the environment's variables set what they name, and a bad value is a warning")
    func environment() {
        let (configuration, warnings) = TelemetryConfiguration.fromEnvironment([
            "OTEL_BLRP_SCHEDULE_DELAY": "250", "OTEL_BLRP_EXPORT_TIMEOUT": "1250", "OTEL_BLRP_MAX_QUEUE_SIZE": "100",
            "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE": "50", "OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT": "7",
            "OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT": "9", "OTEL_LOGS_EXPORTER": "otlp",
        ])
        #expect(warnings.isEmpty)
        #expect(configuration.logs.scheduleDelay == .milliseconds(250))
        #expect(configuration.logsExporter.exportTimeout == .milliseconds(1_250))
        #expect(configuration.logs.maxQueueSize == 100 && configuration.logs.maxExportBatchSize == 50)
        #expect(configuration.logs.attributeCountLimit == 7 && configuration.logs.attributeValueLengthLimit == 9)
        // The general limits where the own ones are not set.
        let general = TelemetryConfiguration.fromEnvironment([
            "OTEL_ATTRIBUTE_COUNT_LIMIT": "5", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "6",
        ]).configuration.logs
        #expect(general.attributeCountLimit == 5 && general.attributeValueLengthLimit == 6)
        for (name, value) in [
            ("OTEL_BLRP_SCHEDULE_DELAY", "x"), ("OTEL_BLRP_EXPORT_TIMEOUT", "0"), ("OTEL_BLRP_MAX_QUEUE_SIZE", "0"),
            ("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "9000"), ("OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT", "-1"),
            ("OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT", "many"),
        ] {
            let warnings = TelemetryConfiguration.fromEnvironment([name: value]).warnings
            #expect(warnings.count == 1 && warnings[0].contains(name), "\(warnings)")
        }
        let larger = TelemetryConfiguration.fromEnvironment([
            "OTEL_BLRP_MAX_QUEUE_SIZE": "10", "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE": "11",
        ])
        #expect(larger.warnings.count == 1 && larger.configuration.logs.maxExportBatchSize == 10)
        let none = TelemetryConfiguration.fromEnvironment([
            "OTEL_LOGS_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318",
        ]).configuration
        #expect(none.logsExporter.endpoint == nil && none.endpoint == "http://c:4318/v1/traces")
    }

    @Test("metrics and logs arrive behind a collector of somebody else's make, counted at the far end")
    func collector() throws {
        let receiver = try Receiver()
        defer { receiver.stop() }
        let rotel = try RotelCollector(exporterEndpoint: "http://127.0.0.1:\(receiver.port)")
        defer { rotel.stop() }
        let sdk = TelemetrySDK(
            configuration: TelemetryConfiguration.fromEnvironment([
                "OTEL_EXPORTER_OTLP_ENDPOINT": rotel.endpoint, "OTEL_SERVICE_NAME": "chain",
                "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip", "OTEL_BLRP_MAX_QUEUE_SIZE": "10000",
                "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "base2_exponential_bucket_histogram",
            ]).configuration)
        let logger = sdk.logger("chain")
        for index in 0..<2_000 { logger.emit(LogRecord(severity: .info, body: .int(Int64(index)))) }
        let counter = sdk.meter("chain").counter("chain.count")
        for index in 0..<300 { counter.add(index, [KeyValue("id", .int(Int64(index)))]) }
        let histogram = sdk.meter("chain").histogram("chain.size")
        for index in 1...1_000 { histogram.record(Double(index)) }
        #expect(sdk.shutdown(deadline: .seconds(20)).undeliveredDataPoints == 0)
        #expect(sdk.logLedger.exported == 2_000)
        func arrived(_ path: String) -> [[UInt8]] {
            receiver.requests.filter { $0.target.contains(path) }.map(\.body)
        }
        var logs: [OfficialLog] = []
        var metrics: [OfficialMetric] = []
        let isComplete = eventually(within: .seconds(20)) {
            logs = (try? OfficialLog.decode(arrived("/v1/logs"), gzip: true).flatMap(\.self)) ?? []
            metrics = (try? OfficialMetric.decode(arrived("/v1/metrics"), gzip: true).flatMap(\.self)) ?? []
            return logs.count >= 2_000 && metrics.contains { $0.name == "chain.size" }
        }
        #expect(isComplete, "\(logs.count) log records, \(metrics.count) metrics")
        #expect(logs.count == 2_000 && Set(logs.map(\.body)).count == 2_000)
        #expect(logs.allSatisfy { $0.service == "chain" && $0.severity == 9 })
        #expect(metrics.allSatisfy { $0.service == "chain" })
        let points = metrics.filter { $0.name == "chain.count" }.flatMap(\.points)
        #expect(points.count == 300 && points.compactMap(\.int).reduce(0, +) == 299 * 150)
        let size = try #require(metrics.first { $0.name == "chain.size" })
        #expect(size.kind == "exponential_histogram" && size.points.map(\.count) == [1_000])
    }
}
