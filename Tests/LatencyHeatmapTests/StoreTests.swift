import Foundation
import Synchronization
import TestSupport
import Testing

@testable import LatencyHeatmap

/// A directory that is gone when the test is.
final class ScratchDirectory {
    let path: String

    init() throws {
        path = NSTemporaryDirectory() + "heatmap-" + UUID().uuidString
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    var files: [String] { (try? FileManager.default.contentsOfDirectory(atPath: path).sorted()) ?? [] }
    func bytes(_ name: String) -> Data { FileManager.default.contents(atPath: path + "/" + name) ?? Data() }
    func write(_ name: String, _ data: Data) throws { try data.write(to: URL(fileURLWithPath: path + "/" + name)) }

    func copy() throws -> ScratchDirectory {
        let other = try ScratchDirectory()
        for file in files { try other.write(file, bytes(file)) }
        return other
    }
}

@Suite("Cells that survive a restart")
struct StoreTests {
    private func csv(_ engine: HeatmapEngine) throws -> String {
        HeatmapCSV.render(try engine.grid([("since", "2026-11-23T00:00:00Z"), ("window", "1m")]))
    }

    /// Minutes from `minutes` on, three groups and two stages each, under and above 64 values, with traces.
    private func fill(_ engine: HeatmapEngine, minutes: Range<UInt64>, seed: UInt64 = 1) {
        var generator = SeededGenerator(seed)
        for minute in minutes {
            for (group, count) in [("a", 3), ("größe \"x\"", 70), ("c", 200)] {
                for stage in ["deliver", "gateway"] {
                    for _ in 0..<count {
                        engine.record(
                            stage: engine.stage(stage), group: engine.group(group),
                            endUnixNano: (monday + minute * 60) * second
                                + UInt64.random(in: 0..<1_000, using: &generator),
                            latencyNano: UInt64.random(in: 0...(1 << 31), using: &generator),
                            traceID: (1, UInt64.random(in: 1 ... .max, using: &generator)))
                    }
                }
            }
        }
    }

    private func open(_ directory: ScratchDirectory, _ clock: TestClock) throws -> HeatmapEngine {
        let engine = try makeEngine(clock: clock) { $0.maxFuture = nil }
        try engine.persist(in: directory.path)
        return engine
    }

    @Test("a restart at any moment gives back what had been saved, packed or not, and what comes later adds to it")
    func restart() throws {
        let (directory, clock) = (try ScratchDirectory(), TestClock(monday))
        let reference = try makeEngine(clock: clock) { $0.maxFuture = nil }
        var engine = try open(directory, clock)
        for round: UInt64 in 0..<8 {
            clock.set(second: monday + round * 60 + 30)
            // New latencies, and late ones for windows that are packed.
            let from = round > 4 ? round - 4 : 0
            for each in [engine, reference] { fill(each, minutes: from..<(round + 1), seed: round) }
            engine.save()
            if round % 2 == 1 { engine.maintain() }
            if round % 3 == 2 { engine.save() }
            let before = try csv(engine)
            #expect(try before == csv(reference))
            // As after `kill -9`: nothing is closed, the files stay as they are.
            engine = try open(directory, clock)
            #expect(try csv(engine) == before, "round \(round)")
            #expect(engine.persistence?.damagedBytes == 0)
            #expect(engine.persistence?.unreadableFiles == 0)
        }
    }

    @Test("a journal that is cut off anywhere loses its last record at most, and is read on from there")
    func tornTail() throws {
        let (directory, clock) = (try ScratchDirectory(), TestClock(monday))
        let engine = try open(directory, clock)
        var states = [try csv(engine)]
        var lengths: [Int] = []
        let journal = try #require(directory.files.first { $0.hasPrefix("journal") })
        lengths.append(directory.bytes(journal).count)
        for number: UInt64 in 1...5 {
            engine.record("g\(number)", at: monday + number, ms: [number, 2 * number])
            engine.save()
            states.append(try csv(engine))
            lengths.append(directory.bytes(journal).count)
        }
        let whole = directory.bytes(journal)
        for length in Array(stride(from: lengths[0], through: whole.count, by: 5)) + lengths {
            let copy = try directory.copy()
            try copy.write(journal, whole.prefix(length))
            let read = try open(copy, clock)
            let saved = lengths.lastIndex { $0 <= length } ?? 0
            #expect(try csv(read) == states[saved], "\(length) of \(whole.count) bytes")
            #expect(read.persistence?.damagedBytes == UInt64(length - lengths[saved]))
        }
    }

