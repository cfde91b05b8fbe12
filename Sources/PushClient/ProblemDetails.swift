import FoundationEssentials

/// What a refusal says about its reason: `application/problem+json` (RFC 9457), or a short text.
enum ProblemDetails {
    private struct Members: Decodable {
        var title: String?
        var detail: String?
    }

    /// The most characters of a server's text that a message repeats.
    private static let maxCharacters = 500

    /// `title: detail` for a problem, the text itself for `text/plain`, nil when there is nothing to show.
    static func text(contentType: String?, body: [UInt8]) -> String? {
        switch contentType.map(mediaType) {
        case "application/problem+json", "application/json":
            guard let members = try? JSONDecoder().decode(Members.self, from: Data(body)) else { return nil }
            let parts = [members.title, members.detail].compactMap { $0 }.map(printable).filter { !$0.isEmpty }
            return parts.isEmpty ? nil : parts.joined(separator: ": ")
        case "text/plain":
            let text = printable(String(decoding: body, as: UTF8.self))
            return text.isEmpty ? nil : text
        default:
            return nil
        }
    }

    /// The type without parameters, in lower case.
    static func mediaType(_ contentType: String) -> String {
        let type = contentType.split(separator: ";", maxSplits: 1, omittingEmptySubsequences: false).first ?? ""
        return type.filter { !$0.isWhitespace }.lowercased()
    }

    /// Fit for a terminal: control characters become spaces, and a long text is cut.
    static func printable(_ text: String) -> String {
        var scalars = String.UnicodeScalarView()
        for scalar in text.unicodeScalars.prefix(maxCharacters) {
            scalars.append(scalar.properties.generalCategory == .control ? " " : scalar)
        }
        while scalars.last == " " { scalars.removeLast() }
        return String(scalars)
    }
}
