import EventStreams
import LatencyHeatmap
import NIOCore
import PushPipeline
import Telemetry

/// Everything that `isotherm serve` can be told, with defaults that are safe for one machine.
public struct PushServerConfiguration: Sendable {
    /// Address to listen on. Default loopback.
    public var host = "127.0.0.1"
    /// Port to listen on; 0 takes a free one. Default 8080.
    public var port = 8080
    /// Threads that serve connections. Default: one per core.
    public var eventLoopThreads: Int
    /// Longest time for a request head to arrive: the first from the connection on, others from their first byte. Default
    /// 10 s.
    public var headTimeout = Duration.seconds(10)
    /// Longest time without a request on an ordinary connection. Default 60 s.
    public var idleTimeout = Duration.seconds(60)
    /// Most bytes of a request head. Default 16 KiB.
    public var maxHeadBytes = 16 * 1024
    /// Most bytes of an OTLP request, before and after decompression. Default 4 MiB and 32 MiB.
    public var maxOTLPBytes = 4 * 1024 * 1024
    public var maxOTLPDecompressedBytes = 32 * 1024 * 1024
    /// Most OTLP requests, and bytes of them, that are read at once; others are told to come back. Default 64 and 64 MiB.
    public var maxOTLPRequests = 64
    public var maxOTLPPendingBytes = 64 * 1024 * 1024
    /// Whether the heatmap's cells are kept in the data directory, so that they survive a restart. Default true.
    public var persistsHeatmap = true
    public var tls = TLSConfiguration()
    public var cors = CORSConfiguration()
    public var limits = LimitsConfiguration()
    public var store: EmbeddedStoreConfiguration
    public var gateway = GatewayConfiguration()
    public var delivery = DeliveryConfiguration()
    public var heatmap: HeatmapConfiguration
    public var telemetry: TelemetryConfiguration

    public init(
        dataDirectory: String, heatmap: HeatmapConfiguration = HeatmapConfiguration(),
        telemetry: TelemetryConfiguration = TelemetryConfiguration()
    ) {
        eventLoopThreads = System.coreCount
        store = EmbeddedStoreConfiguration(directory: dataDirectory)
        self.heatmap = heatmap
        self.telemetry = telemetry
    }

    /// Throws for settings that contradict each other or make no sense; names the setting and the remedy.
    public func validate() throws(ConfigurationError) {
        func check(_ isValid: Bool, _ cause: String) throws(ConfigurationError) {
            guard isValid else { throw ConfigurationError(cause: cause) }
        }
        try check((0...65_535).contains(port), "listen: port \(port) is not from 0 to 65535")
        try check(eventLoopThreads > 0, "threads: \(eventLoopThreads) is not at least 1")
        for (name, host) in [("listen", host)] + (tls.isEnabled ? [("tls.listen", tls.host)] : []) {
            try check(
                !gateway.tenants.isEmpty || gateway.allowsAnonymous || Self.isLoopback(host),
                "\(name): \(host) is not a loopback address, and no tenant is configured, so anybody could publish and "
                    + "listen; configure a tenant with a token, or set gateway.allow_anonymous")
        }
        try check(
            !tls.isEnabled || !tls.certificate.isEmpty && !tls.key.isEmpty,
            "tls.listen needs tls.certificate and tls.key, paths of PEM files")
        try check(
            !cors.allowsCredentials || !cors.allowedOrigins.contains("*"),
            "cors.allow_credentials: with cors.allowed_origins * any page could act for a user; name the origins")
        try check(maxHeadBytes >= 1_024, "max_head_bytes: \(maxHeadBytes) is not at least 1024")
        try check(limits.connections >= 0, "limits.connections: \(limits.connections) is negative")
        try check(
            limits.connectionsPerAddress >= 0,
            "limits.connections_per_address: \(limits.connectionsPerAddress) is negative")
        try check(
            limits.streamsPerDevice >= 0, "limits.streams_per_device: \(limits.streamsPerDevice) is negative")
        try check(limits.headFields >= 8, "limits.head_fields: \(limits.headFields) is not at least 8")
        try check(limits.bodyRate > 0, "limits.body_rate: \(limits.bodyRate) is not at least 1")
        for (name, time) in [("head_timeout", headTimeout), ("idle_timeout", idleTimeout)] {
            try check(time > .zero, "\(name): \(time) is not more than 0")
        }
        try check(maxOTLPRequests > 0, "otlp.max_requests: \(maxOTLPRequests) is not at least 1")
        try check(gateway.maxEventBytes > 0, "max_event_bytes: \(gateway.maxEventBytes) is not at least 1")
        try check(
            delivery.maxQueuedBytes >= 16 * 1024,
            "delivery.max_queued_bytes: \(delivery.maxQueuedBytes) is not at least 16384")
        try check(
            delivery.journalBytes == 0 || delivery.journalBytes >= 1 << 20,
            "delivery.journal_bytes: \(delivery.journalBytes) is neither 0, which keeps nothing on the disk, nor at least "
                + "1MiB")
        try check(delivery.maxConnections > 0, "delivery.max_connections: \(delivery.maxConnections) is not at least 1")
        try check(
            delivery.heartbeatInterval >= .milliseconds(100),
            "delivery.heartbeat: \(delivery.heartbeatInterval) is not at least 100ms")
    }

    private static func isLoopback(_ host: String) -> Bool {
        host == "localhost" || host == "::1" || host.hasPrefix("127.")
    }
}

/// Settings that cannot be used.
public struct ConfigurationError: Error, Sendable, CustomStringConvertible {
    public let cause: String
    public var description: String { cause }
}
