import Foundation
import GRDB
import TestSupport
import Testing

@testable import EventStreams
@testable import PushPipeline

/// The journal of deliveries as a file: what is written is what is read, after a crash too, and no more than allowed.
@Suite("The journal's file")
struct DeliveryFileTests {
    /// A directory of its own, and a clock that stands where it is put.
    private final class Scratch {
        let directory = IsothermProcess.temporaryDirectory()
        var path: String { directory + "/deliveries.sqlite" }
        deinit { try? FileManager.default.removeItem(atPath: directory) }
    }

    private static let second: UInt64 = 1_000_000_000
    private static let start: UInt64 = 1_700_000_000 * second

    private func event(_ offset: UInt64, at seconds: UInt64 = 0, topic: String = "t", epoch: UInt32 = 1) -> StoredEvent
    {
        StoredEvent(
            NewEvent(topic: topic, acceptedUnixNano: Self.start + seconds * Self.second), offset: offset, epoch: epoch)
    }

    private func session(
        _ number: UInt64, _ device: String?, topic: String = "t", at seconds: UInt64 = 0, after start: UInt64 = 0,
        epoch: UInt32 = 1
    ) throws -> DeviceSession {
        DeviceSession(
            number: number, device: device, group: 1, filter: try TopicFilter([topic]),
            connectedUnixNano: Self.start + seconds * Self.second, startOffset: start, epoch: epoch)
    }

    private func closed(_ session: DeviceSession, reached: UInt64, at seconds: UInt64) -> KeptSession {
        KeptSession(
            DeliveryJournal.ClosedSession(
                session: session, reachedOffset: reached, closedUnixNano: Self.start + seconds * Self.second,
                reason: .client, isHandedOver: false))
    }

    private func batch(at seconds: UInt64, loop: Int = 0, _ change: (inout JournalSlice) -> Void) -> KeptBatch {
        var slice = JournalSlice(tenant: "acme", loop: loop)
        change(&slice)
        var batch = KeptBatch(takenUnixNano: Self.start + seconds * Self.second)
        batch.slices = [slice]
        batch.epochs = ["acme": 1]
        return batch
    }

    private func open(_ scratch: Scratch, at seconds: UInt64 = 0) throws -> DeliveryFile {
        try DeliveryFile(path: scratch.path, nowUnixNano: Self.start + seconds * Self.second)
    }

    private func write(_ batch: KeptBatch, to file: DeliveryFile) throws {
        _ = try file.write(batch) { "group \($0)" }
    }

    private func devices(_ file: DeliveryFile) throws -> [String] {
        var names: [String] = []
        try file.forEachSession(tenant: "acme") { names.append(String(decoding: $0.device, as: UTF8.self)) }
        return names
    }

    // MARK: Numbers

    @Test(
        "numbers are LEB128",
        arguments: [
            // Wikipedia's example of LEB128, protobuf's of varints, and the limits.
            (624_485, [0xE5, 0x8E, 0x26]), (150, [0x96, 0x01]), (0, [0]), (127, [0x7F]), (128, [0x80, 1]),
            (.max, [UInt8](repeating: 0xFF, count: 9) + [0x01]),
        ] as [(UInt64, [UInt8])])
    func numbers(value: UInt64, bytes: [UInt8]) {
        var writer = PackedWriter()
        writer.append(value)
        #expect(writer.bytes == bytes)
        bytes.withUnsafeBytes {
            var reader = PackedReader($0)
            #expect(reader.next() == value && reader.isAtEnd && reader.next() == nil)
        }
    }

    @Test(
        "differences of either sign are small, as protobuf's sint64 has them",
        arguments: [
            (0 as Int64, 0 as UInt8), (-1, 1), (1, 2), (-2, 3), (63, 126), (-64, 127),
        ])
    func differences(value: Int64, byte: UInt8) {
        for base: UInt64 in [0, 1_000, .max] {
            var writer = PackedWriter()
            writer.append(base &+ UInt64(bitPattern: value), since: base)
            #expect(writer.bytes == [byte])
            writer.bytes.withUnsafeBytes {
                var reader = PackedReader($0)
                #expect(reader.next(since: base) == base &+ UInt64(bitPattern: value))
            }
        }
    }

    @Test("bytes that end early, and a text longer than they are, are none")
    func shortBytes() {
        for bytes in [[0x80], [0x05, 0x61], [UInt8](repeating: 0xFF, count: 11)] as [[UInt8]] {
            bytes.withUnsafeBytes {
                var reader = PackedReader($0)
                #expect(reader.nextText() == nil)
            }
        }
    }

