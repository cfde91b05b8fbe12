/// The file with the names of groups and stages, by number. A number that is given to another name, or to none, gets a record
/// anew; the last one counts. Belongs to a store.
struct StoredNames {
    private let path: String
    private let views: [UInt64]
    private var file: AppendFile?
    /// How many records the file has.
    private var recordCount = 0
    /// How many numbers of each view, and then of the stages, are in the file.
    private var saved: [Int]
    /// By view and number, where another name had it before: the first record whose cells can be those of the name it has.
    private var since: [[Int: UInt64]]

    /// - Parameter views: the identities of the engine's, in its order.
    init(path: String, views: [UInt64]) {
        self.path = path
        self.views = views
        saved = Array(repeating: 1, count: views.count + 1)
        since = Array(repeating: [:], count: views.count)
    }

    private typealias Tables = [(names: [String], changed: [Int])]

    // MARK: Saving

    /// Appends what has been named since the last time; false if that failed.
    mutating func save(_ engine: HeatmapEngine) -> Bool {
        let tables: Tables = engine.locked { state in
            (state.views.map(\.groups) + [state.stages]).map { ($0.names, $0.changed) }
        }
        var bytes: [UInt8] = []
        var added = 0
        for (table, known) in tables.enumerated() {
            for number in known.changed.filter({ $0 < saved[table] }) + Array(saved[table]..<known.names.count) {
                append(number, of: table, known.names[number], to: &bytes)
                added += 1
            }
        }
        guard added > 0 else { return true }
        if recordCount + added > 2 * tables.reduce(100, { $0 + $1.names.count }) {
            guard rewrite(tables) else { return false }
        } else {
            if file == nil { file = AppendFile(path: path, keeping: nil) }
            let before = file?.byteCount ?? 0
            guard file?.append(bytes) == true else {
                // What was written in part is cut off when it is written again.
                file = AppendFile(path: path, keeping: before)
                return false
            }
            recordCount += added
        }
        for (table, known) in tables.enumerated() { saved[table] = known.names.count }
        engine.locked { state in
            for (view, known) in zip(state.views, tables) { view.groups.forgetChanged(known.changed.count) }
        }
        return true
    }

    /// Only the last record of each number, so that the file stays small where numbers are given again and again.
    private mutating func rewrite(_ tables: Tables) -> Bool {
        var bytes = HeatmapFiles.magic
        for (table, known) in tables.enumerated() {
            for number in known.names.indices.dropFirst() {
                append(number, of: table, known.names[number], to: &bytes)
            }
        }
        file = nil
        let isWritten = SystemFile.replace(path, with: bytes)
        file = AppendFile(path: path, keeping: isWritten ? bytes.count : SystemFile.size(path))
        if isWritten { recordCount = tables.reduce(0) { $0 + $1.names.count - 1 } }
        return isWritten && file != nil
    }

    private func append(_ number: Int, of table: Int, _ name: String, to bytes: inout [UInt8]) {
        HeatmapFiles.name(
            name, view: table < views.count ? views[table] : 0, number: number,
            since: table < views.count ? since[table][number] : nil, to: &bytes)
    }

    func sync() -> Bool { file?.sync() ?? true }

    /// Cells of these numbers are other names' in records before this one.
    mutating func free(_ numbers: [Int], view: Int, before sequence: UInt64) {
        for number in numbers { since[view][number] = sequence }
    }

    // MARK: Recovery

    /// Names an engine's groups and stages as they were.
    ///
    /// - Returns: how many bytes at the file's end are damaged, and the last record that a name says something of.
    mutating func recover(into engine: HeatmapEngine) -> (damagedBytes: Int, sequence: UInt64) {
        guard let bytes = SystemFile.map(path) else { return (0, 0) }
        defer { SystemFile.unmap(bytes) }
        var tables = engine.locked { state in state.views.map(\.groups.names) + [state.stages.names] }
        let whole = HeatmapFiles.forEachRecord(bytes) { payload in
            guard let name = HeatmapFiles.readName(payload) else { return false }
            recordCount += 1
            let view = views.firstIndex(of: name.view)
            // A view that is no longer in the settings.
            guard name.view == 0 || view != nil else { return true }
            let table = view ?? views.count
            let text = String(decoding: name.text, as: UTF8.self)
            if name.number == tables[table].count {
                tables[table].append(text)
            } else if name.since != nil, name.number > 0, name.number < tables[table].count {
                tables[table][name.number] = text
            } else if name.number >= tables[table].count || tables[table][name.number] != text {
                return false
            }
            if let view, let first = name.since { since[view][name.number] = first }
            return true
        }
        file = AppendFile(path: path, keeping: whole)
        saved = tables.map(\.count)
        engine.locked { state in
            for (table, view) in state.views.enumerated() {
                view.groups.restore(tables[table], free: since[table].keys.filter { tables[table][$0].isEmpty })
            }
            state.stages.restore(tables[views.count], free: [])
            state.reclaims += 1
        }
        return (bytes.count - whole, since.reduce(0) { $1.values.reduce($0) { Swift.max($0, $1) } })
    }

    /// Without cells that go by a number which now is another name's: a file that was removed may be there again when the
    /// machine has lost its power.
    func own(_ cells: HeatmapFiles.Cells, view: Int) -> PackedPlane {
        let others = since[view].filter { $0.value > cells.sequence }
        return others.isEmpty ? cells.plane : cells.plane.without { others[Int($0 >> 6)] != nil }
    }
}
