import OTLP
import Synchronization

/// Where the measurements of one series of one stream add up. Always from the start of the series: what a push wants to
/// have since the last one is the difference (see `TemporalityState`), so that scrapes and pushes share one sum.
@usableFromInline
class SeriesCell: @unchecked Sendable {  // subclasses name their guards
    let attributes: AttributeSet
    let startUnixNano: UInt64
    /// Nil where exemplars are off.
    @usableFromInline let reservoir: ExemplarReservoir?

    init(attributes: AttributeSet, reservoir: ExemplarReservoir?) {
        self.attributes = attributes
        self.reservoir = reservoir
        startUnixNano = Clock.now().unixNano
    }

    @usableFromInline func record(_ value: Int) { record(Double(value)) }
    @usableFromInline func record(_ value: Double) {}

    fileprivate func exemplars(_ pass: CollectionPass) -> [Exemplar] {
        reservoir?.collect(startsInterval: pass.startsInterval) ?? []
    }
}

/// One look at all instruments.
struct CollectionPass {
    let unixNano: UInt64
    /// The look of a push, whose minima, maxima and exemplars begin anew.
    let startsInterval: Bool
}

/// A sum of integers, or of doubles, without a lock.
final class SumCell: SeriesCell, @unchecked Sendable {  // atomics only
    private let integers = Atomic<Int>(0)
    /// The bits of a double.
    private let doubles = Atomic<UInt64>(0)
    private let isDouble: Bool

    init(attributes: AttributeSet, reservoir: ExemplarReservoir?, isDouble: Bool) {
        self.isDouble = isDouble
        super.init(attributes: attributes, reservoir: reservoir)
    }

    override func record(_ value: Int) {
        if isDouble { record(Double(value)) } else { integers.wrappingAdd(value, ordering: .relaxed) }
    }

    override func record(_ value: Double) {
        var old = doubles.load(ordering: .relaxed)
        while true {
            let new = (Double(bitPattern: old) + value).bitPattern
            let (isDone, current) = doubles.weakCompareExchange(expected: old, desired: new, ordering: .relaxed)
            if isDone { return }
            old = current
        }
    }

    func point(_ pass: CollectionPass) -> NumberPoint {
        let value: MetricNumber =
            isDouble
            ? .double(Double(bitPattern: doubles.load(ordering: .relaxed)))
            : .int(Int64(integers.load(ordering: .relaxed)))
        return NumberPoint(
            attributes: attributes.pairs, startUnixNano: startUnixNano, unixNano: pass.unixNano, value: value,
            exemplars: exemplars(pass))
    }
}

/// The newest value, without a lock.
final class LastValueCell: SeriesCell, @unchecked Sendable {  // atomics only
    private let bits = Atomic<UInt64>(0)
    private let isSet = Atomic(false)
    private let isDouble: Bool

    init(attributes: AttributeSet, reservoir: ExemplarReservoir?, isDouble: Bool) {
        self.isDouble = isDouble
        super.init(attributes: attributes, reservoir: reservoir)
    }

    override func record(_ value: Int) {
        if isDouble { record(Double(value)) } else { store(UInt64(bitPattern: Int64(value))) }
    }

    override func record(_ value: Double) { store(value.bitPattern) }

    private func store(_ value: UInt64) {
        bits.store(value, ordering: .relaxed)
        isSet.store(true, ordering: .releasing)
    }

    /// Nil before the first value.
    func point(_ pass: CollectionPass) -> NumberPoint? {
        guard isSet.load(ordering: .acquiring) else { return nil }
        let word = bits.load(ordering: .relaxed)
        return NumberPoint(
            attributes: attributes.pairs, startUnixNano: 0, unixNano: pass.unixNano,
            value: isDouble ? .double(Double(bitPattern: word)) : .int(Int64(bitPattern: word)),
            exemplars: exemplars(pass))
    }
}

/// The smallest and the largest value since the start, and since the last push.
struct Extremes {
    private(set) var whole: (min: Double, max: Double)?
    private var interval: (min: Double, max: Double)?

    mutating func add(_ value: Double) {
        whole = Self.widened(whole, value)
        interval = Self.widened(interval, value)
    }

    private static func widened(_ range: (min: Double, max: Double)?, _ value: Double) -> (min: Double, max: Double) {
        guard let range else { return (value, value) }
        return (Swift.min(range.min, value), Swift.max(range.max, value))
    }

    /// Those since the last push, which end with this.
    mutating func takeInterval() -> (min: Double, max: Double)? {
        defer { interval = nil }
        return interval
    }
}

/// Counts between given edges.
final class ExplicitHistogramCell: SeriesCell, @unchecked Sendable {  // guarded by `state`
    private let bounds: [Double]
    private let hasSum: Bool
    private let state: Guarded<State>

    private struct State {
        var counts: [UInt64]
        var sum = 0.0
        var extremes = Extremes()
    }

    init(attributes: AttributeSet, reservoir: ExemplarReservoir?, bounds: [Double], hasSum: Bool) {
        self.bounds = bounds
        self.hasSum = hasSum
        state = Guarded(State(counts: Array(repeating: 0, count: bounds.count + 1)))
        super.init(attributes: attributes, reservoir: reservoir)
    }

    override func record(_ value: Double) {
        let bucket = bounds.bucket(of: value)
        state.withLock { state in
            state.counts[bucket] &+= 1
            state.sum += value
            state.extremes.add(value)
        }
    }

    func point(_ pass: CollectionPass) -> (whole: HistogramPoint, interval: (min: Double, max: Double)?) {
        let (counts, sum, extremes, interval) = state.withLock { state in
            (
                // A copy of its own, so that the next measurement need not make one.
                state.counts.withUnsafeBufferPointer { Array($0) }, state.sum, state.extremes.whole,
                pass.startsInterval ? state.extremes.takeInterval() : nil
            )
        }
        let point = HistogramPoint(
            attributes: attributes.pairs, startUnixNano: startUnixNano, unixNano: pass.unixNano,
            sum: hasSum ? sum : nil, bounds: bounds, bucketCounts: counts, min: extremes?.min, max: extremes?.max,
            exemplars: exemplars(pass))
        return (point, interval)
    }
}

/// Counts in buckets that adapt to the values.
final class ExponentialHistogramCell: SeriesCell, @unchecked Sendable {  // guarded by `state`
    private let hasSum: Bool
    private let state: Guarded<State>

    private struct State {
        var histogram: ExponentialHistogram
        var extremes = Extremes()
    }

    init(attributes: AttributeSet, reservoir: ExemplarReservoir?, maxSize: Int, maxScale: Int, hasSum: Bool) {
        self.hasSum = hasSum
        state = Guarded(State(histogram: ExponentialHistogram(maxSize: maxSize, maxScale: maxScale)))
        super.init(attributes: attributes, reservoir: reservoir)
    }

    override func record(_ value: Double) {
        state.withLock { state in
            state.histogram.record(value)
            state.extremes.add(value)
        }
    }

    func point(_ pass: CollectionPass) -> (whole: ExponentialHistogramPoint, interval: (min: Double, max: Double)?) {
        var (point, extremes, interval) = state.withLock { state in
            (
                state.histogram.point(hasSum: hasSum), state.extremes.whole,
                pass.startsInterval ? state.extremes.takeInterval() : nil
            )
        }
        point.attributes = attributes.pairs
        point.startUnixNano = startUnixNano
        point.unixNano = pass.unixNano
        point.min = extremes?.min
        point.max = extremes?.max
        point.exemplars = exemplars(pass)
        return (point, interval)
    }
}
