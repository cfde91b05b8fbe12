import Gzip
import HTTPTypes
import Hummingbird
import HummingbirdCore
import LatencyHeatmap
import NIOCore
import OTLP
import PushPipeline
import Synchronization

/// `POST /v1/traces` and `/v1/metrics`: OTLP/HTTP, protobuf and JSON, identity, gzip and, where libzstd is installed, zstd.
/// Feeds the heatmap.
struct OTLPRoute {
    enum Signal { case traces, metrics }

    let core: ServerCore
    let signal: Signal

    private enum Encoding {
        case protobuf, json

        var contentType: String {
            switch self {
            case .protobuf: "application/x-protobuf"
            case .json: "application/json"
            }
        }
    }

    private enum Compression { case identity, gzip, zstd }

    func respond(to request: Request) async throws -> Response {
        let encoding = try Self.encoding(request.headers[.contentType])
        let compression = try Self.compression(request.headers[.contentEncoding])
        // Spans come from services, not from devices, but they are not for everybody to send either.
        let fields = try RequestFields(request)
        let prefix = try core.heatmapPrefix(fields)
        let limit = core.configuration.maxOTLPBytes
        let said = request.headers[.contentLength].flatMap { Int($0) } ?? limit
        let held = min(max(said, 0), limit)
        guard core.otlpAdmission.enter(bytes: held) else {
            throw Problem(
                status: 429, kind: "overloaded", title: "Too many requests at once",
                detail:
                    "\(core.otlpAdmission.maxRequests) requests or \(core.otlpAdmission.maxBytes) bytes are being read; "
                    + "send this one again later",
                retryAfter: .seconds(1))
        }
        defer { core.otlpAdmission.leave(bytes: held) }
        let collected: ByteBuffer
        do { collected = try await request.body.collect(upTo: limit) } catch is NIOTooManyBytesError {
            throw Self.tooLarge("more than \(limit) bytes")
        }
        let body = try decompressed(Array(buffer: collected), compression)
        let result: IngestResult
        do {
            result = try body.withUnsafeBytes { bytes in
                switch (signal, encoding) {
                case (.traces, .protobuf): try core.heatmap.ingest(protobuf: bytes, groupPrefix: prefix)
                case (.traces, .json): try core.heatmap.ingest(json: bytes, groupPrefix: prefix)
                case (.metrics, .protobuf): try core.heatmap.ingestMetrics(protobuf: bytes, groupPrefix: prefix)
                case (.metrics, .json): try core.heatmap.ingestMetrics(json: bytes, groupPrefix: prefix)
                }
            }
        } catch {
            let message = signal == .traces ? "ExportTraceServiceRequest" : "ExportMetricsServiceRequest"
            throw Problem(
                status: 400, kind: "invalid_body", title: "The body cannot be read",
                detail: "not an \(message): \(error)")
        }
        return Response.json(answer(result, encoding), type: encoding.contentType)
    }

    private func decompressed(_ body: [UInt8], _ compression: Compression) throws -> [UInt8] {
        let limit = core.configuration.maxOTLPDecompressedBytes
        do {
            switch compression {
            case .identity: return body
            case .gzip: return try Gzip.decompress(body, limit: limit)
            case .zstd: return try Zstd.decompress(body, limit: limit)
            }
        } catch {
            if case .tooLarge = error { throw Self.tooLarge("more than \(limit) bytes after decompression") }
            throw Problem(
                status: 400, kind: "invalid_body", title: "The body cannot be read",
                detail: "the compressed stream is truncated or corrupt: \(error)")
        }
    }

    private static func tooLarge(_ what: String) -> Problem {
        Problem(
            status: 413, kind: "body_too_large", title: "The body is too large",
            detail: "\(what); send smaller batches")
    }

    // MARK: The answer

    /// What the sender could change. What it sent by design, such as this process's own spans, is not rejected.
    private static let rejecting: [HeatmapLedger.DiscardReason] = [
        .noLatency, .future, .expired, .badSketch, .memory, .explicitBuckets, .cumulative, .badHistogram,
    ]

    /// An export response: empty for full success, else with its `partial_success`.
    /// https://opentelemetry.io/docs/specs/otlp/#partial-success-1
    private func answer(_ result: IngestResult, _ encoding: Encoding) -> [UInt8] {
        let reasons = Self.rejecting.compactMap { reason in result.discarded[reason].map { (reason, $0) } }
        let rejected = reasons.reduce(0) { $0 + $1.1 }
        guard rejected > 0 else { return encoding == .json ? Array("{}".utf8) : [] }
        let text = reasons.map { "\($0.1) \($0.0.rawValue)" }.joined(separator: ", ")
        switch encoding {
        case .protobuf:
            var response = ProtobufWriter()
            response.message(field: 1) { partial in
                partial.varint(field: 1, rejected)
                partial.string(field: 2, text)
            }
            return response.bytes
        case .json:
            let name = signal == .traces ? "rejectedSpans" : "rejectedDataPoints"
            return Array(#"{"partialSuccess":{"\#(name)":"\#(rejected)","errorMessage":"\#(text)"}}"#.utf8)
        }
    }

    // MARK: What the head says

    private static func encoding(_ contentType: String?) throws(Problem) -> Encoding {
        let type = contentType?.split(separator: ";").first.map { $0.lowercased().filter { $0 != " " } } ?? ""
        switch type {
        case "application/x-protobuf", "application/protobuf": return .protobuf
        case "application/json": return .json
        default:
            throw Problem(
                status: 415, kind: "unsupported_media_type", title: "The content type is not supported",
                detail: "\"\(type.prefix(64))\": send application/x-protobuf or application/json")
        }
    }

    private static func compression(_ contentEncoding: String?) throws(Problem) -> Compression {
        switch contentEncoding?.lowercased() {
        case nil, "", "identity": return .identity
        case "gzip": return .gzip
        case "zstd" where Zstd.isAvailable: return .zstd
        case .some(let other):
            throw Problem(
                status: 415, kind: "unsupported_encoding", title: "The content encoding is not supported",
                detail: "\"\(other.prefix(64))\": send gzip\(Zstd.isAvailable ? ", zstd" : "") or identity")
        }
    }
}

/// How much OTLP is being read at once; beyond it, senders are told to wait.
final class OTLPAdmission: Sendable {
    let maxRequests: Int
    let maxBytes: Int
    private let held = Mutex((requests: 0, bytes: 0))

    init(maxRequests: Int, maxBytes: Int) {
        self.maxRequests = maxRequests
        self.maxBytes = maxBytes
    }

    /// False when it would be too much. One request alone always is let in.
    func enter(bytes: Int) -> Bool {
        held.withLock { held in
            guard held.requests < maxRequests, held.requests == 0 || held.bytes + bytes <= maxBytes else {
                return false
            }
            held.requests += 1
            held.bytes += bytes
            return true
        }
    }

    func leave(bytes: Int) {
        held.withLock { held in
            held.requests -= 1
            held.bytes -= bytes
        }
    }
}
