import OTLP

/// How much a log record matters. https://opentelemetry.io/docs/specs/otel/logs/data-model/#field-severitynumber
public struct LogSeverity: RawRepresentable, Hashable, Comparable, Sendable {
    /// From 1 to 24.
    public let rawValue: UInt8

    public init?(rawValue: UInt8) {
        guard (1...24).contains(rawValue) else { return nil }
        self.rawValue = rawValue
    }

    private init(_ rawValue: UInt8) { self.rawValue = rawValue }

    public static let trace = LogSeverity(1)
    public static let debug = LogSeverity(5)
    public static let info = LogSeverity(9)
    public static let warn = LogSeverity(13)
    public static let error = LogSeverity(17)
    public static let fatal = LogSeverity(21)

    public static func < (one: LogSeverity, other: LogSeverity) -> Bool { one.rawValue < other.rawValue }
}

/// Something that happened, in OpenTelemetry's terms.
/// https://opentelemetry.io/docs/specs/otel/logs/data-model/
public struct LogRecord: Sendable {
    /// When it happened; nil when only the time of its arrival here is known.
    public var time: Instant?
    /// When it came to this process; nil for the time of `emit`.
    public var observedTime: Instant?
    public var severity: LogSeverity?
    /// The level's name at its source.
    public var severityText = ""
    public var body: AnyValue?
    /// Of equal keys the last wins.
    public var attributes: [KeyValue] = []
    /// The span in which it happened.
    public var context: SpanContext?
    /// What kind of event it is; empty for an ordinary log line.
    public var eventName = ""

    public init() {}

    public init(
        severity: LogSeverity? = nil, body: AnyValue? = nil, attributes: [KeyValue] = [], context: SpanContext? = nil
    ) {
        self.severity = severity
        self.body = body
        self.attributes = attributes
        self.context = context
    }
}

/// Settings of the logs, with OpenTelemetry's defaults.
public struct LogsConfiguration: Sendable {
    /// Between two exports. `OTEL_BLRP_SCHEDULE_DELAY`, default 1 s.
    public var scheduleDelay = Duration.seconds(1)
    /// Records that may wait. `OTEL_BLRP_MAX_QUEUE_SIZE`, default 2,048.
    public var maxQueueSize = 2_048
    /// Bytes that they may take, encoded. Default 16 MiB.
    public var maxQueueBytes = 16 * 1024 * 1024
    /// Records in one request. `OTEL_BLRP_MAX_EXPORT_BATCH_SIZE`, default 512.
    public var maxExportBatchSize = 512
    /// `OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT`, default 128.
    public var attributeCountLimit = 128
    /// In characters; nil for no limit. `OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT`.
    public var attributeValueLengthLimit: Int?

    public init() {}
}

/// Where every log record went. Always:
///
///     emitted = exported + rejected + Σ dropped + queued
public struct LogLedger: Sendable, Equatable, CustomStringConvertible {
    public typealias DropReason = SpanLedger.DropReason

    public var emitted: UInt64 = 0
    /// Accepted by the endpoint.
    public var exported: UInt64 = 0
    /// Refused by the endpoint for good.
    public var rejected: UInt64 = 0
    public var dropped: [DropReason: UInt64] = [:]
    /// On the way to the endpoint.
    public var queued: UInt64 { emitted - exported - rejected - totalDropped }
    public var totalDropped: UInt64 { dropped.values.reduce(0, +) }

    public var description: String {
        let reasons = DropReason.allCases.map { "\($0.rawValue) \(dropped[$0] ?? 0)" }.joined(separator: ", ")
        return
            "log records: emitted \(emitted) = exported \(exported) + rejected \(rejected) + dropped \(totalDropped) "
            + "(\(reasons)) + queued \(queued)"
    }
}
