import Foundation
import LatencyHeatmap
import TestSupport
import Testing

@Suite("Sketches of latencies")
struct SketchTests {
    // MARK: Against exact arithmetic

    /// OpenTelemetry's bucket i of scale 6 holds (2^(i/64), 2^((i+1)/64)] seconds. Python compares whole numbers:
    /// v ns ≤ 2^(k/64) s if and only if v^64 ≤ 2^k · 10^576. Beyond 2^46 ns, 19 hours, an edge may be off by one part in
    /// 2^52, which random values do not find.
    static let indexProgram = """
        import random, struct, sys
        from math import isqrt
        D = 10 ** 576
        def index(v):
            n = v ** 64
            k = n.bit_length() - D.bit_length() - 2
            while not (n <= D << k if k >= 0 else n << -k <= D):
                k += 1
            return k - 1
        def edge(k):
            v = D << k if k >= 0 else D >> -k
            for _ in range(6):
                v = isqrt(v)
            return v
        r = random.Random(6)
        values = [r.getrandbits(r.randint(1, 64)) or 1 for _ in range(20_000)]
        for k in range(-9, 35):
            power = 10 ** 9 << k if k >= 0 else 10 ** 9 >> -k
            values += [power - 1, power, power + 1]
        for k in range(-1_900, 1_470):
            if edge(k) < 2 ** 46:
                values += [max(edge(k), 1), edge(k) + 1]
        for v in (v for v in values if v < 2 ** 64):
            sys.stdout.buffer.write(struct.pack('<Qq', v, index(v)))
        """

    @Test("a latency is in the bucket that exact arithmetic names, at every edge and at 20,000 random places")
    func bucketEdges() throws {
        var numbers = Numbers(try Peers.python(Self.indexProgram).standardOutput)
        var compared = 0
        while !numbers.isAtEnd {
            let value = numbers.next()
            let index = Int(Int64(bitPattern: numbers.next()))
            var sketch = Sketch()
            sketch.insert(nanoseconds: value)
            let position = sketch.buckets[0].position
            guard position + BucketScale.firstIndex - 1 == index else {
                Issue.record("\(value) ns is in bucket \(position + BucketScale.firstIndex - 1), not \(index)")
                return
            }
            compared += 1
        }
        #expect(compared > 25_000)
    }

    @Test("zero and the largest number have buckets of their own at the ends of the scale")
    func ends() {
        var sketch = Sketch()
        sketch.insert(nanoseconds: 0)
        sketch.insert(nanoseconds: .max)
        // log2(2^64 / 1e9) · 64 = 2182.6: index 2182, and position = index + 1 − firstIndex.
        #expect(sketch.buckets.map(\.position) == [0, 2_182 + 1 + 1_914])
        #expect(sketch.buckets.allSatisfy { $0.position < BucketScale.positionCount })
    }

    static let quantiles = [0.001, 0.25, 0.5, 0.9, 0.95, 0.99, 0.999, 0.999999, 1]

    /// For each case n, the exact nearest-rank values of `quantiles`, and n values in arrival order.
    static let quantileProgram = """
        import random, struct, sys
        r = random.Random(95)
        MS = 1_000_000
        kinds = [
            lambda: int(r.lognormvariate(3, 1) * MS),
            lambda: r.randrange(1, 500 * MS),
            lambda: int(r.expovariate(1 / 40) * MS),
            lambda: int(r.paretovariate(0.6) * MS),
            lambda: r.choice([5 * MS, 5 * MS + 1, 900 * MS]),
            lambda: 10 ** r.randrange(2, 19) + r.randrange(100),
            lambda: 217 * MS,
        ]
        ranks = [1_000, 250_000, 500_000, 900_000, 950_000, 990_000, 999_000, 999_999, 1_000_000]
        for kind in kinds:
            for n in [1, 2, 3, 19, 20, 59, 63, 64, 65, 66, 100, 1_000, 9_999]:
                values = [kind() for _ in range(n)]
                order = sorted(values)
                exact = [order[max(1, -(-q * n // 1_000_000)) - 1] for q in ranks]
                sys.stdout.buffer.write(struct.pack(f'<{1 + len(ranks) + n}Q', n, *exact, *values))
        values = [int(r.lognormvariate(3, 1.2) * MS) for _ in range(100_000)]
        order = sorted(values)
        exact = [order[max(1, -(-q * 100_000 // 1_000_000)) - 1] for q in ranks]
        sys.stdout.buffer.write(struct.pack(f'<{1 + len(ranks) + 100_000}Q', 100_000, *exact, *values))
        """

