import CoreMetrics
import Dispatch
import Glibc
import Instrumentation
import Logging
import Synchronization
import Telemetry
import Tracing

/// Traces, metrics and logs of a service in one call.
///
///     let telemetry = try ServiceTelemetry.bootstrap(serviceName: "orders", serviceVersion: "1.4.2")
///     defer { telemetry.shutdown() }
///
/// Everything else comes from OpenTelemetry's variables, first of all `OTEL_EXPORTER_OTLP_ENDPOINT`: without an endpoint
/// nothing leaves the process. From then on, swift-distributed-tracing, swift-metrics and swift-log lead to the
/// collector, and log lines to standard error as well.
public final class ServiceTelemetry: Sendable {
    public let sdk: TelemetrySDK
    /// What the environment says that cannot be used. It has been written to standard error too.
    public let warnings: [String]

    public struct Systems: OptionSet, Sendable {
        public let rawValue: Int
        public init(rawValue: Int) { self.rawValue = rawValue }

        public static let tracing = Systems(rawValue: 1)
        public static let metrics = Systems(rawValue: 2)
        public static let logging = Systems(rawValue: 4)
        public static let all: Systems = [.tracing, .metrics, .logging]
    }

    private init(_ sdk: TelemetrySDK, _ warnings: [String]) {
        self.sdk = sdk
        self.warnings = warnings
    }

    /// Once in a process, before the first logger, counter or span is made: those from before stay without a backend.
    ///
    /// - Parameters:
    ///   - serviceName: used unless `OTEL_SERVICE_NAME` or `OTEL_RESOURCE_ATTRIBUTES` has another.
    ///   - environment: nil for that of the process.
    ///   - logLevel: of new loggers.
    ///   - writesToStandardError: also writes log lines there, with the trace's ids.
    ///   - metadataProvider: adds to every log line.
    ///   - configure: changes what was read from the environment.
    /// - Throws: `BootstrapError` when a system has its backend already. Then nothing has been changed.
    public static func bootstrap(
        serviceName: String? = nil, serviceVersion: String? = nil, systems: Systems = .all,
        environment: [String: String]? = nil, logLevel: Logger.Level = .info, writesToStandardError: Bool = true,
        metadataProvider: Logger.MetadataProvider? = nil,
        configure: (inout TelemetryConfiguration) -> Void = { _ in }
    ) throws(BootstrapError) -> ServiceTelemetry {
        if bootstrapped.exchange(true, ordering: .acquiringAndReleasing) { throw BootstrapError(code: .secondCall) }
        if let code = occupied(systems) {
            bootstrapped.store(false, ordering: .releasing)
            throw BootstrapError(code: code)
        }
        let own = Logger(label: "isotherm.telemetry") { StreamLogHandler.standardError(label: $0) }
        var (configuration, warnings) = TelemetryConfiguration.fromEnvironment(
            environment ?? Self.environment, serviceName: serviceName, serviceVersion: serviceVersion)
        for warning in warnings { own.warning("\(warning)") }
        // Not to the collector: what it is about is the way there.
        configuration.report = { own.warning("\($0)") }
        configure(&configuration)
        let sdk = TelemetrySDK(configuration: configuration)
        if systems.contains(.tracing) { InstrumentationSystem.bootstrap(BridgedTracer(sdk)) }
        if systems.contains(.metrics) { MetricsSystem.bootstrap(BridgedMetrics(sdk)) }
        if systems.contains(.logging) {
            LoggingSystem.bootstrap(
                { label, provider in
                    logHandler(label, provider, sdk, logLevel, writesToStandardError: writesToStandardError)
                }, metadataProvider: metadataProvider)
        }
        return ServiceTelemetry(sdk, warnings)
    }

    private static let bootstrapped = Atomic(false)

    /// A second bootstrap traps in these packages, so what can be seen from outside is looked at first.
    private static func occupied(_ systems: Systems) -> BootstrapError.Code? {
        if systems.contains(.tracing), !(InstrumentationSystem.instrument is NoOpInstrument) { return .tracing }
        if systems.contains(.metrics), !(MetricsSystem.factory is NOOPMetricsHandler) { return .metrics }
        if systems.contains(.logging), !(Logger(label: "").handler is StreamLogHandler) { return .logging }
        return nil
    }

    private static func logHandler(
        _ label: String, _ provider: Logger.MetadataProvider?, _ sdk: TelemetrySDK, _ level: Logger.Level,
        writesToStandardError: Bool
    ) -> any LogHandler {
        let sent = BridgedLogHandler(label: label, sdk, logLevel: level, metadataProvider: provider)
        guard writesToStandardError else { return sent }
        let providers = [provider, Logger.MetadataProvider.traceContext].compactMap { $0 }
        var written = StreamLogHandler.standardError(label: label, metadataProvider: .multiplex(providers))
        written.logLevel = level
        return MultiplexLogHandler([written, sent])
    }

    private static var environment: [String: String] {
        var variables: [String: String] = [:]
        var place = environ
        while let entry = place.pointee {
            let text = String(cString: entry)
            if let equals = text.firstIndex(of: "=") {
                variables[String(text[..<equals])] = String(text[text.index(after: equals)...])
            }
            place += 1
        }
        return variables
    }

    // MARK: The end

    /// Sends what has ended before the call. Blocks until it is done or the deadline has passed.
    @discardableResult
    public func flush(deadline: Duration = .seconds(5)) -> FlushReport { sdk.flush(deadline: deadline) }

    /// Sends what there is, and ends the threads. Blocks for at most the deadline. The report says what was not delivered.
    @discardableResult
    public func shutdown(deadline: Duration = .seconds(5)) -> FlushReport { sdk.shutdown(deadline: deadline) }

    /// The same without holding up a thread of Swift's concurrency.
    @discardableResult
    public func shutdown(deadline: Duration = .seconds(5)) async -> FlushReport {
        await withCheckedContinuation { continuation in
            DispatchQueue.global().async { [sdk] in continuation.resume(returning: sdk.shutdown(deadline: deadline)) }
        }
    }
}

/// Why telemetry was not set up.
public struct BootstrapError: Error, Equatable, CustomStringConvertible {
    public enum Code: String, Sendable {
        case secondCall = "second_call"
        case tracing, metrics, logging
    }

    public let code: Code

    public var description: String {
        switch code {
        case .secondCall:
            "ServiceTelemetry.bootstrap was called before; once in a process is all that the packages allow. Keep what "
                + "the first call has returned"
        case .tracing: taken("InstrumentationSystem")
        case .metrics: taken("MetricsSystem")
        case .logging: taken("LoggingSystem")
        }
    }

    private func taken(_ system: String) -> String {
        "\(system).bootstrap was called before, with another backend. Leave that call out, or leave .\(code.rawValue) out "
            + "of systems"
    }
}
