import Gzip
import HTTPTypes
import Hummingbird
import HummingbirdCore
import NIOCore

/// gzip for reports and metrics, when the client asks for it. Never for streams: a compressor holds bytes back, and so does
/// many a proxy that sees one.
enum Compression {
    /// Less is not worth it.
    static let minBytes = 1_024

    static func apply(to response: inout Response, path: String, acceptEncoding: String?) {
        guard path.hasPrefix("/heatmap") && path != "/heatmap/live" || path == "/metrics",
            response.status == .ok, response.headers[.contentEncoding] == nil
        else { return }
        response.headers[values: .vary].append("Accept-Encoding")
        guard accepts(acceptEncoding), response.body.contentLength.map({ $0 >= minBytes }) ?? true else { return }
        response.headers[.contentEncoding] = "gzip"
        response.headers[.contentLength] = nil
        let plain = response.body
        response.body = ResponseBody { writer in
            try await plain.write(GzipBody(parent: writer))
        }
    }

    /// Whether `Accept-Encoding` has gzip, or anything, with a weight above 0 (RFC 9110, section 12.5.3).
    static func accepts(_ header: String?) -> Bool {
        guard let header else { return false }
        var any: Bool?
        for item in header.lowercased().split(separator: ",") {
            let parts = item.split(separator: ";").map { $0.filter { $0 != " " && $0 != "\t" } }
            guard let coding = parts.first else { continue }
            let weight = parts.dropFirst().first { $0.hasPrefix("q=") }.flatMap { Double($0.dropFirst(2)) } ?? 1
            if coding == "gzip" || coding == "x-gzip" { return weight > 0 }
            if coding == "*" { any = weight > 0 }
        }
        return any ?? false
    }
}

private struct GzipBody: ResponseBodyWriter {
    var parent: any ResponseBodyWriter
    let gzip = Deflater()

    init(parent: any ResponseBodyWriter) { self.parent = parent }

    mutating func write(_ buffer: ByteBuffer) async throws {
        let bytes = buffer.withUnsafeReadableBytes { gzip.write($0) }
        if !bytes.isEmpty { try await parent.write(ByteBuffer(bytes: bytes)) }
    }

    consuming func finish(_ trailingHeaders: HTTPFields?) async throws {
        try await parent.write(ByteBuffer(bytes: gzip.finish()))
        try await parent.finish(trailingHeaders)
    }
}
