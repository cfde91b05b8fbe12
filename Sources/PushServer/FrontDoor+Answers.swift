import EventStreams
import Glibc
import NIOCore
import OTLP
import PushPipeline
import Telemetry

/// What the front door answers by itself.
extension FrontDoor {
    /// The answer of a publish request.
    func answer(_ result: Result<PublishReply, GatewayError>, _ context: ChannelHandlerContext) {
        guard case .publishing(let keepsOpen) = state else { return }
        switch result {
        case .success(let reply):
            let event = reply.first
            respond(
                status: 202, type: "application/json", traceID: reply.traceID, bodyLimit: 128 + event.id.utf8.count,
                keepsOpen: keepsOpen, context
            ) { body in
                body.write("{\"id\":\"")
                body.write(event.id)
                body.write("\",\"trace_id\":\"")
                body.write(reply.traceID)
                body.write(event.isDuplicate ? "\",\"duplicate\":true}\n" : "\"}\n")
            }
            server.count(.publish, status: 202)
        case .failure(let error):
            let problem = Problem(error)
            respond(problem, keepsOpen: keepsOpen, context)
            server.count(.publish, status: problem.status)
        }
        state = keepsOpen ? .readingHead : .closed
        if keepsOpen {
            timer?.pace.enter(received.readableBytes > 0 ? .head : .idle, now: .now())
        } else {
            connection.ends(.answered)
        }
        if keepsOpen, queuedAnswers > 0, !context.channel.isWritable {
            waitForReader(context)
        } else {
            resumeReading(context)
        }
    }

    /// Answers a request whose rest is not read, and closes.
    func refuse(
        _ problem: Problem, as end: ConnectionEnd, route: Route, _ context: ChannelHandlerContext
    ) {
        connection.ends(end)
        respond(problem, keepsOpen: false, context)
        server.count(route, status: problem.status)
        state = .closed
    }

    func refuseHead(_ context: ChannelHandlerContext) {
        let problem = Problem(
            status: 431, kind: "head_too_large", title: "The request head is too large",
            detail: "the limits are \(server.configuration.maxHeadBytes) bytes and "
                + "\(server.configuration.limits.headFields) fields")
        refuse(problem, as: .malformed, route: .other, context)
    }

    /// For whom there is no room. A browser's EventSource would take an error for the end of all: it gets an empty stream
    /// that tells it when to come back.
    func turnAway(_ error: GatewayError, _ head: RequestHead, _ context: ChannelHandlerContext) {
        guard Shedding.applies(to: error, accept: head[.accept]) else {
            return refuse(Problem(error), as: .refused, route: .other, context)
        }
        connection.ends(.refused)
        let answer = server.streamHead(origin: origin) + server.shed(error)
        finish(after: context.writeAndFlush(wrapOutboundOut(ByteBuffer(string: answer))), context)
        server.count(.listen, status: 200)
        state = .closed
    }

    func timedOut(_ end: ConnectionEnd, _ context: ChannelHandlerContext) {
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

    private func respond(_ problem: Problem, keepsOpen: Bool, _ context: ChannelHandlerContext) {
        let body = problem.body
        respond(
            status: problem.status, fields: problem.headFields, type: "application/problem+json",
            bodyLimit: body.count, keepsOpen: keepsOpen, context
        ) { $0.write(body) }
    }

    /// - Parameter bodyLimit: at least as many bytes as `writeBody` writes.
    private func respond(
        status: Int, fields: [(name: String, value: String)] = [], type: StaticString, traceID: TraceID? = nil,
        bodyLimit: Int, keepsOpen: Bool, _ context: ChannelHandlerContext, writeBody: (inout AnswerBytes) -> Void
    ) {
        hasAnswered = true
        let fields = fields + server.corsFields(origin: origin)
        let headLimit = fields.reduce(320) { $0 + $1.name.utf8.count + $1.value.utf8.count + 4 }
        withUnsafeTemporaryAllocation(byteCount: headLimit + 2 * bodyLimit, alignment: 1) { space in
            // The head tells the body's length, so the body is written first, behind the place that it goes to.
            var body = AnswerBytes(UnsafeMutableRawBufferPointer(rebasing: space[(headLimit + bodyLimit)...]))
            writeBody(&body)
            var answer = AnswerBytes(UnsafeMutableRawBufferPointer(rebasing: space[..<(headLimit + bodyLimit)]))
            answer.write("HTTP/1.1 ")
            answer.write(status)
            answer.write(" ")
            answer.write(ReasonPhrase.of(status))
            answer.write("\r\nContent-Type: ")
            answer.write(type)
            answer.write("\r\nContent-Length: ")
            answer.write(body.count)
            answer.write("\r\nDate: ")
            answer.write(server.dates.now)
            if let traceID {
                answer.write("\r\nX-Trace-ID: ")
                answer.write(traceID)
            }
            for field in fields {
                answer.write("\r\n")
                answer.write(field.name)
                answer.write(": ")
                answer.write(field.value)
            }
            answer.write(keepsOpen ? "\r\n\r\n" : "\r\nConnection: close\r\n\r\n")
            answer.write(body.bytes)
            send(answer.bytes, keepsOpen: keepsOpen, context)
        }
    }

    /// Straight to the socket; what it does not take, and everything behind TLS, goes the channel's way.
    private func send(_ bytes: UnsafeRawBufferPointer, keepsOpen: Bool, _ context: ChannelHandlerContext) {
        var rest = bytes
        if !isSecure, queuedAnswers == 0, let descriptor = socket(context) {
            // An error shows again when the channel writes, which then closes.
            let flags = Int32(MSG_DONTWAIT) | Int32(MSG_NOSIGNAL)
            let sent = Glibc.send(descriptor, bytes.baseAddress, bytes.count, flags)
            if sent == bytes.count, keepsOpen { return }
            rest = UnsafeRawBufferPointer(rebasing: bytes[max(0, sent)...])
        }
        queuedAnswers += 1
        let written = context.writeAndFlush(wrapOutboundOut(ByteBuffer(bytes: rest)))
        if keepsOpen {
            written.assumeIsolated().whenComplete { _ in self.queuedAnswers -= 1 }
        } else {
            finish(after: written, context)
        }
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
}
