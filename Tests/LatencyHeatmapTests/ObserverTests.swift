import LatencyHeatmap
import OTLP
import Telemetry
import Testing

@Suite("A heatmap beside a tracer")
struct ObserverTests {
    @Test("a heatmap that observes a tracer counts every span, also those that are not exported")
    func observer() throws {
        let heatmap = try HeatmapEngine()
        var configuration = TelemetryConfiguration()
        configuration.sampler = .alwaysRecord(.alwaysOff)
        configuration.observer = { request in
            do { try heatmap.ingest(protobuf: request) } catch { Issue.record(error) }
        }
        let telemetry = TelemetrySDK(configuration: configuration)
        for index in 0..<200 {
            let span = telemetry.tracer.startSpan("request", kind: .server)
            span.setAttribute("device.group", index % 4 == 0 ? "cars" : "phones")
            span.end()
        }
        telemetry.shutdown(deadline: .seconds(10))
        #expect(heatmap.ledger.counted == 200 && heatmap.ledger.isBalanced, "\(heatmap.ledger)")
        #expect(telemetry.ledger.sampledOut == 200 && telemetry.ledger.isBalanced, "\(telemetry.ledger)")
        let grid = try heatmap.snapshot(query: HeatmapQuery())
        #expect(grid.rows.map(\.group) == ["cars", "phones"])
        #expect(grid.rows.map(\.total.count) == [50, 150])
    }
}
