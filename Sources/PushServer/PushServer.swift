import EventStreams
import HTTPTypes
import Hummingbird
import HummingbirdCore
import LatencyHeatmap
import Logging
import NIOCore
import NIOPosix
import OTLP
import PushPipeline
import ServiceLifecycle
import Synchronization
import Telemetry

/// The pipeline behind a listening socket.
///
///     let server = try PushServer(configuration: configuration, logger: logger)
///     try await server.run()          // until the service group shuts it down
///
/// `run` returns after a graceful drain: streams are closed over the drain interval, acknowledged events are on disk, and
/// what the tracer held has been exported or counted as dropped.
public final class PushServer: Service {
    public let configuration: PushServerConfiguration
    public let heatmap: HeatmapEngine
    public let telemetry: TelemetrySDK
    public let registry: MetricRegistry
    private let core: ServerCore
    private let store: EmbeddedEventStore
    private let loops: MultiThreadedEventLoopGroup
    private let diskThreads: NIOThreadPool
    private let logger: Logger
    /// Connections that the general codec serves, each with a task of its own.
    private let ordinary = AsyncStream.makeStream(of: HTTP1Channel.Value.self)
    private let http1: HTTP1Channel
    private let ready = Mutex<ReadyState>(.waiting([]))

    private typealias Ports = (plain: Int, secure: Int?)

    private enum ReadyState {
        case waiting([CheckedContinuation<Ports, any Error>])
        case listening(Ports)
        case failed(any Error)
    }

    /// Opens the log and every tenant's part of it; binds nothing yet. Throws for settings that contradict each other,
    /// and for a data directory that cannot be used.
    public init(configuration: PushServerConfiguration, logger: Logger) throws {
        self.configuration = configuration
        self.logger = logger
        try configuration.validate()
        let telemetry = TelemetrySDK(configuration: configuration.telemetry)
        // Scraped at /metrics, and pushed where there is an endpoint for metrics.
        let registry = telemetry.metrics
        var heatmapConfiguration = configuration.heatmap
        heatmapConfiguration.ownInstanceID = configuration.telemetry.resource.instanceID
        heatmapConfiguration.keepsTotals =
            configuration.telemetry.metricsExporter.endpoint != nil && !configuration.telemetry.isDisabled
        let heatmap: HeatmapEngine
        do { heatmap = try HeatmapEngine(configuration: heatmapConfiguration) } catch {
            throw ConfigurationError(cause: "heatmap.\(error)")
        }
        let tls: TLSStore?
        do { tls = configuration.tls.isEnabled ? try TLSStore(configuration.tls) : nil } catch {
            throw ConfigurationError(cause: "\(error)")
        }
        let metrics = PipelineMetrics(registry: registry)
        let store = try EmbeddedEventStore(configuration: configuration.store)
        // In the log's directory, which was made and locked a line above.
        if configuration.persistsHeatmap {
            do { try heatmap.persist(in: configuration.store.directory + "/heatmap") } catch {
                throw ConfigurationError(cause: error.cause)
            }
        }
        let directory = try TenantDirectory(configuration: configuration.gateway, nowUnixNano: Clock.now().unixNano)
        let loops = MultiThreadedEventLoopGroup(numberOfThreads: configuration.eventLoopThreads)
        let diskThreads = NIOThreadPool(numberOfThreads: 2)
        diskThreads.start()
        let eventLoops = Array(loops.makeIterator())
        // In the log's directory too.
        let keeper =
            configuration.delivery.journalBytes > 0
            ? DeliveryKeeper(
                configuration: .init(
                    path: configuration.store.directory + "/deliveries.sqlite",
                    byteLimit: configuration.delivery.journalBytes, retentionAge: configuration.store.retentionAge),
                notify: { Self.tell($0, logger) })
            : nil
        let hub = Hub(
            configuration: configuration.delivery, loops: eventLoops.map { NIODeliveryLoop($0) },
            tracer: telemetry.tracer, heatmap: heatmap, metrics: metrics,
            separatesTenants: directory.requiresToken, resource: configuration.telemetry.resource.texts, keeper: keeper,
            offload: { work in diskThreads.submit { _ in work() } },
            openStream: { try store.stream(tenant: $0.name) })
        let gateway = Gateway(
            configuration: configuration.gateway, hub: hub, directory: directory, tracer: telemetry.tracer,
            metrics: metrics)
        // Opened now, so that no connection waits for the disk.
        for tenant in directory.tenants { _ = try hub.channel(for: tenant) }
        let core = ServerCore(
            configuration: configuration, gateway: gateway, hub: hub, heatmap: heatmap, metrics: metrics,
            telemetry: telemetry, store: store, tls: tls, loops: eventLoops)
        self.core = core
        let responder = OrdinaryRoutes(core: core, registry: registry).responder()
        http1 = HTTP1Channel(
            responder: { request, writer, channel in
                let context = BasicRequestContext(
                    source: ApplicationRequestContextSource(channel: channel, logger: logger))
                let response = try await CodecStream.$requestChannel.withValue(channel) {
                    try await responder.respond(to: request, context: context)
                }
                try await writer.write(response: response.head, body: response.body)
            },
            configuration: .init(
                // `PaceWatch` times what comes, and idle connections.
                additionalChannelHandlers: [RequestWatch()],
                httpDecoderConfiguration: .init(
                    maxHeaderFieldSize: configuration.maxHeadBytes, maxHeaderListSize: configuration.maxHeadBytes,
                    maxHeaderFieldCount: configuration.limits.headFields)))
        self.registry = registry
        self.telemetry = telemetry
        self.heatmap = heatmap
        self.store = store
        self.loops = loops
        self.diskThreads = diskThreads
        ServerMetrics.register(in: registry, core: core)
    }

