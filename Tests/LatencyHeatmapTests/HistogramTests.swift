import Foundation
import TestSupport
import Testing

@testable import LatencyHeatmap

@Suite("Histograms of other systems")
struct HistogramTests {
    struct PeerHistogram: Decodable {
        let scale: Int
        let offset: Int
        let counts: [UInt64]
        let zeros: UInt64
        let sum: Double
        let max: Double
        let values: [UInt64]
    }

    /// Latencies in nanoseconds, and the exponential histogram that OpenTelemetry's SDK makes of them in seconds: by its own
    /// mapping at a fixed scale, and by its own aggregation, which chooses the scale.
    static let program = """
        import json, random
        from opentelemetry.sdk.metrics._internal.exponential_histogram.mapping.exponent_mapping import ExponentMapping
        from opentelemetry.sdk.metrics._internal.exponential_histogram.mapping.logarithm_mapping import LogarithmMapping
        r = random.Random(64)
        def histogram(values, scale):
            if not any(values): values = values + [5_000_003]
            mapping = LogarithmMapping(scale) if scale > 0 else ExponentMapping(scale)
            counts, zeros = {}, 0
            for v in values:
                if v == 0: zeros += 1
                else:
                    index = mapping.map_to_index(v / 1e9)
                    counts[index] = counts.get(index, 0) + 1
            first, last = min(counts), max(counts)
            return dict(scale=scale, offset=first, counts=[counts.get(i, 0) for i in range(first, last + 1)], zeros=zeros,
                        sum=sum(values) / 1e9, max=max(values) / 1e9, values=values)
        kinds = [lambda: int(r.lognormvariate(3, 1) * 1e6) * 1000 + 3, lambda: r.randrange(1_000, 10 ** 9) * 7 + 1,
                 lambda: r.choice([0, 5_000_003, 900_000_001]) if r.random() < 0.9 else 5_000_003]
        print(json.dumps([histogram([kind() for _ in range(n)], scale)
                          for kind in kinds for n in [1, 50, 500] for scale in [-4, -1, 0, 1, 3, 5, 6, 7, 8, 9]
                          ][:88]))
        """

    static let peers = Result {
        try JSONDecoder().decode([PeerHistogram].self, from: Peers.python(program).standardOutput)
    }

    private func histogram(_ peer: PeerHistogram) -> ExponentialHistogram {
        var histogram = ExponentialHistogram()
        histogram.scale = peer.scale
        histogram.offset = peer.offset
        histogram.counts = peer.counts
        histogram.zeroCount = peer.zeros
        histogram.count = peer.counts.reduce(peer.zeros, +)
        histogram.sum = peer.sum
        histogram.max = peer.max
        return histogram
    }

    @Test(
        "histograms of OpenTelemetry's SDK come in with the counts that the values themselves would give, and go out again"
    )
    func openTelemetry() throws {
        let peers = try Self.peers.get()
        #expect(peers.count > 80)
        for peer in peers {
            let histogram = histogram(peer)
            let sketch = try #require(Sketch(histogram))
            var own = Sketch()
            for value in peer.values { own.insert(nanoseconds: value) }
            own.coarsen(to: Swift.max(0, 6 - peer.scale))
            #expect(sketch.buckets.map(\.position) == own.buckets.map(\.position), "scale \(peer.scale)")
            #expect(sketch.buckets.map(\.count) == own.buckets.map(\.count))
            #expect(sketch.count == own.count)
            #expect(sketch.max == own.max)
            #expect(!sketch.isExact)
            if peer.scale <= 6 {
                #expect(sketch.exponentialHistogram.scale == peer.scale)
                #expect(sketch.exponentialHistogram.offset == histogram.offset)
                #expect(sketch.exponentialHistogram.counts == histogram.counts)
                #expect(sketch.exponentialHistogram.zeroCount == histogram.zeroCount)
            }
            #expect(Sketch(encoded: sketch.encoded()) == sketch)
        }
    }

