import BenchSupport
import EventStreams

/// What the command line says, and what every part needs.
enum Settings {
    /// Of all logs; empty if it was not named.
    static let directory = option("--directory") ?? ""
    static let repetitions = Int(option("--repetitions") ?? "5") ?? 5
    static let history = Int(option("--history") ?? "10000000") ?? 10_000_000
    static let parts = (option("--only") ?? "append,read,history,trim").split(separator: ",").map(String.init)
    static let payload = [UInt8](repeating: 0x78, count: 256)
}

func event(topic: String = "orders", key: String? = nil) -> NewEvent {
    NewEvent(
        topic: topic, key: key, contentType: "application/json", payload: Settings.payload,
        acceptedUnixNano: BenchClock.unix)
}

func open(
    _ name: String, _ change: (inout EmbeddedStoreConfiguration) -> Void = { _ in }
) throws -> EmbeddedEventStore {
    var configuration = EmbeddedStoreConfiguration(directory: Settings.directory + "/" + name)
    configuration.retentionBytes = 1 << 40
    change(&configuration)
    return try EmbeddedEventStore(configuration: configuration)
}

func milliseconds(_ body: () throws -> Void) rethrows -> Double {
    let start = BenchClock.wall
    try body()
    return Double(BenchClock.wall - start) / 1e6
}
