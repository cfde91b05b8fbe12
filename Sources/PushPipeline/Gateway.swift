import EventStreams
import OTLP
import Telemetry

/// One request to publish: a single event, or a batch that is kept as a whole or not at all.
public struct PublishRequest: Sendable {
    public var topic: String
    public var authorization: String?
    public var token: String?
    /// At least one, all of `topic`; their times and trace context are the gateway's to set.
    public var events: [NewEvent]
    /// The caller's span, from `traceparent` and `tracestate`.
    public var parent: SpanContext?
    /// When the request's last byte was there.
    public var acceptedAt: Instant

    public init(
        topic: String, events: [NewEvent], authorization: String? = nil, token: String? = nil,
        parent: SpanContext? = nil, acceptedAt: Instant
    ) {
        self.topic = topic
        self.events = events
        self.authorization = authorization
        self.token = token
        self.parent = parent
        self.acceptedAt = acceptedAt
    }
}

/// Where the events of a request went.
public struct PublishReply: Sendable {
    public let first: PublishedEvent
    /// The rest of a batch, in the order of the request.
    public let others: [PublishedEvent]
    public let traceID: TraceID
}

public struct PublishedEvent: Sendable {
    public let id: String
    /// An earlier event with the same idempotency key stands for this one, and the id is its.
    public let isDuplicate: Bool

    init(_ receipt: AppendReceipt) {
        id = receipt.id
        isDuplicate = receipt.isDuplicate
    }
}

/// Admits events to the log: credential, names, sizes and quota first, then one append.
///
/// Three spans tell where the time went: *produce*, the whole request; *gateway*, the checks; *stream*, the append until
/// the events are as durable as their topic asks. Neighbours share the moment between them.
public final class Gateway: Sendable {
    public let configuration: GatewayConfiguration
    public let directory: TenantDirectory
    private let hub: Hub
    private let tracer: Tracer
    private let metrics: PipelineMetrics

    public init(
        configuration: GatewayConfiguration, hub: Hub, directory: TenantDirectory, tracer: Tracer,
        metrics: PipelineMetrics
    ) {
        self.configuration = configuration
        self.directory = directory
        self.hub = hub
        self.tracer = tracer
        self.metrics = metrics
    }

    /// Never blocks on the disk.
    ///
    /// - Parameter wakesLog: as `wakesWriter` of the log's `append`.
    /// - Parameter completion: called once, inline for what is refused, else on the log writer's thread.
    public func publish(
        _ request: consuming PublishRequest, wakesLog: Bool = true,
        completion: @escaping @Sendable (Result<PublishReply, GatewayError>) -> Void
    ) {
        let produce = tracer.startSpan("produce", kind: .producer, parent: request.parent, at: request.acceptedAt)
        produce.setStage("produce")
        produce.setAttribute("messaging.operation.type", "send")
        produce.setAttribute("messaging.destination.name", request.topic)
        let gate = tracer.startSpan("gateway", parent: produce.context, at: request.acceptedAt)
        gate.setStage("gateway")
        gate.setAttribute("messaging.destination.name", request.topic)
        let tenant: Tenant
        let channel: TenantChannel
        do throws(GatewayError) {
            tenant = try directory.tenant(authorization: request.authorization, token: request.token)
            produce.setAttribute("tenant.id", tenant.name)
            gate.setAttribute("tenant.id", tenant.name)
            try check(request, tenant)
            do { channel = try hub.channel(for: tenant) } catch {
                throw GatewayError(code: .unavailable, cause: "\(error)", retryAfter: .seconds(5))
            }
        } catch {
            let now = Clock.now()
            gate.fail(error, at: now)
            produce.fail(error, at: now)
            metrics.gateway(nanoseconds: now.unixNano - request.acceptedAt.unixNano)
            return completion(.failure(error))
        }
        let admittedAt = Clock.now()
        let acceptedAt = request.acceptedAt
        let traceparent = produce.context.traceparent
        let tracestate = produce.context.traceState.map { "\($0)" }
        for index in request.events.indices {
            request.events[index].acceptedUnixNano = acceptedAt.unixNano
            request.events[index].admittedUnixNano = admittedAt.unixNano
            request.events[index].traceparent = traceparent
            request.events[index].tracestate = tracestate
        }
        gate.end(at: admittedAt)
        metrics.gateway(nanoseconds: admittedAt.unixNano - acceptedAt.unixNano)

        let append = tracer.startSpan("stream", parent: produce.context, at: admittedAt)
        append.setStage("stream")
        append.setAttribute("tenant.id", tenant.name)
        append.setAttribute("messaging.destination.name", request.topic)
        let durability = configuration.topics[request.topic] ?? configuration.durability
        channel.stream.append(request.events, durability: durability, wakesWriter: wakesLog) { [metrics] result in
            let now = Clock.now()
            metrics.appended(
                streamNanoseconds: now.unixNano - admittedAt.unixNano,
                produceNanoseconds: now.unixNano - acceptedAt.unixNano)
            switch result {
            case .success(let receipts):
                let first = PublishedEvent(receipts[0])
                let others = receipts.count == 1 ? [] : receipts.dropFirst().map { PublishedEvent($0) }
                if others.isEmpty {
                    produce.setAttribute("messaging.message.id", first.id)
                    append.setAttribute("messaging.message.id", first.id)
                } else {
                    produce.setAttribute("messaging.batch.message_count", receipts.count)
                }
                append.end(at: now)
                produce.end(at: now)
                channel.published.add(UInt64(receipts.count { !$0.isDuplicate }))
                completion(.success(PublishReply(first: first, others: others, traceID: produce.context.traceID)))
            case .failure(let error):
                let error = GatewayError(error)
                append.fail(error, at: now)
                produce.fail(error, at: now)
                completion(.failure(error))
            }
        }
    }

