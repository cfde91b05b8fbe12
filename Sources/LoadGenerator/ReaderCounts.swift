import LatencyHeatmap
import Synchronization

/// What the coordinator tells its readers, and what they tell it while they run.
final class ReaderSignals: Sendable {
    /// How many of its streams a reader shall have opened, by reader.
    let wanted = Atomic<Int>(0)
    let isCut = Atomic<Bool>(false)
    let isStopped = Atomic<Bool>(false)
    /// Events that were due from then on are measured.
    let measureFromNano = Atomic<UInt64>(.max)
    /// When all streams were back after the cut.
    let backNano = Atomic<UInt64>(.max)

    /// Streams that are open now, or stalled.
    let open = Atomic<Int>(0)
    /// Streams that will not be opened any more.
    let over = Atomic<Int>(0)
    /// Streams that were opened again.
    let back = Atomic<Int>(0)
    /// Events of this run that came for the first time, measured or not.
    let received = Atomic<Int>(0)
}

/// What a reader has counted.
struct ReaderCounts: Sendable {
    var deliveries: UInt64 = 0
    var duplicates: UInt64 = 0
    var outOfOrder: UInt64 = 0
    /// Events of this run on a stream of another channel.
    var misrouted: UInt64 = 0
    /// Events that are not of this run.
    var others: UInt64 = 0
    var bytes: UInt64 = 0
    var latencies = Sketch()
    var lastNano: UInt64 = 0
    /// Streams that the other side ended while they were open.
    var ended: UInt64 = 0
    /// Attempts that brought no stream, by reason; one that failed for good counts as often as it was tried.
    var failures: [String: Int] = [:]
    var reconnects: UInt64 = 0
    /// Attempts after the cut in each tenth of a second.
    var attemptsAfterCut: [Int] = []
    var lastBackNano: UInt64 = 0
    /// When the last event came that was due before all streams were back.
    var lastOldNano: UInt64 = 0

    mutating func merge(_ other: ReaderCounts) {
        deliveries += other.deliveries
        duplicates += other.duplicates
        outOfOrder += other.outOfOrder
        misrouted += other.misrouted
        others += other.others
        bytes += other.bytes
        latencies.merge(other.latencies)
        lastNano = max(lastNano, other.lastNano)
        ended += other.ended
        failures.merge(other.failures, uniquingKeysWith: +)
        reconnects += other.reconnects
        lastBackNano = max(lastBackNano, other.lastBackNano)
        lastOldNano = max(lastOldNano, other.lastOldNano)
        let missing = other.attemptsAfterCut.count - attemptsAfterCut.count
        if missing > 0 { attemptsAfterCut += [Int](repeating: 0, count: missing) }
        for (index, count) in other.attemptsAfterCut.enumerated() { attemptsAfterCut[index] += count }
    }
}
