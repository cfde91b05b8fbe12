/// What B3 says beyond the sampled flag.
public enum B3Sampling: String, Hashable, Sendable {
    /// `d`: sampled, and so that nobody on the way decides otherwise.
    case debug = "d"
    /// `0` without a trace: the caller wants no sample of what begins here.
    case denied = "0"
    /// `1` without a trace: the caller wants a sample of what begins here.
    case accepted = "1"
}

/// B3, Zipkin's format, in one header or in several.
///
///     b3: TRACE-ID "-" SPAN-ID [ "-" SAMPLING [ "-" PARENT-SPAN-ID ] ]       or only SAMPLING
///     x-b3-traceid, x-b3-spanid, x-b3-sampled, x-b3-flags
///
/// Reads both forms, the single header first, and writes one. A trace id may have 16 digits, and then gets zeros in
/// front; 32 are written. SAMPLING is `0`, `1` or `d`; a trace without it counts as not sampled. The parent's id is not
/// passed on. https://github.com/openzipkin/b3-propagation
public struct B3Propagator: Propagator {
    public enum Encoding: String, Sendable {
        case single = "b3"
        case multi = "b3multi"
    }

    public let encoding: Encoding

    public init(_ encoding: Encoding = .single) { self.encoding = encoding }

    public var name: String { encoding.rawValue }

    public var fields: [String] {
        encoding == .single ? ["b3"] : ["x-b3-traceid", "x-b3-spanid", "x-b3-sampled", "x-b3-flags"]
    }

    public func extract(into context: inout PropagationContext, _ values: (_ field: String) -> [String]) {
        guard let found = Self.single(Self.only(values("b3"))) ?? Self.multi(values) else { return }
        context.b3 = found.b3
        guard let span = found.spanContext else { return }
        // Another format that names the same span has told more: the tracestate, the random flag.
        if let known = context.spanContext, known.traceID == span.traceID, known.spanID == span.spanID { return }
        context.spanContext = span
    }

    public func inject(_ context: PropagationContext, _ set: (_ field: String, _ value: String) -> Void) {
        let span = context.spanContext.flatMap { $0.isValid ? $0 : nil }
        let state: String?
        if context.b3 == .debug {
            state = "d"
        } else {
            state = span.map { $0.isSampled ? "1" : "0" } ?? context.b3?.rawValue
        }
        guard let state else { return }
        switch encoding {
        case .single:
            set("b3", span.map { "\($0.traceID)-\($0.spanID)-\(state)" } ?? state)
        case .multi:
            if let span {
                set("x-b3-traceid", span.traceID.description)
                set("x-b3-spanid", span.spanID.description)
            }
            // Debug implies the decision.
            if state == "d" { set("x-b3-flags", "1") } else { set("x-b3-sampled", state) }
        }
    }

    private static func only(_ values: [String]) -> String? {
        values.count == 1 ? values.first.map { String(Substring($0.utf8[...].trimmed)) } : nil
    }

    private static func single(_ header: String?) -> PropagationContext? {
        guard let header else { return nil }
        if let sampling = B3Sampling(rawValue: header) { return PropagationContext(b3: sampling) }
        let parts = header.utf8.split(separator: UInt8(ascii: "-"), maxSplits: 4, omittingEmptySubsequences: false)
            .map(Substring.init)
        guard (2...4).contains(parts.count), parts.count < 4 || SpanID(hex: parts[3]) != nil else { return nil }
        let sampling = parts.count > 2 ? B3Sampling(rawValue: String(parts[2])) : nil
        guard parts.count == 2 || sampling != nil else { return nil }
        return context(trace: parts[0], span: parts[1], sampling)
    }

    private static func multi(_ values: (_ field: String) -> [String]) -> PropagationContext? {
        let sampling: B3Sampling?
        if only(values("x-b3-flags")) == "1" {
            sampling = .debug
        } else {
            switch only(values("x-b3-sampled")) {
            // Old clients write words.
            case "1", "true": sampling = .accepted
            case "0", "false": sampling = .denied
            default: sampling = nil
            }
        }
        if let trace = only(values("x-b3-traceid")), let span = only(values("x-b3-spanid")),
            let context = context(trace: trace[...], span: span[...], sampling)
        {
            return context
        }
        return sampling.map { PropagationContext(b3: $0) }
    }

    private static func context(trace: Substring, span: Substring, _ sampling: B3Sampling?) -> PropagationContext? {
        let digits = trace.utf8.count == 16 ? "0000000000000000" + trace : String(trace)
        guard let trace = TraceID(hex: digits), let span = SpanID(hex: span), trace.isValid, span.isValid else {
            return nil
        }
        let isSampled = sampling == .accepted || sampling == .debug
        return PropagationContext(
            spanContext: SpanContext(
                traceID: trace, spanID: span, traceFlags: isSampled ? .sampled : [], isRemote: true),
            b3: sampling == .debug ? .debug : nil)
    }
}
