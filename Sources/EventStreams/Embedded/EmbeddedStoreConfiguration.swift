/// Settings of the embedded store.
public struct EmbeddedStoreConfiguration: Sendable {
    /// Created with mode 0700 when missing. Holds `log.sqlite` (with `-wal`, `-shm`), `cursor.key` and `lock`.
    public var directory: String
    /// Events older than this, by their acceptance time, are removed.
    public var retentionAge: Duration = .seconds(7 * 86_400)
    /// Per tenant.
    public var retentionEvents: Int = 10_000_000
    /// Per tenant, in ``NewEvent/byteCount``.
    public var retentionBytes: Int = 8 << 30
    /// Most events removed in one step, so that appends wait for a step and not for the whole; fewer where a step takes
    /// longer than a millisecond.
    public var retentionStepEvents: Int = 1_000
    /// Events kept in memory per tenant. Events that are not durable yet always stay in memory: what a tenant holds
    /// is at most the larger of tail and pending.
    public var tailEvents: Int = 16_384
    public var tailBytes: Int = 32 << 20
    /// Events per tenant that wait for the disk; beyond them appends fail with ``StreamError/Code/full``.
    public var pendingEvents: Int = 65_536
    public var pendingBytes: Int = 64 << 20
    /// Largest event, in ``NewEvent/byteCount``.
    public var maximumEventBytes: Int = 1 << 20
    /// How long a commit waits for company. Zero: not at all; events that arrive during a commit share the next.
    public var commitInterval: Duration = .zero
    /// How long events of durability `memory` wait for company before they are written.
    public var memoryCommitInterval: Duration = .milliseconds(20)
    /// Most events in one transaction per tenant.
    public var maximumCommitEvents: Int = 8_192
    public var maximumCommitBytes: Int = 16 << 20
    public var idempotencyWindow: Duration = .seconds(600)
    /// Keys remembered per tenant; the oldest are forgotten first.
    public var idempotencyKeys: Int = 100_000
    public var maximumTenants: Int = 10_000
    /// Connections for reading the log; more readers wait.
    public var readers: Int = 4
    /// Shortest and longest wait between attempts to write after a commit failed.
    public var recoveryInterval: ClosedRange<Duration> = .milliseconds(100) ... .seconds(5)
    /// Wall clock, for ages.
    public var now: @Sendable () -> UInt64 = WallClock.unixNano
    /// Called on the writer's thread after every commit.
    public var onCommit: (@Sendable (CommitObservation) -> Void)?

    public init(directory: String) {
        self.directory = directory
    }

    /// Throws ``StreamError/Code/invalid`` naming the first setting that makes no sense.
    func validate() throws(StreamError) {
        func check(_ name: String, _ value: Int, _ range: ClosedRange<Int>) throws(StreamError) {
            guard range.contains(value) else {
                throw StreamError(
                    code: .invalid,
                    cause: "\(name) is \(value), it must be from \(range.lowerBound) to \(range.upperBound)")
            }
        }
        try check("retentionEvents", retentionEvents, 1...Int.max)
        try check("retentionBytes", retentionBytes, 1...Int.max)
        try check("retentionStepEvents", retentionStepEvents, 1...1_000_000)
        try check("tailEvents", tailEvents, 0...Int.max)
        try check("tailBytes", tailBytes, 0...Int.max)
        try check("pendingEvents", pendingEvents, 1...Int.max)
        try check("pendingBytes", pendingBytes, 1...Int.max)
        try check("maximumEventBytes", maximumEventBytes, StoredEvent.fixedByteCount...(1 << 29))
        try check("maximumCommitEvents", maximumCommitEvents, 1...Int.max)
        try check("maximumCommitBytes", maximumCommitBytes, 1...Int.max)
        try check("idempotencyKeys", idempotencyKeys, 0...Int.max)
        try check("maximumTenants", maximumTenants, 1...EventPosition.maximumLog)
        try check("readers", readers, 1...64)
        for (name, duration) in [
            ("retentionAge", retentionAge), ("commitInterval", commitInterval),
            ("memoryCommitInterval", memoryCommitInterval), ("idempotencyWindow", idempotencyWindow),
            ("recoveryInterval", recoveryInterval.lowerBound),
        ] where duration < .zero {
            throw StreamError(code: .invalid, cause: "\(name) is \(duration), it must not be negative")
        }
    }
}

/// One commit, for metrics.
public struct CommitObservation: Sendable {
    public let events: Int
    public let logs: Int
    /// From the begin of the transaction to the end of the commit, with its sync.
    public let nanoseconds: UInt64
    public let synced: Bool
    public let error: StreamError.Code?
}

/// Totals since the store was opened.
public struct EmbeddedStoreStatistics: Sendable, Equatable {
    /// Events committed.
    public var appendedEvents: UInt64 = 0
    public var appendedBytes: UInt64 = 0
    public var commits: UInt64 = 0
    public var failedCommits: UInt64 = 0
    public var lastCommitNanoseconds: UInt64 = 0
    public var totalCommitNanoseconds: UInt64 = 0
    /// Steps of retention that failed and are tried again.
    public var failedRetentionSteps: UInt64 = 0
    /// Copies of the write-ahead log into the file that failed and are tried again.
    public var failedCheckpoints: UInt64 = 0
    /// Steps of the index that failed and are tried again.
    public var failedIndexSteps: UInt64 = 0
    /// Events removed by retention.
    public var retiredEvents: UInt64 = 0
    /// Events that were sequenced and left the log again because their commit failed.
    public var withdrawnEvents: UInt64 = 0
    /// Those among them whose append had completed (durability `memory`).
    public var lostMemoryEvents: UInt64 = 0
    /// Events that wait for the disk now, over all tenants.
    public var pendingEvents: Int = 0
    public var pendingBytes: Int = 0
    /// Events in memory now, over all tenants.
    public var tailEvents: Int = 0
    public var tailBytes: Int = 0
    /// Why the last commit failed, until the store has recovered.
    public var failure: StreamError?
}