    @Test("quantiles are nearest rank: exact up to 64 values, and within 0.54 % above")
    func quantilesAgainstExactValues() throws {
        var numbers = Numbers(try Peers.python(Self.quantileProgram).standardOutput)
        var cases = 0
        var worst = 0.0
        while !numbers.isAtEnd {
            let n = Int(numbers.next())
            let exact = numbers.next(Self.quantiles.count)
            let values = numbers.next(n)
            var sketch = Sketch()
            for value in values { sketch.insert(nanoseconds: value) }
            #expect(sketch.count == UInt64(n))
            #expect(sketch.max == exact.last)
            #expect(sketch.isExact == (n <= 64))
            for (q, wanted) in zip(Self.quantiles, exact) {
                let found = try #require(sketch.quantile(q))
                if n <= 64 {
                    #expect(found == wanted, "q \(q) of \(n)")
                } else {
                    // Half a nanosecond is for rounding.
                    let off = max(0, abs(Double(found) - Double(wanted)) - 0.5) / Double(wanted)
                    worst = max(worst, off)
                    #expect(off <= 0.005_416, "q \(q) of \(n): \(found), not \(wanted)")
                }
            }
            cases += 1
        }
        #expect(cases == 7 * 13 + 1)
        // Not better than the theory either, or the comparison would be with itself.
        #expect(worst > 0.004)
    }

    @Test(
        "the rank is ⌈q·n⌉ also where q·n is a whole number or next to one",
        arguments: [
            // n, q in percent, rank: hand-worked.
            (20, 95.0, 19), (21, 95.0, 20), (40, 95.0, 38), (60, 95.0, 57), (59, 95.0, 57), (10, 50.0, 5),
            (11, 50.0, 6),
            (1, 1.0, 1), (64, 99.9, 64), (50, 2.0, 1), (50, 2.0001, 2), (64, 100.0, 64),
        ])
    func rank(n: Int, percent: Double, rank: UInt64) {
        var sketch = Sketch()
        for value in (1...n).shuffled() { sketch.insert(nanoseconds: UInt64(value) * 1_000) }
        #expect(sketch.quantile(percent / 100) == rank * 1_000)
    }

    @Test("a quantile outside 0 to 1 is the nearest end, and none of no values")
    func oddQuantiles() {
        #expect(Sketch().quantile(0.5) == nil)
        var sketch = Sketch()
        for value: UInt64 in 1...3 { sketch.insert(nanoseconds: value) }
        #expect(sketch.quantile(-1) == 1)
        #expect(sketch.quantile(0) == 1)
        #expect(sketch.quantile(2) == 3)
        #expect(sketch.quantile(.infinity) == 3)
        #expect(sketch.quantile(.nan) == nil)
    }

    @Test("values above a threshold are counted exactly up to 64, and by bucket above")
    func countAbove() {
        var sketch = Sketch()
        for value: UInt64 in 1...64 { sketch.insert(nanoseconds: value * millisecond) }
        #expect(sketch.countAbove(nanoseconds: 50 * millisecond) == 14)
        sketch.insert(nanoseconds: 900 * millisecond)
        #expect(sketch.countAbove(nanoseconds: 200 * millisecond) == 1)
        #expect(sketch.countAbove(nanoseconds: 0) == 65)
        #expect(sketch.countAbove(nanoseconds: .max) == 0)
    }

    // MARK: Counts

