import Gzip
import OTLP

/// Memory that keeps its place and grows, for bytes that libcurl reads.
final class PayloadBuffer {
    private(set) var storage: UnsafeMutableRawBufferPointer
    private(set) var count = 0

    /// What one large batch made it grow to is not kept beyond this.
    private static let maxKeptBytes = 1024 * 1024

    init() { storage = .allocate(byteCount: 4096, alignment: 8) }
    deinit { storage.deallocate() }

    var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: storage[..<count]) }

    /// Replaces the content by what `body` writes; it returns how many bytes.
    func fill(capacity: Int, _ body: (UnsafeMutableRawBufferPointer) -> Int) {
        if storage.count < capacity || storage.count > max(capacity, Self.maxKeptBytes) {
            storage.deallocate()
            storage = .allocate(byteCount: capacity, alignment: 8)
        }
        count = body(storage)
    }
}

/// Turns a batch's protobuf into the bytes that are sent: the same bytes each time.
final class PayloadEncoder {
    let contentType: String
    /// Nil for plain bytes.
    let contentEncoding: String?
    private let request: OTLPRequest
    private let isJSON: Bool
    private let deflater: Deflater?
    private let zstandard: Zstandard?

    init(signal: Signal, settings: OTLPExporterSettings) {
        request = signal.request
        isJSON = settings.encoding == .json
        contentType = isJSON ? "application/json" : "application/x-protobuf"
        zstandard = settings.compression == .zstd ? Zstandard() : nil
        deflater = settings.compression != .none && zstandard == nil ? Deflater() : nil
        contentEncoding = zstandard != nil ? "zstd" : deflater != nil ? "gzip" : nil
    }

    enum Result {
        /// The batch's own bytes will do.
        case asIs
        case encoded
        case tooLarge
    }

    /// - Throws: where the batch is no protobuf.
    func encode(
        _ body: UnsafeRawBufferPointer, into buffer: PayloadBuffer, maxBytes: Int
    ) throws(OTLPDecodingError) -> Result {
        guard isJSON else {
            guard body.count <= maxBytes else { return .tooLarge }
            return compress(body, into: buffer) ? .encoded : .asIs
        }
        let json = try JSONTranscoder.json(body, request)
        guard json.count <= maxBytes else { return .tooLarge }
        json.withUnsafeBytes { json in
            if !compress(json, into: buffer) {
                buffer.fill(capacity: json.count) {
                    $0.copyMemory(from: json)
                    return json.count
                }
            }
        }
        return .encoded
    }

    private func compress(_ plain: UnsafeRawBufferPointer, into buffer: PayloadBuffer) -> Bool {
        if let zstandard {
            buffer.fill(capacity: zstandard.bound(plain.count)) { zstandard.compress(plain, into: $0) }
        } else if let deflater {
            buffer.fill(capacity: deflater.bound(plain.count)) { deflater.compress(plain, into: $0) }
        }
        return contentEncoding != nil
    }
}

extension Signal {
    var request: OTLPRequest {
        switch self {
        case .traces: .traces
        case .metrics: .metrics
        case .logs: .logs
        }
    }
}
