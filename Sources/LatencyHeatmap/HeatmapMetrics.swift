import OTLP

extension HeatmapEngine {
    /// Counts the exponential histograms of an `ExportMetricsServiceRequest`. When it throws, none has been counted.
    ///
    /// Each point is one of `received`, and brings as many latencies as it holds. It counts in the window of its time, in the
    /// group that its attributes or its resource's name, and in a stage that is called as the metric is, so that a service
    /// that sends spans too is not counted twice; where a point has `isotherm.stage`, as another heatmap's have, this follows
    /// after a slash. Points are to be differences (delta temporality); histograms of explicit
    /// buckets, whose percentiles can be off by half, are discarded. Other metrics are no latencies and are passed over.
    @discardableResult
    public func ingestMetrics(
        protobuf message: UnsafeRawBufferPointer, groupPrefix: String = ""
    ) throws(OTLPDecodingError) -> IngestResult {
        let scan = MetricsScan()
        try scans.metricsScanner.scan(protobuf: message, into: scan)
        return count(scan, message, groupPrefix)
    }

    /// The same for OTLP/JSON.
    @discardableResult
    public func ingestMetrics(
        json message: UnsafeRawBufferPointer, groupPrefix: String = ""
    ) throws(OTLPDecodingError) -> IngestResult {
        let scan = MetricsScan()
        try scans.metricsScanner.scan(json: message, into: scan)
        return count(scan, message, groupPrefix)
    }

    private func count(
        _ scan: MetricsScan, _ message: UnsafeRawBufferPointer, _ groupPrefix: String
    ) -> IngestResult {
        let now = configuration.now()
        var result = IngestResult(received: UInt64(scan.histograms.count))
        if isRepeated(message, groupPrefix, now: now, count: result.received, in: \.histograms) {
            result.discarded[.duplicate] = result.received
            return result
        }
        for histogram in scan.histograms {
            let outcome = sketch(histogram, scan)
            locked { state in
                state.nowUnixNano = now
                state.histograms.received += 1
                switch outcome {
                case .success(let sketch):
                    if let reason = place(sketch, histogram, scan, groupPrefix, &state) {
                        result.discarded[reason, default: 0] += 1
                        state.histograms.discard(reason)
                    } else {
                        result.counted += 1
                        state.histograms.counted += 1
                        state.histograms.negative = state.histograms.negative.saturatingAdding(histogram.negativeCount)
                    }
                case .failure(let refusal):
                    result.discarded[refusal.reason, default: 0] += 1
                    state.histograms.discard(refusal.reason)
                }
            }
        }
        return result
    }

    private struct PointRefusal: Error { let reason: HeatmapLedger.DiscardReason }

    private func sketch(_ histogram: ScannedHistogram, _ scan: MetricsScan) -> Result<Sketch, PointRefusal> {
        func refuse(_ reason: HeatmapLedger.DiscardReason) -> Result<Sketch, PointRefusal> {
            .failure(PointRefusal(reason: reason))
        }
        if histogram.isExplicit { return refuse(.explicitBuckets) }
        guard histogram.temporality == 1 else { return refuse(.cumulative) }
        guard histogram.timeUnixNano > 0 else { return refuse(.noLatency) }
        // Bit 0 of the flags: the point says that there is no value.
        guard histogram.flags & 1 == 0 else { return refuse(.noLatency) }
        let units: [(StaticString, Double)] = [("s", 1e9), ("ms", 1e6), ("us", 1e3), ("ns", 1)]
        guard let unit = units.first(where: { scan.scan.isEqual(histogram.unit, $0.0) }), !histogram.isTooLong,
            histogram.count >= histogram.negativeCount
        else { return refuse(.badHistogram) }
        var exponential = ExponentialHistogram()
        exponential.scale = Int(histogram.scale)
        exponential.count = histogram.count - histogram.negativeCount
        exponential.sum = histogram.negativeCount == 0 ? histogram.sum : 0
        exponential.zeroCount = histogram.zeroCount
        exponential.offset = Int(histogram.positiveOffset)
        exponential.counts = Array(scan.counts[histogram.firstCount..<(histogram.firstCount + histogram.countCount)])
        exponential.max = histogram.max
        guard let sketch = Sketch(exponential, unitNano: unit.1) else { return refuse(.badHistogram) }
        return sketch.isEmpty ? refuse(.noLatency) : .success(sketch)
    }

    /// Why it was not counted; nil if it was.
    private func place(
        _ sketch: Sketch, _ histogram: ScannedHistogram, _ scan: MetricsScan, _ groupPrefix: String,
        _ state: inout HeatmapState
    ) -> HeatmapLedger.DiscardReason? {
        let text = scan.scan
        func values(_ attributes: UnsafeBufferPointer<ScannedAttribute>, _ count: Int) -> [String] {
            var values = Array(repeating: "", count: count)
            for attribute in attributes where values[Int(attribute.key)].isEmpty {
                guard let value = text.text(of: attribute) else { continue }
                values[Int(attribute.key)] = Self.clipped(text.bytes(value))
            }
            return values
        }
        let own = values(scan.attributes(of: histogram), scans.scanner.interest.spanKeys.count)
        let resource = text.resources[Int(histogram.resource)]
        let shared = values(text.attributes(of: resource), scans.scanner.interest.resourceKeys.count)
        if let instance = configuration.ownInstanceID, shared[ScanPool.ResourceKey.instance] == instance { return .own }
        if let service = configuration.filter.service, shared[ScanPool.ResourceKey.service] != service {
            return .filtered
        }
        func value(_ key: (span: Int, resource: Int)) -> String {
            own[key.span].isEmpty ? shared[key.resource] : own[key.span]
        }
        for wanted in scans.wanted where !value((wanted.span, wanted.resource)).utf8.elementsEqual(wanted.value) {
            return .filtered
        }
        if isTooFarAhead(state, histogram.timeUnixNano) { return .future }
        let metric = Self.clipped(text.bytes(histogram.name))
        let part = own[ScanPool.SpanKey.stage]
        let stage = state.stages.number(part.isEmpty ? metric : "\(metric)/\(part)")
        for (position, view) in state.views.enumerated() {
            let values = scans.viewKeys[position].map(value)
            let name: String
            if position == 0 {
                name = values.first { !$0.isEmpty } ?? "(none)"
            } else if values.allSatisfy({ !$0.isEmpty }) {
                name = HeatmapView.name(ofValues: values)
            } else {
                continue
            }
            guard case .success(let plane) = plane(&state, view, histogram.timeUnixNano) else { return .expired }
            let group = view.groups.number(groupPrefix + name)
            guard let cell = cell(view, plane, group: group, stage: stage, isShort: state.isShort) else {
                if position == 0 { return .memory }
                continue
            }
            plane.merge(cell, sketch)
            note(&state, view, plane, cell, group: group, sketch.count, isFirst: position == 0)
        }
        state.latestUnixNano = Swift.max(state.latestUnixNano, histogram.timeUnixNano)
        return nil
    }

    private static func clipped(_ name: UnsafeRawBufferPointer) -> String {
        var end = Swift.min(name.count, maxGroupBytes)
        if end < name.count { while end > maxGroupBytes - 3, name[end] & 0xC0 == 0x80 { end -= 1 } }
        return String(decoding: name[..<end], as: UTF8.self)
    }
}
