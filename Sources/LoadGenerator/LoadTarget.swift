/// A server of event streams: where to listen, where to publish, and how.
///
/// In the URLs and the headers `{channel}` becomes a channel's name and `{connection}` a stream's number; in the body of a
/// publish request `{channel}` and `{payload}`, which consists of unreserved characters.
public struct LoadTarget: Sendable {
    /// `isotherm`, `nchan`, `mercure`, or `custom`.
    public var name: String
    public var subscribeURL: String
    public var publishURL: String
    public var subscribeHeaders: [(String, String)] = []
    public var publishHeaders: [(String, String)] = []
    public var publishBody = "{payload}"
    public var contentType = "text/plain"
    /// What the names of channels begin with.
    public var channelPrefix = "bench"

    public init(name: String = "custom", subscribeURL: String, publishURL: String) {
        self.name = name
        self.subscribeURL = subscribeURL
        self.publishURL = publishURL
    }

    /// `isotherm serve`: a channel is a topic.
    public static func isotherm(_ server: String) -> LoadTarget {
        LoadTarget(
            name: "isotherm", subscribeURL: "\(server)/v1/events/{channel}?group=bench",
            publishURL: "\(server)/v1/events/{channel}")
    }

    /// nginx with nchan, and `/sub` and `/pub` by `nchan_channel_id $arg_id`, as in nchan's own introduction.
    public static func nchan(_ server: String) -> LoadTarget {
        LoadTarget(name: "nchan", subscribeURL: "\(server)/sub?id={channel}", publishURL: "\(server)/pub?id={channel}")
    }

    /// A Mercure hub; publishing needs a token with the claim `mercure.publish`.
    /// https://mercure.rocks/spec
    public static func mercure(_ server: String) -> LoadTarget {
        var target = LoadTarget(
            name: "mercure", subscribeURL: "\(server)/.well-known/mercure?topic={channel}",
            publishURL: "\(server)/.well-known/mercure")
        target.publishBody = "topic={channel}&data={payload}"
        target.contentType = "application/x-www-form-urlencoded"
        return target
    }

    var subscribesSecurely: Bool { get throws(LoadError) { try HTTPURL(Self.filled(subscribeURL, [])).isSecure } }
    var publishesSecurely: Bool { get throws(LoadError) { try HTTPURL(Self.filled(publishURL, [])).isSecure } }

    func channelName(_ channel: Int) -> String { channel == 0 ? channelPrefix : "\(channelPrefix)-\(channel)" }

    static func filled(_ text: String, _ values: [(String, String)]) -> String {
        var text = text
        for (name, value) in values {
            while let range = text.firstRange(of: "{\(name)}") { text.replaceSubrange(range, with: value) }
        }
        return text
    }

    /// The head of a stream's request, without the empty line: `Last-Event-ID` may follow.
    func subscribeHead(channel: Int, connection: Int) throws(LoadError) -> [UInt8] {
        let values = [("channel", channelName(channel)), ("connection", "\(connection)")]
        return try Self.head(
            "GET", HTTPURL(Self.filled(subscribeURL, values)), [("Accept", "text/event-stream")] + subscribeHeaders,
            values)
    }

    /// The same on HTTP/2, with all that a connection begins with.
    func subscribeFrames(channel: Int, connection: Int, lastEventID: [UInt8]?) throws(LoadError) -> [UInt8] {
        let values = [("channel", channelName(channel)), ("connection", "\(connection)")]
        let url = try HTTPURL(Self.filled(subscribeURL, values))
        var fields = [
            (":method", "GET"), (":scheme", url.isSecure ? "https" : "http"), (":path", url.target),
            (":authority", url.authority), ("accept", "text/event-stream"),
        ]
        fields += try Self.filled(subscribeHeaders, values)
        if let lastEventID { fields.append(("last-event-id", String(decoding: lastEventID, as: UTF8.self))) }
        return HTTP2Client.opening(fields)
    }

