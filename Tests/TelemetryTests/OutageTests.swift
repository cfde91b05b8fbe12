import Foundation
import OTLP
import Telemetry
import TestSupport
import Testing

@Suite("Disk queue: outages")
struct OutageTests {
    private let directory = NSTemporaryDirectory() + "isotherm-outage-" + UUID().uuidString

    private func configuration(_ receiver: Receiver) -> TelemetryConfiguration {
        var configuration = TelemetryConfiguration.test(receiver)
        configuration.diskQueue = DiskQueueSettings(directory: directory)
        configuration.maxExportBatchSize = 10
        configuration.scheduleDelay = .milliseconds(20)
        configuration.tracesExporter.initialBackoff = .milliseconds(20)
        configuration.tracesExporter.maxBackoff = .milliseconds(100)
        configuration.tracesExporter.timeout = .milliseconds(300)
        return configuration
    }

    private func makeSpans(_ range: Range<Int>, _ sdk: TelemetrySDK) {
        for index in range {
            let span = sdk.tracer.startSpan("numbered")
            span.setAttribute("index", index)
            span.end()
        }
    }

    /// The spans' numbers in the order of their arrival, of the requests that were answered with 200.
    private func indices(_ bodies: [[UInt8]]) throws -> [Int] {
        try OfficialRequest.spans(bodies).compactMap { $0["index"].flatMap { Int($0.dropFirst("int ".count)) } }
    }

    private func remove() { try? FileManager.default.removeItem(atPath: directory) }

    @Test("an outage loses nothing: all spans arrive in order, once, when the endpoint is back")
    func outage() throws {
        defer { remove() }
        let first = try Receiver()
        let sdk = TelemetrySDK(configuration: configuration(first))
        makeSpans(0..<50, sdk)
        #expect(sdk.flush(deadline: .seconds(10)).undelivered == 0)
        first.stop()
        for start in stride(from: 50, to: 500, by: 50) {
            makeSpans(start..<start + 50, sdk)
            #expect(eventually { sdk.diskQueueStatus.items == UInt64(start) })
        }
        // On disk, and nowhere else: memory does not grow.
        #expect(sdk.ledger.queued == 450 && sdk.isExporterFailing)
        let second = try Receiver(port: first.port)
        defer { second.stop() }
        makeSpans(500..<600, sdk)
        #expect(sdk.flush(deadline: .seconds(20)).undelivered == 0)
        #expect(sdk.diskQueueStatus.items == 0 && sdk.diskQueueStatus.bytes == 0)
        makeSpans(600..<620, sdk)
        #expect(sdk.shutdown(deadline: .seconds(10)).undelivered == 0)
        #expect(try indices(first.bodies + second.bodies) == Array(0..<620))
        #expect(sdk.ledger.exported == 620 && sdk.ledger.isBalanced && sdk.ledger.totalDropped == 0)
    }

    @Test("503 with Retry-After, time-outs and cut connections lose nothing either")
    func misbehaviour() throws {
        defer { remove() }
        let receiver = try Receiver(replies: [
            .ok, .status(503, headers: ["Retry-After": "0"]), .disconnect, .blackHole, .status(429), .disconnectEarly,
            .raw(Array("HTTP/1.1 2".utf8)), .ok, .status(504), .drip(503), .last(200), .last(502),
        ])
        defer { receiver.stop() }
        let sdk = TelemetrySDK(configuration: configuration(receiver))
        makeSpans(0..<100, sdk)
        #expect(sdk.shutdown(deadline: .seconds(30)).undelivered == 0)
        #expect(sdk.ledger.exported == 100 && sdk.ledger.isBalanced)
        // What was refused or cut came again, with the same bytes, before what came after it.
        let indices = try indices(receiver.bodies)
        #expect(indices.reduce(into: [Int]()) { if !$0.contains($1) { $0.append($1) } } == Array(0..<100))
        #expect(indices.count > 150)
    }

    @Test("what a shutdown leaves on disk, the next process sends; a batch that is final is not kept")
    func restart() throws {
        defer { remove() }
        let down = try Receiver(replies: [.status(400)], otherwise: .status(503))
        let first = TelemetrySDK(configuration: configuration(down))
        makeSpans(0..<10, first)
        #expect(eventually { first.ledger.rejected == 10 })
        makeSpans(10..<60, first)
        #expect(first.shutdown(deadline: .milliseconds(300)).undelivered == 50)
        let ledger = first.ledger
        #expect(ledger.queued == 50 && ledger.rejected == 10 && ledger.isBalanced && ledger.totalDropped == 0)
        down.stop()
        let up = try Receiver(replies: [.status(200, body: [0x0A, 0x02, 0x08, 0x03])])
        defer { up.stop() }
        let second = TelemetrySDK(configuration: configuration(up))
        #expect(eventually { second.recoveredLedger.taken == 50 })
        makeSpans(60..<70, second)
        #expect(second.shutdown(deadline: .seconds(20)).undelivered == 0)
        #expect(try indices(up.bodies) == Array(10..<70))
        // Each process's ledger is about its own spans.
        #expect(second.recoveredLedger.exported == 47 && second.recoveredLedger.rejected == 3)
        #expect(second.recoveredLedger.queued == 0)
        #expect(second.ledger.exported == 10 && second.ledger.isBalanced)
    }

