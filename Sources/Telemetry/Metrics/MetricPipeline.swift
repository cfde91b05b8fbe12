import OTLP

/// The pushing of metrics with everything behind it, running.
final class MetricPipeline: Sendable {
    let exporter: Exporter
    private let pipeline: SignalPipeline

    init(
        configuration: TelemetryConfiguration, registry: MetricRegistry, scope: InstrumentationScope,
        observation: SelfObservation
    ) {
        let exporter = Exporter(
            configuration: configuration, signal: .metrics, operationDuration: observation.operationDuration)
        let reader = PeriodicMetricReader(
            registry: registry, exporter: exporter, resource: configuration.resource, scope: scope,
            duration: observation.collectionDuration)
        self.exporter = exporter
        let worker = BatchWorker(interval: configuration.metrics.exportInterval) { reader.look($0) }
        pipeline = SignalPipeline(exporter: exporter, worker: worker)
    }

    func flush(until deadline: ContinuousClock.Instant) -> Bool { pipeline.flush(until: deadline) }

    func shutdown(until deadline: ContinuousClock.Instant) { _ = pipeline.shutdown(until: deadline) }
}
