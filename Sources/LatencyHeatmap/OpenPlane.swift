import CPrefetch

/// The cells of one window of one view while latencies still come. Guarded by the engine's lock.
final class OpenPlane {
    let start: Int64
    let end: Int64
    let startNano: UInt64
    let endNano: UInt64
    /// What comes after this is late.
    let lateAfterNano: UInt64
    /// In nanoseconds, ascending; what the cells count slow latencies by.
    let thresholds: [UInt64]
    let firstThreshold: UInt64
    private let thresholdValues: UnsafeMutablePointer<UInt64>
    private let thresholdCount: Int
    let scale = BucketScale.tables

    private var arena = CellArena()
    /// Chunks of 256 cells, which stay where they are, and what they are pieces of.
    private var chunks: UnsafeMutablePointer<UnsafeMutableRawPointer>
    private var chunkCount = 0
    private var chunkCapacity = 4
    private var chunkSlabs: [UnsafeMutableRawPointer] = []
    private static let chunkCells = 256
    private static let chunkBytes = chunkCells * OpenCell.stride
    private(set) var cellCount = 0
    /// For each stage, by group: number of the cell + 1, or 0.
    private let tables: UnsafeMutablePointer<UnsafeMutablePointer<UInt32>?>
    private let tableCounts: UnsafeMutablePointer<Int>
    private var tableBytes = 0
    /// Numbers of the cells that have changed since they were last taken for the journal.
    private var dirty: [UInt32] = []

    init(start: Int64, end: Int64, lateness: UInt64?, thresholds: [UInt64]) {
        self.start = start
        self.end = end
        startNano = Self.nanoseconds(start)
        endNano = Self.nanoseconds(end)
        lateAfterNano = lateness.map { [endNano] in endNano.saturatingAdding($0) } ?? .max
        self.thresholds = thresholds
        firstThreshold = thresholds.first ?? .max
        thresholdCount = thresholds.count
        thresholdValues = .allocate(capacity: thresholds.count + 1)
        for (number, threshold) in thresholds.enumerated() { (thresholdValues + number).initialize(to: threshold) }
        chunks = .allocate(capacity: chunkCapacity)
        tables = .allocate(capacity: 64)
        tables.initialize(repeating: nil, count: 64)
        tableCounts = .allocate(capacity: 64)
        tableCounts.initialize(repeating: 0, count: 64)
    }

    deinit {
        for slab in chunkSlabs { slab.deallocate() }
        chunks.deallocate()
        for stage in 0..<64 { tables[stage]?.deallocate() }
        tables.deallocate()
        tableCounts.deallocate()
        thresholdValues.deallocate()
    }

    static func nanoseconds(_ second: Int64) -> UInt64 {
        let (product, overflow) = UInt64(Swift.max(second, 0)).multipliedReportingOverflow(by: 1_000_000_000)
        return overflow ? .max : product
    }

    var byteCount: Int {
        arena.byteCount + chunkCount * Self.chunkBytes + tableBytes + dirty.capacity * 4
    }

    // MARK: Cells

    @inline(__always)
    func find(group: Int, stage: Int) -> UnsafeMutablePointer<OpenCell>? {
        guard let table = tables[stage], group < tableCounts[stage] else { return nil }
        let number = table[group]
        return number == 0 ? nil : cell(Int(number) &- 1)
    }

    @inline(__always)
    private func cell(_ number: Int) -> UnsafeMutablePointer<OpenCell> {
        (chunks[number / Self.chunkCells] + number % Self.chunkCells * OpenCell.stride)
            .assumingMemoryBound(to: OpenCell.self)
    }

    /// Asks for the memory that `find` will read, and then for that of the cell it will find.
    @inline(__always)
    func prefetchEntry(group: Int, stage: Int) {
        if let table = tables[stage] { isotherm_prefetch(table + group) }
    }

