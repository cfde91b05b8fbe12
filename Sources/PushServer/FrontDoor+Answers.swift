import EventStreams
import NIOCore
import OTLP
import PushPipeline
import Telemetry

/// What the front door answers by itself.
extension FrontDoor {
    /// The answer of a publish request.
    func answer(
        _ result: Result<PublishReply, GatewayError>, keepsOpen: Bool, _ context: ChannelHandlerContext
    ) {
        guard case .publishing = state, context.channel.isActive else { return }
        switch result {
        case .success(let reply):
            let traceID = reply.traceID.description
            let event = reply.events[0]
            var body = JSONWriter()
            body.bytes.reserveCapacity(128)
            body.beginObject()
            body.field("id", event.id)
            body.field("trace_id", traceID)
            if event.isDuplicate { body.field("duplicate", true) }
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
        } else {
            connection.ends(.answered)
        }
        if keepsOpen, !context.channel.isWritable { waitForReader(context) } else { resumeReading(context) }
    }

    /// Answers a request whose rest is not read, and closes.
    func refuse(
        _ problem: Problem, as end: ConnectionEnd, route: Route, _ context: ChannelHandlerContext
    ) {
        connection.ends(end)
        respond(
            status: problem.status, fields: problem.headFields, type: "application/problem+json", body: problem.body,
            keepsOpen: false, context)
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

    private func respond(
        status: Int, fields: [(name: String, value: String)], type: String, body: [UInt8], keepsOpen: Bool,
        _ context: ChannelHandlerContext
    ) {
        hasAnswered = true
        var buffer = context.channel.allocator.buffer(capacity: 320 + body.count)
        func write(_ name: String, _ value: String) {
            buffer.writeString(name)
            buffer.writeStaticString(": ")
            buffer.writeString(value)
            buffer.writeStaticString("\r\n")
        }
        buffer.writeStaticString("HTTP/1.1 ")
        buffer.writeString(String(status))
        buffer.writeStaticString(" ")
        buffer.writeString(ReasonPhrase.of(status))
        buffer.writeStaticString("\r\n")
        write("Content-Type", type)
        write("Content-Length", String(body.count))
        write("Date", server.dates.now)
        for field in fields { write(field.name, field.value) }
        for field in server.corsFields(origin: origin) { write(field.name, field.value) }
        if !keepsOpen { write("Connection", "close") }
        buffer.writeStaticString("\r\n")
        buffer.writeBytes(body)
        if keepsOpen {
            context.writeAndFlush(wrapOutboundOut(buffer), promise: nil)
        } else {
            finish(after: context.writeAndFlush(wrapOutboundOut(buffer)), context)
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
