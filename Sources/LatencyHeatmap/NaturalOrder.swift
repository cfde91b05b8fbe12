/// Names with numbers in them in the order of the numbers: `iOS-9` before `iOS-15`. Otherwise by bytes, which is the order of
/// Unicode's code points.
enum NaturalOrder {
    static func precedes(_ a: String, _ b: String) -> Bool {
        let ordered = a.utf8.withContiguousStorageIfAvailable { a in
            b.utf8.withContiguousStorageIfAvailable { b in precedes(a, b) }
        }
        return (ordered ?? nil)
            ?? Array(a.utf8).withUnsafeBufferPointer { a in
                Array(b.utf8).withUnsafeBufferPointer { b in precedes(a, b) }
            }
    }

    private static func precedes(_ a: UnsafeBufferPointer<UInt8>, _ b: UnsafeBufferPointer<UInt8>) -> Bool {
        var (i, j) = (0, 0)
        while i < a.count, j < b.count {
            if isDigit(a[i]), isDigit(b[j]) {
                let (m, n) = (run(a, &i), run(b, &j))
                if m.count != n.count { return m.count < n.count }
                if !m.elementsEqual(n) { return m.lexicographicallyPrecedes(n) }
            } else {
                if a[i] != b[j] { return a[i] < b[j] }
                i += 1
                j += 1
            }
        }
        if i < a.count || j < b.count { return j < b.count }
        // The same but for leading zeros.
        return a.lexicographicallyPrecedes(b)
    }

    private static func isDigit(_ byte: UInt8) -> Bool { (0x30...0x39).contains(byte) }

    /// The digits from a place on, without leading zeros.
    private static func run(_ text: UnsafeBufferPointer<UInt8>, _ at: inout Int) -> Slice<UnsafeBufferPointer<UInt8>> {
        while at < text.count, text[at] == 0x30 { at += 1 }
        let start = at
        while at < text.count, isDigit(text[at]) { at += 1 }
        return text[start..<at]
    }
}
