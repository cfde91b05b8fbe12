import Dispatch
import Foundation
import GRDB
import Testing

@testable import EventStreams

/// What every stream promises, for each durability.
@Suite("The contract of a stream")
struct StreamContractTests {
    let directory = ScratchDirectory()

    // MARK: Order and reading

    @Test("append returns consecutive offsets and distinct ids in call order", arguments: Durability.allCases)
    func order(_ durability: Durability) throws {
        let store = try directory.open()
        let stream = try store.stream(tenant: "acme")
        var receipts: [AppendReceipt] = []
        for index in 0..<50 {
            receipts += try stream.appendAndWait(texts: ["a\(index)", "b\(index)"], durability)
        }
        #expect(receipts.map(\.offset) == Array(1...100))
        #expect(Set(receipts.map(\.id)).count == 100)
        #expect(receipts.allSatisfy { !$0.isDuplicate && $0.epoch == stream.epoch })
        #expect(stream.head == 100)
        let read = try stream.all()
        #expect(read.map(\.offset) == Array(1...100))
        #expect(read.map { stream.id(of: $0) } == receipts.map(\.id))
        #expect(read.map(\.text) == (0..<50).flatMap { ["a\($0)", "b\($0)"] })
    }

    @Test("a read after any cursor gives everything after it, once and in order", arguments: Durability.allCases)
    func cursors(_ durability: Durability) throws {
        // A tail of 10: most reads begin on disk and end in memory.
        let store = try directory.open { $0.tailEvents = 10 }
        let stream = try store.stream(tenant: "acme")
        let receipts = try stream.appendAndWait(texts: (1...100).map { "event \($0)" }, durability)
        for cursor in 0...100 {
            for limit in [1, 7, 1_000] {
                let events = try stream.all(after: UInt64(cursor), limit: limit)
                #expect(events.map(\.offset) == (cursor + 1..<101).map(UInt64.init))
            }
        }
        for receipt in receipts { #expect(stream.resolve(receipt.id) == .position(receipt.offset)) }
        #expect(try stream.read(after: 100, limit: 10, byteLimit: .max).isEmpty)
    }

    @Test("the tail gives what memory holds and says when it does not reach back", arguments: Durability.allCases)
    func tail(_ durability: Durability) throws {
        let store = try directory.open { $0.tailEvents = 10 }
        let stream = try store.stream(tenant: "acme")
        guard case .events(let none) = stream.tail(after: 0, limit: 5) else {
            Issue.record("an empty log is wholly in memory")
            return
        }
        #expect(none.isEmpty)
        try stream.appendAndWait(texts: (1...100).map(String.init), durability)
        eventually("memory lets go of durable events") {
            if case .behind = stream.tail(after: 89, limit: 1) { return true }
            return false
        }
        guard case .events(let recent) = stream.tail(after: 90, limit: 4) else {
            Issue.record("the last ten are in memory")
            return
        }
        #expect(recent.map(\.offset) == [91, 92, 93, 94])
        guard case .events(let atHead) = stream.tail(after: 100, limit: 4) else {
            Issue.record("the head is in memory")
            return
        }
        #expect(atHead.isEmpty)
        for limit in [0, -1] {
            guard case .events(let nothing) = stream.tail(after: 95, limit: limit) else { continue }
            #expect(nothing.isEmpty)
        }
    }

    @Test("a read stops at its limit of events", arguments: Durability.allCases, [0, 1_000])
    func countLimit(_ durability: Durability, tailEvents: Int) throws {
        let store = try directory.open { $0.tailEvents = tailEvents }
        let stream = try store.stream(tenant: "acme")
        try stream.appendAndWait(texts: (1...20).map(String.init), durability)
        for limit in [1, 19, 20, 21] {
            #expect(try stream.read(after: 0, limit: limit, byteLimit: .max).count == min(limit, 20))
        }
        #expect(try stream.read(after: 0, limit: 0, byteLimit: .max).isEmpty)
        #expect(try stream.read(after: 0, limit: -1, byteLimit: .max).isEmpty)
    }

    @Test(
        "a read stops at its limit of bytes but gives at least one event", arguments: Durability.allCases,
        [0, 5, 1_000])
    func byteLimit(_ durability: Durability, tailEvents: Int) throws {
        let store = try directory.open { $0.tailEvents = tailEvents }
        let stream = try store.stream(tenant: "acme")
        let events = (1...20).map { _ in event(String(repeating: "x", count: 30)) }
        // 64 fixed, 30 of payload, 6 of "orders".
        #expect(events[0].byteCount == 100)
        try stream.appendAndWait(events, durability)
        eventually("all is durable") { stream.durableHead == 20 }
        let cases = [
            (0, 1), (1, 1), (99, 1), (100, 1), (101, 1), (199, 1), (200, 2), (201, 2), (1_999, 19), (2_000, 20),
            (2_001, 20),
        ]
        for (limit, count) in cases {
            let read = try stream.read(after: 0, limit: 100, byteLimit: limit)
            #expect(read.count == count, "byteLimit \(limit)")
            #expect(read.map(\.offset) == (1...UInt64(count)).map { $0 })
        }
    }

    @Test("head, earliest and durableHead of an empty log and of one with events", arguments: Durability.allCases)
    func bounds(_ durability: Durability) throws {
        let store = try directory.open()
        let stream = try store.stream(tenant: "acme")
        #expect(stream.head == 0)
        #expect(stream.earliest == 1)
        #expect(stream.durableHead == 0)
        #expect(stream.resolve(stream.headID) == .position(0))
        try stream.appendAndWait(texts: ["1", "2", "3"], durability)
        #expect(stream.head == 3)
        #expect(stream.earliest == 1)
        eventually("durableHead reaches the head") { stream.durableHead == 3 }
        #expect(stream.resolve(stream.headID) == .position(3))
    }

    // MARK: Durability

    @Test("an append to memory completes on the calling thread before anything is written")
    func memoryCompletesAtOnce() throws {
        let store = try directory.open { $0.memoryCommitInterval = .seconds(60) }
        let stream = try store.stream(tenant: "acme")
        let thread = Shared<pthread_t?>(nil)
        stream.append([event("a")], durability: .memory) { _ in thread.change { $0 = pthread_self() } }
        #expect(thread.value.map { pthread_equal($0, pthread_self()) != 0 } == true)
        #expect(stream.head == 1)
        #expect(stream.durableHead == 0)
        #expect(try stream.texts() == ["a"])
    }

    @Test(
        "an append completes only after its events are on disk, synced if that was asked",
        arguments: [Durability.written, .fsync])
    func completionWaits(_ durability: Durability) throws {
        let gate = Gate()
        let observed = Shared<[CommitObservation]>([])
        let store = try directory.open {
            $0.onCommit = { observation in
                observed.change { $0.append(observation) }
                gate.pass()
            }
        }
        let stream = try store.stream(tenant: "acme")
        gate.shut()
        let seenOnDisk = Shared<Int?>(nil)
        let path = directory.database
        stream.append([event("a"), event("b")], durability: durability) { _ in
            let count = try? DatabaseQueue(path: path).read { try Int.fetchOne($0, sql: "SELECT count(*) FROM events") }
            seenOnDisk.change { $0 = count }
        }
        // Readable at once, though not durable.
        #expect(stream.head == 2)
        #expect(try stream.texts() == ["a", "b"])
        try gate.awaitWriter()
        #expect(seenOnDisk.value == nil)
        #expect(stream.durableHead == 0)
        gate.open()
        eventually("the append completes") { seenOnDisk.value != nil }
        #expect(seenOnDisk.value == 2)
        #expect(stream.durableHead == 2)
        #expect(observed.value.map(\.synced) == [durability == .fsync])
        #expect(observed.value.map(\.events) == [2])
    }

    @Test("the wake-up for appended events comes before the one for durable events", arguments: Durability.allCases)
    func wakeOrder(_ durability: Durability) throws {
        let store = try directory.open { $0.memoryCommitInterval = .zero }
        let stream = try store.stream(tenant: "acme")
        let wakes = Shared<[(kind: String, head: UInt64, durable: UInt64)]>([])
        let appended = stream.onAppend {
            let entry = ("appended", stream.head, stream.durableHead)
            // Time for the writer to come first, if it can.
            usleep(3_000)
            wakes.change { $0.append(entry) }
        }
        let durable = stream.onDurable {
            let entry = ("durable", stream.head, stream.durableHead)
            wakes.change { $0.append(entry) }
        }
        for round in 1...10 {
            try stream.appendAndWait(texts: ["\(round)"], durability)
            eventually("both wake-ups come") { wakes.value.count == 2 * round }
            let entries = wakes.value.suffix(2)
            #expect(entries.map(\.kind) == ["appended", "durable"])
            #expect(entries.first?.head == UInt64(round))
            #expect(entries.last?.durable == UInt64(round))
        }
        appended.cancel()
        durable.cancel()
        durable.cancel()
        try stream.appendAndWait(texts: ["quiet"], durability)
        eventually("the last event is durable") { stream.durableHead == 11 }
        #expect(wakes.value.count == 20)
    }

    @Test("a released wake token wakes nobody", arguments: Durability.allCases)
    func releasedToken(_ durability: Durability) throws {
        let store = try directory.open()
        let stream = try store.stream(tenant: "acme")
        let count = Shared(0)
        do {
            let token = stream.onAppend { count.change { $0 += 1 } }
            try stream.appendAndWait(texts: ["1"], durability)
            withExtendedLifetime(token) {}
        }
        try stream.appendAndWait(texts: ["2"], durability)
        #expect(count.value == 1)
    }

    // MARK: Idempotency

    @Test("an idempotency key stands for one event per tenant", arguments: Durability.allCases)
    func idempotency(_ durability: Durability) throws {
        let store = try directory.open()
        let stream = try store.stream(tenant: "acme")
        let other = try store.stream(tenant: "other")
        var original = event("first", idempotencyKey: "order-1")
        original.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        let first = try #require(try stream.appendAndWait([original], durability).first)
        #expect(!first.isDuplicate)
        for again in Durability.allCases {
            let second = try #require(
                try stream.appendAndWait([event("second", idempotencyKey: "order-1")], again).first)
            #expect(second.isDuplicate)
            #expect(second.id == first.id)
            #expect(second.originalTraceparent == original.traceparent)
        }
        let elsewhere = try #require(
            try other.appendAndWait([event("other", idempotencyKey: "order-1")], durability).first)
        #expect(!elsewhere.isDuplicate)
        #expect(try stream.texts() == ["first"])
        #expect(try other.texts() == ["other"])
    }

    @Test("eight threads that race with the same keys append each once", arguments: Durability.allCases)
    func idempotencyRace(_ durability: Durability) throws {
        let store = try directory.open()
        let stream = try store.stream(tenant: "acme")
        let receipts = Shared<[String: [AppendReceipt]]>([:])
        let failures = Shared(0)
        onThreads(8) { thread in
            for index in 0..<200 {
                let key = "key-\(index)"
                do {
                    let result = try stream.appendAndWait([event("\(thread)", idempotencyKey: key)], durability)
                    receipts.change { $0[key, default: []] += result }
                } catch {
                    failures.change { $0 += 1 }
                }
            }
        }
        #expect(failures.value == 0)
        #expect(receipts.value.count == 200)
        for (key, all) in receipts.value {
            #expect(all.count == 8)
            #expect(Set(all.map(\.id)).count == 1, "\(key) has one id")
            #expect(all.filter { !$0.isDuplicate }.count == 1, "\(key) was new once")
        }
        let stored = try stream.all()
        #expect(stored.count == 200)
        #expect(Set(stored.compactMap(\.idempotencyKey)).count == 200)
    }

    @Test("an idempotency key is known after a reopening, clean or not", arguments: Durability.allCases, [true, false])
    func idempotencyReopen(_ durability: Durability, isClean: Bool) throws {
        // Texts that differ by one thing that C strings or Unicode equality would not tell apart.
        let keys = ["a", "a\u{0}b", "a\u{0}c", "caf\u{e9}", "cafe\u{301}", "", " "]
        var ids: [String] = []
        do {
            let store = try directory.open()
            let stream = try store.stream(tenant: "acme")
            for key in keys {
                let receipt = try #require(
                    try stream.appendAndWait([event(key, idempotencyKey: key)], durability).first)
                #expect(!receipt.isDuplicate, "\(key.debugDescription)")
                ids.append(receipt.id)
            }
            eventually("all is durable") { stream.durableHead == stream.head }
            store.close(isClean ? .drain : .abandon)
        }
        let store = try directory.open()
        let stream = try store.stream(tenant: "acme")
        for (key, id) in zip(keys, ids) {
            let receipt = try #require(try stream.appendAndWait([event("late", idempotencyKey: key)], durability).first)
            #expect(receipt.isDuplicate, "\(key.debugDescription)")
            #expect(receipt.id == id, "\(key.debugDescription)")
        }
        let fresh = try #require(try stream.appendAndWait([event("new", idempotencyKey: "b")], durability).first)
        #expect(!fresh.isDuplicate)
        #expect(try stream.texts() == keys + ["new"])
    }

    @Test("an idempotency key is forgotten after its window, not before")
    func idempotencyWindow() throws {
        let clock = ManualClock()
        let store = try directory.open {
            $0.now = { clock.now }
            $0.idempotencyWindow = .seconds(60)
        }
        let stream = try store.stream(tenant: "acme")
        func isDuplicate() throws -> Bool {
            let receipts = try stream.appendAndWait([event("x", idempotencyKey: "k", accepted: clock.now)])
            return try #require(receipts.first).isDuplicate
        }
        #expect(try !isDuplicate())
        clock.advance(60)
        #expect(try isDuplicate())
        clock.advance(1)
        #expect(try !isDuplicate())
        #expect(try isDuplicate())
        #expect(stream.head == 2)
    }

    @Test("the oldest idempotency keys are forgotten beyond the bound")
    func idempotencyBound() throws {
        let store = try directory.open { $0.idempotencyKeys = 10 }
        let stream = try store.stream(tenant: "acme")
        for index in 1...11 { try stream.appendAndWait([event("x", idempotencyKey: "\(index)")], .memory) }
        let newest = try stream.appendAndWait((2...11).map { event("x", idempotencyKey: "\($0)") })
        #expect(newest.allSatisfy { $0.isDuplicate })
        let oldest = try stream.appendAndWait([event("x", idempotencyKey: "1")])
        #expect(oldest.map(\.isDuplicate) == [false])
    }

    @Test("a duplicate waits until its original is as durable as the duplicate asked")
    func duplicateWaits() throws {
        let gate = Gate()
        let observed = Shared<[Bool]>([])
        let store = try directory.open {
            $0.onCommit = { observation in
                observed.change { $0.append(observation.synced) }
                gate.pass()
            }
        }
        let stream = try store.stream(tenant: "acme")
        try stream.appendAndWait([event("a", idempotencyKey: "k")], .written)
        #expect(observed.value == [false])
        gate.shut()
        let isDone = Shared(false)
        stream.append([event("a", idempotencyKey: "k")], durability: .fsync) { _ in isDone.change { $0 = true } }
        try gate.awaitWriter()
        #expect(!isDone.value)
        gate.open()
        eventually("the duplicate completes") { isDone.value }
        #expect(observed.value == [false, true])
        // Now synced: the next one need not wait.
        stream.append([event("a", idempotencyKey: "k")], durability: .fsync) { _ in isDone.change { $0 = false } }
        #expect(!isDone.value)
        #expect(observed.value.count == 2)
    }

    // MARK: Batches

    @Test("a batch is contiguous, and duplicates in it point at their originals", arguments: Durability.allCases)
    func batches(_ durability: Durability) throws {
        let store = try directory.open()
        let stream = try store.stream(tenant: "acme")
        try stream.appendAndWait([event("old", idempotencyKey: "old")], durability)
        let receipts = try stream.appendAndWait(
            [
                event("a", idempotencyKey: "k"), event("old again", idempotencyKey: "old"), event("b"),
                event("a again", idempotencyKey: "k"), event("c"),
            ], durability)
        #expect(receipts.map(\.offset) == [2, 1, 3, 2, 4])
        #expect(receipts.map(\.isDuplicate) == [false, true, false, true, false])
        #expect(try stream.texts() == ["old", "a", "b", "c"])
        #expect(try stream.appendAndWait([], durability).isEmpty)
        #expect(stream.head == 4)
    }

    @Test("the events of a batch stay together when eight threads append", arguments: Durability.allCases)
    func batchesStayTogether(_ durability: Durability) throws {
        let store = try directory.open()
        let stream = try store.stream(tenant: "acme")
        let failures = Shared(0)
        onThreads(8) { thread in
            for batch in 0..<20 {
                do {
                    try stream.appendAndWait(texts: (0..<10).map { "\(thread)/\(batch)/\($0)" }, durability)
                } catch {
                    failures.change { $0 += 1 }
                }
            }
        }
        #expect(failures.value == 0)
        let texts = try stream.texts()
        #expect(texts.count == 1_600)
        #expect(Set(texts).count == 1_600)
        for start in stride(from: 0, to: texts.count, by: 10) {
            let name = texts[start].dropLast(2)
            #expect(texts[start..<start + 10].elementsEqual((0..<10).map { "\(name)/\($0)" }))
        }
    }

    @Test("appends that wake nobody come into one commit, once the writer is woken", arguments: Durability.allCases)
    func wokenTogether(_ durability: Durability) throws {
        let commits = Shared<[Int]>([])
        let store = try directory.open { $0.onCommit = { commit in commits.change { $0.append(commit.events) } } }
        let stream = try store.stream(tenant: "acme")
        for number in 1...64 {
            stream.append([event("\(number)")], durability: durability, wakesWriter: false) { _ in }
        }
        store.wake()
        eventually("all is durable") { stream.durableHead == 64 }
        // The writer's own clock may have come between.
        #expect(commits.value.reduce(0, +) == 64 && commits.value.count <= 2, "\(commits.value)")
        // Waking it for nothing is nothing.
        store.wake()
        try stream.appendAndWait(texts: ["65"], durability)
        #expect(stream.head == 65)
    }

    // MARK: Limits

    @Test(
        "a log whose waiting events reach their bound refuses more, and takes more later",
        arguments: Durability.allCases)
    func full(_ durability: Durability) throws {
        let gate = Gate()
        let store = try directory.open {
            $0.pendingEvents = 10
            $0.onCommit = { _ in gate.pass() }
        }
        let stream = try store.stream(tenant: "acme")
        gate.shut()
        try stream.appendAndWait(texts: ["1"], .memory)
        stream.append([event("2")], durability: .written) { _ in }
        try gate.awaitWriter()
        let outcomes = Shared<[Bool]>([])
        while stream.head < 10 {
            stream.append([event("\(stream.head + 1)")], durability: durability) { result in
                outcomes.change { $0.append((try? result.get()) != nil) }
            }
        }
        // A batch that does not fit leaves nothing behind, nor does its idempotency key.
        let refused = try failure { try stream.appendAndWait([event("11", idempotencyKey: "k")], durability) }
        #expect(refused.code == .full)
        #expect(refused.cause.contains("10"))
        #expect(stream.head == 10)
        gate.open()
        eventually("all is durable") { stream.durableHead == 10 }
        #expect(outcomes.value.allSatisfy { $0 })
        let receipts = try stream.appendAndWait([event("11", idempotencyKey: "k")], durability)
        #expect(receipts.map(\.isDuplicate) == [false])
        let texts = try stream.texts()
        #expect(texts == (1...11).map(String.init))
    }

    @Test("a batch that could never fit is too large", arguments: Durability.allCases)
    func batchTooLarge(_ durability: Durability) throws {
        let store = try directory.open { $0.pendingEvents = 10 }
        let stream = try store.stream(tenant: "acme")
        #expect(
            try failure { try stream.appendAndWait(texts: (1...11).map(String.init), durability) }.code == .tooLarge)
        #expect(stream.head == 0)
        #expect(try stream.appendAndWait(texts: (1...10).map(String.init), durability).count == 10)
    }

    @Test("an event is taken up to the largest size and refused above it", arguments: Durability.allCases)
    func eventTooLarge(_ durability: Durability) throws {
        let store = try directory.open { $0.maximumEventBytes = 1_000 }
        let stream = try store.stream(tenant: "acme")
        // 64 fixed and 6 of "orders".
        for (size, isTaken) in [(929, true), (930, true), (931, false)] {
            let large = NewEvent(topic: "orders", payload: [UInt8](repeating: 7, count: size), acceptedUnixNano: 1)
            if isTaken {
                try stream.appendAndWait([large], durability)
            } else {
                let error = try failure { try stream.appendAndWait([event("small"), large], durability) }
                #expect(error.code == .tooLarge)
                #expect(error.cause.contains("1001") && error.cause.contains("1000"))
            }
        }
        #expect(stream.head == 2)
    }

    @Test("payloads of 256 KiB come back from memory and from disk", arguments: Durability.allCases, [0, 100])
    func largePayloads(_ durability: Durability, tailEvents: Int) throws {
        let store = try directory.open { $0.tailEvents = tailEvents }
        let stream = try store.stream(tenant: "acme")
        var state: UInt64 = 42
        let payloads = (0..<12).map { _ in
            (0..<256 * 1_024).map { _ -> UInt8 in
                state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
                return UInt8(truncatingIfNeeded: state >> 56)
            }
        }
        for payload in payloads {
            try stream.appendAndWait(
                [NewEvent(topic: "t", payload: payload, acceptedUnixNano: WallClock.unixNano())], durability)
        }
        eventually("all is durable") { stream.durableHead == 12 }
        let read = try stream.all(limit: 100, byteLimit: 1 << 20)
        #expect(read.count == 12)
        for (event, payload) in zip(read, payloads) { #expect(event.payload == payload) }
    }

    // MARK: Fields

    static let oddTexts: [String?] = [
        nil, "", "plain", "a\u{0}b", "\u{0}", "caf\u{e9}", "cafe\u{301}", "\u{1F9CA}\u{200D}", "quote'\"\\\r\n;--",
        String(repeating: "long ", count: 2_000),
    ]

    @Test("every field comes back with all its bytes, also after a reopening", arguments: Durability.allCases)
    func fields(_ durability: Durability) throws {
        let payloads: [[UInt8]] = [
            [], [0], [0, 0, 0], Array(0...255), Array("{\"a\":1}".utf8), [UInt8](repeating: 255, count: 5_000),
        ]
        var events: [NewEvent] = []
        for (index, text) in Self.oddTexts.enumerated() {
            for payload in payloads {
                let other = Self.oddTexts[(index + 1) % Self.oddTexts.count]
                events.append(
                    NewEvent(
                        topic: text ?? "topic", type: other, key: text, contentType: other, payload: payload,
                        acceptedUnixNano: UInt64(index) * 1_000_000_007, admittedUnixNano: 5,
                        producedUnixNano: index % 2 == 0 ? nil : UInt64(Int64.max) + UInt64(index), traceparent: text,
                        tracestate: other))
            }
        }
        func check(_ stream: any EventStream, _ place: Comment) throws {
            let read = try stream.all()
            #expect(read.count == events.count)
            for (stored, event) in zip(read, events) {
                #expect(Self.bytes(stored.topic) == Self.bytes(event.topic), place)
                #expect(Self.bytes(stored.type) == Self.bytes(event.type), place)
                #expect(Self.bytes(stored.key) == Self.bytes(event.key), place)
                #expect(Self.bytes(stored.contentType) == Self.bytes(event.contentType), place)
                #expect(Self.bytes(stored.traceparent) == Self.bytes(event.traceparent), place)
                #expect(Self.bytes(stored.tracestate) == Self.bytes(event.tracestate), place)
                #expect(stored.payload == event.payload, place)
                #expect(stored.acceptedUnixNano == event.acceptedUnixNano, place)
                #expect(stored.producedUnixNano == event.producedUnixNano, place)
                #expect(stored.byteCount == event.byteCount, place)
                #expect(stored.idempotencyKey == nil, place)
            }
        }
        // All events are old: no retention here.
        func open() throws -> EmbeddedEventStore { try directory.open { $0.now = { 0 } } }
        do {
            let store = try open()
            let stream = try store.stream(tenant: "acme")
            try stream.appendAndWait(events, durability)
            try check(stream, "from memory")
            store.close()
        }
        let store = try open()
        try check(try store.stream(tenant: "acme"), "from disk")
    }

    private static func bytes(_ text: String?) -> [UInt8]? {
        text.map { Array($0.utf8) }
    }

    @Test("tenants do not see each other's events", arguments: Durability.allCases)
    func tenants(_ durability: Durability) throws {
        let names = ["a", "b", "A", "a ", "caf\u{e9}", "cafe\u{301}", "'; DROP TABLE events; --"]
        for round in 0..<2 {
            let store = try directory.open()
            for name in names.shuffled() {
                let stream = try store.stream(tenant: name)
                #expect(Array(stream.tenant.utf8) == Array(name.utf8))
                try stream.appendAndWait(texts: [name], durability)
                let read = try stream.all()
                #expect(read.count == round + 1)
                #expect(read.allSatisfy { $0.payload == Array(name.utf8) })
            }
            store.close()
        }
    }

    @Test("a tenant that the log could not tell from another is refused")
    func refusedTenants() throws {
        let store = try directory.open()
        for name in ["", "a\u{0}b", "\u{0}"] {
            #expect(try failure { _ = try store.stream(tenant: name) }.code == .invalid)
        }
    }

    @Test(
        "a closed store refuses appends and reads of the disk, and closing twice is harmless",
        arguments: Durability.allCases)
    func closed(_ durability: Durability) throws {
        let store = try directory.open { $0.tailEvents = 0 }
        let stream = try store.stream(tenant: "acme")
        try stream.appendAndWait(texts: ["1"], durability)
        store.close()
        store.close()
        #expect(try failure { try stream.appendAndWait(texts: ["2"], durability) }.code == .closed)
        #expect(try failure { _ = try stream.read(after: 0, limit: 1, byteLimit: 1) }.code == .closed)
        #expect(try failure { _ = try store.stream(tenant: "acme") }.code == .closed)
        #expect(stream.head == 1)
    }

    @Test("closing completes every append that was accepted", arguments: Durability.allCases)
    func closingDrains(_ durability: Durability) throws {
        let store = try directory.open { $0.memoryCommitInterval = .seconds(60) }
        let stream = try store.stream(tenant: "acme")
        let completed = Shared(0)
        for index in 1...500 {
            stream.append([event("\(index)")], durability: durability) { result in
                if (try? result.get()) != nil { completed.change { $0 += 1 } }
            }
        }
        store.close()
        #expect(completed.value == 500)
        let again = try directory.open()
        #expect(try again.stream(tenant: "acme").texts() == (1...500).map(String.init))
    }

    @Test("the asynchronous append waits for the durability that was asked", arguments: Durability.allCases)
    func asynchronous(_ durability: Durability) async throws {
        let store = try directory.open()
        let stream = try store.stream(tenant: "acme")
        let receipts = try await stream.append([event("a"), event("b")], durability: durability)
        #expect(receipts.map(\.offset) == [1, 2])
        if durability != .memory { #expect(stream.durableHead == 2) }
    }
}
