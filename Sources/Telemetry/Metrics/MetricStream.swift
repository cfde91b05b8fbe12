import OTLP
import Synchronization

/// What one view (or none) makes of one instrument: a metric with a name, an aggregation and series.
final class MetricStream: Sendable {
    let name: String
    let description: String
    let unit: String
    let kind: InstrumentKind
    let scope: InstrumentationScope
    /// Never `standard`, except for distributions that were built elsewhere.
    let aggregation: Aggregation
    private let kept: Set<String>?
    private let excluded: Set<String>
    private let limit: Int
    private let isDouble: Bool
    private let hasExemplars: Bool
    private let exposition: Exposition
    private let overflowed = Atomic<UInt64>(0)
    private let state = Guarded(State())

    private struct State {
        var cells: [AttributeSet: SeriesCell] = [:]
        var overflow: SeriesCell?
    }

    init(
        instrument: InstrumentDescription, view: View?, aggregation: Aggregation, configuration: MetricsConfiguration
    ) {
        name = view?.name ?? instrument.name
        description = view?.description ?? instrument.description
        unit = instrument.unit
        kind = instrument.kind
        scope = instrument.scope
        self.aggregation = aggregation
        kept = view?.attributeKeys
        excluded = view?.excludedAttributeKeys ?? []
        limit = max(1, view?.cardinalityLimit ?? configuration.cardinalityLimit)
        isDouble = instrument.isDouble
        hasExemplars = configuration.exemplarFilter != .alwaysOff && !instrument.kind.isObservable
        exposition = PrometheusName.exposition(
            name: name, unit: unit, description: description, type: Self.type(aggregation, instrument.kind))
    }

    private static func type(_ aggregation: Aggregation, _ kind: InstrumentKind) -> MetricType {
        switch aggregation {
        case .sum: kind.isMonotonic ? .counter : .gauge
        case .lastValue, .drop: .gauge
        case .explicitHistogram, .exponentialHistogram, .standard: .histogram
        }
    }

    /// The attributes that make the series, and those that the view leaves out.
    func split(_ attributes: [KeyValue]) -> (series: AttributeSet, filtered: [KeyValue]) {
        if kept == nil, excluded.isEmpty { return (AttributeSet(attributes), []) }
        func isKept(_ attribute: KeyValue) -> Bool {
            kept?.contains(attribute.key) ?? true && !excluded.contains(attribute.key)
        }
        return (AttributeSet(attributes.filter(isKept)), attributes.filter { !isKept($0) })
    }

    // MARK: Measurements

    /// The cell of a series, made when there is none; the overflow's when there are too many.
    func cell(_ attributes: AttributeSet) -> SeriesCell {
        let (cell, isOverflow) = state.withLock { state -> (SeriesCell, Bool) in
            if let cell = state.cells[attributes] { return (cell, false) }
            // One place is the overflow's.
            if state.cells.count < limit - 1 {
                let cell = makeCell(attributes)
                state.cells[attributes] = cell
                return (cell, false)
            }
            if let cell = state.overflow { return (cell, true) }
            let cell = makeCell(.overflow)
            state.overflow = cell
            return (cell, true)
        }
        if isOverflow { overflowed.wrappingAdd(1, ordering: .relaxed) }
        return cell
    }

    private func makeCell(_ attributes: AttributeSet) -> SeriesCell {
        func reservoir(_ shape: ExemplarReservoir.Shape) -> ExemplarReservoir? {
            hasExemplars ? ExemplarReservoir(shape) : nil
        }
        // A sum that may go down says nothing about the values.
        let hasSum = kind.isMonotonic
        switch aggregation {
        case .sum:
            return SumCell(attributes: attributes, reservoir: reservoir(.fixedSize(1)), isDouble: isDouble)
        case .lastValue, .drop:
            return LastValueCell(attributes: attributes, reservoir: reservoir(.fixedSize(1)), isDouble: isDouble)
        case .explicitHistogram(let boundaries):
            let bounds = boundaries ?? Aggregation.defaultBoundaries
            return ExplicitHistogramCell(
                attributes: attributes, reservoir: reservoir(.aligned(bounds)), bounds: bounds, hasSum: hasSum)
        case .exponentialHistogram(let size, let scale):
            return ExponentialHistogramCell(
                attributes: attributes, reservoir: reservoir(.fixedSize(min(20, size))), maxSize: size, maxScale: scale,
                hasSum: hasSum)
        case .standard:
            preconditionFailure("\(name): finished distributions have no cells")
        }
    }

    // MARK: Readers

    var overflows: (metric: String, count: UInt64) { (name, overflowed.load(ordering: .relaxed)) }

