import OTLP
import Synchronization

/// A group of devices, known to one engine for as long as it is held, whatever becomes of the group's windows.
public struct GroupID: Hashable, Sendable {
    let own: OwnGroup

    public static func == (a: GroupID, b: GroupID) -> Bool { a.own.names == b.own.names }
    public func hash(into hasher: inout Hasher) { hasher.combine(own.names) }
}

/// What a group of this process's own is called, and the numbers that its names had when they were last looked up.
final class OwnGroup: @unchecked Sendable {  // `numbers` and `reclaims` are guarded by the engine's lock
    /// In each view; nil where it is not counted.
    let names: [String?]
    /// In each view, or -1.
    var numbers: [Int32] = []
    var reclaims = -1

    init(names: [String?]) { self.names = names }
}

/// A stage of the pipeline, known to one engine.
public struct StageID: Hashable, Sendable {
    let number: Int
}

/// Keeps a sketch of latencies per window, group and stage, and answers questions about them.
///
///     let engine = try HeatmapEngine(configuration: .init())
///     let group = engine.group("iOS-15+"), stage = engine.stage("deliver")
///     engine.record(stage: stage, group: group, endUnixNano: now, latencyNano: 31_000_000)
///     print(HeatmapText.render(try engine.snapshot(query: HeatmapQuery()), width: 80))
///
/// All methods may be called from any thread. A latency belongs to the window in which it ended, in event time. Call
/// `maintain()` about once a second.
public final class HeatmapEngine: @unchecked Sendable {  // `state` is guarded by `lock`
    public let configuration: HeatmapConfiguration
    /// What latencies are grouped by; the first is made from `HeatmapConfiguration.groupBy`.
    public let views: [HeatmapView]
    let windowNano: UInt64
    let plan: TierPlan
    /// In nanoseconds, ascending.
    let thresholds: [UInt64]
    let latenessNano: UInt64?
    let maxFutureNano: UInt64?
    private let lock = Mutex<Void>(())
    private var state: HeatmapState
    /// One request is scanned at a time for each of these.
    let scans: ScanPool
    /// Requests that came lately.
    let duplicates: DuplicateFilter
    /// Held while windows are packed and saved, one after the other; `lock` is taken inside of it, never around it.
    let upkeep = Mutex(Upkeep())

    let runningTotals = Totals()
    let persistenceStatus = Mutex<HeatmapPersistence?>(nil)

    struct Upkeep {
        var store: HeatmapStore?
    }

    /// Most stages; the rest share `(other)`.
    static let maxStages = 62
    /// Where received spans without `isotherm.stage` count.
    static let foreignStageName = "span"
    static let foreignStage = 2

    /// Throws for settings that cannot be used.
    public init(configuration: HeatmapConfiguration = HeatmapConfiguration()) throws(HeatmapError) {
        try configuration.validate()
        self.configuration = configuration
        views = [HeatmapView(firstOf: configuration.groupBy)] + configuration.views
        windowNano = configuration.window.nanoseconds
        plan = try TierPlan(configuration)
        thresholds = configuration.thresholds.map(\.nanoseconds).sorted()
        latenessNano = configuration.lateness?.nanoseconds
        maxFutureNano = configuration.maxFuture?.nanoseconds
        state = HeatmapState(
            views: views.map { ViewState(view: $0, maxGroups: configuration.maxGroups) },
            borders: plan.tiers.map { _ in .min })
        scans = ScanPool(configuration: configuration, views: views)
        duplicates = DuplicateFilter(window: configuration.duplicateWindow, limit: configuration.maxFingerprints)
        _ = state.stages.number(configuration.defaultStage)
        _ = state.stages.number(Self.foreignStageName)
    }

    func locked<T>(_ body: (inout HeatmapState) throws -> T) rethrows -> T {
        try lock.withLock { _ in try body(&state) }
    }

    // MARK: Names

    /// The number of a group; `(other)` once there are as many as the settings allow.
    ///
    /// - Parameters:
    ///   - name: the group's name in the first view.
    ///   - attributes: values for the other views; a view counts the group if all of its attributes are here.
    ///   - prefix: put before the name in every view, to keep several senders' groups apart.
    public func group(
        _ name: String, attributes: [(key: String, value: String)] = [], prefix: String = ""
    ) -> GroupID {
        let names = views.enumerated().map { position, view -> String? in
            if position == 0 { return prefix + name }
            let values = view.attributes.compactMap { wanted in attributes.first { $0.key == wanted }?.value }
            return values.count == view.attributes.count ? prefix + HeatmapView.name(ofValues: values) : nil
        }
        let own = OwnGroup(names: names)
        locked { state in _ = numbers(of: own, state) }
        return GroupID(own: own)
    }

