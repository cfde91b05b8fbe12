extension HeatmapGrid {
    /// The grid in at most so many columns: windows that follow one another are joined by merging their sketches, so that
    /// every figure is what one longer window would have shown.
    ///
    /// The columns are the shortest usual length that fits, aligned to the grid's zone as every window is.
    public func joined(toAtMost columns: Int) -> HeatmapGrid {
        guard windows.count > Swift.max(1, columns) else { return self }
        var length = windowSeconds
        var starts: [Int64] = []
        repeat {
            length = Self.longer(than: length, multipleOf: windowSeconds)
            starts = windows.map { civil.windowStart($0.start, length: length) }
        } while Set(starts).count > Swift.max(1, columns)
        return joined(starts: starts, length: length)
    }

    /// The usual lengths that divide a day, then whole days.
    private static func longer(than length: Int64, multipleOf base: Int64) -> Int64 {
        let usual: [Int64] = [
            1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 10_800, 14_400, 21_600, 28_800, 43_200,
            86_400, 172_800, 604_800,
        ]
        return usual.first { $0 > length && $0 % base == 0 } ?? length * 2
    }

    private func joined(starts: [Int64], length: Int64) -> HeatmapGrid {
        var parts: [Range<Int>] = []
        for index in starts.indices {
            if let last = parts.last, starts[last.lowerBound] == starts[index] {
                parts[parts.count - 1] = last.lowerBound..<index + 1
            } else {
                parts.append(index..<index + 1)
            }
        }
        var grid = self
        grid.windows = parts.map { Window(start: windows[$0.lowerBound].start, end: windows[$0.upperBound - 1].end) }
        grid.windowSeconds = length
        grid.rows = rows.map { row in
            func joined(_ cells: [Cell?]) -> [Cell?] {
                cells.isEmpty ? [] : parts.map { Cell.joined(cells[$0].compactMap(\.self), measure) }
            }
            var longer = row
            longer.cells = joined(row.cells)
            longer.baseline = joined(row.baseline)
            for (column, baseline) in longer.baseline.enumerated() { longer.cells[column]?.compare(with: baseline) }
            return longer
        }
        return grid
    }
}
