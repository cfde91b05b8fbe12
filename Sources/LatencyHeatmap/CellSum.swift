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
        _ = add(cell, rank: 1)
        if withExemplars { for trace in cell.exemplars { exemplars.note(trace) } }
    }

    /// - Returns: the added cell's own value at a rank from 1 to its count, which comes cheap while it is read.
    mutating func add(_ cell: PackedCell, rank: UInt64) -> UInt64 {
        for number in thresholds.indices {
            over[number] = over[number].saturatingAdding(cell.countAbove(nanoseconds: thresholds[number]))
        }
        late = late.saturatingAdding(cell.late)
        isPart = isPart || cell.isPart
        return sketch.merge(cell, rank: rank)
    }

    mutating func add(_ other: CellSum, withExemplars: Bool = true) {
        for number in thresholds.indices {
            let added =
                other.thresholds.firstIndex(of: thresholds[number]).map { other.over[$0] }
                ?? other.sketch.countAbove(nanoseconds: thresholds[number])
            over[number] = over[number].saturatingAdding(added)
        }
        sketch.merge(other.sketch)
        late = late.saturatingAdding(other.late)
        isPart = isPart || other.isPart
        if withExemplars { for trace in other.exemplars.traces { exemplars.note(trace) } }
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
    mutating func merge(_ cell: PackedCell) { _ = merge(cell, rank: 1) }

    /// The same, and the cell's own value at a rank from 1 to its count.
    mutating func merge(_ cell: PackedCell, rank: UInt64) -> UInt64 {
        if cell.isExact {
            var (left, found): (UInt64, UInt64) = (rank, 0)
            cell.forEachValue {
                insert(nanoseconds: $0)
                left &-= 1
                if left == 0 { found = $0 }
            }
            return found
        }
        let buckets = cell.buckets()
        begin(merging: cell.count, sum: buckets.sum, max: buckets.max, shift: buckets.shift, cell.isApproximate)
        addZeros(buckets.zeros)
        if shift == 0 { return addTokens(buckets, rank: rank) }
        var at = buckets.tokens
        var position = buckets.first
        for _ in 0..<buckets.used {
            let token = PackedCell.next(&at)
            position += token.gap
            add(token.count, at: BucketScale.coarser(position, from: buckets.shift, to: shift))
        }
        return cell.value(atRank: rank)
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