    @inline(__always)
    func prefetchCell(group: Int, stage: Int) {
        if let cell = find(group: group, stage: stage) { isotherm_prefetch(cell) }
    }

    /// Asks for the memory that counting will write to.
    @inline(__always)
    func prefetchBlock(_ cell: UnsafeMutablePointer<OpenCell>, _ latency: UInt64, _ position: Int) {
        if let slot = Self.slot(cell, position) {
            isotherm_prefetch(slot)
        } else {
            isotherm_prefetch(cell.pointee.block + Int(truncatingIfNeeded: cell.pointee.count & 0xFF) &* 8)
        }
        if latency > firstThreshold { isotherm_prefetch(OpenCell.counters(cell)) }
    }

    @inline(never)
    func add(group: Int, stage: Int) -> UnsafeMutablePointer<OpenCell> {
        if group >= tableCounts[stage] { growTable(stage, group) }
        if cellCount == chunkCount * Self.chunkCells { addChunk() }
        let added = cell(cellCount)
        added.initialize(
            to: OpenCell(key: UInt32(group) << 6 | UInt32(stage), block: arena.take(0), pieceClass: 0))
        cellCount += 1
        tables[stage]?[group] = UInt32(cellCount)
        return added
    }

    private func addChunk() {
        // One at a time at first; where there are many, as many as fill a large page.
        let perSlab = CellArena.largestSlab / Self.chunkBytes
        let added = chunkCount < perSlab ? 1 : perSlab
        if chunkCount + added > chunkCapacity {
            chunkCapacity = Swift.max(chunkCapacity * 2, chunkCount + added)
            let larger = UnsafeMutablePointer<UnsafeMutableRawPointer>.allocate(capacity: chunkCapacity)
            larger.update(from: chunks, count: chunkCount)
            chunks.deallocate()
            chunks = larger
        }
        let slab = CellArena.slab(bytes: added * Self.chunkBytes)
        slab.initializeMemory(as: UInt8.self, repeating: 0, count: added * Self.chunkBytes)
        chunkSlabs.append(slab)
        for number in 0..<added { (chunks + chunkCount + number).initialize(to: slab + number * Self.chunkBytes) }
        chunkCount += added
    }

    private func growTable(_ stage: Int, _ group: Int) {
        let old = tableCounts[stage]
        let new = Swift.max(64, old * 2, group + 1)
        let table = UnsafeMutablePointer<UInt32>.allocate(capacity: new)
        table.initialize(repeating: 0, count: new)
        if let before = tables[stage] {
            table.update(from: before, count: old)
            before.deallocate()
        }
        tables[stage] = table
        tableCounts[stage] = new
        tableBytes += (new - old) * 4
    }

    @inline(__always)
    func touch(_ cell: UnsafeMutablePointer<OpenCell>) {
        guard cell.pointee.flags & OpenCell.Flag.dirty == 0 else { return }
        noteDirty(cell)
    }

    @inline(never)
    private func noteDirty(_ cell: UnsafeMutablePointer<OpenCell>) {
        cell.pointee.flags |= OpenCell.Flag.dirty
        let key = cell.pointee.key
        if let number = tables[Int(key & 63)]?[Int(key >> 6)] { dirty.append(number - 1) }
    }

    // MARK: Counting

    /// Where counting a latency will write: to be looked at before, so that the memory is there in time.
    @inline(__always)
    static func slot(_ cell: UnsafeMutablePointer<OpenCell>, _ position: Int) -> UnsafeMutablePointer<UInt32>? {
        let flags = cell.pointee.flags
        guard flags & (OpenCell.Flag.buckets | OpenCell.Flag.wide) == OpenCell.Flag.buckets, cell.pointee.shift == 0
        else { return nil }
        let index = position &- Int(cell.pointee.first)
        guard UInt(bitPattern: index) < UInt(cell.pointee.capacity) else { return nil }
        return cell.pointee.block.assumingMemoryBound(to: UInt32.self) + index
    }

