import OTLP
import PushPipeline

/// An error as a client sees it: `application/problem+json` (RFC 9457) with a stable `type`.
struct Problem: Error {
    let status: Int
    /// The last part of the type URI; one of a closed set, and the metric label.
    let kind: String
    let title: String
    /// Names the value, the limit and the remedy.
    let detail: String
    var retryAfter: Duration?
    /// More fields of the answer's head.
    var fields: [(name: String, value: String)] = []

    static let typePrefix = "urn:isotherm:problem:"

    init(status: Int, kind: String, title: String, detail: String, retryAfter: Duration? = nil) {
        self.status = status
        self.kind = kind
        self.title = title
        self.detail = detail
        self.retryAfter = retryAfter
    }

    init(_ error: GatewayError) {
        let title =
            switch error.code {
            case .invalidTopic: "The topic's name is not valid"
            case .invalidHeader: "A header or parameter is not valid"
            case .invalidBody: "The body cannot be read"
            case .bodyTooLarge: "The event is too large"
            case .batchTooLarge: "The batch is too large"
            case .unauthorized: "No valid credential"
            case .quotaExceeded: "Over quota"
            case .tooManyConnections: "Too many connections"
            case .overloaded: "The log cannot take more right now"
            case .storageFull: "The disk is full"
            case .unavailable: "Not available right now"
            case .draining: "Shutting down"
            }
        self.init(
            status: error.code.status, kind: error.code.rawValue, title: title, detail: error.cause,
            retryAfter: error.retryAfter)
        if error.code == .unauthorized { fields.append(("WWW-Authenticate", "Bearer realm=\"isotherm\"")) }
    }

    static func invalidParameter(_ detail: String) -> Problem {
        Problem(status: 400, kind: "invalid_parameter", title: "A query parameter is not valid", detail: detail)
    }

    var body: [UInt8] {
        var json = JSONWriter()
        json.beginObject()
        json.field("type", Self.typePrefix + kind.replacing("_", with: "-"))
        json.field("title", title)
        json.field("status", UInt64(status))
        json.field("detail", detail)
        json.endObject()
        json.bytes.append(UInt8(ascii: "\n"))
        return json.bytes
    }

    /// `Retry-After` in whole seconds, rounded up, at least 1.
    var retryAfterSeconds: Int64? {
        retryAfter.map { max(1, $0.components.seconds + ($0.components.attoseconds > 0 ? 1 : 0)) }
    }

    /// The head fields that the answer needs besides its content type and length.
    var headFields: [(name: String, value: String)] {
        fields + (retryAfterSeconds.map { [("Retry-After", "\($0)")] } ?? [])
    }
}
