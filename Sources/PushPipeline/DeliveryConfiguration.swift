/// How events travel from the log to the devices.
public struct DeliveryConfiguration: Sendable {
    /// Which deliveries leave as spans. Every delivery is measured and counted whatever this says.
    public enum SpanPolicy: String, Sendable, CaseIterable {
        /// One span per delivery.
        case all
        /// One span per event and device group, carrying the latencies' sketch, and the slowest and one random device.
        case summary
        /// None.
        case none
    }

    /// Default `summary`.
    public var spans = SpanPolicy.summary
    /// Time between two heartbeat comments on a quiet connection. Default 15 s.
    public var heartbeatInterval = Duration.seconds(15)
    /// The `retry:` that a stream opens with. Default 2 s.
    public var retry = Duration.seconds(2)
    /// Events are joined into one send per connection for this long after a send. Zero sends each at once. Default 5 ms.
    public var joinInterval = Duration.milliseconds(5)
    /// Bytes that may wait for one connection, the kernel's share included, before it falls back to catching up from
    /// the log. Default 256 KiB.
    public var maxQueuedBytes = 256 * 1024
    /// A connection that takes no byte for this long is closed; the device may resume. Default 60 s.
    public var stallTimeout = Duration.seconds(60)
    /// Connections in all; more are told to come back. Default 100,000.
    public var maxConnections = 100_000
    /// Device groups that get a label and a heatmap row of their own; the rest share `__other__`. Default 1,000.
    public var maxGroups = 1_000
    /// Topics on one connection. Default 64.
    public var maxTopicsPerConnection = 64
    /// On shutdown, streams are closed over this time, each with a jittered `retry:`. Default 2 s.
    public var drainInterval = Duration.seconds(2)
    /// Whether an event is delivered only once it is as durable as its topic asks. Default false: delivery does not
    /// wait for the disk.
    public var afterDurable = false

    /// Questions to the kernel per second and loop about what devices' kernels have acknowledged, each about 1 µs. Zero
    /// asks none. Default 1,000, so a thousandth of a core.
    public var acknowledgementProbesPerSecond = 1_000
    /// What is remembered of deliveries, for each tenant and loop: broadcasts and acknowledgements (24 bytes each), and
    /// connections that are gone (about 250). Default 16,384 and 4,096.
    public var journalBroadcasts = 16_384
    public var journalSessions = 4_096
    /// Receipts of devices that are remembered for each tenant (about 100 bytes each). Default 65,536.
    public var journalReceipts = 65_536
    /// Bytes of one tenant's journal on the disk, so that it is known after a restart; the oldest leaves first. Zero keeps
    /// it in memory only. Default 1 GiB, about ten million events.
    public var journalBytes = 1 << 30
    /// Devices of a tenant whose clocks are followed. Default 100,000.
    public var maxDeviceClocks = 100_000

    public init() {}
}