    /// Looked up anew when names have given up their numbers since.
    private func numbers(of own: OwnGroup, _ state: HeatmapState) -> [Int32] {
        if own.reclaims != state.reclaims {
            own.numbers = zip(own.names, state.views).map { name, view in
                name.map { Int32(view.groups.number($0)) } ?? -1
            }
            own.reclaims = state.reclaims
        }
        return own.numbers
    }

    public func stage(_ name: String) -> StageID { StageID(number: locked { $0.stages.number(name) }) }

    // MARK: Recording

    /// Counts a latency.
    ///
    /// - Parameters:
    ///   - endUnixNano: when it ended; decides the window.
    ///   - count: how many times the same latency occurred.
    ///   - traceID: to find the event again if it is among those that the cell keeps.
    public func record(
        stage: StageID, group: GroupID, endUnixNano: UInt64, latencyNano: UInt64, count: UInt64 = 1,
        traceID: (high: UInt64, low: UInt64)? = nil
    ) {
        update(stage, group, endUnixNano, count) { plane, cell in
            plane.insert(cell, latencyNano, count: count)
            if let traceID, traceID.high | traceID.low != 0 {
                OpenCell.note(cell, latencyNano, traceID.high, traceID.low)
            }
        }
    }

    /// Counts the latencies of one event's deliveries to one group.
    ///
    /// - Parameter slowestTraceID: the event's trace; the slowest of the latencies stands for it.
    public func recordBatch(
        stage: StageID, group: GroupID, endUnixNano: UInt64, latencies: UnsafeBufferPointer<UInt64>,
        slowestTraceID: (high: UInt64, low: UInt64)? = nil
    ) {
        guard let slowest = latencies.max() else { return }
        update(stage, group, endUnixNano, UInt64(latencies.count)) { plane, cell in
            for latency in latencies {
                plane.insert(cell, latency, position: plane.scale.position(nanoseconds: latency))
            }
            if let id = slowestTraceID, id.high | id.low != 0 { OpenCell.note(cell, slowest, id.high, id.low) }
        }
    }

    /// Counts the part of deliveries' latencies that an earlier stage took, for the breakdown by stage.
    public func recordStagePart(
        stage: StageID, group: GroupID, endUnixNano: UInt64, latencyNano: UInt64, count: UInt64 = 1
    ) {
        update(stage, group, endUnixNano, count) { plane, cell in
            plane.insert(cell, latencyNano, count: count)
            cell.pointee.flags |= OpenCell.Flag.part
        }
    }

    private func update(
        _ stage: StageID, _ group: GroupID, _ endUnixNano: UInt64, _ count: UInt64,
        _ body: (OpenPlane, UnsafeMutablePointer<OpenCell>) -> Void
    ) {
        guard count > 0 else { return }
        let now = configuration.now()
        locked { state in
            state.nowUnixNano = now
            var isCounted = false
            let numbers = numbers(of: group.own, state)
            for position in numbers.indices where numbers[position] >= 0 {
                let view = state.views[position]
                guard case .success(let plane) = plane(&state, view, endUnixNano),
                    let cell = cell(
                        view, plane, group: Int(numbers[position]), stage: stage.number, isShort: state.isShort)
                else { continue }
                body(plane, cell)
                note(&state, view, plane, cell, group: Int(numbers[position]), count, isFirst: position == 0)
                isCounted = true
            }
            if isCounted, endUnixNano > state.latestUnixNano { state.latestUnixNano = endUnixNano }
        }
    }

    /// What is kept beside the cell when `count` latencies have been counted in it.
    @inline(__always)
    func note(
        _ state: inout HeatmapState, _ view: ViewState, _ plane: OpenPlane, _ cell: UnsafeMutablePointer<OpenCell>,
        group: Int, _ count: UInt64, isFirst: Bool
    ) {
        noteUnusual(&state, view, plane, cell, group: group, count, isFirst: isFirst)
        if isFirst { state.ledger.latencies = state.ledger.latencies.saturatingAdding(count) }
    }