    @Test("merging sketches of any scales gives the same bytes in any order")
    func mergingScales() throws {
        var generator = SeededGenerator(77)
        let sketches = try Self.peers.get().enumerated().map { number, peer -> Sketch in
            var own = Sketch()
            if number % 3 == 0 { for value in peer.values { own.insert(nanoseconds: value) } }
            return number % 3 == 0 ? own : try #require(Sketch(histogram(peer), unitNano: number % 5 == 0 ? 1e6 : 1e9))
        }
        for size in [2, 3, 10, 40] {
            let chosen = Array(sketches.shuffled(using: &generator).prefix(size))
            var results: Set<[UInt8]> = []
            for _ in 0..<30 {
                var parts = chosen.shuffled(using: &generator)
                while parts.count > 1 {
                    let other = parts.remove(at: Int.random(in: 0..<parts.count, using: &generator))
                    parts[Int.random(in: 0..<parts.count, using: &generator)].merge(other)
                }
                results.insert(parts[0].encoded())
            }
            #expect(results.count == 1)
        }
    }

    /// The example of Prometheus's text: spans are gaps, deltas are differences; bucket i holds (b^(i−1), b^i].
    /// https://prometheus.io/docs/specs/native_histograms/#buckets
    @Test("Prometheus's native histograms have the index one higher, gaps as spans, and differences as counts")
    func prometheus() throws {
        var sketch = Sketch()
        // 1 s is the upper edge of OpenTelemetry's index −1, Prometheus's 0.
        for (nanoseconds, count) in [(UInt64(0), 4), (1_000_000_000, 70), (1_000_000_001, 20), (2_000_000_000, 5)] {
            sketch.insert(nanoseconds: nanoseconds, count: UInt64(count))
        }
        let native = try #require(sketch.nativeHistogram)
        #expect(native.schema == 6)
        #expect(native.zeroCount == 4)
        #expect(native.count == 99)
        // Bucket 0, bucket 1, then 62 empty ones, then bucket 64, which ends at 2^(64/64) = 2 s.
        #expect(native.spans == [.init(offset: 0, length: 2), .init(offset: 62, length: 1)])
        #expect(native.deltas == [70, -50, -15])
        let read = try #require(Sketch(native))
        #expect(read.buckets.elementsEqual(sketch.buckets, by: ==))
        for peer in try Self.peers.get() where (-4...8).contains(peer.scale) {
            let sketch = try #require(Sketch(histogram(peer)))
            let native = try #require(sketch.nativeHistogram)
            let again = try #require(Sketch(native))
            #expect(again.buckets.elementsEqual(sketch.buckets, by: ==))
            #expect(again.shift == sketch.shift)
        }
    }

    @Test("figures that contradict one another, and more than can be held, are refused")
    func contradictions() {
        func refused(_ change: (inout ExponentialHistogram) -> Void) -> Bool {
            var histogram = ExponentialHistogram()
            histogram.count = 3
            histogram.counts = [1, 2]
            change(&histogram)
            return Sketch(histogram) == nil
        }
        #expect(!refused { _ in })
        #expect(refused { $0.count = 4 })
        #expect(refused { $0.zeroCount = 1 })
        #expect(refused { $0.scale = 21 })
        #expect(refused { $0.scale = -11 })
        #expect(!refused { $0.scale = 20 })
        #expect(!refused { $0.scale = -10 })
        #expect(!refused { $0.offset = 1 << 30 })
        #expect(!refused { $0.offset = -(1 << 30) })
        #expect(refused { $0.offset = .max })
        #expect(refused { $0.counts += Array(repeating: 0, count: Sketch.maxImportedBuckets) })
        var native = NativeHistogram()
        native.count = 1
        native.spans = [.init(offset: 0, length: 2)]
        native.deltas = [1]
        #expect(Sketch(native) == nil)
        native.deltas = [1, -2]
        #expect(Sketch(native) == nil)
        native.deltas = [1, -1]
        #expect(Sketch(native)?.count == 1)
        native.spans = [.init(offset: .min, length: 1), .init(offset: .max, length: 1)]
        #expect(Sketch(native) == nil)
    }

    // MARK: Intervals

