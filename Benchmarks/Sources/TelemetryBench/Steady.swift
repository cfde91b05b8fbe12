import BenchSupport
import Glibc
import Telemetry

/// One thread makes spans at a fixed rate, a thousandth of it each millisecond; the process's CPU time covers making,
/// gathering, exporting, and the kernel. After a delay the missing spans follow at once: nothing is left out.
func steady(endpoint: String, seconds: Int, perSecond: Int) {
    let sdk = makeSDK(endpoint: endpoint, maxQueueSize: 65_536)
    defer { sdk.shutdown(deadline: .seconds(20)) }
    // Every slot of the ring has been used, and every buffer is there.
    _ = produce(sdk, milliseconds: 2_000, perSecond: perSecond)
    sdk.flush(deadline: .seconds(20))
    let ledger = sdk.ledger
    let memory = residentBytes()
    let process = BenchClock.process
    let wall = BenchClock.wall
    let made = produce(sdk, milliseconds: seconds * 1_000, perSecond: perSecond)
    let elapsed = Double(BenchClock.wall - wall) / 1e9
    sdk.flush(deadline: .seconds(20))
    let cost = Double(BenchClock.process - process) / Double(made)
    let growth = Double(residentBytes() - memory) / 1_048_576
    let after = sdk.ledger
    if !after.isBalanced { fail("the ledger does not balance: \(after)") }
    let dropped = after.totalDropped - ledger.totalDropped
    let exported = after.exported - ledger.exported
    let shown = (Double(made) / elapsed / 10_000).rounded() / 100
    report(
        "steady.process", "ns", [cost],
        "\(made) spans with 4 attributes in \((elapsed * 10).rounded() / 10) s (\(shown) M/s, wanted "
            + "\(Double(perSecond) / 1e6)), \(exported) exported; uncompressed, queue 65,536")
    report("steady.rate", "M spans/s", [1_000 / cost], "per core: from the process's CPU time")
    report("steady.dropped", "spans", [Double(dropped)], "of \(made)")
    report(
        "steady.memory", "MiB", [growth],
        "resident, \(memory / 1_048_576) MiB after 2 s of the same, against after \(seconds) s more")
}

/// Returns how many.
func produce(_ sdk: TelemetrySDK, milliseconds: Int, perSecond: Int) -> Int {
    let device = "device-100"
    var due = timespec()
    clock_gettime(CLOCK_MONOTONIC, &due)
    for _ in 0..<milliseconds {
        fourAttributes(sdk.tracer, perSecond / 1_000, device)
        due.tv_nsec += 1_000_000
        if due.tv_nsec >= 1_000_000_000 {
            due.tv_nsec -= 1_000_000_000
            due.tv_sec += 1
        }
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, nil)
    }
    return milliseconds * (perSecond / 1_000)
}