    /// Counts one latency.
    @inline(__always)
    func insert(_ cell: UnsafeMutablePointer<OpenCell>, _ latency: UInt64, position: Int) {
        let count = cell.pointee.count
        if let slot = Self.slot(cell, position), slot.pointee < .max, position > 0 {
            slot.pointee &+= 1
        } else if cell.pointee.isExact, count < UInt64(cell.pointee.capacity) {
            cell.pointee.block.storeBytes(of: latency, toByteOffset: Int(count) &* 8, as: UInt64.self)
        } else {
            insertSlowly(cell, latency, 1)
        }
        cell.pointee.count = count == .max ? .max : count &+ 1
        if latency > cell.pointee.max { cell.pointee.max = latency }
        cell.pointee.sum = cell.pointee.sum.saturatingAdding(latency)
        if latency > firstThreshold { countOver(cell, latency, 1) }
        touch(cell)
    }

    /// Counts the same latency so many times.
    func insert(_ cell: UnsafeMutablePointer<OpenCell>, _ latency: UInt64, count added: UInt64) {
        insertSlowly(cell, latency, added)
        cell.pointee.count = cell.pointee.count.saturatingAdding(added)
        if latency > cell.pointee.max { cell.pointee.max = latency }
        let (product, overflow) = latency.multipliedReportingOverflow(by: added)
        cell.pointee.sum = overflow ? .max : cell.pointee.sum.saturatingAdding(product)
        if latency > firstThreshold { countOver(cell, latency, added) }
        touch(cell)
    }

    @inline(__always)
    private func countOver(_ cell: UnsafeMutablePointer<OpenCell>, _ latency: UInt64, _ added: UInt64) {
        let counters = OpenCell.counters(cell)
        var number = 0
        while number < thresholdCount, latency > thresholdValues[number] {
            counters[number] = counters[number].saturatingAdding(added)
            number &+= 1
        }
    }

    /// Adds a sketch.
    func merge(_ cell: UnsafeMutablePointer<OpenCell>, _ sketch: Sketch) {
        if let values = sketch.exactValues {
            for value in values { insert(cell, value, count: 1) }
            return
        }
        if sketch.shift > Int(cell.pointee.shift) { coarsen(cell, to: sketch.shift) }
        spill(cell)
        if sketch.isApproximate { cell.pointee.flags |= OpenCell.Flag.approximate }
        OpenCell.zeros(cell).pointee = OpenCell.zeros(cell).pointee.saturatingAdding(sketch.zeroCount)
        sketch.withCounts { first, counts in
            for index in 0..<counts.count where counts[index] > 0 {
                let to = Int(cell.pointee.shift)
                increment(cell, BucketScale.coarser(first + index, from: sketch.shift, to: to), counts[index])
            }
        }
        cell.pointee.count = cell.pointee.count.saturatingAdding(sketch.count)
        cell.pointee.sum = cell.pointee.sum.saturatingAdding(sketch.sum)
        cell.pointee.max = Swift.max(cell.pointee.max, sketch.max)
        let counters = OpenCell.counters(cell)
        for (number, threshold) in thresholds.enumerated() {
            counters[number] = counters[number].saturatingAdding(sketch.countAbove(nanoseconds: threshold))
        }
        touch(cell)
    }

    @inline(never)
    private func insertSlowly(_ cell: UnsafeMutablePointer<OpenCell>, _ latency: UInt64, _ added: UInt64) {
        if cell.pointee.isExact {
            let count = Int(cell.pointee.count)
            if added <= UInt64(Sketch.exactLimit - count) {
                let total = count + Int(added)
                if total > Int(cell.pointee.capacity) { growValues(cell, total) }
                let values = cell.pointee.block.assumingMemoryBound(to: UInt64.self)
                for at in count..<total { values[at] = latency }
                return
            }
            spill(cell)
        }
        let position = scale.position(nanoseconds: latency)
        if position == 0 {
            OpenCell.zeros(cell).pointee = OpenCell.zeros(cell).pointee.saturatingAdding(added)
        } else {
            increment(cell, BucketScale.coarser(position, shift: Int(cell.pointee.shift)), added)
        }
    }

