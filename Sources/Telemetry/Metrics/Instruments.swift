import OTLP

/// What instruments measure: `Int` and `Double`.
public protocol MetricValue: Sendable, Comparable, ExpressibleByIntegerLiteral {
    static var isDouble: Bool { get }
    /// Neither infinite nor NaN.
    var isFinite: Bool { get }
    var asInt: Int { get }
    var asDouble: Double { get }
}

extension Int: MetricValue {
    @inlinable public static var isDouble: Bool { false }
    @inlinable public var isFinite: Bool { true }
    @inlinable public var asInt: Int { self }
    @inlinable public var asDouble: Double { Double(self) }
}

extension Double: MetricValue {
    @inlinable public static var isDouble: Bool { true }
    @inlinable public var asInt: Int { Int(self) }
    @inlinable public var asDouble: Double { self }
}

// A measurement may carry the span in which it was made: it can then become an exemplar. What no instrument may take is
// left out and counted.

extension Meter {
    /// Counts what only grows. Negative amounts are left out.
    public struct Counter<Value: MetricValue>: Sendable {
        let instrument: Instrument

        public func add(_ amount: Value, _ attributes: [KeyValue] = [], context: SpanContext? = nil) {
            guard amount >= 0, amount.isFinite else { return instrument.discard() }
            instrument.record(amount, attributes, context)
        }

        /// The series of these attributes: adding to it neither looks anything up nor allocates.
        public func bind(_ attributes: [KeyValue] = []) -> Bound { Bound(series: instrument.bind(attributes)) }

        public struct Bound: Sendable {
            @usableFromInline let series: BoundSeries

            @inlinable
            public func add(_ amount: Value, context: SpanContext? = nil) {
                guard amount >= 0, amount.isFinite else { return series.discard() }
                series.record(amount, context)
            }
        }
    }

    /// Counts what comes and goes.
    public struct UpDownCounter<Value: MetricValue>: Sendable {
        let instrument: Instrument

        public func add(_ amount: Value, _ attributes: [KeyValue] = [], context: SpanContext? = nil) {
            guard amount.isFinite else { return instrument.discard() }
            instrument.record(amount, attributes, context)
        }

        public func bind(_ attributes: [KeyValue] = []) -> Bound { Bound(series: instrument.bind(attributes)) }

        public struct Bound: Sendable {
            @usableFromInline let series: BoundSeries

            @inlinable
            public func add(_ amount: Value, context: SpanContext? = nil) {
                guard amount.isFinite else { return series.discard() }
                series.record(amount, context)
            }
        }
    }

    /// Holds the newest value.
    public struct Gauge<Value: MetricValue>: Sendable {
        let instrument: Instrument

        public func record(_ value: Value, _ attributes: [KeyValue] = [], context: SpanContext? = nil) {
            guard value.isFinite else { return instrument.discard() }
            instrument.record(value, attributes, context)
        }

        public func bind(_ attributes: [KeyValue] = []) -> Bound { Bound(series: instrument.bind(attributes)) }

        public struct Bound: Sendable {
            @usableFromInline let series: BoundSeries

            @inlinable
            public func record(_ value: Value, context: SpanContext? = nil) {
                guard value.isFinite else { return series.discard() }
                series.record(value, context)
            }
        }
    }

    /// Records a distribution. Negative values are left out.
    public struct Histogram<Value: MetricValue>: Sendable {
        let instrument: Instrument

        public func record(_ value: Value, _ attributes: [KeyValue] = [], context: SpanContext? = nil) {
            guard value >= 0, value.isFinite else { return instrument.discard() }
            instrument.record(value, attributes, context)
        }

        public func bind(_ attributes: [KeyValue] = []) -> Bound { Bound(series: instrument.bind(attributes)) }

        public struct Bound: Sendable {
            @usableFromInline let series: BoundSeries

            @inlinable
            public func record(_ value: Value, context: SpanContext? = nil) {
                guard value >= 0, value.isFinite else { return series.discard() }
                series.record(value, context)
            }
        }
    }
}
