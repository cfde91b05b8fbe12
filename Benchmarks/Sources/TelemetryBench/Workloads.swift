import OTLP
import Telemetry

// What is measured. The one string that is no literal comes from the caller, once: taking another one out of an array
// for each span would be the benchmark's own work.

/// Start, two interned strings, an integer, a short dynamic string, end.
@inline(never)
func fourAttributes(_ tracer: Telemetry.Tracer, _ count: Int, _ device: String) {
    for number in 0..<count {
        let span = tracer.startSpan("deliver", kind: .consumer)
        span.setAttribute("messaging.system", "isotherm")
        span.setAttribute("messaging.operation.type", "process")
        span.setAttribute("isotherm.latency_ns", 31_000_000 &+ number)
        span.setAttribute("device.id", device)
        span.end()
    }
}

/// Start and end.
@inline(never)
func bare(_ tracer: Telemetry.Tracer, _ count: Int) {
    for _ in 0..<count { tracer.startSpan("deliver", kind: .consumer).end() }
}

/// The specification's workload: ten attributes, key and value of 20 characters each.
/// https://opentelemetry.io/docs/specs/otel/performance-benchmark/
/// No clock is read: what is left is the encoding, the ids, and the slot.
@inline(never)
func tenAttributes(_ tracer: Telemetry.Tracer, _ count: Int, _ value: String, _ instant: Instant) {
    for _ in 0..<count {
        let span = tracer.startSpan("deliver", kind: .consumer, at: instant)
        span.setAttribute("attribute.number.000", value)
        span.setAttribute("attribute.number.001", value)
        span.setAttribute("attribute.number.002", value)
        span.setAttribute("attribute.number.003", value)
        span.setAttribute("attribute.number.004", value)
        span.setAttribute("attribute.number.005", value)
        span.setAttribute("attribute.number.006", value)
        span.setAttribute("attribute.number.007", value)
        span.setAttribute("attribute.number.008", value)
        span.setAttribute("attribute.number.009", value)
        span.end(at: instant)
    }
}
