import Foundation
import OTLP
import TestSupport
import Testing

@testable import Telemetry

@Suite("Metrics and logs through the exporter")
struct SignalExportTests {
    private static let make = """
        import sys
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import *
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import *
        from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import *
        if sys.argv[1] == "response":
            sys.stdout.buffer.write(ExportMetricsServiceResponse(partial_success=dict(rejected_data_points=2)).SerializeToString())
        if sys.argv[1] == "metrics":
            request = ExportMetricsServiceRequest()
            metrics = request.resource_metrics.add().scope_metrics.add().metrics
            one = metrics.add(name="requests")
            for value in range(3): one.sum.data_points.add(as_int=value)
            two = metrics.add(name="duration")
            for value in range(2): two.exponential_histogram.data_points.add(count=value + 1)
            sys.stdout.buffer.write(request.SerializeToString())
        if sys.argv[1] == "logs":
            request = ExportLogsServiceRequest()
            records = request.resource_logs.add().scope_logs.add().log_records
            for value in range(5): records.add(event_name=str(value))
            sys.stdout.buffer.write(request.SerializeToString())
        """

    private static let points = """
        import sys
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
        for metric in ExportMetricsServiceRequest.FromString(sys.stdin.buffer.read()).resource_metrics[0].scope_metrics[0].metrics:
            print(metric.name, len(getattr(metric, metric.WhichOneof("data")).data_points), end=" ")
        """

    private func body(_ kind: String) throws -> [UInt8] {
        Array(try Peers.python(Self.make, [kind]).standardOutput)
    }

    private func export(_ signal: Signal, _ batches: [Batch], to receiver: Receiver) -> ExportLedger {
        var configuration = TelemetryConfiguration()
        configuration[signal].endpoint = "http://127.0.0.1:\(receiver.port)/\(signal.path)"
        let exporter = Exporter(configuration: configuration, signal: signal)
        let thread = BackgroundThread(name: "test-exporter") { exporter.run() }
        for batch in batches { exporter.enqueue(batch) }
        #expect(exporter.finishTaken(until: .now + .seconds(20)))
        exporter.stop()
        thread.join()
        // Too late: nobody sends it, and it is counted.
        exporter.enqueue(Batch(body: [], itemCount: 7))
        #expect(exporter.ledger.dropped[.shutdown] == 7 && exporter.ledger.queued == 0)
        return exporter.ledger
    }

    @Test(
        "a finished request goes out as it is, in order, and its items are counted", arguments: [Signal.metrics, .logs])
    func finished(signal: Signal) throws {
        let receiver = try Receiver()
        defer { receiver.stop() }
        let body = try body(signal.rawValue)
        let ledger = export(
            signal, [Batch(body: body, itemCount: 5), Batch(body: [], itemCount: 0), Batch(body: body, itemCount: 5)],
            to: receiver)
        #expect(ledger.taken == 17 && ledger.exported == 10)
        #expect(receiver.bodies == [body, body])
        #expect(receiver.requests.allSatisfy { $0.target.hasPrefix("POST /v1/\(signal.rawValue) ") })
    }

    @Test("data points that are rejected are counted, and metrics are split by data points (cases 15 and 17)")
    func points() throws {
        let receiver = try Receiver(replies: [
            .status(413), .status(200, body: try body("response")), .status(413), .status(413), .ok, .ok,
        ])
        defer { receiver.stop() }
        let ledger = export(.metrics, [Batch(body: try body("metrics"), itemCount: 5)], to: receiver)
        // 5 points: 2 of which both are rejected; 3, refused, are 1 that is refused alone, and 2 that are taken.
        let sizes = try receiver.bodies.map { try Peers.python(Self.points, input: Data($0)).text }
        #expect(
            sizes == ["requests 3 duration 2 ", "requests 2 ", "requests 1 duration 2 ", "requests 1 ", "duration 2 "])
        #expect(ledger.rejected == 2 && ledger.dropped[.oversize] == 1 && ledger.exported == 2)
    }

    @Test("an exporter that is told to stop leaves on disk what cannot be sent, for each signal by itself")
    func stop() throws {
        let directory = NSTemporaryDirectory() + "isotherm-signals-" + UUID().uuidString
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let down = try Receiver(otherwise: .status(503))
        defer { down.stop() }
        for signal in [Signal.metrics, .logs] {
            var configuration = TelemetryConfiguration()
            configuration.diskQueue = DiskQueueSettings(directory: directory)
            configuration[signal].endpoint = "http://127.0.0.1:\(down.port)/\(signal.path)"
            let exporter = Exporter(configuration: configuration, signal: signal)
            let thread = BackgroundThread(name: "test-exporter") { exporter.run() }
            for _ in 0..<3 { exporter.enqueue(Batch(body: try body(signal.rawValue), itemCount: 5)) }
            #expect(eventually { exporter.diskQueueStatus.items == 15 })
            exporter.stop()
            thread.join()
            #expect(exporter.ledger.queued == 15 && exporter.ledger.totalDropped == 0)
        }
        let left = try DiskQueue(directory: "\(directory)/logs", maxBytes: 1 << 20)
        #expect(left.status.items == 15)
        #expect(left.takeHead()?.body == (try body("logs")))
    }
}
