import EventStreams
import HTTPTypes
import Hummingbird
import HummingbirdCore
import NIOCore
import OTLP
import PushPipeline
import Synchronization
import Telemetry

/// `GET /v1/events…` through the general codec: JSON long poll and JSON lines, which follow the log by reading it, and the
/// event streams that cannot do without the codec, which the hub serves as it serves all others.
struct ListenRoute {
    let core: ServerCore

    static let maxPollEvents = 1_000
    static let maxPollWait = Duration.seconds(60)

    func respond(to request: Request, pathTopic: String?) async throws -> Response {
        let fields = try RequestFields(request)
        let tenant = try core.gateway.directory.tenant(authorization: fields.authorization, token: fields.token)
        let wanted = try fields.subscription(
            pathTopic: pathTopic, tenant: tenant, maxTopics: core.configuration.delivery.maxTopicsPerConnection)
        let channel = try core.channel(for: tenant)
        if fields.wantsStream { return try stream(request, wanted, channel) }
        if fields.wantsLines { return try lines(request, wanted, channel) }
        return try await poll(fields, wanted, channel)
    }

    // MARK: Event stream

    private func stream(_ request: Request, _ wanted: DeviceRequest, _ log: TenantChannel) throws -> Response {
        guard let channel = CodecStream.requestChannel else {
            preconditionFailure("a request that came over no channel")
        }
        let place = try core.admit(wanted)
        let core = core
        let body = ResponseBody { writer in
            defer { place.giveBack() }
            let stream = CodecStream(channel: channel, hubLoop: core.hubLoop(of: channel.eventLoop))
            place.onReplaced { stream.replace(retry: core.configuration.limits.shedRetry) }
            let start = StartPosition(cursor: wanted.cursor, channel: log)
            if let reset = start.reset { core.metrics.resets(reset.reason) }
            stream.begin(
                wanted.subscription(start), channel: log,
                opening: core.opening + (wanted.wantsHello ? EventFrame.hello : []) + (start.reset?.frame ?? []))
            defer { stream.end() }
            try await request.body.consumeWithCancellationOnInboundClose { _ in
                for await _ in stream.closing {}
            }
            try await writer.finish(nil)
        }
        var headers: HTTPFields = [:]
        for field in ServerCore.streamFields {
            if let name = HTTPField.Name(field.name) { headers[name] = field.value }
        }
        return Response(status: .ok, headers: headers, body: body)
    }

    // MARK: Lines

    /// Newline-delimited JSON: an event's object a line, as the long poll has it, and an empty line for a heartbeat. A
    /// cursor that cannot be continued is a line with `reset` and `next`. It follows the log by reading it: nothing is
    /// queued here either.
    private func lines(_ request: Request, _ wanted: DeviceRequest, _ channel: TenantChannel) throws -> Response {
        let place = try core.admit(wanted)
        let core = core
        let body = ResponseBody { writer in
            defer { place.giveBack() }
            let follower = Follower(core: core, wanted: wanted, channel: channel)
            follower.opened()
            defer { follower.closed(isReplaced: place.isReplaced) }
            var position = follower.start.after ?? channel.visibleHead
            try await writer.write(ByteBuffer(bytes: Self.opening(follower.start, on: channel.stream)))
            if let reset = follower.start.reset { core.metrics.resets(reset.reason) }
            let heartbeat = core.configuration.delivery.heartbeatInterval
            var lastWrite = ContinuousClock.now
            try await request.body.consumeWithCancellationOnInboundClose { _ in
                while !core.isDraining.load(ordering: .relaxed), !Task.isCancelled, !place.isReplaced {
                    let page = try await follower.read(after: position, limit: 256)
                    position = page.position
                    if let reset = page.reset {
                        try await writer.write(
                            ByteBuffer(bytes: Self.resetLine(reset, after: position, on: channel.stream)))
                    }
                    if page.isAtHead {
                        // Short waits, so that a drain is noticed.
                        await channel.waitForEvent(after: position, until: .now + min(heartbeat, .seconds(1)))
                    }
                    guard !page.events.isEmpty || ContinuousClock.now - lastWrite >= heartbeat else { continue }
                    var lines = ByteBuffer()
                    for event in page.events {
                        var json = JSONWriter()
                        Self.write(event, on: channel.stream, to: &json)
                        lines.writeBytes(json.bytes)
                        lines.writeInteger(Self.lineEnd)
                    }
                    try await writer.write(page.events.isEmpty ? Self.emptyLine : lines)
                    lastWrite = .now
                    follower.delivered(page.events)
                }
            }
            try await writer.finish(nil)
        }
        var headers: HTTPFields = [:]
        for field in ServerCore.streamFields {
            if let name = HTTPField.Name(field.name) { headers[name] = field.value }
        }
        headers[.contentType] = "application/x-ndjson"
        return Response(status: .ok, headers: headers, body: body)
    }

    private static let lineEnd = UInt8(ascii: "\n")
    private static let emptyLine = ByteBuffer(bytes: [lineEnd])

    /// At least an empty line, so that the answer's head leaves at once.
    private static func opening(_ start: StartPosition, on stream: any EventStream) -> [UInt8] {
        guard let reset = start.reset else { return [lineEnd] }
        return resetLine(reset.reason, after: start.after, on: stream)
    }

    private static func resetLine(_ reason: String, after offset: UInt64?, on stream: any EventStream) -> [UInt8] {
        var json = JSONWriter()
        json.beginObject()
        json.field("reset", reason)
        if let offset { json.field("next", stream.id(epoch: stream.epoch, offset: offset)) }
        json.endObject()
        return json.bytes + [lineEnd]
    }