    private func collected(_ data: Metric.Data, intervals: [(min: Double, max: Double)?] = []) -> CollectedMetric {
        CollectedMetric(
            metric: Metric(name: name, description: description, unit: unit, data: data), kind: kind, scope: scope,
            stream: ObjectIdentifier(self), exposition: exposition, intervals: intervals)
    }

    /// Of a synchronous instrument.
    func collect(_ pass: CollectionPass) -> CollectedMetric {
        let cells = state.withLock { state in state.cells.values + (state.overflow.map { [$0] } ?? []) }
        switch aggregation {
        case .sum:
            let points = cells.compactMap { ($0 as? SumCell)?.point(pass) }
            return collected(.sum(points, .cumulative, isMonotonic: kind.isMonotonic))
        case .lastValue, .drop:
            return collected(.gauge(cells.compactMap { ($0 as? LastValueCell)?.point(pass) }))
        case .explicitHistogram:
            let points = cells.compactMap { ($0 as? ExplicitHistogramCell)?.point(pass) }
            return collected(.histogram(points.map(\.whole), .cumulative), intervals: points.map(\.interval))
        case .exponentialHistogram, .standard:
            let points = cells.compactMap { ($0 as? ExponentialHistogramCell)?.point(pass) }
            return collected(.exponentialHistogram(points.map(\.whole), .cumulative), intervals: points.map(\.interval))
        }
    }

    /// Of an observable instrument, from what its callbacks have said.
    func collect(_ observations: [Observation], _ pass: CollectionPass) -> CollectedMetric {
        var places: [AttributeSet: Int] = [:]
        /// Where an observation goes; true when its series is new.
        func place(_ attributes: [KeyValue]) -> (index: Int, attributes: AttributeSet, isNew: Bool) {
            var series = split(attributes).series
            if places[series] == nil, places.count >= limit - 1, series != .overflow {
                overflowed.wrappingAdd(1, ordering: .relaxed)
                series = .overflow
            }
            if let index = places[series] { return (index, series, false) }
            places[series] = places.count
            return (places.count - 1, series, true)
        }
        if aggregation == .standard {
            var points: [ExponentialHistogramPoint] = []
            for observation in observations {
                guard case .distribution(var point) = observation.value else { continue }
                let (index, attributes, isNew) = place(observation.attributes)
                point.attributes = attributes.pairs
                point.unixNano = pass.unixNano
                if isNew { points.append(point) } else { points[index].merge(point) }
            }
            return collected(.exponentialHistogram(points, .cumulative))
        }
        var points: [NumberPoint] = []
        for observation in observations {
            guard case .number(let value) = observation.value else { continue }
            let (index, attributes, isNew) = place(observation.attributes)
            if isNew {
                points.append(
                    NumberPoint(
                        attributes: attributes.pairs, startUnixNano: 0, unixNano: pass.unixNano, value: value))
            } else if aggregation == .sum {
                points[index].value = points[index].value + value
            } else {
                points[index].value = value
            }
        }
        return collected(
            aggregation == .sum ? .sum(points, .cumulative, isMonotonic: kind.isMonotonic) : .gauge(points))
    }
}

extension MetricNumber {
    static func + (one: MetricNumber, other: MetricNumber) -> MetricNumber {
        if case .int(let a) = one, case .int(let b) = other { return .int(a &+ b) }
        return .double(one.asDouble + other.asDouble)
    }
}

extension ExponentialHistogramPoint {
    /// Adds another distribution, at the coarser of the two scales.
    mutating func merge(_ other: ExponentialHistogramPoint) {
        let scale = Swift.min(self.scale, other.scale)
        positive = positive.downscaled(by: self.scale - scale).adding(
            other.positive.downscaled(by: other.scale - scale))
        negative = negative.downscaled(by: self.scale - scale).adding(
            other.negative.downscaled(by: other.scale - scale))
        self.scale = scale
        zeroCount &+= other.zeroCount
        zeroThreshold = Swift.max(zeroThreshold, other.zeroThreshold)
        sum = sum.flatMap { sum in other.sum.map { sum + $0 } }
        min = min.flatMap { min in other.min.map { Swift.min(min, $0) } }
        max = max.flatMap { max in other.max.map { Swift.max(max, $0) } }
    }
}

extension ExponentialHistogramPoint.Buckets {
    fileprivate func adding(_ other: Self) -> Self {
        if counts.isEmpty { return other }
        if other.counts.isEmpty { return self }
        let low = Swift.min(offset, other.offset)
        let end = Swift.max(Int(offset) + counts.count, Int(other.offset) + other.counts.count)
        var merged = [UInt64](repeating: 0, count: end - Int(low))
        for buckets in [self, other] {
            for (index, count) in buckets.counts.enumerated() { merged[Int(buckets.offset - low) + index] &+= count }
        }
        return Self(offset: low, counts: merged)
    }
}
