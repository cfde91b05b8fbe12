import Glibc

extension String {
    /// Whether the text has `needle`, byte for byte. Swift's own search compares characters, at several microseconds a
    /// header field.
    package func holds(_ needle: StaticString) -> Bool {
        var text = self
        return text.withUTF8 { UnsafeRawBufferPointer($0).offset(of: needle) != nil }
    }
}

extension UnsafeRawBufferPointer {
    /// Where `needle` begins for the first time.
    func offset(of needle: StaticString) -> Int? {
        let length = needle.utf8CodeUnitCount
        guard let base = baseAddress, length > 0 else { return length == 0 ? 0 : nil }
        var at = 0
        while at + length <= count {
            guard let found = memchr(base + at, Int32(needle.utf8Start[0]), count - length - at + 1) else { return nil }
            at = UnsafeRawPointer(found) - base
            if memcmp(base + at, needle.utf8Start, length) == 0 { return at }
            at += 1
        }
        return nil
    }
}
