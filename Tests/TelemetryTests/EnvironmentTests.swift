import OTLP
import Telemetry
import Testing

/// https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ and
/// https://opentelemetry.io/docs/specs/otel/protocol/exporter/
@Suite("OTEL_* variables")
struct EnvironmentTests {
    private func read(_ environment: [String: String]) -> (configuration: TelemetryConfiguration, warnings: [String]) {
        TelemetryConfiguration.fromEnvironment(environment)
    }

    @Test(
        "the general endpoint gets /v1/traces appended (case 19)",
        arguments: [
            ("http://collector:4318", "http://collector:4318/v1/traces"),
            ("http://collector:4318/", "http://collector:4318/v1/traces"),
            ("https://c/sub/path", "https://c/sub/path/v1/traces"),
            ("https://c/sub/path/", "https://c/sub/path/v1/traces"),
            ("  http://c  ", "http://c/v1/traces"),
        ])
    func generalEndpoint(value: String, expected: String) {
        let (configuration, warnings) = read(["OTEL_EXPORTER_OTLP_ENDPOINT": value])
        #expect(configuration.endpoint == expected)
        #expect(warnings.isEmpty)
    }

    @Test(
        "the traces' endpoint is used as it is, and before the general one (case 19)",
        arguments: ["http://c:1", "http://c:1/", "http://c:1/custom"])
    func ownEndpoint(value: String) {
        let (configuration, warnings) = read([
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": value, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://other",
        ])
        #expect(configuration.endpoint == value)
        #expect(warnings.isEmpty)
    }

    @Test(
        "an endpoint of no use is a warning, and nothing is exported (case 20)",
        arguments: ["collector:4318", "ftp://c", "nonsense"])
    func badEndpoint(value: String) {
        let (configuration, warnings) = read(["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": value])
        #expect(configuration.endpoint == nil)
        #expect(warnings.count == 1)
    }

    @Test("empty equals unset, for every variable (case 20)", arguments: ["", "  ", "\t"])
    func empty(value: String) {
        let names = [
            "OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_HEADERS",
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
            "OTEL_EXPORTER_OTLP_COMPRESSION", "OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_BSP_SCHEDULE_DELAY",
            "OTEL_BSP_EXPORT_TIMEOUT",
            "OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "OTEL_ATTRIBUTE_COUNT_LIMIT",
            "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
            "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_TRACES_SAMPLER",
            "OTEL_TRACES_SAMPLER_ARG",
            "OTEL_RESOURCE_ATTRIBUTES", "OTEL_SERVICE_NAME", "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS",
            "OTEL_PROPAGATORS", "OTEL_EXPORTER_OTLP_CERTIFICATE", "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
            "OTEL_EXPORTER_OTLP_CLIENT_KEY", "OTEL_METRICS_EXPORTER", "OTEL_LOGS_EXPORTER",
            "OTEL_METRIC_EXPORT_INTERVAL", "OTEL_METRIC_EXPORT_TIMEOUT", "OTEL_METRICS_EXEMPLAR_FILTER",
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
            "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "OTEL_BLRP_SCHEDULE_DELAY",
            "OTEL_BLRP_EXPORT_TIMEOUT", "OTEL_BLRP_MAX_QUEUE_SIZE", "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE",
            "OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT", "OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT",
            "OTEL_SPAN_EVENT_COUNT_LIMIT", "OTEL_SPAN_LINK_COUNT_LIMIT", "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT",
            "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT", "ISOTHERM_TELEMETRY_QUEUE_DIR", "ISOTHERM_TELEMETRY_QUEUE_MAX_BYTES",
        ]
        let (configuration, warnings) = read(Dictionary(uniqueKeysWithValues: names.map { ($0, value) }))
        expectDefaults(configuration)
        #expect(warnings.isEmpty)
    }

    @Test("without variables everything has OpenTelemetry's defaults")
    func defaults() {
        let (configuration, warnings) = read([:])
        expectDefaults(configuration)
        #expect(warnings.isEmpty)
    }

    private func expectDefaults(_ configuration: TelemetryConfiguration) {
        #expect(configuration.endpoint == nil && !configuration.isDisabled && configuration.headers.isEmpty)
        #expect(configuration.compression == .none)
        #expect(configuration.timeout == .seconds(10) && configuration.exportTimeout == .seconds(30))
        #expect(configuration.scheduleDelay == .seconds(5))
        #expect(configuration.maxQueueSize == 2_048 && configuration.maxExportBatchSize == 512)
        #expect(configuration.limits.attributeCount == 128 && configuration.limits.attributeValueLength == nil)
        #expect(configuration.sampler == .parentBased(.alwaysOn))
        #expect(configuration.propagators.description == "tracecontext,baggage" && configuration.diskQueue == nil)
        #expect(configuration.metrics.exportInterval == .seconds(60) && configuration.logs.maxQueueSize == 2_048)
        guard
            case .string(let name)? = configuration.resource.attributes.first(where: { $0.key == "service.name" })?
                .value
        else {
            Issue.record("no service name")
            return
        }
        #expect(name.hasPrefix("unknown_service"))
    }