    private static func tell(_ notice: DeliveryKeeper.Notice, _ logger: Logger) {
        switch notice {
        case .failing(let cause):
            logger.error(
                "The journal of deliveries cannot be written; deliveries go on, and it is tried again every second",
                metadata: ["error": "\(cause)"])
        case .recovered: logger.notice("The journal of deliveries is written again")
        case .damaged(let path, let cause):
            logger.error(
                "The journal of deliveries is damaged; it was put aside, and a new one begun",
                metadata: ["moved_to": "\(path)", "error": "\(cause)"])
        }
    }

    // MARK: Running

    /// Listens until the task's graceful shutdown, then drains. Throws when the address cannot be bound.
    public func run() async throws {
        let listener: any Channel
        var secureListener: (any Channel)?
        do {
            listener = try await bind(configuration.host, configuration.port, tls: nil)
            if let tls = core.tls {
                do { secureListener = try await bind(configuration.tls.host, configuration.tls.port, tls: tls) } catch {
                    try? await listener.close()
                    throw ConfigurationError(
                        cause: "cannot listen on \(configuration.tls.host):\(configuration.tls.port) with TLS: \(error)"
                    )
                }
            }
        } catch {
            settle(.failure(error))
            await close()
            throw error
        }
        settle(
            .success(
                (
                    listener.localAddress?.port ?? configuration.port,
                    secureListener?.localAddress?.port
                )))
        let listeners = [listener] + (secureListener.map { [$0] } ?? [])
        let http1 = http1
        let logger = logger
        let connections = ordinary.stream
        let heatmap = heatmap
        let diskThreads = diskThreads
        // Half a second, so that with the time a save takes no more than a second's counts are at stake.
        let beats = Mutex(0)
        let upkeep = listener.eventLoop.scheduleRepeatedTask(
            initialDelay: .milliseconds(500), delay: .milliseconds(500)
        ) { _ in
            diskThreads.submit { _ in
                heatmap.save()
                let isSecond = beats.withLock { beats in
                    beats += 1
                    return beats % 2 == 0
                }
                if isSecond {
                    heatmap.maintain()
                    self.reloadCertificate(always: false)
                }
            }
        }
        await withGracefulShutdownHandler {
            await withDiscardingTaskGroup { group in
                for await connection in connections {
                    group.addTask { await http1.handle(value: connection, logger: logger) }
                }
            }
        } onGracefulShutdown: {
            // Whoever connects from now on is told to come back, and `/readyz` says why.
            self.core.isDraining.store(true, ordering: .sequentiallyConsistent)
            self.core.hub.drain()
            self.core.connections.quiesce()
            self.core.connections.end(
                within: TimeAmount(self.configuration.delivery.drainInterval) + .seconds(2), on: listener.eventLoop
            ) {
                for listener in listeners { listener.close(promise: nil) }
                self.ordinary.continuation.finish()
            }
        }
        upkeep.cancel()
        await close()
    }