    private func growValues(_ cell: UnsafeMutablePointer<OpenCell>, _ total: Int) {
        let pieceClass = CellArena.pieceClass(bytes: total * 8)
        let block = arena.take(pieceClass)
        block.copyMemory(from: cell.pointee.block, byteCount: Int(cell.pointee.count) * 8)
        replaceBlock(cell, block, pieceClass, elementBytes: 8)
    }

    private func replaceBlock(
        _ cell: UnsafeMutablePointer<OpenCell>, _ block: UnsafeMutableRawPointer, _ pieceClass: Int, elementBytes: Int
    ) {
        arena.give(cell.pointee.block, Int(cell.pointee.pieceClass))
        cell.pointee.block = block
        cell.pointee.pieceClass = UInt8(pieceClass)
        cell.pointee.capacity = UInt32((32 << pieceClass) / elementBytes)
    }

    // MARK: Buckets

    /// From values to buckets.
    private func spill(_ cell: UnsafeMutablePointer<OpenCell>) {
        guard cell.pointee.isExact else { return }
        let count = Int(cell.pointee.count)
        let shift = Int(cell.pointee.shift)
        withUnsafeTemporaryAllocation(of: Int.self, capacity: Sketch.exactLimit) { positions in
            let values = cell.pointee.block.assumingMemoryBound(to: UInt64.self)
            var (low, high) = (Int.max, 0)
            for at in 0..<count {
                positions[at] = BucketScale.coarser(scale.position(nanoseconds: values[at]), shift: shift)
                if positions[at] > 0 { low = Swift.min(low, positions[at]) }
                high = Swift.max(high, positions[at])
            }
            cell.pointee.flags |= OpenCell.Flag.buckets
            if high == 0 { (low, high) = (1, 1) }
            let pieceClass = CellArena.pieceClass(bytes: (high - low + 9) * 4)
            let block = arena.take(pieceClass)
            block.initializeMemory(as: UInt8.self, repeating: 0, count: 32 << pieceClass)
            replaceBlock(cell, block, pieceClass, elementBytes: 4)
            // What is to spare is shared between both ends.
            let spare = Int(cell.pointee.capacity) - (high - low + 1)
            cell.pointee.first = Int32(Swift.max(1, low - spare / 2))
            for at in 0..<count {
                if positions[at] == 0 {
                    OpenCell.zeros(cell).pointee += 1
                } else {
                    increment(cell, positions[at], 1)
                }
            }
        }
    }

    /// At a position of the cell's scale, above 0.
    private func increment(_ cell: UnsafeMutablePointer<OpenCell>, _ position: Int, _ added: UInt64) {
        let index = position - Int(cell.pointee.first)
        if index < 0 || index >= Int(cell.pointee.capacity) {
            return extend(cell, position, added)
        }
        if cell.pointee.flags & OpenCell.Flag.wide == 0 {
            let counts = cell.pointee.block.assumingMemoryBound(to: UInt32.self)
            if added <= UInt64(UInt32.max - counts[index]) {
                counts[index] += UInt32(added)
                return
            }
            widen(cell)
        }
        let counts = cell.pointee.block.assumingMemoryBound(to: UInt64.self)
        counts[index] = counts[index].saturatingAdding(added)
    }

    private func widen(_ cell: UnsafeMutablePointer<OpenCell>) {
        let count = Int(cell.pointee.capacity)
        let pieceClass = Int(cell.pointee.pieceClass) + 1
        let block = arena.take(pieceClass)
        let narrow = cell.pointee.block.assumingMemoryBound(to: UInt32.self)
        let wide = block.bindMemory(to: UInt64.self, capacity: count)
        for index in 0..<count { wide[index] = UInt64(narrow[index]) }
        replaceBlock(cell, block, pieceClass, elementBytes: 8)
        cell.pointee.flags |= OpenCell.Flag.wide
    }

