import BenchSupport
import Glibc
import Telemetry

/// Spans at a fixed rate while nobody listens, with a disk queue; then `run` starts the sink. Prints "listen" when it is
/// time to.
func outage(endpoint: String, directory: String, seconds: Int, perSecond: Int) {
    var configuration = TelemetryConfiguration()
    configuration.endpoint = endpoint
    configuration.maxQueueSize = 16_384
    configuration.diskQueue = DiskQueueSettings(directory: directory, maxBytes: 8 << 30)
    let sdk = TelemetrySDK(configuration: configuration)
    _ = produce(sdk, milliseconds: 1_000, perSecond: perSecond)
    let memory = residentBytes()
    let made = perSecond + produce(sdk, milliseconds: seconds * 1_000, perSecond: perSecond)
    let growth = Double(residentBytes() - memory) / 1_048_576
    print("listen")
    fflush(nil)
    let wall = BenchClock.wall
    let left = sdk.flush(deadline: .seconds(300)).undelivered
    let elapsed = Double(BenchClock.wall - wall) / 1e9
    let after = Double(residentBytes() - memory) / 1_048_576
    sdk.shutdown(deadline: .seconds(20))
    let ledger = sdk.ledger
    if !ledger.isBalanced { fail("the ledger does not balance: \(ledger)") }
    let text = "\(made) spans at \(perSecond)/s, \(seconds) s without a collector; \(ledger.exported) exported"
    report("outage.lost", "spans", [Double(made) - Double(ledger.exported)], "\(text), \(left) left at the deadline")
    report("outage.memory", "MiB", [max(growth, after)], "resident, against after a second of the outage")
    report("outage.drain", "s", [elapsed], "from the sink's start until all was sent; a backoff of up to 30 s is in it")
}
