import Instrumentation
import Logging
import ServiceContextModule
import Telemetry

extension Logger.MetadataProvider {
    /// The running span's `trace_id`, `span_id` and `trace_flags`, for handlers that write text. Nothing outside of a
    /// span. https://opentelemetry.io/docs/specs/otel/compatibility/logging_trace_context/
    public static let traceContext = Logger.MetadataProvider {
        guard let span = ServiceContext.current?.spanContext, span.isValid else { return [:] }
        let flags = String(span.traceFlags.rawValue, radix: 16)
        return [
            "trace_id": .string(span.traceID.description), "span_id": .string(span.spanID.description),
            "trace_flags": .string(flags.count < 2 ? "0" + flags : flags),
        ]
    }
}
