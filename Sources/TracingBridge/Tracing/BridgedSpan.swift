import OTLP
import Telemetry
import Tracing

/// A span of swift-distributed-tracing that is recorded by Telemetry. It may be used from any thread; what is set after
/// its end is ignored.
///
/// Times are taken as the caller gives them, by the wall clock of swift-distributed-tracing; an end before the start
/// counts as the start, so a clock that steps back makes no negative duration.
public struct BridgedSpan: Tracing.Span {
    /// The parent's context with this span in it.
    public let context: ServiceContext
    private let record: SpanRecord

    init(parent: ServiceContext, record: SpanRecord) {
        var context = parent
        context.spanRecord = record
        self.context = context
        self.record = record
    }

    /// The span that a context holds.
    init(in context: ServiceContext, record: SpanRecord) {
        self.context = context
        self.record = record
    }

    public var operationName: String {
        get { record.withState { $0.operationName } }
        nonmutating set { record.whileOpen { $0.operationName = newValue } }
    }

    /// Every attribute is written into the span once, at its end: until then callers read and replace the whole set.
    public var attributes: SpanAttributes {
        get { record.attributes }
        nonmutating set { record.whileOpen { $0.attributes = newValue } }
        // In place, without a copy for each attribute. Not locked meanwhile, since what runs is the caller's.
        nonmutating _modify {
            var attributes = record.takeAttributes()
            defer { record.putBack(attributes) }
            yield &attributes
        }
    }

    public var isRecording: Bool { record.isRecording }

    /// `ok` is final. An error without a message gets that of the last recorded error.
    public func setStatus(_ status: SpanStatus) {
        record.whileOpen { state, span in
            switch status.code {
            case .ok: span.setStatus(.ok)
            case .error:
                state.isFailed = true
                span.setStatus(.error, status.message ?? state.error?.message ?? "")
            }
        }
    }

    public func addEvent(_ event: SpanEvent) {
        guard isRecording else { return }
        let attributes = event.attributes.keyValues
        record.whileOpen { _, span in
            span.addEvent(
                event.name, at: Instant(unixNano: event.nanosecondsSinceEpoch), attributes: attributes)
        }
    }

    /// Adds an event `exception`. The status stays as it is, as in OpenTelemetry: whether the operation has failed is
    /// the caller's to say (a server's 404 has not). `withSpan` says so for everything that its closure throws.
    ///
    /// A span that ends as failed gets the type of the last recorded error as `error.type`, unless it has one:
    /// https://opentelemetry.io/docs/specs/semconv/general/recording-errors/
    public func recordError<At: TracerInstant>(
        _ error: any Error, attributes: SpanAttributes, at instant: @autoclosure () -> At
    ) {
        guard isRecording else { return }
        let at = Instant(unixNano: instant().nanosecondsSinceEpoch)
        let recorded = RecordedError(error)
        let attributes = attributes.keyValues.filter { $0.key != "exception.type" && $0.key != "exception.message" }
        record.whileOpen { state, span in
            state.error = recorded
            span.addEvent(
                "exception", at: at,
                attributes: [
                    KeyValue("exception.type", .string(recorded.type)),
                    KeyValue("exception.message", .string(recorded.message)),
                ] + attributes)
        }
    }

    public func addLink(_ link: SpanLink) {
        guard let linked = link.context.spanContext, isRecording else { return }
        let attributes = link.attributes.keyValues
        record.whileOpen { _, span in span.addLink(linked, attributes: attributes) }
    }

    public func end<At: TracerInstant>(at instant: @autoclosure () -> At) {
        record.end { Instant(unixNano: instant().nanosecondsSinceEpoch) }
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
