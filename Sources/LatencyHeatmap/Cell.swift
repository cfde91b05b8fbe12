/// One of the slowest events of a cell.
public struct SlowTrace: Sendable, Equatable {
    public let latencyNano: UInt64
    public let high: UInt64
    public let low: UInt64

    /// 32 lower-case hex digits.
    public var traceID: String {
        func digits(_ half: UInt64) -> String {
            let hex = String(half, radix: 16)
            return String(repeating: "0", count: 16 - hex.count) + hex
        }
        return digits(high) + digits(low)
    }

    /// Slower first; ids decide between equals, so that the order of arrival never shows.
    static func precedes(_ a: SlowTrace, _ b: SlowTrace) -> Bool {
        (b.latencyNano, a.high, a.low) < (a.latencyNano, b.high, b.low)
    }
}

/// What one window knows of one group in one stage.
struct CellContent: Sendable {
    static let slowestKept = 3

    var sketch = Sketch()
    /// The sketch's bytes once the window is over; a late span opens it again.
    var sealed: [UInt8]?
    /// Latencies that came after the window was over.
    var late: UInt64 = 0
    /// These are parts of a later stage's latencies, not spans of their own.
    var isPart = false
    var slowest: [SlowTrace] = []

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

    @inline(__always)
    mutating func note(_ trace: SlowTrace) {
        if slowest.count == Self.slowestKept, !SlowTrace.precedes(trace, slowest[Self.slowestKept - 1]) { return }
        insert(trace)
    }

    private mutating func insert(_ trace: SlowTrace) {
        // Two deliveries of one event are one trace: the slower one stands for it.
        if let same = slowest.firstIndex(where: { $0.high == trace.high && $0.low == trace.low }) {
            guard SlowTrace.precedes(trace, slowest[same]) else { return }
            slowest.remove(at: same)
        }
        slowest.insert(trace, at: slowest.firstIndex { SlowTrace.precedes(trace, $0) } ?? slowest.count)
        if slowest.count > Self.slowestKept { slowest.removeLast() }
    }

    mutating func merge(_ other: CellContent) {
        var other = other
        other.open()
        open()
        sketch.merge(other.sketch)
        late = late.saturatingAdding(other.late)
        isPart = isPart || other.isPart
        for trace in other.slowest { note(trace) }
    }

    var bytes: Int {
        MemoryLayout<CellContent>.stride + sketch.heapBytes + (sealed?.count ?? 0)
            + slowest.capacity * MemoryLayout<SlowTrace>.stride
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
