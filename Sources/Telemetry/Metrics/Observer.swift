import OTLP

struct Observation {
    enum Value {
        case number(MetricNumber)
        case distribution(ExponentialHistogramPoint)
    }

    let value: Value
    let attributes: [KeyValue]
}

/// Takes what a callback knows. Each set of attributes is to be observed once.
public struct Observer {
    var observations: [Observation] = []

    public mutating func observe(_ value: Int, _ attributes: [KeyValue] = []) {
        observations.append(Observation(value: .number(.int(Int64(value))), attributes: attributes))
    }

    public mutating func observe(_ value: UInt64, _ attributes: [KeyValue] = []) {
        observations.append(Observation(value: .number(MetricNumber(value)), attributes: attributes))
    }

    /// What is no number is left out.
    public mutating func observe(_ value: Double, _ attributes: [KeyValue] = []) {
        guard value.isFinite else { return }
        observations.append(Observation(value: .number(.double(value)), attributes: attributes))
    }
}

/// Takes whole distributions.
public struct DistributionObserver {
    var observations: [Observation] = []

    /// All counts, from the beginning of the distribution on; attributes and times of the point are not looked at.
    public mutating func observe(_ distribution: ExponentialHistogramPoint, _ attributes: [KeyValue] = []) {
        observations.append(Observation(value: .distribution(distribution), attributes: attributes))
    }
}

/// Ends a callback.
public struct ObserverRegistration: Sendable {
    let instrument: Instrument
    let number: Int

    /// It is not called again, except where a reader is at it right now.
    public func cancel() { instrument.removeCallback(number) }
}
