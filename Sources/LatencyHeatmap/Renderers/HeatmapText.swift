/// The report for a terminal.
public enum HeatmapText {
    /// Rows beyond this many are left out and counted; `limit` in the query, or the other forms, show them.
    public static let maxRows = 200

    static let countWidth = 8
    static let minGroupWidth = 12

    /// Lines of at most `width` columns, of which there should be 40 or more. When not all windows fit, those that follow
    /// one another are joined by merging their sketches.
    public static func render(_ grid: HeatmapGrid, width: Int, style: Style = .plain) -> String {
        let width = max(width, 40)
        guard !grid.rows.isEmpty else {
            let title = "\(grid.quantileName) push latency (\(TextWidth.clean(grid.stage))):"
            return TextLayout.wrap([title, "no latencies in this range yet"], width: width, gap: " ")
                .joined(separator: "\n") + "\n"
        }
        let shown = min(grid.rows.count, maxRows)
        let hasStages = width >= 80 && grid.rows.prefix(shown).contains { !$0.total.stages.isEmpty }
        let stageWidth = hasStages ? 15 : 0
        let longest = grid.rows.prefix(shown).reduce(5) { max($0, TextWidth.of($1.group)) }
        // One more than the names take: a figure can fill its cell.
        let groupWidth =
            min(longest, max(minGroupWidth, width - countWidth - stageWidth - 3 * cellWidth(grid)), 40) + 1
        let room = max(1, (width - groupWidth - countWidth - stageWidth) / cellWidth(grid))
        let joined = grid.joined(toAtMost: room)
        let cellWidth = cellWidth(joined)

        var text = TextLayout.title(joined, width: width).joined(separator: "\n") + "\n"
        var header = TextWidth.fit("group", groupWidth)
        for window in joined.windows { header += TextWidth.right(label(window, joined), cellWidth) }
        header += TextWidth.right("n", countWidth) + (hasStages ? "  worst stage" : "")
        text += header + "\n"

        var lines = TextBytes(style: style, cellWidth: cellWidth)
        for row in joined.rows.prefix(shown) {
            lines.add(TextWidth.fit(row.group, groupWidth - 1))
            lines.add(" ")
            for cell in row.cells { lines.add(cell) }
            let count = Figures.short(row.total.count)
            lines.blanks(countWidth - count.utf8.count)
            lines.add(count)
            if hasStages, let worst = row.total.stages.max(by: { $0.percent < $1.percent }) {
                lines.add("  \(TextWidth.cut(worst.stage, stageWidth - 7)) \(worst.percent)%")
            }
            lines.endLine()
        }
        text += String(decoding: lines.bytes, as: UTF8.self)
        let isJoined = joined.windows.count < grid.windows.count
        return text
            + TextLayout.notes(
                joined, shown: shown, joinedFrom: isJoined ? grid.windowSeconds : nil, marks: style.marks, width: width
            ).joined(separator: "\n") + "\n"
    }

    /// Room for a value, its level, and the window's label above it.
    static func cellWidth(_ grid: HeatmapGrid) -> Int { grid.windowSeconds % 60 != 0 ? 10 : 8 }

    static func range(_ grid: HeatmapGrid) -> String {
        guard let first = grid.windows.first, let last = grid.windows.last else { return "" }
        return range(first.start, last.end, withSeconds: grid.windowSeconds % 60 != 0, grid.civil)
    }

    static func range(_ start: Int64, _ end: Int64, withSeconds: Bool, _ civil: CivilTime) -> String {
        let (startDay, endDay) = (civil.date(start), civil.date(end))
        let zone = civil.offsetText(end)
        return "\(startDay) \(civil.time(start, withSeconds: withSeconds))–"
            + (startDay == endDay ? "" : "\(endDay) ") + civil.time(end, withSeconds: withSeconds)
            + " " + (zone == "Z" ? "UTC" : zone)
    }

    static func label(_ window: HeatmapGrid.Window, _ grid: HeatmapGrid) -> String {
        grid.windowSeconds >= 86_400
            ? grid.civil.monthAndDay(window.start)
            : grid.civil.time(window.start, withSeconds: grid.windowSeconds % 60 != 0)
    }
}

/// The grid's lines, as they grow.
struct TextBytes {
    private let style: HeatmapText.Style
    private let cellWidth: Int
    private(set) var bytes: [UInt8] = []
    /// By level: what begins a colour, and what marks it.
    private let paints: [[UInt8]]
    private let marks: [[UInt8]]

    init(style: HeatmapText.Style, cellWidth: Int) {
        self.style = style
        self.cellWidth = cellWidth
        bytes.reserveCapacity(1 << 16)
        paints = LatencyLevel.allCases.map { Array(style.colours.paint($0).utf8) }
        marks = LatencyLevel.allCases.map { Array(style.marks.mark($0).utf8) }
    }

    mutating func add(_ text: String) { bytes.append(contentsOf: text.utf8) }
    mutating func blanks(_ count: Int) { for _ in 0..<max(0, count) { bytes.append(0x20) } }

    mutating func endLine() {
        while bytes.last == 0x20 { bytes.removeLast() }
        bytes.append(0x0A)
    }

    /// Right-aligned: value, level, what is to be noted.
    mutating func add(_ cell: HeatmapGrid.Cell?) {
        guard let cell else {
            blanks(cellWidth - 4)
            add("·")
            return blanks(3)
        }
        let note = cell.change?.verdict.mark ?? (cell.state == .revised ? "*" : " ")
        guard cell.count >= HeatmapGrid.noSample else {
            blanks(cellWidth - 5)
            add("--  ")
            return add(note)
        }
        let isLow = cell.count < HeatmapGrid.lowSample
        let figure = Figures.short(milliseconds: cell.quantileNano, columns: isLow ? 4 : 5)
        begin(figure.count, cell.level, isLow: isLow)
        figure.append(to: &bytes)
        end(cell.level, note)
    }

    /// - Parameter figure: ASCII.
    mutating func add(_ figure: String, _ level: LatencyLevel, isLow: Bool = false) {
        begin(figure.utf8.count, level, isLow: isLow)
        add(figure)
        end(level, " ")
    }

    private mutating func begin(_ length: Int, _ level: LatencyLevel, isLow: Bool) {
        blanks(cellWidth - 3 - length - (isLow ? 1 : 0))
        bytes.append(contentsOf: paints[level.number])
        if isLow { bytes.append(UInt8(ascii: "~")) }
    }

    private mutating func end(_ level: LatencyLevel, _ note: String) {
        let level = level.number
        if style.marks != .emoji { bytes.append(0x20) }
        bytes.append(contentsOf: marks[level])
        if !paints[level].isEmpty { add("\u{1B}[0m") }
        add(note)
    }
}
