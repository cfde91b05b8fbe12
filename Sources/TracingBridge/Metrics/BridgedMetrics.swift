import CoreMetrics
import OTLP
import Synchronization
import Telemetry

/// Makes Telemetry the backend of swift-metrics.
///
///     MetricsSystem.bootstrap(BridgedMetrics(telemetry))
///
/// | swift-metrics | OpenTelemetry |
/// |---|---|
/// | `Counter`, `FloatingPointCounter` | counter |
/// | `Meter`, `Gauge` | gauge |
/// | `Recorder` | histogram, with the boundaries of a view or OpenTelemetry's |
/// | `Timer` | histogram in seconds, unit `s`, with the boundaries that OpenTelemetry gives for durations |
///
/// A label becomes the instrument's name; what the rules for names do not allow in it becomes `_`. Dimensions become
/// attributes. Beyond the cardinality limit, series are counted together, as views and the limit say. Two handlers with
/// the same label and dimensions are one series, and it stays when they are destroyed: OpenTelemetry has no end of a
/// series, and a later handler goes on with it. For the same reason a counter's `reset` does nothing.
public final class BridgedMetrics: MetricsFactory {
    /// Boundaries for durations in seconds, as the conventions for HTTP, RPC and databases give them.
    public static let durationBoundaries = [
        0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10,
    ]
    /// Meters that are found again by their label and dimensions. One more than these has a value of its own.
    static let maxMeters = 10_000

    private let meter: Telemetry.Meter
    private let meters = Mutex<[MeterKey: (handler: BridgedMeter, users: Int)]>([:])

    public init(_ telemetry: TelemetrySDK) {
        meter = telemetry.meter("swift-metrics")
    }

    public func makeCounter(label: String, dimensions: [(String, String)]) -> any CounterHandler {
        BridgedCounter(meter.counter(Self.name(label)).bind(Self.attributes(dimensions)))
    }

    public func makeFloatingPointCounter(
        label: String, dimensions: [(String, String)]
    ) -> any FloatingPointCounterHandler {
        BridgedFloatingPointCounter(
            meter.counter(Self.name(label), of: Double.self).bind(Self.attributes(dimensions)))
    }

    /// The handler of the same label and dimensions, if there is one: what `increment` adds to is theirs together.
    public func makeMeter(label: String, dimensions: [(String, String)]) -> any MeterHandler {
        let key = MeterKey(name: Self.name(label), attributes: Self.attributes(dimensions))
        return meters.withLock { meters in
            if let known = meters[key] {
                meters[key] = (known.handler, known.users + 1)
                return known.handler
            }
            let handler = BridgedMeter(meter.gauge(key.name, of: Double.self).bind(key.attributes), key)
            if meters.count < Self.maxMeters { meters[key] = (handler, 1) }
            return handler
        }
    }

    public func makeRecorder(label: String, dimensions: [(String, String)], aggregate: Bool) -> any RecorderHandler {
        let attributes = Self.attributes(dimensions)
        return aggregate
            ? BridgedRecorder(meter.histogram(Self.name(label)).bind(attributes))
            : BridgedGauge(meter.gauge(Self.name(label), of: Double.self).bind(attributes))
    }

    public func makeTimer(label: String, dimensions: [(String, String)]) -> any TimerHandler {
        BridgedTimer(
            meter.histogram(Self.name(label), unit: "s", boundaries: Self.durationBoundaries)
                .bind(Self.attributes(dimensions)))
    }

    // MARK: Destruction

    public func destroyCounter(_ handler: any CounterHandler) {}
    public func destroyFloatingPointCounter(_ handler: any FloatingPointCounterHandler) {}
    public func destroyRecorder(_ handler: any RecorderHandler) {}
    public func destroyTimer(_ handler: any TimerHandler) {}

    /// The last user's takes the value with it: a meter that is made anew begins at 0.
    public func destroyMeter(_ handler: any MeterHandler) {
        guard let handler = handler as? BridgedMeter else { return }
        meters.withLock { meters in
            guard let known = meters[handler.key], known.handler === handler else { return }
            meters[handler.key] = known.users > 1 ? (handler, known.users - 1) : nil
        }
    }

    // MARK: Names

    /// https://opentelemetry.io/docs/specs/otel/metrics/api/#instrument-name-syntax: a letter, then letters, digits, `_`,
    /// `.`, `-` and `/`, 255 in all.
    static func name(_ label: String) -> String {
        var bytes: [UInt8] = []
        for byte in label.utf8.prefix(255) {
            let isLetter = (0x61...0x7A).contains(byte | 0x20)
            let isAllowed = isLetter || (0x30...0x39).contains(byte) || "_.-/".utf8.contains(byte)
            if bytes.isEmpty, !isLetter { bytes.append(UInt8(ascii: "m")) }
            bytes.append(isAllowed ? byte : UInt8(ascii: "_"))
        }
        return bytes.isEmpty ? "unnamed" : String(decoding: bytes.prefix(255), as: UTF8.self)
    }

    /// In the order of their keys; of equal keys the last counts, and one without a key does not.
    private static func attributes(_ dimensions: [(String, String)]) -> [KeyValue] {
        var values: [String: String] = [:]
        for (key, value) in dimensions where !key.isEmpty { values[key] = value }
        return values.sorted { $0.key < $1.key }.map { KeyValue($0.key, .string($0.value)) }
    }
}

struct MeterKey: Hashable, Sendable {
    let name: String
    let attributes: [KeyValue]
}
