/// Where batches wait for an endpoint that is away.
public struct DiskQueueSettings: Sendable, Equatable {
    /// Made if need be; each signal has a directory of its own in it. One process at a time uses it.
    public var directory: String
    /// For each signal. When it is full the oldest batches are dropped, counted as `queue_full`. Default 256 MiB.
    public var maxBytes: Int

    public init(directory: String, maxBytes: Int = 256 * 1024 * 1024) {
        self.directory = directory
        self.maxBytes = maxBytes
    }

    /// At least a few batches fit.
    static let byteRange = 64 * 1024...(1 << 40)
}

/// What waits on disk for one signal's endpoint.
public struct DiskQueueStatus: Sendable, Equatable {
    /// Spans, data points or log records.
    public var items: UInt64 = 0
    /// In files, with what is done with and not deleted yet.
    public var bytes: UInt64 = 0
    /// Of the first batch, 0 for an earlier process's; nil when there is none.
    var oldestSequence: UInt64?
}
