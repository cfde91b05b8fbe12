import CZlib

/// Writes one gzip member in parts, as they come. Not thread-safe.
public final class GzipWriter {
    private let stream: UnsafeMutablePointer<z_stream>

    /// Level 1 is the fastest, 9 the smallest.
    public init(level: Int32 = 1) {
        stream = .allocate(capacity: 1)
        stream.initialize(to: z_stream())
        // 15 bits of window, and 16 for a gzip header. It can only fail for want of memory.
        guard isotherm_deflate_init(stream, level, 15 + 16) == Z_OK else { fatalError("zlib: out of memory") }
    }

    deinit {
        deflateEnd(stream)
        stream.deallocate()
    }

    /// What the bytes become, as far as it is known by now; often nothing, since more may follow.
    public func write(_ bytes: UnsafeRawBufferPointer) -> [UInt8] { deflated(bytes, Z_NO_FLUSH) }

    /// The rest of the member. Nothing can be written after it.
    public func finish() -> [UInt8] { deflated(UnsafeRawBufferPointer(start: nil, count: 0), Z_FINISH) }

    private func deflated(_ bytes: UnsafeRawBufferPointer, _ flush: Int32) -> [UInt8] {
        var output: [UInt8] = []
        stream.pointee.next_in = UnsafeMutablePointer(mutating: bytes.bindMemory(to: UInt8.self).baseAddress)
        stream.pointee.avail_in = UInt32(bytes.count)
        var isFull = true
        while isFull {
            let part = [UInt8](unsafeUninitializedCapacity: 16 * 1024) { buffer, count in
                stream.pointee.next_out = buffer.baseAddress
                stream.pointee.avail_out = UInt32(buffer.count)
                deflate(stream, flush)
                count = buffer.count - Int(stream.pointee.avail_out)
            }
            // A part that was filled may have been filled exactly; the next is then empty.
            isFull = stream.pointee.avail_out == 0
            output += part
        }
        return output
    }
}