    @inline(never)
    private func extend(_ cell: UnsafeMutablePointer<OpenCell>, _ position: Int, _ added: UInt64) {
        let elementBytes = cell.pointee.flags & OpenCell.Flag.wide != 0 ? 8 : 4
        let old = Int(cell.pointee.capacity)
        let first = Int(cell.pointee.first)
        let low = Swift.min(first, position)
        let high = Swift.max(first + old - 1, position)
        let pieceClass = CellArena.pieceClass(bytes: (high - low + 1) * elementBytes)
        if pieceClass >= CellArena.classes || isShort {
            // No memory for it, so half the resolution has to do.
            coarsen(cell, to: Int(cell.pointee.shift) + 1)
            return increment(
                cell,
                BucketScale.coarser(position, from: Int(cell.pointee.shift) - 1, to: Int(cell.pointee.shift)), added)
        }
        let block = arena.take(pieceClass)
        block.initializeMemory(as: UInt8.self, repeating: 0, count: 32 << pieceClass)
        let before = cell.pointee.block
        let capacity = (32 << pieceClass) / elementBytes
        let spare = capacity - (high - low + 1)
        // Where it has grown, it may grow again.
        let newFirst = position < first ? Swift.max(1, low - spare) : low
        (block + (first - newFirst) * elementBytes).copyMemory(
            from: before, byteCount: Swift.min(old, capacity - (first - newFirst)) * elementBytes)
        replaceBlock(cell, block, pieceClass, elementBytes: elementBytes)
        cell.pointee.first = Int32(newFirst)
        increment(cell, position, added)
    }

    /// Set while memory is short: then cells grow no more, and lose resolution instead.
    var isShort = false

    /// Halves the resolution as often as it takes.
    func coarsen(_ cell: UnsafeMutablePointer<OpenCell>, to shift: Int) {
        let from = Int(cell.pointee.shift)
        let to = Swift.min(shift, BucketScale.maxShift)
        guard to > from else { return }
        cell.pointee.shift = UInt8(to)
        guard !cell.pointee.isExact else { return }
        let first = Int(cell.pointee.first)
        let newFirst = BucketScale.coarser(first, from: from, to: to)
        let count = Int(cell.pointee.capacity)
        // In place: a bucket never moves up.
        func fold<Count: FixedWidthInteger>(_: Count.Type) {
            let counts = cell.pointee.block.assumingMemoryBound(to: Count.self)
            for index in 0..<count where counts[index] > 0 {
                let kept = counts[index]
                counts[index] = 0
                let at = BucketScale.coarser(first + index, from: from, to: to) - newFirst
                let (sum, overflow) = counts[at].addingReportingOverflow(kept)
                counts[at] = overflow ? .max : sum
            }
        }
        if cell.pointee.flags & OpenCell.Flag.wide == 0 {
            // Sums of 32 bits may need more.
            if cell.pointee.count > UInt64(UInt32.max), Int(cell.pointee.pieceClass) + 1 < CellArena.classes {
                widen(cell)
            }
        }
        if cell.pointee.flags & OpenCell.Flag.wide != 0 { fold(UInt64.self) } else { fold(UInt32.self) }
        cell.pointee.first = Int32(newFirst)
    }

    // MARK: Packing

    /// All cells, packed.
    func packed() -> PackedPlane {
        var writer = PlaneWriter(thresholds: thresholds, capacity: cellCount * 64)
        pack(Array(0..<UInt32(cellCount)), into: &writer, stages: .max)
        return writer.seal(start: start, end: end)
    }

