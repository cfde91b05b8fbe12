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
    /// The windows of a view that have cells, ascending. Cheap: to choose a range before it is read.
    public func windows(view: Int = 0) -> [HeatmapWindow] {
        locked { state in
            state.views[view].slots.values.map { HeatmapWindow(start: $0.start, end: $0.end) }
        }.sorted { $0.start < $1.start }
    }

    /// The windows of a view that begin before `until` and end after `from`, in seconds since 1970.
    ///
    /// Takes the lock for a short time for each window that is still being written, and only looks up the others.
    ///
    /// - Parameter stages: what is needed of the windows that are still being written; bit s for stage s. Those that are
    ///   packed come as they are.
    func read(view: Int = 0, from: Int64 = .min, until: Int64 = .max, stages: UInt64 = .max) -> HeatmapReading {
        while true {
            // Again when names have given up their numbers meanwhile: then some cells may go by old ones. That is rare.
            if let reading = attemptRead(view, from, until, stages) { return reading }
        }
    }

    private func attemptRead(_ view: Int, _ from: Int64, _ until: Int64, _ stages: UInt64) -> HeatmapReading? {
        let (slots, latest, reclaims) = locked { state in
            (
                state.views[view].slots.values.filter { $0.end > from && $0.start < until }
                    .sorted { $0.start < $1.start },
                state.latestUnixNano, state.reclaims
            )
        }
        let planes = slots.compactMap { slot -> PackedPlane? in
            let parts = locked { _ in
                [slot.packed, slot.closing?.packed(stages: stages), slot.open?.packed(stages: stages)]
                    .compactMap { $0 }
            }
            return parts.count < 2
                ? parts.first
                : PlaneMerge.merge(parts, start: slot.start, end: slot.end, thresholds: thresholds)
        }
        return locked { state in
            guard state.reclaims == reclaims else { return nil }
            return HeatmapReading(
                view: views[view], windows: planes.filter { $0.cellCount > 0 },
                groupNames: state.views[view].groups.names, stageNames: state.stages.names,
                nowUnixNano: configuration.lateness == nil ? latest : configuration.now(),
                overflowed: state.views[view].overflowed)
        }
    }
}
