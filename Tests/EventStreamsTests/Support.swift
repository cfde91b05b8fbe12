import Dispatch
import Foundation
import GRDB
import Synchronization
import TestSupport
import Testing

@testable import EventStreams

/// A directory of its own, removed with the object.
final class ScratchDirectory: Sendable {
    let path: String
    var database: String { path + "/log.sqlite" }

    init() {
        path = IsothermProcess.temporaryDirectory()
    }

    deinit {
        try? FileManager.default.removeItem(atPath: path)
    }

    func open(_ change: (inout EmbeddedStoreConfiguration) -> Void = { _ in }) throws -> EmbeddedEventStore {
        var configuration = EmbeddedStoreConfiguration(directory: path)
        configuration.recoveryInterval = .milliseconds(1) ... .milliseconds(20)
        change(&configuration)
        return try EmbeddedEventStore(configuration: configuration)
    }

    /// Another connection to the log, as an administrator's tool would have.
    func sql<T>(_ body: (Database) throws -> T) throws -> T {
        var configuration = Configuration()
        configuration.busyMode = .timeout(20)
        let queue = try DatabaseQueue(path: database, configuration: configuration)
        defer { try? queue.close() }
        return try queue.writeWithoutTransaction(body)
    }
}

/// Wall clock that moves when told.
final class ManualClock: Sendable {
    private let nanoseconds: Atomic<UInt64>

    init(_ start: UInt64 = 1_700_000_000_000_000_000) {
        nanoseconds = Atomic(start)
    }

    var now: UInt64 { nanoseconds.load(ordering: .sequentiallyConsistent) }

    func advance(_ seconds: UInt64) {
        nanoseconds.add(seconds * 1_000_000_000, ordering: .sequentiallyConsistent)
    }
}

/// A value that several threads change. With `NSLock`, which ThreadSanitizer understands on Linux.
final class Shared<Value: Sendable>: @unchecked Sendable {
    // Guard: `lock` protects `current`.
    private let lock = NSLock()
    private var current: Value

    init(_ value: Value) {
        current = value
    }

    var value: Value { lock.withLock { current } }

    @discardableResult
    func change<Result>(_ body: (inout Value) -> Result) -> Result {
        lock.withLock { body(&current) }
    }
}

extension Shared<[String]> {
    func note(_ text: String) {
        change { $0.append(text) }
    }
}

/// Holds the writer's thread inside `onCommit` until it is opened: the commit is done, nobody was told.
final class Gate: Sendable {
    private let isShut = Atomic(false)
    private let reached = DispatchSemaphore(value: 0)
    private let opened = DispatchSemaphore(value: 0)

    func shut() {
        isShut.store(true, ordering: .sequentiallyConsistent)
    }

    func pass() {
        guard isShut.load(ordering: .sequentiallyConsistent) else { return }
        reached.signal()
        opened.wait()
    }

    /// Waits until the writer stands at the gate.
    func awaitWriter() throws {
        try #require(reached.wait(timeout: .now() + 20) == .success, "the writer came to the gate")
    }

    func open() {
        isShut.store(false, ordering: .sequentiallyConsistent)
        opened.signal()
    }
}

/// Polls until `condition` holds; fails after 20 seconds.
func eventually(
    _ what: Comment, sourceLocation: SourceLocation = #_sourceLocation, _ condition: () throws -> Bool
) rethrows {
    let deadline = ContinuousClock.now + .seconds(20)
    while try !condition() {
        guard ContinuousClock.now < deadline else {
            Issue.record("not within 20 s: \(what)", sourceLocation: sourceLocation)
            return
        }
        usleep(500)
    }
}

func event(
    _ text: String, topic: String = "orders", idempotencyKey: String? = nil, accepted: UInt64? = nil
) -> NewEvent {
    NewEvent(
        topic: topic, payload: Array(text.utf8), acceptedUnixNano: accepted ?? WallClock.unixNano(),
        idempotencyKey: idempotencyKey)
}

extension EventStream {
    /// Everything that `filter` takes after `offset`, in pieces of `limit`.
    func all(_ filter: TopicFilter, after offset: UInt64 = 0, limit: Int = 500) throws -> [StoredEvent] {
        var events: [StoredEvent] = []
        var place = offset
        while true {
            let next = try read(after: place, limit: limit, byteLimit: .max, filter: filter)
            events += next.events
            if next.through == place { return events }
            place = next.through
        }
    }

    /// Everything after `offset`, in pieces of `limit`.
    func all(after offset: UInt64 = 0, limit: Int = 500, byteLimit: Int = .max) throws -> [StoredEvent] {
        var events: [StoredEvent] = []
        while true {
            let next = try read(after: events.last?.offset ?? offset, limit: limit, byteLimit: byteLimit)
            if next.isEmpty { return events }
            events += next
        }
    }

    /// Appends and blocks until the events are as durable as asked.
    @discardableResult
    func appendAndWait(_ events: [NewEvent], _ durability: Durability = .fsync) throws -> [AppendReceipt] {
        let done = DispatchSemaphore(value: 0)
        let result = Shared<Result<[AppendReceipt], StreamError>?>(nil)
        append(events, durability: durability) { outcome in
            result.change { $0 = outcome }
            done.signal()
        }
        try #require(done.wait(timeout: .now() + 30) == .success, "the append completed")
        return try #require(result.value).get()
    }

    @discardableResult
    func appendAndWait(texts: [String], _ durability: Durability = .fsync) throws -> [AppendReceipt] {
        try appendAndWait(texts.map { event($0) }, durability)
    }

    func texts(after offset: UInt64 = 0) throws -> [String] {
        try all(after: offset).map(\.text)
    }
}

extension StoredEvent {
    var text: String { String(decoding: payload, as: UTF8.self) }
}

/// Runs `body` on `count` threads of their own and waits for all.
func onThreads(_ count: Int, _ body: @escaping @Sendable (Int) -> Void) {
    let group = DispatchGroup()
    for index in 0..<count {
        group.enter()
        Thread.detachNewThread {
            body(index)
            group.leave()
        }
    }
    group.wait()
}

/// The `StreamError` with which `body` has to fail.
func failure(sourceLocation: SourceLocation = #_sourceLocation, of body: () throws -> Void) throws -> StreamError {
    var failure: StreamError?
    do {
        try body()
    } catch let error as StreamError {
        failure = error
    }
    return try #require(failure, "a StreamError was expected", sourceLocation: sourceLocation)
}
