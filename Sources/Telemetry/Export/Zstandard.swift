import Glibc

/// The zstd format by libzstd, where that is installed: it is looked for when the program runs, so that nothing depends
/// on it. Not thread-safe.
final class Zstandard {
    private typealias Create = @convention(c) () -> OpaquePointer?
    private typealias Free = @convention(c) (OpaquePointer?) -> Int
    private typealias Bound = @convention(c) (Int) -> Int
    private typealias Compress =
        @convention(c) (
            OpaquePointer?, UnsafeMutableRawPointer?, Int, UnsafeRawPointer?, Int, Int32
        ) -> Int
    private typealias IsError = @convention(c) (Int) -> UInt32

    private let context: OpaquePointer
    private let free: Free
    private let boundOf: Bound
    private let compressWith: Compress
    private let isError: IsError

    /// libzstd's own default, 3, costs a third more time for a few percent.
    private static let level: Int32 = 1

    /// Nil where the library cannot be loaded. It stays loaded.
    init?(library: String = "libzstd.so.1") {
        guard let library = dlopen(library, RTLD_NOW | RTLD_LOCAL),
            let create = dlsym(library, "ZSTD_createCCtx"), let free = dlsym(library, "ZSTD_freeCCtx"),
            let bound = dlsym(library, "ZSTD_compressBound"), let compress = dlsym(library, "ZSTD_compressCCtx"),
            let isError = dlsym(library, "ZSTD_isError"),
            let context = unsafeBitCast(create, to: Create.self)()
        else { return nil }
        self.context = context
        self.free = unsafeBitCast(free, to: Free.self)
        boundOf = unsafeBitCast(bound, to: Bound.self)
        compressWith = unsafeBitCast(compress, to: Compress.self)
        self.isError = unsafeBitCast(isError, to: IsError.self)
    }

    deinit { _ = free(context) }

    /// The most bytes that so many become.
    func bound(_ count: Int) -> Int { boundOf(count) }

    /// One frame of `bytes`, the same for the same bytes; returns its size. `output` has room for `bound` bytes.
    func compress(_ bytes: UnsafeRawBufferPointer, into output: UnsafeMutableRawBufferPointer) -> Int {
        let size = compressWith(
            context, output.baseAddress, output.count, bytes.baseAddress, bytes.count, Self.level)
        precondition(isError(size) == 0, "ZSTD_compressBound promised enough room")
        return size
    }
}
