import EventStreams
import HTTPTypes
import PushPipeline
import Telemetry

/// The head of a request as the routes see it, whichever codec has read it.
struct RequestFields {
    let query: QueryString
    private let source: Source

    private enum Source {
        case head(RequestHead)
        case general(HTTPFields)
    }

    /// Nil for a query whose percent-encoding is broken.
    init?(_ head: RequestHead) {
        guard let query = QueryString(head.query) else { return nil }
        self.query = query
        source = .head(head)
    }

    init?(query: String, fields: HTTPFields) {
        guard let query = QueryString(query) else { return nil }
        self.query = query
        source = .general(fields)
    }

    /// The first value of a field.
    subscript(_ field: RequestField) -> String? {
        switch source {
        case .head(let head): head[field]
        case .general(let fields): Self.names[field.rawValue].flatMap { fields[$0] }
        }
    }

    private static let names = RequestField.allCases.map { HTTPField.Name("\($0.name)") }

    /// The caller's span, when `traceparent` is valid; a bad `tracestate` does not drop it.
    var parent: SpanContext? {
        guard let traceparent = self[.traceparent] else { return nil }
        return TraceContext.parse(traceparent: traceparent, tracestate: self[.tracestate])
    }

    /// Whether a GET of events asks for an event stream: it says so, or, like curl, it takes anything and gives none of
    /// the long poll's parameters.
    var wantsStream: Bool {
        let accept = self[.accept] ?? "*/*"
        if accept.holds("text/event-stream") { return true }
        return accept == "*/*" && query.first("after") == nil && query.first("limit") == nil
            && query.first("wait") == nil
    }

    /// Whether it asks for a stream of JSON, one object a line.
    var wantsLines: Bool { self[.accept]?.holds("application/x-ndjson") == true }

    var authorization: String? { self[.authorization] }
    var token: String? { query.first("token") }

    /// The event that a plain publish request carries.
    func event(topic: String, payload: [UInt8]) throws(GatewayError) -> NewEvent {
        var event = NewEvent(
            topic: topic, type: self[.eventType], key: self[.eventKey], contentType: self[.contentType],
            payload: payload, idempotencyKey: self[.idempotencyKey])
        if let time = self[.eventTime] {
            guard let produced = RFC3339.unixNano(time) else {
                throw GatewayError(
                    code: .invalidHeader,
                    cause: "X-Event-Time \(time.prefix(64)) is not an RFC 3339 time such as 2026-11-23T08:30:00.250Z")
            }
            event.producedUnixNano = produced
        }
        return event
    }

    private static func wantsSnapshot(_ text: String?) throws(GatewayError) -> Bool {
        switch text {
        case nil: return false
        case "latest": return true
        case .some(let text):
            throw GatewayError(
                code: .invalidHeader,
                cause: "snapshot=\(text.prefix(32)) is not known; with snapshot=latest the latest event of each key "
                    + "comes first")
        }
    }

    private static func conflates(_ text: String?) throws(GatewayError) -> Bool {
        switch text {
        case nil: return false
        case "key": return true
        case .some(let text):
            throw GatewayError(
                code: .invalidHeader,
                cause:
                    "conflate=\(text.prefix(32)) is not known; with conflate=key a device that is behind gets the "
                    + "latest event of each key")
        }
    }

    /// What a device asks for: `topic` (patterns too), `type`, `conflate`, `group`, `device` and the cursor.
    func subscription(pathTopic: String?, tenant: Tenant, maxTopics: Int) throws(GatewayError) -> DeviceRequest {
        let topics = pathTopic.map { [$0] } ?? Array(Set(query.all("topic"))).sorted()
        guard !topics.isEmpty else {
            throw GatewayError(
                code: .invalidTopic, cause: "no topic: name one in the path, or as topic=NAME in the query")
        }
        guard topics.count <= maxTopics else {
            throw GatewayError(
                code: .invalidTopic, cause: "\(topics.count) topics on one connection; the limit is \(maxTopics)")
        }
        for topic in topics { try EventLabels.validatePattern(topic) }
        let filter: TopicFilter
        do throws(StreamError) {
            filter = try TopicFilter(topics, types: Set(query.all("type")))
        } catch {
            throw GatewayError(code: .invalidTopic, cause: error.cause)
        }
        let group = query.first("group") ?? self[.deviceGroup]
        if let group { try EventLabels.validate(group, named: "group", limit: EventLabels.maxGroupBytes) }
        let device = query.first("device") ?? self[.deviceID]
        if let device { try EventLabels.validate(device, named: "device", limit: EventLabels.maxDeviceBytes) }
        return DeviceRequest(
            tenant: tenant, filter: filter, group: group ?? DeviceGroup.derive(userAgent: self[.userAgent]),
            device: device, cursor: self[.lastEventID] ?? query.first("last-event-id") ?? query.first("after"),
            conflates: try Self.conflates(query.first("conflate")),
            wantsSnapshot: try Self.wantsSnapshot(query.first("snapshot")), wantsHello: query.first("hello") != nil)
    }
}

/// What a device asked for, its cursor still unread.
struct DeviceRequest: Sendable {
    let tenant: Tenant
    let filter: TopicFilter
    let group: String
    let device: String?
    /// Empty equals absent: a browser that has seen no id sends none, a client library may send an empty one.
    let cursor: String?

    let conflates: Bool
    let wantsSnapshot: Bool
    /// A first event that a browser's page can see, as it sees no comment: whether anything on the way holds the stream
    /// back shows at once.
    let wantsHello: Bool

    /// A device that resumes needs no snapshot, unless its cursor could not be continued.
    func subscription(_ start: StartPosition) -> SubscriptionRequest {
        let takesSnapshot = wantsSnapshot && (start.after == nil || start.reset != nil)
        return SubscriptionRequest(
            tenant: tenant, filter: filter, group: group, device: device, after: takesSnapshot ? nil : start.after,
            conflates: conflates, wantsSnapshot: takesSnapshot)
    }
}

/// Where delivery begins, and the reset frame that says so when it is not where the device asked.
struct StartPosition {
    let after: UInt64?
    let reset: (frame: [UInt8], reason: String)?

    init(cursor: String?, channel: TenantChannel) {
        guard let cursor, !cursor.isEmpty else {
            (after, reset) = (nil, nil)
            return
        }
        let stream = channel.stream
        switch stream.resolve(cursor) {
        case .position(let offset):
            (after, reset) = (offset, nil)
        case .tooOld(let earliest):
            let id = stream.id(epoch: stream.epoch, offset: max(1, earliest) - 1)
            after = max(1, earliest) - 1
            reset = (EventFrame.reset(reason: "too_old", continuesFrom: id, earliest: id), "too_old")
        case .foreign:
            // Nothing is known of where this device was: it goes on live, and may fetch what is kept by the earliest id.
            let head = channel.visibleHead
            let earliest = stream.id(epoch: stream.epoch, offset: max(1, stream.earliest) - 1)
            let id = stream.id(epoch: stream.epoch, offset: head)
            after = head
            reset = (EventFrame.reset(reason: "foreign", continuesFrom: id, earliest: earliest), "foreign")
        }
    }
}
