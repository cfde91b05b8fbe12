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
            named: operationName, kind: .init(kind), parent: context.isEmpty ? nil : context.spanContext,
            at: Instant(unixNano: instant().nanosecondsSinceEpoch))
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

    // MARK: Propagation, by the configured propagators

    /// Leaves alone in `context` what the carrier says nothing valid about.
    public func extract<Carrier, Extract: Extractor>(
        _ carrier: Carrier, into context: inout ServiceContext, using extractor: Extract
    ) where Extract.Carrier == Carrier {
        let found = telemetry.configuration.propagators.extract { field in
            extractor.extract(key: field, from: carrier).map { [$0] } ?? []
        }
        if let span = found.spanContext { context.spanContext = span }
        if !found.baggage.isEmpty { context.baggage = found.baggage }
        if let b3 = found.b3 { context[B3SamplingKey.self] = b3 }
    }

    /// Also for spans that were sampled out: the decision goes with the trace.
    public func inject<Carrier, Inject: Injector>(
        _ context: ServiceContext, into carrier: inout Carrier, using injector: Inject
    ) where Inject.Carrier == Carrier {
        let outgoing = PropagationContext(
            spanContext: context.spanContext, baggage: context.baggage, b3: context[B3SamplingKey.self])
        telemetry.configuration.propagators.inject(outgoing) { injector.inject($1, forKey: $0, into: &carrier) }
    }
}

private enum SpanRecordKey: ServiceContextKey {
    typealias Value = SpanRecord
    static var nameOverride: String? { "isotherm-span" }
}

private enum BaggageKey: ServiceContextKey {
    typealias Value = Telemetry.Baggage
    static var nameOverride: String? { "isotherm-baggage" }
}

private enum B3SamplingKey: ServiceContextKey {
    typealias Value = B3Sampling
    static var nameOverride: String? { "isotherm-b3" }
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

    /// What travels along with the trace, to every service behind this one. Empty without any.
    public var baggage: Telemetry.Baggage {
        get { self[BaggageKey.self] ?? Telemetry.Baggage() }
        set { self[BaggageKey.self] = newValue.isEmpty ? nil : newValue }
    }
}
