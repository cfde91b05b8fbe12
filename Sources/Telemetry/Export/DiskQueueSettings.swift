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
