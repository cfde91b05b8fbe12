import Instrumentation
import Logging
import OTLP
import ServiceContextModule
import Telemetry

/// Sends swift-log's records to the collector, each with the span in which it was made.
///
///     LoggingSystem.bootstrap { BridgedLogHandler(label: $0, telemetry) }
///
/// The label becomes the instrumentation scope, the message the body, metadata attributes; dictionaries and arrays in it
/// stay what they are. The place in the source goes into `code.*`, an error into `exception.*`.
public struct BridgedLogHandler: LogHandler {
    public var metadata: Logger.Metadata = [:]
    public var logLevel: Logger.Level
    public var metadataProvider: Logger.MetadataProvider?
    private let emitter: LogEmitter

    public init(
        label: String, _ telemetry: TelemetrySDK, logLevel: Logger.Level = .info,
        metadataProvider: Logger.MetadataProvider? = nil
    ) {
        emitter = telemetry.logger(label)
        self.logLevel = logLevel
        self.metadataProvider = metadataProvider
    }

    public subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    public func log(event: LogEvent) {
        guard emitter.isEnabled else { return }
        var record = LogRecord(
            severity: LogSeverity(event.level), body: .string(event.message.description),
            attributes: attributes(of: event), context: ServiceContext.current?.spanContext)
        record.time = Clock.now()
        record.severityText = event.level.rawValue
        emitter.emit(record)
    }

    /// What a record says itself goes before the provider's, and that before the logger's.
    private func attributes(of event: LogEvent) -> [KeyValue] {
        var merged = metadata
        if let provided = metadataProvider?.get() { merged.merge(provided) { $1 } }
        if let own = event.metadata { merged.merge(own) { $1 } }
        var attributes: [KeyValue] = []
        attributes.reserveCapacity(merged.count + 5)
        for (key, value) in merged where !key.isEmpty { attributes.append(KeyValue(key, AnyValue(value))) }
        // https://opentelemetry.io/docs/specs/semconv/registry/attributes/code/
        attributes.append(KeyValue("code.function.name", .string("\(event.source).\(event.function)")))
        attributes.append(KeyValue("code.file.path", .string(event.file)))
        attributes.append(KeyValue("code.line.number", .int(Int64(event.line))))
        if let error = event.error {
            let recorded = RecordedError(error)
            attributes.append(KeyValue("exception.type", .string(recorded.type)))
            attributes.append(KeyValue("exception.message", .string(recorded.message)))
        }
        return attributes
    }
}

extension LogSeverity {
    /// As OpenTelemetry maps syslog's levels, which swift-log's are named after:
    /// https://opentelemetry.io/docs/specs/otel/logs/data-model-appendix/#appendix-b-severitynumber-example-mappings
    init?(_ level: Logger.Level) {
        let number: UInt8 =
            switch level {
            case .trace: 1
            case .debug: 5
            case .info: 9
            case .notice: 10
            case .warning: 13
            case .error: 17
            case .critical: 18
            }
        self.init(rawValue: number)
    }
}

extension AnyValue {
    /// Numbers and truth values stay what they are; whatever else is convertible becomes its description.
    init(_ value: Logger.MetadataValue) {
        switch value {
        case .string(let text): self = .string(text)
        case .array(let values): self = .array(values.map { AnyValue($0) })
        case .dictionary(let values):
            self = .keyValueList(values.sorted { $0.key < $1.key }.map { KeyValue($0.key, AnyValue($0.value)) })
        case .stringConvertible(let value):
            switch value {
            case let value as Bool: self = .bool(value)
            case let value as Int: self = .int(Int64(value))
            case let value as any FixedWidthInteger:
                self = Int64(exactly: value).map { .int($0) } ?? .string(value.description)
            case let value as Double: self = .double(value)
            case let value as Float: self = .double(Double(value))
            default: self = .string(value.description)
            }
        }
    }
}
