/// The messages of a file of OTLP, as the Collector's file exporter and others write them.
///
/// - JSON: one object a line, or a single object over several lines.
/// - Protobuf with a length of four bytes, big-endian, before each message.
/// - A single protobuf message.
///
/// Which one it is shows in the bytes. Compression is undone before.
public struct OTLPFile: Sendable {
    public enum Message: Sendable, Equatable {
        case json(Range<Int>)
        case protobuf(Range<Int>)
    }

    /// In the order of the file.
    public let messages: [Message]

    public init(_ bytes: UnsafeRawBufferPointer) throws(OTLPDecodingError) {
        if bytes.starts(with: [0x28, 0xB5, 0x2F, 0xFD]) {
            throw OTLPDecodingError(
                code: .malformed, offset: 0, cause: "zstd is not supported; decompress the file first (zstd -d)")
        }
        // 0x0A is a line break, but also how a protobuf request begins: then its lengths lead to the end.
        if bytes.first == 0x0A, Self.isRequest(bytes) {
            messages = [.protobuf(0..<bytes.count)]
            return
        }
        guard let first = bytes.firstIndex(where: { !Self.isBlank($0) }) else {
            messages = []
            return
        }
        if bytes[first] == UInt8(ascii: "{") {
            messages = Self.lines(bytes).map { .json($0) }
        } else if let framed = Self.frames(bytes) {
            messages = framed.map { .protobuf($0) }
        } else {
            messages = [.protobuf(0..<bytes.count)]
        }
    }

    private static func isBlank(_ byte: UInt8) -> Bool { byte == 0x20 || (0x09...0x0D).contains(byte) }

    /// Whether there is nothing but fields of number 1 with their lengths.
    private static func isRequest(_ bytes: UnsafeRawBufferPointer) -> Bool {
        var reader = ProtobufReader(bytes)
        do {
            while !reader.isAtEnd {
                guard try reader.tag() == 0x0A else { return false }
                _ = try reader.bytes()
            }
        } catch {
            return false
        }
        return true
    }

    /// A line break inside a JSON string is always escaped, so an object ends with the line in which its braces close.
    private static func lines(_ bytes: UnsafeRawBufferPointer) -> [Range<Int>] {
        var found: [Range<Int>] = []
        var start = 0
        var depth = 0
        var isInString = false
        var at = 0
        while at < bytes.count {
            switch bytes[at] {
            case UInt8(ascii: "\\") where isInString: at += 1
            case UInt8(ascii: "\""): isInString.toggle()
            case UInt8(ascii: "{") where !isInString, UInt8(ascii: "[") where !isInString: depth += 1
            case UInt8(ascii: "}") where !isInString, UInt8(ascii: "]") where !isInString: depth -= 1
            case UInt8(ascii: "\n") where !isInString && depth <= 0:
                if !bytes[start..<at].allSatisfy(isBlank) { found.append(start..<at) }
                start = at + 1
                depth = 0
            default: break
            }
            at += 1
        }
        if start < bytes.count, !bytes[start...].allSatisfy(isBlank) { found.append(start..<bytes.count) }
        return found
    }

    /// Nil unless the lengths lead exactly to the end.
    private static func frames(_ bytes: UnsafeRawBufferPointer) -> [Range<Int>]? {
        var found: [Range<Int>] = []
        var at = 0
        while at < bytes.count {
            guard bytes.count - at >= 4 else { return nil }
            let length = Int(UInt32(bigEndian: bytes.loadUnaligned(fromByteOffset: at, as: UInt32.self)))
            guard length <= bytes.count - at - 4 else { return nil }
            found.append(at + 4..<at + 4 + length)
            at += 4 + length
        }
        return found
    }
}