    private func check(_ request: PublishRequest, _ tenant: Tenant) throws(GatewayError) {
        try EventLabels.validateTopic(request.topic)
        guard request.events.count <= configuration.maxBatchEvents else {
            throw GatewayError(
                code: .batchTooLarge,
                cause: "\(request.events.count) events in one batch; the limit is \(configuration.maxBatchEvents)")
        }
        var bytes = 0
        for index in request.events.indices {
            try check(request.events[index])
            bytes += request.events[index].payload.count
        }
        let now = request.acceptedAt.unixNano
        if let refusal = tenant.charge(events: request.events.count, bytes: bytes, nowUnixNano: now) {
            metrics.quotaRejected(tenant.name, quota: refusal.quota)
            throw GatewayError(
                code: .quotaExceeded,
                cause: "tenant \(tenant.name) is over its quota of \(refusal.quota) per second",
                retryAfter: refusal.wait)
        }
    }

    private func check(_ event: NewEvent) throws(GatewayError) {
        guard event.payload.count <= configuration.maxEventBytes else {
            throw GatewayError(
                code: .bodyTooLarge,
                cause: "an event of \(event.payload.count) bytes; the limit is \(configuration.maxEventBytes)")
        }
        if let type = event.type {
            try EventLabels.validate(type, named: "event type", limit: EventLabels.maxTypeBytes)
            guard !type.hasPrefix("isotherm.") else {
                throw GatewayError(
                    code: .invalidHeader, cause: "event type \(EventLabels.quoted(type)): isotherm.* is reserved")
            }
        }
        if let key = event.key {
            try EventLabels.validate(key, named: "event key", limit: EventLabels.maxKeyBytes)
        }
        if let key = event.idempotencyKey {
            try EventLabels.validate(key, named: "idempotency key", limit: EventLabels.maxIdempotencyKeyBytes)
        }
        if let type = event.contentType {
            try EventLabels.validate(type, named: "content type", limit: EventLabels.maxTypeBytes)
        }
    }
}

extension Span {
    /// The attributes that every stage has.
    func setStage(_ stage: StaticString) {
        setAttribute("isotherm.stage", stage)
        setAttribute("messaging.system", "isotherm")
    }

    func fail(_ error: GatewayError, at instant: Instant) {
        setAttribute("error.type", error.code.rawValue)
        setStatus(.error, error.cause)
        end(at: instant)
    }
}
