import Glibc

/// Reads a file from its beginning to its end in pieces, decompressed: gzip and zstd are known by their first bytes. Needs
/// memory for one piece, however long the file is. Not thread-safe.
public final class CompressedFile {
    public struct Failure: Error, Sendable, CustomStringConvertible {
        public let path: String
        public let cause: String
        public var description: String { "\(path): \(cause)" }
    }

    public let path: String
    /// What has been read of the file itself, and how long it is; 0 if that is not known, as for a pipe.
    public private(set) var bytesRead = 0
    public let byteCount: Int
    private let descriptor: Int32
    private let isOwned: Bool
    private var inflater: (any StreamInflater)?
    private var isDecided = false
    /// Read for the decision, and not used yet.
    private var first: [UInt8] = []
    private static let pieceBytes = 256 * 1024
    /// What one piece of a file may become; zstd and gzip make up to a thousand bytes of one.
    private static let maxPieceBytes = 512 << 20

    /// - Parameter path: `-` for the standard input.
    public init(path: String) throws(Failure) {
        self.path = path
        isOwned = path != "-"
        descriptor = isOwned ? open(path, O_RDONLY | O_CLOEXEC) : STDIN_FILENO
        guard descriptor >= 0 else { throw Failure(path: path, cause: String(cString: strerror(errno))) }
        var status = stat()
        let isRegular = fstat(descriptor, &status) == 0 && status.st_mode & S_IFMT == S_IFREG
        byteCount = isRegular ? Int(status.st_size) : 0
    }

    deinit { if isOwned, descriptor >= 0 { close(descriptor) } }

    /// The next bytes, decompressed; nil at the end. A piece may be empty.
    public func next() throws(Failure) -> [UInt8]? {
        if !isDecided { try decide() }
        let piece: [UInt8]
        if first.isEmpty {
            piece = try read()
        } else {
            piece = first
            first = []
        }
        guard let inflater else { return piece.isEmpty ? nil : piece }
        if piece.isEmpty {
            guard inflater.isAtEnd else {
                throw Failure(path: path, cause: "ends in the middle of a compressed stream")
            }
            return nil
        }
        var output: [UInt8] = []
        do { try inflater.append(piece[...], to: &output, limit: Self.maxPieceBytes) } catch {
            throw Failure(path: path, cause: "cannot be decompressed at byte \(bytesRead): \(error)")
        }
        return output
    }

    private func decide() throws(Failure) {
        isDecided = true
        while first.count < 4 {
            let more = try read()
            if more.isEmpty { break }
            first += more
        }
        do {
            if Gzip.isGzip(first) { inflater = try Inflater() }
            if Zstd.isZstd(first) { inflater = try ZstdInflater() }
        } catch {
            guard case .unavailable(let library) = error else { throw Failure(path: path, cause: "\(error)") }
            throw Failure(
                path: path,
                cause: "is compressed with zstd, and \(library) is not installed; install it, or decompress "
                    + "the file first (zstd -d)")
        }
    }

    private func read() throws(Failure) -> [UInt8] {
        var failure: Int32 = 0
        let piece = [UInt8](unsafeUninitializedCapacity: Self.pieceBytes) { buffer, count in
            while true {
                let got = Glibc.read(descriptor, buffer.baseAddress, Self.pieceBytes)
                if got < 0, errno == EINTR { continue }
                failure = got < 0 ? errno : 0
                count = Swift.max(got, 0)
                return
            }
        }
        guard failure == 0 else { throw Failure(path: path, cause: String(cString: strerror(failure))) }
        bytesRead += piece.count
        return piece
    }
}
