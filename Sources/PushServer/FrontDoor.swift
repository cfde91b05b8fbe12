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
final class FrontDoor: ChannelInboundHandler, RemovableChannelHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private enum State {
        case readingHead
        case readingBody(RequestHead, topic: Substring)
        /// The answer of a publish request is not there yet. Reading is paused.
        case publishing
        case stream(StreamConnection, StreamPlace)
        case handedOver
        case closed
    }

    private let server: ServerCore
    private let hubLoop: HubLoop
    private let connection: Connection
    /// Behind TLS: a stream cannot be sent past the channel.
    private let isSecure: Bool
    /// Takes the connection for a general codec, whose handlers it adds after this one.
    private let handOverChannel: (any Channel, GeneralCodec) -> Void
    private var state = State.readingHead
    private var received = ByteBuffer()
    /// Bytes of an unfinished head that were looked at.
    private var scanned = 0
    /// Nil once it is not for this handler to say how long things may take.
    private var timer: PaceTimer?
    private var isReadPaused = false
    /// The request's `Origin`.
    private var origin: String?

    init(
        server: ServerCore, hubLoop: HubLoop, connection: Connection,
        isSecure: Bool, handOver: @escaping (any Channel, GeneralCodec) -> Void
    ) {
        self.isSecure = isSecure
        self.server = server
        self.hubLoop = hubLoop
        self.connection = connection
        handOverChannel = handOver
    }

    // MARK: Channel events

    func handlerAdded(context: ChannelHandlerContext) {
        let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
        timer = PaceTimer(server.configuration) { end in
            let (door, context) = bound.value
            door.timedOut(end, context)
        }
        timer?.arm(on: context.eventLoop)
    }

    func handlerRemoved(context: ChannelHandlerContext) { stopTiming() }

    private func stopTiming() {
        timer?.cancel()
        timer = nil
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
            if timer?.pace.phase == .idle { timer?.pace.enter(.head, now: .now()) }
            timer?.pace.received(bodyBytes: bytes.readableBytes)
            if received.readableBytes == 0 { received = bytes } else { received.writeBuffer(&bytes) }
            proceed(context)
            timer?.arm(on: context.eventLoop)
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
            switch stream.closeReason {
            case .client, .error: break
            case .drained: connection.ends(.drained)
            case .stalled: connection.ends(.stalled)
            }
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

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if event is ChannelShouldQuiesceEvent, case .readingHead = state, received.readableBytes == 0 {
            connection.ends(.drained)
            context.close(promise: nil)
        }
        context.fireUserInboundEventTriggered(event)
    }

    // MARK: Requests

    private func proceed(_ context: ChannelHandlerContext) {
        while true {
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
                if received.readableBytes == 0 { received.clear() }
                state = .publishing
                timer?.pace.enter(.busy, now: .now())
                publish(head, topic: String(topic), payload: payload, context)
                if case .publishing = state {
                    // A pipelined request waits in the socket until this one is answered.
                    isReadPaused = true
                    _ = context.channel.setOption(.autoRead, value: false)
                    return
                }
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
        if let head, ["/livez", "/readyz", "/metrics"].contains(head.path) { return nil }
        if let excess = connection.excess { return server.noRoom(excess) }
        guard server.isDraining.load(ordering: .relaxed), head?.method != "POST" else { return nil }
        return server.isShuttingDown
    }

    /// False when nothing more is to be done with what was received.
    private func begin(_ head: RequestHead, _ context: ChannelHandlerContext) -> Bool {
        origin = head.first("origin")
        if let error = noRoom(for: head) {
            received.moveReaderIndex(forwardBy: head.byteCount)
            turnAway(error, head, context)
            return false
        }
        if head.method == "POST", head.path.hasPrefix("/v1/events/"), !isBatch(head), let length = head.contentLength {
            let topic = head.path.dropFirst("/v1/events/".count)
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
            timer?.pace.enter(.body(bytes: received.readableBytes), now: .now())
            return true
        }
        if !isSecure, head.method == "GET", Self.isOfTopics(head.path),
            head.contentLength ?? 0 == 0, let query = QueryString(head.query),
            RequestFields(query: query, field: { head.first($0) }).wantsStream
        {
            received.moveReaderIndex(forwardBy: head.byteCount)
            openStream(head, context)
            return false
        }
        handOver(to: .http1, context)
        return false
    }

    /// Batches are parsed by the router's route.
    private func isBatch(_ head: RequestHead) -> Bool {
        guard let type = head.first("content-type")?.lowercased() else { return false }
        return type.hasPrefix("application/x-ndjson") || type.hasPrefix("application/cloudevents")
    }

    private func publish(_ head: RequestHead, topic: String, payload: [UInt8], _ context: ChannelHandlerContext) {
        let acceptedAt = Clock.now()
        let keepsOpen = !head.wantsClose && !server.isDraining.load(ordering: .relaxed)
        guard let query = QueryString(head.query) else {
            return refuse(
                .invalidParameter("the query is not valid percent-encoding"), as: .answered, route: .publish, context)
        }
        guard let topic = QueryString.decode(topic.utf8) else {
            return refuse(
                .invalidParameter("the path is not valid percent-encoding"), as: .answered, route: .publish, context)
        }
        let fields = RequestFields(query: query) { head.first($0) }
        let event: IncomingEvent
        do throws(GatewayError) {
            event = try fields.event(payload: payload)
        } catch {
            return answer(.failure(error), keepsOpen: keepsOpen, context)
        }
        let request = PublishRequest(
            topic: topic, events: [event], authorization: fields.authorization, token: fields.token,
            parent: fields.parent, acceptedAt: acceptedAt)
        let loop = context.eventLoop
        let bound = NIOLoopBound((self, context), eventLoop: loop)
        server.gateway.publish(request) { result in
            if loop.inEventLoop {
                let (door, context) = bound.value
                door.answer(result, keepsOpen: keepsOpen, context)
            } else {
                loop.execute {
                    let (door, context) = bound.value
                    door.answer(result, keepsOpen: keepsOpen, context)
                    door.proceed(context)
                }
            }
        }
    }

    private func answer(
        _ result: Result<PublishReply, GatewayError>, keepsOpen: Bool, _ context: ChannelHandlerContext
    ) {
        guard case .publishing = state, context.channel.isActive else { return }
        switch result {
        case .success(let reply):
            let traceID = reply.traceID.description
            var body = JSONWriter()
            body.beginObject()
            body.field("id", reply.receipts[0].id)
            body.field("trace_id", traceID)
            if reply.receipts[0].isDuplicate { body.field("duplicate", true) }
            body.endObject()
            body.bytes.append(UInt8(ascii: "\n"))
            respond(
                status: 202, fields: [("X-Trace-ID", traceID)], type: "application/json", body: body.bytes,
                keepsOpen: keepsOpen, context)
            server.count(.publish, status: 202)
        case .failure(let error):
            let problem = Problem(error)
            respond(
                status: problem.status, fields: problem.headFields, type: "application/problem+json",
                body: problem.body, keepsOpen: keepsOpen, context)
            server.count(.publish, status: problem.status)
        }
        state = keepsOpen ? .readingHead : .closed
        if keepsOpen {
            timer?.pace.enter(received.readableBytes > 0 ? .head : .idle, now: .now())
            timer?.arm(on: context.eventLoop)
        } else {
            connection.ends(.answered)
        }
        if isReadPaused {
            isReadPaused = false
            _ = context.channel.setOption(.autoRead, value: true)
        }
    }

    /// Answers a request whose rest is not read, and closes.
    private func refuse(
        _ problem: Problem, as end: ConnectionEnd, route: Route, _ context: ChannelHandlerContext
    ) {
        connection.ends(end)
        respond(
            status: problem.status, fields: problem.headFields, type: "application/problem+json", body: problem.body,
            keepsOpen: false, context)
        server.count(route, status: problem.status)
        state = .closed
    }

    private func refuseHead(_ context: ChannelHandlerContext) {
        let problem = Problem(
            status: 431, kind: "head_too_large", title: "The request head is too large",
            detail: "the limits are \(server.configuration.maxHeadBytes) bytes and "
                + "\(server.configuration.limits.headFields) fields")
        refuse(problem, as: .malformed, route: .other, context)
    }

    /// For whom there is no room. A browser's EventSource would take an error for the end of all: it gets an empty stream
    /// that tells it when to come back.
    private func turnAway(_ error: GatewayError, _ head: RequestHead, _ context: ChannelHandlerContext) {
        guard Shedding.applies(to: error, accept: head.first("accept")) else {
            return refuse(Problem(error), as: .refused, route: .other, context)
        }
        connection.ends(.refused)
        let answer = server.streamHead(origin: origin) + server.shed(error)
        finish(after: context.writeAndFlush(wrapOutboundOut(ByteBuffer(string: answer))), context)
        server.count(.listen, status: 200)
        state = .closed
    }

    private func timedOut(_ end: ConnectionEnd, _ context: ChannelHandlerContext) {
        guard end != .idle, received.readableBytes > 0 else {
            connection.ends(end)
            return context.close(promise: nil)
        }
        let limits = server.configuration
        let problem = Problem(
            status: 408, kind: "too_slow", title: "The request came too slowly",
            detail: "a head may take \(limits.headTimeout), a body must bring \(limits.limits.bodyRate) bytes a second")
        refuse(problem, as: end, route: .other, context)
    }

    private func respond(
        status: Int, fields: [(name: String, value: String)], type: String, body: [UInt8], keepsOpen: Bool,
        _ context: ChannelHandlerContext
    ) {
        var head = "HTTP/1.1 \(status) \(ReasonPhrase.of(status))\r\nContent-Type: \(type)\r\n"
        head += "Content-Length: \(body.count)\r\nDate: \(server.dates.now)\r\n"
        for field in fields { head += "\(field.name): \(field.value)\r\n" }
        for field in server.corsFields(origin: origin) { head += "\(field.name): \(field.value)\r\n" }
        if !keepsOpen { head += "Connection: close\r\n" }
        head += "\r\n"
        var buffer = context.channel.allocator.buffer(capacity: head.utf8.count + body.count)
        buffer.writeString(head)
        buffer.writeBytes(body)
        let written = context.writeAndFlush(wrapOutboundOut(buffer))
        if !keepsOpen { finish(after: written, context) }
    }

    /// Half close first: closing at once, with request bytes unread, would reset the connection and could take the answer
    /// with it.
    private func finish(after written: EventLoopFuture<Void>, _ context: ChannelHandlerContext) {
        stopTiming()
        let channel = context.channel
        // Whoever does not even take the answer is not waited for.
        let patience = channel.eventLoop.scheduleTask(in: .seconds(5)) { channel.close(promise: nil) }
        written.whenComplete { _ in
            patience.cancel()
            channel.close(mode: .output, promise: nil)
            channel.eventLoop.scheduleTask(in: .milliseconds(500)) { channel.close(promise: nil) }
        }
    }

    // MARK: Streams

    private func openStream(_ head: RequestHead, _ context: ChannelHandlerContext) {
        do throws(GatewayError) {
            guard let query = QueryString(head.query) else {
                throw GatewayError(code: .invalidHeader, cause: "the query is not valid percent-encoding")
            }
            let fields = RequestFields(query: query) { head.first($0) }
            let pathTopic = try Self.topic(inPath: head.path)
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

    private static func isOfTopics(_ path: Substring) -> Bool {
        path == "/v1/events"
            || path.hasPrefix("/v1/events/") && !path.dropFirst("/v1/events/".count).contains("/")
    }

    static func topic(inPath path: Substring) throws(GatewayError) -> String? {
        guard path.hasPrefix("/v1/events/") else { return nil }
        guard let topic = QueryString.decode(path.dropFirst("/v1/events/".count).utf8) else {
            throw GatewayError(code: .invalidTopic, cause: "the topic is not valid percent-encoding")
        }
        return topic
    }

    private func startStream(
        _ request: DeviceRequest, _ place: StreamPlace, channel: TenantChannel, _ context: ChannelHandlerContext
    ) {
        // What the kernel may hold for a device that reads nothing; it doubles the value. No request follows, so the
        // buffer for reading can be small.
        let options = context.channel.syncOptions
        try? options?.setOption(
            .socketOption(.so_sndbuf), value: numericCast(server.configuration.delivery.maxQueuedBytes / 4))
        try? options?.setOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: 512))
        received = ByteBuffer()
        let descriptor = try? context.pipeline.syncOperations.withUnsafeTransportIfAvailable(
            of: NIOBSDSocket.Handle.self
        ) { $0 }
        guard let descriptor else {
            place.giveBack()
            context.close(promise: nil)
            return
        }
        let connection = StreamConnection(channel: context.channel, descriptor: descriptor)
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
            request.subscription(after: start.after), channel: channel, opening: opening, transport: connection)
        connection.subscription = subscription
        // The first bytes may have found the connection broken: then it has ended already, and nobody else ends this.
        if case .closed = state { hubLoop.unsubscribe(subscription, reason: .client) }
    }

    // MARK: The general codecs

    private func handOver(to codec: GeneralCodec, _ context: ChannelHandlerContext) {
        state = .handedOver
        stopTiming()
        let bytes = received
        received = ByteBuffer()
        handOverChannel(context.channel, codec)
        context.fireChannelRead(NIOAny(bytes))
        context.fireChannelReadComplete()
        // Answered like any other, and closed after that.
        if server.isDraining.load(ordering: .relaxed) {
            context.fireUserInboundEventTriggered(ChannelShouldQuiesceEvent())
        }
        context.pipeline.syncOperations.removeHandler(context: context, promise: nil)
    }
}

/// Who takes a connection that the front door does not keep.
enum GeneralCodec {
    case http1, http2
}
