/// What travels between processes: the trace, and the baggage.
///
/// A service passes on what it got, with its own span in place of the caller's:
///
///     let incoming = propagators.extract { request.headers[values: $0] }
///     let span = tracer.startSpan("checkout", kind: .server, parent: incoming.spanContext)
///     propagators.inject(incoming.with(span.context)) { outgoing.headers[$0] = $1 }
public struct PropagationContext: Hashable, Sendable {
    /// Nil where no valid one came: a trace begins here.
    public var spanContext: SpanContext?
    public var baggage: Baggage
    /// What B3 says beyond the sampled flag.
    public var b3: B3Sampling?

    public init(spanContext: SpanContext? = nil, baggage: Baggage = Baggage(), b3: B3Sampling? = nil) {
        self.spanContext = spanContext
        self.baggage = baggage
        self.b3 = b3
    }

    /// The same with another span.
    public func with(_ spanContext: SpanContext?) -> PropagationContext {
        var context = self
        context.spanContext = spanContext
        return context
    }
}

/// A format of headers. Works on any carrier through two closures and never throws: what is not valid is left out.
public protocol Propagator: Sendable {
    /// As `OTEL_PROPAGATORS` has it.
    var name: String { get }
    /// The headers that it may set, in lower case.
    var fields: [String] { get }
    /// Puts what it finds into the context, and leaves the rest of it alone.
    ///
    /// - Parameter values: of all headers with that name, in order. Names are compared without regard to case.
    func extract(into context: inout PropagationContext, _ values: (_ field: String) -> [String])
    /// - Parameter set: gets each header once; it replaces one that is there.
    func inject(_ context: PropagationContext, _ set: (_ field: String, _ value: String) -> Void)
}

/// Several propagators, asked in order. Where two find a trace, the later one's counts.
public struct Propagators: Propagator, CustomStringConvertible {
    public let members: [any Propagator]

    public init(_ members: [any Propagator]) { self.members = members }

    /// W3C Trace Context and Baggage, OpenTelemetry's default.
    public static let standard = Propagators([TraceContextPropagator(), BaggagePropagator()])

    public var name: String { members.isEmpty ? "none" : members.map(\.name).joined(separator: ",") }
    public var description: String { name }

    public var fields: [String] {
        members.flatMap(\.fields).reduce(into: []) { if !$0.contains($1) { $0.append($1) } }
    }

    public func extract(_ values: (_ field: String) -> [String]) -> PropagationContext {
        var context = PropagationContext()
        extract(into: &context, values)
        return context
    }

    public func extract(into context: inout PropagationContext, _ values: (_ field: String) -> [String]) {
        for member in members { member.extract(into: &context, values) }
    }

    public func inject(_ context: PropagationContext, _ set: (_ field: String, _ value: String) -> Void) {
        for member in members { member.inject(context, set) }
    }
}

/// `traceparent` and `tracestate`: https://www.w3.org/TR/trace-context-2/
public struct TraceContextPropagator: Propagator {
    public let name = "tracecontext"
    public let fields = ["traceparent", "tracestate"]

    public init() {}

    public func extract(into context: inout PropagationContext, _ values: (_ field: String) -> [String]) {
        let parents = values("traceparent")
        // With two of them nobody knows which one is meant.
        guard parents.count == 1, let parent = parents.first else { return }
        let states = values("tracestate")
        let state = states.count > 1 ? states.joined(separator: ",") : states.first
        guard
            let found = TraceContext.parse(
                traceparent: String(Substring(parent.utf8[...].trimmed)), tracestate: state)
        else { return }
        context.spanContext = found
    }

    public func inject(_ context: PropagationContext, _ set: (_ field: String, _ value: String) -> Void) {
        guard let span = context.spanContext, span.isValid else { return }
        set("traceparent", span.traceparent)
        if let state = span.traceState { set("tracestate", state.description) }
    }
}

/// `baggage`: https://www.w3.org/TR/baggage/
public struct BaggagePropagator: Propagator {
    public let name = "baggage"
    public let fields = ["baggage"]

    public init() {}

    public func extract(into context: inout PropagationContext, _ values: (_ field: String) -> [String]) {
        let headers = values("baggage")
        if !headers.isEmpty { context.baggage = Baggage(headers: headers) }
    }

    public func inject(_ context: PropagationContext, _ set: (_ field: String, _ value: String) -> Void) {
        let header = context.baggage.header
        if !header.isEmpty { set("baggage", header) }
    }
}
