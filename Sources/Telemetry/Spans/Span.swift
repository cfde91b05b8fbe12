import OTLP

/// A span that was started. A handle of a few words: copying it copies no span, and starting, describing and ending one
/// allocates nothing.
///
/// One task at a time describes a span; any thread may end it. What is set after the end is ignored, and so is a second
/// end. A span that is not sampled has a valid context, with the sampled flag off, and ignores everything else. Where
/// nothing is exported at all, a span has its parent's context.
public struct Span: Sendable {
    /// How the ids came about.
    @usableFromInline
    enum IDs: UInt8, Sendable {
        case made
        /// As a parent's that came from another process.
        case remote
        /// The span id is a seed; see `DerivedID`.
        case seededSpan
        /// A trace that begins here: `high` is the seed of all ids.
        case seededTrace
    }

    @usableFromInline nonisolated(unsafe) let slot: UnsafeMutablePointer<SpanSlot>?
    /// The slot's word while this span is live.
    @usableFromInline let word: UInt32
    @usableFromInline let flags: UInt8
    @usableFromInline let ids: IDs
    // In the order of the wire, as they are written; seeds are only numbers.
    @usableFromInline let wireHigh: UInt64
    @usableFromInline let wireLow: UInt64
    @usableFromInline let wireID: UInt64
    @usableFromInline let heldState: HeldState

    /// The trace's state. Two cases are empty, since letting go of a plain optional is a call also where it is nil.
    @usableFromInline
    enum HeldState: Sendable {
        case none
        case neverUsed
        case some(TraceState)
    }

    @inlinable @inline(__always)
    var traceState: TraceState? { if case .some(let state) = heldState { state } else { nil } }

    @inlinable @inline(__always)
    init(
        slot: UnsafeMutablePointer<SpanSlot>?, word: UInt32, flags: UInt8, ids: IDs, wireHigh: UInt64, wireLow: UInt64,
        wireID: UInt64, traceState: TraceState?
    ) {
        self.slot = slot
        self.word = word
        self.flags = flags
        self.ids = ids
        self.wireHigh = wireHigh
        self.wireLow = wireLow
        self.wireID = wireID
        heldState = traceState.map { .some($0) } ?? .none
    }

    /// What travels on to the spans that follow, in this process and in others. Valid also after the end.
    @inlinable
    public var context: SpanContext {
        var traceID = TraceID(high: wireHigh.bigEndian, low: wireLow.bigEndian)
        var spanID = SpanID(rawValue: wireID.bigEndian)
        switch ids {
        case .made, .remote: break
        case .seededSpan: spanID = SpanID(rawValue: DerivedID.make(wireID, 0))
        case .seededTrace:
            traceID = TraceID(high: DerivedID.make(wireHigh, 1), low: DerivedID.make(wireHigh, 2))
            spanID = SpanID(rawValue: DerivedID.make(wireHigh, 3))
        }
        return SpanContext(
            traceID: traceID, spanID: spanID, traceFlags: TraceFlags(rawValue: flags), traceState: traceState,
            isRemote: ids == .remote)
    }

    /// Whether what is set on this span goes anywhere.
    @inlinable public var isRecording: Bool {
        guard let slot else { return false }
        return SpanSlot.state(slot).load() == word
    }

    // MARK: Attributes

    // Expanded in place: with a key that is a literal, most of the work is done by the compiler.

    @inlinable @inline(__always)
    public func setAttribute(_ key: StaticString, _ value: StaticString) {
        guard let slot else { return }
        SpanFields.set(
            slot, word, key.utf8Start, key.utf8CodeUnitCount, SpanFields.string, value.utf8Start,
            value.utf8CodeUnitCount)
    }

    // A literal is a StaticString, which is copied without being looked at.
    @inlinable @inline(__always) @_disfavoredOverload
    public func setAttribute(_ key: StaticString, _ value: String) {
        guard let slot else { return }
        SpanFields.set(slot, word, key.utf8Start, key.utf8CodeUnitCount, value)
    }

    /// A string value that is known to be UTF-8.
    @inlinable @inline(__always)
    public func setAttribute(_ key: StaticString, utf8 bytes: UnsafeBufferPointer<UInt8>) {
        guard let slot else { return }
        SpanFields.set(
            slot, word, key.utf8Start, key.utf8CodeUnitCount, SpanFields.string, bytes.baseAddress ?? key.utf8Start,
            bytes.count)
    }