    /// Reads the certificate and its key again, such as on SIGHUP; one that cannot be used leaves the one before in force.
    /// Changed files are noticed without it, within a second. Blocks on the disk.
    public func reloadCertificate() { reloadCertificate(always: true) }

    private func reloadCertificate(always: Bool) {
        switch core.tls?.reload(always: always) {
        case .success: logger.notice("The certificate was read again")
        case .failure(let error):
            logger.error("The certificate was not read again; the one before stays", metadata: ["error": "\(error)"])
        case nil: break
        }
    }

    /// The ports that are listened on, once they are; `secure` is nil without TLS. Throws what `run` threw if one could not
    /// be bound.
    public var boundPorts: (plain: Int, secure: Int?) {
        get async throws {
            try await withCheckedThrowingContinuation { continuation in
                let known = ready.withLock { state -> ReadyState? in
                    guard case .waiting(let waiting) = state else { return state }
                    state = .waiting(waiting + [continuation])
                    return nil
                }
                switch known {
                case .listening(let ports): continuation.resume(returning: ports)
                case .failed(let error): continuation.resume(throwing: error)
                case .waiting, nil: break
                }
            }
        }
    }

    private func settle(_ result: Result<Ports, any Error>) {
        let waiting = ready.withLock { state -> [CheckedContinuation<Ports, any Error>] in
            guard case .waiting(let waiting) = state else { return [] }
            switch result {
            case .success(let ports): state = .listening(ports)
            case .failure(let error): state = .failed(error)
            }
            return waiting
        }
        for continuation in waiting { continuation.resume(with: result) }
    }

    /// The port that is listened on without TLS, once it is.
    public var boundPort: Int {
        get async throws { try await boundPorts.plain }
    }

    private func bind(_ host: String, _ port: Int, tls: TLSStore?) async throws -> any Channel {
        let core = core
        let codecs = GeneralCodecs(server: core, http1: http1, logger: logger, handOver: ordinary.continuation)
        return try await ServerBootstrap(group: loops)
            .serverChannelOption(.backlog, value: 4_096)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            // What is accepted inherits it.
            .serverChannelOption(.tcpOption(.tcp_nodelay), value: 1)
            .serverChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(
                        AcceptGuard(registry: core.connections, errors: core.acceptErrors))
                }
            }
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    guard let connection = core.connections.open(channel) else { throw ChannelError.eof }
                    // The channel keeps its last buffer for as long as it lives: a stream one that held its request's head.
                    // Reads that fill it make the next one larger.
                    try channel.syncOptions?.setOption(
                        .recvAllocator,
                        value: AdaptiveRecvByteBufferAllocator(minimum: 512, initial: 512, maximum: 65_536))
                    let pipeline = channel.pipeline.syncOperations
                    let secured = try tls.map { try TLSHandler(store: $0, connection: connection) }
                    if let secured { try pipeline.addHandler(secured) }
                    let door = FrontDoor(
                        server: core, lane: core.publishLane(of: channel.eventLoop), connection: connection,
                        tls: secured, codecs: codecs)
                    try pipeline.addHandler(door)
                }
            }
            .bind(host: host, port: port).get()
    }

    /// The log first, since it holds what was acknowledged; then the tracer, which may wait for its collector.
    private func close() async {
        let store = store
        let telemetry = telemetry
        let heatmap = heatmap
        let keeper = core.hub.keeper
        await withCheckedContinuation { (continuation: CheckedContinuation<Void, Never>) in
            diskThreads.submit { _ in
                heatmap.save()
                keeper?.close()
                store.close()
                telemetry.shutdown(deadline: .seconds(5))
                continuation.resume()
            }
        }
        try? await diskThreads.shutdownGracefully()
        try? await loops.shutdownGracefully()
    }
}

extension Resource {
    /// Which of several instances of a service this is.
    fileprivate var instanceID: String? { texts.first { $0.key == "service.instance.id" }?.value }

    /// Attributes that are texts.
    fileprivate var texts: [(key: String, value: String)] {
        attributes.compactMap { attribute in
            if case .string(let text) = attribute.value { (attribute.key, text) } else { nil }
        }
    }
}
