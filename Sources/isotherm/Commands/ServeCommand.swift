import ArgumentParser
import EventStreams
import Foundation
import LatencyHeatmap
import Logging
import PushPipeline
import PushServer
import ServiceLifecycle
import Telemetry
import UnixSignals

struct ServeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "serve",
        abstract: "Run the pipeline.",
        discussion: """
            Works without any setting: it listens on 127.0.0.1:8080, keeps events in
            ./isotherm-data, and waits for the disk before it answers 202. Settings come
            from flags, then from ISOTHERM_* in the environment (dots become
            underscores: ISOTHERM_GATEWAY_DURABILITY), then from the file; --print-
            config shows them all.

            Spans are exported when OTEL_EXPORTER_OTLP_ENDPOINT says where to; the other
            OTEL_* variables apply as well. SIGTERM drains: streams are closed with a
            jittered retry:, then the log and the tracer are flushed. SIGHUP reads the
            certificate again.
            """)

    @Option(help: ArgumentHelp("Settings, a YAML file.", valueName: "file"))
    var config: String?

    @Option(help: ArgumentHelp("Address; port 0 takes a free one. Default 127.0.0.1:8080.", valueName: "host:port"))
    var listen: String?

    @Option(help: ArgumentHelp("Directory of the log. Default ./isotherm-data.", valueName: "directory"))
    var data: String?

    @Option(
        name: .customLong("set"),
        help: ArgumentHelp(
            "Any setting, for example gateway.durability=written. Can be repeated.", valueName: "key=value"))
    var settings: [String] = []

    @Flag(help: "Print the settings in force, as YAML, and exit. Tokens are not shown.")
    var printConfig = false

    @Option(help: ArgumentHelp("trace, debug, info, notice, warning or error.", valueName: "level"))
    var logLevel = Logger.Level.notice

    func run() async throws {
        let result: SettingsReader.Result
        do {
            result = try SettingsReader(environment: ProcessInfo.processInfo.environment).read(
                file: config, flags: flags())
            try result.configuration.validate()
        } catch {
            Terminal.note("Error: \(error)")
            throw ExitCode(64)
        }
        for warning in result.warnings { Terminal.note("Warning: \(warning)") }
        if printConfig {
            Terminal.print(result.configuration.yaml)
            return
        }
        var configuration = result.configuration
        var logger = Logger(label: "isotherm", factory: { StreamLogHandler.standardError(label: $0) })
        logger.logLevel = logLevel
        let reporter = logger
        configuration.telemetry.report = { reporter.warning("\($0)") }

        Self.raiseDescriptorLimit()
        let server: PushServer
        do { server = try PushServer(configuration: configuration, logger: logger) } catch {
            Terminal.note("Error: \(error)")
            throw ExitCode.failure
        }
        // A device that is gone is an error of one write, not the end of the program.
        signal(SIGPIPE, SIG_IGN)
        // A limit on the size of files is a full disk, not the end either.
        signal(SIGXFSZ, SIG_IGN)
        let group = ServiceGroup(
            configuration: .init(
                services: [
                    .init(service: server, successTerminationBehavior: .gracefullyShutdownGroup),
                    .init(service: CertificateReload(server: server)),
                ],
                gracefulShutdownSignals: [.sigterm, .sigint], logger: logger))
        let announcement = Task { [configuration] in
            if let ports = try? await server.boundPorts {
                Terminal.note(Self.greeting(configuration, port: ports.plain, securePort: ports.secure))
            }
        }
        do { try await group.run() } catch {
            let isOurs = error is ConfigurationError
            Terminal.note(
                isOurs
                    ? "Error: \(error)"
                    : "Error: cannot listen on \(configuration.host):\(configuration.port): \(error)")
            throw ExitCode.failure
        }
        await announcement.value
        Terminal.note("\(server.telemetry.ledger)")
        Terminal.note("heatmap: \(server.heatmap.ledger)")
    }

    private func flags() throws -> [(key: String, value: String)] {
        var flags: [(key: String, value: String)] = []
        for setting in settings {
            guard let equals = setting.firstIndex(of: "=") else {
                throw SettingError("--set \(setting): write key=value, for example gateway.durability=written")
            }
            flags.append((String(setting[..<equals]), String(setting[setting.index(after: equals)...])))
        }
        if let listen { flags.append(("listen", listen)) }
        if let data { flags.append(("data", data)) }
        return flags
    }

    /// As far as this process may; connections are kept below it.
    private static func raiseDescriptorLimit() {
        var limit = rlimit()
        let resource = __rlimit_resource_t(RLIMIT_NOFILE.rawValue)
        guard getrlimit(resource, &limit) == 0, limit.rlim_cur < limit.rlim_max else { return }
        limit.rlim_cur = limit.rlim_max
        _ = setrlimit(resource, &limit)
    }

    private static func greeting(_ configuration: PushServerConfiguration, port: Int, securePort: Int?) -> String {
        let host = configuration.host.contains(":") ? "[\(configuration.host)]" : configuration.host
        let url = "http://\(host):\(port)"
        let secure = securePort.map { ", and with TLS on port \($0)" } ?? ""
        let tracing =
            configuration.telemetry.endpoint.map { "exports to \($0)" }
            ?? "off; OTEL_EXPORTER_OTLP_ENDPOINT says where spans go"
        let who =
            configuration.gateway.tenants.isEmpty
            ? "everybody who reaches this address" : configuration.gateway.tenants.map(\.name).joined(separator: ", ")
        return """
            isotherm \(TelemetrySDK.version) listens on \(url)\(secure)
              listen    curl -N '\(url)/v1/events/orders?group=iOS-15+'
              publish   curl -d '{"a":1}' \(url)/v1/events/orders
              heatmap   \(url)/heatmap
              metrics   \(url)/metrics
              tenants   \(who)
              data      \(configuration.store.directory), \(configuration.gateway.durability.rawValue) before each 202
              tracing   \(tracing)
            """
    }
}

/// SIGHUP reads the certificate again.
private struct CertificateReload: Service {
    let server: PushServer

    func run() async throws {
        let signals = await UnixSignalsSequence(trapping: .sighup)
        for await _ in signals.cancelOnGracefulShutdown() { server.reloadCertificate() }
    }
}

extension Logger.Level: @retroactive ExpressibleByArgument {}
