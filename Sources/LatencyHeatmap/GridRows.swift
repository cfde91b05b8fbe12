/// Which groups of a view are rows, and what they are called.
struct RowSelection {
    /// By group number: row, or -1.
    private(set) var rows: [Int32]
    private(set) var names: [String] = []
    /// The row of what did not fit.
    private(set) var overflowRow: Int?

    /// - Parameter name: what the group's values are called; nil leaves it out.
    init(_ reading: HeatmapReading, prefix: String, name: (_ values: [String]) -> String?) {
        rows = [Int32](repeating: -1, count: reading.groupNames.count)
        var known: [String: Int32] = [:]
        for (number, group) in reading.groupNames.enumerated() {
            // By bytes: one sender's name must not begin with half a character of the prefix.
            guard group.utf8.starts(with: prefix.utf8) else { continue }
            let own = prefix.isEmpty ? group : String(decoding: group.utf8.dropFirst(prefix.utf8.count), as: UTF8.self)
            guard let name = name(reading.view.values(ofGroup: own)) else { continue }
            if number == 0 {
                overflowRow = names.count
            } else if let row = known[name] {
                rows[number] = row
                continue
            } else {
                known[name] = Int32(names.count)
            }
            rows[number] = Int32(names.count)
            names.append(name)
        }
    }
}

/// Puts a reading's cells into rows and columns. Cells are read in place; only what has to be added up is.
struct GridRows {
    let measure: HeatmapGrid.Measure
    /// Number of the stage that is shown.
    let stage: Int
    /// Numbers of the stages on the way to it, in order, itself the last; empty when it is not in the chain.
    let chain: [Int]
    let stageNames: [String]
    /// Whether a window that ends at a second may still get latencies that are not late.
    let isOpen: (Int64) -> Bool

    /// One stage's part of a cell, or of a row.
    private struct Part {
        var count: UInt64 = 0
        var sumNano: UInt64 = 0
        var isPart = false

        mutating func add(_ cell: PackedCell) {
            count = count.saturatingAdding(cell.count)
            sumNano = sumNano.saturatingAdding(cell.sumAndMax.sum)
            isPart = isPart || cell.isPart
        }
    }

    /// What one column has for one row: one cell, or several, which then are added up.
    private struct Found {
        let cell: PackedCell
        /// Place among all planes.
        let plane: Int
        /// Place among the sums; -1 for one cell.
        var sum = -1
    }

    /// What is found, by row and column, before it is added up.
    private struct Findings {
        var cells: [[Found?]]
        var sums: [CellSum] = []
        /// As `cells`; empty where there is no breakdown.
        var totals: [[[HeatmapGrid.StageTotal]]]
        var planes: [PackedPlane] = []
    }

    /// - Parameter columns: for each, its windows.
    /// - Returns: rows that have anything, in no particular order.
    func build(
        _ columns: [(window: HeatmapGrid.Window, planes: ArraySlice<PackedPlane>)], _ selection: RowSelection
    ) -> [(row: HeatmapGrid.Row, isOverflow: Bool)] {
        let count = selection.names.count
        var found = Findings(
            cells: [[Found?]](repeating: [], count: count),
            totals: [[[HeatmapGrid.StageTotal]]](repeating: [], count: count))
        // A stage alone has no breakdown.
        let chain = chain.count > 1 ? chain : []
        for (number, column) in columns.enumerated() {
            find(in: column.planes, column: number, of: columns.count, selection, chain, &found)
        }
        // Row by row, although windows hold them column by column: so the row's sum stays in the nearest memory.
        let isOpen = columns.map { self.isOpen($0.window.end) }
        return selection.names.indices.compactMap { number in
            row(selection.names[number], number, found, isOpen, chain).map { ($0, number == selection.overflowRow) }
        }
    }

    /// Looks for what one column has.
    private func find(
        in planes: ArraySlice<PackedPlane>, column: Int, of columnCount: Int, _ selection: RowSelection,
        _ chain: [Int], _ found: inout Findings
    ) {
        var places = [Int](repeating: -1, count: 64)
        for (place, number) in chain.enumerated() { places[number] = place }
        var parts = [Part](repeating: Part(), count: found.cells.count * chain.count)
        let stages = chain.reduce(UInt64(1) << UInt64(stage)) { $0 | 1 << UInt64($1) }
        for plane in planes {
            var cells = plane.cells
            while let cell = cells.next(stages: stages) {
                guard cell.group < selection.rows.count else { continue }
                let row = Int(selection.rows[cell.group])
                guard row >= 0 else { continue }
                if !chain.isEmpty { parts[row * chain.count + places[cell.stage]].add(cell) }
                guard cell.stage == stage else { continue }
                if found.cells[row].isEmpty { found.cells[row] = [Found?](repeating: nil, count: columnCount) }
                guard let first = found.cells[row][column] else {
                    found.cells[row][column] = Found(cell: cell, plane: found.planes.count)
                    continue
                }
                if first.sum < 0 {
                    found.cells[row][column]?.sum = found.sums.count
                    found.sums.append(CellSum(thresholds: [measure.sloNano]))
                    found.sums[found.sums.count - 1].add(first.cell)
                }
                found.sums[first.sum < 0 ? found.sums.count - 1 : first.sum].add(cell)
            }
            found.planes.append(plane)
        }
        guard !chain.isEmpty else { return }
        for row in found.cells.indices where !found.cells[row].isEmpty {
            if found.totals[row].isEmpty { found.totals[row] = Array(repeating: [], count: columnCount) }
            guard found.cells[row][column] != nil else { continue }
            found.totals[row][column] = chain.indices.compactMap { place in
                let part = parts[row * chain.count + place]
                guard part.count > 0 else { return nil }
                return HeatmapGrid.StageTotal(
                    stage: stageNames[chain[place]], count: part.count, sumNano: part.sumNano, isPart: part.isPart)
            }
        }
    }

    private func row(
        _ name: String, _ number: Int, _ found: Findings, _ isOpen: [Bool], _ chain: [Int]
    ) -> HeatmapGrid.Row? {
        var sum = CellSum(thresholds: [measure.sloNano])
        var totals: [HeatmapGrid.StageTotal] = []
        var cells: [HeatmapGrid.Cell?] = []
        cells.reserveCapacity(found.cells[number].count)
        for column in found.cells[number].indices {
            guard let cell = found.cells[number][column] else {
                cells.append(nil)
                continue
            }
            let parts = chain.isEmpty ? [] : found.totals[number][column]
            totals.add(parts)
            if cell.sum < 0 {
                cells.append(
                    HeatmapGrid.Cell(
                        cell.cell, of: found.planes[cell.plane], addedTo: &sum, isOpen: isOpen[column], totals: parts,
                        measure))
            } else {
                sum.add(found.sums[cell.sum], withExemplars: false)
                cells.append(
                    HeatmapGrid.Cell(found.sums[cell.sum], isOpen: isOpen[column], totals: parts, measure))
            }
        }
        let inOrder = chain.compactMap { number in totals.first { $0.stage == stageNames[number] } }
        guard
            let total = HeatmapGrid.Cell(
                sum, tracesOf: cells, isOpen: isOpen.last ?? false, totals: inOrder, measure)
        else { return nil }
        return HeatmapGrid.Row(group: name, cells: cells, total: total)
    }
}
