import OTLP

/// A document as it grows.
struct PageBytes {
    var bytes: [UInt8] = []

    init() { bytes.reserveCapacity(1 << 18) }

    mutating func add(_ markup: String) { bytes.append(contentsOf: markup.utf8) }

    mutating func add(_ markup: StaticString) {
        bytes.append(contentsOf: UnsafeBufferPointer(start: markup.utf8Start, count: markup.utf8CodeUnitCount))
    }

    mutating func add(_ figure: Figures.Short) { figure.append(to: &bytes) }

    /// For text and for attribute values in double quotes.
    mutating func text(_ text: String) {
        for byte in text.utf8 {
            switch byte {
            case UInt8(ascii: "&"): add("&amp;")
            case UInt8(ascii: "<"): add("&lt;")
            case UInt8(ascii: ">"): add("&gt;")
            case UInt8(ascii: "\""): add("&quot;")
            case UInt8(ascii: "'"): add("&#39;")
            default: bytes.append(byte)
            }
        }
    }

    /// So that no name in it ends the script's element.
    mutating func json(_ json: [UInt8]) {
        for byte in json { if byte == UInt8(ascii: "<") { add("\\u003c") } else { bytes.append(byte) } }
    }
}

/// The script and the style of the page, as they are in the sources, without indentation and comments of whole lines.
enum Page {
    static let script = stripped(PackageResources.page_js)
    static let style = [": ", "; ", ", ", " {"].reduce(stripped(PackageResources.page_css)) { style, sign in
        style.replacing(sign, with: sign.filter { $0 != " " })
    }
    static let scriptHash = Base64.encode(SHA256.hash(Array(script.utf8)))
    static let styleHash = Base64.encode(SHA256.hash(Array(style.utf8)))

    private static func stripped(_ source: [UInt8]) -> String {
        String(decoding: source, as: UTF8.self).split(separator: "\n").map { $0.drop { $0 == " " } }
            .filter { !$0.isEmpty && !$0.hasPrefix("//") }.joined(separator: "\n")
    }
}
