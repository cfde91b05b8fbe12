/// How much load, of what shape, for how long.
public struct LoadPlan: Sendable {
    public var target: LoadTarget
    /// Streams that read; spread evenly over the channels.
    public var connections = 100
    /// Further streams that never read once they are open, and are not part of what is measured.
    public var stalled = 0
    public var channels = 1
    /// Events a second over all channels; nil for as many as the publishers manage, each when its last was answered.
    public var rate: Double? = 10
    /// Publishing at the same rate before anything counts.
    public var warmUp: Duration = .seconds(2)
    /// Of what counts; zero opens the connections, takes the server's memory, and publishes nothing.
    public var duration: Duration = .seconds(10)
    /// The longest wait after the last event for what is missing.
    public var drain: Duration = .seconds(10)
    /// From the last delivery until the server's CPU time is taken: for work that a server puts off, such as exporting
    /// spans.
    public var settle: Duration = .zero
    /// Bytes of an event.
    public var size = 256
    /// Connections that publish, each with one request under way.
    public var publishers = 8
    /// Threads that read.
    public var threads = 1
    /// Streams that end are opened again, with the last id.
    public var reconnects = false
    /// Streams speak HTTP/2, each on a connection of its own: by ALPN with TLS, else by prior knowledge. Events are
    /// published with HTTP/1.1.
    public var http2 = false
    /// All streams are cut in the middle of the duration.
    public var storm = false
    /// Processes of the server, with their children; empty to find who listens on the target's port.
    public var serverPIDs: [Int32] = []

    /// Before the server's memory and CPU are taken, once its streams are open: for what it does after its answer.
    var rest: Duration = .milliseconds(500)

    public init(target: LoadTarget) { self.target = target }

    public static let maxConnections = 1_000_000
    public static let maxChannels = 999_999
    public static let maxPublishers = 1_024
    public static let maxSize = 16 << 20
    public static let maxRate = 10_000_000.0
    public static let maxThreads = 64

    var streams: Int { connections + stalled }

    /// Whether streams that end come back.
    var resumes: Bool { reconnects || storm }

    public func validate() throws(LoadError) {
        try Self.check("connections", connections, 0, Self.maxConnections)
        try Self.check("stalled", stalled, 0, Self.maxConnections)
        try Self.check("channels", channels, 1, Self.maxChannels)
        try Self.check("publishers", publishers, 1, Self.maxPublishers)
        try Self.check("size", size, EventPayload.minBytes, Self.maxSize)
        try Self.check("threads", threads, 1, Self.maxThreads)
        if let rate, !(rate > 0 && rate <= Self.maxRate) {
            throw LoadError(
                code: .invalidPlan,
                cause: "rate \(rate) is not above 0 and at most \(Int(Self.maxRate)) events a second")
        }
        for (name, duration) in [("warm-up", warmUp), ("duration", duration), ("drain", drain), ("settle", settle)]
        where duration < .zero || duration > .seconds(86_400) {
            throw LoadError(code: .invalidPlan, cause: "\(name) \(duration) is not from 0 to 24 hours")
        }
        _ = try target.subscribeHead(channel: 0, connection: 0)
        _ = try target.publishRequest(channel: 0, size: size)
        if storm, connections == 0 || duration == .zero {
            throw LoadError(
                code: .invalidPlan, cause: "a storm cuts connections in the middle of the duration; there must be both")
        }
        if channels > max(connections, 1), connections > 0 {
            throw LoadError(
                code: .invalidPlan,
                cause: "\(channels) channels for \(connections) connections leave some without a reader; "
                    + "take fewer channels or more connections")
        }
    }

    private static func check(_ name: String, _ value: Int, _ low: Int, _ high: Int) throws(LoadError) {
        guard value < low || value > high else { return }
        throw LoadError(code: .invalidPlan, cause: "\(name) \(value) is not from \(low) to \(high)")
    }
}
