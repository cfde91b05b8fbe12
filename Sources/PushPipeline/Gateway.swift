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

/// What has become of a request: the log's answer, or the gateway's. Its spans and metrics are still to be written, which
/// `Gateway.conclude` does once what waits for the event has it.
public struct PublishOutcome: Sendable {
    enum Outcome: Sendable {
        case refused(GatewayError)
        case admitted(at: Instant, TenantChannel, Result<[AppendReceipt], StreamError>)
    }

    let topic: String
    /// Nil where the credential is not known.
    let tenant: Tenant?
    let produce: Span
    let acceptedAt: Instant
    let completedAt: Instant
    let result: Outcome
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

    /// Never blocks on the disk. Does what delivery waits for, and leaves the account to `conclude`.
    ///
    /// - Parameter wakesLog: as `wakesWriter` of the log's `append`.
    /// - Parameter completion: called once, inline for what is refused or needs no disk, else on the log writer's thread.
    public func publish(
        _ request: consuming PublishRequest, wakesLog: Bool = true,
        completion: @escaping @Sendable (PublishOutcome) -> Void
    ) {
        let produce = tracer.startSpan("produce", kind: .producer, parent: request.parent, at: request.acceptedAt)
        let topic = request.topic
        let acceptedAt = request.acceptedAt
        var tenant: Tenant?
        let channel: TenantChannel
        do throws(GatewayError) {
            let found = try directory.tenant(authorization: request.authorization, token: request.token)
            tenant = found
            try check(request, found)
            do { channel = try hub.channel(for: found) } catch {
                throw GatewayError(code: .unavailable, cause: "\(error)", retryAfter: .seconds(5))
            }
        } catch {
            return completion(
                PublishOutcome(
                    topic: topic, tenant: tenant, produce: produce, acceptedAt: acceptedAt, completedAt: Clock.now(),
                    result: .refused(error)))
        }
        let admittedAt = Clock.now()
        let traceparent = produce.context.traceparent
        let tracestate = produce.context.traceState.map { "\($0)" }
        for index in request.events.indices {
            request.events[index].acceptedUnixNano = acceptedAt.unixNano
            request.events[index].admittedUnixNano = admittedAt.unixNano
            request.events[index].traceparent = traceparent
            request.events[index].tracestate = tracestate
        }
        let durability = configuration.topics[topic] ?? configuration.durability
        channel.stream.append(request.events, durability: durability, wakesWriter: wakesLog) { result in
            completion(
                PublishOutcome(
                    topic: topic, tenant: channel.tenant, produce: produce, acceptedAt: acceptedAt,
                    completedAt: Clock.now(), result: .admitted(at: admittedAt, channel, result)))
        }
    }

    /// Writes the spans and the metrics of a request, and makes its reply. To be called once for each outcome.
    public func conclude(_ outcome: PublishOutcome) -> Result<PublishReply, GatewayError> {
        let produce = outcome.produce
        let completedAt = outcome.completedAt
        let acceptedAt = outcome.acceptedAt
        describe(produce, as: "produce", outcome)
        produce.setAttribute("messaging.operation.type", "send")
        let gate = tracer.startSpan("gateway", parent: produce.context, at: acceptedAt)
        describe(gate, as: "gateway", outcome)
        switch outcome.result {
        case .refused(let error):
            metrics.gateway(nanoseconds: completedAt.unixNano - acceptedAt.unixNano)
            gate.fail(error, at: completedAt)
            produce.fail(error, at: completedAt)
            return .failure(error)
        case .admitted(let admittedAt, let channel, let result):
            metrics.gateway(nanoseconds: admittedAt.unixNano - acceptedAt.unixNano)
            metrics.appended(
                streamNanoseconds: completedAt.unixNano - admittedAt.unixNano,
                produceNanoseconds: completedAt.unixNano - acceptedAt.unixNano)
            gate.end(at: admittedAt)
            let append = tracer.startSpan("stream", parent: produce.context, at: admittedAt)
            describe(append, as: "stream", outcome)
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
                append.end(at: completedAt)
                produce.end(at: completedAt)
                channel.published.add(UInt64(receipts.count { !$0.isDuplicate }))
                return .success(PublishReply(first: first, others: others, traceID: produce.context.traceID))
            case .failure(let error):
                let error = GatewayError(error)
                append.fail(error, at: completedAt)
                produce.fail(error, at: completedAt)
                return .failure(error)
            }
        }
    }

    /// The attributes that every stage of a request has.
    private func describe(_ span: Span, as stage: StaticString, _ outcome: PublishOutcome) {
        span.setStage(stage)
        span.setAttribute("messaging.destination.name", outcome.topic)
        if let tenant = outcome.tenant { span.setAttribute("tenant.id", tenant.name) }
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

    fileprivate func fail(_ error: GatewayError, at instant: Instant) {
        setAttribute("error.type", error.code.rawValue)
        setStatus(.error, error.cause)
        end(at: instant)
    }
}
