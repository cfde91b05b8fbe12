import CZlib

/// Why compressed bytes could not be read.
public enum GzipError: Error, Sendable, Equatable {
    /// The bytes end before the stream does.
    case truncated
    /// Not gzip, or damaged.
    case corrupt
    /// More than this many bytes come out.
    case tooLarge(limit: Int)
    case outOfMemory
    /// The library that could read it is not installed on this machine.
    case unavailable(String)
}

/// Decompresses piece by piece.
public protocol StreamInflater: AnyObject {
    /// Between two members or frames, or after the last: a stream may end here.
    var isAtEnd: Bool { get }

    /// Appends what `bytes` decompress to. `output` never grows beyond `limit` bytes.
    func append(_ bytes: ArraySlice<UInt8>, to output: inout [UInt8], limit: Int) throws(GzipError)
}

/// The gzip format (RFC 1952), by zlib.
public enum Gzip {
    /// One gzip member. Level 1 is the fastest, 9 the smallest.
    public static func compress(_ bytes: [UInt8], level: Int32 = 1) -> [UInt8] {
        bytes.withUnsafeBytes { compress($0, level: level) }
    }

    /// One gzip member.
    public static func compress(_ bytes: UnsafeRawBufferPointer, level: Int32 = 1) -> [UInt8] {
        let deflater = Deflater(level: level)
        let bound = deflater.bound(bytes.count)
        return [UInt8](unsafeUninitializedCapacity: bound) { output, count in
            count = deflater.compress(bytes, into: UnsafeMutableRawBufferPointer(output))
        }
    }

    /// CRC-32 as in gzip, continued from `start`.
    public static func checksum(_ bytes: UnsafeRawBufferPointer, from start: UInt32 = 0) -> UInt32 {
        UInt32(crc32_z(UInt(start), bytes.bindMemory(to: UInt8.self).baseAddress, bytes.count))
    }

    /// All members, at most `limit` bytes in all. By libdeflate where it is installed.
    public static func decompress(_ bytes: [UInt8], limit: Int) throws(GzipError) -> [UInt8] {
        if let output = Libdeflate.shared.flatMap({ library in
            bytes.withUnsafeBytes { library.decompress($0, limit: limit) }
        }) {
            return output
        }
        return try decompressInPieces(bytes, limit: limit)
    }

    /// The same by zlib, which tells apart what is wrong.
    static func decompressInPieces(_ bytes: [UInt8], limit: Int) throws(GzipError) -> [UInt8] {
        let inflater = try Inflater()
        var output: [UInt8] = []
        try inflater.append(bytes[...], to: &output, limit: limit)
        guard inflater.isAtEnd else { throw .truncated }
        return output
    }

    /// Whether the bytes begin as a gzip stream does.
    public static func isGzip(_ bytes: some Collection<UInt8>) -> Bool { bytes.starts(with: [0x1F, 0x8B]) }
}

/// Reads a gzip stream piece by piece. Not thread-safe.
public final class Inflater: StreamInflater {
    private var stream: UnsafeMutablePointer<z_stream>
    /// Between two members, or after the last.
    public private(set) var isAtEnd = true
    private static let pieceBytes = 64 * 1024

    public init() throws(GzipError) {
        stream = .allocate(capacity: 1)
        stream.initialize(to: z_stream())
        guard isotherm_inflate_init(stream, 15 + 16) == Z_OK else {
            stream.deallocate()
            throw .outOfMemory
        }
    }

    deinit {
        inflateEnd(stream)
        stream.deallocate()
    }

    /// Appends what `bytes` decompress to. `output` never grows beyond `limit` bytes.
    public func append(_ bytes: ArraySlice<UInt8>, to output: inout [UInt8], limit: Int) throws(GzipError) {
        let failure = bytes.withUnsafeBufferPointer { input -> GzipError? in
            stream.pointee.next_in = UnsafeMutablePointer(mutating: input.baseAddress)
            stream.pointee.avail_in = UInt32(input.count)
            while stream.pointee.avail_in > 0 {
                if isAtEnd {
                    inflateReset(stream)
                    isAtEnd = false
                }
                if let failure = step(&output, limit: limit) { return failure }
            }
            return nil
        }
        if let failure { throw failure }
    }

    private func step(_ output: inout [UInt8], limit: Int) -> GzipError? {
        while true {
            var result = Z_OK
            let piece = [UInt8](unsafeUninitializedCapacity: Self.pieceBytes) { buffer, count in
                stream.pointee.next_out = buffer.baseAddress
                stream.pointee.avail_out = UInt32(Self.pieceBytes)
                result = inflate(stream, Z_NO_FLUSH)
                count = Self.pieceBytes - Int(stream.pointee.avail_out)
            }
            guard output.count + piece.count <= limit else { return .tooLarge(limit: limit) }
            output.append(contentsOf: piece)
            switch result {
            case Z_STREAM_END:
                isAtEnd = true
                return nil
            case Z_OK where stream.pointee.avail_out == 0: continue
            case Z_OK, Z_BUF_ERROR: return nil
            default: return .corrupt
            }
        }
    }
}