    /// The cells of these stages, packed. Bit s for stage s.
    func packed(stages: UInt64) -> PackedPlane {
        var writer = PlaneWriter(thresholds: thresholds)
        pack(Array(0..<UInt32(cellCount)), into: &writer, stages: stages)
        return writer.seal(start: start, end: end)
    }

    /// Up to so many of the cells that have changed since they were last taken; nil when there are none.
    func takeDirty(limit: Int) -> PackedPlane? {
        guard !dirty.isEmpty else { return nil }
        let taken = Array(dirty.suffix(limit))
        dirty.removeLast(taken.count)
        for number in taken { cell(Int(number)).pointee.flags &= ~OpenCell.Flag.dirty }
        var writer = PlaneWriter(thresholds: thresholds, capacity: taken.count * 64)
        pack(taken, into: &writer, stages: .max)
        return writer.seal(start: start, end: end)
    }

    /// What has not been taken yet.
    var hasDirty: Bool { !dirty.isEmpty }

    /// All cells count as changed.
    func touchAll() { for number in 0..<cellCount { touch(cell(number)) } }

    private func pack(_ numbers: [UInt32], into writer: inout PlaneWriter, stages: UInt64) {
        var order: [UInt64] = []
        order.reserveCapacity(numbers.count)
        for number in numbers {
            let key = cell(Int(number)).pointee.key
            if stages >> UInt64(key & 63) & 1 == 1 { order.append(UInt64(key) << 32 | UInt64(number)) }
        }
        order.sort()
        for entry in order { append(cell(Int(entry & 0xFFFF_FFFF)), to: &writer) }
    }

    private func append(_ cell: UnsafeMutablePointer<OpenCell>, to writer: inout PlaneWriter) {
        let head = PlaneWriter.Head(
            key: UInt64(cell.pointee.key), count: cell.pointee.count, late: OpenCell.late(cell).pointee,
            isPart: cell.pointee.flags & OpenCell.Flag.part != 0, exemplars: OpenCell.traces(cell))
        if cell.pointee.isExact {
            let count = Int(cell.pointee.count)
            return withUnsafeTemporaryAllocation(of: UInt64.self, capacity: Sketch.exactLimit) { buffer in
                let values = UnsafeMutableBufferPointer(rebasing: buffer[..<count])
                let arrived = cell.pointee.block.assumingMemoryBound(to: UInt64.self)
                for at in 0..<count { values[at] = arrived[at] }
                Self.sort(values)
                writer.append(head, values: UnsafeBufferPointer(values))
            }
        }
        let buckets = PlaneWriter.BucketHead(
            shift: Int(cell.pointee.shift), isApproximate: cell.pointee.flags & OpenCell.Flag.approximate != 0,
            sum: cell.pointee.sum, max: cell.pointee.max, zeros: OpenCell.zeros(cell).pointee,
            counters: UnsafeBufferPointer(start: OpenCell.counters(cell), count: thresholds.count))
        let (first, count) = (Int(cell.pointee.first), Int(cell.pointee.capacity))
        if cell.pointee.flags & OpenCell.Flag.wide != 0 {
            let counts = UnsafeBufferPointer(
                start: UnsafePointer(cell.pointee.block.assumingMemoryBound(to: UInt64.self)), count: count)
            writer.append(head, buckets, firstPosition: first, counts: counts)
        } else {
            let counts = UnsafeBufferPointer(
                start: UnsafePointer(cell.pointee.block.assumingMemoryBound(to: UInt32.self)), count: count)
            writer.append(head, buckets, firstPosition: first, counts: counts)
        }
    }

    /// By insertion: there are at most 64.
    private static func sort(_ values: UnsafeMutableBufferPointer<UInt64>) {
        guard values.count > 1 else { return }
        for at in 1..<values.count {
            let value = values[at]
            var to = at
            while to > 0, values[to - 1] > value {
                values[to] = values[to - 1]
                to -= 1
            }
            values[to] = value
        }
    }
}
