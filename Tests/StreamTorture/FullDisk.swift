import Dispatch
import EventStreams
import Foundation
import Synchronization

/// Fills the disk, or reaches the limit on a file's size, and goes on when there is room again. Prints what it did:
///
///     full N CODE      N events were acknowledged before an append failed with CODE
///     kept N           of these could be read back; nothing else could
///     refused CODE     a small event was refused as well
///     again N          events were acknowledged after there was room
///     problems N M     problems that a check of the closed log finds, and its events
func fillDisk(directory: String, limit: UInt64) throws {
    // 64 of these fill a megabyte: the first that does not fit is far from both ends of a file.
    let payload = [UInt8](repeating: 0x78, count: 16_000)
    func event(_ serial: Int, _ payload: [UInt8]) -> NewEvent {
        NewEvent(
            topic: "t", key: "\(serial)", payload: payload,
            acceptedUnixNano: UInt64(Date().timeIntervalSince1970 * 1_000_000_000))
    }
    let ballast = directory + "/ballast"
    try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
    if limit > 0 {
        signal(SIGXFSZ, SIG_IGN)
        setFileSizeLimit(limit)
    } else {
        try Data(count: 1 << 20).write(to: URL(fileURLWithPath: ballast))
    }
    var configuration = EmbeddedStoreConfiguration(directory: directory)
    configuration.tailEvents = 0
    configuration.recoveryInterval = .milliseconds(1) ... .milliseconds(20)
    let store = try EmbeddedEventStore(configuration: configuration)
    let stream = try store.stream(tenant: "torture")

    func append(_ event: NewEvent) -> Result<AppendReceipt?, StreamError> {
        let outcome = Outcome()
        stream.append([event], durability: .fsync) { result in
            outcome.result.withLock { $0 = result }
            outcome.isKnown.signal()
        }
        outcome.isKnown.wait()
        return outcome.result.withLock { $0 }?.map(\.first) ?? .success(nil)
    }
    var acknowledged: [UInt64] = []
    while acknowledged.count < 10_000 {
        switch append(event(acknowledged.count, payload)) {
        case .success(let receipt?): acknowledged.append(receipt.offset)
        case .success(nil): fail("an append completed without a result", status: 1)
        case .failure(let error):
            tell("full \(acknowledged.count) \(error.code.rawValue)")
            try readBack()
            if case .failure(let second) = append(event(0, Array("small".utf8))) {
                tell("refused \(second.code.rawValue)")
            }
            if limit > 0 {
                setFileSizeLimit(nil)
            } else {
                try FileManager.default.removeItem(atPath: ballast)
            }
            try goOn()
            return
        }
    }
    fail("10,000 events of 16 kB fit", status: 1)

    func readBack() throws {
        var offsets: [UInt64] = []
        while true {
            let events = try stream.read(after: offsets.last ?? 0, limit: 100, byteLimit: 1 << 20)
            if events.isEmpty { break }
            offsets += events.map(\.offset)
        }
        guard offsets == acknowledged else { fail("\(offsets) instead of \(acknowledged)", status: 1) }
        tell("kept \(offsets.count)")
    }

    func goOn() throws {
        let deadline = ContinuousClock.now + .seconds(20)
        var again = 0
        while again < 20, ContinuousClock.now < deadline {
            if case .success(let receipt?) = append(event(again, payload)) {
                acknowledged.append(receipt.offset)
                again += 1
            }
        }
        tell("again \(again)")
        try readBack()
        store.close()
        let found = try LogInspection(directory: directory).verify()
        tell("problems \(found.problemCount) \(found.tenants.reduce(0) { $0 + $1.events })")
    }
}

/// nil for none.
private func setFileSizeLimit(_ bytes: UInt64?) {
    var limit = rlimit()
    getrlimit(__rlimit_resource_t(UInt32(RLIMIT_FSIZE.rawValue)), &limit)
    limit.rlim_cur = bytes.map { rlim_t($0) } ?? limit.rlim_max
    guard setrlimit(__rlimit_resource_t(UInt32(RLIMIT_FSIZE.rawValue)), &limit) == 0 else {
        fail("the limit on a file's size cannot be set", status: 1)
    }
}
