/// How one signal leaves the process, by OTLP over HTTP.
///
/// https://opentelemetry.io/docs/specs/otel/protocol/exporter/
public struct OTLPExporterSettings: Sendable {
    public enum Compression: String, Sendable, CaseIterable {
        case none, gzip
        /// Where libzstd is installed; elsewhere gzip is used instead, with a report.
        case zstd
    }

    public enum Encoding: String, Sendable, CaseIterable {
        case protobuf = "http/protobuf"
        case json = "http/json"
    }

    /// A full URL; nil exports nothing.
    public var endpoint: String?
    /// Sent with every request. Values are never logged.
    public var headers: [(String, String)] = []
    /// `OTEL_EXPORTER_OTLP_COMPRESSION`. Default none.
    public var compression = Compression.none
    /// `OTEL_EXPORTER_OTLP_PROTOCOL`. Default `http/protobuf`.
    public var encoding = Encoding.protobuf
    /// For one request. `OTEL_EXPORTER_OTLP_TIMEOUT`, default 10 s.
    public var timeout = Duration.seconds(10)
    /// For one batch with all its retries. `OTEL_BSP_EXPORT_TIMEOUT` and its like, default 30 s.
    public var exportTimeout = Duration.seconds(30)
    /// Between two attempts: at first, and at most. Each wait is twice the last, with jitter of half of it either way.
    public var initialBackoff = Duration.milliseconds(500)
    public var maxBackoff = Duration.seconds(30)
    /// A PEM file of authorities to trust instead of the system's. `OTEL_EXPORTER_OTLP_CERTIFICATE`.
    public var certificateFile: String?
    /// PEM files that prove who this client is. `OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE` and `…_CLIENT_KEY`.
    public var clientCertificateFile: String?
    public var clientKeyFile: String?
    /// Requests under way at the same time. One keeps the order; with a disk queue it is always one. Default 2 for
    /// traces and logs, and 1 for metrics, whose points must arrive in order.
    public var maxConcurrentRequests = 2
    /// Before compression. A larger batch is split; an item that is larger alone is dropped. Default 4 MiB, well below
    /// the OpenTelemetry Collector's limit of 20 MiB.
    public var maxRequestBytes = 4 * 1024 * 1024
    /// Batches that may wait in memory; traces derive it from `maxQueueSize`. Default 16.
    public var maxQueuedBatches = 16

    public init() {}

    /// The endpoint without what may be secret: user, password and query.
    var publicEndpoint: String { endpoint.map(Self.redacted) ?? "nowhere" }

    static func redacted(_ url: String) -> String {
        var rest = url[...]
        var scheme = ""
        if let mark = rest.firstRange(of: "://") {
            scheme = String(rest[..<mark.upperBound])
            rest = rest[mark.upperBound...]
        }
        let authorityEnd = rest.firstIndex { "/?#".contains($0) } ?? rest.endIndex
        if let at = rest[..<authorityEnd].lastIndex(of: "@") { rest = rest[rest.index(after: at)...] }
        if let query = rest.firstIndex(where: { $0 == "?" || $0 == "#" }) { rest = rest[..<query] }
        return scheme + rest
    }
}

extension OTLPExporterSettings: CustomStringConvertible, CustomDebugStringConvertible, CustomReflectable {
    public var description: String {
        let names = headers.map { "\($0.0): <redacted>" }.joined(separator: ", ")
        return "\(encoding.rawValue) to \(publicEndpoint), compression \(compression.rawValue), headers [\(names)]"
    }
    public var debugDescription: String { description }
    public var customMirror: Mirror { Mirror(self, children: ["settings": description]) }
}
