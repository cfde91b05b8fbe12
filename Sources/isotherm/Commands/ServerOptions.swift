import ArgumentParser
import Foundation

/// Where a running server is, and who asks.
struct ServerOptions: ParsableArguments {
    @Option(help: ArgumentHelp("A running server. Default $ISOTHERM_URL, or http://127.0.0.1:8080.", valueName: "url"))
    var server: String?

    @Option(help: ArgumentHelp("Bearer token. Default $ISOTHERM_TOKEN.", valueName: "token"))
    var token: String?

    /// Without a slash at its end.
    var url: String {
        var url = server ?? Self.variable("ISOTHERM_URL") ?? "http://127.0.0.1:8080"
        while url.hasSuffix("/") { url.removeLast() }
        return url
    }

    var headers: [(String, String)] {
        guard let token = token ?? Self.variable("ISOTHERM_TOKEN") else { return [] }
        return [("Authorization", "Bearer \(token)")]
    }

    static func variable(_ name: String) -> String? {
        ProcessInfo.processInfo.environment[name].flatMap { $0.isEmpty ? nil : $0 }
    }
}

/// The query of a URL.
enum Query {
    static func text(_ items: [(String, String)]) -> String {
        items.isEmpty ? "" : "?" + items.map { "\($0.0)=\(escaped($0.1))" }.joined(separator: "&")
    }

    /// Everything but RFC 3986's unreserved characters.
    static func escaped(_ text: String) -> String {
        var escaped = ""
        for byte in text.utf8 {
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "_"),
                UInt8(ascii: "~"):
                escaped.unicodeScalars.append(Unicode.Scalar(byte))
            default:
                let hex = String(byte, radix: 16, uppercase: true)
                escaped += byte < 16 ? "%0\(hex)" : "%\(hex)"
            }
        }
        return escaped
    }
}
