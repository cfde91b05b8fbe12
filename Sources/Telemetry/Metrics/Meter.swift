import OTLP

/// Makes the instruments of one library, in OpenTelemetry's terms.
///
///     let meter = telemetry.meter("shop", version: "1.0")
///     let orders = meter.counter("shop.orders", unit: "{order}", description: "Orders placed.")
///     orders.add(1, [KeyValue("shop.country", "NL")])
///     let dutch = orders.bind([KeyValue("shop.country", "NL")])      // for hot paths: looks nothing up
///     dutch.add(1)
///
/// Asking twice for the same instrument gives the same one. One that differs only in its kind, unit or number type is a
/// conflict: both are exported, with a warning. A name that breaks the rules is a warning too, and such an instrument
/// measures nothing.
public final class Meter: Sendable {
    public let scope: InstrumentationScope
    private let registry: MetricRegistry

    init(scope: InstrumentationScope, registry: MetricRegistry) {
        self.scope = scope
        self.registry = registry
    }

    private func instrument(
        _ name: String, _ kind: InstrumentKind, _ unit: String, _ description: String, isDouble: Bool,
        boundaries: [Double]? = nil
    ) -> Instrument {
        registry.instrument(
            InstrumentDescription(
                name: name, kind: kind, unit: unit, description: description, isDouble: isDouble, scope: scope),
            boundaries: boundaries)
    }

    // MARK: Instruments that are told

    /// Counts what only grows.
    public func counter(_ name: String, unit: String = "", description: String = "") -> Counter<Int> {
        counter(name, of: Int.self, unit: unit, description: description)
    }

    public func counter<Value: MetricValue>(
        _ name: String, of type: Value.Type, unit: String = "", description: String = ""
    ) -> Counter<Value> {
        Counter(instrument: instrument(name, .counter, unit, description, isDouble: Value.isDouble))
    }

    /// Counts what comes and goes.
    public func upDownCounter(_ name: String, unit: String = "", description: String = "") -> UpDownCounter<Int> {
        upDownCounter(name, of: Int.self, unit: unit, description: description)
    }

    public func upDownCounter<Value: MetricValue>(
        _ name: String, of type: Value.Type, unit: String = "", description: String = ""
    ) -> UpDownCounter<Value> {
        UpDownCounter(instrument: instrument(name, .upDownCounter, unit, description, isDouble: Value.isDouble))
    }

    /// Holds the newest value of what cannot be added up.
    public func gauge(_ name: String, unit: String = "", description: String = "") -> Gauge<Int> {
        gauge(name, of: Int.self, unit: unit, description: description)
    }

    public func gauge<Value: MetricValue>(
        _ name: String, of type: Value.Type, unit: String = "", description: String = ""
    ) -> Gauge<Value> {
        Gauge(instrument: instrument(name, .gauge, unit, description, isDouble: Value.isDouble))
    }

    /// Records the distribution of values that are not negative.
    ///
    /// - Parameter boundaries: advice that a view may overrule; nil for OpenTelemetry's, which are meant for milliseconds.
    public func histogram(
        _ name: String, unit: String = "", description: String = "", boundaries: [Double]? = nil
    ) -> Histogram<Double> {
        histogram(name, of: Double.self, unit: unit, description: description, boundaries: boundaries)
    }

    public func histogram<Value: MetricValue>(
        _ name: String, of type: Value.Type, unit: String = "", description: String = "", boundaries: [Double]? = nil
    ) -> Histogram<Value> {
        Histogram(
            instrument: instrument(
                name, .histogram, unit, description, isDouble: Value.isDouble, boundaries: boundaries))
    }

    // MARK: Instruments that are asked

    // The callback runs at each scrape and each push, on the reader's thread, never twice at the same time for one reader.
    // It must not block. It tells totals, not differences. The instrument is observed until the registration is cancelled.

    @discardableResult
    public func observableCounter(
        _ name: String, unit: String = "", description: String = "",
        _ callback: @escaping @Sendable (inout Observer) -> Void
    ) -> ObserverRegistration {
        instrument(name, .observableCounter, unit, description, isDouble: false).observe(callback)
    }

    @discardableResult
    public func observableUpDownCounter(
        _ name: String, unit: String = "", description: String = "",
        _ callback: @escaping @Sendable (inout Observer) -> Void
    ) -> ObserverRegistration {
        instrument(name, .observableUpDownCounter, unit, description, isDouble: false).observe(callback)
    }

    @discardableResult
    public func observableGauge(
        _ name: String, unit: String = "", description: String = "",
        _ callback: @escaping @Sendable (inout Observer) -> Void
    ) -> ObserverRegistration {
        instrument(name, .observableGauge, unit, description, isDouble: false).observe(callback)
    }

    /// Exports distributions that were built elsewhere, bucket by bucket as they are.
    @discardableResult
    public func observableExponentialHistogram(
        _ name: String, unit: String = "", description: String = "",
        _ callback: @escaping @Sendable (inout DistributionObserver) -> Void
    ) -> ObserverRegistration {
        instrument(name, .observableHistogram, unit, description, isDouble: true).observe { observer in
            var distributions = DistributionObserver()
            callback(&distributions)
            observer.observations += distributions.observations
        }
    }
}
