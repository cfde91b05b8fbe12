import Telemetry

/// Writes an answer into memory that is large enough; anything else is an error of the caller.
struct AnswerBytes {
    private let space: UnsafeMutableRawBufferPointer
    private(set) var count = 0

    init(_ space: UnsafeMutableRawBufferPointer) { self.space = space }

    var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: space[..<count]) }

    mutating func write(_ bytes: UnsafeRawBufferPointer) {
        precondition(count + bytes.count <= space.count, "an answer of more than \(space.count) bytes")
        guard let source = bytes.baseAddress, let base = space.baseAddress else { return }
        (base + count).copyMemory(from: source, byteCount: bytes.count)
        count += bytes.count
    }

    mutating func write(_ bytes: [UInt8]) { bytes.withUnsafeBytes { write($0) } }

    mutating func write(_ text: StaticString) {
        write(UnsafeRawBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
    }

    mutating func write(_ text: String) {
        if text.utf8.withContiguousStorageIfAvailable({ write(UnsafeRawBufferPointer($0)) }) == nil {
            write(Array(text.utf8))
        }
    }

    mutating func write(_ traceID: TraceID) {
        withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 32) { digits in
            guard let base = digits.baseAddress else { return }
            traceID.writeDigits(to: base)
            write(UnsafeRawBufferPointer(digits))
        }
    }

    /// - Parameter number: not negative.
    mutating func write(_ number: Int) {
        var power = 1
        while number / power >= 10 { power *= 10 }
        while power > 0 {
            let digit = UInt8(ascii: "0") + UInt8(number / power % 10)
            withUnsafeBytes(of: digit) { write($0) }
            power /= 10
        }
    }
}
