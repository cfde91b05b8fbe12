import Foundation
import LatencyHeatmap
import Synchronization
import TestSupport
import Testing

@testable import isotherm

/// The command line's reader of files, over files that Python has written.
@Suite("Reading OTLP files into a heatmap")
struct HeatmapFileReaderTests {
    private let directory = NSTemporaryDirectory() + "isotherm-files-\(UInt64.random(in: 0 ... .max))"

    /// Spans as JSON lines and as protobuf with lengths, plain and gzip, 300 in each file; an exponential histogram of 400
    /// points' values, both ways; and logs. Each span and each histogram is there once.
    private static let program = """
        import gzip, json, os, random, struct, sys
        from google.protobuf.json_format import MessageToDict
        from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
        random.seed(4)
        start = 1795420800 * 10 ** 9
        def spans():
            request = ExportTraceServiceRequest()
            scope = request.resource_spans.add().scope_spans.add()
            for _ in range(100):
                span = scope.spans.add()
                span.trace_id, span.span_id, span.name = random.randbytes(16), random.randbytes(8), 'GET /'
                span.start_time_unix_nano = start + random.randrange(10 ** 9)
                span.end_time_unix_nano = span.start_time_unix_nano + random.randrange(1, 10 ** 9)
            return request
        def metrics():
            request = ExportMetricsServiceRequest()
            metric = request.resource_metrics.add().scope_metrics.add().metrics.add()
            metric.name, metric.unit = 'http.server.request.duration', 's'
            metric.exponential_histogram.aggregation_temporality = 1
            point = metric.exponential_histogram.data_points.add()
            point.time_unix_nano, point.start_time_unix_nano = start + 7 * 10 ** 9, start + random.randrange(10 ** 9)
            point.count, point.scale, point.sum = 400, 6, 40.0
            point.positive.offset = -220
            point.positive.bucket_counts.extend([100, 100, 200])
            return request
        def logs():
            request = ExportLogsServiceRequest()
            record = request.resource_logs.add().scope_logs.add().log_records.add()
            record.time_unix_nano, record.body.string_value = start, 'hello'
            return request
        def lines(messages):
            objects = [MessageToDict(m, use_integers_for_enums=True) for m in messages]
            for o in objects:
                for group in o.get('resourceSpans', []):
                    for span in group['scopeSpans'][0]['spans']: del span['traceId'], span['spanId']
            return ''.join(json.dumps(o) + '\\n' for o in objects).encode()
        def framed(messages):
            return b''.join(struct.pack('>I', len(b)) + b for b in (m.SerializeToString() for m in messages))
        os.makedirs(sys.argv[1])
        for name, make in [('spans', spans), ('metrics', metrics), ('logs', logs)]:
            for form, write in [('json', lines), ('pb', framed)]:
                for end, pack in [('', bytes), ('.gz', gzip.compress)]:
                    with open(f'{sys.argv[1]}/{name}.{form}{end}', 'wb') as f:
                        f.write(pack(write([make() for _ in range(3)])))
        """

    private func write() throws { _ = try Peers.python(Self.program, [directory]) }

    private func engine() throws -> HeatmapEngine { try HeatmapEngine(configuration: .files()) }

    @Test("spans and histograms are counted from every form, and progress ends at the files' size")
    func everyForm() throws {
        try write()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let names = ["spans", "metrics"].flatMap { name in
            ["json", "pb", "json.gz", "pb.gz"].map { "\(directory)/\(name).\($0)" }
        }
        let sizes = try names.map {
            try #require(FileManager.default.attributesOfItem(atPath: $0)[.size] as? NSNumber).uint64Value
        }
        let engine = try engine()
        let seen = Mutex<[(read: UInt64, total: UInt64)]>([])
        try HeatmapFileReader(engine: engine) { read, total in seen.withLock { $0.append((read, total)) } }.read(names)
        // 4 files of 3 requests: of 100 spans, or of a histogram with 400 values.
        #expect(engine.ledger.counted == 1_200)
        #expect(engine.histogramLedger.counted == 12)
        #expect(engine.ledger.latencies == 1_200 + 12 * 400)
        let progress = seen.withLock { $0 }
        #expect(progress.map(\.read) == progress.map(\.read).sorted())
        #expect(progress.last?.read == sizes.reduce(0, +))
        #expect(Set(progress.map(\.total)) == [sizes.reduce(0, +)])
    }

    @Test("the total is unknown when one of the sources is a pipe")
    func pipe() throws {
        try write()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let pipe = "\(directory)/pipe"
        try #require(mkfifo(pipe, 0o600) == 0)
        let bytes = try Data(contentsOf: URL(fileURLWithPath: "\(directory)/spans.pb"))
        let writer = Thread { try? bytes.write(to: URL(fileURLWithPath: pipe), options: []) }
        writer.start()
        let engine = try engine()
        let totals = Mutex<Set<UInt64>>([])
        try HeatmapFileReader(engine: engine) { _, total in totals.withLock { _ = $0.insert(total) } }
            .read(["\(directory)/spans.json", pipe])
        #expect(totals.withLock { $0 } == [0])
        #expect(engine.ledger.counted == 600)
    }

    @Test("the first source that cannot be read is named, and the others are read all the same")
    func failures() throws {
        try write()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        for form in ["json", "pb", "pb.gz"] {
            let engine = try engine()
            let logs = "\(directory)/logs.\(form)"
            let error = #expect(throws: SettingError.self) {
                try HeatmapFileReader(engine: engine)
                    .read(["\(directory)/spans.pb", logs, "\(directory)/absent", "\(directory)/spans.json.gz"])
            }
            #expect(error?.description == "\(logs): logs have no latencies; give a file of traces or of metrics")
            #expect(engine.ledger.counted == 600)
        }
        let absent = #expect(throws: SettingError.self) {
            try HeatmapFileReader(engine: engine()).read(["\(directory)/absent"])
        }
        #expect(absent?.description.contains("absent cannot be read (No such file or directory)") == true)
        // Half a message, and half a gzip stream.
        for (name, kept) in [("spans.pb", 9_000), ("spans.pb.gz", 3_000)] {
            let cut = "\(directory)/cut"
            try Data(contentsOf: URL(fileURLWithPath: "\(directory)/\(name)")).prefix(kept)
                .write(to: URL(fileURLWithPath: cut))
            let error = #expect(throws: (any Error).self) { try HeatmapFileReader(engine: engine()).read([cut]) }
            #expect("\(error as Any)".contains(cut))
        }
    }
}
