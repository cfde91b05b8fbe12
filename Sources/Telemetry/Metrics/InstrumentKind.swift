import OTLP

/// OpenTelemetry's kinds of instruments.
public enum InstrumentKind: String, Sendable, CaseIterable {
    case counter, upDownCounter, gauge, histogram
    case observableCounter, observableUpDownCounter, observableGauge
    /// Distributions that were built elsewhere.
    case observableHistogram

    var isObservable: Bool {
        switch self {
        case .counter, .upDownCounter, .gauge, .histogram: false
        case .observableCounter, .observableUpDownCounter, .observableGauge, .observableHistogram: true
        }
    }

    /// Its sum never goes down.
    var isMonotonic: Bool {
        switch self {
        case .counter, .histogram, .observableCounter, .observableHistogram: true
        case .upDownCounter, .gauge, .observableUpDownCounter, .observableGauge: false
        }
    }
}

/// What becomes of an instrument's measurements.
/// https://opentelemetry.io/docs/specs/otel/metrics/sdk/#aggregation
public enum Aggregation: Sendable, Equatable {
    /// By the instrument's kind.
    case standard
    case drop
    case sum
    case lastValue
    /// - Parameter boundaries: upper edges, finite and ascending; nil for the instrument's own or OpenTelemetry's.
    case explicitHistogram(boundaries: [Double]?)
    /// Buckets that become coarser, by factors of two, as the range of the values grows.
    case exponentialHistogram(maxSize: Int = 160, maxScale: Int = 20)

    /// OpenTelemetry's, meant for milliseconds.
    public static let defaultBoundaries: [Double] = [
        0, 5, 10, 25, 50, 75, 100, 250, 500, 750, 1_000, 2_500, 5_000, 7_500, 10_000,
    ]

    /// The aggregation that an instrument of a kind gets, or why it cannot have this one.
    func resolved(for kind: InstrumentKind, default histogram: Aggregation) -> Result<Aggregation, AggregationMismatch>
    {
        switch (self, kind) {
        case (.drop, _): return .success(.drop)
        case (.standard, .counter), (.standard, .upDownCounter), (.standard, .observableCounter),
            (.standard, .observableUpDownCounter):
            return .success(.sum)
        case (.standard, .gauge), (.standard, .observableGauge): return .success(.lastValue)
        case (.standard, .histogram): return .success(histogram)
        // Its points come as they are.
        case (.standard, .observableHistogram): return .success(.standard)
        case (.sum, .counter), (.sum, .upDownCounter), (.sum, .histogram), (.sum, .observableCounter),
            (.sum, .observableUpDownCounter):
            return .success(.sum)
        case (.lastValue, .gauge), (.lastValue, .observableGauge): return .success(.lastValue)
        case (.explicitHistogram(let boundaries), _) where !kind.isObservable:
            if let boundaries, !Self.areValid(boundaries) {
                return .failure(AggregationMismatch(cause: "boundaries must be finite and ascending"))
            }
            return .success(self)
        case (.exponentialHistogram(let size, let scale), _) where !kind.isObservable:
            guard (2...16_384).contains(size), (-10...20).contains(scale) else {
                return .failure(
                    AggregationMismatch(
                        cause: "maxSize \(size) is outside 2…16384, or maxScale \(scale) outside -10…20"))
            }
            return .success(self)
        default: return .failure(AggregationMismatch(cause: "an instrument of the kind \(kind) cannot have it"))
        }
    }

    static func areValid(_ boundaries: [Double]) -> Bool {
        boundaries.allSatisfy(\.isFinite) && zip(boundaries, boundaries.dropFirst()).allSatisfy { $0 < $1 }
    }
}

struct AggregationMismatch: Error {
    let cause: String
}
