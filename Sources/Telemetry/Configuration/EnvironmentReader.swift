/// Reads variables by OpenTelemetry's rules: empty equals unset, only `true` is true, a bad value is a warning.
struct EnvironmentReader {
    let environment: [String: String]
    private(set) var warnings: [String] = []

    init(environment: [String: String]) { self.environment = environment }

    /// Once: a general variable is read for each signal.
    mutating func warn(_ text: String) { if !warnings.contains(text) { warnings.append(text) } }

    func text(_ name: String) -> String? {
        guard let value = environment[name] else { return nil }
        let trimmed = Self.trimmed(value[...])
        return trimmed.isEmpty ? nil : String(trimmed)
    }

    /// The signal's own variable, else the one for all signals.
    func specific(_ suffix: String, _ signal: Signal) -> (name: String, value: String)? {
        for name in ["OTEL_EXPORTER_OTLP_\(signal.variableName)_\(suffix)", "OTEL_EXPORTER_OTLP_\(suffix)"] {
            if let value = text(name) { return (name, value) }
        }
        return nil
    }

    mutating func flag(_ name: String) -> Bool {
        guard let value = text(name)?.lowercased() else { return false }
        if value != "true", value != "false" { warn("\(name)=\(value) is neither true nor false; false is used") }
        return value == "true"
    }

    mutating func number(_ name: String, in range: ClosedRange<Int>) -> Int? {
        guard let value = text(name) else { return nil }
        guard let number = Int(value), range.contains(number) else {
            warn("\(name)=\(value) is not a number from \(range.lowerBound) to \(range.upperBound); it is ignored")
            return nil
        }
        return number
    }

    mutating func milliseconds(_ name: String, _ value: String) -> Duration? {
        guard let number = Int64(value), number > 0 else {
            warn("\(name)=\(value) is not a number of milliseconds above 0; it is ignored")
            return nil
        }
        return .milliseconds(number)
    }

    /// `key=value,key=value`, percent-encoded as in W3C Baggage. A member that is not valid is left out.
    mutating func list(_ name: String) -> [(String, String)] {
        guard let text = text(name) else { return [] }
        var members: [(String, String)] = []
        for member in text.split(separator: ",") {
            let member = Self.trimmed(member)
            if member.isEmpty { continue }
            guard let equals = member.firstIndex(of: "="), Self.isToken(Self.trimmed(member[..<equals])),
                let value = Self.percentDecoded(Self.trimmed(member[member.index(after: equals)...])),
                // A line end would forge a header.
                !value.utf8.contains(where: { $0 < 0x20 || $0 == 0x7F })
            else {
                warn("\(name): a member is not key=value and is ignored")
                continue
            }
            members.append((String(Self.trimmed(member[..<equals])), value))
        }
        return members
    }

    /// RFC 9110, section 5.6.2: what a header's name may be, and a key in W3C Baggage.
    private static func isToken(_ text: Substring) -> Bool {
        !text.isEmpty
            && text.utf8.allSatisfy { byte in
                switch byte {
                case 0x30...0x39, 0x41...0x5A, 0x61...0x7A: true
                default: "!#$%&'*+-.^_`|~".utf8.contains(byte)
                }
            }
    }

    private static func trimmed(_ text: Substring) -> Substring {
        var text = text
        while let first = text.utf8.first, first == 0x20 || first == 0x09 { text.removeFirst() }
        while let last = text.utf8.last, last == 0x20 || last == 0x09 { text.removeLast() }
        return text
    }

    private static func percentDecoded(_ text: Substring) -> String? {
        var bytes: [UInt8] = []
        var rest = text.utf8[...]
        while let byte = rest.popFirst() {
            guard byte == UInt8(ascii: "%") else {
                bytes.append(byte)
                continue
            }
            let digits = rest.prefix(2)
            guard digits.count == 2, digits.first != UInt8(ascii: "+"), digits.first != UInt8(ascii: "-"),
                let value = UInt8(String(decoding: digits, as: UTF8.self), radix: 16)
            else { return nil }
            bytes.append(value)
            rest = rest.dropFirst(2)
        }
        return String(validating: bytes, as: UTF8.self)
    }
}
