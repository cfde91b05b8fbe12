import Foundation
import TestSupport
import Testing

@testable import EventStreams

/// `StreamTorture` as a child: see its main.swift for what it prints.
final class TortureProcess {
    let process = Process()
    private let output = Pipe()
    private var buffer: [UInt8] = []

    init(_ directory: ScratchDirectory, _ durability: Durability, round: Int) throws {
        process.executableURL = URL(fileURLWithPath: IsothermProcess.executable)
            .deletingLastPathComponent().appendingPathComponent("StreamTorture")
        process.arguments = [directory.path, durability.rawValue, "\(round)"]
        process.standardOutput = output
        try process.run()
        // The child alone must hold the writing end, or its death would not end the reading.
        try output.fileHandleForWriting.close()
    }

    deinit {
        killNow()
    }

    /// The next line; nil after the last whole one.
    func line() -> String? {
        while true {
            if let end = buffer.firstIndex(of: 10) {
                defer { buffer.removeSubrange(...end) }
                return String(decoding: buffer[..<end], as: UTF8.self)
            }
            let data = output.fileHandleForReading.availableData
            if data.isEmpty { return nil }
            buffer += data
        }
    }

    func killNow() {
        if process.isRunning { kill(process.processIdentifier, SIGKILL) }
        process.waitUntilExit()
    }
}

@Suite("The process is killed while it appends")
struct TortureTests {
    let directory = ScratchDirectory()

    private struct Name: Hashable {
        var round: Int
        var thread: Int
        var serial: Int

        init?(_ text: some StringProtocol) {
            let parts = text.split(separator: "/").compactMap { Int($0) }
            guard parts.count == 3 else { return nil }
            (round, thread, serial) = (parts[0], parts[1], parts[2])
        }

