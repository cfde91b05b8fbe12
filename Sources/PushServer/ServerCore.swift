import EventStreams
import Glibc
import LatencyHeatmap
import NIOCore
import PushPipeline
import Synchronization
import Telemetry

/// What the connections share.
final class ServerCore: Sendable {
    let configuration: PushServerConfiguration
    let gateway: Gateway
    let hub: Hub
    let heatmap: HeatmapEngine
    let metrics: PipelineMetrics
    let telemetry: TelemetrySDK
    let otlpAdmission: OTLPAdmission
    let store: EmbeddedEventStore
    let dates = DateCache()
    let connections: ConnectionRegistry
    let acceptErrors = AcceptErrors()
    /// Nil without TLS.
    let tls: TLSStore?
    private let devicePlaces: DevicePlaces
    private let paceKeepers: [ObjectIdentifier: PaceKeeper]
    private let publishLanes: [ObjectIdentifier: PublishLane]
    /// What is counted for every event and every stream, looked up once.
    private let publishes: Counter
    private let streams: Counter
    private let shedStreams = Mutex<[GatewayError.Code: UInt64]>([:])
    /// The lines that every stream opens with.
    let opening: [UInt8]
    /// Set when the drain begins: what is still open finishes, nothing new is accepted.
    let isDraining = Atomic(false)

    init(
        configuration: PushServerConfiguration, gateway: Gateway, hub: Hub, heatmap: HeatmapEngine,
        metrics: PipelineMetrics, telemetry: TelemetrySDK, store: EmbeddedEventStore, tls: TLSStore?,
        loops: [any EventLoop]
    ) {
        let paceLimits = Pace.Limits(configuration)
        paceKeepers = Dictionary(
            uniqueKeysWithValues: loops.map { (ObjectIdentifier($0), PaceKeeper(loop: $0, limits: paceLimits)) })
        publishLanes = Dictionary(
            uniqueKeysWithValues: loops.map { loop in
                let hubLoop = Self.hubLoop(of: loop, hub)
                let lane = PublishLane(loop: loop, hubLoop: hubLoop, gateway: gateway, store: store)
                return (ObjectIdentifier(loop), lane)
            })
        publishes = metrics.requests(route: Route.publish.rawValue, status: 202)
        streams = metrics.requests(route: Route.listen.rawValue, status: 200)
        self.tls = tls
        self.configuration = configuration
        self.gateway = gateway
        self.hub = hub
        self.heatmap = heatmap
        self.metrics = metrics
        self.telemetry = telemetry
        self.store = store
        otlpAdmission = OTLPAdmission(
            maxRequests: configuration.maxOTLPRequests, maxBytes: configuration.maxOTLPPendingBytes)
        connections = ConnectionRegistry(
            limit: configuration.limits.effectiveConnections(descriptorLimit: Self.descriptorLimit),
            perAddress: configuration.limits.connectionsPerAddress)
        devicePlaces = DevicePlaces(
            limit: configuration.limits.streamsPerDevice, overflow: configuration.limits.deviceOverflow,
            retry: configuration.limits.shedRetry)
        let retry = configuration.delivery.retry.components
        opening = EventFrame.opening(
            retryMilliseconds: retry.seconds * 1_000 + retry.attoseconds / 1_000_000_000_000_000)
    }

    func channel(for tenant: Tenant) throws(GatewayError) -> TenantChannel {
        do { return try hub.channel(for: tenant) } catch {
            throw GatewayError(code: .unavailable, cause: "\(error)", retryAfter: .seconds(5))
        }
    }

    /// The hub's part on a loop, which is one of the server's.
    func hubLoop(of loop: any EventLoop) -> HubLoop { publishLane(of: loop).hubLoop }

    private static func hubLoop(of loop: any EventLoop, _ hub: Hub) -> HubLoop {
        let found = hub.loops.first { ($0.loop as? NIODeliveryLoop)?.eventLoop === loop }
        guard let found else { preconditionFailure("a connection on a loop that is not the server's") }
        return found
    }

    // MARK: Room

    /// From now on the stream ends when its device opens one too many.
    func replaceable(
        _ place: StreamPlace, _ connection: StreamConnection, on hubLoop: HubLoop, _ eventLoop: any EventLoop
    ) {
        guard place.canBeReplaced else { return }
        let bound = NIOLoopBound(connection, eventLoop: eventLoop)
        let retry = configuration.limits.shedRetry
        place.onReplaced {
            eventLoop.execute {
                if let subscription = bound.value.subscription {
                    hubLoop.close(subscription, retry: retry, reason: .replaced)
                }
            }
        }
    }

