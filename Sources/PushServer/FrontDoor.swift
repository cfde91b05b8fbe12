import EventStreams
import Glibc
import NIOCore
import OTLP
import PushPipeline
import Synchronization
import Telemetry

/// The first handler of every connection: the request's head decides what becomes of it.
///
/// - `GET /v1/events…` that accepts an event stream: the connection becomes a stream. No HTTP codec, no task; the hub
///   sends on its descriptor until it closes.
/// - `POST /v1/events/{topic}` with a plain body: published here, and the connection waits for its next request.
/// - HTTP/2's preface: the connection speaks HTTP/2 from here on.
/// - A head that can be read in two ways, or is too large, or too slow: an error, and the connection closes.
/// - Everything else, and every head that is not plain: the connection goes to the general HTTP codec and the router, with
///   the bytes read so far, for the rest of its life.
///
/// All of it belongs to the connection's loop, and no change of `state` or `received` calls out while it lasts: what the
/// compiler would check at run time at each access (`@exclusivity(unchecked)`) holds, and it is `@unchecked Sendable`.
final class FrontDoor: ChannelInboundHandler, RemovableChannelHandler, @unchecked Sendable {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    enum State {
        case readingHead
        case readingBody(RequestHead, topic: String)
        /// The answer of a publish request is not there yet.
        case publishing(keepsOpen: Bool)
        case stream(StreamConnection, StreamPlace)
        case handedOver
        case closed
    }

    let server: ServerCore
    private var hubLoop: HubLoop { lane.hubLoop }
    private let lane: PublishLane
    /// Nil before and after its time in the pipeline.
    @exclusivity(unchecked) private var context: ChannelHandlerContext?
    let connection: Connection
    /// Below this one, where the connection has it.
    private let tls: TLSHandler?
    var isSecure: Bool { tls != nil }
    private let codecs: GeneralCodecs
    @exclusivity(unchecked) var state = State.readingHead
    @exclusivity(unchecked) var received = ByteBuffer()
    /// Bytes of an unfinished head that were looked at.
    @exclusivity(unchecked) private var scanned = 0
    /// Nil once it is not for this handler to say how long things may take.
    @exclusivity(unchecked) var timer: PaceTimer?
    @exclusivity(unchecked) var isReadPaused = false
    /// Runs while the client takes none of its answers: nothing more is read from it, and when it fires, it is closed.
    @exclusivity(unchecked) private var stall: Scheduled<Void>?
    /// Something was written to the channel.
    @exclusivity(unchecked) var hasAnswered = false
    /// The request's `Origin`.
    @exclusivity(unchecked) var origin: String?
    /// Negative until it was asked for.
    @exclusivity(unchecked) private var descriptor: Int32 = -1
    /// Answers that the channel has and the kernel has not.
    @exclusivity(unchecked) var queuedAnswers = 0

    init(
        server: ServerCore, lane: PublishLane, connection: Connection, tls: TLSHandler?, codecs: GeneralCodecs
    ) {
        self.tls = tls
        self.server = server
        self.lane = lane
        self.connection = connection
        self.codecs = codecs
    }

    // MARK: Channel events

