/// Takes the messages out of a file of OTLP that comes in pieces, as the Collector's file exporter and others write them. Holds
/// one message at a time.
///
/// - JSON: one object a line, or a single object over several lines.
/// - Protobuf with a length of four bytes, big-endian, before each message.
/// - A single protobuf message.
///
/// Which one it is shows in the bytes. Compression is undone before.
public struct OTLPMessageStream: Sendable {
    /// A message that is longer is refused: the Collector's own limit is 20 MiB.
    public static let maxMessageBytes = 64 << 20

    private enum Form { case json, framed, single }

    private var form: Form?
    private var bytes: [UInt8] = []
    /// Up to here the bytes have been used.
    private var start = 0
    /// Up to here they have been looked at for the end of a JSON line.
    private var scanned = 0
    private var depth = 0
    private var isInString = false
    private var isEscaped = false
    /// Of the whole stream, where `bytes` begins.
    private var offset = 0

    public init() {}

    /// Calls `body` with each message that ends in these bytes.
    public mutating func append(
        _ piece: [UInt8], _ body: (Bool, UnsafeRawBufferPointer) throws -> Void
    ) throws {
        if start > 0 {
            bytes.removeSubrange(..<start)
            offset += start
            scanned -= start
            start = 0
        }
        bytes += piece
        if form == nil { form = Self.form(bytes, isAtEnd: false) }
        try deliver(body)
        guard bytes.count - start <= Self.maxMessageBytes else {
            throw OTLPDecodingError(code: .tooLarge, offset: offset + start, cause: "a message of more than 64 MiB")
        }
    }

    /// Calls `body` with what is left. Throws if that is half a message.
    public mutating func finish(_ body: (Bool, UnsafeRawBufferPointer) throws -> Void) throws {
        if form == nil { form = Self.form(bytes, isAtEnd: true) }
        try deliver(body)
        guard start < bytes.count, !bytes[start...].allSatisfy(Self.isBlank) else { return }
        switch form {
        case .json: try give(start..<bytes.count, isJSON: true, body)
        case .single: try give(start..<bytes.count, isJSON: false, body)
        case .framed, nil:
            throw OTLPDecodingError(code: .truncated, offset: offset + start, cause: "the file ends within a message")
        }
        start = bytes.count
    }

    /// JSON begins with a brace. A request in protobuf begins with 0x0A: as a length of four bytes that would be more than
    /// a message may have, so what begins otherwise has lengths, if they make sense. But 0x0A is a line break too.
    private static func form(_ bytes: [UInt8], isAtEnd: Bool) -> Form? {
        guard let first = bytes.firstIndex(where: { !isBlank($0) }) else { return nil }
        guard bytes.count > 4 || isAtEnd else { return nil }
        if bytes[0] == 0x0A, isRequest(bytes) { return .single }
        if bytes[first] == UInt8(ascii: "{") { return .json }
        guard bytes.count > 4 else { return .single }
        let length = bytes[..<4].reduce(0) { $0 << 8 | Int($1) }
        return length <= maxMessageBytes && (length == 0 || bytes[4] == 0x0A) ? .framed : .single
    }

    /// Whether the lengths of fields of number 1 lead from one to the next, at least once.
    private static func isRequest(_ bytes: [UInt8]) -> Bool {
        bytes.withUnsafeBytes { bytes in
            var reader = ProtobufReader(bytes)
            var fields = 0
            do throws(OTLPDecodingError) {
                while !reader.isAtEnd {
                    guard try reader.tag() == 0x0A else { return false }
                    _ = try reader.bytes()
                    fields += 1
                }
            } catch {
                // The rest has not come yet.
                return error.code == .truncated && fields > 0
            }
            return true
        }
    }

    private static func isBlank(_ byte: UInt8) -> Bool { byte == 0x20 || (0x09...0x0D).contains(byte) }

    private func give(
        _ range: Range<Int>, isJSON: Bool, _ body: (Bool, UnsafeRawBufferPointer) throws -> Void
    ) throws {
        try bytes.withUnsafeBytes { try body(isJSON, UnsafeRawBufferPointer(rebasing: $0[range])) }
    }

    private mutating func deliver(_ body: (Bool, UnsafeRawBufferPointer) throws -> Void) throws {
        switch form {
        case .json: try deliverLines(body)
        case .framed:
            while bytes.count - start >= 4 {
                let length = bytes[start..<(start + 4)].reduce(0) { $0 << 8 | Int($1) }
                guard length <= Self.maxMessageBytes else {
                    throw OTLPDecodingError(
                        code: .tooLarge, offset: offset + start, cause: "a message of more than 64 MiB")
                }
                guard bytes.count - start - 4 >= length else { return }
                if length > 0 { try give((start + 4)..<(start + 4 + length), isJSON: false, body) }
                start += 4 + length
            }
        case .single, nil: break
        }
    }

    /// A line break inside a JSON string is always escaped, so an object ends with the line in which its braces close.
    private mutating func deliverLines(_ body: (Bool, UnsafeRawBufferPointer) throws -> Void) throws {
        scanned = Swift.max(scanned, start)
        while let end = nextLineEnd() {
            if !bytes[start..<end].allSatisfy(Self.isBlank) { try give(start..<end, isJSON: true, body) }
            start = end + 1
        }
    }

    private mutating func nextLineEnd() -> Int? {
        bytes.withUnsafeBufferPointer { bytes in
            while scanned < bytes.count {
                let byte = bytes[scanned]
                scanned += 1
                if isInString {
                    if isEscaped {
                        isEscaped = false
                    } else if byte == UInt8(ascii: "\\") {
                        isEscaped = true
                    } else if byte == UInt8(ascii: "\"") {
                        isInString = false
                    }
                    continue
                }
                switch byte {
                case UInt8(ascii: "\""): isInString = true
                case UInt8(ascii: "{"), UInt8(ascii: "["): depth += 1
                case UInt8(ascii: "}"), UInt8(ascii: "]"): depth -= 1
                case UInt8(ascii: "\n") where depth <= 0:
                    depth = 0
                    return scanned - 1
                default: break
                }
            }
            return nil
        }
    }
}
