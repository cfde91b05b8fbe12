import Hummingbird
import Logging
import Metrics
import Tracing
import TracingBridge

/// A small shop, instrumented by Hummingbird's own middleware and nothing else. Run it beside a collector:
///
///     OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318 swift run hummingbird-app 8081
///     curl http://127.0.0.1:8081/orders/17
@main
struct HummingbirdApp {
    static func main() async throws {
        let telemetry = try ServiceTelemetry.bootstrap(serviceName: "shop", serviceVersion: "1.0.0")
        let logger = Logger(label: "shop")

        let router = Router()
        router.add(middleware: TracingMiddleware())
        router.add(middleware: MetricsMiddleware())
        router.add(middleware: LogRequestsMiddleware(.info))
        router.get("/orders/:id") { _, context -> String in
            let id = try context.parameters.require("id", as: Int.self)
            return try withSpan("load order", ofKind: .client) { span in
                span.attributes["order.id"] = id
                Counter(label: "shop.orders.loaded").increment()
                guard id < 1_000 else { throw HTTPError(.notFound, message: "there is no order \(id)") }
                logger.info("order loaded", metadata: ["order": ["id": .stringConvertible(id), "state": "paid"]])
                return "order \(id)\n"
            }
        }

        let port = CommandLine.arguments.dropFirst().first.flatMap { Int($0) } ?? 8_081
        let application = Application(
            router: router, configuration: .init(address: .hostname("127.0.0.1", port: port)), logger: logger)
        // Returns after SIGTERM or SIGINT, when the last request has been answered.
        try await application.runService()
        await telemetry.shutdown()
    }
}
