// OTLP/JSON of `MetricsRequestScanner`, with the rules that `TraceRequestJSON` states.

extension MetricsRequestScanner {
    /// Fills `scan` from an `ExportMetricsServiceRequest` in JSON. When it throws, nothing in `scan` may be used.
    public func scan(json message: UnsafeRawBufferPointer, into scan: MetricsScan) throws(OTLPDecodingError) {
        try scan.begin(message)
        let text = scan.scan
        var reader = try JSONReader(message, scan: text)
        if reader.peek() != UInt8(ascii: "{") { throw reader.failure(.unexpectedType, "a JSON object was expected") }
        try reader.object { (reader, key) throws(OTLPDecodingError) in
            guard text.matches(key, "resourceMetrics") else { return try reader.skip() }
            try reader.array { (reader) throws(OTLPDecodingError) in try resourceMetrics(&reader, scan) }
        }
        try reader.finish()
    }

    private func resourceMetrics(_ reader: inout JSONReader, _ scan: MetricsScan) throws(OTLPDecodingError) {
        let text = scan.scan
        let resource = text.appendResource(ScannedResource())
        try reader.object { (reader, key) throws(OTLPDecodingError) in
            if text.matches(key, "resource") {
                try traces.resource(&reader, resource, text)
            } else if text.matches(key, "scopeMetrics") {
                try reader.array { (reader) throws(OTLPDecodingError) in
                    try reader.object { (reader, key) throws(OTLPDecodingError) in
                        guard text.matches(key, "metrics") else { return try reader.skip() }
                        try reader.array { (reader) throws(OTLPDecodingError) in
                            try metric(&reader, UInt32(resource), scan)
                        }
                    }
                }
            } else {
                try reader.skip()
            }
        }
    }

    private func metric(
        _ reader: inout JSONReader, _ resource: UInt32, _ scan: MetricsScan
    ) throws(OTLPDecodingError) {
        let text = scan.scan
        let first = scan.histograms.count
        var name = ScannedBytes()
        var unit = ScannedBytes()
        try reader.object { (reader, key) throws(OTLPDecodingError) in
            if text.matches(key, "name") {
                name = try traces.text(&reader) ?? ScannedBytes()
            } else if text.matches(key, "unit") {
                unit = try traces.text(&reader) ?? ScannedBytes()
            } else if text.matches(key, "histogram") {
                try data(&reader, isExplicit: true, scan)
            } else if text.matches(key, "exponentialHistogram") {
                try data(&reader, isExplicit: false, scan)
            } else {
                try reader.skip()
            }
        }
        for number in first..<scan.histograms.count {
            scan.histograms[number].name = name
            scan.histograms[number].unit = unit
            scan.histograms[number].resource = resource
        }
    }

    private func data(
        _ reader: inout JSONReader, isExplicit: Bool, _ scan: MetricsScan
    ) throws(OTLPDecodingError) {
        let text = scan.scan
        let first = scan.histograms.count
        var temporality: UInt64 = 0
        try reader.object { (reader, key) throws(OTLPDecodingError) in
            if text.matches(key, "dataPoints") {
                try reader.array { (reader) throws(OTLPDecodingError) in
                    var histogram = ScannedHistogram()
                    histogram.isExplicit = isExplicit
                    try point(&reader, &histogram, scan)
                    scan.histograms.append(histogram)
                }
            } else if text.matches(key, "aggregationTemporality") {
                temporality = try self.temporality(&reader, text)
            } else {
                try reader.skip()
            }
        }
        for number in first..<scan.histograms.count { scan.histograms[number].temporality = temporality }
    }

    /// A number, or the name that generic protobuf printers write.
    private func temporality(_ reader: inout JSONReader, _ text: TraceScan) throws(OTLPDecodingError) -> UInt64 {
        guard reader.peek() == UInt8(ascii: "\"") else { return try traces.unsigned(&reader) }
        let name = try reader.string()
        if text.matches(name, "AGGREGATION_TEMPORALITY_DELTA") { return 1 }
        return text.matches(name, "AGGREGATION_TEMPORALITY_CUMULATIVE") ? 2 : 0
    }

    private func point(
        _ reader: inout JSONReader, _ histogram: inout ScannedHistogram, _ scan: MetricsScan
    ) throws(OTLPDecodingError) {
        let text = scan.scan
        var found = histogram
        found.firstAttribute = UInt32(text.attributeCount)
        found.firstCount = scan.counts.count
        try reader.object { (reader, key) throws(OTLPDecodingError) in
            if text.matches(key, "timeUnixNano") {
                found.timeUnixNano = try traces.unsigned(&reader)
            } else if found.isExplicit {
                try reader.skip()
            } else if text.matches(key, "attributes") {
                found.firstAttribute = UInt32(text.attributeCount)
                try traces.attributes(&reader, traces.interest.span, text)
                found.attributeCount = UInt32(text.attributeCount) - found.firstAttribute
            } else if text.matches(key, "count") {
                found.count = try traces.unsigned(&reader)
            } else if text.matches(key, "sum") {
                if try !reader.takeNull() { found.sum = try traces.double(&reader, text) }
            } else if text.matches(key, "max") {
                if try !reader.takeNull() { found.max = try traces.double(&reader, text) }
            } else if text.matches(key, "scale") {
                found.scale = try signed(&reader)
            } else if text.matches(key, "zeroCount") {
                found.zeroCount = try traces.unsigned(&reader)
            } else if text.matches(key, "flags") {
                found.flags = try traces.unsigned(&reader)
            } else if text.matches(key, "positive") {
                try buckets(&reader, &found, scan)
            } else if text.matches(key, "negative") {
                try negativeBuckets(&reader, &found, text)
            } else {
                try reader.skip()
            }
        }
        found.countCount = scan.counts.count - found.firstCount
        histogram = found
    }

    private func buckets(
        _ reader: inout JSONReader, _ histogram: inout ScannedHistogram, _ scan: MetricsScan
    ) throws(OTLPDecodingError) {
        let text = scan.scan
        var found = histogram
        try reader.object { (reader, key) throws(OTLPDecodingError) in
            if text.matches(key, "offset") {
                found.positiveOffset = try signed(&reader)
            } else if text.matches(key, "bucketCounts") {
                try reader.array { (reader) throws(OTLPDecodingError) in
                    let count = try traces.unsigned(&reader)
                    if scan.counts.count - found.firstCount < maxBuckets {
                        scan.counts.append(count)
                    } else {
                        found.isTooLong = true
                    }
                }
            } else {
                try reader.skip()
            }
        }
        histogram = found
    }

    private func negativeBuckets(
        _ reader: inout JSONReader, _ histogram: inout ScannedHistogram, _ text: TraceScan
    ) throws(OTLPDecodingError) {
        var total = histogram.negativeCount
        try reader.object { (reader, key) throws(OTLPDecodingError) in
            guard text.matches(key, "bucketCounts") else { return try reader.skip() }
            try reader.array { (reader) throws(OTLPDecodingError) in
                let (sum, overflow) = total.addingReportingOverflow(try traces.unsigned(&reader))
                total = overflow ? .max : sum
            }
        }
        histogram.negativeCount = total
    }

    private func signed(_ reader: inout JSONReader) throws(OTLPDecodingError) -> Int32 {
        if try reader.takeNull() { return 0 }
        let value = try reader.integer()
        guard value.magnitude <= UInt64(Int32.max) else {
            throw reader.failure(.unexpectedType, "a 32-bit integer was expected")
        }
        return value.negative ? -Int32(value.magnitude) : Int32(value.magnitude)
    }
}
