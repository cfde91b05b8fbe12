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

    /// Stages' counts and sums of one row.
    private struct Parts {
        var totals: [HeatmapGrid.StageTotal?]
        mutating func add(_ cell: PackedCell, at place: Int, _ name: String) {
            let total = HeatmapGrid.StageTotal(
                stage: name, count: cell.count, sumNano: cell.sumAndMax.sum, isPart: cell.isPart)
            guard var before = totals[place] else {
                totals[place] = total
                return
            }
            before.count = before.count.saturatingAdding(total.count)
            before.sumNano = before.sumNano.saturatingAdding(total.sumNano)
            before.isPart = before.isPart || total.isPart
            totals[place] = before
        }
    }

    /// - Parameter columns: for each, its windows.
    /// - Returns: rows that have anything, in no particular order.
    func build(
        _ columns: [(window: HeatmapGrid.Window, planes: ArraySlice<PackedPlane>)], _ selection: RowSelection
    ) -> [(row: HeatmapGrid.Row, isOverflow: Bool)] {
        let count = selection.names.count
        let thresholds = [measure.sloNano]
        let stages = chain.reduce(UInt64(1) << UInt64(stage)) { $0 | 1 << UInt64($1) }
        var places = [Int](repeating: -1, count: 64)
        for (place, number) in chain.enumerated() { places[number] = place }
        let noParts = Parts(totals: chain.map { _ in nil })

        var cells = [[HeatmapGrid.Cell?]](repeating: [], count: count)
        var sums = [CellSum](repeating: CellSum(thresholds: thresholds), count: count)
        var totals = [[HeatmapGrid.StageTotal]](repeating: [], count: count)
        for (number, column) in columns.enumerated() {
            var contents = [HeatmapGrid.Content?](repeating: nil, count: count)
            var parts = [Parts](repeating: noParts, count: chain.count > 1 ? count : 0)
            for plane in column.planes {
                var packed = plane.cells
                while let cell = packed.next(stages: stages) {
                    guard cell.group < selection.rows.count else { continue }
                    let row = Int(selection.rows[cell.group])
                    guard row >= 0 else { continue }
                    if cell.stage == stage {
                        if contents[row] == nil {
                            contents[row] = .packed(cell, plane)
                        } else {
                            contents[row]?.add(cell, thresholds: thresholds)
                        }
                        sums[row].add(cell, withExemplars: false)
                    }
                    if chain.count > 1 { parts[row].add(cell, at: places[cell.stage], stageNames[cell.stage]) }
                }
            }
            let isOpen = isOpen(column.window.end)
            for row in 0..<count {
                guard let content = contents[row] else { continue }
                let known = parts.isEmpty ? [] : parts[row].totals.compactMap(\.self)
                totals[row].add(known)
                if cells[row].isEmpty { cells[row] = [HeatmapGrid.Cell?](repeating: nil, count: columns.count) }
                cells[row][number] = HeatmapGrid.Cell(content, isOpen: isOpen, totals: known, measure)
            }
        }
        let isLastOpen = columns.last.map { isOpen($0.window.end) } ?? false
        return selection.names.indices.compactMap { row in
            let inOrder = chain.compactMap { number in totals[row].first { $0.stage == stageNames[number] } }
            guard !cells[row].isEmpty,
                var total = HeatmapGrid.Cell(.sum(sums[row]), isOpen: isLastOpen, totals: inOrder, measure)
            else { return nil }
            total.tracesOf = cells[row]
            return (
                HeatmapGrid.Row(group: selection.names[row], cells: cells[row], total: total),
                row == selection.overflowRow
            )
        }
    }
}
