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
        case stream(StreamConnection, Tenant)
        case handedOver
        case closed
    }

    private let server: ServerCore
    private let hubLoop: HubLoop
    /// Takes the connection for the general codec, whose handlers it adds after this one.
    private let handOverChannel: (any Channel) -> Void
    private var state = State.readingHead
    private var received = ByteBuffer()
    private var lastActivity = NIODeadline.now()
    private var isReadPaused = false

    init(server: ServerCore, hubLoop: HubLoop, handOver: @escaping (any Channel) -> Void) {
        self.server = server
        self.hubLoop = hubLoop
        handOverChannel = handOver
    }

    // MARK: Channel events

    func handlerAdded(context: ChannelHandlerContext) {
        watchIdle(context, limit: server.configuration.headTimeout)
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
            // A head has a fixed time from its first byte, however slowly the rest drips in; a body only must not pause.
            if case .readingHead = state, received.readableBytes > 0 {} else { lastActivity = .now() }
            if received.readableBytes == 0 { received = bytes } else { received.writeBuffer(&bytes) }
            proceed(context)
        }
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        if case .handedOver = state { context.fireChannelReadComplete() }
    }

    func channelInactive(context: ChannelHandlerContext) {
        if case .stream(let connection, let tenant) = state {
            if let subscription = connection.subscription {
                hubLoop.unsubscribe(subscription, reason: connection.closeReason)
            }
            server.hub.closeConnection(tenant)
        }
        state = .closed
        context.fireChannelInactive()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        if case .handedOver = state { return context.fireErrorCaught(error) }
        context.close(promise: nil)
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if event is ChannelShouldQuiesceEvent, case .readingHead = state { context.close(promise: nil) }
        context.fireUserInboundEventTriggered(event)
    }

    // MARK: Requests

    private func proceed(_ context: ChannelHandlerContext) {
        while true {
            switch state {
            case .readingHead:
                guard received.readableBytes > 0 else { return }
                switch RequestHead.read(received) {
                case .incomplete:
                    if received.readableBytes > server.configuration.maxHeadBytes { handOver(context) }
                    return
                case .notPlain:
                    return handOver(context)
                case .head(let head):
                    if head.byteCount > server.configuration.maxHeadBytes { return handOver(context) }
                    guard begin(head, context) else { return }
                }
            case .readingBody(let head, let topic):
                guard received.readableBytes >= head.contentLength ?? 0 else { return }
                let payload = received.readBytes(length: head.contentLength ?? 0) ?? []
                if received.readableBytes == 0 { received.clear() }
                state = .publishing
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

    /// False when nothing more is to be done with what was received.
    private func begin(_ head: RequestHead, _ context: ChannelHandlerContext) -> Bool {
        if head.method == "POST", head.path.hasPrefix("/v1/events/"), !isBatch(head), let length = head.contentLength {
            let topic = head.path.dropFirst("/v1/events/".count)
            received.moveReaderIndex(forwardBy: head.byteCount)
            guard length <= server.configuration.gateway.maxEventBytes else {
                let problem = Problem(
                    GatewayError(
                        code: .bodyTooLarge,
                        cause: "an event of \(length) bytes; the limit is \(server.configuration.gateway.maxEventBytes)"
                    ))
                refuse(problem, route: .publish, context)
                return false
            }
            state = .readingBody(head, topic: topic)
            return true
        }
        if head.method == "GET", head.path == "/v1/events" || head.path.hasPrefix("/v1/events/"),
            head.contentLength ?? 0 == 0, let query = QueryString(head.query),
            RequestFields(query: query, field: { head.first($0) }).wantsStream
        {
            received.moveReaderIndex(forwardBy: head.byteCount)
            openStream(head, context)
            return false
        }
        handOver(context)
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
            return refuse(.invalidParameter("the query is not valid percent-encoding"), route: .publish, context)
        }
        guard let topic = QueryString.decode(topic.utf8) else {
            return refuse(.invalidParameter("the path is not valid percent-encoding"), route: .publish, context)
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
        if isReadPaused {
            isReadPaused = false
            _ = context.channel.setOption(.autoRead, value: true)
        }
    }

    /// Answers a request whose rest is not read, and closes.
    private func refuse(_ problem: Problem, route: Route, _ context: ChannelHandlerContext) {
        respond(
            status: problem.status, fields: problem.headFields, type: "application/problem+json", body: problem.body,
            keepsOpen: false, context)
        server.count(route, status: problem.status)
        state = .closed
    }

    private func respond(
        status: Int, fields: [(name: String, value: String)], type: String, body: [UInt8], keepsOpen: Bool,
        _ context: ChannelHandlerContext
    ) {
        var head = "HTTP/1.1 \(status) \(ReasonPhrase.of(status))\r\nContent-Type: \(type)\r\n"
        head += "Content-Length: \(body.count)\r\nDate: \(server.dates.now)\r\n"
        for field in fields { head += "\(field.name): \(field.value)\r\n" }
        if !keepsOpen { head += "Connection: close\r\n" }
        head += "\r\n"
        var buffer = context.channel.allocator.buffer(capacity: head.utf8.count + body.count)
        buffer.writeString(head)
        buffer.writeBytes(body)
        let written = context.writeAndFlush(wrapOutboundOut(buffer))
        if !keepsOpen {
            // Half close first: closing at once, with request bytes unread, would reset the connection and could take
            // the answer with it.
            let channel = context.channel
            written.whenComplete { _ in
                channel.close(mode: .output, promise: nil)
                channel.eventLoop.scheduleTask(in: .milliseconds(500)) { channel.close(promise: nil) }
            }
        }
    }

    // MARK: Streams

    private func openStream(_ head: RequestHead, _ context: ChannelHandlerContext) {
        let origin = head.first("origin")
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
            try server.hub.openConnection(tenant)
            startStream(request, channel: channel, origin: origin, context)
        } catch {
            refuse(Problem(error), route: .listen, context)
        }
    }

    static func topic(inPath path: Substring) throws(GatewayError) -> String? {
        guard path.hasPrefix("/v1/events/") else { return nil }
        guard let topic = QueryString.decode(path.dropFirst("/v1/events/".count).utf8) else {
            throw GatewayError(code: .invalidTopic, cause: "the topic is not valid percent-encoding")
        }
        return topic
    }

    private func startStream(
        _ request: DeviceRequest, channel: TenantChannel, origin: String?, _ context: ChannelHandlerContext
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
            server.hub.closeConnection(request.tenant)
            context.close(promise: nil)
            return
        }
        let connection = StreamConnection(channel: context.channel, descriptor: descriptor)
        state = .stream(connection, request.tenant)
        let start = StartPosition(cursor: request.cursor, channel: channel)
        var opening = Array(server.streamHead(origin: origin).utf8)
        opening += server.opening
        if let reset = start.reset {
            opening += reset.frame
            server.metrics.resets(reset.reason)
        }
        server.count(.listen, status: 200)
        connection.subscription = hubLoop.subscribe(
            SubscriptionRequest(
                tenant: request.tenant, topics: request.topics, group: request.group, device: request.device,
                after: start.after),
            channel: channel, opening: opening, transport: connection)
    }

    // MARK: The general codec, and time

    private func handOver(_ context: ChannelHandlerContext) {
        guard !server.isDraining.load(ordering: .relaxed) else { return context.close(promise: nil) }
        state = .handedOver
        let bytes = received
        received = ByteBuffer()
        handOverChannel(context.channel)
        context.fireChannelRead(NIOAny(bytes))
        context.fireChannelReadComplete()
        context.pipeline.syncOperations.removeHandler(context: context, promise: nil)
    }

    /// One timer for a connection, set again only when it fires.
    private func watchIdle(_ context: ChannelHandlerContext, limit: Duration) {
        let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
        let wait = TimeAmount(limit) - (NIODeadline.now() - lastActivity)
        context.eventLoop.scheduleTask(in: max(wait, .milliseconds(1))) {
            let (door, context) = bound.value
            switch door.state {
            case .readingHead, .readingBody:
                let isBetweenRequests = door.received.readableBytes == 0
                let limit =
                    isBetweenRequests ? door.server.configuration.idleTimeout : door.server.configuration.headTimeout
                if NIODeadline.now() - door.lastActivity >= TimeAmount(limit) {
                    context.close(promise: nil)
                } else {
                    door.watchIdle(context, limit: limit)
                }
            case .publishing:
                door.watchIdle(context, limit: door.server.configuration.idleTimeout)
            case .stream, .handedOver, .closed:
                break
            }
        }
    }
}
