/// The buckets of one row's cells at one scale, and how they are coded.
///
/// What a row has in a bucket altogether says how much of it a cell probably has: its part of what is left for the cells
/// from here on. The total is written first, so that counts take little more than what is random about them:
///
///     total: buckets in use, and for each the distance from the one before (the first: near that of the row before)
///            and its count less one
///     cell:  in the order of the total's buckets, for each that has something left: the count, if less than 6 are
///            expected, else its distance from what is expected, rounded; nothing where it follows from what is left
///
/// A bucket's slot is OpenTelemetry's index + 1,915; slot 0 is for zeros. With each expected count goes a table of chances,
/// by half octaves from 2^-6 on. Counts are doubles, and whole numbers below 2^53 even when all are added, so that a script
/// reckons exactly the same.
struct RowBuckets: ~Copyable {
    typealias Model = RangeEncoder.Model

    private static let firstIndex = -1_915
    /// No bucket of a cell counts more: 62 columns of 4,100 such buckets are below 2^53.
    private static let most = 0x1p35
    private static let slotCount = BucketScale.positionCount + 1
    private static let contexts = 48
    static let models = contexts + 3

    private struct Bucket {
        var slot: Int32
        var count: Double
    }

    private let scale: Int
    /// Of all cells, one behind the other.
    private var buckets: [Bucket] = []
    /// Where each cell's buckets end.
    private var ends: [Int] = []
    /// What the cells from here on have in each slot, and altogether.
    private let total: UnsafeMutablePointer<Double>
    private var left = 0.0
    /// Slots of the row, ascending.
    private var used: [Int32] = []
    /// What the cell that is being coded has in each slot.
    private let own: UnsafeMutablePointer<Double>

    private var distance: Model
    private let gap: Model
    private let whole: Model
    private let part: RangeEncoder.Models

    init(scale: Int, _ coder: inout RangeEncoder) {
        self.scale = scale
        total = .allocate(capacity: Self.slotCount)
        total.initialize(repeating: 0, count: Self.slotCount)
        own = .allocate(capacity: Self.slotCount)
        own.initialize(repeating: 0, count: Self.slotCount)
        (distance, gap, whole) = (coder.model(), coder.model(), coder.model())
        part = coder.models(Self.contexts)
    }

    deinit {
        total.deallocate()
        own.deallocate()
    }

    // MARK: Collecting

    mutating func collect(_ cells: [HeatmapGrid.Cell?]) {
        buckets.removeAll(keepingCapacity: true)
        ends.removeAll(keepingCapacity: true)
        // Swift 6.3 cannot compile a store through the member itself under ThreadSanitizer.
        let total = total
        for slot in used { total[Int(slot)] = 0 }
        used.removeAll(keepingCapacity: true)
        left = 0
        for cell in cells {
            if let cell { append(cell.content) }
            ends.append(buckets.count)
        }
        var (low, high) = (Int32.max, Int32.min)
        for bucket in buckets {
            total[Int(bucket.slot)] += bucket.count
            left += bucket.count
            (low, high) = (min(low, bucket.slot), max(high, bucket.slot))
        }
        guard low <= high else { return }
        for slot in low...high where total[Int(slot)] > 0 { used.append(slot) }
    }

    private mutating func append(_ content: HeatmapGrid.Content) {
        let most: Int
        switch content {
        case .packed(let cell, _): most = cell.isExact ? Int(cell.count) : cell.buckets().used + 1
        case .sum(let sum): most = sum.sketch.exactValues?.count ?? sum.sketch.withCounts { $1.count + 1 }
        }
        let start = buckets.count
        buckets.append(contentsOf: repeatElement(Bucket(slot: 0, count: 0), count: most))
        let scale = scale
        let count = buckets.withUnsafeMutableBufferPointer { all in
            var writer = Writer(room: UnsafeMutableBufferPointer(rebasing: all[start...]), scale: scale)
            writer.write(content)
            return writer.count
        }
        buckets.removeLast(most - count)
    }

    /// Puts buckets, which come ascending, behind one another.
    private struct Writer {
        let room: UnsafeMutableBufferPointer<Bucket>
        let scale: Int
        /// From a position at the content's own scale to a slot.
        private var offset = 0
        private var coarser = 0
        var count = 0