    @Test("damage is found, and costs no more than what is damaged")
    func damage() throws {
        let (directory, clock) = (try ScratchDirectory(), TestClock(monday))
        let engine = try open(directory, clock)
        fill(engine, minutes: 0..<3)
        engine.save()
        clock.set(second: monday + 600)
        engine.maintain()
        let windows = directory.files.filter { $0.hasSuffix(".cells") }
        #expect(windows.count == 3)
        var generator = SeededGenerator(8)
        for file in directory.files {
            for _ in 0..<6 {
                let copy = try directory.copy()
                var bytes = Array(copy.bytes(file))
                bytes[Int.random(in: 0..<bytes.count, using: &generator)] ^=
                    1 << UInt8.random(in: 0..<8, using: &generator)
                try copy.write(file, Data(bytes))
                let read = try open(copy, clock)
                let status = try #require(read.persistence)
                #expect(status.unreadableFiles > 0 || status.damagedBytes > 0, "\(file)")
                if file.hasSuffix(".cells") { #expect(try read.grid([("window", "1m")]).windows.count <= 3) }
                read.record("new", at: monday + 590, ms: [5])
                read.save()
                #expect(try read.grid([("window", "1m")]).row("new")?.total.count == 1)
            }
        }
    }

    @Test("bytes of cells that are no cells are refused, and never read outside of themselves")
    func hostileCells() throws {
        let engine = try makeEngine()
        fill(engine, minutes: 0..<1)
        let plane = try #require(engine.read().windows.first)
        let sound = Array(plane.bytes)
        func isSound(_ bytes: [UInt8]) -> Bool {
            bytes.withUnsafeBytes {
                PackedPlane.isSound(
                    $0, thresholdCount: plane.thresholds.count, cellCount: plane.cellCount, groupCount: 4, stageCount: 8
                )
            }
        }
        #expect(isSound(sound))
        var generator = SeededGenerator(21)
        for length in stride(from: 0, to: sound.count, by: 7) { #expect(!isSound(Array(sound[..<length]))) }
        var accepted = 0
        for _ in 0..<5_000 {
            let bytes = mutated(sound, &generator)
            guard isSound(bytes) else { continue }
            accepted += 1
            // What is accepted can be read to its end.
            let memory = UnsafeMutableRawPointer.allocate(byteCount: bytes.count, alignment: 8)
            bytes.withUnsafeBytes { memory.copyMemory(from: $0.baseAddress!, byteCount: bytes.count) }
            let read = PackedPlane(
                start: plane.start, end: plane.end, thresholds: plane.thresholds, cellCount: plane.cellCount,
                bytes: UnsafeRawBufferPointer(start: memory, count: bytes.count), free: { $0.deallocate() })
            var cells = read.cells
            var sum = CellSum(thresholds: [1_000])
            while let cell = cells.next() {
                sum.add(cell)
                #expect((cell.quantile(0.95) ?? 0) <= cell.sumAndMax.max)
            }
            #expect(!sum.isEmpty)
        }
        #expect(accepted > 20)
    }

    @Test("a journal that has grown is replaced by what counts of it")
    func replacedJournal() throws {
        let (directory, clock) = (try ScratchDirectory(), TestClock(monday))
        let engine = try open(directory, clock)
        var largest = 0
        var journals: Set<String> = []
        engine.upkeep.withLock { $0.store?.smallestLimit = 64 << 10 }
        // About 1 kB each time.
        for round: UInt64 in 0..<150 {
            for group in 0..<20 { engine.record("g\(group)", at: monday + 1, ms: [round + 1]) }
            engine.save()
            let names = directory.files.filter { $0.hasPrefix("journal") }
            #expect(names.count == 1)
            journals.formUnion(names)
            largest = max(largest, names.reduce(0) { $0 + directory.bytes($1).count })
        }
        #expect(journals.count > 1)
        #expect(largest < 150 << 10)
        #expect(try csv(open(directory, clock)) == csv(engine))
    }

    @Test("windows that are forgotten are gone from the disk, and a view that comes back finds its cells")
    func retentionAndViews() throws {
        let (directory, clock) = (try ScratchDirectory(), TestClock(monday))
        func engine(_ views: [HeatmapView]) throws -> HeatmapEngine {
            let engine = try makeEngine(clock: clock) {
                $0.retainedWindows = 5
                $0.views = views
            }
            try engine.persist(in: directory.path)
            return engine
        }
        let view = HeatmapView("tenant.id")
        let first = try engine([view])
        let group = first.group("a", attributes: [("tenant.id", "acme")])
        first.record(stage: first.stage("deliver"), group: group, endUnixNano: monday * second, latencyNano: 5)
        first.save()
        clock.set(second: monday + 200)
        first.maintain()
        #expect(directory.files.filter { $0.hasSuffix(".cells") }.count == 2)
        let without = try engine([])
        #expect(without.persistence?.unreadableFiles == 1)
        without.save()
        let again = try engine([view])
        #expect(again.read(view: 1).groupNames == ["(other)", "acme"])
        #expect(again.read(view: 1).windows.count == 1)
        clock.set(second: monday + 1_000)
        again.maintain()
        #expect(directory.files.filter { $0.hasSuffix(".cells") }.isEmpty)
    }

    @Test("windows that were joined into longer ones stay joined, also when a crash leaves both")
    func rolledUp() throws {
        let (directory, clock) = (try ScratchDirectory(), TestClock(monday))
        func engine(_ directory: ScratchDirectory) throws -> HeatmapEngine {
            let engine = try makeEngine(clock: clock) {
                $0.retainedWindows = 10
                $0.tiers = [HeatmapTier(window: .seconds(300), retention: .seconds(86_400))]
            }
            try engine.persist(in: directory.path)
            return engine
        }
        let first = try engine(directory)
        for minute: UInt64 in 0..<10 {
            clock.set(second: monday + minute * 60)
            fill(first, minutes: minute..<(minute + 1), seed: minute)
            first.save()
            first.maintain()
        }
        let before = try directory.copy()
        clock.set(second: monday + 2_000)
        first.maintain()
        #expect(first.windows().map { $0.end - $0.start } == [300, 300])
        let total = try first.grid([("window", "1h"), ("since", "2026-11-23T00:00:00Z")]).everything
        #expect(try engine(directory).grid([("window", "1h"), ("since", "2026-11-23T00:00:00Z")]).everything == total)
        // The longer windows are there, and the shorter ones too, and the journal of before.
        for file in before.files { try directory.write(file, before.bytes(file)) }
        let restored = try engine(directory)
        #expect(restored.windows().map { $0.end - $0.start } == [300, 300])
        #expect(try restored.grid([("window", "1h"), ("since", "2026-11-23T00:00:00Z")]).everything == total)
    }

    @Test("a directory that cannot be used is refused by name")
    func unusable() throws {
        let directory = try ScratchDirectory()
        try directory.write("file", Data([1]))
        let engine = try makeEngine()
        let error = #expect(throws: HeatmapError.self) { try engine.persist(in: directory.path + "/file") }
        #expect(error?.code == .storage)
        #expect(error?.cause.contains(directory.path) == true)
    }

    /// RFC 3720, B.4.
    @Test("checksums are those of the standard's examples")
    func checksums() {
        let cases: [([UInt8], UInt32)] = [
            (Array(repeating: 0, count: 32), 0x8A91_36AA), (Array(repeating: 0xFF, count: 32), 0x62A8_AB43),
            (Array(0..<32), 0x46DD_794E), ((0..<32).reversed(), 0x113F_DB5C),
        ]
        for (bytes, crc) in cases { #expect(bytes.withUnsafeBytes { Checksum.crc32c($0) } == crc) }
    }
}
