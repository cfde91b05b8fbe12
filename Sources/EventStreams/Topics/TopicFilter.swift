/// Which events of a log a reader wants: by topic, and by type if it says so.
public struct TopicFilter: Sendable, Hashable {
    /// The type of an event that has none, as the WHATWG's EventSource calls it.
    public static let defaultType = "message"
    public static let maximumPatterns = 64
    public static let maximumTypes = 64
    /// Every event.
    public static let all = TopicFilter()

    public let patterns: [TopicPattern]
    /// Empty for every type. ``defaultType`` stands for events without a type too.
    public let types: Set<String>

    private init() {
        patterns = []
        types = []
    }

    /// Takes an event whose topic any of the patterns takes, and whose type is one of `types` unless there are none.
    ///
    /// Throws ``StreamError/Code/invalid`` for no pattern, too many patterns or types, and a pattern that is none.
    public init(_ patterns: [String], types: Set<String> = []) throws(StreamError) {
        guard !patterns.isEmpty else {
            throw StreamError(code: .invalid, cause: "no topic was named; > takes every topic")
        }
        guard patterns.count <= Self.maximumPatterns else {
            throw StreamError(
                code: .invalid,
                cause: "\(patterns.count) topic patterns were named, the limit is \(Self.maximumPatterns); "
                    + "join some with * or >")
        }
        guard types.count <= Self.maximumTypes else {
            throw StreamError(
                code: .invalid, cause: "\(types.count) event types were named, the limit is \(Self.maximumTypes)")
        }
        var compiled: [TopicPattern] = []
        for text in patterns {
            let pattern = try TopicPattern(text)
            if !compiled.contains(pattern) { compiled.append(pattern) }
        }
        self.patterns = compiled
        self.types = types
    }

    /// Whether it takes every event.
    public var isAll: Bool { types.isEmpty && takesEveryTopic }

    /// The topics, when it names no others by a pattern: for a look-up in a dictionary instead of a match each.
    public var literalTopics: [String]? {
        !patterns.isEmpty && patterns.allSatisfy(\.isLiteral) ? patterns.map(\.text) : nil
    }

    private var takesEveryTopic: Bool { patterns.isEmpty || patterns.contains { $0.text == ">" } }

    public func matches(topic: String) -> Bool {
        patterns.isEmpty || patterns.contains { $0.matches(topic) }
    }

    /// A topic in UTF-8.
    func matches(topic: UnsafeRawBufferPointer) -> Bool {
        patterns.isEmpty || patterns.contains { $0.matches(topic) }
    }

    /// An absent and an empty type are ``defaultType``, as in an event stream.
    public func matches(type: String?) -> Bool {
        guard !types.isEmpty else { return true }
        guard let type, !type.isEmpty else { return types.contains(Self.defaultType) }
        return types.contains(type)
    }

    public func matches(_ event: StoredEvent) -> Bool {
        matches(type: event.type) && matches(topic: event.topic)
    }
}
