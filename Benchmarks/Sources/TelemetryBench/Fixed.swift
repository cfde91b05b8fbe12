import BenchSupport
import Glibc
import Telemetry
import TracingBridge

/// A number of spans and nothing else, for a tool that counts instructions or system calls. Ends the process.
///
/// - Parameter isSpinning: waits for the exporter by looking at the clock, which is no system call, so that those of the
///   main thread are the tracer's own; else by sleeping, which takes no instructions.
func fixed(_ count: Int, endpoint: String, isBridged: Bool, isSpinning: Bool) -> Never {
    let sdk = makeSDK(endpoint: endpoint)
    let bridge = BridgedTracer(sdk)
    let device = "device-100"
    var left = count
    while left > 0 {
        if isBridged {
            bridged(bridge, min(burst, left), device)
        } else {
            fourAttributes(sdk.tracer, min(burst, left), device)
        }
        left -= min(burst, left)
        // Under callgrind all threads share one core and are fifty times as slow.
        if isSpinning {
            let end = BenchClock.wall + 20_000_000
            while BenchClock.wall < end {}
        } else {
            usleep(50_000)
        }
    }
    sdk.shutdown(deadline: .seconds(20))
    let ledger = sdk.ledger
    if ledger.totalDropped > 0 || ledger.exported != UInt64(count) { fail("not all spans were exported: \(ledger)") }
    exit(0)
}
