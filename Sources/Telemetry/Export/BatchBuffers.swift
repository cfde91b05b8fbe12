/// Memory for batches, used again so that a steady stream allocates nothing. Keeps at most `maxKept` buffers.
enum BatchBuffers {
    static let bufferBytes = 256 * 1024
    private static let maxKept = 8
    private static let kept = Guarded<[Buffer]>([])

    private struct Buffer: @unchecked Sendable {  // owned by whoever holds it
        let start: UnsafeMutableRawPointer
    }

    /// `bufferBytes` bytes.
    static func take() -> UnsafeMutableRawPointer {
        kept.withLock { $0.popLast() }?.start ?? .allocate(byteCount: bufferBytes, alignment: 8)
    }

    /// A buffer of another size goes back to the system.
    static func release(_ start: UnsafeMutableRawPointer, capacity: Int) {
        guard capacity == bufferBytes else { return start.deallocate() }
        let buffer = Buffer(start: start)
        let isKept = kept.withLock { kept in
            guard kept.count < maxKept else { return false }
            kept.append(buffer)
            return true
        }
        if !isKept { start.deallocate() }
    }
}