        init(room: UnsafeMutableBufferPointer<Bucket>, scale: Int) { (self.room, self.scale) = (room, scale) }

        mutating func write(_ content: HeatmapGrid.Content) {
            switch content {
            case .packed(let cell, _):
                if cell.isExact {
                    begin(shift: 0)
                    cell.forEachValue { add(BucketScale.position(nanoseconds: $0), 1) }
                } else {
                    begin(shift: cell.buckets().shift)
                    cell.forEachBucket { add($0, $1) }
                }
            case .sum(let sum):
                if let values = sum.sketch.exactValues {
                    begin(shift: 0)
                    for value in values { add(BucketScale.position(nanoseconds: value), 1) }
                } else {
                    begin(shift: sum.sketch.shift)
                    if sum.sketch.zeroCount > 0 { add(0, sum.sketch.zeroCount) }
                    sum.sketch.withCounts { first, counts in
                        for (at, count) in counts.enumerated() where count > 0 { add(first + at, count) }
                    }
                }
            }
        }

        private mutating func begin(shift: Int) {
            offset = BucketScale.index(0, shift: shift)
            coarser = max(0, BucketScale.scale - shift - scale)
        }

        @inline(__always)
        private mutating func add(_ position: Int, _ added: UInt64) {
            let slot =
                position == 0
                ? 0 : Int32(truncatingIfNeeded: ((position &+ offset) &>> coarser) &- RowBuckets.firstIndex)
            if count > 0, room[count &- 1].slot == slot {
                room[count &- 1].count = min(room[count &- 1].count + Double(added), RowBuckets.most)
            } else {
                room[count] = Bucket(slot: slot, count: min(Double(added), RowBuckets.most))
                count &+= 1
            }
        }
    }

    // MARK: Coding

    mutating func encodeTotal(_ coder: inout RangeEncoder) {
        coder.number(UInt64(used.count), gap)
        var previous: Int?
        for slot in used.lazy.map(Int.init) {
            if let previous {
                coder.number(UInt64(slot - previous - 1), gap)
            } else {
                coder.near(slot, &distance)
            }
            previous = slot
            coder.number(UInt64(total[slot]) - 1, whole)
        }
    }

    /// - Parameter index: of OpenTelemetry.
    func totalAbove(index: Int) -> UInt64 {
        UInt64(used.reduce(0) { $0 + (Int($1) > index - Self.firstIndex ? total[Int($1)] : 0) })
    }

    /// Of a cell, and how many of it are above a bucket.
    ///
    /// - Parameter index: of OpenTelemetry.
    func count(cell number: Int, above index: Int) -> (all: UInt64, above: UInt64) {
        let limit = Int32(index - Self.firstIndex)
        var (all, above) = (0.0, 0.0)
        for place in places(number) {
            all += buckets[place].count
            if buckets[place].slot > limit { above += buckets[place].count }
        }
        return (UInt64(all), UInt64(above))
    }

    private func places(_ number: Int) -> Range<Int> { (number == 0 ? 0 : ends[number - 1])..<ends[number] }

    /// The cells in order; by that, what the total was is lost.
    mutating func encode(cell number: Int, count all: UInt64, _ coder: inout RangeEncoder) {
        let places = places(number)
        for place in places { own[Int(buckets[place].slot)] = buckets[place].count }
        var count = Double(all)
        var rest = left
        for slot in used.lazy.map(Int.init) {
            guard count > 0 else { break }
            let there = total[slot]
            guard there > 0 else { continue }
            var taken = there
            if count < rest {
                let expected = count * there / rest
                let context = Int(truncatingIfNeeded: expected.bitPattern >> 51) &- 2_046 &+ 12
                let model = part[min(max(context, 0), Self.contexts &- 1)]
                taken = own[slot]
                if expected < 6 {
                    coder.number(UInt64(taken), model)
                } else {
                    coder.signed(Int(taken) &- Int((expected + 0.5).rounded(.down)), model)
                }
            }
            rest -= there
            count -= taken
            total[slot] = max(0, there - taken)
            left -= taken
        }
        for place in places { own[Int(buckets[place].slot)] = 0 }
    }
}
