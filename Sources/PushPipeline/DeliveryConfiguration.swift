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

    public init() {}
}