    @Test("a second process on the same directory exports without a disk queue, and says so")
    func locked() throws {
        defer { remove() }
        let receiver = try Receiver()
        defer { receiver.stop() }
        let reports = Reports()
        var settings = configuration(receiver)
        let first = TelemetrySDK(configuration: settings)
        settings.report = { reports.append($0) }
        makeSpans(0..<1, first)
        #expect(first.flush(deadline: .seconds(10)).undelivered == 0)
        let second = TelemetrySDK(configuration: settings)
        makeSpans(1..<2, second)
        #expect(second.shutdown(deadline: .seconds(10)).undelivered == 0)
        #expect(reports.lines.count == 1 && reports.lines[0].contains("another process uses \(directory)"))
        #expect(first.shutdown(deadline: .seconds(10)).undelivered == 0)
        #expect(try Set(indices(receiver.bodies)) == [0, 1])
    }

    @Test("a disk queue that is full drops the oldest and counts them")
    func full() throws {
        defer { remove() }
        let down = try Receiver(otherwise: .status(503))
        var settings = configuration(down)
        settings.diskQueue?.maxBytes = 64 * 1024
        settings.maxExportBatchSize = 100
        let sdk = TelemetrySDK(configuration: settings)
        for start in stride(from: 0, to: 3_000, by: 100) {
            makeSpans(start..<start + 100, sdk)
            // Each round is stored before the next: nothing is lost for want of slots.
            #expect(eventually { sdk.ledger.totalDropped + sdk.diskQueueStatus.items == UInt64(start + 100) })
        }
        #expect((sdk.ledger.dropped[.queueFull] ?? 0) > 1_000)
        #expect(sdk.diskQueueStatus.bytes <= 64 * 1024)
        down.stop()
        let up = try Receiver(port: down.port)
        defer { up.stop() }
        #expect(sdk.shutdown(deadline: .seconds(20)).undelivered == 0)
        let indices = try indices(up.bodies)
        #expect(indices.last == 2_999 && indices == Array((indices.first ?? 0)...2_999))
        #expect(sdk.ledger.exported == UInt64(indices.count) && sdk.ledger.isBalanced)
        #expect(sdk.ledger.exported + (sdk.ledger.dropped[.queueFull] ?? 0) == 3_000)
    }

    @Test("a disk that is full drops the oldest, counts them, and gives back the rest in order")
    func fullDisk() throws {
        defer { remove() }
        let port = Peers.freePort()
        // More spans than 256 KiB hold, in files of 64 KiB.
        let child = try TortureChild("full", "256", "5000", port: port, directory: directory, maxBytes: 1 << 20)
        let disk = try child.process.waitForLine("disk ")
        let filled = try child.process.waitForLine("full ")
        let receiver = try Receiver(port: port)
        defer { receiver.stop() }
        let ledger = try child.process.waitForLine("ledger ")
        let indices = try indices(receiver.bodies)
        let dropped = 5_000 - indices.count
        #expect(ledger.contains("exported \(indices.count) ") && ledger.contains("queue_full \(dropped),"), "\(ledger)")
        #expect(filled.contains("queue_full \(dropped),") && filled.contains("queued \(indices.count)"), "\(filled)")
        // Nothing is missing in between: the oldest made way.
        #expect(indices == Array(dropped..<5_000))
        // A limit for files (ulimit -f) only makes more of them.
        #expect(disk == "tmpfs" ? dropped > 1_000 && indices.count > 1_000 : dropped == 0, "\(disk): \(dropped)")
    }

