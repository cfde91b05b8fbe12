import Glibc
import OTLP

/// The tracer's settings, with OpenTelemetry's defaults.
public struct TelemetryConfiguration: Sendable {
    public enum Compression: String, Sendable, CaseIterable {
        case none, gzip
    }

    /// Where spans go, a full URL; nil exports nothing. OpenTelemetry's default is `http://localhost:4318/v1/traces`;
    /// here nothing leaves the process unless somebody says where to.
    public var endpoint: String?
    /// `OTEL_SDK_DISABLED`.
    public var isDisabled = false
    /// Sent with every request. Values are never logged.
    public var headers: [(String, String)] = []
    /// `OTEL_EXPORTER_OTLP_COMPRESSION`. Default none.
    public var compression = Compression.none
    /// For one request. `OTEL_EXPORTER_OTLP_TIMEOUT`, default 10 s.
    public var timeout = Duration.seconds(10)
    /// For one batch with all its retries. `OTEL_BSP_EXPORT_TIMEOUT`, default 30 s.
    public var exportTimeout = Duration.seconds(30)
    /// Between two exports. `OTEL_BSP_SCHEDULE_DELAY`, default 5 s.
    public var scheduleDelay = Duration.seconds(5)
    /// Spans that a thread may hold, and that may wait for the exporter. `OTEL_BSP_MAX_QUEUE_SIZE`, default 2,048.
    public var maxQueueSize = 2_048
    /// Spans in one request, at most 8,192. `OTEL_BSP_MAX_EXPORT_BATCH_SIZE`, default 512.
    public var maxExportBatchSize = 512
    /// `OTEL_TRACES_SAMPLER`, default `parentbased_always_on`.
    public var sampler = Sampler.parentBased(.alwaysOn)
    public var limits = SpanLimits()
    public var resource = Resource(attributes: ResourceDetection.attributes(serviceName: nil))
    /// Gets a line for a person when spans are lost, at most one a minute, on the exporter's thread.
    public var report: @Sendable (String) -> Void = { _ in }

    public init() {}

    /// Reads `OTEL_*`. A value that cannot be used is left out, with a warning that names it.
    public static func fromEnvironment(
        _ environment: [String: String]
    ) -> (configuration: TelemetryConfiguration, warnings: [String]) {
        var reader = EnvironmentReader(environment: environment)
        var configuration = TelemetryConfiguration()
        configuration.isDisabled = reader.flag("OTEL_SDK_DISABLED")
        configuration.readExporter(&reader)
        configuration.readProcessor(&reader)
        configuration.readSampler(&reader)
        var attributes = reader.list("OTEL_RESOURCE_ATTRIBUTES")
        var name = attributes.first { $0.0 == "service.name" }?.1
        if let explicit = reader.text("OTEL_SERVICE_NAME") { name = explicit }
        attributes.removeAll { $0.0 == "service.name" }
        var merged = ResourceDetection.attributes(serviceName: name)
        for (key, value) in attributes {
            merged.removeAll { $0.key == key }
            merged.append(KeyValue(key, .string(value)))
        }
        configuration.resource = Resource(attributes: merged)
        return (configuration, reader.warnings)
    }
}
