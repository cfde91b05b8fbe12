/// The sum of cells: of several windows, groups or stages. The same cells give the same sum in any order.
struct CellSum: Sendable {
    var sketch = Sketch()
    /// Latencies that came after their window was over.
    var late: UInt64 = 0
    /// These are parts of a later stage's latencies, not spans of their own.
    var isPart = false
    var exemplars = Exemplars()
    /// How many latencies are above each of these thresholds.
    let thresholds: [UInt64]
    private(set) var over: [UInt64]

    /// - Parameter thresholds: what to count slow latencies by, in nanoseconds; exactly, if the engine counts by the same.
    init(thresholds: [UInt64] = []) {
        self.thresholds = thresholds
        over = thresholds.map { _ in 0 }
    }

    var isEmpty: Bool { sketch.isEmpty }

    mutating func add(_ cell: PackedCell, withExemplars: Bool = true) {
        for number in thresholds.indices {
            over[number] = over[number].saturatingAdding(cell.countAbove(nanoseconds: thresholds[number]))
        }
        sketch.merge(cell)
        late = late.saturatingAdding(cell.late)
        isPart = isPart || cell.isPart
        if withExemplars { for trace in cell.exemplars { exemplars.note(trace) } }
    }

    mutating func add(_ other: CellSum) {
        for number in thresholds.indices {
            let added =
                other.thresholds.firstIndex(of: thresholds[number]).map { other.over[$0] }
                ?? other.sketch.countAbove(nanoseconds: thresholds[number])
            over[number] = over[number].saturatingAdding(added)
        }
        sketch.merge(other.sketch)
        late = late.saturatingAdding(other.late)
        isPart = isPart || other.isPart
        for trace in other.exemplars.traces { exemplars.note(trace) }
    }

    /// Empty again, with its memory.
    mutating func removeAll() {
        sketch.removeAll()
        late = 0
        isPart = false
        exemplars.removeAll()
        for number in over.indices { over[number] = 0 }
    }
}

extension Sketch {
    /// Reads the cell in place.
    mutating func merge(_ cell: PackedCell) {
        if cell.isExact {
            cell.forEachValue { insert(nanoseconds: $0) }
            return
        }
        let buckets = cell.buckets()
        begin(merging: cell.count, sum: buckets.sum, max: buckets.max, shift: buckets.shift, cell.isApproximate)
        addZeros(buckets.zeros)
        var at = buckets.tokens
        var position = buckets.first
        if buckets.shift == shift, shift == 0 {
            let last = BucketScale.position(nanoseconds: buckets.max)
            addTokens(&at, first: position, through: Swift.max(last, position), count: buckets.used)
        } else {
            for _ in 0..<buckets.used {
                let token = PackedCell.next(&at)
                position += token.gap
                add(token.count, at: BucketScale.coarser(position, from: buckets.shift, to: shift))
            }
        }
    }
}

extension PlaneWriter {
    mutating func append(_ key: UInt64, _ sum: CellSum) {
        let head = Head(
            key: key, count: sum.sketch.count, late: sum.late, isPart: sum.isPart, exemplars: sum.exemplars.traces)
        if let values = sum.sketch.exactValues {
            values.withUnsafeBufferPointer { append(head, values: $0) }
            return
        }
        sum.over.withUnsafeBufferPointer { over in
            let buckets = BucketHead(
                shift: sum.sketch.shift, isApproximate: sum.sketch.isApproximate, sum: sum.sketch.sum,
                max: sum.sketch.max, zeros: sum.sketch.zeroCount, counters: over)
            sum.sketch.withCounts { append(head, buckets, firstPosition: $0, counts: $1) }
        }
    }
}
