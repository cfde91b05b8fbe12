import OTLP
import Synchronization

/// The upper edges of a histogram's buckets: finite, positive, ascending, in seconds. The bucket above the last edge
/// (`+Inf`) is implied. A value that equals an edge belongs below it (`le` means less than or equal).
public struct HistogramBounds: Sendable, Equatable, ExpressibleByArrayLiteral {
    public let seconds: [Double]
    let nanoseconds: [UInt64]

    /// Traps when an edge is not finite, not above a nanosecond, or not above the edge before it.
    public init(seconds: [Double]) {
        precondition(!seconds.isEmpty && seconds.count <= 255, "a histogram has 1 to 255 edges, not \(seconds.count)")
        var nanoseconds: [UInt64] = []
        for edge in seconds {
            precondition(edge.isFinite && edge >= 1e-9 && edge <= 1e9, "edge \(edge) is outside 1 ns to 1e9 s")
            let rounded = UInt64((edge * 1e9).rounded())
            precondition(nanoseconds.last ?? 0 < rounded, "edge \(edge) is not above the one before it")
            nanoseconds.append(rounded)
        }
        self.seconds = seconds
        self.nanoseconds = nanoseconds
    }

    public init(arrayLiteral elements: Double...) {
        self.init(seconds: elements)
    }

    /// From 100 µs to 10 s, with edges exactly on the heatmap's default levels (50, 100 and 200 ms), so that
    /// "share of deliveries within the objective" needs no interpolation.
    public static let latency = HistogramBounds(seconds: [
        0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5, 5,
        10,
    ])
}

/// A distribution of durations: one series of a histogram family.
///
/// Recording is two or three relaxed atomic additions: no lock, no allocation. The count that readers see is the sum
/// of the buckets read in the same pass, so buckets and count always agree; the sum of the values may be ahead of
/// them by what was being recorded during the read.
public final class Histogram: @unchecked Sendable, MetricInstrument {
    // @unchecked: the three regions below are allocated in init, freed in deinit and never moved; `edges` and `start`
    // are written only in init, `buckets` holds atomics.
    private let edges: UnsafeMutablePointer<UInt64>
    private let edgeCount: Int
    /// For each bit length of a value, the first bucket it can be in: recording then scans two or three edges.
    private let start: UnsafeMutablePointer<UInt8>
    private let buckets: UnsafeMutablePointer<Atomic<UInt64>>
    // 128 bits: a second of a thousand busy connections can add hours of latency, and 64 bits hold 584 years.
    private let sumLow = Atomic<UInt64>(0)
    private let sumHigh = Atomic<UInt64>(0)
    private let bounds: HistogramBounds
    private let startUnixNano = Clock.now().unixNano
    /// Made at the first measurement with a span.
    private let reservoir = AtomicLazyReference<ExemplarReservoir>()

    init(bounds: HistogramBounds) {
        self.bounds = bounds
        edgeCount = bounds.nanoseconds.count
        edges = .allocate(capacity: edgeCount)
        edges.initialize(from: bounds.nanoseconds, count: edgeCount)
        start = .allocate(capacity: 65)
        for bits in 0...64 {
            let smallest: UInt64 = bits == 0 ? 0 : 1 << (UInt64(bits) - 1)
            let first = bounds.nanoseconds.firstIndex { $0 >= smallest } ?? edgeCount
            (start + bits).initialize(to: UInt8(first))
        }
        buckets = .allocate(capacity: edgeCount + 1)
        for index in 0...edgeCount { (buckets + index).initialize(to: Atomic(0)) }
    }

    deinit {
        edges.deallocate()
        start.deallocate()
        buckets.deinitialize(count: edgeCount + 1)
        buckets.deallocate()
    }

    private func bucket(of nanoseconds: UInt64) -> Int {
        var index = Int(start[64 - nanoseconds.leadingZeroBitCount])
        while index < edgeCount && edges[index] < nanoseconds { index += 1 }
        return index
    }