        /// As StreamTorture makes it.
        var payload: [UInt8] {
            Array("\(round)/\(thread)/\(serial)|".utf8)
                + (0..<serial * 37 % 3_000).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ serial) }
        }
    }

    private struct Told {
        var acknowledged: [(id: String, name: Name)] = []
        var seen: [(id: String, name: Name)] = []

        mutating func add(_ line: String) throws {
            let parts = line.split(separator: " ")
            try #require(parts.count == 3, "a line of the child: \(line)")
            let entry = (String(parts[1]), try #require(Name(parts[2])))
            if parts[0] == "A" { acknowledged.append(entry) } else { seen.append(entry) }
        }
    }

    @Test(
        "nothing acknowledged is lost, nothing is there twice, and cursors go on, over five kills",
        arguments: Durability.allCases)
    func kills(_ durability: Durability) throws {
        var generator = SeededGenerator(77)
        var consumed: [StoredEvent] = []
        var cursor: String?
        var firstIDs: [(id: String, offset: UInt64)] = []
        var headBefore: UInt64 = 0
        for round in 1...5 {
            let goal = Int.random(in: 50...1_500, using: &generator)
            var told = Told()
            do {
                let child = try TortureProcess(directory, durability, round: round)
                while told.acknowledged.count < goal {
                    try told.add(try #require(child.line(), "the child lives until it is killed"))
                }
                child.killNow()
                #expect(child.process.terminationReason == .uncaughtSignal)
                // What was told before the kill and not read yet counts too.
                while let line = child.line() { try told.add(line) }
            }
            let store = try directory.open()
            let stream = try store.stream(tenant: "torture")
            let stored = try stream.all()
            #expect(stored.map(\.offset) == Array(1...UInt64(stored.count)), "no hole, nothing twice")
            #expect(stream.head == UInt64(stored.count))

            // Each is whole and there once, and of each thread a prefix in its order.
            var byName: [Name: StoredEvent] = [:]
            var next: [[Int]: Int] = [:]
            for event in stored {
                let name = try #require(Name(String(decoding: event.payload.prefix { $0 != 124 }, as: UTF8.self)))
                if event.payload != name.payload { Issue.record("the payload of \(name) is damaged") }
                if byName.updateValue(event, forKey: name) != nil { Issue.record("\(name) is there twice") }
                let serial = next[[name.round, name.thread], default: 0]
                if name.serial != serial { Issue.record("\(name) where \(serial) was due") }
                next[[name.round, name.thread]] = serial + 1
            }

            // Acknowledged: there, under the told id.
            var lost = 0
            for (id, name) in told.acknowledged {
                guard let event = byName[name] else {
                    lost += 1
                    continue
                }
                if stream.id(of: event) != id { Issue.record("\(name) has another id") }
                if stream.resolve(id) != .position(event.offset) { Issue.record("\(name): \(stream.resolve(id))") }
            }
            if durability != .memory { #expect(lost == 0, "of \(told.acknowledged.count) acknowledged") }

            // A device that saw events before they were durable misses nothing that survived.
            if let last = told.seen.last {
                guard case .position(let position) = stream.resolve(last.id) else {
                    Issue.record("the last seen id is \(stream.resolve(last.id))")
                    return
                }
                let seen = Set(told.seen.map(\.name))
                let skipped = byName.filter {
                    $0.value.offset > headBefore && $0.value.offset <= position && !seen.contains($0.key)
                }
                #expect(skipped.isEmpty)
            }

            // A cursor kept over all rounds reads the whole log, each event once.
            var position: UInt64 = 0
            if let cursor {
                guard case .position(let resolved) = stream.resolve(cursor) else {
                    Issue.record("the cursor is \(stream.resolve(cursor))")
                    return
                }
                position = resolved
            }
            consumed += try stream.all(after: position, limit: 64)
            #expect(consumed.map(\.offset) == stored.map(\.offset))
            cursor = consumed.last.map { stream.id(of: $0) }
            if let first = told.acknowledged.first, let event = byName[first.name] {
                firstIDs.append((first.id, event.offset))
            }
            for (id, offset) in firstIDs { #expect(stream.resolve(id) == .position(offset)) }

            // The producer that did not hear of its last events sends them again.
            for (id, name) in told.acknowledged.suffix(20) where byName[name] != nil {
                let again = NewEvent(
                    topic: "torture", payload: name.payload, acceptedUnixNano: WallClock.unixNano(),
                    idempotencyKey: "\(name.round)/\(name.thread)/\(name.serial)")
                let receipt = try #require(try stream.appendAndWait([again]).first)
                #expect(receipt.isDuplicate && receipt.id == id)
            }
            #expect(stream.epoch == UInt32(2 * round))
            headBefore = stream.head
            // Every second opening ends uncleanly too: the killed child's epoch and this one's.
            store.close(.abandon)
        }
    }

    @Test("a directory that another process holds is refused, and free when it died")
    func twoProcesses() throws {
        let child = try TortureProcess(directory, .written, round: 1)
        while !(try #require(child.line())).hasPrefix("A ") {}
        let error = try failure { _ = try directory.open() }
        #expect(error.code == .incompatible)
        #expect(error.cause.contains(directory.path))
        #expect(error.cause.contains("process \(child.process.processIdentifier)"))
        child.killNow()
        let store = try directory.open()
        // And the other way round.
        let second = try TortureProcess(directory, .written, round: 2)
        #expect(second.line() == nil)
        second.process.waitUntilExit()
        #expect(second.process.terminationReason == .exit)
        #expect(second.process.terminationStatus == 1)
        #expect(try store.stream(tenant: "torture").head > 0)
    }

    private func torture(_ arguments: [String], under command: [String] = []) throws -> Peers.Output {
        let executable = URL(fileURLWithPath: IsothermProcess.executable)
            .deletingLastPathComponent().appendingPathComponent("StreamTorture").path
        let all = command + [executable] + arguments
        return try Peers.run("/usr/bin/env", all, expected: nil)
    }

    // By hand: .build/debug/StreamTorture kills DIRECTORY fsync 1000
    @Test(
        "a process that is killed at random moments loses nothing that it acknowledged", arguments: Durability.allCases)
    func randomKills(_ durability: Durability) throws {
        let output = try torture(["kills", directory.path, durability.rawValue, "8"])
        #expect(output.text.contains("killed 8 times"), "\(output.text) \(output.standardError)")
    }

    @Test("a full disk refuses appends, harms nothing, and is used again when there is room", arguments: [true, false])
    func fullDisk(isLimited: Bool) throws {
        // A file system of its own where a namespace may be had; a limit on the size of files everywhere.
        let shell = [
            "unshare", "-rm", "sh", "-c", "mount -t tmpfs -o size=4m tmpfs \"$0\" && exec \"$@\"", directory.path,
        ]
        let canMount = try Peers.run("/usr/bin/env", shell + ["true"], expected: nil).status == 0
        let output =
            isLimited || !canMount
            ? try torture(["full", directory.path, "1500000"])
            : try torture(["full", directory.path + "/log", "0"], under: shell)
        let lines = output.text.split(separator: "\n").map { $0.split(separator: " ").map(String.init) }
        try #require(lines.count == 6, "\(output.text) \(output.standardError)")
        let before = try #require(Int(lines[0][1]))
        #expect(before > 10)
        #expect(lines[0] == ["full", "\(before)", "storage_full"])
        #expect(lines[1] == ["kept", "\(before)"])
        #expect(lines[2] == ["refused", "storage_full"])
        #expect(lines[3] == ["again", "20"])
        #expect(lines[4] == ["kept", "\(before + 20)"])
        #expect(lines[5] == ["problems", "0", "\(before + 20)"])
    }
}
