import OTLP

/// Keeps a few measurements of one series, with the spans that they were made in.
/// https://opentelemetry.io/docs/specs/otel/metrics/sdk/#exemplarreservoir
@usableFromInline
final class ExemplarReservoir: Sendable {
    /// How a measurement finds its place.
    enum Shape {
        /// Any of so many places, each measurement since the last push with the same chance.
        case fixedSize(Int)
        /// The place of its bucket, where the newest stays. For upper edges, one place more than there are edges.
        case aligned([Double])
    }

    private let shape: Shape
    private let state: Guarded<State>

    private struct State {
        var kept: [Exemplar?]
        /// Measurements offered since the last push.
        var offered: UInt64 = 0
        var random = IDGenerator()
    }

    init(_ shape: Shape) {
        self.shape = shape
        let places =
            switch shape {
            case .fixedSize(let size): size
            case .aligned(let bounds): bounds.count + 1
            }
        state = Guarded(State(kept: Array(repeating: nil, count: places)))
    }

    @usableFromInline
    func offer(_ value: MetricNumber, context: SpanContext?, filteredAttributes: [KeyValue]) {
        let now = Clock.now().unixNano
        state.withLock { state in
            let place: Int
            switch shape {
            case .aligned(let bounds):
                place = bounds.bucket(of: value.asDouble)
            case .fixedSize(let size):
                state.offered += 1
                let drawn = state.offered <= UInt64(size) ? state.offered - 1 : state.random.next() % state.offered
                guard drawn < UInt64(size) else { return }
                place = Int(drawn)
            }
            state.kept[place] = Exemplar(
                filteredAttributes: filteredAttributes, unixNano: now, value: value,
                traceIDHigh: context?.traceID.high ?? 0, traceIDLow: context?.traceID.low ?? 0,
                spanID: context?.spanID.rawValue ?? 0)
        }
    }

    /// What is kept; with `startsInterval`, later measurements are drawn for anew.
    func collect(startsInterval: Bool) -> [Exemplar] {
        state.withLock { state in
            if startsInterval { state.offered = 0 }
            return state.kept.compactMap(\.self)
        }
    }
}

extension [Double] {
    /// The first whose upper edge is not below the value; their number when there is none.
    func bucket(of value: Double) -> Int {
        withUnsafeBufferPointer { edges in
            var (low, high) = (0, edges.count)
            while low < high {
                let middle = (low + high) / 2
                if edges[middle] < value { low = middle + 1 } else { high = middle }
            }
            return low
        }
    }
}
