import Logging
import Telemetry
import TestSupport
import Testing
import Tracing
import TracingBridge

@Suite("Telemetry behind swift-log")
struct LoggingTests {
    private struct Broken: Error, CustomStringConvertible {
        var description: String { "the pump is dry" }
    }

    /// What the official classes read of what `body` logs.
    private func records(
        _ provider: Logger.MetadataProvider? = nil, _ body: (Logger, TelemetrySDK) -> Void
    ) throws -> [ReceivedLog] {
        let sink = try OTLPSink()
        let telemetry = TelemetrySDK(
            configuration: TelemetryConfiguration.fromEnvironment([
                "OTEL_EXPORTER_OTLP_ENDPOINT": sink.endpoint
            ]).configuration)
        let logger = Logger(label: "shop") { label in
            BridgedLogHandler(label: label, telemetry, logLevel: .trace, metadataProvider: provider)
        }
        body(logger, telemetry)
        telemetry.shutdown(deadline: .seconds(10))
        return try sink.receivedLogs()
    }

    @Test("levels are mapped as OpenTelemetry maps syslog's")
    func severities() throws {
        let records = try records { logger, _ in
            for level in Logger.Level.allCases { logger.log(level: level, "\(level)") }
        }
        // Logs data model, appendix B: Debug 5, Informational 9, Notice 10, Warning 13, Error 17, Critical 18.
        #expect(records.map(\.severity) == [1, 5, 9, 10, 13, 17, 18])
        #expect(records.map(\.severityText) == ["trace", "debug", "info", "notice", "warning", "error", "critical"])
        #expect(records.map(\.body) == records.map { "string " + $0.severityText })
        #expect(records.allSatisfy { $0.scope == "shop" && $0.schema == ResourceDetection.schemaURL })
        #expect(records.allSatisfy { $0.trace.isEmpty && $0.span.isEmpty && $0.time > 1_700_000_000_000_000_000 })
    }

    @Test("a record belongs to the span in which it was made")
    func correlation() throws {
        var ids: [String?] = []
        let records = try records { logger, telemetry in
            BridgedTracer(telemetry).withSpan("s") { span in
                ids = [span.context.spanContext?.traceID.description, span.context.spanContext?.spanID.description]
                logger.info("inside")
            }
            logger.info("outside")
        }
        #expect([records[0].trace, records[0].span] == ids && records[0].trace.count == 32)
        #expect(records[0].flags & 1 == 1)
        #expect(records[1].trace.isEmpty && records[1].flags == 0)
    }

    @Test("metadata becomes attributes, nested as it is; the nearer source wins")
    func metadata() throws {
        let provider = Logger.MetadataProvider { ["from": "provider", "provided": "yes"] }
        let records = try records(provider) { logger, _ in
            var logger = logger
            logger[metadataKey: "from"] = "logger"
            logger[metadataKey: "kept"] = "logger"
            logger.info("first", metadata: ["from": "record"])
            logger.info(
                "second",
                metadata: [
                    "order": ["id": .stringConvertible(17), "tags": ["a", .stringConvertible(true)]],
                    "ratio": .stringConvertible(0.5), "byte": .stringConvertible(UInt8(7)),
                    "large": .stringConvertible(UInt64.max), "other": .stringConvertible(Broken()), "": "no key",
                ])
        }
        let first = records[0].attributes.filter { !$0.key.hasPrefix("code.") }
        #expect(first == ["from": "string record", "provided": "string yes", "kept": "string logger"])
        let second = records[1].attributes
        #expect(second["from"] == "string provider")
        #expect(second["order"] == "kvlist {id: int 17, tags: array [string a, bool true]}")
        #expect(second["ratio"] == "double 0.5" && second["byte"] == "int 7")
        #expect(second["large"] == "string 18446744073709551615" && second["other"] == "string the pump is dry")
        #expect(second[""] == nil)
    }

    @Test("the place in the source and an error follow the conventions")
    func sourceAndError() throws {
        let line = #line + 2
        let records = try records { logger, _ in
            logger.error("failed", error: Broken())
        }
        let attributes = try #require(records.first).attributes
        #expect(attributes["code.line.number"] == "int \(line)")
        #expect(attributes["code.file.path"] == "string \(#fileID)")
        #expect(attributes["code.function.name"] == "string TracingBridgeTests.sourceAndError()")
        #expect(attributes["exception.message"] == "string the pump is dry")
        #expect(attributes["exception.type"] == "string \(String(reflecting: Broken.self))")
        let program = """
            import sys
            from opentelemetry.semconv._incubating.attributes import code_attributes, exception_attributes
            known = list(vars(code_attributes).values()) + list(vars(exception_attributes).values())
            print([name for name in sys.argv[1].split() if name not in known])
            """
        #expect(try Peers.python(program, [attributes.keys.joined(separator: " ")]).text == "[]\n")
    }

    @Test("other handlers get the ids as metadata")
    func metadataProvider() {
        let telemetry = TelemetrySDK()
        var context = ServiceContext.topLevel
        context.spanContext = TraceContext.parse(
            traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
        let inside = ServiceContext.$current.withValue(context) { Logger.MetadataProvider.traceContext.get() }
        // https://opentelemetry.io/docs/specs/otel/compatibility/logging_trace_context/
        #expect(
            inside == [
                "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "span_id": "00f067aa0ba902b7", "trace_flags": "01",
            ])
        #expect(Logger.MetadataProvider.traceContext.get().isEmpty)
        telemetry.shutdown(deadline: .zero)
    }
}
