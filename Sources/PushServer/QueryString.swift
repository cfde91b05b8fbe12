/// A query string. `+` stands for itself, as in RFC 3986: device groups such as `iOS-15+` are typed as they are.
struct QueryString {
    let items: [(name: String, value: String)]

    /// Nil for a percent escape that is broken or does not decode to UTF-8.
    init?(_ text: some StringProtocol) {
        guard !text.isEmpty else {
            items = []
            return
        }
        var items: [(String, String)] = []
        for pair in text.utf8.split(separator: UInt8(ascii: "&")) {
            let equals = pair.firstIndex(of: UInt8(ascii: "="))
            guard let name = Self.decode(pair[..<(equals ?? pair.endIndex)]),
                let value = Self.decode(equals.map { pair[pair.index(after: $0)...] } ?? pair[pair.endIndex...])
            else { return nil }
            items.append((name, value))
        }
        self.items = items
    }

    /// The text itself where it has no escape.
    static func decode(_ text: String) -> String? {
        text.utf8.contains(UInt8(ascii: "%")) ? decode(text.utf8) : text
    }

    func first(_ name: String) -> String? { items.first { $0.name == name }?.value }
    func all(_ name: String) -> [String] { items.lazy.filter { $0.name == name }.map(\.value) }

    static func decode(_ bytes: some Collection<UInt8>) -> String? {
        guard bytes.contains(UInt8(ascii: "%")) else { return String(validating: bytes, as: UTF8.self) }
        var result: [UInt8] = []
        result.reserveCapacity(bytes.count)
        var iterator = bytes.makeIterator()
        while let byte = iterator.next() {
            guard byte == UInt8(ascii: "%") else {
                result.append(byte)
                continue
            }
            guard let high = iterator.next().flatMap(hexValue), let low = iterator.next().flatMap(hexValue) else {
                return nil
            }
            result.append(high << 4 | low)
        }
        return String(validating: result, as: UTF8.self)
    }

    private static func hexValue(_ byte: UInt8) -> UInt8? {
        switch byte {
        case 0x30...0x39: byte - 0x30
        case 0x41...0x46: byte - 0x37
        case 0x61...0x66: byte - 0x57
        default: nil
        }
    }
}
