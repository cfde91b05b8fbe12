import OTLP
import Synchronization

/// A value that goes up and down: one series of a gauge family.
public final class Gauge: Sendable, MetricInstrument {
    @usableFromInline
    let storage = Atomic<Int64>(0)

    init() {}

    @inlinable
    public func set(_ value: Int64) {
        storage.store(value, ordering: .relaxed)
    }

    /// Adds `amount`, which may be negative.
    @inlinable
    public func add(_ amount: Int64 = 1) {
        storage.wrappingAdd(amount, ordering: .relaxed)
    }

    @inlinable
    public func subtract(_ amount: Int64 = 1) {
        storage.wrappingSubtract(amount, ordering: .relaxed)
    }

    public var value: Int64 { storage.load(ordering: .relaxed) }

    func point(_ attributes: [KeyValue], _ pass: CollectionPass) -> FamilyPoint {
        .number(
            NumberPoint(attributes: attributes, startUnixNano: 0, unixNano: pass.unixNano, value: .int(value)))
    }
}