    @Test("values are taken over")
    func values() {
        let (configuration, warnings) = read([
            "OTEL_EXPORTER_OTLP_COMPRESSION": "none", "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": "GZIP",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "2500",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "OTEL_BSP_EXPORT_TIMEOUT": "7000", "OTEL_BSP_MAX_QUEUE_SIZE": "4096",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "8192",
            "OTEL_ATTRIBUTE_COUNT_LIMIT": "10", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "20",
            "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "30",
            "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "40", "OTEL_SERVICE_NAME": "größe",
        ])
        #expect(warnings.isEmpty)
        #expect(configuration.compression == .gzip)
        #expect(configuration.timeout == .milliseconds(2_500) && configuration.exportTimeout == .seconds(7))
        #expect(configuration.scheduleDelay == .milliseconds(100))
        #expect(configuration.maxQueueSize == 4_096 && configuration.maxExportBatchSize == 8_192)
        #expect(configuration.limits.attributeCount == 30 && configuration.limits.attributeValueLength == 40)
        #expect(configuration.resource.attributes.contains(KeyValue("service.name", .string("größe"))))
        #expect(read(["OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "20"]).configuration.limits.attributeValueLength == 20)
    }

    @Test(
        "a bad value is a warning that names its variable, and the default stays (case 20)",
        arguments: [
            ("OTEL_SDK_DISABLED", "1"), ("OTEL_SDK_DISABLED", "yes"), ("OTEL_EXPORTER_OTLP_TIMEOUT", "-1"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "1e3"), ("OTEL_EXPORTER_OTLP_TIMEOUT", "99999999999999999999"),
            ("OTEL_BSP_SCHEDULE_DELAY", "x"),
            ("OTEL_BSP_EXPORT_TIMEOUT", "0"), ("OTEL_BSP_MAX_QUEUE_SIZE", "0"), ("OTEL_BSP_MAX_QUEUE_SIZE", "-5"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "1048577"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8193"), ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "many"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "lz4"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
            ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "-1"), ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "1.5"),
            ("OTEL_RESOURCE_ATTRIBUTES", "novalue"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "novalue"),
        ])
    func badValue(name: String, value: String) {
        let (configuration, warnings) = read([name: value])
        expectDefaults(configuration)
        #expect(warnings.count == 1)
        #expect(warnings.first?.contains(name) == true)
    }

    @Test(
        "only true is true, in any case (case 20)",
        arguments: [("true", true), ("TRUE", true), ("True", true), ("false", false), ("1", false), ("yes", false)])
    func truth(value: String, expected: Bool) {
        #expect(read(["OTEL_SDK_DISABLED": value]).configuration.isDisabled == expected)
    }

    @Test("each signal has its own variables before the general ones (case 19)")
    func signals() {
        let (configuration, warnings) = read([
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c/sub", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://m/own",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json", "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip", "OTEL_EXPORTER_OTLP_LOGS_COMPRESSION": "zstd",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1000", "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT": "2000",
            "OTEL_EXPORTER_OTLP_HEADERS": "a=1", "OTEL_EXPORTER_OTLP_METRICS_HEADERS": "b=2",
        ])
        #expect(warnings.isEmpty)
        let (traces, metrics, logs) = (configuration[.traces], configuration[.metrics], configuration[.logs])
        #expect(traces.endpoint == "http://c/sub/v1/traces" && logs.endpoint == "http://c/sub/v1/logs")
        #expect(metrics.endpoint == "http://m/own")
        #expect([traces, metrics, logs].map(\.encoding) == [.json, .json, .protobuf])
        #expect([traces, metrics, logs].map(\.compression) == [.gzip, .gzip, .zstd])
        #expect([traces, metrics, logs].map(\.timeout) == [.seconds(1), .seconds(2), .seconds(1)])
        #expect([traces, metrics, logs].map { $0.headers.map(\.0) } == [["a"], ["b"], ["a"]])
        // Points of one series must arrive in order.
        #expect([traces, metrics, logs].map(\.maxConcurrentRequests) == [2, 1, 2])
    }

    @Test(
        "an exporter list is otlp, none, or both with others (case 20)",
        arguments: [
            ("METRICS", "none", false, 0), ("METRICS", "prometheus", false, 0),
            ("METRICS", "prometheus, otlp", true, 0),
            ("LOGS", "console", true, 1), ("LOGS", "otlp", true, 0), ("TRACES", "NONE", false, 0),
        ])
    func exporters(signal: String, value: String, isOn: Bool, warnings count: Int) throws {
        let (configuration, warnings) = read([
            "OTEL_\(signal)_EXPORTER": value, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c",
        ])
        let known = try #require(Signal(rawValue: signal.lowercased()))
        #expect((configuration[known].endpoint != nil) == isOn)
        #expect(warnings.count == count)
    }

    @Test("the disk queue is set by its directory; a size of no use is a warning (case 20)")
    func diskQueue() {
        #expect(read([:]).configuration.diskQueue == nil)
        let (found, warnings) = read([
            "ISOTHERM_TELEMETRY_QUEUE_DIR": "/var/lib/q", "ISOTHERM_TELEMETRY_QUEUE_MAX_BYTES": "65536",
        ])
        #expect(found.diskQueue == DiskQueueSettings(directory: "/var/lib/q", maxBytes: 65_536) && warnings.isEmpty)
        for value in ["65535", "many", "-1"] {
            let (found, warnings) = read([
                "ISOTHERM_TELEMETRY_QUEUE_DIR": "q", "ISOTHERM_TELEMETRY_QUEUE_MAX_BYTES": value,
            ])
            #expect(found.diskQueue == DiskQueueSettings(directory: "q") && warnings.count == 1)
        }
        #expect(read(["ISOTHERM_TELEMETRY_QUEUE_MAX_BYTES": "65536"]).warnings.count == 1)
    }

    @Test("an endpoint of no use is named without its password")
    func secretEndpoint() {
        let (_, warnings) = read(["OTEL_EXPORTER_OTLP_ENDPOINT": "grpc://user:s3cret@c:4317?key=s3cret"])
        // Once for the three signals.
        #expect(warnings.count == 1 && !warnings.joined().contains("s3cret") && warnings[0].contains("grpc://c:4317"))
    }

    @Test("the exporter none exports nothing")
    func noExporter() {
        #expect(
            read(["OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"]).configuration.endpoint
                == nil)
    }

    @Test(
        "header lists: percent-decoding, = in a value, white space, empty members (case 20)",
        arguments: [
            ("a=1", ["a: 1"], 0), ("a=1,b=2", ["a: 1", "b: 2"], 0), (" a = 1 , b = 2 ", ["a: 1", "b: 2"], 0),
            (",,a=1,,", ["a: 1"], 0),
            ("Authorization=Basic%20dXNlcg==", ["Authorization: Basic dXNlcg=="], 0), ("a=b=c", ["a: b=c"], 0),
            ("a=%C3%BC%2C%3D", ["a: ü,="], 0),
            ("a=", ["a: "], 0), ("=1,a=1", ["a: 1"], 1), ("novalue,a=1", ["a: 1"], 1), ("bad=%zz,a=1", ["a: 1"], 1),
            ("bad=%4,a=1", ["a: 1"], 1),
            ("bad=%,a=1", ["a: 1"], 1), ("bad=%ff,a=1", ["a: 1"], 1), ("bad=x%0d%0aEvil:1,a=1", ["a: 1"], 1),
            ("bad=%00,a=1", ["a: 1"], 1),
            ("bad\r\nEvil=1,a=1", ["a: 1"], 1), ("bad name=1,a=1", ["a: 1"], 1), ("bad:=1,a=1", ["a: 1"], 1),
            ("bad=%+1,a=1", ["a: 1"], 1),
        ] as [(String, [String], Int)])
    func headers(value: String, expected: [String], warnings count: Int) {
        let (configuration, warnings) = read(["OTEL_EXPORTER_OTLP_HEADERS": value])
        #expect(configuration.headers.map { "\($0.0): \($0.1)" } == expected)
        #expect(warnings.count == count)
    }

    @Test("the traces' headers replace the general ones, and a secret is in no warning")
    func secrets() {
        let (configuration, warnings) = read([
            "OTEL_EXPORTER_OTLP_HEADERS": "a=1", "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "b=2,key=s3cret%0a,s3cret",
        ])
        #expect(configuration.headers.map(\.0) == ["b"])
        // Both bad members make the same line.
        #expect(warnings.count == 1)
        #expect(!warnings.joined().contains("s3cret"))
    }

    @Test(
        "samplers are read by name, with their argument",
        arguments: [
            ("always_on", nil, .alwaysOn, 0), ("always_off", nil, .alwaysOff, 0),
            ("traceidratio", "0.25", .traceIDRatio(0.25), 0),
            ("traceidratio", nil, .traceIDRatio(1), 0), ("parentbased_always_on", nil, .parentBased(.alwaysOn), 0),
            ("parentbased_always_off", nil, .parentBased(.alwaysOff), 0),
            ("parentbased_traceidratio", "0.5", .parentBased(.traceIDRatio(0.5)), 0),
            ("traceidratio", "2", .traceIDRatio(1), 1), ("traceidratio", "-0.1", .traceIDRatio(1), 1),
            ("traceidratio", "nan", .traceIDRatio(1), 1),
            ("traceidratio", "half", .traceIDRatio(1), 1),
            ("parentbased_traceidratio", "", .parentBased(.traceIDRatio(1)), 0),
        ] as [(String, String?, Sampler, Int)])
    func samplers(name: String, argument: String?, expected: Sampler, warnings count: Int) {
        var environment = ["OTEL_TRACES_SAMPLER": name]
        environment["OTEL_TRACES_SAMPLER_ARG"] = argument
        let (configuration, warnings) = read(environment)
        #expect(configuration.sampler == expected)
        #expect(warnings.count == count)
    }
}
