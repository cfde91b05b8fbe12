import Glibc
import Synchronization

/// Keeps an engine's cells in a directory, so that they survive a restart. Belongs to the engine's upkeep.
///
///     names                        names of groups and stages, in the order of their numbers
///     <view>-<start>-<end>.cells   one packed window
///     journal-<n>                  cells that have changed since their window was packed, as they then were
///
/// A save appends the cells that have changed to the journal. What has been written survives the end of the process,
/// `kill -9` too; the operating system writes it to the disk in its own time. Packed windows are made durable before they
/// replace what the journal has of them. A journal that has grown is replaced by one with only the newest state of each
/// cell, which is made durable first.
final class HeatmapStore: @unchecked Sendable {  // guarded by the engine's `upkeep`
    /// A journal that is longer than this is replaced, or one of four times what it began with.
    static let journalBytes = 8 << 20

    let directory: String
    /// Of the views, in the engine's order.
    private let views: [UInt64]
    private var names: StoredNames
    private var journal: AppendFile?
    private var journalNumber = 0
    /// As `journalBytes`; smaller in tests.
    var smallestLimit = HeatmapStore.journalBytes
    /// What the journal began with.
    private var firstBytes = 0
    /// Of the last record.
    private(set) var sequence: UInt64 = 0
    private(set) var status = HeatmapPersistence()
    /// Throws when the directory cannot be made.
    init(directory: String, views: [HeatmapView]) throws(HeatmapError) {
        self.directory = directory
        self.views = views.map(HeatmapFiles.identity)
        names = StoredNames(path: directory + "/names", views: self.views)
        guard mkdir(directory, 0o700) == 0 || errno == EEXIST, HeatmapStore.isUsable(directory) else {
            throw HeatmapError(
                code: .storage,
                cause: "\(directory): the heatmap cannot be kept there: \(String(cString: strerror(errno))); give "
                    + "another data directory, or switch heatmap.persist off")
        }
    }

    private static func isUsable(_ directory: String) -> Bool { access(directory, R_OK | W_OK | X_OK) == 0 }

    private func path(_ name: String) -> String { directory + "/" + name }

    private func windowPath(_ view: Int, _ start: Int64, _ end: Int64) -> String {
        path(String(views[view], radix: 16) + "-\(start)-\(end).cells")
    }

    // MARK: Saving

    /// Appends what has changed.
    func save(_ engine: HeatmapEngine) {
        if journal == nil || (journal?.byteCount ?? 0) > max(smallestLimit, 4 * firstBytes) {
            return replaceJournal(engine)
        }
        status.isFailing = !append(changed: engine)
        // A record that was written in part ends the journal; the next one begins anew.
        if status.isFailing { journal = nil }
    }

    /// The new journal begins with everything that is not packed.
    private func replaceJournal(_ engine: HeatmapEngine) {
        let old = journal?.path
        journalNumber += 1
        journal = AppendFile(path: path("journal-\(journalNumber)"), keeping: nil)
        engine.locked { state in
            for view in state.views { for slot in view.slots.values { slot.open?.touchAll() } }
        }
        guard append(changed: engine), journal?.sync() == true else {
            // Tried anew at the next save; until then the old one stays, as far as it goes.
            if let failed = journal?.path { unlink(failed) }
            journal = nil
            status.failures += 1
            status.isFailing = true
            return
        }
        status.isFailing = false
        firstBytes = journal?.byteCount ?? 0
        if let old { unlink(old) }
        for name in SystemFile.names(in: directory) ?? [] {
            if let number = Self.journalNumber(name), number < journalNumber { unlink(path(name)) }
        }
        SystemFile.syncDirectory(directory)
    }

    private func append(changed engine: HeatmapEngine) -> Bool {
        var bytes: [UInt8] = []
        for position in views.indices {
            let slots = engine.locked { Array($0.views[position].slots.values.filter { $0.open?.hasDirty == true }) }
            for slot in slots.sorted(by: { $0.start < $1.start }) {
                // In portions, so that nobody waits for the lock for long.
                while let plane = engine.locked({ _ in slot.open?.takeDirty(limit: 1_024) }) {
                    sequence += 1
                    HeatmapFiles.cells(plane, view: views[position], sequence: sequence, to: &bytes)
                }
            }
        }
        // Names first: cells mean nothing without them.
        guard names.save(engine) else {
            status.failures += 1
            return false
        }
        guard !bytes.isEmpty else { return journal != nil }
        guard journal?.append(bytes) == true else {
            status.failures += 1
            return false
        }
        status.savedBytes += UInt64(bytes.count)
        return true
    }

