import OTLP
import Synchronization

/// A value that only grows: one series of a counter family.
///
/// Handles are cheap to keep and to share. `add` is one relaxed atomic addition: no lock, no allocation.
public final class Counter: Sendable, MetricInstrument {
    @usableFromInline
    let storage = Atomic<UInt64>(0)
    private let startUnixNano = Clock.now().unixNano

    init() {}

    /// Adds `amount`; wraps at 2^64, which a reader sees as a reset of the counter.
    @inlinable
    public func add(_ amount: UInt64 = 1) {
        storage.wrappingAdd(amount, ordering: .relaxed)
    }

    /// What has been added so far.
    public var value: UInt64 { storage.load(ordering: .relaxed) }

    func point(_ attributes: [KeyValue], _ pass: CollectionPass) -> FamilyPoint {
        .number(
            NumberPoint(
                attributes: attributes, startUnixNano: startUnixNano, unixNano: pass.unixNano,
                value: MetricNumber(value)))
    }
}
