import OTLP
import Synchronization

/// A group of devices, known to one engine.
public struct GroupID: Hashable, Sendable {
    let number: Int
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
    let windowNano: UInt64
    private let latenessNano: UInt64?
    /// From a window's start to the moment after which what still comes is late.
    private let openNano: UInt64?
    private let maxFutureNano: UInt64?
    private let lock = Mutex<Void>(())
    private var state: State
    /// One request is scanned at a time for each of these.
    let scans: ScanPool

    struct State {
        var groups: NameTable
        var stages = NameTable(limit: 62)
        var planes: [Int64: Plane] = [:]
        /// The one that was used last.
        var current: Plane?
        var ledger = HeatmapLedger()
        /// Latest end of a latency.
        var latestUnixNano: UInt64 = 0
        var oldestIndex = Int64.min
        /// Read once for each call, not for each latency.
        var nowUnixNano: UInt64 = 0
    }

    /// Throws for settings that cannot be used.
    public init(configuration: HeatmapConfiguration = HeatmapConfiguration()) throws(HeatmapError) {
        try configuration.validate()
        self.configuration = configuration
        windowNano = configuration.window.nanoseconds
        latenessNano = configuration.lateness?.nanoseconds
        openNano = latenessNano.map { [windowNano] in windowNano.saturatingAdding($0) }
        maxFutureNano = configuration.maxFuture?.nanoseconds
        state = State(groups: NameTable(limit: configuration.maxGroups))
        scans = ScanPool(configuration: configuration)
        _ = state.stages.number(configuration.defaultStage)
        _ = state.stages.number(Self.foreignStageName)
    }

    func locked<T>(_ body: (inout State) throws -> T) rethrows -> T {
        try lock.withLock { _ in try body(&state) }
    }

    /// Where received spans without `isotherm.stage` count.
    static let foreignStageName = "span"
    static let foreignStage = 2

    // MARK: Names

    /// The number of a group; `(other)` once there are as many as the settings allow.
    public func group(_ name: String) -> GroupID { GroupID(number: locked { $0.groups.number(name) }) }

    public func stage(_ name: String) -> StageID { StageID(number: locked { $0.stages.number(name) }) }

    // MARK: Recording

