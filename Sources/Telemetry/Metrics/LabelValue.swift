/// Label values: bounded in length and escaped. Swift strings are valid UTF-8 by construction.
enum LabelValue {
    /// The value of the shared series of a family that is full.
    static let other = "__other__"
    static let maximumBytes = 256

    /// Cut at a character boundary when it is longer than `maximumBytes`.
    static func bounded(_ value: String) -> String {
        guard value.utf8.count > maximumBytes else { return value }
        var bytes = 0
        var cut = String.UnicodeScalarView()
        for scalar in value.unicodeScalars {
            bytes += UTF8.width(scalar)
            if bytes > maximumBytes { break }
            cut.append(scalar)
        }
        return String(cut)
    }

    /// `tenant="acme",device_group="iOS-15+"`, with `\`, `"` and line feed escaped.
    static func encode(_ labels: [(name: String, value: String)]) -> [UInt8] {
        var bytes: [UInt8] = []
        for (name, value) in labels {
            if !bytes.isEmpty { bytes.append(UInt8(ascii: ",")) }
            bytes.append(contentsOf: name.utf8)
            bytes.append(UInt8(ascii: "="))
            bytes.append(UInt8(ascii: "\""))
            appendEscaped(value, quotes: true, to: &bytes)
            bytes.append(UInt8(ascii: "\""))
        }
        return bytes
    }

    static func appendEscaped(_ text: String, quotes: Bool, to bytes: inout [UInt8]) {
        for byte in text.utf8 {
            switch byte {
            case UInt8(ascii: "\\"): bytes.append(contentsOf: "\\\\".utf8)
            case UInt8(ascii: "\n"): bytes.append(contentsOf: "\\n".utf8)
            case UInt8(ascii: "\"") where quotes: bytes.append(contentsOf: "\\\"".utf8)
            default: bytes.append(byte)
            }
        }
    }
}
