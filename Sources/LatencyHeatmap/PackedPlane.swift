import Glibc

/// The cells of one window of one view, packed into one piece of memory that never changes: it can be kept, shared between
/// threads, and read without a lock.
final class PackedPlane: @unchecked Sendable {  // never written after `init`
    /// In seconds since 1970: from `start` up to, not including, `end`.
    let start: Int64
    let end: Int64
    /// What the cells' counters of slow latencies count by, in nanoseconds.
    let thresholds: [UInt64]
    /// The same, for cells that are read in place.
    let thresholdValues: UnsafeBufferPointer<UInt64>
    let cellCount: Int
    /// The cells, one after the other, by group, then stage.
    let bytes: UnsafeRawBufferPointer
    private let free: (UnsafeRawBufferPointer) -> Void

    /// Takes over the memory, and gives it to `free` in the end.
    init(
        start: Int64, end: Int64, thresholds: [UInt64], cellCount: Int, bytes: UnsafeRawBufferPointer,
        free: @escaping (UnsafeRawBufferPointer) -> Void
    ) {
        self.start = start
        self.end = end
        self.thresholds = thresholds
        let values = UnsafeMutableBufferPointer<UInt64>.allocate(capacity: thresholds.count)
        _ = values.initialize(from: thresholds)
        thresholdValues = UnsafeBufferPointer(values)
        self.cellCount = cellCount
        self.bytes = bytes
        self.free = free
    }

    deinit {
        free(bytes)
        thresholdValues.deallocate()
    }

    /// What it takes in memory.
    var byteCount: Int { bytes.count + 128 }

    var cells: PackedCells { PackedCells(self) }

    /// A plane that leaves out some cells, by key.
    func without(_ isGone: (_ key: UInt64) -> Bool) -> PackedPlane {
        var writer = PlaneWriter(thresholds: thresholds, capacity: bytes.count)
        var cells = cells
        while let cell = cells.nextRaw() {
            if !isGone(cell.key) { writer.copy(key: cell.key, bytes: cell.bytes) }
        }
        return withExtendedLifetime(self) { writer.seal(start: start, end: end) }
    }
}

/// Goes through a plane's cells, by group, then stage.
struct PackedCells {
    private let plane: PackedPlane
    private let thresholds: UnsafeBufferPointer<UInt64>
    private var at: UnsafePointer<UInt8>
    private let end: UnsafePointer<UInt8>
    private var key: UInt64 = 0

    init(_ plane: PackedPlane) {
        self.plane = plane
        thresholds = plane.thresholdValues
        let start = plane.bytes.assumingMemoryBound(to: UInt8.self).baseAddress ?? PackedCells.nowhere
        at = start
        end = start + plane.bytes.count
    }

    nonisolated(unsafe) private static let nowhere = UnsafePointer(UnsafeMutablePointer<UInt8>.allocate(capacity: 8))

    @inline(__always)
    mutating func next() -> PackedCell? {
        guard at < end else { return nil }
        key &+= PackedCell.varint(&at)
        let length = Int(PackedCell.varint(&at))
        let start = at
        at += length
        return PackedCell(key: key, start: start, thresholds: thresholds)
    }

    /// The next cell's key and bytes, as `PlaneWriter.copy` takes them.
    mutating func nextRaw() -> (key: UInt64, bytes: UnsafeBufferPointer<UInt8>)? {
        guard at < end else { return nil }
        key &+= PackedCell.varint(&at)
        let length = Int(PackedCell.varint(&at))
        let start = at
        at += length
        return (key, UnsafeBufferPointer(start: start, count: length))
    }

    /// The next cell of one of these stages; bit s for stage s.
    @inline(__always)
    mutating func next(stages: UInt64) -> PackedCell? {
        while at < end {
            key &+= PackedCell.varint(&at)
            let length = Int(PackedCell.varint(&at))
            let start = at
            at += length
            if stages >> (key & 63) & 1 == 1 { return PackedCell(key: key, start: start, thresholds: thresholds) }
        }
        return nil
    }
}
