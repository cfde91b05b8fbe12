import CoreMetrics
import Foundation
import Logging
import Telemetry
import TestSupport
import Testing
import Tracing
import TracingBridge

/// A process has one backend for each system, so each of these runs in a process of its own.
@Suite("One call for traces, metrics and logs")
struct BootstrapTests {
    @Test("everything that a service says arrives, connected, and standard error has the lines too")
    func everything() async throws {
        let sink = try OTLPSink()
        setenv("ISOTHERM_TEST_ENDPOINT", sink.endpoint, 1)
        let result = await #expect(processExitsWith: .success, observing: [\.standardErrorContent]) {
            let endpoint = ProcessInfo.processInfo.environment["ISOTHERM_TEST_ENDPOINT"] ?? ""
            let telemetry = try ServiceTelemetry.bootstrap(
                serviceName: "shop", serviceVersion: "1.4.2",
                environment: ["OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_TRACES_SAMPLER": "nonsense"])
            #expect(telemetry.warnings.count == 1)
            let logger = Logger(label: "orders")
            await withSpan("outer", ofKind: .server) { _ in
                await Task.yield()
                withSpan("inner") { span in span.attributes["n"] = 1 }
                Counter(label: "placed").increment(by: 3)
                logger.notice("placed", metadata: ["n": .stringConvertible(3)])
            }
            let report = await telemetry.shutdown()
            #expect(report.undelivered == 0 && telemetry.sdk.ledger.isBalanced)
        }
        let spans = try sink.receivedSpans()
        let outer = try #require(spans.first { $0.name == "outer" })
        let inner = try #require(spans.first { $0.name == "inner" })
        #expect(spans.count == 2 && inner.parent == outer.span && inner.trace == outer.trace)
        let placed = try sink.receivedPoints().filter { $0.metric == "placed" }
        #expect(placed.map(\.value) == [3])
        let logs = try sink.receivedLogs()
        #expect(logs.map(\.body) == ["string placed"] && logs.map(\.scope) == ["orders"])
        #expect(logs.first?.trace == outer.trace && logs.first?.span == outer.span)
        #expect(logs.first?.attributes["n"] == "int 3" && logs.first?.severity == 10)
        let text = String(decoding: result?.standardErrorContent ?? [], as: UTF8.self)
        #expect(text.contains("OTEL_TRACES_SAMPLER=nonsense"))
        let line = text.split(separator: "\n").first { $0.contains("placed") && $0.contains("orders") }
        #expect(line?.contains("trace_id=\(outer.trace)") == true && line?.contains("span_id=\(outer.span)") == true)
    }

    @Test("without an endpoint nothing leaves, and everything still works")
    func noEndpoint() async {
        await #expect(processExitsWith: .success) {
            let telemetry = try ServiceTelemetry.bootstrap(environment: [:], writesToStandardError: false)
            withSpan("s") { span in #expect(!span.isRecording) }
            Counter(label: "c").increment()
            Logger(label: "l").info("nothing")
            #expect(telemetry.shutdown().undelivered == 0)
        }
    }

    @Test("a second call says so, and the first goes on")
    func secondCall() async {
        await #expect(processExitsWith: .success) {
            let telemetry = try ServiceTelemetry.bootstrap(environment: [:])
            let error = #expect(throws: BootstrapError.self) { try ServiceTelemetry.bootstrap(environment: [:]) }
            #expect(error?.code == .secondCall && error?.description.contains("called before") == true)
            #expect(InstrumentationSystem.instrument is BridgedTracer)
            telemetry.shutdown()
        }
    }

    @Test("a system that has another backend is named, and nothing is changed")
    func occupied() async {
        await #expect(processExitsWith: .success) {
            struct Other: Instrument {
                func extract<Carrier, Extract: Extractor>(
                    _ carrier: Carrier, into context: inout ServiceContext, using extractor: Extract
                ) where Extract.Carrier == Carrier {}
                func inject<Carrier, Inject: Injector>(
                    _ context: ServiceContext, into carrier: inout Carrier, using injector: Inject
                ) where Inject.Carrier == Carrier {}
            }
            InstrumentationSystem.bootstrap(Other())
            let error = #expect(throws: BootstrapError.self) { try ServiceTelemetry.bootstrap(environment: [:]) }
            #expect(error?.code == .tracing && error?.description.contains("InstrumentationSystem") == true)
            #expect(MetricsSystem.factory is NOOPMetricsHandler)
            // Without that system it goes.
            let telemetry = try ServiceTelemetry.bootstrap(systems: [.metrics, .logging], environment: [:])
            #expect(MetricsSystem.factory is BridgedMetrics && InstrumentationSystem.instrument is Other)
            telemetry.shutdown()
        }
        await #expect(processExitsWith: .success) {
            LoggingSystem.bootstrap { _ in SwiftLogNoOpLogHandler() }
            let error = #expect(throws: BootstrapError.self) { try ServiceTelemetry.bootstrap(environment: [:]) }
            #expect(error?.code == .logging)
        }
        await #expect(processExitsWith: .success) {
            MetricsSystem.bootstrap(MultiplexMetricsHandler(factories: []))
            let error = #expect(throws: BootstrapError.self) { try ServiceTelemetry.bootstrap(environment: [:]) }
            #expect(error?.code == .metrics)
        }
    }
}
