import Foundation
import Telemetry
import TestSupport
import Testing

/// Certificates made by `openssl`, a server of Python's `ssl` module.
@Suite("Export over TLS")
struct TLSTests {
    /// An authority, a server's certificate and a client's by it, and an authority that signed nothing.
    private final class Certificates {
        let directory = NSTemporaryDirectory() + "isotherm-tls-" + UUID().uuidString

        init() throws {
            try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
            for name in ["ca", "other"] {
                try openssl(
                    "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout",
                    path("\(name).key"), "-out", path("\(name).pem"), "-subj", "/CN=\(name)", "-days", "2")
            }
            for (name, alternative) in [("server", "IP:127.0.0.1"), ("client", "DNS:client")] {
                try openssl(
                    "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout",
                    path("\(name).key"), "-out", path("\(name).csr"), "-subj", "/CN=\(name)")
                try Data("subjectAltName=\(alternative)\n".utf8).write(to: URL(fileURLWithPath: path("\(name).ext")))
                try openssl(
                    "x509", "-req", "-in", path("\(name).csr"), "-CA", path("ca.pem"), "-CAkey", path("ca.key"),
                    "-CAcreateserial", "-out", path("\(name).pem"), "-days", "2", "-extfile", path("\(name).ext"))
            }
        }

        deinit { try? FileManager.default.removeItem(atPath: directory) }

        func path(_ name: String) -> String { "\(directory)/\(name)" }

        private func openssl(_ arguments: String...) throws { try Peers.run("openssl", arguments) }
    }

    private static let server = """
        import http.server, ssl, sys
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                peer = self.connection.getpeercert() or {}
                names = [value for part in peer.get("subject", ()) for key, value in part if key == "commonName"]
                print("request", len(body), *names)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()
            def log_message(self, *arguments): pass
        directory, client = sys.argv[1:]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory + "/server.pem", directory + "/server.key")
        if client == "client":
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(directory + "/ca.pem")
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        print("port", server.server_port)
        server.serve_forever()
        """

    /// Two spans to a server that may ask for a client's certificate; settings come from the environment.
    private func export(
        to certificates: Certificates, asksClient: Bool, _ environment: [String: String]
    ) throws -> (ledger: SpanLedger, reports: [String], server: String, warnings: [String]) {
        let server = try ChildProcess(
            Peers.python, ["-u", "-c", Self.server, certificates.directory, asksClient ? "client" : "any"])
        let port = try server.waitForLine("port ")
        var (configuration, warnings) = TelemetryConfiguration.fromEnvironment(
            environment.merging(["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://127.0.0.1:\(port)/v1/traces"]) { $1 })
        let reports = Reports()
        configuration.report = { reports.append($0) }
        configuration.exportTimeout = .milliseconds(500)
        configuration.tracesExporter.initialBackoff = .milliseconds(200)
        let sdk = TelemetrySDK(configuration: configuration)
        for _ in 0..<2 { sdk.tracer.startSpan("secret").end() }
        sdk.shutdown(deadline: .seconds(20))
        #expect(sdk.ledger.isBalanced)
        return (sdk.ledger, reports.lines, server.output, warnings)
    }

    @Test("an authority of one's own is trusted, and a client proves who it is")
    func success() throws {
        let certificates = try Certificates()
        let plain = try export(
            to: certificates, asksClient: false, ["OTEL_EXPORTER_OTLP_CERTIFICATE": certificates.path("ca.pem")])
        #expect(plain.ledger.exported == 2 && plain.warnings.isEmpty && plain.reports.isEmpty, "\(plain)")
        let mutual = try export(
            to: certificates, asksClient: true,
            [
                // The traces' own come before the general ones.
                "OTEL_EXPORTER_OTLP_CERTIFICATE": certificates.path("other.pem"),
                "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE": certificates.path("ca.pem"),
                "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": certificates.path("client.pem"),
                "OTEL_EXPORTER_OTLP_CLIENT_KEY": certificates.path("client.key"),
            ])
        #expect(mutual.ledger.exported == 2 && mutual.warnings.isEmpty, "\(mutual)")
        #expect(mutual.server.contains(" client\n"))
    }

    @Test("a server that is not trusted is counted with a clear cause, and so is one that does not trust the client")
    func failure() throws {
        let certificates = try Certificates()
        let untrusted = try export(
            to: certificates, asksClient: false, ["OTEL_EXPORTER_OTLP_CERTIFICATE": certificates.path("other.pem")])
        #expect(untrusted.ledger.dropped[.retryExpired] == 2)
        #expect(untrusted.reports.count == 1 && untrusted.reports[0].lowercased().contains("certificate"))
        #expect(!untrusted.server.contains("\nrequest "))
        let anonymous = try export(
            to: certificates, asksClient: true, ["OTEL_EXPORTER_OTLP_CERTIFICATE": certificates.path("ca.pem")])
        #expect(anonymous.ledger.dropped[.retryExpired] == 2)
        // By TLS 1.3 the refusal comes after the handshake: its alert, or the broken connection, whichever is seen first.
        #expect(anonymous.reports.count == 1 && anonymous.reports[0].contains("(retry_expired): "), "\(anonymous)")
        #expect(!anonymous.server.contains("\nrequest "))
    }

    @Test("files of no use are warnings that name them, and nothing is sent without them (case 20)")
    func badFiles() throws {
        let certificates = try Certificates()
        let missing = certificates.path("nowhere.pem")
        let outcome = try export(
            to: certificates, asksClient: false,
            ["OTEL_EXPORTER_OTLP_CERTIFICATE": missing, "OTEL_EXPORTER_OTLP_CLIENT_KEY": certificates.path("ca.pem")])
        #expect(outcome.warnings.contains { $0.contains(missing) && $0.contains("No such file") })
        #expect(
            outcome.warnings.contains { $0.contains("OTEL_EXPORTER_OTLP_CLIENT_KEY") && $0.contains("PRIVATE KEY") })
        #expect(outcome.warnings.contains { $0.contains("belong together") })
        #expect(outcome.ledger.dropped[.retryExpired] == 2)
        #expect(!outcome.server.contains("\nrequest "))
    }
}
