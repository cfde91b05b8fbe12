import EventStreams
import Foundation
import HTTPTypes
import Hummingbird
import HummingbirdCore
import NIOCore
import OTLP
import PushPipeline
import Telemetry

/// `POST /v1/events/{topic}` in its general form: one event, a batch of lines, or CloudEvents.
struct PublishRoute {
    let core: ServerCore

    func respond(to request: Request, topic: String) async throws -> Response {
        let limits = core.configuration.gateway
        let type = request.headers[.contentType]?.lowercased() ?? ""
        let fields = try RequestFields(request)
        let isBatch = type.hasPrefix("application/x-ndjson") || type.hasPrefix("application/cloudevents-batch+json")
        let body = try await request.body.collect(upTo: isBatch ? limits.maxBatchBytes : limits.maxEventBytes)
        let acceptedAt = Clock.now()
        let bytes = Array(buffer: body)
        let events: [NewEvent]
        if type.hasPrefix("application/x-ndjson") {
            events = try Self.lines(bytes, topic, fields)
        } else if type.hasPrefix("application/cloudevents") {
            events = try CloudEvents.parse(bytes, topic, isBatch: isBatch)
        } else {
            events = [try fields.event(topic: topic, payload: bytes)]
        }
        let publish = PublishRequest(
            topic: topic, events: events, authorization: fields.authorization, token: fields.token,
            parent: fields.parent, acceptedAt: acceptedAt)
        let outcome = await withCheckedContinuation { continuation in
            core.gateway.publish(publish) { continuation.resume(returning: $0) }
        }
        return Self.response(try core.gateway.conclude(outcome).get(), isBatch: isBatch)
    }

    /// One event a line; empty lines are passed over. An idempotency key covers the batch: each line gets its own.
    private static func lines(
        _ bytes: [UInt8], _ topic: String, _ fields: RequestFields
    ) throws(GatewayError) -> [NewEvent] {
        var events: [NewEvent] = []
        for line in bytes.split(separator: UInt8(ascii: "\n")) {
            let line = line.last == UInt8(ascii: "\r") ? line.dropLast() : line
            guard !line.isEmpty else { continue }
            var event = try fields.event(topic: topic, payload: Array(line))
            event.contentType = "application/json"
            event.idempotencyKey = event.idempotencyKey.map { "\($0)/\(events.count)" }
            events.append(event)
        }
        guard !events.isEmpty else {
            throw GatewayError(code: .invalidBody, cause: "a batch without an event; send one event a line")
        }
        return events
    }

    private static func response(_ reply: PublishReply, isBatch: Bool) -> Response {
        let traceID = reply.traceID.description
        var json = JSONWriter()
        json.beginObject()
        if isBatch {
            json.key("ids")
            json.beginArray()
            let events = CollectionOfOne(reply.first) + reply.others
            for event in events { json.value(event.id) }
            json.endArray()
            json.field("duplicates", UInt64(events.count { $0.isDuplicate }))
        } else {
            json.field("id", reply.first.id)
            if reply.first.isDuplicate { json.field("duplicate", true) }
        }
        json.field("trace_id", traceID)
        json.endObject()
        json.bytes.append(UInt8(ascii: "\n"))
        var response = Response.json(json.bytes, status: .accepted)
        if let name = HTTPField.Name("X-Trace-ID") { response.headers[name] = traceID }
        return response
    }
}

/// CloudEvents 1.0, structured mode, JSON format: `id` with `source` is the idempotency key, `type` the event type,
/// `subject` the event key, `time` the producer's clock. The whole envelope is the payload, so that a device gets it as
/// it was sent.
enum CloudEvents {
    static func parse(_ bytes: [UInt8], _ topic: String, isBatch: Bool) throws(GatewayError) -> [NewEvent] {
        let parsed: Any
        do { parsed = try JSONSerialization.jsonObject(with: Data(bytes)) } catch {
            throw GatewayError(code: .invalidBody, cause: "the body is not JSON")
        }
        let envelopes: [Any]
        if isBatch {
            guard let list = parsed as? [Any], !list.isEmpty else {
                throw GatewayError(
                    code: .invalidBody, cause: "a CloudEvents batch is a JSON array with at least one event")
            }
            envelopes = list
        } else {
            envelopes = [parsed]
        }
        var events: [NewEvent] = []
        for (index, envelope) in envelopes.enumerated() {
            guard let fields = envelope as? [String: Any], fields["specversion"] as? String == "1.0",
                let id = fields["id"] as? String, let source = fields["source"] as? String,
                let type = fields["type"] as? String, !id.isEmpty, !source.isEmpty
            else {
                throw GatewayError(
                    code: .invalidBody,
                    cause: "event \(index) lacks one of specversion \"1.0\", id, source, type (CloudEvents 1.0)")
            }
            // A single envelope keeps its bytes; one of a batch is written anew.
            let payload: [UInt8]
            if isBatch {
                do {
                    payload = Array(try JSONSerialization.data(withJSONObject: fields, options: [.sortedKeys]))
                } catch {
                    throw GatewayError(code: .invalidBody, cause: "event \(index) cannot be written as JSON")
                }
            } else {
                payload = bytes
            }
            var event = NewEvent(
                topic: topic, type: type, key: fields["subject"] as? String,
                contentType: "application/cloudevents+json", payload: payload, idempotencyKey: "\(source)#\(id)")
            if let time = fields["time"] as? String {
                guard let produced = RFC3339.unixNano(time) else {
                    throw GatewayError(
                        code: .invalidBody, cause: "event \(index): time \(time.prefix(64)) is not an RFC 3339 time")
                }
                event.producedUnixNano = produced
            }
            events.append(event)
        }
        return events
    }
}
