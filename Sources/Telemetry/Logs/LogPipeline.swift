import OTLP

/// The logs with everything behind them, running.
final class LogPipeline: Sendable {
    let processor: LogProcessor
    let worker: BatchWorker
    let exporter: Exporter
    private let pipeline: SignalPipeline

    init(configuration: TelemetryConfiguration, operationDuration: Meter.Histogram<Double>?) {
        let exporter = Exporter(
            configuration: configuration, signal: .logs, operationDuration: operationDuration)
        let processor = LogProcessor(
            configuration: configuration.logs, exporter: exporter, resource: configuration.resource)
        let worker = BatchWorker(interval: configuration.logs.scheduleDelay) { processor.handOn($0) }
        self.exporter = exporter
        self.processor = processor
        self.worker = worker
        pipeline = SignalPipeline(exporter: exporter, worker: worker)
    }

    func flush(until deadline: ContinuousClock.Instant) -> Bool { pipeline.flush(until: deadline) }

    func shutdown(until deadline: ContinuousClock.Instant) {
        _ = pipeline.shutdown(until: deadline)
        processor.seal()
    }
}