    @Test("a count is the same as so many values", arguments: [1, 2, 63, 64, 65, 1_000])
    func insertWithCount(count: UInt64) {
        var once = Sketch()
        once.insert(nanoseconds: 7, count: 3)
        once.insert(nanoseconds: 217_000_000, count: count)
        once.insert(nanoseconds: 99, count: 0)
        var each = Sketch()
        for _ in 0..<count { each.insert(nanoseconds: 217_000_000) }
        for _ in 0..<3 { each.insert(nanoseconds: 7) }
        #expect(once.count == count + 3)
        #expect(once.encoded() == each.encoded())
        #expect(once == each)
        #expect(once.sum == 217_000_000 * count + 21)
    }

    @Test("counts and sums stay at the largest number, in bytes too")
    func saturation() throws {
        var sketch = Sketch()
        sketch.insert(nanoseconds: 5_000, count: .max)
        sketch.insert(nanoseconds: 900_000, count: .max)
        sketch.insert(nanoseconds: .max)
        #expect(sketch.count == .max)
        #expect(sketch.sum == .max)
        #expect(sketch.max == .max)
        let quantile = try #require(sketch.quantile(0.5))
        #expect((4_970...5_030).contains(quantile))
        let read = try #require(Sketch(encoded: sketch.encoded()))
        #expect(read == sketch)
        var twice = sketch
        twice.merge(sketch)
        #expect(twice.count == .max)
        #expect(twice.sum == .max)
        #expect(Sketch(encoded: twice.encoded()) == twice)
    }

    // MARK: Merging

    @Test(
        "the same values give the same bytes, in whatever order and parts they come",
        arguments: [
            2, 60, 64, 65, 66, 130, 2_000,
        ])
    func merging(n: Int) throws {
        var generator = SeededGenerator(UInt64(n))
        let values = (0..<n).map { _ in
            UInt64.random(in: 0...(1 << UInt64.random(in: 1...40, using: &generator)), using: &generator)
        }
        var whole = Sketch()
        for value in values { whole.insert(nanoseconds: value) }
        for _ in 0..<40 {
            var parts = (0..<Int.random(in: 1...70, using: &generator)).map { _ in Sketch() }
            for value in values.shuffled(using: &generator) {
                parts[Int.random(in: 0..<parts.count, using: &generator)].insert(nanoseconds: value)
            }
            // Pairs at random until one is left: any order and any grouping; some go by way of their bytes.
            while parts.count > 1 {
                let other = parts.remove(at: Int.random(in: 0..<parts.count, using: &generator))
                let at = Int.random(in: 0..<parts.count, using: &generator)
                parts[at].merge(
                    Bool.random(using: &generator) ? other : try #require(Sketch(encoded: other.encoded())))
            }
            #expect(parts[0].encoded() == whole.encoded())
            #expect(parts[0] == whole)
        }
    }

    @Test("merging with nothing changes nothing")
    func mergingNothing() {
        var sketch = Sketch()
        sketch.insert(nanoseconds: 5, count: 100)
        let bytes = sketch.encoded()
        sketch.merge(Sketch())
        #expect(sketch.encoded() == bytes)
        var empty = Sketch()
        empty.merge(sketch)
        #expect(empty.encoded() == bytes)
    }

    // MARK: Bytes

    /// Hand-worked: version 1, count 3, sum 306, max 300, then the differences 1, 4, 295.
    @Test("a sketch of three values has these bytes")
    func bytesOfThreeValues() {
        var sketch = Sketch()
        for value: UInt64 in [300, 1, 5] { sketch.insert(nanoseconds: value) }
        #expect(sketch.encoded() == [1, 3, 0xB2, 0x02, 0xAC, 0x02, 1, 4, 0xA7, 0x02])
        #expect(Sketch().encoded() == [1, 0])
    }

    /// 1 s is the upper edge of index −1: position −1 + 1 + 1914 = 1914 = 0x77A.
    @Test("a sketch of buckets has these bytes")
    func bytesOfBuckets() {
        var sketch = Sketch()
        sketch.insert(nanoseconds: 1, count: 60)
        sketch.insert(nanoseconds: 1_000_000_000, count: 70)
        // The sum is 70,000,000,060; the varints are Python's.
        #expect(
            sketch.encoded() == [
                1, 0x82, 0x01, 0xBC, 0xF8, 0xCC, 0xE2, 0x84, 0x02, 0x80, 0x94, 0xEB, 0xDC, 0x03, 2, 1, 60, 0xF9, 0x0E,
                70,
            ])
    }

