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
        guard let agent = userAgent, !agent.isEmpty else { return unknown }
        let text = Substring(agent).prefix(512)
        if let version = major(after: "iPhone OS ", in: text) { return "iOS-\(version)" }
        if text.contains("iPad"), let version = major(after: "CPU OS ", in: text) { return "iOS-\(version)" }
        if let version = major(after: "Android ", in: text) { return "Android-\(version)" }
        if let version = major(after: "Windows NT ", in: text) { return "Windows-\(version)" }
        if let version = major(after: "Mac OS X ", in: text) { return "macOS-\(version)" }
        if let version = major(after: "Darwin/", in: text) { return "Darwin-\(version)" }
        if text.contains("CrOS ") { return "ChromeOS" }
        if text.contains("Linux") { return "Linux" }
        return product(text) ?? unknown
    }

    private static func major(after marker: String, in text: Substring) -> Substring? {
        guard let range = text.firstRange(of: marker) else { return nil }
        let digits = text[range.upperBound...].prefix(4).prefix { $0.isASCII && $0.isNumber }
        return digits.isEmpty ? nil : digits
    }

    /// `curl/7.88.1` gives `curl-7`.
    private static func product(_ text: Substring) -> String? {
        let token = text.prefix { $0 != " " }
        let parts = token.split(separator: "/", maxSplits: 1)
        guard let name = parts.first?.prefix(32), !name.isEmpty,
            name.allSatisfy({ $0.isASCII && ($0.isLetter || $0.isNumber || "._-".contains($0)) })
        else { return nil }
        let version = parts.count == 2 ? parts[1].prefix { $0.isASCII && $0.isNumber } : ""
        return version.isEmpty ? String(name) : "\(name)-\(version)"
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
