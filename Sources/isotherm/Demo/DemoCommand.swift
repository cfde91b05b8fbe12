import ArgumentParser
import Foundation
import LatencyHeatmap
import Logging
import PushPipeline
import PushServer
import ServiceLifecycle
import Telemetry

struct DemoCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "demo",
        abstract: "A server, a fleet of simulated devices and producers; the heatmap fills in.",
        discussion: """
            Everything goes over real sockets: producers POST, the server keeps the
            events on disk and pushes them, the devices listen, resume when their
            connection breaks, and report when they received what. Some groups are slow
            on purpose, on the devices' side.

            The server's spans go to the collector that OTEL_EXPORTER_OTLP_ENDPOINT
            names; without one, to a second Isotherm in this process, which counts them
            at the far end.

            At the end there are heatmap.html, heatmap.csv and heatmap.txt. The exit
            status is 0 only if every event reached every device once, in order, and the
            ledgers balance.
            """)

    @Option(help: ArgumentHelp("How long events are published.", valueName: "duration"))
    var duration = "30s"

    @Option(help: ArgumentHelp("Simulated devices.", valueName: "n"))
    var devices = 300

    @Option(help: ArgumentHelp("Events per second, over two topics.", valueName: "n"))
    var rate = 20.0

    @Option(name: .shortAndLong, help: ArgumentHelp("Directory of the report.", valueName: "directory"))
    var output = "report"

    @Option(help: ArgumentHelp("Port of the server; 0 takes a free one.", valueName: "port"))
    var port = 0

    private static let topics = ["orders", "prices"]
    /// Short columns, so that a short run has several.
    private static let window = Duration.seconds(5)

    func validate() throws {
        guard (7...20_000).contains(devices) else {
            throw ValidationError("--devices \(devices) is not from 7 to 20000.")
        }
        guard rate > 0, rate <= 10_000 else { throw ValidationError("--rate \(rate) is not from 0 to 10000.") }
        do { _ = try Values.duration(duration) } catch { throw ValidationError("--duration: \(error)") }
    }

    func run() async throws {
        StopSignal.install()
        let scratch = FileManager.default.temporaryDirectory.appendingPathComponent(
            "isotherm-demo-\(UUID().uuidString)")
        defer { try? FileManager.default.removeItem(at: scratch) }
        do {
            try FileManager.default.createDirectory(at: scratch, withIntermediateDirectories: true)
            let isComplete = try await run(scratch: scratch.path)
            guard isComplete else { throw ExitCode.failure }
        } catch let error as SettingError {
            Terminal.note("Error: \(error)")
            throw ExitCode.failure
        } catch let error as ConfigurationError {
            Terminal.note("Error: \(error)")
            throw ExitCode.failure
        }
    }

    private func run(scratch: String) async throws -> Bool {
        var logger = Logger(label: "isotherm", factory: { StreamLogHandler.standardError(label: $0) })
        logger.logLevel = .error
        let environment = ProcessInfo.processInfo.environment
        let (given, warnings) = TelemetryConfiguration.fromEnvironment(
            environment, serviceName: "isotherm", serviceVersion: TelemetrySDK.version)
        for warning in warnings { Terminal.note("Warning: \(warning)") }
        var telemetry = given

        // The far end, unless there is a collector.
        var farEnd: RunningServer?
        if telemetry.endpoint == nil, !telemetry.isDisabled {
            var configuration = PushServerConfiguration(dataDirectory: scratch + "/far-end")
            configuration.port = 0
            configuration.eventLoopThreads = 1
            configuration.heatmap.window = Self.window
            let server = try await RunningServer(configuration, logger)
            telemetry.endpoint = server.url + "/v1/traces"
            telemetry.scheduleDelay = .seconds(1)
            farEnd = server
        }
        if environment["OTEL_BSP_MAX_QUEUE_SIZE", default: ""].isEmpty { telemetry.maxQueueSize = 8_192 }
        var configuration = PushServerConfiguration(dataDirectory: scratch + "/data", telemetry: telemetry)
        configuration.port = port
        configuration.heatmap.window = Self.window
        configuration.delivery.drainInterval = .milliseconds(200)
        let server = try await RunningServer(configuration, logger)
        Terminal.note(
            "server on \(server.url); spans go to \(farEnd == nil ? telemetry.endpoint ?? "nobody" : "a second Isotherm")"
        )

        let fleet = DemoFleet(port: server.port, devices: devices, topics: Self.topics)
        try await fleet.start()
        Terminal.note(
            "\(fleet.count) devices in \(fleet.groups.count) groups are connected; publishing for \(duration)")
        let producers = Self.topics.map { DemoProducer(topic: $0) }
        for producer in producers { producer.start(url: server.url, perSecond: rate / Double(producers.count)) }
        let receipts = DemoReceipts()
        receipts.start(fleet: fleet, url: server.url)

        let screen = DemoScreen(server: server.server, fleet: fleet, producers: producers)
        try await screen.show(for: Values.duration(duration)) { producers.contains { $0.problem != nil } }
        for producer in producers { await producer.stop() }
        let published = producers.reduce(0) { $0 + $1.published }
        let expected = producers.reduce(0) { $0 + $1.published * UInt64(fleet.subscribers(of: $1.topic)) }
        let isDelivered = await screen.wait(until: expected)
        // What the devices still simulate: the slowest take a second.
        try await Task.sleep(for: .seconds(1.2))
        await receipts.stop()
        let totals = fleet.current
        try report(server.server)
        await fleet.stop()
        await server.stop()
        await farEnd?.stop()

        let checks =
            [
                check("events published", published > 0, "\(published)"),
                check(
                    "published × subscribers = delivered", isDelivered && totals.received == expected,
                    producers.map { "\($0.topic) \($0.published) × \(fleet.subscribers(of: $0.topic))" }.joined(
                        separator: " + ")
                        + " = \(expected), received \(totals.received)"),
                check(
                    "each once and in order", totals.repeated == 0 && totals.missing == 0 && totals.resets == 0,
                    "repeated \(totals.repeated), missing \(totals.missing), after \(totals.reconnects) reconnections"),
                check(
                    "devices' receipts", receipts.accepted == totals.received,
                    "\(receipts.accepted) of \(totals.received)"),
                check("span ledger balances", server.ledger.isBalanced, "\(server.ledger)"),
            ] + (farEnd.map { farChecks($0.server, server.server) } ?? [])
            + producers.compactMap { producer in producer.problem.map { check(producer.topic, false, $0) } }
        Terminal.print("\nreport: \(output)/heatmap.html, \(output)/heatmap.csv, \(output)/heatmap.txt\n")
        return checks.allSatisfy { $0 }
    }

    /// At the other end of OTLP: every span that was exported has come, and the summaries carry every delivery.
    private func farChecks(_ far: PushServer, _ near: PushServer) -> [Bool] {
        let received = far.heatmap.ledger
        let exported = near.telemetry.ledger.exported
        func count(_ server: PushServer, _ stage: String) -> UInt64 {
            var query = HeatmapQuery()
            query.stage = stage
            // A stage that has not occurred has none.
            return (try? server.heatmap.snapshot(query: query).count) ?? 0
        }
        let (live, replayed) = (count(far, "deliver"), count(far, "replay"))
        let written = count(near, "deliver") + count(near, "replay")
        return [
            check("spans at the far end", received.received == exported && received.isBalanced, "\(received)"),
            check(
                "deliveries at the far end", live + replayed == written,
                "\(live) live + \(replayed) replayed, of \(written) written to sockets"),
        ]
    }

    private func check(_ name: String, _ holds: Bool, _ detail: String) -> Bool {
        Terminal.print("\(holds ? "ok  " : "FAIL") \(name): \(detail)\n")
        return holds
    }

    private func report(_ server: PushServer) throws {
        let grid: HeatmapGrid
        do { grid = try server.heatmap.snapshot(query: DemoScreen.query) } catch { throw SettingError(error.cause) }
        Terminal.print(
            "\n" + HeatmapText.render(grid, width: Terminal.width, style: Terminal.hasColour ? .ansi : .plain) + "\n")
        do {
            try FileManager.default.createDirectory(atPath: output, withIntermediateDirectories: true)
            for (form, text) in [
                ("html", HeatmapHTML.render(grid)), ("csv", HeatmapCSV.render(grid)),
                ("txt", HeatmapText.render(grid, width: 120)),
            ] {
                try Data(text.utf8).write(to: URL(fileURLWithPath: "\(output)/heatmap.\(form)"), options: .atomic)
            }
        } catch {
            throw SettingError("the report cannot be written to \(output): \(error.localizedDescription)")
        }
    }
}

/// A server in this process, from its first request to its drain.
private final class RunningServer {
    let server: PushServer
    let port: Int
    private let group: ServiceGroup
    private let task: Task<Void, any Error>

    init(_ configuration: PushServerConfiguration, _ logger: Logger) async throws {
        let server = try PushServer(configuration: configuration, logger: logger)
        let group = ServiceGroup(configuration: .init(services: [.init(service: server)], logger: logger))
        self.server = server
        self.group = group
        task = Task { try await group.run() }
        port = try await server.boundPort
    }

    var url: String { "http://127.0.0.1:\(port)" }
    var ledger: SpanLedger { server.telemetry.ledger }

    func stop() async {
        await group.triggerGracefulShutdown()
        _ = try? await task.value
    }
}
