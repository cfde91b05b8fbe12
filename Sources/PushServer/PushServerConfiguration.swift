public import EventStreams
public import LatencyHeatmap
public import PushPipeline
public import Telemetry

/// Everything that `isotherm serve` can be told, with defaults that are safe for one machine.
public struct PushServerConfiguration: Sendable {
    /// Address to listen on. Default loopback.
    public var host = "127.0.0.1"
    /// Port to listen on; 0 takes a free one. Default 8080.
    public var port = 8080
    /// Threads that serve connections. Default: one per core.
    public var eventLoopThreads: Int
    /// Longest time for the first request head of a connection to arrive. Default 10 s.
    public var headTimeout = Duration.seconds(10)
    /// Longest time without a request on an ordinary connection. Default 60 s.
    public var idleTimeout = Duration.seconds(60)
    /// Most bytes of a request head. Default 16 KiB.
    public var maxHeadBytes = 16 * 1024
    /// Most bytes of an OTLP request, before and after decompression. Default 4 MiB and 32 MiB.
    public var maxOTLPBytes = 4 * 1024 * 1024
    public var maxOTLPDecompressedBytes = 32 * 1024 * 1024
    /// Origins that a browser may listen from, `*` for any. Default none.
    public var allowedOrigins: [String] = []

    public var store: EmbeddedStoreConfiguration
    public var gateway = GatewayConfiguration()
    public var delivery = DeliveryConfiguration()
    public var heatmap: HeatmapConfiguration
    public var telemetry: TelemetryConfiguration
}