    /// Counts a latency.
    ///
    /// - Parameters:
    ///   - endUnixNano: when it ended; decides the window.
    ///   - count: how many times the same latency occurred.
    ///   - traceID: to find the event again if this is among the slowest of its cell.
    public func record(
        stage: StageID, group: GroupID, endUnixNano: UInt64, latencyNano: UInt64, count: UInt64 = 1,
        traceID: (high: UInt64, low: UInt64)? = nil
    ) {
        guard count > 0 else { return }
        let now = configuration.now()
        locked { state in
            state.nowUnixNano = now
            update(&state, stage.number, group.number, endUnixNano, count) { cell in
                cell.sketch.insert(nanoseconds: latencyNano, count: count)
                if let traceID { cell.note(SlowTrace(latencyNano: latencyNano, high: traceID.high, low: traceID.low)) }
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
        let now = configuration.now()
        locked { state in
            state.nowUnixNano = now
            update(&state, stage.number, group.number, endUnixNano, UInt64(latencies.count)) { cell in
                cell.sketch.insert(contentsOf: latencies)
                if let id = slowestTraceID { cell.note(SlowTrace(latencyNano: slowest, high: id.high, low: id.low)) }
            }
        }
    }

    /// Counts the part of deliveries' latencies that an earlier stage took, for the breakdown by stage.
    public func recordStagePart(
        stage: StageID, group: GroupID, endUnixNano: UInt64, latencyNano: UInt64, count: UInt64 = 1
    ) {
        guard count > 0 else { return }
        let now = configuration.now()
        locked { state in
            state.nowUnixNano = now
            update(&state, stage.number, group.number, endUnixNano, count) { cell in
                cell.sketch.insert(nanoseconds: latencyNano, count: count)
                cell.isPart = true
            }
        }
    }

    /// Why a latency found no cell.
    enum Refusal { case future, expired }

    @inline(__always) @discardableResult
    func update(
        _ state: inout State, _ stage: Int, _ group: Int, _ endUnixNano: UInt64, _ count: UInt64,
        _ body: (inout CellContent) -> Void
    ) -> Refusal? {
        if let refusal = admit(&state, endUnixNano) { return refusal }
        let index = Int64(endUnixNano / windowNano)
        guard let plane = state.current else { return .expired }
        let number = plane.number(group: group, stage: stage)
        if plane.isSealed {
            plane.cells[number].open()
            plane.isSealed = false
        }
        if plane.cells[number].sealed != nil { plane.cells[number].open() }
        body(&plane.cells[number])
        let start = UInt64(index) * windowNano
        if let openNano, state.nowUnixNano > start, state.nowUnixNano - start > openNano {
            plane.cells[number].late = plane.cells[number].late.saturatingAdding(count)
            state.ledger.late = state.ledger.late.saturatingAdding(count)
        }
        if endUnixNano > state.latestUnixNano { state.latestUnixNano = endUnixNano }
        state.ledger.latencies = state.ledger.latencies.saturatingAdding(count)
        if group == 0 { state.ledger.overflowed = state.ledger.overflowed.saturatingAdding(count) }
        return nil
    }

    /// Makes the plane of the window in which a latency ended the current one, if it may still be counted.
    @inline(__always)
    func admit(_ state: inout State, _ endUnixNano: UInt64) -> Refusal? {
        // Asked for each latency, also of a window that exists: what is allowed must not depend on the order.
        if let maxFutureNano, endUnixNano > state.nowUnixNano, endUnixNano - state.nowUnixNano > maxFutureNano {
            return .future
        }
        let index = Int64(endUnixNano / windowNano)
        return state.current?.index == index ? nil : select(&state, index)
    }

    @inline(never)
    private func select(_ state: inout State, _ index: Int64) -> Refusal? {
        if let plane = state.planes[index] {
            state.current = plane
            return nil
        }
        if index < state.oldestIndex { return .expired }
        if let kept = configuration.retainedWindows {
            let oldest = Int64(max(state.nowUnixNano, state.latestUnixNano) / windowNano) - Int64(kept) + 1
            if index < oldest { return .expired }
        }
        let plane = Plane(index: index)
        state.planes[index] = plane
        state.current = plane
        return nil
    }

    // MARK: Upkeep

    /// Forgets windows that are too old, and packs those that are over. Takes the lock for one window at a time.
    public func maintain() {
        let now = configuration.now()
        let current = Int64(now / windowNano)
        let (expired, finished) = locked { state -> ([Int64], [Int64]) in
            let oldest = configuration.retainedWindows.map { current - Int64($0) + 1 } ?? .min
            state.oldestIndex = oldest
            let margin = Int64((latenessNano ?? 0) / windowNano) + 1
            return (
                state.planes.keys.filter { $0 < oldest },
                state.planes.values.filter { !$0.isSealed && $0.index < current - margin }.map(\.index)
            )
        }
        for index in expired {
            let removed = locked { state -> Plane? in
                if state.current?.index == index { state.current = nil }
                return state.planes.removeValue(forKey: index)
            }
            // Freed here, outside the lock.
            _ = consume removed
        }
        for index in finished {
            locked { state in
                guard let plane = state.planes[index] else { return }
                for number in plane.cells.indices { plane.cells[number].seal() }
                plane.isSealed = true
                plane.sealedBytes = plane.bytes
            }
        }
    }

    // MARK: What is there

    public var ledger: HeatmapLedger { locked { $0.ledger } }

    /// Cells in memory: windows × groups × stages that have a latency.
    public var cellCount: Int { locked { $0.planes.values.reduce(0) { $0 + $1.cells.count } } }

    /// Memory that the cells take, in bytes, without the allocator's own.
    public var cellBytes: Int {
        locked { $0.planes.values.reduce(0) { $0 + ($1.isSealed ? $1.sealedBytes : $1.bytes) } }
    }

    /// Groups that have been seen, without `(other)`.
    public var groupCount: Int { locked { $0.groups.names.count - 1 } }

    /// The grid that the query asks for. Copies what it needs, one window at a time, and merges outside the lock.
    public func snapshot(query: HeatmapQuery) throws(HeatmapError) -> HeatmapGrid {
        try HeatmapGrid.build(from: self, query: query)
    }
}
