import OTLP

/// What the SDK tells of itself, by OpenTelemetry's semantic conventions, from the ledgers.
/// https://opentelemetry.io/docs/specs/semconv/otel/sdk-metrics/
struct SelfObservation {
    let meter: Meter

    /// From handing a batch to an exporter until it is done with.
    var operationDuration: Meter.Histogram<Double> {
        meter.histogram(
            "otel.sdk.exporter.operation.duration", unit: "s",
            description: "The duration of exporting a batch of telemetry records.",
            boundaries: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30])
    }

    func spans(_ configuration: TelemetryConfiguration, _ collector: SpanCollector, _ exporter: Exporter) {
        meter.observableUpDownCounter(
            "otel.sdk.span.live", unit: "{span}", description: "Spans that record and have not ended."
        ) { $0.observe(collector.ledger.live, [KeyValue("otel.span.sampling_result", "RECORD_AND_SAMPLE")]) }
        meter.observableCounter("otel.sdk.span.started", unit: "{span}", description: "Spans that were started.") {
            let ledger = collector.ledger
            $0.observe(ledger.sampledOut, [KeyValue("otel.span.sampling_result", "DROP")])
            $0.observe(
                ledger.started - ledger.sampledOut, [KeyValue("otel.span.sampling_result", "RECORD_AND_SAMPLE")])
        }
        processor(
            "span", "{span}", type: "batching_span_processor", capacity: configuration.maxQueueSize,
            exporter: exporter, queued: { collector.ledger.queued.saturatingSubtracting(exporter.ledger.queued) },
            droppedQueueFull: { collector.ledger.dropped[.queueFull] ?? 0 })
        self.exporter("span", "{span}", exporter)
    }

    func logs(_ configuration: TelemetryConfiguration, _ processor: LogProcessor, _ exporter: Exporter) {
        meter.observableCounter(
            "otel.sdk.log.created", unit: "{log_record}", description: "Log records that were emitted."
        ) { $0.observe(processor.ledger.emitted) }
        self.processor(
            "log", "{log_record}", type: "batching_log_processor", capacity: configuration.logs.maxQueueSize,
            exporter: exporter, queued: { UInt64(processor.queueSize) },
            droppedQueueFull: { processor.ledger.dropped[.queueFull] ?? 0 })
        self.exporter("log", "{log_record}", exporter)
    }

    func metrics(_ exporter: Exporter) {
        self.exporter("metric_data_point", "{data_point}", exporter)
    }

    /// How long a look at the instruments takes.
    var collectionDuration: Meter.Histogram<Double>.Bound {
        meter.histogram(
            "otel.sdk.metric_reader.collection.duration", unit: "s",
            description: "The duration of the collect operation of the metric reader.",
            boundaries: [0.000_1, 0.001, 0.01, 0.1, 1, 10]
        ).bind(Self.component("periodic_metric_reader"))
    }

    private func processor(
        _ noun: String, _ unit: String, type: String, capacity: Int, exporter: Exporter,
        queued: @escaping @Sendable () -> UInt64, droppedQueueFull: @escaping @Sendable () -> UInt64
    ) {
        let component = Self.component(type)
        meter.observableUpDownCounter(
            "otel.sdk.processor.\(noun).queue.size", unit: unit, description: "Waiting in the queue of the processor."
        ) { $0.observe(queued(), component) }
        meter.observableUpDownCounter(
            "otel.sdk.processor.\(noun).queue.capacity", unit: unit,
            description: "The most that the queue of the processor can hold; for spans, of each thread."
        ) { $0.observe(capacity, component) }
        meter.observableCounter(
            "otel.sdk.processor.\(noun).processed", unit: unit,
            description: "Handed to the exporter, or, with an error, lost before."
        ) { observer in
            observer.observe(exporter.ledger.taken, component)
            let dropped = droppedQueueFull()
            if dropped > 0 { observer.observe(dropped, component + [KeyValue("error.type", "queue_full")]) }
        }
    }

    private func exporter(_ noun: String, _ unit: String, _ exporter: Exporter) {
        let component = Self.component(exporter.signal, exporter.settings)
        meter.observableUpDownCounter(
            "otel.sdk.exporter.\(noun).inflight", unit: unit, description: "Handed to the exporter and not done with."
        ) { $0.observe(exporter.ledger.queued, component) }
        meter.observableCounter(
            "otel.sdk.exporter.\(noun).exported", unit: unit,
            description: "Done with by the exporter: delivered, or, with an error, not."
        ) { observer in
            let ledger = exporter.ledger
            observer.observe(ledger.exported, component)
            if ledger.rejected > 0 {
                observer.observe(ledger.rejected, component + [KeyValue("error.type", "rejected")])
            }
            for (reason, count) in ledger.dropped where count > 0 {
                observer.observe(count, component + [KeyValue("error.type", .string(reason.rawValue))])
            }
        }
    }

    // MARK: Attributes

    private static func component(_ type: String) -> [KeyValue] {
        [
            KeyValue("otel.component.name", .string(type + "/0")),
            KeyValue("otel.component.type", .string(type)),
        ]
    }

    static func component(_ signal: Signal, _ settings: OTLPExporterSettings) -> [KeyValue] {
        let noun =
            switch signal {
            case .traces: "span"
            case .metrics: "metric"
            case .logs: "log"
            }
        var attributes = component("otlp_http_\(settings.encoding == .json ? "json_" : "")\(noun)_exporter")
        guard let (host, port) = server(settings.publicEndpoint) else { return attributes }
        attributes.append(KeyValue("server.address", .string(host)))
        attributes.append(KeyValue("server.port", .int(port)))
        return attributes
    }

    /// Host and port of a URL without user and query.
    private static func server(_ url: String) -> (host: String, port: Int64)? {
        guard let mark = url.firstRange(of: "://") else { return nil }
        let authority = url[mark.upperBound...].prefix { $0 != "/" }
        let standard: Int64 = url.hasPrefix("https") ? 443 : 80
        guard let colon = authority.lastIndex(of: ":"), let port = Int64(authority[authority.index(after: colon)...])
        else { return (String(authority), standard) }
        return (String(authority[..<colon]), port)
    }
}

extension UInt64 {
    fileprivate func saturatingSubtracting(_ other: UInt64) -> UInt64 { self > other ? self - other : 0 }
}