    @Test(
        "a ring tells what is new, and how much of it has left",
        arguments: [
            (0, [] as [Int], 0), (3, [0, 1, 2], 0), (4, [0, 1, 2, 3], 0), (5, [1, 2, 3, 4], 1), (11, [7, 8, 9, 10], 7),
        ])
    func ring(appended: Int, new: [Int], lost: UInt64) {
        var ring = BoundedRing<Int>(limit: 4)
        for number in 0..<appended { ring.append(number) }
        #expect(ring.since(0).elements == new && ring.since(0).lost == lost)
        let seen = ring.appended
        #expect(ring.since(seen).elements.isEmpty && ring.since(seen).lost == 0)
        ring.append(99)
        #expect(ring.since(seen).elements == [99] && ring.since(seen).lost == 0)
    }

    // MARK: Writing and reading

    @Test("broadcasts, acknowledgements and receipts are found by their event, on each loop")
    func found() throws {
        let scratch = Scratch()
        let file = try open(scratch)
        // Either side of a block's edge, and not in order.
        let places: [UInt64] = [1_022, 1_023, 1_025, 1_024, 1]
        for loop in 0..<2 {
            try write(
                batch(at: 1, loop: loop) { slice in
                    slice.broadcasts = places.map {
                        .init(offset: $0, begunUnixNano: 0, endedUnixNano: Self.start + $0 + UInt64(loop) * 5_000)
                    }
                    slice.acknowledgements = [
                        Acknowledgement(offset: 1_024, session: 7, atUnixNano: Self.start + 9)
                    ]
                }, to: file)
        }
        var receipts = batch(at: 2) { _ in }
        func receipt(_ offset: UInt64, _ device: String, _ uncertainty: UInt64?) -> DeviceReceipt {
            DeviceReceipt(
                offset: offset, device: device, group: "g", receivedUnixNano: Self.start + offset,
                clockOffsetNano: -3_600, clockUncertaintyNano: uncertainty)
        }
        receipts.receipts = [
            ("acme", [receipt(1_024, "é", 0), receipt(1_023, "b", 5), receipt(1_024, "a", nil)], 0)
        ]
        try write(receipts, to: file)

        for place in places {
            let known = try #require(try file.known(of: event(place), tenant: "acme"))
            #expect(known.broadcasts == [0: Self.start + place, 1: Self.start + place + 5_000])
            #expect(known.acknowledgements == (place == 1_024 ? [7: Self.start + 9] : [:]))
        }
        let known = try #require(try file.known(of: event(1_024), tenant: "acme"))
        #expect(known.receipts.map(\.device) == ["é", "a"] && known.receipts.map(\.clockUncertaintyNano) == [0, nil])
        #expect(known.receipts.allSatisfy { $0.clockOffsetNano == -3_600 && $0.receivedUnixNano == Self.start + 1_024 })
        #expect(known.sinceUnixNano == Self.start && known.gaps.isEmpty)
        #expect(try file.known(of: event(2), tenant: "acme")?.broadcasts == [:])
        #expect(try file.known(of: event(1), tenant: "globex") == nil, "another tenant")
        // The place was another event's before a crash has taken it back.
        #expect(try file.known(of: event(1_024, epoch: 2), tenant: "acme")?.broadcasts == [:])
        #expect(try file.known(of: event(1_024, epoch: 2), tenant: "acme")?.receipts.isEmpty == true)
    }

    @Test("sessions come by the bytes of their devices' names, with what they asked for and their runs")
    func sessions() throws {
        let scratch = Scratch()
        let file = try open(scratch)
        var caughtUp = try session(5, "d", after: 100)
        for index in 0..<18 as Range<UInt64> {
            caughtUp.wrote(
                after: 100 + index * 10, through: 109 + index * 10, atUnixNano: Self.start + index * Self.second)
        }
        let types = DeviceSession(
            number: 6, device: nil, group: 2, filter: try TopicFilter(["a.*", "b"], types: ["x", "line\nfeed"]),
            connectedUnixNano: Self.start, startOffset: 0, epoch: 1)
        try write(
            batch(at: 1) { slice in
                slice.sessions = [
                    closed(caughtUp, reached: 300, at: 30), closed(types, reached: 1, at: 1),
                    // The same for Unicode, and two devices here.
                    closed(try! session(8, "e\u{301}"), reached: 1, at: 1),
                    closed(try! session(9, "\u{e9}"), reached: 1, at: 1),
                    closed(try! session(7, "Z"), reached: 1, at: 1),
                ]
            }, to: file)
        #expect(try devices(file) == ["", "Z", "d", "e\u{301}", "\u{e9}"])
        try file.forEachSession(tenant: "acme") { row in
            switch row.number {
            case 5:
                func run(_ offset: UInt64) -> DeviceSession.Run? {
                    KeptRuns.run(
                        holding: offset, in: row.runs, startOffset: row.startOffset,
                        connectedUnixNano: row.connectedUnixNano)
                }
                for offset in 100...300 as ClosedRange<UInt64> {
                    let (kept, held) = (run(offset), caughtUp.run(holding: offset))
                    #expect(kept?.writtenUnixNano == held?.writtenUnixNano && kept?.isMerged == held?.isMerged)
                }
                #expect(run(129)?.isMerged == true && run(139)?.isMerged == false && run(281) == nil)
                #expect(row.reachedOffset == 300 && row.closed.atUnixNano == Self.start + 30 * Self.second)
                #expect(String(decoding: row.group, as: UTF8.self) == "group 1")
            case 6:
                let filter = try #require(KeptFilter.filter(row.filter))
                #expect(filter.matches(topic: "a.c") && filter.matches(topic: "b") && !filter.matches(topic: "a"))
                #expect(filter.matches(type: "x") && !filter.matches(type: "line") && !filter.matches(type: nil))
            default: #expect(row.runs.isEmpty)
            }
        }
    }

