/// Adds planes up, in any order to the same bytes.
enum PlaneMerge {
    /// Cells that stand in one plane only, and are not changed, are copied as they are.
    ///
    /// - Parameters:
    ///   - thresholds: what the cells of the sum count slow latencies by.
    ///   - shift: the finest resolution that the sum has.
    static func merge(
        _ planes: [PackedPlane], start: Int64, end: Int64, thresholds: [UInt64], shift: Int = 0,
        withExemplars: Bool = true
    ) -> PackedPlane {
        var writer = PlaneWriter(thresholds: thresholds, capacity: planes.reduce(64) { $0 + $1.bytes.count })
        var cursors = planes.map(\.cells)
        var heads = cursors.indices.map { cursors[$0].nextRaw() }
        let canCopy = planes.map { $0.thresholds == thresholds && shift == 0 && withExemplars }
        var sum = CellSum(thresholds: thresholds)
        while let key = heads.compactMap({ $0?.key }).min() {
            let having = heads.indices.filter { heads[$0]?.key == key }
            if having.count == 1, canCopy[having[0]], let head = heads[having[0]] {
                writer.copy(key: key, bytes: head.bytes)
            } else {
                sum.removeAll()
                for index in having {
                    guard let start = heads[index]?.bytes.baseAddress else { continue }
                    sum.add(
                        PackedCell(key: key, start: start, thresholds: planes[index].thresholdValues),
                        withExemplars: withExemplars)
                }
                if shift > 0 { sum.sketch.coarsen(to: shift) }
                writer.append(key, sum)
            }
            for index in having { heads[index] = cursors[index].nextRaw() }
        }
        return withExtendedLifetime(planes) { writer.seal(start: start, end: end) }
    }
}
