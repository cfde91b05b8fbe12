import OTLP

/// A question about a span that is about to start, for rules.
///
///     .all([.kind(.server), .name("GET /internal/*")])
public indirect enum SpanCondition: Hashable, Sendable, CustomStringConvertible {
    public enum Parent: String, Hashable, Sendable {
        case none, local, remote
    }

    /// Every span.
    case always
    case name(Glob)
    case kind(SpanKind)
    case parent(Parent)
    /// The attribute has exactly this value. Only what is given at the start of a span can be seen.
    case attribute(String, AnyValue)
    /// The attribute's text matches; a number or truth value as it is written, an array if one of its values does.
    case attributeMatches(String, Glob)
    case all([SpanCondition])
    case any([SpanCondition])
    case not(SpanCondition)

    public func matches(_ span: SamplingParameters) -> Bool {
        switch self {
        case .always: true
        case .name(let glob): glob.matches(span.name)
        case .kind(let kind): span.kind == kind
        case .parent(let kind): kind == (span.parent.map { $0.isRemote ? .remote : .local } ?? .none)
        case .attribute(let key, let value): span[key] == value
        case .attributeMatches(let key, let glob): span[key].map { Self.matches(glob, $0) } ?? false
        case .all(let conditions): conditions.allSatisfy { $0.matches(span) }
        case .any(let conditions): conditions.contains { $0.matches(span) }
        case .not(let condition): !condition.matches(span)
        }
    }

    private static func matches(_ glob: Glob, _ value: AnyValue) -> Bool {
        if case .array(let values) = value { return values.contains { $0.plainText.map(glob.matches) ?? false } }
        return value.plainText.map(glob.matches) ?? false
    }

    public var description: String {
        switch self {
        case .always: "always"
        case .name(let glob): "name=\(glob)"
        case .kind(let kind): "kind=\(kind)"
        case .parent(let kind): "parent=\(kind.rawValue)"
        case .attribute(let key, let value): "\(key)=\(value.plainText ?? "\(value)")"
        case .attributeMatches(let key, let glob): "\(key)~\(glob)"
        case .all(let conditions): "(" + conditions.map(\.description).joined(separator: " and ") + ")"
        case .any(let conditions): "(" + conditions.map(\.description).joined(separator: " or ") + ")"
        case .not(let condition): "not \(condition)"
        }
    }
}

extension AnyValue {
    /// A scalar as it is written; nil for what has no plain text.
    var plainText: String? {
        switch self {
        case .string(let text): text
        case .bool(let value): "\(value)"
        case .int(let value): "\(value)"
        case .double(let value): "\(value)"
        case .empty, .bytes, .array, .keyValueList: nil
        }
    }
}

/// A pattern for a whole text: `*` stands for any characters, `?` for one. All others stand for themselves.
public struct Glob: Hashable, Sendable, ExpressibleByStringLiteral, CustomStringConvertible {
    private let pattern: [Unicode.Scalar]

    public init(_ pattern: String) { self.pattern = Array(pattern.unicodeScalars) }
    public init(stringLiteral pattern: String) { self.init(pattern) }

    public var description: String {
        var text = String.UnicodeScalarView()
        text.append(contentsOf: pattern)
        return String(text)
    }

    /// Takes at most pattern × text steps, and memory for neither.
    public func matches(_ text: String) -> Bool {
        let text = text.unicodeScalars
        var place = 0
        var at = text.startIndex
        // Where to go on when the last `*` has to take one more.
        var star: (place: Int, at: String.Index)?
        while at < text.endIndex {
            if place < pattern.count, pattern[place] == "*" {
                star = (place, at)
                place += 1
            } else if place < pattern.count, pattern[place] == "?" || pattern[place] == text[at] {
                place += 1
                at = text.index(after: at)
            } else if let last = star {
                place = last.place + 1
                at = text.index(after: last.at)
                star = (last.place, at)
            } else {
                return false
            }
        }
        return pattern[place...].allSatisfy { $0 == "*" }
    }
}