    /// The same, but for the number of latencies: what is late, or has found no row of its own.
    func noteUnusual(
        _ state: inout HeatmapState, _ view: ViewState, _ plane: OpenPlane, _ cell: UnsafeMutablePointer<OpenCell>,
        group: Int, _ count: UInt64, isFirst: Bool
    ) {
        let isLate = state.nowUnixNano > plane.lateAfterNano
        if isLate { OpenCell.late(cell).pointee = OpenCell.late(cell).pointee.saturatingAdding(count) }
        if group == 0 { view.overflowed = view.overflowed.saturatingAdding(count) }
        guard isFirst else { return }
        if isLate { state.ledger.late = state.ledger.late.saturatingAdding(count) }
        if group == 0 { state.ledger.overflowed = state.ledger.overflowed.saturatingAdding(count) }
    }

    @inline(__always)
    func isTooFarAhead(_ state: HeatmapState, _ endUnixNano: UInt64) -> Bool {
        guard let maxFutureNano else { return false }
        return endUnixNano > state.nowUnixNano && endUnixNano - state.nowUnixNano > maxFutureNano
    }

    /// Why a latency found no cell.
    enum Refusal: Error { case future, expired }

    /// Where latencies that ended then are counted.
    @inline(__always)
    func plane(
        _ state: inout HeatmapState, _ view: ViewState, _ endUnixNano: UInt64
    ) -> Result<OpenPlane, Refusal> {
        // Asked for each latency, also of a window that exists: what is allowed must not depend on the order.
        if isTooFarAhead(state, endUnixNano) { return .failure(.future) }
        if let current = view.current, current.startNano <= endUnixNano, endUnixNano < current.endNano {
            return .success(current)
        }
        return select(&state, view, endUnixNano)
    }

    @inline(never)
    private func select(
        _ state: inout HeatmapState, _ view: ViewState, _ endUnixNano: UInt64
    ) -> Result<OpenPlane, Refusal> {
        let second = Int64(endUnixNano / 1_000_000_000)
        let now = Int64(Swift.max(state.nowUnixNano, state.latestUnixNano) / 1_000_000_000)
        for tier in plan.tiers.indices {
            let (start, end) = plan.bounds(tier: tier, second: second)
            guard start >= state.borders[tier] else { continue }
            if tier == plan.tiers.count - 1, start < plan.border(tier: tier, now: now) { break }
            let slot = view.slots[start] ?? WindowSlot(start: start, end: end, tier: tier)
            view.slots[start] = slot
            let plane: OpenPlane
            if let open = slot.open {
                plane = open
            } else {
                plane = OpenPlane(start: start, end: end, lateness: latenessNano, thresholds: thresholds)
                slot.open = plane
            }
            plane.isShort = state.isShort
            view.current = plane
            return .success(plane)
        }
        return .failure(.expired)
    }

    /// Nil when there is none and memory is short.
    @inline(__always)
    func cell(
        _ view: ViewState, _ plane: OpenPlane, group: Int, stage: Int, isShort: Bool
    ) -> UnsafeMutablePointer<OpenCell>? {
        if let cell = plane.find(group: group, stage: stage) { return cell }
        if isShort { return nil }
        view.groups.use(group, until: plane.end)
        return plane.add(group: group, stage: stage)
    }

    // MARK: What is there

    /// Of received spans; `latencies`, `late` and `overflowed` are of everything that was counted.
    public var ledger: HeatmapLedger { locked { $0.ledger } }

    /// Of received histograms' points.
    public var histogramLedger: HeatmapLedger { locked { $0.histograms } }

    /// What has been done to keep within `HeatmapConfiguration.memoryLimitBytes`.
    public var memory: HeatmapMemory { locked { $0.memory } }

    /// Cells in memory: windows × groups × stages that have a latency, of all views.
    public var cellCount: Int { slots { $0.cellCount } }

    /// Memory that the cells take, in bytes, without the allocator's own.
    public var cellBytes: Int { slots { $0.byteCount } }

    private func slots(_ figure: (WindowSlot) -> Int) -> Int {
        locked { $0.views.reduce(0) { $1.slots.values.reduce($0) { $0 + figure($1) } } }
    }

    /// Groups of the first view, without `(other)`: those that have cells, and some that had.
    public var groupCount: Int { locked { $0.views[0].groups.used } }

    /// The grid that the query asks for. Copies what it needs, one window at a time, and merges outside the lock.
    public func snapshot(query: HeatmapQuery) throws(HeatmapError) -> HeatmapGrid {
        try HeatmapGrid.build(from: self, query: query)
    }
}
