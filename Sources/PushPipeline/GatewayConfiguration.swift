import EventStreams

/// Who may publish and listen, how much, and how safe an acknowledged event is.
public struct GatewayConfiguration: Sendable {
    /// Largest event payload in bytes; a larger one is answered with 413. Default 256 KiB.
    public var maxEventBytes = 256 * 1024
    /// Largest request body of a batch in bytes. Default 4 MiB.
    public var maxBatchBytes = 4 * 1024 * 1024
    /// Most events in one batch. Default 10,000.
    public var maxBatchEvents = 10_000
    /// How durable an event is before its 202, for topics that `topics` does not name. Default `fsync`.
    public var durability = Durability.fsync
    /// Durability of single topics, by exact name.
    public var topics: [String: Durability] = [:]
    /// Empty: one open tenant named `default`, allowed on a loopback address only.
    public var tenants: [TenantConfiguration] = []
    /// Allows the open tenant on other addresses as well: anybody who reaches the port may publish and listen.
    public var allowsAnonymous = false
    /// Quota of the open tenant.
    public var defaultQuota = QuotaConfiguration()

    public init() {}
}

/// One tenant: its name, its credentials and its quota.
public struct TenantConfiguration: Sendable, CustomStringConvertible {
    /// `[a-z0-9-]`, 1 to 63 characters.
    public var name: String
    /// Bearer tokens that may publish and listen. Compared in constant time; never printed.
    public var tokens: [String]
    public var quota: QuotaConfiguration

    public init(name: String, tokens: [String], quota: QuotaConfiguration = QuotaConfiguration()) {
        self.name = name
        self.tokens = tokens
        self.quota = quota
    }

    public var description: String { "\(name) (\(tokens.count) tokens, <redacted>)" }
}

/// Token buckets of one tenant. A rate of 0 means no limit.
public struct QuotaConfiguration: Sendable, Equatable {
    /// Events published per second. Default 0, no limit.
    public var eventsPerSecond = 0.0
    /// Largest burst in events. Default: one second's worth, at least 1.
    public var eventBurst: Double?
    /// Payload bytes published per second. Default 0, no limit.
    public var bytesPerSecond = 0.0
    /// Largest burst in bytes. Default: one second's worth, at least one event of the largest size.
    public var byteBurst: Double?
    /// Connections at a time. Default 0, no limit.
    public var connections = 0

    public init() {}
}
