import HummingbirdCore
import Logging
import NIOCore
import NIOHTTP2
import NIOHTTPTypes
import NIOHTTPTypesHTTP2
import PushPipeline

/// HTTP/2 on a connection whose first bytes were its preface: over TLS by ALPN, or on plain TCP by prior knowledge. Each
/// stream goes to the router like a request of HTTP/1, with a task of its own.
///
/// What a hostile peer may do is bounded by the settings here and NIO's defaults: 100 streams at a time, header lists as
/// large as HTTP/1's heads, 200 resets, stream errors or control frames within 30 s, 5 CONTINUATION frames in a row,
/// 10,000 frames that wait to be sent.
struct HTTP2Codec {
    static let maxConcurrentStreams = 100

    let server: ServerCore
    let logger: Logger
    let handOver: AsyncStream<HTTP1Channel.Value>.Continuation

    func take(_ channel: any Channel, _ connection: Connection) throws {
        let configuration = server.configuration
        var settings = NIOHTTP2Handler.ConnectionConfiguration()
        settings.initialSettings = [
            HTTP2Setting(parameter: .maxConcurrentStreams, value: Self.maxConcurrentStreams),
            HTTP2Setting(parameter: .maxHeaderListSize, value: configuration.maxHeadBytes),
        ]
        let manager = NIOHTTP2ServerConnectionManagementHandler(
            eventLoop: channel.eventLoop,
            configuration: .init(
                maxIdleTime: TimeAmount(configuration.idleTimeout), maxAge: nil,
                maxGraceTime: TimeAmount(configuration.delivery.drainInterval) + .seconds(1),
                keepalive: .init(pingInterval: .seconds(30), ackTimeout: .seconds(20))))
        let pipeline = channel.pipeline.syncOperations
        let (server, logger, handOver) = (server, logger, handOver)
        let watch = HTTP2EndWatch(
            connection, grace: TimeAmount(configuration.delivery.drainInterval) + .seconds(1))
        let boundWatch = NIOLoopBound(watch, eventLoop: channel.eventLoop)
        _ = try pipeline.configureHTTP2Pipeline(
            mode: .server, connectionConfiguration: settings, streamConfiguration: .init(),
            streamDelegate: manager.http2StreamDelegate
        ) { stream in
            stream.eventLoop.makeCompletedFuture {
                boundWatch.value.opened(stream)
                let pipeline = stream.pipeline.syncOperations
                try pipeline.addHandler(HTTP2FramePayloadToHTTPServerCodec())
                try pipeline.addHandler(StreamRequestTimer(server))
                try pipeline.addHandler(HTTPConnectionStateHandler(logger: logger))
                handOver.yield(try NIOAsyncChannel(wrappingChannelSynchronously: stream))
            }
        }
        try pipeline.addHandler(watch)
        try pipeline.addHandler(manager)
        try pipeline.addHandler(HTTP2ErrorHandler(server: server, connection: connection))
        // The channel has been active for a while; the manager's timers begin now.
        manager.channelActive(context: try pipeline.context(handler: manager))
    }
}

/// Notes why the server ends a connection: the manager behind it says goodbye without a reason. It also waits for an answer
/// to that, which may never come; here is the end of the waiting.
private final class HTTP2EndWatch: ChannelDuplexHandler {
    typealias InboundIn = HTTP2Frame
    typealias OutboundIn = HTTP2Frame
    typealias OutboundOut = HTTP2Frame

    private let connection: Connection
    private let grace: TimeAmount
    private var streamCount = 0
    private var end: Scheduled<Void>?

    init(_ connection: Connection, grace: TimeAmount) {
        self.connection = connection
        self.grace = grace
    }

    func channelInactive(context: ChannelHandlerContext) {
        end?.cancel()
        context.fireChannelInactive()
    }

    func opened(_ stream: any Channel) {
        streamCount += 1
        let bound = NIOLoopBound(self, eventLoop: stream.eventLoop)
        stream.closeFuture.whenComplete { _ in bound.value.streamCount -= 1 }
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if event is ChannelShouldQuiesceEvent { connection.ends(.drained) }
        context.fireUserInboundEventTriggered(event)
    }

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        // With streams open, it is a PING that was not answered.
        if case .goAway = unwrapOutboundIn(data).payload, end == nil {
            connection.ends(streamCount == 0 ? .idle : .stalled)
            let channel = context.channel
            end = context.eventLoop.scheduleTask(in: grace) { channel.close(promise: nil) }
        }
        context.write(data, promise: promise)
    }
}

/// Ends a connection that breaks the protocol; a stream's errors end the stream alone.
private final class HTTP2ErrorHandler: ChannelInboundHandler {
    typealias InboundIn = HTTP2Frame

    private let server: ServerCore
    private let connection: Connection

    init(server: ServerCore, connection: Connection) {
        self.server = server
        self.connection = connection
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        if error is NIOHTTP2Errors.StreamError || error is IOError { return }
        if connection.end == nil { server.count(.other, status: 400) }
        connection.ends(.malformed)
        // NIO has written GOAWAY with the reason.
        context.flush()
        context.close(promise: nil)
    }
}

/// A request on a stream must arrive as fast as one on a connection of its own; one that does not is reset.
private final class StreamRequestTimer: ChannelInboundHandler {
    typealias InboundIn = HTTPRequestPart
    typealias InboundOut = HTTPRequestPart

    private let server: ServerCore
    private var timer: PaceTimer?

    init(_ server: ServerCore) { self.server = server }

    func handlerAdded(context: ChannelHandlerContext) {
        let channel = context.channel
        timer = PaceTimer(server.paceKeeper(of: context.eventLoop)) { _ in channel.close(promise: nil) }
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        timer?.cancel()
        timer = nil
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        switch unwrapInboundIn(data) {
        case .head: timer?.pace.enter(.body(bytes: 0), now: .now())
        case .body(let bytes): timer?.pace.received(bodyBytes: bytes.readableBytes)
        case .end: timer?.pace.enter(.busy, now: .now())
        }
        context.fireChannelRead(data)
    }
}
