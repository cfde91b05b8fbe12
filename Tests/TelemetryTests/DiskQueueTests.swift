import Foundation
import TestSupport
import Testing

@testable import Telemetry

@Suite("Disk queue: files")
struct DiskQueueTests {
    private let directory = NSTemporaryDirectory() + "isotherm-queue-" + UUID().uuidString

    private func open(maxBytes: Int = 1 << 20) throws -> DiskQueue {
        try DiskQueue(directory: directory, maxBytes: maxBytes)
    }

    /// Item counts tell the batches apart: the first has 1 item, the second 2, …
    private func append(_ range: ClosedRange<Int>, bytes: Int = 100, to queue: DiskQueue) throws {
        for index in range {
            let body = [UInt8](repeating: UInt8(truncatingIfNeeded: index), count: bytes)
            try body.withUnsafeBytes { try queue.append($0, itemCount: index, sequence: UInt64(index)) }
        }
    }

    private func drain(_ queue: DiskQueue) -> [Int] {
        var items: [Int] = []
        while let head = queue.takeHead() {
            items.append(head.itemCount)
            #expect(head.body.allSatisfy { $0 == UInt8(truncatingIfNeeded: head.itemCount) })
            queue.finishHead()
        }
        return items
    }

    private func remove() { try? FileManager.default.removeItem(atPath: directory) }

    private var segments: [String] {
        ((try? FileManager.default.contentsOfDirectory(atPath: directory)) ?? [])
            .filter { $0.hasSuffix(".segment") }.sorted().map { "\(directory)/\($0)" }
    }

    @Test("batches come out in order, in this process and in the next, and done ones never again")
    func order() throws {
        defer { remove() }
        var queue: DiskQueue? = try open()
        try append(1...5, to: #require(queue))
        for expected in 1...2 {
            #expect(queue?.takeHead()?.itemCount == expected)
            queue?.finishHead()
        }
        // Taken and not finished: it is repeated.
        #expect(queue?.takeHead()?.itemCount == 3)
        #expect(queue?.status.items == 12 && queue?.status.oldestSequence == 3)
        queue = nil
        let next = try open()
        #expect(next.status.items == 12 && next.status.oldestSequence == 0)
        try append(6...7, to: next)
        #expect(drain(next) == [3, 4, 5, 6, 7])
        #expect(next.isEmpty && next.status == DiskQueueStatus() && next.takeLosses().isEmpty)
        #expect(segments.isEmpty)
    }

    @Test("a second user of the directory is refused as long as the first has it")
    func locked() throws {
        defer { remove() }
        var first: DiskQueue? = try open()
        #expect(throws: SystemError.self) { try open() }
        #expect(first != nil)
        first = nil
        _ = try open()
    }

    @Test("the oldest batches make way, and every lost item is counted", arguments: [false, true])
    func overflow(isHeadTaken: Bool) throws {
        defer { remove() }
        let queue = try open(maxBytes: 64 * 1024)
        try append(1...15, bytes: 4_064, to: queue)
        if isHeadTaken { #expect(queue.takeHead()?.itemCount == 1) }
        #expect(queue.takeLosses().isEmpty)
        try append(16...16, bytes: 4_064, to: queue)
        // At the limit: 16 records of 4,096 bytes. The next one is above.
        #expect(queue.takeLosses().isEmpty && queue.status.bytes == 64 * 1024)
        try append(17...20, bytes: 4_064, to: queue)
        #expect(queue.status.bytes <= 64 * 1024)
        let lost = queue.takeLosses()
        #expect(lost.allSatisfy { $0.reason == .queueFull && !$0.isRecovered })
        // The batch that is taken is its taker's to count.
        #expect(queue.isHeadGone == isHeadTaken)
        if isHeadTaken { queue.finishHead() }
        let left = drain(queue)
        #expect(left.last == 20 && left == Array((left.first ?? 0)...20))
        #expect(lost.reduce(isHeadTaken ? 1 : 0) { $0 + $1.itemCount } + left.reduce(0, +) == (1...20).reduce(0, +))
    }

    @Test(
        "a batch that is larger than the queue is refused",
        arguments: [(64 * 1024 - 32, true), (64 * 1024 - 31, false)])
    func tooLarge(bytes: Int, fits: Bool) throws {
        defer { remove() }
        let queue = try open(maxBytes: 64 * 1024)
        if fits {
            try append(1...1, bytes: bytes, to: queue)
            #expect(drain(queue) == [1])
        } else {
            #expect(throws: SystemError.self) { try append(1...1, bytes: bytes, to: queue) }
            #expect(queue.isEmpty)
        }
    }

    @Test("a torn tail is dropped and counted, wherever it was torn")
    func tornTail() throws {
        defer { remove() }
        for cut in [1, 50, 99, 100, 101, 120, 131] {
            remove()
            try append(1...3, to: try open())
            let file = try #require(segments.first)
            truncate(file, off_t(3 * 132 - cut))
            let queue = try open()
            #expect(drain(queue) == [1, 2])
            // Without its whole head nobody knows how many items it had; it was never reported as written.
            #expect(queue.takeLosses().reduce(0) { $0 + $1.itemCount } == (cut <= 100 ? 3 : 0))
            #expect(segments.isEmpty)
        }
    }

    @Test("damage is passed over and counted, and what is whole comes out in order")
    func damage() throws {
        defer { remove() }
        var generator = SeededGenerator(6)
        var found = 0
        for _ in 0..<400 {
            remove()
            try append(1...8, bytes: 40, to: try open())
            let file = try #require(segments.first)
            var bytes = [UInt8](try Data(contentsOf: URL(fileURLWithPath: file)))
            for _ in 0..<(1 + generator.next() % 4) {
                bytes[Int(generator.next() % UInt64(bytes.count))] ^= UInt8(1 << (generator.next() % 8))
            }
            if generator.next() % 4 == 0 { bytes.removeLast(Int(generator.next() % UInt64(bytes.count))) }
            try Data(bytes).write(to: URL(fileURLWithPath: file))
            let queue = try open()
            let known = Int(queue.status.items)
            let items = drain(queue)
            found += items.count
            #expect(items == items.sorted() && Set(items).isSubset(of: Set(1...8)))
            #expect(items.reduce(0, +) + queue.takeLosses().reduce(0) { $0 + $1.itemCount } == known)
            #expect(queue.isEmpty && queue.status.bytes == 0)
        }
        #expect(found > 400)
    }

    @Test("files of no use are no obstacle", arguments: ["", "garbage", "ISQ1"])
    func foreignFiles(text: String) throws {
        defer { remove() }
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        try Data(text.utf8).write(to: URL(fileURLWithPath: directory + "/00000000000000000007.segment"))
        try Data(text.utf8).write(to: URL(fileURLWithPath: directory + "/note.txt"))
        let queue = try open()
        try append(1...1, to: queue)
        #expect(drain(queue) == [1])
    }

    @Test("a directory that cannot be made is an error that names it")
    func noDirectory() throws {
        let error = #expect(throws: SystemError.self) {
            try DiskQueue(directory: "/proc/nowhere/queue", maxBytes: 1 << 20)
        }
        #expect(error?.description.contains("/proc/nowhere") == true)
    }
}
