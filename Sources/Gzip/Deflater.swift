import CZlib

/// Writes gzip members, one after another, with the same memory: only the first allocates. A member is written whole by
/// `compress`, or in parts by `write` and `finish`. Not thread-safe.
public final class Deflater {
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

    /// The most bytes that so many become.
    public func bound(_ count: Int) -> Int { Int(deflateBound(stream, UInt(count))) }

    /// One member of `bytes`, the same for the same bytes; returns its size. `output` has room for `bound` bytes.
    public func compress(_ bytes: UnsafeRawBufferPointer, into output: UnsafeMutableRawBufferPointer) -> Int {
        deflateReset(stream)
        stream.pointee.next_in = UnsafeMutablePointer(mutating: bytes.bindMemory(to: UInt8.self).baseAddress)
        stream.pointee.avail_in = UInt32(bytes.count)
        stream.pointee.next_out = output.bindMemory(to: UInt8.self).baseAddress
        stream.pointee.avail_out = UInt32(output.count)
        let result = deflate(stream, Z_FINISH)
        precondition(result == Z_STREAM_END, "deflateBound promised enough room")
        return Int(stream.pointee.total_out)
    }

    /// What the bytes become, as far as it is known by now; often nothing, since more may follow.
    public func write(_ bytes: UnsafeRawBufferPointer) -> [UInt8] { deflated(bytes, Z_NO_FLUSH) }

    /// The rest of the member. Only `compress` can follow.
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
