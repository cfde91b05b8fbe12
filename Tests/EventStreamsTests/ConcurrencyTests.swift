import Dispatch
import Foundation
import TestSupport
import Testing

@testable import EventStreams

@Suite("Readers beside the writer")
struct ConcurrencyTests {
    let directory = ScratchDirectory()

    @Test(
        "readers see a gapless prefix while 20,000 events are appended", arguments: [(0, 4), (100, 2), (100_000, 4)])
    func gaplessPrefix(tailEvents: Int, readers: Int) throws {
        let count: UInt64 = 20_000
        let store = try directory.open {
            $0.tailEvents = tailEvents
            $0.readers = readers
        }
        let stream = try store.stream(tenant: "acme")
        let problems = Shared<[String]>([])
        let deadline = ContinuousClock.now + .seconds(120)
        // Threads 0 to 3 append, 4 to 7 follow with read, 8 and 9 with the tail first.
        onThreads(10) { thread in
            do {
                if thread < 4 {
                    for batch in 0..<Int(count) / 4 / 25 {
                        let events = (0..<25).map { event("\(thread)/\(batch)/\($0)") }
                        let durability = Durability.allCases[batch % 3]
                        if batch % 50 == 0 {
                            try stream.appendAndWait(events, durability)
                        } else {
                            stream.append(events, durability: durability) { result in
                                if case .failure(let error) = result { problems.note("\(error)") }
                            }
                        }
                    }
                    return
                }
                var last: UInt64 = 0
                var next: [String: Int] = [:]  // thread → the serial number that must come next
                var generator = SeededGenerator(UInt64(thread))
                while last < count {
                    guard ContinuousClock.now < deadline else {
                        problems.note("reader \(thread) is at \(last) when time is up")
                        return
                    }
                    let head = stream.head
                    let limit = Int.random(in: 1...700, using: &generator)
                    var events: [StoredEvent] = []
                    if thread >= 8, case .events(let recent) = stream.tail(after: last, limit: limit) {
                        events = recent
                    } else {
                        events = try stream.read(after: last, limit: limit, byteLimit: 40_000)
                    }
                    // Visible when append returns: whoever saw the head finds an event before it.
                    if events.isEmpty && head > last {
                        problems.note("reader \(thread) found nothing after \(last), head \(head)")
                        return
                    }
                    for event in events {
                        guard event.offset == last + 1 else {
                            problems.note("reader \(thread): \(event.offset) after \(last)")
                            return
                        }
                        last = event.offset
                        let parts = event.text.split(separator: "/").compactMap { Int($0) }
                        guard parts.count == 3, parts[1] * 25 + parts[2] == next["\(parts[0])", default: 0] else {
                            problems.note("reader \(thread): \(event.text) at \(last) is out of order")
                            return
                        }
                        next["\(parts[0])"] = parts[1] * 25 + parts[2] + 1
                    }
                    if events.isEmpty { sched_yield() }
                }
            } catch {
                problems.note("thread \(thread): \(error)")
            }
        }
        #expect(problems.value == [])
        #expect(stream.head == count)
        store.close()
        let again = try directory.open()
        let offsets = try again.stream(tenant: "acme").all().map(\.offset)
        #expect(offsets == Array(1...count))
    }

    @Test("a reader behind a retention that overtakes it is told, and never skips silently")
    func retentionOvertakes() throws {
        let store = try directory.open {
            $0.tailEvents = 50
            $0.retentionEvents = 500
            $0.retentionStepEvents = 50
        }
        let stream = try store.stream(tenant: "acme")
        let problems = Shared<[String]>([])
        let overtaken = Shared(0)
        let isDone = Shared(false)
        onThreads(5) { thread in
            do {
                if thread == 0 {
                    for _ in 0..<200 { try stream.appendAndWait(texts: (0..<50).map(String.init), .written) }
                    isDone.change { $0 = true }
                    return
                }
                var last: UInt64 = 0
                while !isDone.value || last < stream.head {
                    do {
                        for event in try stream.read(after: last, limit: 20, byteLimit: .max) {
                            if event.offset != last + 1 {
                                problems.note("\(event.offset) after \(last)")
                            }
                            last = event.offset
                        }
                    } catch let error as StreamError where error.code == .tooOld {
                        overtaken.change { $0 += 1 }
                        let earliest = error.offset ?? 0
                        if earliest <= last + 1 { problems.note("too old at \(last): \(earliest)") }
                        last = earliest - 1
                    }
                    // Slow readers are overtaken, quick ones are not.
                    if thread > 2 { usleep(2_000) }
                }
            } catch {
                problems.note("thread \(thread): \(error)")
            }
        }
        #expect(problems.value == [])
        #expect(overtaken.value > 0)
        #expect(stream.head == 10_000)
    }

    @Test("many tenants that are opened and written by many threads each get their own events")
    func tenants() throws {
        let store = try directory.open()
        let problems = Shared<[String]>([])
        onThreads(8) { thread in
            do {
                for round in 0..<20 {
                    for tenant in 0..<10 {
                        let stream = try store.stream(tenant: "tenant-\(tenant)")
                        try stream.appendAndWait([event("\(tenant)/\(thread)/\(round)")], .written)
                    }
                }
            } catch {
                problems.note("\(error)")
            }
        }
        #expect(problems.value == [])
        for tenant in 0..<10 {
            let events = try store.stream(tenant: "tenant-\(tenant)").all()
            #expect(events.map(\.offset) == Array(1...160))
            #expect(Set(events.map(\.text)).count == 160)
            #expect(events.allSatisfy { $0.text.hasPrefix("\(tenant)/") })
        }
    }

    @Test("the first events of many tenants are written while more arrive")
    func firstEvents() throws {
        // Once the writer has two reasons to look at a tenant, an event may arrive between the two looks.
        let gate = Gate()
        let store = try directory.open { $0.onCommit = { _ in gate.pass() } }
        let problems = Shared<[String]>([])
        let blocker = try store.stream(tenant: "blocker")
        for round in 0..<10 {
            let streams = try (0..<50).map { try store.stream(tenant: "\(round)/\($0)") }
            gate.shut()
            blocker.append([event("x")], durability: .written) { _ in }
            try gate.awaitWriter()
            for durability in [Durability.memory, .written] {
                for stream in streams {
                    stream.append([event("first")], durability: durability) { result in
                        if case .failure(let error) = result { problems.note("\(error)") }
                    }
                }
            }
            gate.open()
            onThreads(2) { _ in
                for _ in 0..<20 {
                    for stream in streams {
                        stream.append([event("more")], durability: .written) { result in
                            if case .failure(let error) = result { problems.note("\(error)") }
                        }
                    }
                }
            }
            eventually("all is durable, or something failed") {
                !problems.value.isEmpty || streams.allSatisfy { $0.durableHead == 42 }
            }
            guard problems.value.isEmpty else { break }
        }
        #expect(Set(problems.value) == [])
    }
}
