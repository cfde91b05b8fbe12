import CTelemetry
import Glibc
import OTLP

enum SDKVersion {
    static let current = "0.1.0"
}

/// What a flush or a shutdown left behind.
public struct FlushReport: Sendable, Equatable {
    /// Spans that had ended and were not delivered when it returned.
    public let undelivered: UInt64
    /// Data points and log records that had been handed on and were not delivered.
    public var undeliveredDataPoints: UInt64 = 0
    public var undeliveredLogRecords: UInt64 = 0
}

/// The tracer, the metrics and the logs with everything behind them: for each signal that is exported two threads, one
/// that gathers and one that exports.
///
///     let (configuration, warnings) = TelemetryConfiguration.fromEnvironment()
///     let telemetry = TelemetrySDK(configuration: configuration)
///     let span = telemetry.tracer.startSpan("checkout", kind: .server)
///     span.end()
///     telemetry.shutdown(deadline: .seconds(5))
///
/// A child of `fork` has the SDK but not its threads: spans have valid contexts there, with ids of the child's own, and
/// are dropped. A child that wants to export makes an SDK of its own.
public final class TelemetrySDK: Sendable {
    /// Of this library and of the program that it comes with.
    public static let version = SDKVersion.current

    public let configuration: TelemetryConfiguration
    public let tracer: Tracer
    /// Scraped with `render`, and pushed where there is an endpoint for metrics.
    public let metrics: MetricRegistry
    private let metricPipeline: MetricPipeline?
    private let logPipeline: LogPipeline?
    private let collector: SpanCollector
    private let exporter: Exporter
    private let threads: Guarded<Threads>

    private struct Threads {
        var collector: BackgroundThread?
        var exporter: BackgroundThread?
        var isShutDown = false
    }

    /// - Parameter metrics: the program's own registry; nil for a new one with the configuration's settings.
    public init(configuration: TelemetryConfiguration = TelemetryConfiguration(), metrics: MetricRegistry? = nil) {
        self.configuration = configuration
        var settings = configuration.metrics
        settings.report = settings.report ?? configuration.report
        let registry = metrics ?? MetricRegistry(configuration: settings)
        self.metrics = registry
        let isExporting = configuration.endpoint != nil && !configuration.isDisabled
        func isExported(_ signal: Signal) -> Bool { configuration[signal].endpoint != nil && !configuration.isDisabled }
        // What the SDK tells of itself is pushed, or not told.
        let observation =
            isExported(.metrics)
            ? SelfObservation(meter: registry.meter(Self.scope.name, version: Self.scope.version)) : nil
        let exporter = Exporter(
            configuration: configuration, signal: .traces, operationDuration: observation?.operationDuration)
        let observer = configuration.observer
        let collector = SpanCollector(
            settings: SpanCollector.Settings(
                slotCount: configuration.maxQueueSize, maxThreads: configuration.maxSpanThreads,
                limits: configuration.limits, maxBatchSpans: configuration.maxExportBatchSize,
                maxBatchBytes: 4 * 1024 * 1024, scheduleDelay: configuration.scheduleDelay, isExporting: isExporting,
                observer: observer),
            resource: configuration.resource, scope: Self.scope, exporter: exporter)
        self.exporter = exporter
        self.collector = collector
        let isRecording = isExporting || (observer != nil && !configuration.isDisabled)
        tracer = Tracer(
            core: TracerCore(sampler: configuration.sampler, isPassingThrough: !isRecording, collector: collector))
        var threads = Threads()
        if isRecording {
            threads.collector = BackgroundThread(name: "otel-collector") { collector.run() }
        }
        if isExporting {
            threads.exporter = BackgroundThread(name: "otel-exporter") { exporter.run() }
        }
        self.threads = Guarded(threads)
        logPipeline =
            isExported(.logs)
            ? LogPipeline(configuration: configuration, operationDuration: observation?.operationDuration) : nil
        metricPipeline = observation.map {
            MetricPipeline(configuration: configuration, registry: registry, scope: Self.scope, observation: $0)
        }
        if isExporting { observation?.spans(configuration, collector, exporter) }
        if let logs = logPipeline { observation?.logs(configuration, logs.processor, logs.exporter) }
        if let metrics = metricPipeline { observation?.metrics(metrics.exporter) }
    }

    /// Of what the program itself traces and counts.
    private static let scope = InstrumentationScope(name: "isotherm", version: SDKVersion.current)

    /// Makes the instruments of one library.
    public func meter(_ name: String, version: String = "") -> Meter { metrics.meter(name, version: version) }

    /// Emits the log records of one library.
    public func logger(_ name: String, version: String = "") -> LogEmitter {
        LogEmitter(scope: InstrumentationScope(name: name, version: version), pipeline: logPipeline)
    }

