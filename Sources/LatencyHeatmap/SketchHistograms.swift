import Glibc

/// OpenTelemetry's exponential histogram of latencies in seconds, as its data model has it.
/// https://opentelemetry.io/docs/specs/otel/metrics/data-model/#exponentialhistogram
public struct ExponentialHistogram: Sendable, Equatable {
    /// Buckets grow by a factor of 2^(2^-scale).
    public var scale = BucketScale.scale
    public var count: UInt64 = 0
    /// In seconds.
    public var sum = 0.0
    /// Latencies that are zero, or too small for the sender to tell.
    public var zeroCount: UInt64 = 0
    /// Index of the first of `counts`; bucket i holds (base^i, base^(i+1)].
    public var offset = 0
    public var counts: [UInt64] = []
    /// In seconds; nil when it is not known.
    public var max: Double?

    public init() {}
}

/// Prometheus's native histogram of latencies in seconds. Its bucket i + 1 is OpenTelemetry's bucket i.
/// https://prometheus.io/docs/specs/native_histograms/
public struct NativeHistogram: Sendable, Equatable {
    public struct Span: Sendable, Equatable {
        /// From the end of the span before, or for the first span the index of its first bucket.
        public var offset: Int32
        public var length: UInt32

        public init(offset: Int32, length: UInt32) {
            self.offset = offset
            self.length = length
        }
    }

    /// From -4 to 8; the same as OpenTelemetry's scale.
    public var schema = BucketScale.scale
    public var count: UInt64 = 0
    /// In seconds.
    public var sum = 0.0
    public var zeroCount: UInt64 = 0
    public var spans: [Span] = []
    /// Of each bucket the difference to the one before; the first is the count itself.
    public var deltas: [Int64] = []

    public init() {}
}

extension Sketch {
    /// Most buckets that are taken of one histogram; senders keep 160.
    public static let maxImportedBuckets = 16_384

    /// Whole nanoseconds of a number of seconds, not below zero and not beyond 64 bits.
    static func nanoseconds(_ seconds: Double) -> UInt64 {
        let value = (seconds * 1e9).rounded()
        guard value > 0 else { return 0 }
        return value >= 0x1p64 ? .max : UInt64(value)
    }

    /// The same buckets; at a scale above 6, those of scale 6 that they lie in. Nil for figures that contradict one
    /// another.
    ///
    /// - Parameter unitNano: nanoseconds in the histogram's unit. Edges in another unit than seconds are not the sketch's
    ///   edges: then each bucket counts where its middle lies, and `isApproximate` says so.
    public init?(_ histogram: ExponentialHistogram, unitNano: Double = 1e9) {
        self.init()
        guard (-10...20).contains(histogram.scale), histogram.counts.count <= Self.maxImportedBuckets,
            abs(histogram.offset) <= 1 << 30
        else { return nil }
        let total = histogram.counts.reduce(histogram.zeroCount) { $0.saturatingAdding($1) }
        guard total == histogram.count else { return nil }
        guard total > 0 else { return }
        let isInSeconds = unitNano == 1e9
        let shift = Swift.max(0, BucketScale.scale - histogram.scale)
        let finer = Swift.max(0, histogram.scale - BucketScale.scale)
        func position(_ number: Int) -> Int {
            let index = histogram.offset + number
            if isInSeconds { return BucketScale.position(index: index >> finer, shift: shift) }
            let base = exp2(-Double(histogram.scale))
            let (lower, upper) = (exp2(Double(index) * base), exp2(Double(index + 1) * base))
            let middle = upper.isFinite ? 2 * lower * upper / (lower + upper) : 2 * lower
            let nanoseconds = Swift.max(1, Self.nanoseconds(middle * unitNano / 1e9))
            return BucketScale.coarser(BucketScale.position(nanoseconds: nanoseconds), shift: shift)
        }
        var largest = 0
        var middles = 0.0
        for (number, inBucket) in histogram.counts.enumerated() where inBucket > 0 {
            let position = position(number)
            largest = Swift.max(largest, position)
            middles += Double(inBucket) * Double(BucketScale.representative(position, shift: shift))
        }
        // What is said of the largest value counts if it lies in the last bucket.
        let upper = BucketScale.upperEdge(largest, shift: shift)
        let lower = largest > 0 ? BucketScale.upperEdge(largest - 1, shift: shift) : 0
        let said = histogram.max.map { Self.nanoseconds($0 * unitNano / 1e9) } ?? .max
        let max = largest == 0 ? 0 : said > lower && said <= upper ? said : upper
        let sum = histogram.sum > 0 ? Self.nanoseconds(histogram.sum * unitNano / 1e9) : Self.nanoseconds(middles / 1e9)
        begin(merging: total, sum: sum, max: max, shift: shift, !isInSeconds)
        addZeros(histogram.zeroCount)
        for (number, inBucket) in histogram.counts.enumerated() where inBucket > 0 {
            add(inBucket, at: position(number))
        }
    }

