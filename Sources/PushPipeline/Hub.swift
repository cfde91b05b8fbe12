import EventStreams
import LatencyHeatmap
import Synchronization
import Telemetry

/// Delivers the log to the devices.
///
/// Each connection belongs to a loop, and each loop follows each tenant's log with a cursor of its own: a publisher only
/// wakes the loops, which then read the events from memory, in order, and send them. Nothing is queued per connection.
public final class Hub: Sendable {
    public let configuration: DeliveryConfiguration
    public let groups: GroupRegistry
    public let loops: [HubLoop]
    /// Nil where the journal is in memory only.
    public let keeper: DeliveryKeeper?
    private let openStream: @Sendable (Tenant) throws -> any EventStream
    let offload: @Sendable (@escaping @Sendable () -> Void) -> Void
    private let newRecorder: @Sendable () -> DeliveryRecorder
    private let metrics: PipelineMetrics
    private let channels = Mutex<[String: TenantChannel]>([:])
    private let connections = Atomic(0)

    /// - Parameter offload: runs work that may block on the disk, away from the loops.
    /// - Parameter separatesTenants: whether the heatmap's groups carry their tenant, because there are several.
    /// - Parameter resource: attributes of this process, for heatmaps that group by them.
    /// - Parameter keeper: keeps the journal on the disk.
    /// - Parameter openStream: the log of a tenant; called once for each.
    public init(
        configuration: DeliveryConfiguration, loops: [any DeliveryLoop], tracer: Tracer, heatmap: HeatmapEngine,
        metrics: PipelineMetrics, separatesTenants: Bool, resource: [(key: String, value: String)] = [],
        keeper: DeliveryKeeper? = nil,
        offload: @escaping @Sendable (@escaping @Sendable () -> Void) -> Void,
        openStream: @escaping @Sendable (Tenant) throws -> any EventStream
    ) {
        self.configuration = configuration
        self.metrics = metrics
        self.keeper = keeper
        self.openStream = openStream
        self.offload = offload
        let groups = GroupRegistry(limit: configuration.maxGroups)
        self.groups = groups
        let newRecorder: @Sendable () -> DeliveryRecorder = {
            DeliveryRecorder(
                policy: configuration.spans, tracer: tracer, heatmap: heatmap, metrics: metrics, groups: groups,
                separatesTenants: separatesTenants, resource: resource)
        }
        self.newRecorder = newRecorder
        self.loops = loops.enumerated().map { index, loop in
            HubLoop(
                index: index, loop: loop, configuration: configuration, groups: groups, metrics: metrics,
                recorder: newRecorder(), offload: offload)
        }
        keeper?.start(self)
    }

    /// Opens the tenant's log at the first call.
    public func channel(for tenant: Tenant) throws -> TenantChannel {
        if let channel = channels.withLock({ $0[tenant.name] }) { return channel }
        // Outside the lock, since opening may read from disk; a second opener gets the first one's channel.
        let stream = try openStream(tenant)
        let signals = loops.map { hubLoop in
            TenantChannel.LoopSignal(loop: hubLoop.loop) { hubLoop.pump($0) }
        }
        let channel = TenantChannel(
            tenant: tenant, stream: stream, configuration: configuration, published: metrics.published(tenant.name),
            signals: signals)
        return channels.withLock { channels in
            if let other = channels[tenant.name] { return other }
            channels[tenant.name] = channel
            return channel
        }
    }

    public var openChannels: [TenantChannel] { channels.withLock { Array($0.values) } }

    /// Takes a place for a connection; every success is paired with `closeConnection`.
    public func openConnection(_ tenant: Tenant) throws(GatewayError) {
        guard connections.add(1, ordering: .relaxed).newValue <= configuration.maxConnections else {
            connections.subtract(1, ordering: .relaxed)
            throw GatewayError(
                code: .tooManyConnections,
                cause: "this server holds \(configuration.maxConnections) connections, its limit",
                retryAfter: .seconds(5))
        }
        guard tenant.openConnection() else {
            connections.subtract(1, ordering: .relaxed)
            throw GatewayError(
                code: .quotaExceeded,
                cause: "tenant \(tenant.name) holds \(tenant.quota.connections) connections, its quota",
                retryAfter: .seconds(5))
        }
    }

    public func closeConnection(_ tenant: Tenant) {
        connections.subtract(1, ordering: .relaxed)
        tenant.closeConnection()
    }

    /// For deliveries that do not go through a loop. Belongs to whoever asked for it.
    public func makeRecorder() -> DeliveryRecorder { newRecorder() }

    /// Reads from the disk without blocking the caller's thread.
    public func readLog(
        _ channel: TenantChannel, after offset: UInt64, limit: Int, byteLimit: Int
    ) async throws(StreamError) -> [StoredEvent] {
        try await withCheckedContinuation { continuation in
            offload {
                continuation.resume(
                    returning: Result { () throws(StreamError) in
                        try channel.stream.read(after: offset, limit: limit, byteLimit: byteLimit)
                    })
            }
        }.get()
    }

    /// Closes every stream within the drain interval, each with a jittered `retry:`.
    public func drain() {
        for loop in loops { loop.loop.execute { loop.drain() } }
    }

    /// Events between the log's head and the slowest connection of each tenant and group; at most a heartbeat old.
    public var lags: [(tenant: String, group: String, events: UInt64)] {
        var slowest: [HubLoop.LagKey: UInt64] = [:]
        for loop in loops { slowest.merge(loop.lags, uniquingKeysWith: max) }
        return slowest.map { ($0.key.tenant, groups.name(of: $0.key.group), $0.value) }
    }

    /// Subscriptions still open, over all loops.
    public var openSubscriptions: Int { connections.load(ordering: .relaxed) }
}
