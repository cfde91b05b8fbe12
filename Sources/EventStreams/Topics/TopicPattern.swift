/// Which topics are meant: one, or all of a form. Compiled once, then matched without allocation.
///
/// A topic is tokens with dots between, as NATS has its subjects. A pattern is one too, in which a token may be
///
///     *    any one token
///     >    one token or more; only as the last
///
/// `orders.*` takes `orders.eu` and neither `orders` nor `orders.eu.berlin`; `orders.>` takes the last too; `>` takes
/// everything. Without `*` and `>` a pattern is a topic, and takes that alone.
public struct TopicPattern: Sendable, Hashable, CustomStringConvertible {
    /// In UTF-8. A topic that the gateway takes is not longer either.
    public static let maximumBytes = 128

    public let text: String
    /// Whether it takes one topic alone, `text`.
    public let isLiteral: Bool
    private let bytes: [UInt8]

    /// Throws ``StreamError/Code/invalid``, naming the pattern: it must be 1 to 128 bytes, without an empty token,
    /// white space or control characters, `*` and `>` stand alone between dots, and `>` is last.
    public init(_ text: String) throws(StreamError) {
        func refuse(_ reason: String) -> StreamError {
            let shown = text.unicodeScalars.prefix(64).map { $0.escaped(asASCII: false) }.joined()
            return StreamError(code: .invalid, cause: "the topic pattern \"\(shown)\" \(reason)")
        }
        let bytes = Array(text.utf8)
        guard !bytes.isEmpty else { throw refuse("is empty; > takes every topic") }
        guard bytes.count <= Self.maximumBytes else {
            throw refuse("has \(bytes.count) bytes, the limit is \(Self.maximumBytes)")
        }
        guard !bytes.contains(where: { $0 <= Self.space || $0 == 0x7f }) else {
            throw refuse("has white space or a control character")
        }
        let tokens = bytes.split(separator: Self.dot, omittingEmptySubsequences: false)
        var isLiteral = true
        for (index, token) in tokens.enumerated() {
            guard let first = token.first else {
                throw refuse("has an empty token: a dot at an end, or two in a row")
            }
            guard token.contains(where: { $0 == Self.star || $0 == Self.rest }) else { continue }
            guard token.count == 1 else { throw refuse("has * or > inside a token; they stand alone between dots") }
            guard first == Self.star || index == tokens.count - 1 else {
                throw refuse("goes on after >, which is last")
            }
            isLiteral = false
        }
        self.text = text
        self.isLiteral = isLiteral
        self.bytes = bytes
    }

    private static let dot = UInt8(ascii: ".")
    private static let star = UInt8(ascii: "*")
    private static let rest = UInt8(ascii: ">")
    private static let space = UInt8(ascii: " ")

    public var description: String { text }

    public func matches(_ topic: String) -> Bool {
        if let result = topic.utf8.withContiguousStorageIfAvailable({ matches(UnsafeRawBufferPointer($0)) }) {
            return result
        }
        return Array(topic.utf8).withUnsafeBytes { matches($0) }
    }

    /// A topic in UTF-8.
    func matches(_ topic: UnsafeRawBufferPointer) -> Bool {
        var place = 0
        for byte in bytes {
            guard place < topic.count else { return false }
            switch byte {
            case Self.rest where !isLiteral: return true
            case Self.star where !isLiteral:
                let start = place
                while place < topic.count, topic[place] != Self.dot { place += 1 }
                guard place > start else { return false }
            default:
                guard topic[place] == byte else { return false }
                place += 1
            }
        }
        return place == topic.count
    }
}
