import EventStreams
import LatencyHeatmap
import OTLP
import PushPipeline
import Telemetry

/// What is computed when somebody asks: the ledgers, the log's state, what is degraded, the process.
enum ServerMetrics {
    static func register(in registry: MetricRegistry, core: ServerCore) {
        registerLedgers(in: registry, core)
        registerConnections(in: registry, core)
        if let tls = core.tls { registerTLS(in: registry, tls) }
        registry.observe(
            "isotherm_heatmap_cells", type: .gauge, help: "Cells in memory: windows by groups by stages with a latency."
        ) { $0.emit(core.heatmap.cellCount) }
        registry.observe(
            "isotherm_heatmap_cell_bytes", type: .gauge,
            help: "Memory of the heatmap's cells, without the allocator's own."
        ) { $0.emit(core.heatmap.cellBytes) }
        registry.observe(
            "isotherm_heatmap_memory_windows_total", type: .counter, labels: ["saving"],
            help: "Windows that lost their exemplars, resolution, or all, to keep within heatmap.memory_limit."
        ) { emitter in
            let memory = core.heatmap.memory
            emitter.emit(memory.strippedWindows, "exemplars")
            emitter.emit(memory.coarsenedWindows, "resolution")
            emitter.emit(memory.droppedWindows, "dropped")
        }
        registry.observe(
            "isotherm_heatmap_save_failures_total", type: .counter,
            help: "Writes of the heatmap's cells that failed; what they held is written again."
        ) { $0.emit(core.heatmap.persistence?.failures ?? 0) }
        if let keeper = core.hub.keeper { registerJournal(in: registry, keeper) }
        registry.observe(
            "isotherm_heatmap_groups", type: .gauge, help: "Groups that have a row of their own."
        ) { $0.emit(core.heatmap.groupCount) }
        registry.observe(
            "isotherm_stream_lag_events", type: .gauge, labels: ["tenant", "group"],
            help: "Events between the log's head and the slowest connection of a device group."
        ) { emitter in
            for lag in core.hub.lags { emitter.emit(lag.events, lag.tenant, lag.group) }
        }
        registry.observe(
            "isotherm_stream_head_offset", type: .gauge, labels: ["tenant"], help: "Offset of the log's last event."
        ) { emitter in
            for channel in core.hub.openChannels { emitter.emit(channel.stream.head, channel.tenant.name) }
        }
        registry.observe(
            "isotherm_log_failures_total", type: .counter, labels: ["step"],
            help: "Steps of the log's writer that failed; all but appends are tried again."
        ) { emitter in
            let statistics = core.store.statistics
            emitter.emit(statistics.failedCommits, "append")
            emitter.emit(statistics.failedCheckpoints, "checkpoint")
            emitter.emit(statistics.failedIndexSteps, "index")
            emitter.emit(statistics.failedRetentionSteps, "retention")
        }
        registry.observe(
            "isotherm_degraded", type: .gauge, labels: ["dependency"],
            help: "1 while the server does without something that it depends on."
        ) { emitter in
            for dependency in core.dependencies { emitter.emit(dependency.isDegraded ? 1 : 0, dependency.name) }
        }
        registry.observe(
            "isotherm_build_info", type: .gauge, labels: ["version"], help: "Always 1; the version is its label."
        ) { $0.emit(1, TelemetrySDK.version) }
        registry.registerProcessMetrics()
        if core.heatmap.configuration.keepsTotals { registerLatencies(core) }
    }

    /// The heatmap's own sketches, bucket by bucket: what is pushed has the same counts. They are sums from the start, so
    /// that a push that is lost costs nothing and late latencies need no window; where
    /// `OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE` asks for differences, they are made of these.
    private static func registerLatencies(_ core: ServerCore) {
        let heatmap = core.heatmap
        let group = heatmap.views[0].attributes[0]
        core.telemetry.meter("isotherm.heatmap", version: TelemetrySDK.version).observableExponentialHistogram(
            "isotherm.heatmap.latency", unit: "s",
            description: "Latencies in the heatmap since the start, by group and stage."
        ) { observer in
            for total in heatmap.totals() {
                observer.observe(
                    point(total.sketch),
                    [KeyValue(group, .string(total.group)), KeyValue("isotherm.stage", .string(total.stage))])
            }
        }
    }

    private static func point(_ sketch: Sketch) -> ExponentialHistogramPoint {
        let histogram = sketch.exponentialHistogram
        return ExponentialHistogramPoint(
            sum: histogram.sum, scale: Int32(histogram.scale), zeroCount: histogram.zeroCount,
            positive: .init(offset: Int32(histogram.offset), counts: histogram.counts), max: histogram.max)
    }

    private static func registerJournal(in registry: MetricRegistry, _ keeper: DeliveryKeeper) {
        registry.observe(
            "isotherm_deliveries_rows_total", type: .counter, labels: ["outcome"],
            help: "Rows of the journal of deliveries that were written, and that are gone, by reason."
        ) { emitter in
            let statistics = keeper.statistics
            emitter.emit(statistics.writtenRows, "written")
            emitter.emit(statistics.expiredRows, "expired")
            emitter.emit(statistics.evictedRows, "evicted")
            emitter.emit(statistics.lostRows, "lost")
        }
        registry.observe(
            "isotherm_deliveries_write_failures_total", type: .counter,
            help: "Writes of the journal of deliveries that failed; what they held is written again."
        ) { $0.emit(keeper.statistics.failedWrites) }
        registry.observe(
            "isotherm_deliveries_damaged_files_total", type: .counter,
            help: "Files of the journal of deliveries that were damaged, put aside and begun anew."
        ) { $0.emit(keeper.statistics.damagedFiles) }
        registry.observe(
            "isotherm_deliveries_bytes", type: .gauge,
            help: "Bytes of the journal of deliveries on the disk, without the database's own."
        ) { $0.emit(UInt64(max(0, keeper.statistics.bytes))) }
    }