    /// Keeps a packed window, and what had been written of it before no longer counts.
    func write(view: Int, _ slot: WindowSlot, from engine: HeatmapEngine) {
        guard let plane = engine.locked({ _ in slot.packed }), names.save(engine), names.sync() else {
            status.failures += 1
            return
        }
        var bytes = HeatmapFiles.magic
        bytes.reserveCapacity(plane.byteCount + 256)
        HeatmapFiles.cells(plane, view: views[view], sequence: slot.sequence, to: &bytes)
        if SystemFile.replace(windowPath(view, slot.start, slot.end), with: bytes) {
            slot.isStored = true
            status.savedBytes += UInt64(bytes.count)
        } else {
            status.failures += 1
        }
    }

    func remove(view: Int, _ slot: WindowSlot) { unlink(windowPath(view, slot.start, slot.end)) }

    /// From the next record on these numbers may be other groups'.
    func free(_ numbers: [Int], view: Int) {
        sequence += 1
        names.free(numbers, view: view, before: sequence)
    }

    // MARK: Recovery

    /// Reads everything back into an engine that has counted nothing yet.
    func recover(into engine: HeatmapEngine) {
        let named = names.recover(into: engine)
        status.damagedBytes += UInt64(named.damagedBytes)
        sequence = named.sequence
        let counts = engine.locked { state in
            (groups: state.views.map { $0.groups.names.count }, stages: state.stages.names.count)
        }
        let groupCount = { [views] (view: UInt64) in views.firstIndex(of: view).map { counts.groups[$0] } }
        let files = (SystemFile.names(in: directory) ?? []).sorted()
        for name in files {
            if name.hasSuffix(".new") { unlink(path(name)) }
            if name.hasSuffix(".cells") { recoverWindow(path(name), engine, groupCount, counts.stages) }
        }
        removeCovered(engine)
        let journals = files.compactMap { name in Self.journalNumber(name).map { ($0, path(name)) } }
            .sorted { $0.0 < $1.0 }
        journalNumber = journals.last?.0 ?? 0
        recoverJournals(journals.map(\.1), engine, groupCount, counts.stages)
        engine.locked { state in
            for view in state.views {
                for slot in view.slots.values {
                    status.recoveredWindows += 1
                    var cells = slot.packed?.cells
                    while let key = cells?.nextRaw()?.key { view.groups.use(Int(key >> 6), until: slot.end) }
                    state.latestUnixNano = max(state.latestUnixNano, OpenPlane.nanoseconds(slot.start))
                    // Where a coarser window is, the finer tiers have nothing before its end.
                    for tier in 0..<slot.tier { state.borders[tier] = max(state.borders[tier], slot.end) }
                }
            }
        }
        replaceJournal(engine)
    }

    private static func journalNumber(_ name: String) -> Int? {
        name.hasPrefix("journal-") ? Int(name.dropFirst(8)) : nil
    }

    private func recoverWindow(
        _ path: String, _ engine: HeatmapEngine, _ groupCount: (UInt64) -> Int?, _ stageCount: Int
    ) {
        guard let file = SystemFile.map(path) else { return }
        var found: HeatmapFiles.Cells?
        _ = HeatmapFiles.forEachRecord(file) { payload in
            found = HeatmapFiles.readCells(payload, groupCount: groupCount, stageCount: stageCount) { _ in
                SystemFile.unmap(file)
            }
            return found != nil
        }
        guard let found, let position = views.firstIndex(of: found.view),
            let tier = engine.plan.tiers.indices.first(where: { tier in
                engine.plan.bounds(tier: tier, second: found.plane.start) == (found.plane.start, found.plane.end)
            })
        else {
            // Damaged, or of a view or a length that is no longer in the settings. Not deleted: they may come back.
            if found == nil { SystemFile.unmap(file) }
            status.unreadableFiles += 1
            return
        }
        sequence = max(sequence, found.sequence)
        let plane = names.own(found, view: position)
        engine.locked { state in
            let slot = WindowSlot(start: plane.start, end: plane.end, tier: tier)
            slot.packed = plane
            slot.sequence = found.sequence
            slot.isStored = true
            // A finer window that starts at the same second would stand in its place.
            let there = state.views[position].slots[slot.start]
            if there.map({ $0.end < slot.end }) ?? true { state.views[position].slots[slot.start] = slot }
        }
    }

    /// A crash between writing a longer window and removing the shorter ones that it was made from leaves both.
    private func removeCovered(_ engine: HeatmapEngine) {
        engine.locked { state in
            for (position, view) in state.views.enumerated() {
                var end = Int64.min
                for slot in view.slots.values.sorted(by: { ($0.start, -$0.tier) < ($1.start, -$1.tier) }) {
                    if slot.end <= end {
                        view.slots[slot.start] = nil
                        remove(view: position, slot)
                    } else {
                        end = slot.end
                    }
                }
            }
        }
    }

    /// A record of a view that is no longer in the settings is passed over.
    private static func isForeign(_ payload: UnsafeRawBufferPointer, _ groupCount: (UInt64) -> Int?) -> Bool {
        payload.count >= HeatmapFiles.cellsHead
            && groupCount(UInt64(littleEndian: payload.loadUnaligned(fromByteOffset: 8, as: UInt64.self))) == nil
    }