    /// A `bytes` value.
    @inlinable @inline(__always)
    public func setAttribute(_ key: StaticString, bytes: UnsafeBufferPointer<UInt8>) {
        guard let slot else { return }
        SpanFields.set(
            slot, word, key.utf8Start, key.utf8CodeUnitCount, SpanFields.data, bytes.baseAddress ?? key.utf8Start,
            bytes.count)
    }

    @inlinable @inline(__always)
    public func setAttribute(_ key: StaticString, _ value: Int64) {
        guard let slot else { return }
        SpanFields.set(
            slot, word, key.utf8Start, key.utf8CodeUnitCount, SpanFields.integer, UInt64(bitPattern: value))
    }

    @inlinable @inline(__always)
    public func setAttribute(_ key: StaticString, _ value: Int) { setAttribute(key, Int64(value)) }

    @inlinable @inline(__always)
    public func setAttribute(_ key: StaticString, _ value: Bool) {
        guard let slot else { return }
        SpanFields.set(slot, word, key.utf8Start, key.utf8CodeUnitCount, SpanFields.boolean, value ? 1 : 0)
    }

    @inlinable @inline(__always)
    public func setAttribute(_ key: StaticString, _ value: Double) {
        guard let slot else { return }
        SpanFields.set(slot, word, key.utf8Start, key.utf8CodeUnitCount, double: value)
    }

    /// Any value under a key that is not known at compile time. Allocates.
    @_disfavoredOverload
    public func setAttribute(_ key: String, _ value: AnyValue) {
        guard let slot, SpanSlot.state(slot).load() == word else { return }
        SpanFields.set(slot, key, value)
    }

    // MARK: Name, status, events and links

    /// Replaces the name, for one that is known only later. The first 1,024 bytes are kept.
    public func updateName(_ name: String) {
        guard let slot, isRecording else { return }
        SpanFields.rename(slot, name)
    }

    /// `ok` is final; `unset` changes nothing. A message is kept for `error` only.
    public func setStatus(_ code: StatusCode, _ message: String = "") {
        guard let slot, isRecording, code != .unset else { return }
        let extras = SpanSlot.extras(slot)
        guard extras.statusCode != .ok else { return }
        extras.statusCode = code
        let bytes = code == .error ? Array(message.utf8) : []
        let count = bytes.withUnsafeBufferPointer { SpanFields.wholeCharacters($0, in: SpanFields.maxMessageBytes) }
        extras.statusMessage = Array(bytes.prefix(count))
    }

    /// Something that happened during the span. Allocates.
    public func addEvent(_ name: String, at instant: Instant = Clock.now(), attributes: [KeyValue] = []) {
        guard let slot, isRecording else { return }
        SpanFields.addEvent(slot, name, instant, attributes)
    }

    /// A span of another trace that this one belongs to. Allocates.
    public func addLink(_ linked: SpanContext, attributes: [KeyValue] = []) {
        guard let slot, isRecording else { return }
        SpanFields.addLink(slot, linked, attributes)
    }

    /// An exception event by OpenTelemetry's conventions. The status is the caller's to set.
    /// https://opentelemetry.io/docs/specs/semconv/exceptions/exceptions-spans/
    public func recordError(_ error: any Error, at instant: Instant = Clock.now(), attributes: [KeyValue] = []) {
        addEvent(
            "exception", at: instant,
            attributes: [
                KeyValue("exception.type", .string(String(describing: type(of: error)))),
                KeyValue("exception.message", .string("\(error)")),
            ] + attributes)
    }

    // MARK: The end

    /// Ends the span: it is encoded and waits for the collector. A time before the start counts as the start.
    @inlinable @inline(__always)
    public func end(at instant: Instant? = nil) {
        guard let slot else { return }
        let endUnixNano = (instant ?? Clock.now()).unixNano
        if case .some(let state) = heldState {
            SpanFields.end(slot, word, endUnixNano, state)
        } else {
            SpanFields.end(slot, word, endUnixNano)
        }
    }

    /// The same under another name; see `updateName(_:)`.
    public func end(name: String, at instant: Instant? = nil) {
        guard let slot, SpanSlot.state(slot).exchange(from: word, to: word &+ (SpanSlot.ending - SpanSlot.live)) else {
            return
        }
        SpanFields.rename(slot, name)
        SpanFields.finish(slot, traceState, (instant ?? Clock.now()).unixNano)
        SpanSlot.state(slot).store(word &+ (SpanSlot.ended - SpanSlot.live))
    }
}
