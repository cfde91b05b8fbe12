/// The rules for the names that travel with an event. CR, LF and NUL would forge lines of an event stream.
public enum EventLabels {
    public static let maxTopicBytes = 128
    public static let maxTypeBytes = 128
    public static let maxKeyBytes = 256
    public static let maxIdempotencyKeyBytes = 256
    public static let maxGroupBytes = 64
    public static let maxDeviceBytes = 128

    /// A topic is 1 to 128 of `[A-Za-z0-9._-]`: tokens with single dots between.
    public static func validateTopic(_ topic: String) throws(GatewayError) {
        guard isTopic(topic) else {
            throw GatewayError(
                code: .invalidTopic,
                cause: "topic \(quoted(topic)) is not 1 to \(maxTopicBytes) characters of A-Z a-z 0-9 . _ - "
                    + "without a dot at an end or two in a row")
        }
    }

    /// What a device may listen to: a topic, or a pattern of topics (`TopicPattern`), of the same characters.
    public static func validatePattern(_ pattern: String) throws(GatewayError) {
        guard pattern.utf8.allSatisfy({ isTopicByte($0) || $0 == UInt8(ascii: "*") || $0 == UInt8(ascii: ">") }) else {
            throw GatewayError(
                code: .invalidTopic,
                cause: "topic \(quoted(pattern)) has other characters than A-Z a-z 0-9 . _ - and, in a pattern, * and >"
            )
        }
    }

    private static func isTopic(_ text: String) -> Bool {
        guard (1...maxTopicBytes).contains(text.utf8.count) else { return false }
        let dot = UInt8(ascii: ".")
        // As if a dot were before the first byte: none may be there, and none follow one.
        var last = dot
        for byte in text.utf8 {
            guard isTopicByte(byte), byte != dot || last != dot else { return false }
            last = byte
        }
        return last != dot
    }

    /// A label of printable text: 1 to `limit` bytes without control characters.
    public static func validate(_ value: String, named name: String, limit: Int) throws(GatewayError) {
        let bytes = value.utf8
        guard !bytes.isEmpty, bytes.count <= limit, bytes.allSatisfy({ $0 >= 0x20 && $0 != 0x7F }) else {
            throw GatewayError(
                code: .invalidHeader,
                cause: "\(name) \(quoted(value)) is not 1 to \(limit) bytes without control characters")
        }
    }

    private static func isTopicByte(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "-"):
            true
        default: false
        }
    }

    /// The value as an error may show it: at most 64 characters, control characters escaped.
    static func quoted(_ value: String) -> String {
        let shown = value.unicodeScalars.prefix(64).map { $0.escaped(asASCII: false) }.joined()
        return value.unicodeScalars.count > 64 ? "\"\(shown)…\"" : "\"\(shown)\""
    }
}