    private static func registerTLS(in registry: MetricRegistry, _ tls: TLSStore) {
        registry.observe(
            "isotherm_tls_handshakes_total", type: .counter, labels: ["outcome"], help: "TLS handshakes that ended."
        ) { emitter in
            emitter.emit(tls.counts.handshakes, "succeeded")
            emitter.emit(tls.counts.failedHandshakes, "failed")
        }
        registry.observe(
            "isotherm_tls_reloads_total", type: .counter, labels: ["outcome"],
            help: "Times that the certificate was read again; after a failure the one before stays in force."
        ) { emitter in
            emitter.emit(tls.counts.reloads, "succeeded")
            emitter.emit(tls.counts.failedReloads, "failed")
        }
        registry.observe(
            "isotherm_tls_certificate_expiry_timestamp_seconds", type: .gauge,
            help: "End of the validity of the certificate in force, in Unix time."
        ) { $0.emit(UInt64(max(0, tls.context.notAfterUnixSeconds))) }
    }

    private static func registerConnections(in registry: MetricRegistry, _ core: ServerCore) {
        registry.observe("isotherm_http_connections", type: .gauge, help: "Open connections, streams included.") {
            $0.emit(UInt64(core.connections.counts.live))
        }
        registry.observe(
            "isotherm_http_connections_limit", type: .gauge,
            help: "Most connections: what is configured, within what the limit of open files leaves."
        ) { $0.emit(UInt64(core.connections.limit)) }
        registry.observe(
            "isotherm_http_connections_opened_total", type: .counter,
            help: "Connections accepted; opened = closed + open."
        ) { $0.emit(core.connections.counts.opened) }
        registry.observe(
            "isotherm_http_connections_closed_total", type: .counter, labels: ["reason"],
            help: "Connections that ended, by reason."
        ) { emitter in
            let closed = core.connections.counts.closed
            for reason in ConnectionEnd.allCases { emitter.emit(closed[reason] ?? 0, reason.rawValue) }
        }
        registry.observe(
            "isotherm_http_connections_refused_total", type: .counter, labels: ["limit"],
            help: "Connections over a limit: they were told to come back, or closed at once."
        ) { emitter in
            let refused = core.connections.counts.refused
            for limit in ConnectionLimit.allCases { emitter.emit(refused[limit] ?? 0, limit.rawValue) }
        }
        registry.observe(
            "isotherm_accept_errors_total", type: .counter, labels: ["error"], help: "Failures to accept a connection."
        ) { emitter in
            for name in AcceptErrors.names { emitter.emit(core.acceptErrors.value(name), name) }
        }
        registry.observe(
            "isotherm_streams_shed_total", type: .counter, labels: ["reason"],
            help: "Event streams that got a retry: and their end, because there was no room for them."
        ) { emitter in
            for code in Shedding.codes { emitter.emit(core.shedCount(code), code.rawValue) }
        }
    }

    private static func registerLedgers(in registry: MetricRegistry, _ core: ServerCore) {
        registry.observe(
            "isotherm_telemetry_spans_total", type: .counter, labels: ["outcome"],
            help: "The span ledger: started = sampled_out + exported + rejected + dropped_* + held."
        ) { emitter in
            let ledger = core.telemetry.ledger
            emitter.emit(ledger.started, "started")
            emitter.emit(ledger.sampledOut, "sampled_out")
            emitter.emit(ledger.exported, "exported")
            emitter.emit(ledger.rejected, "rejected")
            for reason in SpanLedger.DropReason.allCases {
                emitter.emit(ledger.dropped[reason] ?? 0, "dropped_\(reason.rawValue)")
            }
        }
        registry.observe(
            "isotherm_telemetry_spans_held", type: .gauge, labels: ["state"],
            help: "Spans that are live, or ended and on the way to the collector."
        ) { emitter in
            let ledger = core.telemetry.ledger
            emitter.emit(ledger.live, "live")
            emitter.emit(ledger.queued, "queued")
        }
        registry.observe(
            "isotherm_otlp_received_spans_total", type: .counter, labels: ["outcome"],
            help: "The heatmap's ledger: received = counted + discarded_*."
        ) { emit(core.heatmap.ledger, &$0) }
        registry.observe(
            "isotherm_otlp_received_histograms_total", type: .counter, labels: ["outcome"],
            help: "The same of the points of received histograms."
        ) { emit(core.heatmap.histogramLedger, &$0) }
        registry.observe(
            "isotherm_heatmap_latencies_total", type: .counter, labels: ["kind"],
            help: "Latencies in cells; late ones came after their window was over, overflowed ones share a row."
        ) { emitter in
            let ledger = core.heatmap.ledger
            emitter.emit(ledger.latencies, "all")
            emitter.emit(ledger.late, "late")
            emitter.emit(ledger.overflowed, "overflowed")
        }
    }

    private static func emit(_ ledger: HeatmapLedger, _ emitter: inout MetricEmitter) {
        emitter.emit(ledger.received, "received")
        emitter.emit(ledger.counted, "counted")
        for reason in HeatmapLedger.DiscardReason.allCases {
            emitter.emit(ledger.discarded[reason] ?? 0, "discarded_\(reason.rawValue)")
        }
    }
}