    /// Buckets of the sketch's own scale, also when the values themselves are kept.
    public var exponentialHistogram: ExponentialHistogram {
        var histogram = ExponentialHistogram()
        histogram.scale = scale
        histogram.count = count
        histogram.sum = Double(sum) / 1e9
        histogram.max = isEmpty ? nil : Double(max) / 1e9
        for bucket in buckets {
            if bucket.position == 0 {
                histogram.zeroCount = bucket.count
                continue
            }
            let index = BucketScale.index(bucket.position, shift: shift)
            if histogram.counts.isEmpty { histogram.offset = index }
            let gap = index - histogram.offset - histogram.counts.count
            histogram.counts.append(contentsOf: repeatElement(0, count: gap))
            histogram.counts.append(bucket.count)
        }
        return histogram
    }

    /// Nil for figures that contradict one another.
    public init?(_ native: NativeHistogram) {
        guard (-4...8).contains(native.schema) else { return nil }
        var histogram = ExponentialHistogram()
        histogram.scale = native.schema
        histogram.count = native.count
        histogram.sum = native.sum
        histogram.zeroCount = native.zeroCount
        var index = 0
        var delta = native.deltas.makeIterator()
        var inBucket: Int64 = 0
        for (number, span) in native.spans.enumerated() {
            index += Int(span.offset)
            guard number == 0 || span.offset >= 0, span.length <= UInt32(Self.maxImportedBuckets) else { return nil }
            for _ in 0..<span.length {
                guard let change = delta.next() else { return nil }
                let (next, overflow) = inBucket.addingReportingOverflow(change)
                guard !overflow, next >= 0 else { return nil }
                inBucket = next
                if histogram.counts.isEmpty { histogram.offset = index - 1 }
                let gap = index - 1 - histogram.offset - histogram.counts.count
                guard gap <= Self.maxImportedBuckets, histogram.counts.count + gap < Self.maxImportedBuckets else {
                    return nil
                }
                histogram.counts.append(contentsOf: repeatElement(0, count: gap))
                histogram.counts.append(UInt64(inBucket))
                index += 1
            }
        }
        guard delta.next() == nil else { return nil }
        self.init(histogram)
    }

    /// Nil when the sketch is coarser than Prometheus's coarsest schema, −4.
    public var nativeHistogram: NativeHistogram? {
        guard scale >= -4 else { return nil }
        var native = NativeHistogram()
        native.schema = scale
        native.count = count
        native.sum = Double(sum) / 1e9
        var next = 0
        var before: Int64 = 0
        for bucket in buckets {
            if bucket.position == 0 {
                native.zeroCount = bucket.count
                continue
            }
            let index = BucketScale.index(bucket.position, shift: shift) + 1
            if let last = native.spans.indices.last, index == next {
                native.spans[last].length += 1
            } else {
                native.spans.append(.init(offset: Int32(index - next), length: 1))
            }
            let inBucket = Int64(clamping: bucket.count)
            native.deltas.append(inBucket - before)
            before = inBucket
            next = index + 1
        }
        return native
    }
}