    private func addToSum(high: UInt64, low: UInt64) {
        let (old, new) = sumLow.wrappingAdd(low, ordering: .relaxed)
        let carry: UInt64 = new < old ? 1 : 0
        if high &+ carry != 0 { sumHigh.wrappingAdd(high &+ carry, ordering: .relaxed) }
    }

    /// Records `count` values of `nanoseconds` each.
    public func record(nanoseconds: UInt64, count: UInt64 = 1) {
        buckets[bucket(of: nanoseconds)].wrappingAdd(count, ordering: .relaxed)
        let (high, low) = nanoseconds.multipliedFullWidth(by: count)
        addToSum(high: high, low: low)
    }

    /// Records one value and keeps it as the example of its bucket, when its span is sampled.
    public func record(nanoseconds: UInt64, context: SpanContext) {
        record(nanoseconds: nanoseconds)
        guard context.isSampled else { return }
        let reservoir = self.reservoir.load() ?? self.reservoir.storeIfNil(ExemplarReservoir(.aligned(bounds.seconds)))
        reservoir.offer(.double(Double(nanoseconds) / 1e9), context: context, filteredAttributes: [])
    }

    /// Records every value, with at most one atomic addition per bucket and one for the sum.
    public func recordBatch(nanoseconds values: UnsafeBufferPointer<UInt64>) {
        guard !values.isEmpty else { return }
        withUnsafeTemporaryAllocation(of: UInt64.self, capacity: edgeCount + 1) { tally in
            tally.initialize(repeating: 0)
            var low: UInt64 = 0
            var high: UInt64 = 0
            for value in values {
                tally[bucket(of: value)] &+= 1
                let (sum, carried) = low.addingReportingOverflow(value)
                low = sum
                if carried { high &+= 1 }
            }
            for index in 0...edgeCount where tally[index] != 0 {
                buckets[index].wrappingAdd(tally[index], ordering: .relaxed)
            }
            addToSum(high: high, low: low)
        }
    }

    /// Counts per bucket (not cumulative), the last one being above every edge, and the sum of the values.
    public struct Snapshot: Sendable, Equatable {
        public var bucketCounts: [UInt64]
        public var sumNanoseconds: UInt128

        public init(bucketCounts: [UInt64], sumNanoseconds: UInt128) {
            self.bucketCounts = bucketCounts
            self.sumNanoseconds = sumNanoseconds
        }

        public var count: UInt64 { bucketCounts.reduce(0, &+) }
    }

    public func snapshot() -> Snapshot {
        let counts = (0...edgeCount).map { buckets[$0].load(ordering: .relaxed) }
        // A carry between the two loads would be off by 2^64 ns: read until the high word stands still.
        var high = sumHigh.load(ordering: .relaxed)
        while true {
            let low = sumLow.load(ordering: .acquiring)
            let again = sumHigh.load(ordering: .relaxed)
            if again == high {
                return Snapshot(bucketCounts: counts, sumNanoseconds: UInt128(high) << 64 | UInt128(low))
            }
            high = again
        }
    }

    func point(_ attributes: [KeyValue], _ pass: CollectionPass) -> FamilyPoint {
        .histogram(
            snapshot().point(
                attributes, bounds, startUnixNano: startUnixNano, pass,
                exemplars: reservoir.load()?.collect(startsInterval: pass.startsInterval) ?? []))
    }
}

extension Histogram.Snapshot {
    /// In seconds.
    func point(
        _ attributes: [KeyValue], _ bounds: HistogramBounds, startUnixNano: UInt64, _ pass: CollectionPass,
        exemplars: [Exemplar] = []
    ) -> HistogramPoint {
        HistogramPoint(
            attributes: attributes, startUnixNano: startUnixNano, unixNano: pass.unixNano,
            sum: Double(sumNanoseconds) / 1e9, bounds: bounds.seconds, bucketCounts: bucketCounts, exemplars: exemplars)
    }
}
