import OTLP
import Synchronization
import Telemetry
import Tracing

/// A span of swift-distributed-tracing that is recorded by Telemetry. It may be used from any thread; what is set after
/// its end is ignored.
public final class BridgedSpan: Tracing.Span {
    public let context: ServiceContext
    private let span: Telemetry.Span
    private let state: Mutex<State>

    private struct State {
        var operationName: String
        /// Written into the span at its end, since callers read and replace the whole set.
        var attributes: SpanAttributes = [:]
        var isEnded = false
    }

    init(operationName: String, parent: ServiceContext, span: Telemetry.Span) {
        var context = parent
        context.spanContext = span.context
        self.context = context
        self.span = span
        state = Mutex(State(operationName: operationName))
    }

    public var operationName: String {
        get { state.withLock { $0.operationName } }
        set { state.withLock { if !$0.isEnded { $0.operationName = newValue } } }
    }

    public var attributes: SpanAttributes {
        get { state.withLock { $0.attributes } }
        set { state.withLock { if !$0.isEnded { $0.attributes = newValue } } }
    }

    public var isRecording: Bool { span.isRecording }

    public func setStatus(_ status: SpanStatus) {
        whileOpen {
            switch status.code {
            case .ok: span.setStatus(.ok)
            case .error: span.setStatus(.error, status.message ?? "")
            }
        }
    }

    public func addEvent(_ event: SpanEvent) {
        whileOpen {
            span.addEvent(
                event.name, at: Instant(unixNano: event.nanosecondsSinceEpoch), attributes: event.attributes.keyValues)
        }
    }

    /// An event `exception`, and the status `error` unless the caller has set another.
    public func recordError<At: TracerInstant>(
        _ error: any Error, attributes: SpanAttributes, at instant: @autoclosure () -> At
    ) {
        let at = Instant(unixNano: instant().nanosecondsSinceEpoch)
        whileOpen {
            span.addEvent(
                "exception", at: at,
                attributes: [
                    KeyValue("exception.type", .string(String(reflecting: type(of: error)))),
                    KeyValue("exception.message", .string("\(error)")),
                ] + attributes.keyValues)
        }
    }

    public func addLink(_ link: SpanLink) {
        guard let linked = link.context.spanContext else { return }
        whileOpen { span.addLink(linked, attributes: link.attributes.keyValues) }
    }

    public func end<At: TracerInstant>(at instant: @autoclosure () -> At) {
        let at = Instant(unixNano: instant().nanosecondsSinceEpoch)
        state.withLock { state in
            guard !state.isEnded else { return }
            state.isEnded = true
            for attribute in state.attributes.keyValues { span.setAttribute(attribute.key, attribute.value) }
            span.end(name: state.operationName, at: at)
        }
    }

    /// One writer at a time: the record that is filled has no lock of its own.
    private func whileOpen(_ body: () -> Void) {
        state.withLock { if !$0.isEnded { body() } }
    }
}

extension OTLP.SpanKind {
    init(_ kind: Tracing.SpanKind) {
        switch kind {
        case .server: self = .server
        case .client: self = .client
        case .producer: self = .producer
        case .consumer: self = .consumer
        case .internal: self = .internal
        }
    }
}

extension SpanAttributes {
    fileprivate var keyValues: [KeyValue] {
        var all: [KeyValue] = []
        forEach { key, value in all.append(KeyValue(key, AnyValue(value))) }
        return all
    }
}

extension AnyValue {
    fileprivate init(_ attribute: SpanAttribute) {
        switch attribute {
        case .int32(let value): self = .int(Int64(value))
        case .int64(let value): self = .int(value)
        case .double(let value): self = .double(value)
        case .bool(let value): self = .bool(value)
        case .string(let value): self = .string(value)
        case .stringConvertible(let value): self = .string(value.description)
        case .int32Array(let values): self = .array(values.map { .int(Int64($0)) })
        case .int64Array(let values): self = .array(values.map { .int($0) })
        case .doubleArray(let values): self = .array(values.map { .double($0) })
        case .boolArray(let values): self = .array(values.map { .bool($0) })
        case .stringArray(let values): self = .array(values.map { .string($0) })
        case .stringConvertibleArray(let values): self = .array(values.map { .string($0.description) })
        default: self = .empty
        }
    }
}
