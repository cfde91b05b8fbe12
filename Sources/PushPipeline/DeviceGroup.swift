import Synchronization

/// The label that a device's latencies are counted under.
///
/// A device may name its group itself. Failing that, it is derived from `User-Agent`: platform and major version of
/// the system for phones and desktops (`iOS-15`, `Android-14`, `macOS-10`, `Windows-10`), else the client and its
/// major version (`curl-7`), else `unknown`.
public enum DeviceGroup {
    public static let unknown = "unknown"
    /// Groups beyond the limit share this one.
    public static let other = "__other__"

    public static func derive(userAgent: String?) -> String {
        guard var agent = userAgent, !agent.isEmpty else { return unknown }
        return agent.withUTF8 { derive(UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer($0).prefix(512))) }
    }

    private static func derive(_ text: UnsafeRawBufferPointer) -> String {
        if let version = major(after: "iPhone OS ", in: text) { return "iOS-\(version)" }
        if text.offset(of: "iPad") != nil, let version = major(after: "CPU OS ", in: text) { return "iOS-\(version)" }
        if let version = major(after: "Android ", in: text) { return "Android-\(version)" }
        if let version = major(after: "Windows NT ", in: text) { return "Windows-\(version)" }
        if let version = major(after: "Mac OS X ", in: text) { return "macOS-\(version)" }
        if let version = major(after: "Darwin/", in: text) { return "Darwin-\(version)" }
        if text.offset(of: "CrOS ") != nil { return "ChromeOS" }
        if text.offset(of: "Linux") != nil { return "Linux" }
        return product(text) ?? unknown
    }

    private static func major(after marker: StaticString, in text: UnsafeRawBufferPointer) -> String? {
        guard let start = text.offset(of: marker) else { return nil }
        return digits(text[(start + marker.utf8CodeUnitCount)...].prefix(4))
    }

    /// The digits at the beginning; nil without one.
    private static func digits(_ bytes: Slice<UnsafeRawBufferPointer>) -> String? {
        let digits = bytes.prefix { (0x30...0x39).contains($0) }
        return digits.isEmpty ? nil : String(decoding: digits, as: UTF8.self)
    }

    /// `curl/7.88.1` gives `curl-7`.
    private static func product(_ text: UnsafeRawBufferPointer) -> String? {
        let token = text.prefix { $0 != UInt8(ascii: " ") }
        let slash = token.firstIndex(of: UInt8(ascii: "/")) ?? token.endIndex
        let name = token[..<slash].prefix(32)
        guard !name.isEmpty, name.allSatisfy(isNameByte) else { return nil }
        let text = String(decoding: name, as: UTF8.self)
        guard slash < token.endIndex, let version = digits(token[(slash + 1)...]) else { return text }
        return "\(text)-\(version)"
    }

    private static func isNameByte(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "-"):
            true
        default: false
        }
    }
}

/// Gives each group a small number, up to a limit; the groups beyond it share number 0, `__other__`.
public final class GroupRegistry: Sendable {
    public let limit: Int
    private let state: Mutex<(numbers: [String: Int], names: [String])>

    public init(limit: Int) {
        self.limit = limit
        state = Mutex(([DeviceGroup.other: 0], [DeviceGroup.other]))
    }

    public func number(of name: String) -> Int {
        state.withLock { state in
            if let number = state.numbers[name] { return number }
            guard state.names.count <= limit else { return 0 }
            let number = state.names.count
            state.numbers[name] = number
            state.names.append(name)
            return number
        }
    }

    public func name(of number: Int) -> String { state.withLock { $0.names[number] } }
}