    @Test(
        "after a crash open sessions end where they were known to be, and the time of which nothing is known is a gap")
    func crash() throws {
        let scratch = Scratch()
        var file: DeliveryFile? = try open(scratch)
        let live = try session(1, "live", at: 1)
        let behind = try session(2, "behind", at: 1)
        let otherLoop = try session(1 << 48 | 3, "other", at: 1)
        func kept(_ session: DeviceSession, reached: UInt64?) -> KeptSession {
            KeptSession(session: session, isNew: true, reachedOffset: reached, closed: nil)
        }
        try write(
            batch(at: 2) { slice in
                slice.sessions = [kept(live, reached: nil), kept(behind, reached: 4)]
                slice.liveThrough = 10
            }, to: try #require(file))
        try write(
            batch(at: 2, loop: 1) { slice in
                slice.sessions = [kept(otherLoop, reached: nil)]
                slice.liveThrough = 6
            }, to: try #require(file))
        #expect(try devices(try #require(file)) == [], "open ones are told by memory")
        try write(batch(at: 3) { $0.liveThrough = 12 }, to: try #require(file))
        file = nil

        let again = try open(scratch, at: 9)
        var reached: [String: UInt64] = [:]
        try again.forEachSession(tenant: "acme") { row in
            reached[String(decoding: row.device, as: UTF8.self)] = row.reachedOffset
            #expect(row.closed.reason == .serverLost && row.closed.atUnixNano == Self.start + 3 * Self.second)
        }
        #expect(reached == ["live": 12, "behind": 4, "other": 6])
        let known = try #require(try again.known(of: event(1), tenant: "acme"))
        #expect(known.gaps.map(\.fromUnixNano) == [Self.start + 3 * Self.second])
        #expect(known.gaps.map(\.untilUnixNano) == [Self.start + 9 * Self.second])
        #expect(known.sinceUnixNano == Self.start)
        #expect(try again.known(of: event(13, at: 8), tenant: "acme")?.gaps.count == 1)
        #expect(try again.known(of: event(13, at: 9), tenant: "acme")?.gaps.isEmpty == true, "accepted after it")

        try again.close()
        let clean = try open(scratch, at: 20)
        #expect(try clean.known(of: event(1), tenant: "acme")?.gaps.count == 1, "a clean end leaves none")
    }

    @Test("there are at most 64 gaps: the oldest two become one")
    func manyGaps() throws {
        let scratch = Scratch()
        var file: DeliveryFile? = try open(scratch)
        try write(batch(at: 1) { $0.liveThrough = 1 }, to: try #require(file))
        func gaps() throws -> [(fromUnixNano: UInt64, untilUnixNano: UInt64)] {
            try file?.known(of: event(1), tenant: "acme")?.gaps ?? []
        }
        for crash in 1...66 as ClosedRange<UInt64> {
            file = nil
            file = try open(scratch, at: crash * 10)
            try write(batch(at: crash * 10 + 1) { $0.liveThrough = crash }, to: try #require(file))
            #expect(try gaps().count == min(64, Int(crash)))
        }
        #expect(try gaps().first?.fromUnixNano == Self.start + Self.second)
        #expect(try gaps().first?.untilUnixNano == Self.start + 30 * Self.second, "three became one")
    }

    @Test("rows that left memory are a gap, and sessions whose end was lost are not taken for delivered")
    func lostRows() throws {
        let scratch = Scratch()
        let file = try open(scratch)
        func kept(_ number: UInt64) throws -> KeptSession {
            KeptSession(session: try session(number, "d\(number)"), isNew: true, reachedOffset: nil, closed: nil)
        }
        let open = try [kept(1), kept(2), kept(3)]
        try write(batch(at: 1) { $0.sessions = open }, to: file)
        try write(
            batch(at: 5) { slice in
                slice.lostRows = 2
                slice.hasLostEnds = true
                slice.open = [2]
            }, to: file)
        try file.pool.close()
        let again = try self.open(scratch, at: 9)
        #expect(try devices(again) == ["d2"])
        let gaps = try #require(try again.known(of: event(1), tenant: "acme")).gaps
        #expect(gaps.map(\.fromUnixNano) == [1, 5].map { Self.start + $0 * Self.second })
        #expect(gaps.map(\.untilUnixNano) == [5, 9].map { Self.start + $0 * Self.second })
    }

    // MARK: Bounds

    private func fill(_ file: DeliveryFile, seconds: ClosedRange<UInt64>) throws {
        for second in seconds {
            let ended = closed(try session(second, "device-\(second)", at: second), reached: second, at: second)
            try write(
                batch(at: second) { slice in
                    slice.broadcasts = [
                        .init(offset: second, begunUnixNano: 0, endedUnixNano: Self.start + second * Self.second)
                    ]
                    slice.sessions = [ended]
                }, to: file)
        }
    }

    @Test("beyond the bytes of a tenant the oldest go, down to seven eighths; at the bytes nothing does")
    func bytes() throws {
        let scratch = Scratch()
        let file = try open(scratch)
        try fill(file, seconds: 1...400)
        let full = try #require(file.tenants["acme"]?.bytes)
        for limit in [full + 1, full] { #expect(try file.trim("acme", toBytes: limit) == 0) }
        #expect(try devices(file).count == 400)
        let removed = try file.trim("acme", toBytes: full - 1)
        let left = try #require(file.tenants["acme"]?.bytes)
        #expect(left <= (full - 1) / 8 * 7 && left > full / 8 * 6 && removed > 80)
        let known = try #require(try file.known(of: event(1), tenant: "acme"))
        #expect(known.broadcasts == [:] && known.sinceUnixNano > Self.start + 40 * Self.second)
        #expect(try file.known(of: event(400), tenant: "acme")?.broadcasts[0] != nil)
        #expect(try devices(file).contains("device-400") && !devices(file).contains("device-1"))
        // What is counted is what is there, after a restart too.
        try file.close()
        #expect(try open(scratch, at: 500).tenants["acme"]?.bytes == left)
    }

    @Test("what is older than the first event that is retained goes, once it is a sixteenth of the time")
    func retention() throws {
        let scratch = Scratch()
        let file = try open(scratch)
        try fill(file, seconds: 1...160)
        let now = Self.start + 160 * Self.second
        #expect(try file.trim("acme", before: Self.start, nowUnixNano: now) == 0)
        #expect(try file.trim("acme", before: Self.start + 10 * Self.second - 1, nowUnixNano: now) == 0)
        // Nine broadcasts and nine sessions, of the seconds before the tenth.
        #expect(try file.trim("acme", before: Self.start + 10 * Self.second, nowUnixNano: now) == 18)
        #expect(try devices(file).count == 151)
        #expect(try file.known(of: event(9), tenant: "acme")?.broadcasts == [:])
        #expect(try file.known(of: event(10), tenant: "acme")?.broadcasts[0] == Self.start + 10 * Self.second)
        #expect(try file.known(of: event(10), tenant: "acme")?.sinceUnixNano == Self.start + 10 * Self.second)
    }

    // MARK: Damage

    @Test("a file of another version, of another program, or with a damaged row is refused and not overwritten")
    func damage() throws {
        let scratch = Scratch()
        try DatabaseQueue(path: scratch.path).write { try $0.execute(sql: "CREATE TABLE cats (name TEXT)") }
        #expect(throws: DeliveryFile.Damage.self) { try open(scratch) }
        let other = Scratch()
        try open(other).pool.writeWithoutTransaction { try $0.execute(sql: "PRAGMA user_version = 2") }
        #expect(throws: DeliveryFile.Damage.self) { try open(other) }
        let third = Scratch()
        let file = try open(third)
        try fill(file, seconds: 1...3)
        try file.pool.write {
            try $0.execute(sql: "UPDATE slices SET entries = x'80' WHERE written = (SELECT min(written) FROM slices)")
        }
        #expect(throws: DeliveryFile.Damage.self) { try file.known(of: event(1), tenant: "acme") }
    }
}
