import BenchSupport
import Glibc
import OTLP
import Telemetry
import Tracing
import TracingBridge

// Cost of a span on the thread that makes it and in the whole process, with a live exporter. `run` starts the sink.
//
//     TelemetryBench --endpoint http://127.0.0.1:4318/v1/traces [--repetitions N] [--seconds S]
//     TelemetryBench --endpoint URL --fixed N [--bridge] [--spin]   makes N spans and prints nothing
//     TelemetryBench --endpoint URL --outage DIRECTORY [--seconds S]   nobody listens at first; see Outage.swift

guard let endpoint = option("--endpoint") else {
    fail("say where spans go: --endpoint http://127.0.0.1:4318/v1/traces")
}
if let text = option("--fixed"), let count = Int(text) {
    fixed(
        count, endpoint: endpoint, isBridged: CommandLine.arguments.contains("--bridge"),
        isSpinning: CommandLine.arguments.contains("--spin"))
}
let repetitions = Int(option("--repetitions") ?? "9") ?? 9
let seconds = Int(option("--seconds") ?? "60") ?? 60
if let directory = option("--outage") {
    outage(endpoint: endpoint, directory: directory, seconds: seconds, perSecond: 10_000)
    exit(0)
}
let device = "device-100"

sampled("span4", "start + 4 attributes + end", endpoint: endpoint, repetitions: repetitions) { sdk, count in
    fourAttributes(sdk.tracer, count, device)
}
sampled(
    "bridge", "withSpan, 4 attributes, through swift-distributed-tracing", endpoint: endpoint, repetitions: repetitions
) { sdk, count in
    bridged(BridgedTracer(sdk), count, device)
}
do {
    let sdk = makeSDK(endpoint: nil)
    unexported(
        "noop", sdk, "the same withSpan with swift-distributed-tracing's NoOpTracer", spans: 128 * 1_024,
        repetitions: repetitions
    ) { bridged(NoOpTracer(), $0, device) }
    sdk.shutdown(deadline: .seconds(1))
}
let instant = Clock.now()
sampled(
    "span10", "ids + slot + 10 attributes (keys and values of 20 characters) + end, no clock read", endpoint: endpoint,
    repetitions: repetitions
) { sdk, count in
    tenAttributes(sdk.tracer, count, "value.of.20.letters.", instant)
}
for (key, title, sdk) in [
    ("unsampled", "sampler always_off", makeSDK(sampler: .alwaysOff, endpoint: endpoint)),
    ("disabled", "no endpoint", makeSDK(endpoint: nil)),
] {
    unexported("\(key).bare", sdk, "\(title); start + end", repetitions: repetitions) { bare(sdk.tracer, $0) }
    unexported(key, sdk, "\(title); start + 4 attributes + end", repetitions: repetitions) {
        fourAttributes(sdk.tracer, $0, device)
    }
    sdk.shutdown(deadline: .seconds(1))
}
threads(endpoint: endpoint, repetitions: repetitions)
steady(endpoint: endpoint, seconds: seconds, perSecond: 1_000_000)