    static var samples: [Sketch] {
        var generator = SeededGenerator(11)
        return [0, 1, 5, 64, 65, 400].map { n in
            var sketch = Sketch()
            for _ in 0..<n { sketch.insert(nanoseconds: UInt64.random(in: 0...90_000_000, using: &generator)) }
            return sketch
        }
    }

    @Test("bytes give the sketch back")
    func roundTrip() throws {
        for sketch in Self.samples {
            let read = try #require(Sketch(encoded: sketch.encoded()))
            #expect(read == sketch)
            #expect(read.encoded() == sketch.encoded())
            #expect(Self.quantiles.map(read.quantile) == Self.quantiles.map(sketch.quantile))
        }
    }

    @Test("bytes that have been cut, or that go on, are no sketch")
    func truncations() {
        for sketch in Self.samples {
            let bytes = sketch.encoded()
            for length in 0..<bytes.count { #expect(Sketch(encoded: Array(bytes[..<length])) == nil) }
            #expect(Sketch(encoded: bytes + [0]) == nil)
        }
    }

    @Test("hostile bytes are refused or are exactly what such a sketch writes")
    func mutations() throws {
        var generator = SeededGenerator(20_000)
        let messages = Self.samples.map { $0.encoded() }
        var accepted = 0
        for round in 0..<20_000 {
            let bytes = mutated(messages[round % messages.count], &generator)
            guard let sketch = Sketch(encoded: bytes) else { continue }
            accepted += 1
            guard sketch.encoded() == bytes else {
                Issue.record("\(bytes) is read, but written as \(sketch.encoded())")
                return
            }
            let counted = sketch.buckets.reduce(UInt64(0)) { $0.addingReportingOverflow($1.count).partialValue }
            #expect(counted == sketch.count)
            #expect((sketch.quantile(0.95) ?? 0) <= sketch.max)
            var sum = sketch
            sum.merge(sketch)
            for message in messages { if let other = Sketch(encoded: message) { sum.merge(other) } }
            #expect(sum.count >= sketch.count)
        }
        #expect(accepted > 50)
    }

    @Test(
        "figures that contradict one another are refused",
        arguments: [
            [UInt8](), [0], [2, 0], [1], [1, 0x80],
            // Count 1: wrong sum, wrong maximum, value missing, an overlong varint.
            [1, 1, 6, 5, 5], [1, 1, 5, 6, 5], [1, 1, 5, 5], [1, 1, 5, 5, 0x85, 0x00],
            // Two values whose sum of differences overflows.
            [1, 2, 0, 0, 1, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1],
            // Count 65: no bucket, an empty one, the same one twice, too far, more than the count, less than the count.
            [1, 65, 0, 0, 0], [1, 65, 65, 1, 1, 1, 0], [1, 65, 65, 1, 2, 1, 60, 0, 5],
            [1, 65, 65, 1, 1, 0x84, 0x20, 65],
            [1, 65, 65, 1, 1, 1, 66], [1, 65, 65, 1, 1, 1, 64],
            // A maximum that is not in the last bucket, and a position beyond 64 bits.
            [1, 65, 65, 2, 1, 1, 65], [1, 65, 65, 1, 1, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1, 65],
        ])
    func contradictions(bytes: [UInt8]) {
        #expect(Sketch(encoded: bytes) == nil)
    }

    @Test("the bytes of a bucket sketch that contradicts nothing are read")
    func acceptedByHand() throws {
        // 65 values of 1 ns: position 1.
        let sketch = try #require(Sketch(encoded: [1, 65, 65, 1, 1, 1, 65]))
        #expect(sketch.count == 65)
        #expect(sketch.quantile(0.95) == 1)
    }
}
