import OTLP
import Synchronization

/// One series' storage: counter, gauge or histogram.
public protocol MetricInstrument: AnyObject, Sendable {}

/// A point of one series; those of a family are of one kind.
enum FamilyPoint {
    case number(NumberPoint)
    case histogram(HistogramPoint)
}

protocol FamilyInstrument: MetricInstrument {
    func point(_ attributes: [KeyValue], _ pass: CollectionPass) -> FamilyPoint
}

extension Counter: FamilyInstrument {}
extension Gauge: FamilyInstrument {}
extension Histogram: FamilyInstrument {}

public typealias CounterFamily = MetricFamily<Counter>
public typealias GaugeFamily = MetricFamily<Gauge>
public typealias HistogramFamily = MetricFamily<Histogram>

/// The series of one metric, one for each combination of label values.
///
/// `with` takes a lock and hashes the values: call it once per combination and keep the handle. At most `seriesLimit`
/// combinations get a series of their own; later ones share the series whose values are `__other__` (values of labels
/// that were declared closed are kept), and each such lookup is counted in `isotherm_metric_overflows_total`.
public final class MetricFamily<Instrument: MetricInstrument>: Sendable {
    public let descriptor: MetricDescriptor
    public let seriesLimit: Int
    private let closed: [Bool]
    private let make: @Sendable () -> Instrument
    private let overflowed = Atomic<UInt64>(0)
    private let state = Guarded(State())

    private struct State {
        var series: [[String]: Series] = [:]
        /// Series that count towards the limit: all but those made by the overflow rule.
        var ordinary = 0
        var overflow = 0
    }

    fileprivate struct Series {
        let values: [String]
        let attributes: [KeyValue]
        let instrument: Instrument
    }

    init(
        descriptor: MetricDescriptor, closedLabels: [String], seriesLimit: Int,
        make: @escaping @Sendable () -> Instrument
    ) {
        precondition(seriesLimit > 0, "\(descriptor.name): a family holds at least one series")
        for label in closedLabels {
            precondition(descriptor.labelNames.contains(label), "\(descriptor.name) has no label \(label)")
        }
        self.descriptor = descriptor
        self.seriesLimit = seriesLimit
        closed = descriptor.labelNames.map(closedLabels.contains)
        self.make = make
    }

    /// The series for these label values, in the order of the label names; made when it does not exist yet.
    public func with(_ values: String...) -> Instrument { with(values) }

    /// The same, for values that are already in an array. Traps when there are too few or too many values.
    public func with(_ values: [String]) -> Instrument {
        let names = descriptor.labelNames
        precondition(values.count == names.count, "\(descriptor.name) has labels \(names), not \(values.count) of them")
        let values = values.map(LabelValue.bounded)
        let (instrument, isOverflow) = state.withLock { state -> (Instrument, Bool) in
            if let found = state.series[values] { return (found.instrument, false) }
            if state.ordinary < seriesLimit {
                state.ordinary += 1
                return (add(values, to: &state), false)
            }
            // Closed labels are few by the program's own word; should that be wrong, memory stays bounded all the same.
            let kept = state.overflow < seriesLimit
            let shared = zip(values, closed).map { $1 && kept ? $0 : LabelValue.other }
            if let found = state.series[shared] { return (found.instrument, true) }
            state.overflow += 1
            return (add(shared, to: &state), true)
        }
        if isOverflow { overflowed.wrappingAdd(1, ordering: .relaxed) }
        return instrument
    }

    private func add(_ values: [String], to state: inout State) -> Instrument {
        let instrument = make()
        state.series[values] = Series(
            values: values, attributes: descriptor.attributes(values), instrument: instrument)
        return instrument
    }

    /// Lookups that were answered with a shared series because the family was full.
    public var overflowedLookups: UInt64 { overflowed.load(ordering: .relaxed) }

    /// In ascending order of their label values.
    fileprivate var sortedSeries: [Series] {
        state.withLock { Array($0.series.values) }.sorted { $0.values.lexicographicallyPrecedes($1.values) }
    }
}

extension MetricFamily: MetricSource where Instrument: FamilyInstrument {
    var overflows: [(metric: String, count: UInt64)] {
        descriptor.labelNames.isEmpty ? [] : [(descriptor.name, overflowedLookups)]
    }

    func collect(_ pass: CollectionPass, into metrics: inout [CollectedMetric]) {
        let points = sortedSeries.map { $0.instrument.point($0.attributes, pass) }
        metrics.append(descriptor.collected(points, isObserved: false, stream: ObjectIdentifier(self)))
    }
}

extension MetricDescriptor {
    func attributes(_ values: [String]) -> [KeyValue] {
        zip(labelNames, values).map { KeyValue($0, .string($1)) }
    }

    func collected(_ points: [FamilyPoint], isObserved: Bool, stream: ObjectIdentifier) -> CollectedMetric {
        var numbers: [NumberPoint] = []
        var histograms: [HistogramPoint] = []
        for point in points {
            switch point {
            case .number(let point): numbers.append(point)
            case .histogram(let point): histograms.append(point)
            }
        }
        let data: Metric.Data
        let kind: InstrumentKind
        switch type {
        case .counter:
            data = .sum(numbers, .cumulative, isMonotonic: true)
            kind = isObserved ? .observableCounter : .counter
        case .gauge:
            data = .gauge(numbers)
            kind = isObserved ? .observableGauge : .gauge
        case .histogram:
            data = .histogram(histograms, .cumulative)
            kind = isObserved ? .observableHistogram : .histogram
        }
        return CollectedMetric(
            metric: Metric(name: name, description: help, unit: unit, data: data), kind: kind, scope: nil,
            stream: stream, exposition: exposition)
    }
}