    @Test("a process that is killed loses nothing that was written, and repeats at most one batch for each time")
    func killed() throws {
        defer { remove() }
        var stored = 0
        let port = Peers.freePort()
        // Killed in an outage.
        do {
            let child = try TortureChild("run", "4000", "30", port: port, directory: directory)
            try Wait.until("enough is stored") { child.stored >= 2_000 }
            child.kill()
            stored = child.stored
        }
        // Killed while it drains: after each answer some later part of the backlog is still there.
        let receiver = try Receiver(port: port, otherwise: .status(200, delay: .milliseconds(2)))
        defer { receiver.stop() }
        for round in 1...2 {
            let child = try TortureChild("run", "1", "30", port: port, directory: directory)
            try Wait.until("some arrive") { receiver.requests.count >= round * 15 }
            child.kill()
        }
        let child = try TortureChild("run", "1", "1", port: port, directory: directory)
        _ = try child.process.waitForLine("ledger ")
        let indices = try indices(receiver.bodies)
        // The children after the first number their own few spans from 0 on.
        let backlog = indices.filter { $0 >= 5 }
        let unique = backlog.reduce(into: (seen: Set<Int>(), list: [Int]())) {
            if $0.seen.insert($1).inserted { $0.list.append($1) }
        }.list
        #expect(unique == unique.sorted())
        #expect(Set(unique).isSuperset(of: Set(5..<stored)), "\(stored) were stored, \(unique.count) arrived")
        #expect(backlog.count - unique.count <= 2 * 100)
    }

    @Test("a collector that is killed and comes back gets every span, counted behind it")
    func collector() throws {
        defer { remove() }
        let sink = try OTLPSink()
        var collector = try RotelCollector(exporterEndpoint: sink.endpoint)
        var settings = TelemetryConfiguration()
        settings.endpoint = collector.endpoint + "/v1/traces"
        settings.diskQueue = DiskQueueSettings(directory: directory)
        settings.scheduleDelay = .milliseconds(20)
        settings.tracesExporter.initialBackoff = .milliseconds(20)
        settings.tracesExporter.maxBackoff = .milliseconds(100)
        let sdk = TelemetrySDK(configuration: settings)
        for round in 0..<3 {
            makeSpans(round * 200..<round * 200 + 100, sdk)
            #expect(sdk.flush(deadline: .seconds(20)).undelivered == 0)
            // What it has taken and not forwarded would die with it.
            try Wait.until("the spans are behind the collector") { try sink.spans().count == round * 200 + 100 }
            collector.kill()
            makeSpans(round * 200 + 100..<round * 200 + 200, sdk)
            #expect(eventually { sdk.diskQueueStatus.items == 100 })
            collector = try RotelCollector(exporterEndpoint: sink.endpoint, port: collector.port)
            #expect(sdk.flush(deadline: .seconds(20)).undelivered == 0)
            try Wait.until("the backlog is behind the collector") { try sink.spans().count == (round + 1) * 200 }
        }
        #expect(sdk.shutdown(deadline: .seconds(20)).undelivered == 0)
        collector.stop()
        let spans = try sink.spans()
        #expect(Set(spans.map { $0.attributes["index"] }).count == 600 && spans.count == 600)
        #expect(sdk.ledger.exported == 600 && sdk.ledger.isBalanced && sdk.ledger.totalDropped == 0)
    }

    @Test("a forked child exports nothing of its parent's, and the parent everything once")
    func forked() throws {
        let receiver = try Receiver()
        defer { receiver.stop() }
        let child = try TortureChild("fork", port: receiver.port, directory: directory, delay: 60_000)
        defer { remove() }
        #expect(try child.process.waitForLine("child ") == "0")
        let ledger = try child.process.waitForLine("ledger ")
        #expect(ledger.contains("exported 2"), "\(child.process.output)")
        #expect(try indices(receiver.bodies) == [0, 1])
    }
}

/// `TelemetryTorture` as a child: see its main.swift for what it prints.
struct TortureChild {
    let process: ChildProcess

    init(_ arguments: String..., port: Int, directory: String, delay: Int = 20, maxBytes: Int = 1 << 30) throws {
        process = try ChildProcess(
            URL(fileURLWithPath: IsothermProcess.executable).deletingLastPathComponent()
                .appendingPathComponent("TelemetryTorture").path, arguments,
            environment: [
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:\(port)/v1/traces",
                "OTEL_BSP_SCHEDULE_DELAY": "\(delay)",
                "OTEL_BSP_MAX_QUEUE_SIZE": "8192", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "100",
                "ISOTHERM_TELEMETRY_QUEUE_DIR": directory,
                "ISOTHERM_TELEMETRY_QUEUE_MAX_BYTES": "\(maxBytes)", "TORTURE_MAX_BACKOFF": "100",
            ])
    }

    /// Of the last line that was printed whole.
    var stored: Int {
        let lines = process.output.split(separator: "\n", omittingEmptySubsequences: false).dropLast()
        guard let line = lines.last(where: { $0.hasPrefix("started ") }) else { return 0 }
        let fields = line.split(separator: " ")
        return fields.count > 3 ? Int(fields[3]) ?? 0 : 0
    }

    func kill() { process.stop(SIGKILL) }
}
