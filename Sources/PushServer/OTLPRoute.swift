import Gzip
import HTTPTypes
import Hummingbird
import HummingbirdCore
import LatencyHeatmap
import NIOCore
import OTLP
import PushPipeline

/// `POST /v1/traces`: OTLP/HTTP, protobuf and JSON, identity and gzip. Feeds the heatmap.
struct OTLPRoute {
    let core: ServerCore

    private enum Encoding {
        case protobuf, json

        var contentType: String {
            switch self {
            case .protobuf: "application/x-protobuf"
            case .json: "application/json"
            }
        }
    }

    func respond(to request: Request) async throws -> Response {
        let encoding = try Self.encoding(request.headers[.contentType])
        let isCompressed = try Self.isCompressed(request.headers[.contentEncoding])
        // Spans come from services, not from devices, but they are not for everybody to send either.
        let fields = try RequestFields(request)
        let prefix = try core.heatmapPrefix(fields)
        let limit = core.configuration.maxOTLPDecompressedBytes
        let collected = try await request.body.collect(upTo: core.configuration.maxOTLPBytes)
        var body = Array(buffer: collected)
        if isCompressed {
            do { body = try Gzip.decompress(body, limit: limit) } catch {
                switch error {
                case .tooLarge:
                    throw Problem(
                        status: 413, kind: "body_too_large", title: "The body is too large",
                        detail: "more than \(limit) bytes after decompression; send smaller batches")
                default:
                    throw Problem(
                        status: 400, kind: "invalid_body", title: "The body cannot be read",
                        detail: "the gzip stream is truncated or corrupt: \(error)")
                }
            }
        }
        do {
            switch encoding {
            case .protobuf: try core.heatmap.ingest(protobuf: body, groupPrefix: prefix)
            case .json: try core.heatmap.ingest(json: body, groupPrefix: prefix)
            }
        } catch {
            throw Problem(
                status: 400, kind: "invalid_body", title: "The body cannot be read",
                detail: "not an ExportTraceServiceRequest: \(error)")
        }
        // An empty response message is full success. Spans that the heatmap discards are not rejected: a collector could
        // do nothing about them, and they are counted on /metrics.
        return Response.json(
            encoding == .json ? Array("{}".utf8) : [], type: encoding.contentType)
    }

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

    private static func isCompressed(_ contentEncoding: String?) throws(Problem) -> Bool {
        switch contentEncoding?.lowercased() {
        case nil, "", "identity": return false
        case "gzip": return true
        case .some(let other):
            throw Problem(
                status: 415, kind: "unsupported_encoding", title: "The content encoding is not supported",
                detail: "\"\(other.prefix(64))\": send gzip or identity")
        }
    }
}
