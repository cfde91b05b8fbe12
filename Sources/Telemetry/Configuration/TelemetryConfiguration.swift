import OTLP

/// The tracer's settings, with OpenTelemetry's defaults.
public struct TelemetryConfiguration: Sendable {
    public typealias Compression = OTLPExporterSettings.Compression

    /// How each signal leaves the process. OpenTelemetry's default endpoint is `http://localhost:4318`; here nothing
    /// leaves unless somebody says where to.
    public var tracesExporter = OTLPExporterSettings()
    public var metricsExporter: OTLPExporterSettings = {
        var settings = OTLPExporterSettings()
        settings.maxConcurrentRequests = 1
        return settings
    }()
    public var logsExporter = OTLPExporterSettings()
    /// `OTEL_SDK_DISABLED`.
    public var isDisabled = false
    /// Where batches wait on disk while an endpoint is away; nil keeps them in memory until the export time-out.
    /// `ISOTHERM_TELEMETRY_QUEUE_DIR` and `ISOTHERM_TELEMETRY_QUEUE_MAX_BYTES`.
    public var diskQueue: DiskQueueSettings?
    /// Between two exports. `OTEL_BSP_SCHEDULE_DELAY`, default 5 s.
    public var scheduleDelay = Duration.seconds(5)
    /// Spans that a thread may hold, and that may wait for the exporter. `OTEL_BSP_MAX_QUEUE_SIZE`, default 2,048.
    public var maxQueueSize = 2_048
    /// Spans in one request, at most 8,192. `OTEL_BSP_MAX_EXPORT_BATCH_SIZE`, default 512.
    public var maxExportBatchSize = 512
    /// `OTEL_TRACES_SAMPLER`, default `parentbased_always_on`.
    public var sampler = Sampler.parentBased(.alwaysOn)
    /// `OTEL_PROPAGATORS`, default `tracecontext,baggage`.
    public var propagators = Propagators.standard
    public var limits = SpanLimits()
    public var metrics = MetricsConfiguration()
    public var logs = LogsConfiguration()
    /// Threads that may make spans at the same time, each with a queue of its own; spans of further threads are dropped
    /// as `limit`. Default 256.
    public var maxSpanThreads = 256
    /// Gets what has ended, as `ExportTraceServiceRequest`s: spans that are exported, and those that a sampler has
    /// recorded only. Called on the collector's thread, which waits for it, at least once in each `scheduleDelay`.
    public var observer: (@Sendable (UnsafeRawBufferPointer) -> Void)?
    public var resource = Resource(
        attributes: ResourceDetection.attributes(), schemaURL: ResourceDetection.schemaURL)
    /// Gets a line for a person when spans are lost, at most one a minute, on the exporter's thread.
    public var report: @Sendable (String) -> Void = { _ in }

    public init() {}

    /// Reads `OTEL_*`. A value that cannot be used is left out, with a warning that names it.
    ///
    /// - Parameter serviceName: what the program calls itself; the environment's name goes before, and so for its version.
    public static func fromEnvironment(
        _ environment: [String: String], serviceName: String? = nil, serviceVersion: String? = nil
    ) -> (configuration: TelemetryConfiguration, warnings: [String]) {
        var reader = EnvironmentReader(environment: environment)
        var configuration = TelemetryConfiguration()
        configuration.isDisabled = reader.flag("OTEL_SDK_DISABLED")
        configuration.readExporters(&reader)
        configuration.readProcessor(&reader)
        configuration.readMetrics(&reader)
        configuration.readLogs(&reader)
        configuration.readSampler(&reader)
        configuration.readPropagators(&reader)
        configuration.readResource(&reader, serviceName, serviceVersion)
        return (configuration, reader.warnings)
    }
}

extension TelemetryConfiguration {
    /// The settings of one signal's exporter.
    public subscript(signal: Signal) -> OTLPExporterSettings {
        get {
            switch signal {
            case .traces: tracesExporter
            case .metrics: metricsExporter
            case .logs: logsExporter
            }
        }
        set {
            switch signal {
            case .traces: tracesExporter = newValue
            case .metrics: metricsExporter = newValue
            case .logs: logsExporter = newValue
            }
        }
    }

    // The traces' settings by their short names.

    /// Where spans go.
    public var endpoint: String? {
        get { tracesExporter.endpoint }
        set { tracesExporter.endpoint = newValue }
    }
    /// Sent with every request for spans. Values are never logged.
    public var headers: [(String, String)] {
        get { tracesExporter.headers }
        set { tracesExporter.headers = newValue }
    }
    public var compression: Compression {
        get { tracesExporter.compression }
        set { tracesExporter.compression = newValue }
    }
    /// For one request with spans.
    public var timeout: Duration {
        get { tracesExporter.timeout }
        set { tracesExporter.timeout = newValue }
    }
    /// For one batch of spans with all its retries. `OTEL_BSP_EXPORT_TIMEOUT`, default 30 s.
    public var exportTimeout: Duration {
        get { tracesExporter.exportTimeout }
        set { tracesExporter.exportTimeout = newValue }
    }
}
