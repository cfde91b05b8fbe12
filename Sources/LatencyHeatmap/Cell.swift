/// What one window knows of one group in one stage.
struct CellContent: Sendable {
    var sketch = Sketch()
    /// The sketch's bytes once the window is over; a late span opens it again.
    var sealed: [UInt8]?
    /// Latencies that came after the window was over.
    var late: UInt64 = 0
    /// These are parts of a later stage's latencies, not spans of their own.
    var isPart = false
    var exemplars = Exemplars()

    mutating func open() {
        guard let bytes = sealed else { return }
        sketch = Sketch(encoded: bytes) ?? Sketch()
        sealed = nil
    }

    mutating func seal() {
        guard sealed == nil else { return }
        sealed = sketch.encoded()
        sketch = Sketch()
    }

    mutating func note(_ trace: SlowTrace) { exemplars.note(trace) }

    var sum: CellSum {
        var sum = CellSum()
        sum.sketch = sketch
        sum.late = late
        sum.isPart = isPart
        sum.exemplars = exemplars
        return sum
    }

    mutating func merge(_ other: CellContent) {
        var other = other
        other.open()
        open()
        sketch.merge(other.sketch)
        late = late.saturatingAdding(other.late)
        isPart = isPart || other.isPart
        for trace in other.exemplars.traces { note(trace) }
    }

    var bytes: Int {
        MemoryLayout<CellContent>.stride + sketch.heapBytes + (sealed?.count ?? 0)
            + exemplars.traces.capacity * MemoryLayout<SlowTrace>.stride
    }
}

/// The cells of one window. Guarded by the engine's lock.
final class Plane {
    let index: Int64
    var cells: [CellContent] = []
    /// Group and stage of each cell.
    var keys: [(group: Int, stage: Int)] = []
    /// For each stage and group: number of the cell, or -1.
    private var numbers: [[Int32]] = []
    var isSealed = false
    /// Memory of the cells, reckoned when the window was sealed.
    var sealedBytes = 0

    init(index: Int64) { self.index = index }

    @inline(__always)
    func number(group: Int, stage: Int) -> Int {
        if stage < numbers.count, group < numbers[stage].count {
            let number = numbers[stage][group]
            if number >= 0 { return Int(number) }
        }
        return add(group, stage)
    }

    func find(group: Int, stage: Int) -> Int? {
        guard stage < numbers.count, group < numbers[stage].count, numbers[stage][group] >= 0 else { return nil }
        return Int(numbers[stage][group])
    }

    @inline(never)
    private func add(_ group: Int, _ stage: Int) -> Int {
        while numbers.count <= stage { numbers.append([]) }
        let missing = group + 1 - numbers[stage].count
        if missing > 0 {
            numbers[stage].append(contentsOf: repeatElement(-1, count: max(missing, numbers[stage].count)))
        }
        numbers[stage][group] = Int32(cells.count)
        cells.append(CellContent())
        keys.append((group, stage))
        return cells.count - 1
    }

    var bytes: Int {
        cells.reduce(0) { $0 + $1.bytes } + keys.capacity * 16 + numbers.reduce(0) { $0 + $1.capacity * 4 }
    }
}
