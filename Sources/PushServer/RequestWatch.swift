import HTTPTypes
import NIOCore
import NIOHTTPTypes
import PushPipeline

/// Watches over a connection that the general HTTP/1 codec serves, from both sides of the codec: the bytes here, the
/// requests that they become in `RequestWatch`. A head must arrive within its time and a body must bring its bytes, however
/// they are cut up; whoever takes nothing of an answer for too long is closed.
final class PaceWatch: ChannelDuplexHandler, RemovableChannelHandler {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    let server: ServerCore
    let connection: Connection
    private var timer: PaceTimer?
    /// Requests whose answers have not ended.
    private var openRequests = 0
    private var isAnswering = false
    private var stall: Scheduled<Void>?

    init(server: ServerCore, connection: Connection) {
        self.server = server
        self.connection = connection
    }

    // MARK: Bytes

    func handlerAdded(context: ChannelHandlerContext) {
        let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
        timer = PaceTimer(server.paceKeeper(of: context.eventLoop)) { end in
            let (watch, context) = bound.value
            watch.timedOut(end, context)
        }
    }

    func handlerRemoved(context: ChannelHandlerContext) { stop() }

    func channelInactive(context: ChannelHandlerContext) {
        stop()
        context.fireChannelInactive()
    }

    private func stop() {
        timer?.cancel()
        timer = nil
        stall?.cancel()
        stall = nil
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        if timer?.pace.phase == .idle { timer?.pace.enter(.head, now: .now()) }
        timer?.pace.received(bodyBytes: unwrapInboundIn(data).readableBytes)
        context.fireChannelRead(data)
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        stall?.cancel()
        stall = nil
        if !context.channel.isWritable {
            let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
            stall = context.eventLoop.scheduleTask(in: TimeAmount(server.configuration.delivery.stallTimeout)) {
                let (watch, context) = bound.value
                watch.connection.ends(.stalled)
                context.close(promise: nil)
            }
        }
        context.fireChannelWritabilityChanged()
    }

    private func timedOut(_ end: ConnectionEnd, _ context: ChannelHandlerContext) {
        connection.ends(end)
        guard end != .idle, !isAnswering, openRequests <= 1 else { return context.close(promise: nil) }
        server.count(.other, status: 408)
        let answer = "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        context.writeAndFlush(wrapOutboundOut(ByteBuffer(string: answer)), promise: nil)
        context.close(promise: nil)
    }

    // MARK: Requests

    func headRead() {
        openRequests += 1
        timer?.pace.enter(.body(bytes: 0), now: .now())
    }

    /// Nobody is owed an earlier answer.
    var hasOneRequest: Bool { openRequests == 1 }

    func requestRead() { timer?.pace.enter(openRequests == 0 ? .idle : .busy, now: .now()) }

    func answerBegins() { isAnswering = true }

    func answered() {
        isAnswering = false
        openRequests -= 1
        guard openRequests == 0, let timer, timer.pace.phase == .busy else { return }
        timer.pace.enter(.idle, now: .now())
    }
}

/// The other side of the codec: tells `PaceWatch` of requests and answers, and counts what the codec refuses.
final class RequestWatch: ChannelDuplexHandler, RemovableChannelHandler {
    typealias InboundIn = HTTPRequestPart
    typealias InboundOut = HTTPRequestPart
    typealias OutboundIn = HTTPResponsePart
    typealias OutboundOut = HTTPResponsePart

    private var pace: PaceWatch?
    /// What comes after a request that was refused is not read.
    private var isRefusing = false

    func handlerAdded(context: ChannelHandlerContext) {
        pace = try? context.pipeline.syncOperations.handler(type: PaceWatch.self)
    }

    func handlerRemoved(context: ChannelHandlerContext) { pace = nil }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        switch unwrapInboundIn(data) {
        case .head(let head):
            guard !isRefusing else { return }
            pace?.headRead()
            // The codec takes any coding that ends in chunked; nothing here decodes the others.
            let coding = head.headerFields[.transferEncoding]
            guard coding == nil || coding?.lowercased() == "chunked" else { return refuse(context) }
        case .body: break
        case .end: pace?.requestRead()
        }
        if !isRefusing { context.fireChannelRead(data) }
    }

    private func refuse(_ context: ChannelHandlerContext) {
        isRefusing = true
        guard let pace else { return context.close(promise: nil) }
        pace.connection.ends(.malformed)
        pace.server.count(.other, status: 400)
        if pace.hasOneRequest {
            let fields: HTTPFields = [.connection: "close", .contentLength: "0"]
            context.write(wrapOutboundOut(.head(HTTPResponse(status: .badRequest, headerFields: fields))), promise: nil)
            context.writeAndFlush(wrapOutboundOut(.end(nil)), promise: nil)
        }
        context.close(promise: nil)
    }

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        switch unwrapOutboundIn(data) {
        case .head: pace?.answerBegins()
        case .body: break
        case .end: pace?.answered()
        }
        context.write(data, promise: promise)
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        // Errors of the socket are not the codec's.
        if !(error is IOError), let pace, pace.connection.end == nil {
            pace.connection.ends(.malformed)
            pace.server.count(.other, status: 400)
        }
        context.fireErrorCaught(error)
    }
}
