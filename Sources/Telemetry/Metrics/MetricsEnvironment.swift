extension TelemetryConfiguration {
    mutating func readMetrics(_ reader: inout EnvironmentReader) {
        if let value = reader.text("OTEL_METRIC_EXPORT_INTERVAL"),
            let interval = reader.milliseconds("OTEL_METRIC_EXPORT_INTERVAL", value)
        {
            metrics.exportInterval = interval
        }
        if let value = reader.text("OTEL_METRIC_EXPORT_TIMEOUT"),
            let limit = reader.milliseconds("OTEL_METRIC_EXPORT_TIMEOUT", value)
        {
            metricsExporter.exportTimeout = limit
        }
        if let known: MetricsConfiguration.Temporality = reader.choice(
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "cumulative")
        {
            metrics.temporality = known
        }
        if let known: MetricsConfiguration.ExemplarFilter = reader.choice(
            "OTEL_METRICS_EXEMPLAR_FILTER", "trace_based")
        {
            metrics.exemplarFilter = known
        }
        let aggregation = "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION"
        switch reader.text(aggregation)?.lowercased() {
        case nil, "explicit_bucket_histogram": break
        case "base2_exponential_bucket_histogram": metrics.defaultHistogramAggregation = .exponentialHistogram()
        case .some(let other):
            reader.warn(
                "\(aggregation)=\(other): only explicit_bucket_histogram and base2_exponential_bucket_histogram are known; "
                    + "explicit_bucket_histogram is used")
        }
    }

    mutating func readLogs(_ reader: inout EnvironmentReader) {
        if let value = reader.text("OTEL_BLRP_SCHEDULE_DELAY"),
            let delay = reader.milliseconds("OTEL_BLRP_SCHEDULE_DELAY", value)
        {
            logs.scheduleDelay = delay
        }
        if let value = reader.text("OTEL_BLRP_EXPORT_TIMEOUT"),
            let limit = reader.milliseconds("OTEL_BLRP_EXPORT_TIMEOUT", value)
        {
            logsExporter.exportTimeout = limit
        }
        if let size = reader.number("OTEL_BLRP_MAX_QUEUE_SIZE", in: 1...1_048_576) { logs.maxQueueSize = size }
        if let size = reader.number("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", in: 1...8_192) {
            logs.maxExportBatchSize = size
        }
        if logs.maxExportBatchSize > logs.maxQueueSize {
            // No warning for the defaults, of which only one was changed.
            if reader.text("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE") != nil {
                reader.warn(
                    "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE is larger than the queue of \(logs.maxQueueSize); that is used")
            }
            logs.maxExportBatchSize = logs.maxQueueSize
        }
        let count = reader.number("OTEL_ATTRIBUTE_COUNT_LIMIT", in: 0...65_535)
        logs.attributeCountLimit =
            reader.number("OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT", in: 0...65_535) ?? count ?? logs.attributeCountLimit
        let length = reader.number("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", in: 0...Int(Int32.max))
        logs.attributeValueLengthLimit =
            reader.number("OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT", in: 0...Int(Int32.max)) ?? length
    }
}

extension EnvironmentReader {
    /// One of a closed set, in whatever case; anything else is a warning.
    fileprivate mutating func choice<Choice: RawRepresentable<String> & CaseIterable>(
        _ name: String, _ standard: String
    ) -> Choice? {
        guard let value = text(name)?.lowercased() else { return nil }
        if let known = Choice(rawValue: value) { return known }
        let all = Choice.allCases.map(\.rawValue).joined(separator: ", ")
        warn("\(name)=\(value) is none of \(all); \(standard) is used")
        return nil
    }
}
