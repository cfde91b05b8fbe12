// A service whose spans the tests and the outage benchmark follow: configured by OTEL_* variables, killed and forked.
//
//     TelemetryTorture run SPANS_PER_SECOND SECONDS     numbered spans at that rate, then a shutdown
//     TelemetryTorture full KIB SPANS                   the disk queue on a disk of that size; a shutdown
//     TelemetryTorture fork                             two spans; a forked child ends the SDK before its parent does
//
// Prints a line `started N stored N rss-kib N` each 50 ms, and at the end `ledger …` and `recovered …`.
import Glibc
import Telemetry

/// Whole lines, at once: what a reader sees had happened when the process is killed.
func say(_ line: String) {
    let bytes = Array("\(line)\n".utf8)
    write(1, bytes, bytes.count)
}

func residentKiB() -> Int {
    guard let file = fopen("/proc/self/statm", "r") else { return 0 }
    defer { fclose(file) }
    var line = [CChar](repeating: 0, count: 128)
    fgets(&line, 128, file)
    let fields = String(decoding: line.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self).split(
        separator: " ")
    return fields.count > 1 ? (Int(fields[1]) ?? 0) * sysconf(Int32(_SC_PAGESIZE)) / 1024 : 0
}

func run(_ sdk: TelemetrySDK, perSecond: Int, seconds: Double) {
    let start = ContinuousClock.now
    let total = Int(Double(perSecond) * seconds)
    var made = 0
    while made < total {
        let elapsed = start.duration(to: .now) / .seconds(1)
        let due = min(total, Int(elapsed * Double(perSecond)) + 1)
        while made < due {
            let span = sdk.tracer.startSpan("numbered")
            span.setAttribute("index", made)
            span.setAttribute("http.route", "/v1/orders/{id}")
            span.setAttribute("http.request.method", "POST")
            span.end()
            made += 1
        }
        if due % 10 == 0 || perSecond < 1_000 {
            say("started \(made) stored \(sdk.diskQueueStatus.items) rss-kib \(residentKiB())")
        }
        usleep(5_000)
    }
}

/// `fork` is hidden from Swift, since most of what runs after it is not safe; here it is the point.
func forkProcess() -> Int32 {
    guard let symbol = dlsym(nil, "fork") else { return -1 }
    return unsafeBitCast(symbol, to: (@convention(c) () -> Int32).self)()
}

/// A disk of its own for the rest of this process, in a mount namespace that ends with it. Where the process may not
/// mount, each file is limited instead, to a part of the size.
func makeSmallDisk(_ directory: String, kib: Int) -> String {
    mkdir(directory, 0o700)
    // Hidden from Swift, or only in headers that it does not read.
    let newNamespaces: Int32 = 0x0002_0000 | (geteuid() == 0 ? 0 : 0x1000_0000)
    let recursivePrivate: UInt = 0x4000 | 1 << 18
    typealias Unshare = @convention(c) (Int32) -> Int32
    typealias Mount =
        @convention(c) (UnsafePointer<CChar>, UnsafePointer<CChar>, UnsafePointer<CChar>?, UInt, UnsafePointer<CChar>?)
        -> Int32
    if let unshare = dlsym(nil, "unshare").map({ unsafeBitCast($0, to: Unshare.self) }),
        let mount = dlsym(nil, "mount").map({ unsafeBitCast($0, to: Mount.self) }),
        unshare(newNamespaces) == 0, mount("none", "/", nil, recursivePrivate, nil) == 0,
        mount("tmpfs", directory, "tmpfs", 0, "size=\(kib)k") == 0
    {
        return "tmpfs"
    }
    signal(SIGXFSZ, SIG_IGN)
    var limit = rlimit(rlim_cur: rlim_t(kib * 1024 / 16), rlim_max: rlim_t(kib * 1024 / 16))
    setrlimit(__rlimit_resource_t(UInt32(RLIMIT_FSIZE.rawValue)), &limit)
    return "file limit"
}

/// Spans in groups, each of which is on disk or lost before the next.
func fill(_ sdk: TelemetrySDK, _ total: Int) {
    var made = 0
    while made < total {
        for _ in 0..<100 {
            let span = sdk.tracer.startSpan("numbered")
            span.setAttribute("index", made)
            span.end()
            made += 1
        }
        while sdk.ledger.totalDropped + sdk.diskQueueStatus.items < UInt64(made) { usleep(1_000) }
    }
}

var environment: [String: String] = [:]
for name in [
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_BSP_SCHEDULE_DELAY", "OTEL_BSP_MAX_QUEUE_SIZE",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "OTEL_EXPORTER_OTLP_COMPRESSION", "ISOTHERM_TELEMETRY_QUEUE_DIR",
    "ISOTHERM_TELEMETRY_QUEUE_MAX_BYTES", "TORTURE_MAX_BACKOFF",
] { if let value = getenv(name) { environment[name] = String(cString: value) } }
var (configuration, warnings) = TelemetryConfiguration.fromEnvironment(environment)
configuration.report = { say("report \($0)") }
if let limit = environment["TORTURE_MAX_BACKOFF"].flatMap({ Int($0) }) {
    configuration.tracesExporter.initialBackoff = .milliseconds(min(100, limit))
    configuration.tracesExporter.maxBackoff = .milliseconds(limit)
}
for warning in warnings { say("warning \(warning)") }
let arguments = CommandLine.arguments.dropFirst()
if arguments.first == "full", arguments.count == 3, let directory = environment["ISOTHERM_TELEMETRY_QUEUE_DIR"],
    let kib = Int(arguments[2])
{
    // Before the first thread.
    say("disk \(makeSmallDisk(directory, kib: kib))")
}
let sdk = TelemetrySDK(configuration: configuration)

switch arguments.first {
case "run" where arguments.count == 3:
    guard let rate = Int(arguments[2]), let seconds = Double(arguments[3]) else { exit(64) }
    run(sdk, perSecond: rate, seconds: seconds)
    let report = sdk.shutdown(deadline: .seconds(60))
    say("rss-kib \(residentKiB())")
    say("recovered \(sdk.recoveredLedger)")
    say("undelivered \(report.undelivered) stored \(sdk.diskQueueStatus.items)")
    say("ledger \(sdk.ledger)")
case "full" where arguments.count == 3:
    guard let total = Int(arguments[3]) else { exit(64) }
    fill(sdk, total)
    say("full \(sdk.ledger)")
    say("undelivered \(sdk.shutdown(deadline: .seconds(60)).undelivered) stored \(sdk.diskQueueStatus.items)")
    say("ledger \(sdk.ledger)")
case "fork":
    for index in 0..<2 {
        let span = sdk.tracer.startSpan("before")
        span.setAttribute("index", index)
        span.end()
    }
    usleep(200_000)
    let child = forkProcess()
    if child == 0 {
        alarm(20)
        sdk.flush(deadline: .seconds(5))
        sdk.shutdown(deadline: .seconds(5))
        _exit(0)
    }
    var status: Int32 = 0
    waitpid(child, &status, 0)
    say("child \(status)")
    say("undelivered \(sdk.shutdown(deadline: .seconds(20)).undelivered)")
    say("ledger \(sdk.ledger)")
default:
    exit(64)
}
