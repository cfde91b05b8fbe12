import Telemetry
import Tracing
import TracingBridge

/// The same span as a framework's middleware makes it: the context in a task local, attributes by name. With
/// `NoOpTracer` it is what swift-distributed-tracing and the caller's own attributes cost.
@inline(never)
func bridged<Tracer: Tracing.Tracer>(_ tracer: Tracer, _ count: Int, _ device: String) {
    for number in 0..<count {
        tracer.withSpan("deliver", context: .topLevel, ofKind: .consumer) { span in
            span.updateAttributes { attributes in
                attributes["messaging.system"] = "isotherm"
                attributes["messaging.operation.type"] = "process"
                attributes["isotherm.latency_ns"] = 31_000_000 &+ number
                attributes["device.id"] = device
            }
        }
    }
}