    /// A publish request, and where in it the payload stands.
    func publishRequest(channel: Int, size: Int) throws(LoadError) -> (bytes: [UInt8], payloadAt: Int) {
        let values = [("channel", channelName(channel))]
        guard let range = publishBody.firstRange(of: "{payload}") else {
            throw LoadError(
                code: .invalidPlan,
                cause: "the body \(publishBody.debugDescription) has no {payload}; without it no event "
                    + "can be recognized")
        }
        let before = Array(Self.filled(String(publishBody[..<range.lowerBound]), values).utf8)
        let after = Array(Self.filled(String(publishBody[range.upperBound...]), values).utf8)
        let fields = [
            ("Content-Type", contentType), ("Content-Length", "\(before.count + size + after.count)"),
        ]
        var bytes = try Self.head("POST", HTTPURL(Self.filled(publishURL, values)), fields + publishHeaders, values)
        bytes += [13, 10] + before
        let at = bytes.count
        bytes += [UInt8](repeating: UInt8(ascii: "x"), count: size) + after
        return (bytes, at)
    }

    private static func head(
        _ method: String, _ url: HTTPURL, _ headers: [(String, String)], _ values: [(String, String)]
    ) throws(LoadError) -> [UInt8] {
        var head = "\(method) \(url.target) HTTP/1.1\r\nHost: \(url.authority)\r\n"
        for (name, value) in try filled(headers, values) { head += "\(name): \(value)\r\n" }
        return Array(head.utf8)
    }

    private static func filled(
        _ headers: [(String, String)], _ values: [(String, String)]
    ) throws(LoadError) -> [(String, String)] {
        var fields: [(String, String)] = []
        for (name, value) in headers {
            let value = filled(value, values)
            guard !name.isEmpty, !(name + value).utf8.contains(where: { $0 < 0x20 || $0 == 0x7F }) else {
                throw LoadError(
                    code: .invalidPlan, cause: "the header \(name.debugDescription) is empty or has a control character"
                )
            }
            fields.append((name, value))
        }
        return fields
    }
}

/// `http://host[:port]/target`, or with `https`.
struct HTTPURL {
    let isSecure: Bool
    let host: String
    let port: UInt16
    let target: String

    /// For the field `Host`.
    var authority: String { (host.contains(":") ? "[\(host)]" : host) + (port == defaultPort ? "" : ":\(port)") }

    private var defaultPort: UInt16 { isSecure ? 443 : 80 }

    init(_ text: String) throws(LoadError) {
        func wrong(_ reason: String) -> LoadError {
            LoadError(code: .invalidPlan, cause: "the URL \(text.debugDescription) \(reason)")
        }
        isSecure = text.hasPrefix("https://")
        guard isSecure || text.hasPrefix("http://") else { throw wrong("begins with neither http:// nor https://") }
        guard text.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F }) else {
            throw wrong("has a space, a control character or a letter beyond ASCII; percent-encode it")
        }
        let rest = text.dropFirst(isSecure ? 8 : 7)
        let end = rest.firstIndex { "/?#".contains($0) } ?? rest.endIndex
        var authority = rest[..<end]
        guard !authority.contains("@") else { throw wrong("has a user; give it as a header") }
        let path = rest[end...].prefix { $0 != "#" }
        target = path.hasPrefix("/") ? String(path) : "/" + path
        if let colon = authority.lastIndex(of: ":"), !authority.hasSuffix("]") {
            guard let number = UInt16(authority[authority.index(after: colon)...]), number > 0 else {
                throw wrong("has a port that is not from 1 to 65535")
            }
            port = number
            authority = authority[..<colon]
        } else {
            port = isSecure ? 443 : 80
        }
        if authority.hasPrefix("["), authority.hasSuffix("]") { authority = authority.dropFirst().dropLast() }
        guard !authority.isEmpty else { throw wrong("has no host") }
        host = String(authority)
    }
}
