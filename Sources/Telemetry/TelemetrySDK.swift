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
}

/// The tracer with everything behind it: two threads, one that gathers and one that exports.
///
///     let (configuration, warnings) = TelemetryConfiguration.fromEnvironment()
///     let telemetry = TelemetrySDK(configuration: configuration)
///     let span = telemetry.tracer.startSpan("checkout", kind: .server)
///     span.end()
///     telemetry.shutdown(deadline: .seconds(5))
public final class TelemetrySDK: Sendable {
    /// Of this library and of the program that it comes with.
    public static let version = SDKVersion.current

    public let configuration: TelemetryConfiguration
    public let tracer: Tracer
    private let collector: Collector
    private let exporter: Exporter
    private let threads: Guarded<Threads>

    private struct Threads {
        var collector: BackgroundThread?
        var exporter: BackgroundThread?
        var isShutDown = false
    }

    public init(configuration: TelemetryConfiguration = TelemetryConfiguration()) {
        self.configuration = configuration
        let isExporting = configuration.endpoint != nil && !configuration.isDisabled
        let exporter = Exporter(configuration: configuration, signal: .traces)
        let collector = Collector(
            slotCount: configuration.maxQueueSize, maxBatchSpans: configuration.maxExportBatchSize,
            maxBatchBytes: 4 * 1024 * 1024, scheduleDelay: configuration.scheduleDelay,
            envelope: BatchEnvelope(
                resource: configuration.resource,
                scope: InstrumentationScope(name: "isotherm", version: SDKVersion.current)),
            exporter: exporter)
        self.exporter = exporter
        self.collector = collector
        tracer = Tracer(
            core: TracerCore(
                sampler: configuration.sampler, limits: configuration.limits, isRecording: isExporting,
                collector: collector))
        var threads = Threads()
        if isExporting {
            threads.collector = BackgroundThread(name: "otel-collector") { collector.run() }
            threads.exporter = BackgroundThread(name: "otel-exporter") { exporter.run() }
        }
        self.threads = Guarded(threads)
    }

    deinit {
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

    /// Whether the last export failed.
    public var isExporterFailing: Bool { exporter.isFailing }

    /// Exports what has ended before the call. Blocks until it is done or the deadline has passed.
    @discardableResult
    public func flush(deadline: Duration) -> FlushReport {
        flush(until: .now + deadline)
    }

    private func flush(until end: ContinuousClock.Instant) -> FlushReport {
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
        let isFirst = threads.withLock { threads in
            defer { threads.isShutDown = true }
            return !threads.isShutDown
        }
        guard isFirst else { return FlushReport(undelivered: 0) }
        let running = threads.withLock { ($0.collector, $0.exporter) }
        guard running.0 != nil else { return FlushReport(undelivered: 0) }
        let end = ContinuousClock.now + deadline
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
        return FlushReport(undelivered: (ledger.dropped[.shutdown] ?? 0) + ledger.queued)
    }
}