    // MARK: Long poll

    /// `{"events":[{…}],"next":"ev_…"}`: `next` is the cursor for the following request, also where nothing came.
    private func poll(
        _ fields: RequestFields, _ wanted: DeviceRequest, _ channel: TenantChannel
    ) async throws -> Response {
        let limit = try Self.limit(fields.query.first("limit"))
        let wait = try Self.wait(fields.query.first("wait"))
        let place = try core.admit(wanted)
        defer { place.giveBack() }
        let follower = Follower(core: core, wanted: wanted, channel: channel)
        var position = follower.start.after ?? channel.visibleHead
        let deadline = ContinuousClock.now + wait
        var events: [StoredEvent] = []
        var reset = follower.start.reset?.reason
        if let reset { core.metrics.resets(reset) }
        while true {
            let page = try await follower.read(after: position, limit: limit)
            position = page.position
            events = page.events
            reset = page.reset ?? reset
            if !events.isEmpty || page.reset != nil { break }
            if !page.isAtHead { continue }
            if ContinuousClock.now >= deadline || core.isDraining.load(ordering: .relaxed) || Task.isCancelled
                || place.isReplaced
            {
                break
            }
            await channel.waitForEvent(after: position, until: min(deadline, .now + .seconds(1)))
        }
        var json = JSONWriter()
        json.beginObject()
        if let reset { json.field("reset", reset) }
        json.key("events")
        json.beginArray()
        for event in events { Self.write(event, on: channel.stream, to: &json) }
        json.endArray()
        json.field("next", channel.stream.id(epoch: channel.stream.epoch, offset: position))
        json.endObject()
        json.bytes.append(UInt8(ascii: "\n"))
        follower.delivered(events)
        return Response.json(json.bytes)
    }

    private static func write(_ event: StoredEvent, on stream: any EventStream, to json: inout JSONWriter) {
        json.beginObject()
        EventJSON.write(event, id: stream.id(of: event), to: &json)
        json.endObject()
    }

    private static func limit(_ text: String?) throws(Problem) -> Int {
        guard let text else { return 100 }
        guard let limit = Int(text), (1...maxPollEvents).contains(limit) else {
            throw .invalidParameter("limit=\(text.prefix(32)) is not a number from 1 to \(maxPollEvents)")
        }
        return limit
    }

    /// `30s`, `500ms`, or bare seconds.
    private static func wait(_ text: String?) throws(Problem) -> Duration {
        guard let text else { return .zero }
        let digits = text.prefix { $0.isASCII && $0.isNumber }
        let wait: Duration? =
            switch text.dropFirst(digits.count) {
            case "ms": Int64(digits).map { .milliseconds($0) }
            case "s", "": Int64(digits).map { .seconds($0) }
            default: nil
            }
        guard let wait, wait <= maxPollWait else {
            throw .invalidParameter("wait=\(text.prefix(32)) is not a time from 0s to 60s, such as 30s")
        }
        return wait
    }
}

/// One device that reads the log for itself.
private struct Follower: Sendable {
    let core: ServerCore
    let wanted: DeviceRequest
    let channel: TenantChannel
    let start: StartPosition
    private let group: Int
    private let connectedUnixNano = Clock.now().unixNano

    struct Page {
        let events: [StoredEvent]
        let position: UInt64
        let isAtHead: Bool
        /// Why the device is told that something before `position` will not come: retention overtook it between two reads,
        /// or an event is damaged.
        var reset: String?
    }

    init(core: ServerCore, wanted: DeviceRequest, channel: TenantChannel) {
        self.core = core
        self.wanted = wanted
        self.channel = channel
        start = StartPosition(cursor: wanted.cursor, channel: channel)
        group = core.hub.groups.number(of: wanted.group)
    }

    func opened() { core.metrics.opened(connections) }

    func closed(isReplaced: Bool) {
        let reason: CloseReason =
            isReplaced ? .replaced : core.isDraining.load(ordering: .relaxed) ? .drained : .client
        core.metrics.closed(connections, reason: reason)
    }

    private var connections: Gauge {
        core.metrics.connections(tenant: wanted.tenant.name, group: core.hub.groups.name(of: group))
    }

    /// The next events that this device wants; `limit` bounds how many are returned, not how many are looked at.
    func read(after position: UInt64, limit: Int) async throws -> Page {
        let found: [StoredEvent]
        switch channel.stream.tail(after: position, limit: 1_024) {
        case .events(let events): found = Array(channel.visible(events))
        case .behind:
            do {
                found = try await core.hub.readLog(
                    channel, after: position, limit: 1_024, byteLimit: core.configuration.delivery.maxQueuedBytes)
            } catch {
                guard let offset = error.offset, [.tooOld, .corrupt].contains(error.code) else { throw error }
                core.metrics.resets(error.code.rawValue)
                let reached = error.code == .tooOld ? offset - 1 : offset
                return Page(events: [], position: reached, isAtHead: false, reset: error.code.rawValue)
            }
        }
        var wantedEvents: [StoredEvent] = []
        var reached = position
        for event in found {
            if wantedEvents.count == limit { break }
            reached = event.offset
            if wanted.filter.matches(event) { wantedEvents.append(event) }
        }
        return Page(events: wantedEvents, position: reached, isAtHead: found.isEmpty)
    }

    func delivered(_ events: [StoredEvent]) {
        guard !events.isEmpty else { return }
        core.hub.makeRecorder().delivered(
            events, tenant: wanted.tenant.name, group: group, device: wanted.device,
            connectedUnixNano: connectedUnixNano)
    }
}
