/// OpenTelemetry's own entry in the tracestate, `ot`: sub-keys and values, separated by semicolons.
///
///     ot=th:c8;rv:0123456789abcd;other:1
///
/// `th` is the rejection threshold: of 2⁵⁶ traces so many were not sampled; 1 to 14 hexadecimal digits, trailing zeros
/// left out. `rv` is the randomness, 14 digits, where the trace id's is not used.
/// https://opentelemetry.io/docs/specs/otel/trace/tracestate-handling/
struct ProbabilityState: Equatable {
    static let key = "ot"
    static let maxBytes = 256
    /// A threshold is below it, and so is a randomness.
    static let scale: UInt64 = 1 << 56

    private(set) var threshold: UInt64?
    private(set) var randomness: UInt64?
    /// Sub-keys of others, as they came.
    private(set) var rest: [String] = []

    /// A sub-key that is not valid counts as absent, and so does an entry that is too long.
    init(_ state: TraceState?) {
        guard let text = state?[Self.key], text.utf8.count <= Self.maxBytes else { return }
        for member in text.split(separator: ";") {
            if member.hasPrefix("th:") {
                threshold = Self.digits(member.dropFirst(3), 1...14)
            } else if member.hasPrefix("rv:") {
                randomness = Self.digits(member.dropFirst(3), 14...14)
            } else {
                rest.append(String(member))
            }
        }
    }

    func withThreshold(_ threshold: UInt64?) -> ProbabilityState {
        var state = self
        state.threshold = threshold
        return state
    }

    /// The state with this entry in front; as it is, where the entry says the same already.
    func replacing(in state: TraceState?) -> TraceState? {
        let text = description
        guard text != state?[Self.key] ?? "" else { return state }
        guard let state else { return TraceState(key: Self.key, value: text) }
        return text.isEmpty ? state.removing(Self.key) : state.setting(Self.key, to: text)
    }

    /// The entry's value; empty when there is nothing to say. What would make it too long is left out, from the end.
    private var description: String {
        var members: [String] = []
        if let threshold { members.append("th:" + Self.thresholdText(threshold)) }
        if let randomness { members.append("rv:" + Self.hexadecimal(randomness)) }
        members += rest
        while members.reduce(-1, { $0 + $1.utf8.count + 1 }) > Self.maxBytes { members.removeLast() }
        return members.joined(separator: ";")
    }

    static func thresholdText(_ threshold: UInt64) -> String {
        if threshold == 0 { return "0" }
        let text = hexadecimal(threshold)
        return String(text[...(text.lastIndex { $0 != "0" } ?? text.startIndex)])
    }

    /// 14 digits.
    private static func hexadecimal(_ value: UInt64) -> String {
        let digits = String(value, radix: 16)
        return String(repeating: "0", count: max(0, 14 - digits.utf8.count)) + digits
    }

    /// Missing digits are trailing zeros.
    private static func digits(_ text: Substring, _ count: ClosedRange<Int>) -> UInt64? {
        let length = text.utf8.count
        guard count.contains(length), let value = Hex.value(text.utf8) else { return nil }
        return value << UInt64(4 * (14 - length))
    }
}
