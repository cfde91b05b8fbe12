extension TelemetryConfiguration {
    mutating func readProcessor(_ reader: inout EnvironmentReader) {
        if let value = reader.text("OTEL_BSP_SCHEDULE_DELAY"),
            let delay = reader.milliseconds("OTEL_BSP_SCHEDULE_DELAY", value)
        {
            scheduleDelay = delay
        }
        if let value = reader.text("OTEL_BSP_EXPORT_TIMEOUT"),
            let limit = reader.milliseconds("OTEL_BSP_EXPORT_TIMEOUT", value)
        {
            exportTimeout = limit
        }
        if let size = reader.number("OTEL_BSP_MAX_QUEUE_SIZE", in: 1...1_048_576) { maxQueueSize = size }
        if let size = reader.number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", in: 1...8_192) { maxExportBatchSize = size }
        let counts = 0...65_535
        let general = reader.number("OTEL_ATTRIBUTE_COUNT_LIMIT", in: counts)
        func read(_ name: String, _ general: Int?, _ limit: WritableKeyPath<SpanLimits, Int>) {
            if let count = reader.number(name, in: counts) ?? general { limits[keyPath: limit] = count }
        }
        read("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", general, \.attributeCount)
        read("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", general, \.attributesPerEvent)
        read("OTEL_LINK_ATTRIBUTE_COUNT_LIMIT", general, \.attributesPerLink)
        read("OTEL_SPAN_EVENT_COUNT_LIMIT", nil, \.eventCount)
        read("OTEL_SPAN_LINK_COUNT_LIMIT", nil, \.linkCount)
        let length = reader.number("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", in: 0...Int(Int32.max))
        limits.attributeValueLength =
            reader.number("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", in: 0...Int(Int32.max)) ?? length
    }
}
