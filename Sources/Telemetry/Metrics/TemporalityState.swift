import OTLP

/// What one push reader has seen of each series: it turns sums from the start into sums since the last push, and finds
/// where observed sums begin anew.
///
/// A series that shrank has been reset: it starts at the last look, from zero.
/// https://opentelemetry.io/docs/specs/otel/metrics/data-model/#resets-and-gaps
struct TemporalityState {
    private struct Key: Hashable {
        let stream: ObjectIdentifier
        let attributes: [KeyValue]
    }

    private struct Baseline<Value> {
        var startUnixNano: UInt64
        var value: Value
        var look: UInt64
    }

    /// Series that are not there any more are forgotten beyond so many.
    private static let maxBaselines = 100_000

    private let preference: MetricsConfiguration.Temporality
    private let createdUnixNano: UInt64
    private var lastUnixNano: UInt64
    private var look: UInt64 = 0
    private var numbers: [Key: Baseline<MetricNumber>] = [:]
    private var histograms: [Key: Baseline<(counts: [UInt64], sum: Double)>] = [:]
    private var exponentials: [Key: Baseline<ExponentialHistogramPoint>] = [:]

    init(preference: MetricsConfiguration.Temporality, unixNano: UInt64) {
        self.preference = preference
        createdUnixNano = unixNano
        lastUnixNano = unixNano
    }

    func temporality(of kind: InstrumentKind) -> AggregationTemporality {
        switch (preference, kind) {
        case (.cumulative, _): .cumulative
        case (_, .upDownCounter), (_, .observableUpDownCounter), (_, .gauge), (_, .observableGauge): .cumulative
        case (.lowMemory, .observableCounter), (.lowMemory, .observableHistogram): .cumulative
        default: .delta
        }
    }

    /// The metrics of one look as they are to be pushed; those without a point are left out.
    mutating func push(_ metrics: [CollectedMetric], unixNano: UInt64) -> [CollectedMetric] {
        look += 1
        defer {
            lastUnixNano = unixNano
            forget()
        }
        return metrics.compactMap { collected in
            var collected = collected
            let temporality = temporality(of: collected.kind)
            if temporality == .delta || collected.kind.isObservable { convert(&collected, temporality) }
            return collected.metric.pointCount == 0 ? nil : collected
        }
    }

    private mutating func convert(_ collected: inout CollectedMetric, _ temporality: AggregationTemporality) {
        let isObserved = collected.kind.isObservable
        let stream = collected.stream
        switch collected.metric.data {
        case .gauge: break
        case .sum(let points, _, let isMonotonic):
            let pushed = points.compactMap { point in
                push(point, Key(stream: stream, attributes: point.attributes), isMonotonic, isObserved, temporality)
            }
            collected.metric.data = .sum(pushed, temporality, isMonotonic: isMonotonic)
        case .histogram(let points, _):
            let pushed = points.indices.compactMap { index in
                push(
                    points[index], Key(stream: stream, attributes: points[index].attributes), isObserved, temporality,
                    collected.intervals.isEmpty ? nil : collected.intervals[index])
            }
            collected.metric.data = .histogram(pushed, temporality)
        case .exponentialHistogram(let points, _):
            let pushed = points.indices.compactMap { index in
                push(
                    points[index], Key(stream: stream, attributes: points[index].attributes), isObserved, temporality,
                    collected.intervals.isEmpty ? nil : collected.intervals[index])
            }
            collected.metric.data = .exponentialHistogram(pushed, temporality)
        }
    }

    /// When a series began that has not been seen before.
    private func start(_ known: UInt64) -> UInt64 {
        known != 0 ? known : look == 1 ? createdUnixNano : lastUnixNano
    }

    private mutating func push(
        _ point: NumberPoint, _ key: Key, _ isMonotonic: Bool, _ isObserved: Bool, _ temporality: AggregationTemporality
    ) -> NumberPoint? {
        var point = point
        let total = point.value
        var base = numbers[key]
        if isMonotonic, let value = base?.value, total.asDouble < value.asDouble {
            base = Baseline(startUnixNano: lastUnixNano, value: .int(0), look: look)
        }
        let start = base?.startUnixNano ?? start(point.startUnixNano)
        numbers[key] = Baseline(startUnixNano: start, value: total, look: look)
        point.startUnixNano = start
        guard temporality == .delta else { return point }
        point.value = total - (base?.value ?? .int(0))
        if base != nil { point.startUnixNano = lastUnixNano }
        point.exemplars.removeAll { $0.unixNano <= lastUnixNano }
        return isObserved || point.value.asDouble != 0 ? point : nil
    }