    private struct WindowKey: Hashable {
        let view: Int
        let start: Int64
        let end: Int64
    }

    /// The last state of each cell counts, on top of what is packed; windows that have been packed since, or joined into
    /// a longer one, have it already.
    private func recoverJournals(
        _ paths: [String], _ engine: HeatmapEngine, _ groupCount: (UInt64) -> Int?, _ stageCount: Int
    ) {
        var newest: [WindowKey: [UInt64: (plane: PackedPlane, bytes: UnsafeBufferPointer<UInt8>)]] = [:]
        var files: [UnsafeRawBufferPointer] = []
        defer { for file in files { SystemFile.unmap(file) } }
        for path in paths {
            guard let file = SystemFile.map(path) else { continue }
            files.append(file)
            let whole = HeatmapFiles.forEachRecord(file) { payload in
                guard
                    let cells = HeatmapFiles.readCells(
                        payload, groupCount: groupCount, stageCount: stageCount, free: { _ in })
                else { return Self.isForeign(payload, groupCount) }
                sequence = max(sequence, cells.sequence)
                guard let position = views.firstIndex(of: cells.view) else { return true }
                let plane = names.own(cells, view: position)
                let isIncluded = engine.locked { state in
                    state.views[position].slots.values.contains {
                        $0.start <= plane.start && plane.end <= $0.end
                            && ($0.end - $0.start > plane.end - plane.start || cells.sequence <= $0.sequence)
                    }
                }
                if isIncluded { return true }
                var cursor = plane.cells
                while let cell = cursor.nextRaw() {
                    let key = WindowKey(view: position, start: plane.start, end: plane.end)
                    newest[key, default: [:]][cell.key] = (plane, cell.bytes)
                }
                return true
            }
            status.damagedBytes += UInt64(file.count - whole)
        }
        for (key, cells) in newest {
            guard
                let tier = engine.plan.tiers.indices.first(where: {
                    engine.plan.bounds(tier: $0, second: key.start) == (key.start, key.end)
                })
            else { continue }
            status.recoveredCells += cells.count
            var writer = PlaneWriter(thresholds: cells.values.first?.plane.thresholds ?? [])
            for (cell, value) in cells.sorted(by: { $0.key < $1.key }) { writer.copy(key: cell, bytes: value.bytes) }
            let changed = writer.seal(start: key.start, end: key.end)
            engine.locked { state in
                let slot =
                    state.views[key.view].slots[key.start] ?? WindowSlot(start: key.start, end: key.end, tier: tier)
                slot.packed = PlaneMerge.merge(
                    [slot.packed, changed].compactMap { $0 }, start: key.start, end: key.end,
                    thresholds: engine.thresholds)
                slot.sequence = sequence
                state.views[key.view].slots[key.start] = slot
            }
        }
        // Durable before the journal that held it goes.
        for key in newest.keys {
            if let slot = engine.locked({ $0.views[key.view].slots[key.start] }) {
                write(view: key.view, slot, from: engine)
            }
        }
    }
}

/// What keeping the cells in a directory has come to.
public struct HeatmapPersistence: Sendable, Equatable {
    /// Windows that were there at the start.
    public internal(set) var recoveredWindows = 0
    /// Of these, cells that had not been packed yet.
    public internal(set) var recoveredCells = 0
    /// Files of windows that could not be read, or that no longer fit the settings.
    public internal(set) var unreadableFiles = 0
    /// At the end of files, where the last record was cut off.
    public internal(set) var damagedBytes: UInt64 = 0
    public internal(set) var savedBytes: UInt64 = 0
    /// Writes that failed; what they held is written again.
    public internal(set) var failures: UInt64 = 0
    /// Whether the last save failed.
    public internal(set) var isFailing = false
}

extension HeatmapEngine {
    /// Reads the cells back that are kept in a directory, and keeps them there from now on. Call before anything is
    /// counted, then `save()` about twice a second. Blocks. Throws when the directory cannot be used.
    public func persist(in directory: String) throws(HeatmapError) {
        let store = try HeatmapStore(directory: directory, views: views)
        upkeep.withLock { kept in
            store.recover(into: self)
            kept.store = store
            publish(store)
        }
    }

    /// Writes what has changed since the last time. Blocks for the disk; nobody who counts waits for it.
    public func save() {
        upkeep.withLock { kept in
            guard let store = kept.store else { return }
            store.save(self)
            publish(store)
        }
    }

    private func publish(_ store: HeatmapStore) {
        let status = store.status
        persistenceStatus.withLock { $0 = status }
    }

    /// Nil when nothing is kept in a directory.
    public var persistence: HeatmapPersistence? { persistenceStatus.withLock { $0 } }
}