    private static var descriptorLimit: Int {
        var limit = rlimit()
        guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return 1_024 }
        return Int(min(limit.rlim_cur, 1 << 30))
    }

    /// Takes a place for a stream or a poll; it is given back with the last reference to it.
    func admit(_ request: DeviceRequest) throws(GatewayError) -> StreamPlace {
        guard !isDraining.load(ordering: .relaxed) else { throw isShuttingDown }
        return try StreamPlace(request, hub: hub, devices: devicePlaces)
    }

    func noRoom(_ excess: ConnectionLimit) -> GatewayError {
        let cause =
            switch excess {
            case .address: "this address holds \(configuration.limits.connectionsPerAddress) connections, its limit"
            case .connections, .descriptors: "this server holds \(connections.limit) connections, its limit"
            }
        return GatewayError(code: .tooManyConnections, cause: cause, retryAfter: configuration.limits.shedRetry)
    }

    var isShuttingDown: GatewayError {
        GatewayError(
            code: .draining, cause: "this server is shutting down; another one may answer",
            retryAfter: configuration.delivery.retry)
    }

    /// The whole body of a stream that is turned away; counted.
    func shed(_ error: GatewayError) -> String {
        shedStreams.withLock { $0[error.code, default: 0] += 1 }
        let retry = Shedding.jitteredMilliseconds(error.retryAfter ?? configuration.limits.shedRetry)
        return "retry: \(retry)\n: \(error.code.rawValue), please come back\n\n"
    }

    func shedCount(_ code: GatewayError.Code) -> UInt64 { shedStreams.withLock { $0[code] ?? 0 } }

    /// The part of the heatmap that a request may write and see: its tenant's, once there are several.
    func heatmapPrefix(_ fields: RequestFields) throws(GatewayError) -> String {
        let tenant = try gateway.directory.tenant(authorization: fields.authorization, token: fields.token)
        return gateway.directory.requiresToken ? TenantPrefix.of(tenant.name) : ""
    }

    /// What the server depends on, and whether it does without at the moment.
    var dependencies: [(name: String, isDegraded: Bool)] {
        [
            ("log", store.statistics.failure != nil), ("exporter", telemetry.isExporterFailing),
            ("heatmap_files", heatmap.persistence?.isFailing ?? false),
            ("deliveries_file", hub.keeper?.statistics.isFailing ?? false),
        ]
    }

    func count(_ route: Route, status: Int) {
        switch (route, status) {
        case (.publish, 202): publishes.add()
        case (.listen, 200): streams.add()
        default: metrics.requests(route: route.rawValue, status: status).add()
        }
    }

    func paceKeeper(of loop: any EventLoop) -> PaceKeeper { Self.part(paceKeepers, of: loop) }

    func publishLane(of loop: any EventLoop) -> PublishLane { Self.part(publishLanes, of: loop) }

    /// Every connection's loop is one of the server's.
    private static func part<Part>(_ parts: [ObjectIdentifier: Part], of loop: any EventLoop) -> Part {
        guard let part = parts[ObjectIdentifier(loop)] else {
            preconditionFailure("a connection on a loop that is not the server's")
        }
        return part
    }

    /// The head of a stream's response. Its body ends with the connection, so frames need no chunk around them.
    func streamHead(origin: String?) -> String {
        var head = Self.streamHeadStart
        for field in corsFields(origin: origin) { head += "\(field.name): \(field.value)\r\n" }
        head += "Date: "
        head += dates.now
        head += "\r\nConnection: close\r\n\r\n"
        return head
    }

    private static let streamHeadStart =
        "HTTP/1.1 200 OK\r\n" + streamFields.map { "\($0.name): \($0.value)\r\n" }.joined()

    /// No cache, no proxy's buffer and no recoding may hold an event back.
    static let streamFields = [
        (name: "Content-Type", value: "text/event-stream"),
        (name: "Cache-Control", value: "no-cache, no-transform"),
        (name: "X-Accel-Buffering", value: "no"),
    ]

    func corsFields(origin: String?) -> [(name: String, value: String)] {
        configuration.cors.fields(origin: origin)
    }
}

/// The current time as HTTP's `Date` field has it, formatted once a second.
final class DateCache: Sendable {
    private let state = Mutex<(second: Int, text: String)>((0, ""))

    var now: String {
        let second = time(nil)
        return state.withLock { state in
            if state.second != second { state = (second, Self.format(second)) }
            return state.text
        }
    }

    private static func format(_ second: Int) -> String {
        var second = second
        var parts = tm()
        gmtime_r(&second, &parts)
        // Names of days and months as RFC 9110 has them, whatever the locale.
        let days = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"]
        let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
        func padded(_ value: Int32) -> String { value < 10 ? "0\(value)" : "\(value)" }
        return "\(days[Int(parts.tm_wday)]), \(padded(parts.tm_mday)) \(months[Int(parts.tm_mon)]) "
            + "\(1900 + parts.tm_year) \(padded(parts.tm_hour)):\(padded(parts.tm_min)):\(padded(parts.tm_sec)) GMT"
    }
}

/// A route's name in `isotherm_requests_total{route,code}`.
enum Route: String, CaseIterable {
    case publish, listen, poll, deliveries, receipts, heatmap, metrics
    case traces = "otlp_traces"
    case otlpMetrics = "otlp_metrics"
    case probe, other
}

enum ReasonPhrase {
    static func of(_ status: Int) -> StaticString {
        switch status {
        case 200: "OK"
        case 202: "Accepted"
        case 400: "Bad Request"
        case 401: "Unauthorized"
        case 404: "Not Found"
        case 408: "Request Timeout"
        case 413: "Content Too Large"
        case 415: "Unsupported Media Type"
        case 429: "Too Many Requests"
        case 431: "Request Header Fields Too Large"
        case 503: "Service Unavailable"
        case 507: "Insufficient Storage"
        default: "Status"
        }
    }
}
