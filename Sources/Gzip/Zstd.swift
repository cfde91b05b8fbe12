/// The zstd format (RFC 8878), by libzstd where it is installed.
public enum Zstd {
    /// Whether this machine has libzstd.
    public static var isAvailable: Bool { Library.shared != nil }

    /// Whether the bytes begin as a zstd frame does.
    public static func isZstd(_ bytes: some Collection<UInt8>) -> Bool { bytes.starts(with: [0x28, 0xB5, 0x2F, 0xFD]) }

    /// All frames, at most `limit` bytes in all. Throws `unavailable` without libzstd.
    public static func decompress(_ bytes: [UInt8], limit: Int) throws(GzipError) -> [UInt8] {
        let stream = try ZstdInflater()
        var output: [UInt8] = []
        try stream.append(bytes[...], to: &output, limit: limit)
        guard stream.isAtEnd else { throw .truncated }
        return output
    }

    struct Library: Sendable {
        typealias Create = @convention(c) () -> OpaquePointer?
        typealias Free = @convention(c) (OpaquePointer?) -> Int
        typealias Decompress =
            @convention(c) (OpaquePointer?, UnsafeMutableRawPointer?, UnsafeMutableRawPointer?) -> Int
        typealias IsError = @convention(c) (Int) -> UInt32

        let create: Create
        let free: Free
        let decompress: Decompress
        let isError: IsError

        static let shared: Library? = {
            guard let library = DynamicLibrary(["libzstd.so.1", "libzstd.so"]),
                let create = library.function("ZSTD_createDStream", as: Create.self),
                let free = library.function("ZSTD_freeDStream", as: Free.self),
                let decompress = library.function("ZSTD_decompressStream", as: Decompress.self),
                let isError = library.function("ZSTD_isError", as: IsError.self)
            else { return nil }
            return Library(create: create, free: free, decompress: decompress, isError: isError)
        }()
    }
}

/// Reads a zstd stream piece by piece; libzstd refuses windows above 128 MiB. Not thread-safe.
public final class ZstdInflater: StreamInflater {
    /// `ZSTD_inBuffer` and `ZSTD_outBuffer`: address, size, position.
    private struct Buffer {
        var address: UnsafeMutableRawPointer?
        var size: Int
        var position: Int
    }

    private let library: Zstd.Library
    private let stream: OpaquePointer
    /// Between two frames, or after the last.
    public private(set) var isAtEnd = true
    private static let pieceBytes = 128 * 1024

    public init() throws(GzipError) {
        guard let library = Zstd.Library.shared else { throw .unavailable("libzstd.so.1") }
        guard let stream = library.create() else { throw .outOfMemory }
        self.library = library
        self.stream = stream
    }

    deinit { _ = library.free(stream) }

    public func append(_ bytes: ArraySlice<UInt8>, to output: inout [UInt8], limit: Int) throws(GzipError) {
        let failure = bytes.withUnsafeBytes { bytes -> GzipError? in
            var input = Buffer(
                address: UnsafeMutableRawPointer(mutating: bytes.baseAddress), size: bytes.count, position: 0)
            var isFull = false
            while input.position < input.size || isFull {
                var left = 0
                let piece = [UInt8](unsafeUninitializedCapacity: Self.pieceBytes) { buffer, count in
                    var room = Buffer(
                        address: UnsafeMutableRawPointer(buffer.baseAddress), size: Self.pieceBytes, position: 0)
                    left = library.decompress(stream, &room, &input)
                    count = library.isError(left) == 0 ? room.position : 0
                }
                guard library.isError(left) == 0 else { return .corrupt }
                isAtEnd = left == 0
                isFull = piece.count == Self.pieceBytes && !isAtEnd
                guard output.count + piece.count <= limit else { return .tooLarge(limit: limit) }
                output.append(contentsOf: piece)
            }
            return nil
        }
        if let failure { throw failure }
    }
}
