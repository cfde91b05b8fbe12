import Synchronization

/// All latencies of one group and stage since the engine was made, whatever windows they are in. It only grows: what comes
/// late is in it, and what is forgotten stays in it, until the group itself is forgotten to make room for others.
public struct HeatmapTotal: Sendable {
    public let group: String
    public let stage: String
    public let sketch: Sketch
}

/// Windows of the first view are added up when nothing comes to them any more, so that nobody who counts pays for it.
final class Totals: Sendable {
    let sum = Mutex<PackedPlane?>(nil)
}

extension HeatmapEngine {
    /// Of the first view, by group and stage; empty unless `HeatmapConfiguration.keepsTotals` is set.
    public func totals() -> [HeatmapTotal] {
        guard configuration.keepsTotals else { return [] }
        let (plane, groups, stages) = runningTotals.sum.withLock { sum in
            // Together: a window that is closed after this is still read where it is, and added the next time.
            let (closed, open, groups, stages) = locked { state in
                defer { state.closed = [] }
                let view = state.views[0]
                return (state.closed, view.slots.values.compactMap(\.open), view.groups.names, state.stages.names)
            }
            add(closed, to: &sum)
            let now = open.map { plane in locked { _ in plane.packed() } }
            return (PlaneMerge.merge([sum].compactMap(\.self) + now, start: 0, end: 1, thresholds: []), groups, stages)
        }
        var found: [HeatmapTotal] = []
        var cells = plane.cells
        while let cell = cells.next(stages: .max) {
            guard cell.group < groups.count, cell.stage < stages.count else { continue }
            var sketch = Sketch()
            sketch.merge(cell)
            found.append(HeatmapTotal(group: groups[cell.group], stage: stages[cell.stage], sketch: sketch))
        }
        return found
    }

    /// So that closed windows do not wait for somebody to ask.
    func addClosedToTotals() {
        guard configuration.keepsTotals else { return }
        runningTotals.sum.withLock { sum in
            let closed = locked { state in
                defer { state.closed = [] }
                return state.closed
            }
            add(closed, to: &sum)
        }
    }

    func add(_ closed: [OpenPlane], to sum: inout PackedPlane?) {
        guard !closed.isEmpty else { return }
        sum = PlaneMerge.merge(
            [sum].compactMap(\.self) + closed.map { $0.packed() }, start: 0, end: 1, thresholds: [],
            withExemplars: false)
    }
}
