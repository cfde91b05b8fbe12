import Glibc
import Synchronization
import Telemetry
import Tracing

/// What a service context holds of a span: the one allocation that a bridged span makes besides its context.
///
/// A span that came with a request is only its ids.
final class SpanRecord: @unchecked Sendable {  // `state` is guarded by `isLocked`
    private enum Origin {
        case started(Telemetry.Span)
        case received(SpanContext)
    }

    struct State {
        var operationName: String
        var attributes: SpanAttributes = [:]
        var error: RecordedError?
        var isFailed = false
        var isEnded: Bool
    }

    private let origin: Origin
    // `Mutex` costs as much as the rest of this object's work: a span is nearly always used by one thread at a time, and
    // nothing of the caller's runs under the lock.
    private let isLocked = Atomic(false)
    private var state: State

    init(_ span: Telemetry.Span, operationName: String) {
        origin = .started(span)
        state = State(operationName: operationName, isEnded: !span.isRecording)
    }

    init(received context: SpanContext) {
        origin = .received(context)
        state = State(operationName: "", isEnded: true)
    }

    var spanContext: SpanContext {
        switch origin {
        case .started(let span): span.context
        case .received(let context): context
        }
    }

    private var span: Telemetry.Span? {
        if case .started(let span) = origin { span } else { nil }
    }

    var isRecording: Bool { span?.isRecording ?? false }

    // MARK: One at a time

    @inline(__always)
    func withState<Result>(_ body: (inout State) -> Result) -> Result {
        while !isLocked.compareExchange(expected: false, desired: true, ordering: .acquiring).exchanged {
            sched_yield()
        }
        defer { isLocked.store(false, ordering: .releasing) }
        return body(&state)
    }

    @inline(__always)
    func whileOpen(_ body: (inout State) -> Void) {
        withState { if !$0.isEnded { body(&$0) } }
    }

    @inline(__always)
    func whileOpen(_ body: (inout State, Telemetry.Span) -> Void) {
        guard let span else { return }
        whileOpen { body(&$0, span) }
    }

    // MARK: Attributes

    /// With room for more: who reads them of an open span is about to add some.
    var attributes: SpanAttributes {
        withState { state in
            guard state.attributes.isEmpty, !state.isEnded else { return state.attributes }
            var empty = SpanAttributes([:])
            empty.reserveCapacity(6)
            return empty
        }
    }

    func takeAttributes() -> SpanAttributes {
        withState { state in
            defer { if !state.isEnded { state.attributes = [:] } }
            return state.attributes
        }
    }

    /// Together with what another thread has set meanwhile.
    func putBack(_ attributes: SpanAttributes) {
        whileOpen { state in
            if state.attributes.isEmpty {
                state.attributes = attributes
            } else {
                state.attributes.merge(attributes)
            }
        }
    }

    // MARK: The end

    /// The first call ends the span. `instant` is asked only then.
    func end(at instant: () -> Instant) {
        guard let span else { return }
        let last: State? = withState { state in
            guard !state.isEnded else { return nil }
            state.isEnded = true
            return state
        }
        // Nobody else writes from here on, so the lock is not needed: the attributes' own code may run.
        guard let last else { return }
        let at = instant()
        last.attributes.write(to: span)
        if last.isFailed, let error = last.error, last.attributes.get("error.type") == nil {
            span.setAttribute(named: "error.type", error.type)
        }
        span.end(name: last.operationName, at: at)
    }
}

/// An error by OpenTelemetry's conventions for exceptions.
struct RecordedError {
    let type: String
    let message: String

    init(_ error: any Error) {
        type = String(reflecting: Swift.type(of: error))
        message = String(describing: error)
    }
}
