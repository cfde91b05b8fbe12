/// libdeflate's gzip decompressor, about twice as fast as zlib on whole messages. https://github.com/ebiggers/libdeflate
struct Libdeflate: Sendable {
    private typealias Allocate = @convention(c) () -> OpaquePointer?
    private typealias Free = @convention(c) (OpaquePointer?) -> Void
    /// Decompressor, input and its size, output and its room, bytes read, bytes written.
    private typealias Decompress =
        @convention(c) (
            OpaquePointer?, UnsafeRawPointer?, Int, UnsafeMutableRawPointer?, Int, UnsafeMutablePointer<Int>?,
            UnsafeMutablePointer<Int>?
        ) -> Int32

    private let allocate: Allocate
    private let free: Free
    private let decompress: Decompress

    /// Nil where libdeflate is not installed.
    static let shared: Libdeflate? = {
        guard let library = DynamicLibrary(["libdeflate.so.0", "libdeflate.so"]),
            let allocate = library.function("libdeflate_alloc_decompressor", as: Allocate.self),
            let free = library.function("libdeflate_free_decompressor", as: Free.self),
            let decompress = library.function("libdeflate_gzip_decompress_ex", as: Decompress.self)
        else { return nil }
        return Libdeflate(allocate: allocate, free: free, decompress: decompress)
    }()

    /// One member, whole; nil where zlib has to look: several members, damage, or more than `limit` bytes.
    func decompress(_ input: UnsafeRawBufferPointer, limit: Int) -> [UInt8]? {
        guard input.count >= 18 else { return nil }
        // The last four bytes are the size of the last member, to 32 bits. A sender may say anything there, but deflate
        // makes at most 1,032 bytes of one.
        let said = Int(UInt32(littleEndian: input.loadUnaligned(fromByteOffset: input.count - 4, as: UInt32.self)))
        guard said <= limit, said <= input.count * 1_032, let decompressor = allocate() else { return nil }
        defer { free(decompressor) }
        var isWhole = false
        let bytes = [UInt8](unsafeUninitializedCapacity: Swift.max(said, 1)) { output, count in
            var (read, written) = (0, 0)
            let status = decompress(
                decompressor, input.baseAddress, input.count, output.baseAddress, said, &read, &written)
            isWhole = status == 0 && read == input.count
            count = isWhole ? written : 0
        }
        return isWhole ? bytes : nil
    }
}