    /// Ranks by whole-number arithmetic: the largest l with P(B < l) ≤ 2.5 %, the smallest u with P(B ≥ u) ≤ 2.5 %.
    static let intervalProgram = """
        import json
        from fractions import Fraction
        from math import comb
        def ranks(n, q, confidence):
            q, tail = Fraction(q), (1 - Fraction(confidence)) / 2
            p = [comb(n, k) * q ** k * (1 - q) ** (n - k) for k in range(n + 1)]
            lower, total = 0, Fraction(0)
            while total + p[lower] <= tail:
                total += p[lower]
                lower += 1
            upper, total = n + 1, Fraction(0)
            while total + p[upper - 1] <= tail:
                total += p[upper - 1]
                upper -= 1
            return [n, str(q), str(confidence), lower, upper] if lower >= 1 and upper <= n else [n, str(q), str(confidence), 0, 0]
        cases = [ranks(n, q, c) for n in [1, 5, 20, 58, 59, 71, 72, 73, 100, 333, 1000]
                 for q in ['1/2', '9/10', '19/20', '99/100'] for c in ['19/20', '99/100']]
        print(json.dumps([[c[0], eval(c[1]), eval(c[2]), c[3], c[4]] for c in cases]))
        """

    @Test("intervals of quantiles are those of the binomial distribution, worked in whole numbers")
    func intervals() throws {
        let cases = try JSONDecoder().decode([[Double]].self, from: Peers.python(Self.intervalProgram).standardOutput)
        #expect(cases.count == 88)
        for one in cases {
            let found = QuantileInterval.ranks(count: UInt64(one[0]), quantile: one[1], confidence: one[2])
            if one[3] == 0 {
                #expect(found == nil, "\(one)")
            } else {
                #expect(
                    found?.lower == UInt64(one[3]) && found?.upper == UInt64(one[4]),
                    "\(one) \(String(describing: found))")
            }
        }
        // By the normal distribution: 1,000,000 · 0.95 ∓ 1.959964 · √47,500 = 950,000 ∓ 427.17.
        let large = try #require(QuantileInterval.ranks(count: 1_000_000, quantile: 0.95))
        #expect(large.lower == 949_572 && large.upper == 950_429)
        for (q, confidence) in [(0, 0.95), (1, 0.95), (.nan, 0.95), (0.5, 0), (0.5, 1), (0.5, .nan)] {
            #expect(QuantileInterval.ranks(count: 1_000, quantile: q, confidence: confidence) == nil)
        }
        #expect(QuantileInterval.ranks(count: .max, quantile: 0.5) != nil)
    }

    @Test("the interval of a cell covers the true quantile as often as it says")
    func coverage() throws {
        var generator = SeededGenerator(2_026)
        var covered = 0
        for _ in 0..<1_000 {
            var sketch = Sketch()
            for _ in 0..<200 { sketch.insert(nanoseconds: UInt64.random(in: 0..<1_000_000_000, using: &generator)) }
            let interval = try #require(sketch.quantileInterval(0.95))
            #expect(interval.lower <= interval.upper)
            // The bucket's middle stands for it, half a percent off at most.
            if interval.lower <= 955_000_000, interval.upper >= 945_000_000 { covered += 1 }
        }
        #expect(covered >= 950)
    }

    // MARK: Thresholds

    @Test("latencies above the configured thresholds are counted exactly, whatever the buckets")
    func thresholds() throws {
        let engine = try makeEngine()
        let (stage, group) = (engine.stage("deliver"), engine.group("a"))
        let edge = 100 * millisecond
        var above: [UInt64] = [0, 0, 0]
        var generator = SeededGenerator(5)
        for number in 0..<1_000 {
            // All within a nanosecond of a threshold, so in its bucket.
            let threshold = ([50, 100, 200] as [UInt64]).randomElement(using: &generator)! * millisecond
            let latency = threshold - 1 + UInt64.random(in: 0...2, using: &generator)
            for (at, limit) in ([50, 100, 200] as [UInt64]).enumerated() where latency > limit * millisecond {
                above[at] += 1
            }
            engine.record(
                stage: stage, group: group, endUnixNano: (monday + UInt64(number % 3) * 60) * second,
                latencyNano: latency)
        }
        var sum = CellSum(thresholds: [50 * millisecond, edge, 200 * millisecond])
        for plane in engine.read().windows {
            var cells = plane.cells
            while let cell = cells.next() {
                #expect(!cell.isExact)
                sum.add(cell)
            }
        }
        #expect(sum.over == above)
    }
}
