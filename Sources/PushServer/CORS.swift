import HTTPTypes
import Hummingbird

/// Which pages of other origins may use the server from a browser.
public struct CORSConfiguration: Sendable {
    /// Origins such as `https://app.example`, `*` for any. Default none.
    public var allowedOrigins: [String] = []
    /// Whether such a page may send cookies and the like. Default false; not with `*`.
    public var allowsCredentials = false
    /// How long a browser may remember a preflight's answer. Default 10 min.
    public var maxAge = Duration.seconds(600)

    public init() {}

    /// The fields that every answer to a page of that origin carries, an error's too.
    func fields(origin: String?) -> [(name: String, value: String)] {
        guard !allowedOrigins.isEmpty else { return [] }
        let isForAll = allowedOrigins.contains("*")
        // The answer depends on it, also where there is none.
        var fields = isForAll ? [] : [(name: "Vary", value: "Origin")]
        guard let origin, isForAll || allowedOrigins.contains(origin) else { return fields }
        fields.append(("Access-Control-Allow-Origin", isForAll ? "*" : origin))
        if allowsCredentials { fields.append(("Access-Control-Allow-Credentials", "true")) }
        fields.append(("Access-Control-Expose-Headers", "X-Trace-ID, Retry-After"))
        return fields
    }

    /// The answer to a preflight, without `fields`; or to an `OPTIONS` that is none.
    func preflight(_ headers: HTTPFields) throws(Problem) -> Response {
        guard let origin = headers[.origin], headers[.accessControlRequestMethod] != nil else {
            return Response(status: .noContent, headers: [.allow: "GET, POST, OPTIONS"])
        }
        guard allowedOrigins.contains("*") || allowedOrigins.contains(origin) else {
            throw Problem(
                status: 403, kind: "origin_not_allowed", title: "Pages of this origin may not use the server",
                detail: "\(origin.prefix(128)) is not among cors.allowed_origins")
        }
        return Response(
            status: .noContent,
            headers: [
                .accessControlAllowMethods: "GET, POST, OPTIONS",
                .accessControlAllowHeaders:
                    "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, X-Event-Type, X-Event-Key, X-Event-Time, "
                    + "X-Device-Group, X-Device-ID, traceparent, tracestate, baggage",
                .accessControlMaxAge: "\(maxAge.components.seconds)",
            ])
    }
}
