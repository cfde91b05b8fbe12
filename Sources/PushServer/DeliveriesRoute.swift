import EventStreams
import Hummingbird
import HummingbirdCore
import NIOCore
import OTLP
import PushPipeline
import Telemetry

/// `GET /v1/events/{id}/deliveries`: which devices and groups got a retained event, when, and why one did not.
///
///     {"id": "ev_…", "topic": "orders", "accepted_at": "…", "known_since": "…",
///      "gaps": [{"from": "…", "until": "…"}],
///      "groups": [{"group": "iOS-15+", "received": 1, "acknowledged": 0, "written": 2, …}],
///      "devices": [{"device": "d17", "group": "iOS-15+", "status": "received", "written_at": "…", …}],
///      "next": "d18"}
///
/// The groups count every device; the devices are a page of them, by name: `limit` (100, at most 10,000) and `after`.
/// `device=NAME` asks for one. Devices without a name stand at the end, each connection for itself.
struct DeliveriesRoute {
    let core: ServerCore
    static let maxDevices = 10_000

    func respond(to request: Request, id: String) async throws -> Response {
        let fields = try RequestFields(request)
        let tenant = try core.gateway.directory.tenant(authorization: fields.authorization, token: fields.token)
        let channel = try core.channel(for: tenant)
        let limit = try Self.limit(fields.query.first("limit"))
        guard let event = try await channel.event(id, hub: core.hub) else {
            throw Problem(
                status: 404, kind: "unknown_event", title: "There is no such event",
                detail: "\(id.prefix(64).debugDescription) is no id of an event that is kept here for this tenant")
        }
        let page = DeliveryReport.Page(
            device: fields.query.first("device"), after: fields.query.first("after"), limit: limit)
        let report = await core.hub.deliveries(of: event, on: channel, page: page)
        var json = JSONWriter()
        json.beginObject()
        json.field("id", channel.stream.id(epoch: event.epoch, offset: event.offset))
        json.field("topic", event.topic)
        if let type = event.type { json.field("type", type) }
        json.field("accepted_at", RFC3339.string(unixNano: event.acceptedUnixNano))
        if report.sinceUnixNano > 0 { json.field("known_since", RFC3339.string(unixNano: report.sinceUnixNano)) }
        write(gaps: report, to: &json)
        write(groups: report, to: &json)
        write(devices: report, page, to: &json)
        json.endObject()
        json.bytes.append(UInt8(ascii: "\n"))
        return Response.json(json.bytes)
    }

    private func write(gaps report: DeliveryReport, to json: inout JSONWriter) {
        guard !report.gaps.isEmpty else { return }
        json.key("gaps")
        json.beginArray()
        for gap in report.gaps {
            json.beginObject()
            json.field("from", RFC3339.string(unixNano: gap.fromUnixNano))
            json.field("until", RFC3339.string(unixNano: gap.untilUnixNano))
            json.endObject()
        }
        json.endArray()
    }

    private func write(groups report: DeliveryReport, to json: inout JSONWriter) {
        json.key("groups")
        json.beginArray()
        for group in report.groups {
            json.beginObject()
            json.field("group", group.group)
            for status in DeliveryReport.Status.allCases where status != .neverConnected {
                json.field(status.rawValue, group.counts[status] ?? 0)
            }
            json.endObject()
        }
        json.endArray()
    }

    private func write(devices report: DeliveryReport, _ page: DeliveryReport.Page, to json: inout JSONWriter) {
        json.key("devices")
        json.beginArray()
        for row in report.rows { write(row, of: report.event, to: &json) }
        if let device = page.device, report.rows.isEmpty {
            json.beginObject()
            json.field("device", device)
            json.field("status", DeliveryReport.Status.neverConnected.rawValue)
            json.endObject()
        }
        json.endArray()
        if let next = report.next { json.field("next", next) }
    }

    private func write(_ row: DeliveryReport.Row, of event: StoredEvent, to json: inout JSONWriter) {
        func time(_ name: String, _ unixNano: UInt64) {
            json.field("\(name)_at", RFC3339.string(unixNano: unixNano))
            let latency = unixNano > event.acceptedUnixNano ? unixNano - event.acceptedUnixNano : 0
            json.field("\(name)_ms", Double(latency) / 1e6)
        }
        json.beginObject()
        if let device = row.device { json.field("device", device) }
        if row.session > 0 { json.field("connection", row.session) }
        json.field("group", row.group)
        json.field("status", row.status.rawValue)
        if let written = row.writtenUnixNano {
            time("written", written)
            if !row.isWrittenExact { json.field("written_at_is", "latest possible") }
            if row.isReplay { json.field("replay", true) }
            if row.writes > 1 { json.field("writes", row.writes) }
        }
        if let acknowledged = row.acknowledgedUnixNano { time("acknowledged", acknowledged) }
        if let receipt = row.receipt {
            time("received", receipt.receivedUnixNano)
            json.clock(receipt.clockOffsetNano, receipt.clockUncertaintyNano)
        }
        if let behind = row.behindPlaces { json.field("places_behind", behind) }
        if row.writtenUnixNano == nil, let closed = row.closed {
            json.field("closed_at", RFC3339.string(unixNano: closed.atUnixNano))
            json.field("closed_reason", closed.reason.rawValue)
        }
        json.endObject()
    }

    private static func limit(_ text: String?) throws(Problem) -> Int {
        guard let text else { return 100 }
        guard let limit = Int(text), (1...maxDevices).contains(limit) else {
            throw .invalidParameter("limit=\(text.prefix(32)) is not a number from 1 to \(maxDevices)")
        }
        return limit
    }
}

extension JSONWriter {
    /// What was added to a device's time, and by how much that may be wrong.
    mutating func clock(_ offsetNano: Int64, _ uncertaintyNano: UInt64?) {
        field("clock_offset_ms", Double(offsetNano) / 1e6)
        if let uncertaintyNano { field("clock_uncertainty_ms", Double(uncertaintyNano) / 1e6) }
    }
}

extension TenantChannel {
    /// The event with this id; nil where there is none, or retention has removed it.
    func event(_ id: String, hub: Hub) async throws -> StoredEvent? {
        guard id.utf8.count <= 64, case .position(let offset) = stream.resolve(id), offset > 0 else { return nil }
        switch stream.tail(after: offset - 1, limit: 1) {
        case .events(let events): return events.first { $0.offset == offset }
        case .behind:
            return try await hub.readLog(self, after: offset - 1, limit: 1, byteLimit: .max)
                .first { $0.offset == offset }
        }
    }
}