    private mutating func push(
        _ point: HistogramPoint, _ key: Key, _ isObserved: Bool, _ temporality: AggregationTemporality,
        _ interval: (min: Double, max: Double)?
    ) -> HistogramPoint? {
        var point = point
        let total = (counts: point.bucketCounts, sum: point.sum ?? 0)
        var base = histograms[key]
        if let counts = base?.value.counts,
            counts.count != total.counts.count || zip(counts, total.counts).contains(where: >)
        {
            base = Baseline(
                startUnixNano: lastUnixNano, value: (total.counts.map { _ in 0 }, 0), look: look)
        }
        let start = base?.startUnixNano ?? start(point.startUnixNano)
        histograms[key] = Baseline(startUnixNano: start, value: total, look: look)
        point.startUnixNano = start
        guard temporality == .delta else { return point }
        if let base {
            point.startUnixNano = lastUnixNano
            point.bucketCounts = zip(total.counts, base.value.counts).map { $0 - $1 }
            point.sum = point.sum.map { $0 - base.value.sum }
        }
        point.min = interval?.min
        point.max = interval?.max
        point.exemplars.removeAll { $0.unixNano <= lastUnixNano }
        return isObserved || point.count != 0 ? point : nil
    }

    private mutating func push(
        _ point: ExponentialHistogramPoint, _ key: Key, _ isObserved: Bool, _ temporality: AggregationTemporality,
        _ interval: (min: Double, max: Double)?
    ) -> ExponentialHistogramPoint? {
        var point = point
        let base = exponentials[key]
        let difference = base.map { point.subtracting($0.value) }
        // A difference that cannot be made is a reset.
        let isReset = if case .some(.none) = difference { true } else { false }
        let start = isReset ? lastUnixNano : base?.startUnixNano ?? start(point.startUnixNano)
        exponentials[key] = Baseline(startUnixNano: start, value: point, look: look)
        point.startUnixNano = start
        guard temporality == .delta else { return point }
        if let difference = difference ?? nil {
            point = difference
            point.startUnixNano = lastUnixNano
        }
        point.min = interval?.min
        point.max = interval?.max
        point.exemplars.removeAll { $0.unixNano <= lastUnixNano }
        return isObserved || point.count != 0 ? point : nil
    }

    private mutating func forget() {
        guard numbers.count + histograms.count + exponentials.count > Self.maxBaselines else { return }
        let look = look
        numbers = numbers.filter { $0.value.look == look }
        histograms = histograms.filter { $0.value.look == look }
        exponentials = exponentials.filter { $0.value.look == look }
    }
}

extension MetricNumber {
    fileprivate static func - (one: MetricNumber, other: MetricNumber) -> MetricNumber {
        if case .int(let a) = one, case .int(let b) = other { return .int(a &- b) }
        return .double(one.asDouble - other.asDouble)
    }
}

extension ExponentialHistogramPoint {
    /// What was added since `earlier`, at the coarser scale; nil when `earlier` has counts that this has not.
    fileprivate func subtracting(_ earlier: ExponentialHistogramPoint) -> ExponentialHistogramPoint? {
        let scale = Swift.min(self.scale, earlier.scale)
        guard zeroCount >= earlier.zeroCount,
            let positive = positive.downscaled(by: self.scale - scale)
                .subtracting(earlier.positive.downscaled(by: earlier.scale - scale)),
            let negative = negative.downscaled(by: self.scale - scale)
                .subtracting(earlier.negative.downscaled(by: earlier.scale - scale))
        else { return nil }
        var difference = self
        difference.scale = scale
        difference.zeroCount -= earlier.zeroCount
        difference.positive = positive
        difference.negative = negative
        difference.sum = sum.flatMap { sum in earlier.sum.map { sum - $0 } }
        return difference
    }
}
