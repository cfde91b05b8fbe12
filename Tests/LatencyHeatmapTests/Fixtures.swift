import Foundation
import LatencyHeatmap
import Synchronization
import TestSupport

/// A clock that stands still until it is set.
final class TestClock: Sendable {
    private let time: Mutex<UInt64>

    init(_ second: UInt64) { time = Mutex(second * 1_000_000_000) }

    var nanoseconds: UInt64 {
        get { time.withLock { $0 } }
        set { time.withLock { $0 = newValue } }
    }

    func set(second: UInt64) { nanoseconds = second * 1_000_000_000 }
}

/// 2026-11-23T08:00:00Z, a Monday.
let monday: UInt64 = 1_795_420_800
let second: UInt64 = 1_000_000_000
let millisecond: UInt64 = 1_000_000

/// An engine of a single tier whose clock is `clock`, or one for files when there is none.
func makeEngine(
    clock: TestClock? = nil, _ change: (inout HeatmapConfiguration) -> Void = { _ in }
) throws -> HeatmapEngine {
    var configuration = HeatmapConfiguration.files()
    if let clock {
        configuration = HeatmapConfiguration()
        configuration.now = { clock.nanoseconds }
        configuration.tiers = []
    }
    change(&configuration)
    return try HeatmapEngine(configuration: configuration)
}

extension HeatmapEngine {
    /// Counts latencies, in milliseconds, that ended at a second.
    func record(
        _ group: String, at unixSecond: UInt64, ms latencies: [UInt64], stage: String = "deliver", count: UInt64 = 1
    ) {
        let (stage, group) = (self.stage(stage), self.group(group))
        for latency in latencies {
            record(
                stage: stage, group: group, endUnixNano: unixSecond * second, latencyNano: latency * millisecond,
                count: count)
        }
    }

    func grid(_ items: [(name: String, value: String)] = []) throws -> HeatmapGrid {
        try snapshot(query: HeatmapQuery(items: items))
    }
}

extension HeatmapGrid {
    func row(_ group: String) -> Row? { rows.first { $0.group == group } }

    /// Everything in the grid, by a form of the report that leaves nothing out.
    var everything: String { HeatmapJSON.render(self) }
}

/// Little-endian 64-bit numbers, as Python's `struct.pack('<Q')` writes them.
struct Numbers {
    private let bytes: Data
    private var at = 0

    init(_ bytes: Data) { self.bytes = bytes }

    var isAtEnd: Bool { at + 8 > bytes.count }

    mutating func next() -> UInt64 {
        defer { at += 8 }
        return bytes.withUnsafeBytes { UInt64(littleEndian: $0.loadUnaligned(fromByteOffset: at, as: UInt64.self)) }
    }

    mutating func next(_ count: Int) -> [UInt64] { (0..<count).map { _ in next() } }
}

/// One to four changes of a message: bits, bytes, a cut, a repeated or a removed part.
func mutated(_ message: [UInt8], _ generator: inout SeededGenerator) -> [UInt8] {
    var bytes = message
    for _ in 0..<Int.random(in: 1...4, using: &generator) {
        guard !bytes.isEmpty else { return bytes }
        let at = Int.random(in: 0..<bytes.count, using: &generator)
        let end = min(bytes.count, at + Int.random(in: 1...16, using: &generator))
        switch Int.random(in: 0..<6, using: &generator) {
        case 0: bytes[at] ^= 1 << UInt8.random(in: 0..<8, using: &generator)
        case 1: bytes[at] = UInt8.random(in: 0...255, using: &generator)
        case 2: bytes[at] = [0x00, 0x7F, 0x80, 0xFF].randomElement(using: &generator) ?? 0
        case 3: bytes.removeSubrange(at..<end)
        case 4: bytes.insert(contentsOf: bytes[at..<end], at: at)
        default: bytes.removeSubrange(at...)
        }
    }
    return bytes
}
