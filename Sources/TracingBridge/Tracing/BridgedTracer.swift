import Instrumentation
import Telemetry
import Tracing

/// Makes Telemetry the backend of swift-distributed-tracing: Hummingbird's, gRPC's and anybody's spans go through it.
///
///     let telemetry = TelemetrySDK(configuration: configuration)
///     InstrumentationSystem.bootstrap(BridgedTracer(telemetry))
public struct BridgedTracer: Tracing.Tracer {
    private let telemetry: TelemetrySDK

    public init(_ telemetry: TelemetrySDK) { self.telemetry = telemetry }

    /// The parent is the span of `context`; without one, a trace begins.
    public func startSpan<At: TracerInstant>(
        _ operationName: String, context: @autoclosure () -> ServiceContext, ofKind kind: Tracing.SpanKind,
        at instant: @autoclosure () -> At, function: String, file fileID: String, line: UInt
    ) -> BridgedSpan {
        let context = context()
        let span = telemetry.tracer.startSpan(
            "", kind: .init(kind), parent: context.spanContext, at: Instant(unixNano: instant().nanosecondsSinceEpoch))
        return BridgedSpan(parent: context, record: SpanRecord(span, operationName: operationName))
    }

    /// The running span that `context` belongs to; nil once it has ended, when it is not recorded, or when it runs in
    /// another process.
    public func activeSpan(identifiedBy context: ServiceContext) -> BridgedSpan? {
        guard let record = context.spanRecord, record.isRecording else { return nil }
        return BridgedSpan(in: context, record: record)
    }

    /// Blocks for at most five seconds.
    public func forceFlush() { telemetry.flush(deadline: .seconds(5)) }

    // MARK: Propagation, by W3C Trace Context

    /// Leaves `context` alone when `traceparent` is absent or invalid; a bad `tracestate` only loses itself.
    public func extract<Carrier, Extract: Extractor>(
        _ carrier: Carrier, into context: inout ServiceContext, using extractor: Extract
    ) where Extract.Carrier == Carrier {
        guard let traceparent = extractor.extract(key: "traceparent", from: carrier),
            let parent = TraceContext.parse(
                traceparent: traceparent, tracestate: extractor.extract(key: "tracestate", from: carrier))
        else { return }
        context.spanContext = parent
    }

    /// Also for spans that were sampled out: the decision goes with the trace.
    public func inject<Carrier, Inject: Injector>(
        _ context: ServiceContext, into carrier: inout Carrier, using injector: Inject
    ) where Inject.Carrier == Carrier {
        guard let span = context.spanContext else { return }
        injector.inject(span.traceparent, forKey: "traceparent", into: &carrier)
        if let state = span.traceState { injector.inject(state.description, forKey: "tracestate", into: &carrier) }
    }
}

private enum SpanRecordKey: ServiceContextKey {
    typealias Value = SpanRecord
    static var nameOverride: String? { "isotherm-span" }
}

extension ServiceContext {
    var spanRecord: SpanRecord? {
        get { self[SpanRecordKey.self] }
        set { self[SpanRecordKey.self] = newValue }
    }

    /// The ids of the running span, or of that which a request came with. Set it to go on with a trace whose ids came by
    /// another way, such as inside a message.
    public var spanContext: SpanContext? {
        get { spanRecord?.spanContext }
        set { spanRecord = newValue.map(SpanRecord.init(received:)) }
    }
}
