import Glibc
import Synchronization
import Telemetry
import Tracing

/// What a service context holds of a span: a reference to the one object that a bridged span makes besides its context.
/// A span that came with a request is only its ids.
///
/// The object is a managed buffer, since the lock and what it guards are to lie in it and be reached by their address: a
/// class's own variables are checked for exclusive access each time. The lock is a word of its own, which costs one
/// atomic operation for each use; a mutex costs two, and has to be made and ended for each span.
struct SpanRecord: @unchecked Sendable {  // guarded by the lock in `storage`
    private let storage: ManagedBuffer<Content, Never>

    struct Content {
        // First, so that its address is the content's.
        var lock: UInt32 = 0
        let origin: Origin
        var state: State
    }

    enum Origin {
        case started(Telemetry.Span)
        case received(SpanContext)
    }

    struct State {
        var operationName: String {
            didSet { isRenamed = true }
        }
        var isRenamed = false
        var attributes = SpanAttributes([:])
        var error: RecordedError?
        var isFailed = false
        var isEnded: Bool
    }

    init(_ span: Telemetry.Span, operationName: String) {
        self.init(.started(span), State(operationName: operationName, isEnded: !span.isRecording))
    }

    init(received context: SpanContext) {
        self.init(.received(context), State(operationName: "", isEnded: true))
    }

    private init(_ origin: Origin, _ state: State) {
        storage = ManagedBuffer.create(minimumCapacity: 0) { _ in Content(origin: origin, state: state) }
    }

    var spanContext: SpanContext {
        storage.withUnsafeMutablePointerToHeader { content in
            switch content.pointee.origin {
            case .started(let span): span.context
            case .received(let context): context
            }
        }
    }

    private var span: Telemetry.Span? {
        storage.withUnsafeMutablePointerToHeader { content in
            if case .started(let span) = content.pointee.origin { span } else { nil }
        }
    }

    var isRecording: Bool { span?.isRecording ?? false }

    // MARK: One at a time

    @inline(__always)
    private static func lock(_ content: UnsafeMutablePointer<Content>) -> UnsafeMutablePointer<Atomic<UInt32>> {
        UnsafeMutableRawPointer(content).assumingMemoryBound(to: Atomic<UInt32>.self)
    }

    @inline(__always)
    private static func tryLock(_ lock: UnsafeMutablePointer<Atomic<UInt32>>) -> Bool {
        lock.pointee.compareExchange(expected: 0, desired: 1, ordering: .acquiring).exchanged
    }

    /// Two threads that describe one span at the same moment are rare, and hold the lock for less than a microsecond.
    @inline(never)
    private static func waitForLock(_ lock: UnsafeMutablePointer<Atomic<UInt32>>) {
        var attempts = 0
        while !tryLock(lock) {
            attempts += 1
            // Sleeping lets a holder of lower priority run as well.
            if attempts < 64 { sched_yield() } else { usleep(50) }
        }
    }

    /// Nothing of the caller's runs in `body`.
    @inline(__always)
    func withState<Result>(_ body: (inout State) -> Result) -> Result {
        storage.withUnsafeMutablePointerToHeader { content in
            let lock = Self.lock(content)
            if !Self.tryLock(lock) { Self.waitForLock(lock) }
            defer { lock.pointee.store(0, ordering: .releasing) }
            return body(&content.pointee.state)
        }
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
            state.attributes.isEmpty && !state.isEnded
                ? SpanAttributes([String: SpanAttribute](minimumCapacity: 6)) : state.attributes
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
    @inline(__always)
    func end(at instant: () -> Instant) {
        var isFirst = false
        whileOpen { state in
            state.isEnded = true
            isFirst = true
        }
        guard isFirst, let span else { return }
        let at = instant()
        // Nobody writes from here on: no lock is held while the attributes' own code runs.
        storage.withUnsafeMutablePointerToHeader { content in
            content.pointee.state.attributes.write(to: span)
            if content.pointee.state.isFailed, let error = content.pointee.state.error,
                content.pointee.state.attributes.get("error.type") == nil
            {
                span.setAttribute(named: "error.type", error.type)
            }
            if content.pointee.state.isRenamed { span.updateName(content.pointee.state.operationName) }
            span.end(at: at)
        }
    }
}
