/// What a report is made from: a part of what an engine knows, as it was at one moment. It never changes, needs no lock,
/// and shares the memory of the windows that are packed.
///
///     let reading = try engine.read(view: 0, from: start, until: end)
///     for window in reading.windows {
///         var cells = window.cells
///         while let cell = cells.next(stages: 1 << reading.stage("deliver")!) {
///             print(window.start, reading.groupNames[cell.group], cell.count, cell.quantile(0.95)!)
///         }
///     }
///
/// Cells are read in place; add them up in a `CellSum` (use one again with `removeAll()`) or with `Sketch.merge(_:)`.
struct HeatmapReading: Sendable {
    let view: HeatmapView
    /// Ascending, not overlapping, only those that have cells. Older ones may be longer, where they have been joined. In
    /// each, the cells stand by group number, then stage number, one for each pair.
    let windows: [PackedPlane]
    /// By number; 0 is `(other)`. More may have been named than have cells here.
    let groupNames: [String]
    let stageNames: [String]
    /// The clock; where nothing is ever late, the end of the last latency.
    let nowUnixNano: UInt64
    /// Latencies that ended in the row `(other)`, since the start.
    let overflowed: UInt64

    /// A stage's number, if it has occurred.
    func stage(_ name: String) -> Int? { stageNames.indices.dropFirst().first { stageNames[$0] == name } }
}

/// A window that has cells.
public struct HeatmapWindow: Sendable, Equatable {
    /// In seconds since 1970.
    public let start: Int64
    /// Not part of it.
    public let end: Int64
}

extension HeatmapEngine {
    /// What latencies are grouped by; the first is made from `HeatmapConfiguration.groupBy`.
    public var views: [HeatmapView] { [HeatmapView(firstOf: configuration.groupBy)] }

    /// The windows of a view that have cells, ascending. Cheap: to choose a range before it is read.
    public func windows(view: Int = 0) -> [HeatmapWindow] {
        let seconds = Int64(windowNano / 1_000_000_000)
        return locked { state in
            state.planes.keys.sorted().map { HeatmapWindow(start: $0 * seconds, end: ($0 + 1) * seconds) }
        }
    }

    /// The windows of a view that begin before `until` and end after `from`, in seconds since 1970. Takes the lock for a
    /// short time for each window that is still being written, and none of the caller's time for the others.
    func read(view: Int = 0, from: Int64 = .min, until: Int64 = .max) -> HeatmapReading {
        let seconds = Int64(windowNano / 1_000_000_000)
        let names = locked { ($0.groups.names, $0.stages.names, $0.latestUnixNano, $0.ledger.overflowed) }
        var planes: [PackedPlane] = []
        for window in windows(view: view) where window.end > from && window.start < until {
            let plane = locked { state -> PackedPlane? in
                guard let plane = state.planes[window.start / seconds] else { return nil }
                return plane.packed(start: window.start, end: window.end)
            }
            if let plane { planes.append(plane) }
        }
        let later = locked { ($0.groups.names, $0.stages.names) }
        return HeatmapReading(
            view: views[view], windows: planes, groupNames: later.0, stageNames: later.1,
            nowUnixNano: configuration.lateness == nil ? names.2 : configuration.now(), overflowed: names.3)
    }
}

extension Plane {
    func packed(start: Int64, end: Int64) -> PackedPlane {
        var writer = PlaneWriter(thresholds: [])
        let keys = keys.enumerated().map { (key: UInt64($1.group) << 6 | UInt64($1.stage), cell: $0) }
        for (key, number) in keys.sorted(by: { $0.key < $1.key }) {
            var cell = cells[number]
            cell.open()
            writer.append(key, cell.sum)
        }
        return writer.seal(start: start, end: end)
    }
}