    func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
        let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
        timer = PaceTimer(server.paceKeeper(of: context.eventLoop)) { end in
            let (door, context) = bound.value
            door.timedOut(end, context)
        }
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        self.context = nil
        stopTiming()
    }

    func stopTiming() {
        timer?.cancel()
        timer = nil
        stall?.cancel()
        stall = nil
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var bytes = unwrapInboundIn(data)
        switch state {
        case .stream, .closed:
            // A device has nothing more to say on this connection.
            return
        case .handedOver:
            context.fireChannelRead(data)
        case .readingHead, .readingBody, .publishing:
            if case .readingBody = state { timer?.pace.received(bodyBytes: bytes.readableBytes) }
            if received.readableBytes == 0 { received = bytes } else { received.writeBuffer(&bytes) }
            if case .publishing = state {
                // What a client pipelines waits in the socket until this request is answered, but for what is read at once.
                pauseReading(context)
            } else {
                proceed(context)
            }
            // Most heads come whole, and the clock is not asked for them.
            if case .readingHead = state, received.readableBytes > 0, timer?.pace.phase == .idle {
                timer?.pace.enter(.head, now: .now())
            }
        }
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        if case .handedOver = state { context.fireChannelReadComplete() }
    }

    func channelInactive(context: ChannelHandlerContext) {
        if case .stream(let stream, let place) = state {
            if let subscription = stream.subscription {
                hubLoop.unsubscribe(subscription, reason: stream.closeReason)
            }
            if let end = stream.closeReason.connectionEnd { connection.ends(end) }
            place.giveBack()
        }
        state = .closed
        stopTiming()
        context.fireChannelInactive()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        if case .handedOver = state { return context.fireErrorCaught(error) }
        context.close(promise: nil)
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        if stall != nil, context.channel.isWritable {
            stall?.cancel()
            stall = nil
            resumeReading(context)
            proceed(context)
        }
        context.fireChannelWritabilityChanged()
    }

    private func pauseReading(_ context: ChannelHandlerContext) {
        isReadPaused = true
        _ = context.channel.setOption(.autoRead, value: false)
    }

    func resumeReading(_ context: ChannelHandlerContext) {
        guard isReadPaused else { return }
        isReadPaused = false
        _ = context.channel.setOption(.autoRead, value: true)
    }

    /// A client that sends and does not read would fill the memory with its answers.
    func waitForReader(_ context: ChannelHandlerContext) {
        pauseReading(context)
        let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
        stall = context.eventLoop.scheduleTask(in: TimeAmount(server.configuration.delivery.stallTimeout)) {
            let (door, context) = bound.value
            door.connection.ends(.stalled)
            context.close(promise: nil)
        }
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if event is ChannelShouldQuiesceEvent {
            if timer?.pace.phase == .idle {
                closeIfIdle(context)
            } else {
                // A first request may be under way.
                let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
                context.eventLoop.scheduleTask(in: .milliseconds(500)) {
                    let (door, context) = bound.value
                    door.closeIfIdle(context)
                }
            }
        }
        // The peer's end of TLS. Without TLS the channel closes by itself.
        if case .stream = state, case .inputClosed? = event as? ChannelEvent { context.close(promise: nil) }
        context.fireUserInboundEventTriggered(event)
    }

    private func closeIfIdle(_ context: ChannelHandlerContext) {
        guard case .readingHead = state, received.readableBytes == 0 else { return }
        connection.ends(.drained)
        context.close(promise: nil)
    }

    // MARK: Requests

    private func proceed(_ context: ChannelHandlerContext) {
        while stall == nil {
            switch state {
            case .readingHead:
                skipBlankLines()
                guard received.readableBytes > 0 else { return }
                switch RequestHead.read(
                    received, scanned: scanned, maxFields: server.configuration.limits.headFields)
                {
                case .incomplete:
                    scanned = received.readableBytes
                    if scanned > server.configuration.maxHeadBytes { refuseHead(context) }
                    return
                case .refused(.malformed(let cause)):
                    let problem = Problem(
                        status: 400, kind: "malformed_request", title: "The request cannot be read", detail: cause)
                    return refuse(problem, as: .malformed, route: .other, context)
                case .refused(.tooManyFields):
                    return refuseHead(context)
                case .notPlain:
                    if let error = noRoom(for: nil) {
                        return refuse(Problem(error), as: .refused, route: .other, context)
                    }
                    return handOver(to: .http1, context)
                case .http2:
                    guard connection.excess == nil else {
                        connection.ends(.refused)
                        return context.close(promise: nil)
                    }
                    return handOver(to: .http2, context)
                case .head(let head):
                    scanned = 0
                    if head.byteCount > server.configuration.maxHeadBytes { return refuseHead(context) }
                    guard begin(head, context) else { return }
                }
            case .readingBody(let head, let topic):
                guard received.readableBytes >= head.contentLength ?? 0 else { return }
                let payload = received.readBytes(length: head.contentLength ?? 0) ?? []
                // Given back, the channel reads into it again.
                if received.readableBytes == 0 { received = ByteBuffer() }
                state = .publishing(keepsOpen: !head.wantsClose && !server.isDraining.load(ordering: .relaxed))
                timer?.pace.enter(.busy, now: .now())
                publish(head, topic: topic, payload: payload, context)
                if case .publishing = state { return }
            case .publishing, .stream, .handedOver, .closed:
                return
            }
        }
    }

    /// Some clients send one after a body (RFC 9112, section 2.2).
    private func skipBlankLines() {
        while received.readableBytes >= 2, received.getInteger(at: received.readerIndex) == UInt16(0x0D0A) {
            received.moveReaderIndex(forwardBy: 2)
        }
    }

    /// Why there is no room for a request; the probes and the metrics are always answered, and what is published while
    /// the streams are drained is still kept.
    private func noRoom(for head: RequestHead?) -> GatewayError? {
        let isDraining = server.isDraining.load(ordering: .relaxed)
        guard connection.excess != nil || isDraining else { return nil }
        if let head, ["/livez", "/readyz", "/metrics"].contains(head.path) { return nil }
        if let excess = connection.excess { return server.noRoom(excess) }
        return head?.method == "POST" ? nil : server.isShuttingDown
    }

    /// False when nothing more is to be done with what was received.
    private func begin(_ head: RequestHead, _ context: ChannelHandlerContext) -> Bool {
        origin = head[.origin]
        if let error = noRoom(for: head) {
            received.moveReaderIndex(forwardBy: head.byteCount)
            turnAway(error, head, context)
            return false
        }
        if head.hasMethod("POST"), let topic = head.path(after: Self.topicPrefix), !isBatch(head),
            let length = head.contentLength
        {
            received.moveReaderIndex(forwardBy: head.byteCount)
            guard length <= server.configuration.gateway.maxEventBytes else {
                let problem = Problem(
                    GatewayError(
                        code: .bodyTooLarge,
                        cause: "an event of \(length) bytes; the limit is \(server.configuration.gateway.maxEventBytes)"
                    ))
                refuse(problem, as: .answered, route: .publish, context)
                return false
            }
            state = .readingBody(head, topic: topic)
            if received.readableBytes < length {
                timer?.pace.enter(.body(bytes: received.readableBytes), now: .now())
            }
            return true
        }
        if head.hasMethod("GET"), Self.isOfTopics(head), head.contentLength ?? 0 == 0,
            !hasAnswered && tls == nil || hasSentAll(context), let fields = RequestFields(head), fields.wantsStream
        {
            received.moveReaderIndex(forwardBy: head.byteCount)
            openStream(head, fields, context)
            return false
        }
        handOver(to: .http1, context)
        return false
    }

    /// Nothing waits in the channel that a stream, which goes past it, could overtake.
    private func hasSentAll(_ context: ChannelHandlerContext) -> Bool {
        (try? context.channel.syncOptions?.getOption(.bufferedWritableBytes)) == 0
    }

    /// Batches are parsed by the router's route.
    private func isBatch(_ head: RequestHead) -> Bool {
        head.value(of: .contentType, hasPrefix: "application/x-ndjson")
            || head.value(of: .contentType, hasPrefix: "application/cloudevents")
    }

    private func publish(_ head: RequestHead, topic: String, payload: [UInt8], _ context: ChannelHandlerContext) {
        let acceptedAt = Clock.now()
        guard let fields = RequestFields(head) else {
            return refuse(
                .invalidParameter("the query is not valid percent-encoding"), as: .answered, route: .publish, context)
        }
        guard let topic = QueryString.decode(topic) else {
            return refuse(
                .invalidParameter("the path is not valid percent-encoding"), as: .answered, route: .publish, context)
        }
        let events: [NewEvent]
        do throws(GatewayError) {
            events = [try fields.event(topic: topic, payload: payload)]
        } catch {
            return answer(.failure(error), context)
        }
        lane.openTurn()
        server.gateway.publish(
            PublishRequest(
                topic: topic, events: events, authorization: fields.authorization, token: fields.token,
                parent: fields.parent, acceptedAt: acceptedAt), wakesLog: false
        ) { outcome in
            self.lane.complete(self, outcome)
        }
    }

    /// The log, or the gateway's refusal, has come back.
    func answerPublish(_ result: Result<PublishReply, GatewayError>) {
        guard let context else { return }
        answer(result, context)
        proceed(context)
    }

    // MARK: Streams

    private func openStream(_ head: RequestHead, _ fields: RequestFields, _ context: ChannelHandlerContext) {
        do throws(GatewayError) {
            let pathTopic = try Self.topic(in: head)
            let tenant = try server.gateway.directory.tenant(
                authorization: fields.authorization, token: fields.token)
            let request = try fields.subscription(
                pathTopic: pathTopic, tenant: tenant,
                maxTopics: server.configuration.delivery.maxTopicsPerConnection)
            let channel = try server.channel(for: tenant)
            startStream(request, try server.admit(request), channel: channel, context)
        } catch {
            turnAway(error, head, context)
        }
    }

    /// For what is sent past the channel, which does not see it.
    func socket(_ context: ChannelHandlerContext) -> Int32? {
        if descriptor < 0 {
            let found = try? context.pipeline.syncOperations.withUnsafeTransportIfAvailable(
                of: NIOBSDSocket.Handle.self
            ) { $0 }
            descriptor = found ?? -1
        }
        return descriptor < 0 ? nil : descriptor
    }

    private static let topicPrefix: StaticString = "/v1/events/"

    private static func isOfTopics(_ head: RequestHead) -> Bool {
        guard let topic = head.path(after: topicPrefix) else { return head.path == "/v1/events" }
        return !topic.utf8.contains(UInt8(ascii: "/"))
    }

    private static func topic(in head: RequestHead) throws(GatewayError) -> String? {
        guard let text = head.path(after: topicPrefix) else { return nil }
        guard let topic = QueryString.decode(text) else {
            throw GatewayError(code: .invalidTopic, cause: "the topic is not valid percent-encoding")
        }
        return topic
    }

    private func startStream(
        _ request: DeviceRequest, _ place: StreamPlace, channel: TenantChannel, _ context: ChannelHandlerContext
    ) {
        received = ByteBuffer()
        guard let descriptor = socket(context) else {
            place.giveBack()
            context.close(promise: nil)
            return
        }
        // What the kernel may hold for a device that reads nothing; it doubles the value. Should it refuse, its own
        // limit holds.
        var bytes = Int32(clamping: server.configuration.delivery.maxQueuedBytes / 4)
        _ = setsockopt(descriptor, SOL_SOCKET, SO_SNDBUF, &bytes, socklen_t(MemoryLayout<Int32>.size))
        let connection = StreamConnection(channel: context.channel, descriptor: descriptor, tls: tls)
        state = .stream(connection, place)
        stopTiming()
        let start = StartPosition(cursor: request.cursor, channel: channel)
        var opening = Array(server.streamHead(origin: origin).utf8)
        opening += server.opening
        if request.wantsHello { opening += EventFrame.hello }
        if let reset = start.reset {
            opening += reset.frame
            server.metrics.resets(reset.reason)
        }
        server.count(.listen, status: 200)
        let subscription = hubLoop.subscribe(
            request.subscription(start), channel: channel, opening: opening, transport: connection)
        connection.subscription = subscription
        server.replaceable(place, connection, on: hubLoop, context.eventLoop)
        // The first bytes may have found the connection broken: then it has ended already, and nobody else ends this.
        if case .closed = state { hubLoop.unsubscribe(subscription, reason: .client) }
    }

    // MARK: The general codecs

    private func handOver(to codec: GeneralCodecs.Codec, _ context: ChannelHandlerContext) {
        state = .handedOver
        stopTiming()
        let bytes = received
        received = ByteBuffer()
        codecs.take(context.channel, codec, connection)
        context.fireChannelRead(NIOAny(bytes))
        context.fireChannelReadComplete()
        // Answered like any other, and closed after that.
        if server.isDraining.load(ordering: .relaxed) {
            context.fireUserInboundEventTriggered(ChannelShouldQuiesceEvent())
        }
        context.pipeline.syncOperations.removeHandler(context: context, promise: nil)
    }
}
