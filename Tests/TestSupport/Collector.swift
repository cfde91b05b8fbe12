import Foundation

/// `rotel`, a collector of somebody else's make: OTLP in, OTLP out.
public final class RotelCollector: Sendable {
    public let port: Int
    private let process: ChildProcess

    public var endpoint: String { "http://127.0.0.1:\(port)" }

    /// Forwards traces to `/v1/traces` under `exporterEndpoint`.
    /// - Parameter port: 0 takes a free one.
    public init(exporterEndpoint: String, port: Int = 0) throws {
        let site = Peers.buildTools.appendingPathComponent("lib")
        let versions = try FileManager.default.contentsOfDirectory(atPath: site.path)
        guard
            let agent = versions.map({ site.appendingPathComponent("\($0)/site-packages/rotel/rotel-agent").path })
                .first(where: { FileManager.default.isExecutableFile(atPath: $0) })
        else { throw Wait.TimedOut(description: "no rotel under \(site.path); make test installs it") }
        let port = port == 0 ? Peers.freePort() : port
        self.port = port
        process = try ChildProcess(
            agent,
            [
                "start", "--otlp-http-endpoint", "127.0.0.1:\(port)", "--otlp-grpc-endpoint",
                "127.0.0.1:\(Peers.freePort())", "--exporter", "otlp", "--otlp-exporter-endpoint", exporterEndpoint,
                "--otlp-exporter-protocol", "http", "--batch-timeout", "200ms",
            ])
        try Wait.until("rotel listens") { (try? RawConnection(port: port)) != nil }
    }

    /// Flushes what it holds.
    public func stop() { process.stop() }

    /// Ends it at once, with whatever it holds.
    public func kill() { process.stop(SIGKILL) }
}

/// An OTLP endpoint that keeps what it gets, for the official protobuf classes to decode.
public final class OTLPSink: Sendable {
    public let port: Int
    private let process: ChildProcess
    /// One file per request, in order: `NUMBER.traces.pb`, `NUMBER.metrics.pb`, `NUMBER.logs.pb`.
    public let directory: String

    public var endpoint: String { "http://127.0.0.1:\(port)" }

    public init() throws {
        directory = IsothermProcess.temporaryDirectory()
        process = try ChildProcess(Peers.python, ["-u", "-c", Self.program, directory])
        guard let port = Int(try process.waitForLine("port ")) else {
            throw Wait.TimedOut(description: "the sink named no port")
        }
        self.port = port
    }

    deinit { try? FileManager.default.removeItem(atPath: directory) }

    /// One span as the official classes have read it.
    public struct Span: Decodable, Sendable {
        public let name: String
        public let kind: Int
        public let traceID: String
        public let spanID: String
        public let parentID: String
        public let start: UInt64
        public let end: UInt64
        public let attributes: [String: String]
        public let service: String
    }

    /// All spans so far.
    public func spans() throws -> [Span] {
        let output = try Peers.python(Self.decoder, [directory])
        return try output.text.split(separator: "\n").map {
            try JSONDecoder().decode(Span.self, from: Data($0.utf8))
        }
    }

    private static let program = """
        import gzip, os, sys, threading
        from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
        lock, count = threading.Lock(), [0]
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                with lock:
                    count[0] += 1
                    name = os.path.join(sys.argv[1], "%06d" % count[0])
                with open(name + ".part", "wb") as file:
                    file.write(body)
                signal = self.path.split("/")[-1]
                os.rename(name + ".part", name + "." + signal + ".pb")
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()
            def log_message(self, *arguments):
                pass
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        print("port", server.server_port)
        server.serve_forever()
        """

    private static let decoder = """
        import glob, json, sys
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
        def text(value):
            kind = value.WhichOneof("value")
            return str(getattr(value, kind)) if kind else ""
        for name in sorted(glob.glob(sys.argv[1] + "/*.traces.pb")):
            request = ExportTraceServiceRequest.FromString(open(name, "rb").read())
            for resource in request.resource_spans:
                service = {a.key: text(a.value) for a in resource.resource.attributes}.get("service.name", "")
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        print(json.dumps({
                            "name": span.name, "kind": span.kind, "traceID": span.trace_id.hex(),
                            "spanID": span.span_id.hex(), "parentID": span.parent_span_id.hex(),
                            "start": span.start_time_unix_nano, "end": span.end_time_unix_nano,
                            "attributes": {a.key: text(a.value) for a in span.attributes}, "service": service}))
        """
}
