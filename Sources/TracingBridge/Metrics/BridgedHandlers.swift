import CoreMetrics
import Instrumentation
import ServiceContextModule
import Synchronization
import Telemetry

final class BridgedCounter: CounterHandler {
    private let series: Telemetry.Meter.Counter<Int>.Bound

    init(_ series: Telemetry.Meter.Counter<Int>.Bound) { self.series = series }

    func increment(by amount: Int64) { series.add(Int(amount)) }
    func reset() {}
}

final class BridgedFloatingPointCounter: FloatingPointCounterHandler {
    private let series: Telemetry.Meter.Counter<Double>.Bound

    init(_ series: Telemetry.Meter.Counter<Double>.Bound) { self.series = series }

    func increment(by amount: Double) { series.add(amount) }
    func reset() {}
}

/// A value that is set, and counted up and down from there.
final class BridgedMeter: MeterHandler {
    let key: MeterKey
    private let series: Telemetry.Meter.Gauge<Double>.Bound
    private let value = Mutex(0.0)

    init(_ series: Telemetry.Meter.Gauge<Double>.Bound, _ key: MeterKey) {
        self.series = series
        self.key = key
    }

    func set(_ value: Int64) { set(Double(value)) }
    func set(_ value: Double) { change { $0 = value } }
    func increment(by amount: Double) { change { $0 += amount } }
    func decrement(by amount: Double) { change { $0 -= amount } }

    /// Told in the order of the changes, and not at all where the value would be no number.
    private func change(_ body: (inout Double) -> Void) {
        value.withLock { value in
            var new = value
            body(&new)
            guard new.isFinite else { return }
            value = new
            series.record(new)
        }
    }
}

/// A recorder that does not aggregate: the newest value counts.
final class BridgedGauge: RecorderHandler {
    private let series: Telemetry.Meter.Gauge<Double>.Bound

    init(_ series: Telemetry.Meter.Gauge<Double>.Bound) { self.series = series }

    func record(_ value: Int64) { series.record(Double(value)) }
    func record(_ value: Double) { series.record(value) }
}

/// Negative values are left out and counted, as OpenTelemetry's histograms take none.
final class BridgedRecorder: RecorderHandler {
    private let series: Telemetry.Meter.Histogram<Double>.Bound

    init(_ series: Telemetry.Meter.Histogram<Double>.Bound) { self.series = series }

    func record(_ value: Int64) { record(Double(value)) }
    func record(_ value: Double) { series.record(value, context: ServiceContext.current?.spanContext) }
}

/// Seconds, whatever unit a handler would like to be shown in.
final class BridgedTimer: TimerHandler {
    private let series: Telemetry.Meter.Histogram<Double>.Bound

    init(_ series: Telemetry.Meter.Histogram<Double>.Bound) { self.series = series }

    func recordNanoseconds(_ duration: Int64) {
        series.record(Double(duration) / 1e9, context: ServiceContext.current?.spanContext)
    }
}
