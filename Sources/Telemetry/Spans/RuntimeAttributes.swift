import OTLP

/// Attributes whose keys are known only at run time, as a bridge from another API has them. They cost what static keys
/// cost, and allocate nothing either.
extension Span {
    public func setAttribute(named key: String, _ value: String) {
        SpanFields.withBytes(value) { bytes in
            withKey(key) { slot, start, count in
                // Empty bytes may have no address.
                set(slot, start, count, bytes.baseAddress ?? start, bytes.count)
            }
        }
    }

    /// By a call, since short and long texts are different code: four pairs of key and value.
    @inline(never)
    private func set(
        _ slot: UnsafeMutablePointer<SpanSlot>, _ key: UnsafePointer<UInt8>, _ keyCount: Int,
        _ value: UnsafePointer<UInt8>, _ count: Int
    ) {
        SpanFields.set(slot, word, key, keyCount, SpanFields.string, value, count)
    }

    public func setAttribute(named key: String, _ value: Int64) {
        withKey(key) { slot, start, count in
            SpanFields.set(slot, word, start, count, SpanFields.integer, UInt64(bitPattern: value))
        }
    }

    public func setAttribute(named key: String, _ value: Bool) {
        withKey(key) { slot, start, count in
            SpanFields.set(slot, word, start, count, SpanFields.boolean, value ? 1 : 0)
        }
    }

    public func setAttribute(named key: String, _ value: Double) {
        withKey(key) { slot, start, count in SpanFields.set(slot, word, start, count, double: value) }
    }

    @inline(__always)
    private func withKey(_ key: String, _ body: (UnsafeMutablePointer<SpanSlot>, UnsafePointer<UInt8>, Int) -> Void) {
        guard let slot else { return }
        SpanFields.withBytes(key) { bytes in
            // An attribute without a key does not exist.
            if let start = bytes.baseAddress { body(slot, start, bytes.count) }
        }
    }
}
