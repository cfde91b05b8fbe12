import EventStreams
import OTLP

/// The members that stand for an event wherever events are JSON.
package enum EventJSON {
    package static func write(_ event: StoredEvent, id: String, to json: inout JSONWriter) {
        json.field("id", id)
        json.field("topic", event.topic)
        if let type = event.type { json.field("type", type) }
        if let key = event.key { json.field("key", key) }
        if let contentType = event.contentType { json.field("content_type", contentType) }
        json.field("accepted_at", RFC3339.string(unixNano: event.acceptedUnixNano))
        if let traceparent = event.traceparent { json.field("traceparent", traceparent) }
        if let text = String(validating: event.payload, as: UTF8.self) {
            json.field("data", text)
        } else {
            json.field("data_base64", Base64.encode(event.payload))
        }
    }
}
