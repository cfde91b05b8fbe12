import OTLP

/// Attributes whose keys are known only at run time, as a bridge from another API has them. They cost what static keys
/// cost, and allocate nothing either.
extension Span {
    public func setAttribute(named key: String, _ value: String) {
        guard slot != nil else { return }
        var value = value
        value.withUTF8 { bytes in
            withKey(key) { start, count in
                // Empty bytes may have no address.
                setBytes(start, count, 0x0A, bytes.baseAddress ?? start, limits.cut(bytes))
            }
        }
    }

    public func setAttribute(named key: String, _ value: Int64) {
        withKey(key) { start, count in setNumber(start, count, 0x18, UInt64(bitPattern: value)) }
    }

    public func setAttribute(named key: String, _ value: Bool) {
        withKey(key) { start, count in setNumber(start, count, 0x10, value ? 1 : 0) }
    }

    public func setAttribute(named key: String, _ value: Double) {
        withKey(key) { start, count in setDouble(start, count, value) }
    }

    private func withKey(_ key: String, _ body: (UnsafePointer<UInt8>, Int) -> Void) {
        var key = key
        key.withUTF8 { bytes in
            // An attribute without a key does not exist.
            if let start = bytes.baseAddress, !bytes.isEmpty { body(start, bytes.count) }
        }
    }
}
