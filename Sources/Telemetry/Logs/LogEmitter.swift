import OTLP

/// Emits the log records of one library: OpenTelemetry's Logger.
///
///     let logger = telemetry.logger("shop")
///     logger.emit(LogRecord(severity: .warn, body: "out of stock", attributes: [KeyValue("sku", "A-17")]))
///
/// A record is encoded on the thread that emits it, and never makes that thread wait: what does not fit the queue is
/// dropped and counted.
public struct LogEmitter: Sendable {
    public let scope: InstrumentationScope
    let pipeline: LogPipeline?

    /// Whether records go anywhere: without an endpoint none do, and preparing one is not worth it.
    public var isEnabled: Bool { pipeline != nil }

    public func emit(_ record: LogRecord) {
        guard let pipeline else { return }
        if pipeline.processor.enqueue(record, scope) { pipeline.worker.nudge() }
    }
}