    /// A tracer for a library or a part of a program, whose spans name it as their instrumentation scope. Asking again
    /// for the same scope gives the same tracer. From the 65th scope on, spans go under the SDK's own.
    public func tracer(
        name: String, version: String = "", schemaURL: String = "", attributes: [KeyValue] = []
    ) -> Tracer {
        let scope = InstrumentationScope(name: name, version: version, schemaURL: schemaURL, attributes: attributes)
        return Tracer(core: tracer.core, scope: collector.isForked ? 0 : collector.number(of: scope))
    }

    deinit {
        guard !collector.isForked else { return }
        // Without a shutdown: nothing is waited for.
        exporter.abort()
        collector.stop()
        threads.withLock { threads in
            threads.collector?.join()
            threads.exporter?.join()
        }
    }

    /// Where every span went, exactly, at this moment.
    public var ledger: SpanLedger { collector.ledger }

    /// What an earlier process had left in the disk queue, and where that went.
    public var recoveredLedger: ExportLedger { exporter.recoveredLedger }

    /// Where every log record went, exactly, at this moment; all zero when logs are not exported.
    public var logLedger: LogLedger { logPipeline?.processor.ledger ?? LogLedger() }

    /// Where the data points of the metrics went; all zero when metrics are not pushed.
    public var metricLedger: ExportLedger { metricPipeline?.exporter.ledger ?? ExportLedger() }

    /// What waits on disk, of this process and of an earlier one.
    public var diskQueueStatus: DiskQueueStatus { exporter.diskQueueStatus }

    /// Whether the last export failed.
    public var isExporterFailing: Bool { exporter.isFailing }

    /// Exports the spans that have ended before the call, the log records that were emitted, and the metrics as they
    /// are. Blocks until it is done or the deadline has passed.
    @discardableResult
    public func flush(deadline: Duration) -> FlushReport {
        let end = ContinuousClock.now + deadline
        var report = flush(until: end)
        if logPipeline?.flush(until: end) == false { report.undeliveredLogRecords = logLedger.queued }
        if metricPipeline?.flush(until: end) == false { report.undeliveredDataPoints = metricLedger.queued }
        return report
    }

    private func flush(until end: ContinuousClock.Instant) -> FlushReport {
        guard !collector.isForked else { return FlushReport(undelivered: 0) }
        while !collector.gather(closing: true) {
            exporter.waitForRoom(until: end)
            if ContinuousClock.now >= end { return FlushReport(undelivered: ledger.queued) }
        }
        return FlushReport(undelivered: exporter.finishTaken(until: end) ? 0 : ledger.queued)
    }

    /// Flushes, and ends the threads. Spans that are still held at the deadline are counted as dropped, as are those
    /// that end later, and requests under way are aborted. A second call does nothing.
    @discardableResult
    public func shutdown(deadline: Duration) -> FlushReport {
        guard !collector.isForked else { return FlushReport(undelivered: 0) }
        let isFirst = threads.withLock { threads in
            defer { threads.isShutDown = true }
            return !threads.isShutDown
        }
        guard isFirst else { return FlushReport(undelivered: 0) }
        let end = ContinuousClock.now + deadline
        // One after the other, since the last look at the metrics sees what became of the spans and the logs; a signal
        // whose endpoint hangs leaves half of the time to the next.
        func share(_ isLast: Bool) -> ContinuousClock.Instant { isLast ? end : .now + (end - .now) / 2 }
        var report = FlushReport(undelivered: shutdownSpans(until: share(logPipeline == nil && metricPipeline == nil)))
        logPipeline?.shutdown(until: share(metricPipeline == nil))
        metricPipeline?.shutdown(until: end)
        report.undeliveredLogRecords = (logLedger.dropped[.shutdown] ?? 0) + logLedger.queued
        report.undeliveredDataPoints = (metricLedger.dropped[.shutdown] ?? 0) + metricLedger.queued
        return report
    }

    /// The number of spans that were not delivered.
    private func shutdownSpans(until end: ContinuousClock.Instant) -> UInt64 {
        let running = threads.withLock { ($0.collector, $0.exporter) }
        guard running.0 != nil else { return 0 }
        _ = flush(until: end)
        collector.stop()
        running.0?.join()
        // The collector has gathered a last time.
        let isDone = exporter.finishTaken(until: end)
        collector.seal()
        if isDone { exporter.stop() } else { exporter.abort() }
        running.1?.join()
        // Queued is what waits on disk for the next process.
        let ledger = self.ledger
        return (ledger.dropped[.shutdown] ?? 0) + ledger.queued
    }
}
