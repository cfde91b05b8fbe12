import EventStreams
import Foundation

/// Kills a publishing process again and again, and checks after each kill what the log holds.
struct Killer {
    let directory: String
    let durability: Durability

    private struct Failure: Error, CustomStringConvertible {
        let description: String
        init(_ description: String) { self.description = description }
    }

    /// What the checks need to know of the rounds before.
    private struct Past {
        var head: UInt64 = 0
        /// The highest epoch of any id that was told to anybody.
        var epoch: UInt32 = 0
        var events = 0
        var acknowledged = 0
        var seenOnly = 0
        var lostMemory = 0
    }

    func run(kills: Int) throws {
        var past = Past()
        let start = ContinuousClock.now
        for round in 1...max(1, kills) {
            let lines = try runAndKill(round, after: .milliseconds(Int.random(in: 20...250)))
            try check(round, lines, &past)
            if round % 50 == 0 { tell("after \(round) kills: \(summary(past))") }
        }
        // Everything once more, from the first event on.
        let found = try LogInspection(directory: directory).verify()
        guard found.problemCount == 0 else { throw Failure("\(found.problems)") }
        guard past.acknowledged > 0 else { throw Failure("nothing was acknowledged in \(kills) rounds") }
        tell("killed \(kills) times in \((ContinuousClock.now - start) / .seconds(1)) s: \(summary(past))")
    }

    private func summary(_ past: Past) -> String {
        "\(past.acknowledged) events acknowledged, \(past.events) stored, \(past.seenOnly) seen and not stored, "
            + "\(past.lostMemory) acknowledged from memory and lost, 0 acknowledged as durable and lost, 0 repeated"
    }

    /// What the process told before it died. It may die while it opens the log.
    private func runAndKill(_ round: Int, after delay: Duration) throws -> [(kind: Character, id: String, name: String)]
    {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: CommandLine.arguments[0])
        process.arguments = [directory, durability.rawValue, "\(round)"]
        let output = Pipe()
        process.standardOutput = output
        try process.run()
        try output.fileHandleForWriting.close()
        let pid = process.processIdentifier
        // Half of them from its start on: it may die while it opens the log. The others when it is at work.
        let reading = output.fileHandleForReading
        var data = round % 2 == 0 ? reading.availableData : Data()
        Thread.detachNewThread {
            usleep(UInt32(delay / .microseconds(1)))
            kill(pid, SIGKILL)
        }
        data += reading.readDataToEndOfFile()
        let text = String(decoding: data, as: UTF8.self)
        process.waitUntilExit()
        guard process.terminationReason == .uncaughtSignal else {
            throw Failure("round \(round): the process ended by itself, status \(process.terminationStatus)")
        }
        return try text.split(separator: "\n", omittingEmptySubsequences: false).dropLast().map { line in
            let parts = line.split(separator: " ")
            guard parts.count == 3, let kind = parts[0].first else { throw Failure("round \(round): line \(line)") }
            return (kind, String(parts[1]), String(parts[2]))
        }
    }

    private func check(
        _ round: Int, _ lines: [(kind: Character, id: String, name: String)], _ past: inout Past
    ) throws {
        // It may have died before it made a log, or its own in it.
        guard FileManager.default.fileExists(atPath: directory + "/log.sqlite") || !lines.isEmpty else { return }
        let log = try LogInspection(directory: directory)
        guard let tenant = log.tenants.first(where: { $0.name == "torture" }) else {
            guard lines.isEmpty else { throw Failure("round \(round): \(lines.count) lines and no log") }
            return
        }
        let ids = log.ids(of: tenant)
        var told: [String: String] = [:]
        for line in lines {
            if let other = told.updateValue(line.name, forKey: line.id), other != line.name {
                throw Failure("round \(round): \(line.id) was told for \(other) and for \(line.name)")
            }
        }
        let acknowledged = Set(lines.filter { $0.kind == "A" }.map(\.id))

        var stored = Set<String>()
        var next: [Int: Int] = [:]
        var place = past.head
        var previous = past.head
        var epoch = past.epoch
        while true {
            let events = try log.read(tenant, after: place, limit: 1_000)
            guard let last = events.last else { break }
            for event in events {
                let id = ids.id(of: event)
                let name = String(decoding: event.payload.prefix { $0 != 124 }, as: UTF8.self)
                let parts = name.split(separator: "/").compactMap { Int($0) }
                guard parts.count == 3, parts[0] == round else { throw Failure("round \(round): \(name) is new") }
                guard event.payload == Array((name + "|").utf8) + filler(parts[2]) else {
                    throw Failure("round \(round): the payload of \(name) is damaged")
                }
                // Of each thread a prefix in its order: none is missing between, none is there twice.
                guard parts[2] == next[parts[1], default: 0] else {
                    throw Failure("round \(round): \(name) where \(next[parts[1], default: 0]) was due")
                }
                next[parts[1]] = parts[2] + 1
                guard event.offset == previous + 1 else {
                    throw Failure("round \(round): offset \(event.offset) after \(previous)")
                }
                previous = event.offset
                // An epoch that somebody has heard of in an earlier round is over: no id of it is given out again.
                guard event.epoch > past.epoch else {
                    throw Failure("round \(round): \(name) has epoch \(event.epoch), which had ended")
                }
                if let other = told[id], other != name {
                    throw Failure("round \(round): \(id) was told for \(other) and belongs to \(name)")
                }
                epoch = max(epoch, event.epoch)
                stored.insert(id)
            }
            place = last.offset
        }
        let lost = acknowledged.subtracting(stored)
        guard durability == .memory || lost.isEmpty else {
            throw Failure("round \(round): \(lost.count) of \(acknowledged.count) acknowledged events are lost")
        }
        past.lostMemory += lost.count
        past.acknowledged += acknowledged.count
        past.seenOnly += Set(told.keys).subtracting(stored).count
        past.events += stored.count
        past.head = place
        past.epoch = epoch
    }
}
