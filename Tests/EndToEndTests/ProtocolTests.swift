import Foundation
import TestSupport
import Testing

/// A certificate for 127.0.0.1 that signs itself, in a directory of its own.
final class TestCertificate {
    let directory = IsothermProcess.temporaryDirectory()
    var certificate: String { directory + "/cert.pem" }
    var key: String { directory + "/key.pem" }

    init(name: String) throws { try replace(name: name) }

    deinit { try? FileManager.default.removeItem(atPath: directory) }

    /// Each file is replaced at once, as a deployment does it.
    func replace(name: String) throws {
        try Peers.run(
            "openssl",
            [
                "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30",
                "-keyout", key + ".new", "-out", certificate + ".new", "-subj", "/CN=\(name)", "-addext",
                "subjectAltName=IP:127.0.0.1",
            ])
        for file in [key, certificate] { #expect(rename(file + ".new", file) == 0) }
    }

    func server(_ arguments: [String] = []) throws -> (IsothermProcess, securePort: Int) {
        let server = try IsothermProcess(
            arguments: [
                "--set", "tls.listen=127.0.0.1:0", "--set", "tls.certificate=\(certificate)", "--set", "tls.key=\(key)",
            ] + arguments)
        let port = try #require(server.output.firstMatch(of: /with TLS on port (\d+)/).flatMap { Int($0.1) })
        return (server, port)
    }
}

@Suite("TLS")
struct ServerTLSTests {
    /// curl's answer, then the protocol's version on a line of its own.
    private func curl(_ certificate: TestCertificate, _ url: String, _ arguments: [String]) throws -> Peers.Output {
        try Peers.run(
            "curl", ["-sS", "--cacert", certificate.certificate, "-w", "\nHTTP %{http_version}"] + arguments + [url],
            expected: nil)
    }

    private func commonName(_ port: Int) throws -> String {
        let output = try Peers.run(
            "openssl", ["s_client", "-connect", "127.0.0.1:\(port)"], input: Data(), expected: nil)
        return (output.text.firstMatch(of: /subject=.*CN ?= ?(\w+)/)?.1).map(String.init) ?? ""
    }

    @Test("TLS 1.2 and 1.3 are spoken, ALPN chooses the protocol, and every route is there")
    func versions() throws {
        let certificate = try TestCertificate(name: "one")
        let (server, port) = try certificate.server()
        let url = "https://127.0.0.1:\(port)"
        for (arguments, version) in [
            (["--tls-max", "1.2", "--http1.1"], "1.1"), (["--tlsv1.3", "--http1.1"], "1.1"),
            (["--tls-max", "1.2", "--http2"], "2"), (["--tlsv1.3", "--http2"], "2"), (["--no-alpn"], "1.1"),
        ] {
            #expect(try curl(certificate, url + "/livez", arguments).text == "ok\n\nHTTP \(version)", "\(arguments)")
            let reply = try curl(certificate, url + "/v1/events/t", arguments + ["-d", "{\"a\":1}"]).text
            #expect(reply.contains("\"id\":\"ev_") && reply.hasSuffix("HTTP \(version)"), "\(reply)")
            let big = try curl(
                certificate, url + "/v1/events/t", arguments + ["-d", String(repeating: "x", count: 100_000)])
            #expect(big.text.contains("\"id\":\"ev_"))
            let poll = try curl(
                certificate, url + "/v1/events/t?after=x&limit=9", arguments + ["-H", "Accept: application/json"])
            #expect(poll.text.contains("\"reset\":\"foreign\""))
        }
        // A large answer: records that wait for the socket.
        let page = try curl(certificate, url + "/heatmap.html", ["--http2"])
        #expect(page.text.hasPrefix("<!") && page.text.contains("</html>"))
        // Versions and ciphers of the past are refused, and so is a protocol that nobody here speaks.
        for arguments in [
            ["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"], ["-tls1_2", "-cipher", "AES128-SHA"],
            ["-tls1_3", "-alpn", "spdy/3"],
        ] {
            let refused = try Peers.run(
                "openssl", ["s_client", "-connect", "127.0.0.1:\(port)"] + arguments, input: Data(), expected: nil)
            #expect(refused.status != 0, "\(arguments)")
        }
        #expect(try server.metric("isotherm_tls_handshakes_total{outcome=\"failed\"}") == 3)
        let expiry = try #require(try server.metric("isotherm_tls_certificate_expiry_timestamp_seconds"))
        #expect(abs(expiry - Date().timeIntervalSince1970 - 30 * 86_400) < 3_600)
    }

    @Test("events arrive over TLS, by HTTP/1.1 and by HTTP/2", arguments: ["--http1.1", "--http2"])
    func streams(version: String) throws {
        let certificate = try TestCertificate(name: "one")
        let (server, port) = try certificate.server(["--set", "delivery.heartbeat=200ms"])
        let device = try ChildProcess(
            "/usr/bin/curl",
            [
                "-sSNi", version, "--cacert", certificate.certificate, "-H", "Accept: text/event-stream",
                "https://127.0.0.1:\(port)/v1/events/t?group=secure",
            ])
        try Wait.until("the stream is open") { device.output.contains("retry: ") }
        for number in 1...200 { try server.publish("t", "event \(number)") }
        try Wait.until("all have come") { device.output.contains("data: event 200\n") }
        let text = device.output
        #expect(ReceivedEvent.parse(text).map(\.data).filter { !$0.isEmpty } == (1...200).map { "event \($0)" })
        #expect(!text.lowercased().contains("connection: keep-alive"))
        try Wait.until("a heartbeat") { device.output.hasSuffix("\n:\n\n") }
        #expect(
            try server.metric("isotherm_events_delivered_total{tenant=\"default\",device_group=\"secure\"}") == 200)
        // A drain ends it in an orderly way: curl sees the end of the answer.
        #expect(server.stop() == 0)
        try Wait.until("curl has ended") { !device.isRunning }
        #expect(device.output.contains("closing, please reconnect"))
    }

    @Test("who reads slowly behind TLS gets every byte in order, and saying that TLS ends ends the stream")
    func slowReader() throws {
        let certificate = try TestCertificate(name: "slow")
        let (server, securePort) = try certificate.server(["--set", "gateway.durability=memory"])
        try Peers.python(
            """
            import http.client, socket, ssl, sys
            secure, plain, authority = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
            raw = socket.socket()
            # Small, so that the server's records are taken in part.
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            raw.connect(("127.0.0.1", secure))
            stream = ssl.create_default_context(cafile=authority).wrap_socket(raw, server_hostname="127.0.0.1")
            stream.settimeout(20)
            stream.sendall(b"GET /v1/events/t?group=slow HTTP/1.1\\r\\nHost: x\\r\\nAccept: text/event-stream\\r\\n\\r\\n")
            lines = stream.makefile("rb")
            while lines.readline() != b": isotherm\\n": pass
            producer = http.client.HTTPConnection("127.0.0.1", plain)
            for number in range(60):
                producer.request("POST", "/v1/events/t", b"%d " % number + b"x" * (number * 997 % 60000))
                assert producer.getresponse().read()
            for number in range(60):
                while not (line := lines.readline()).startswith(b"data: "): assert line, number
                assert line == b"data: %d " % number + b"x" * (number * 997 % 60000) + b"\\n", (number, line[:40])
            stream.settimeout(20)
            raw = stream.unwrap()
            assert raw.recv(1) == b""
            """, ["\(securePort)", "\(server.port)", certificate.certificate])
        #expect(try server.metric("isotherm_events_delivered_total{tenant=\"default\",device_group=\"slow\"}") == 60)
        try Wait.until("the stream is over") {
            try server.metric("isotherm_connections{tenant=\"default\",device_group=\"slow\"}") == 0
        }
    }

    @Test("a new certificate is in force without a restart, on change and on SIGHUP; a broken one is not")
    func reload() throws {
        let certificate = try TestCertificate(name: "first")
        let (server, port) = try certificate.server()
        let device = try ChildProcess(
            "/usr/bin/curl",
            [
                "-sSN", "--http2", "--cacert", certificate.certificate, "-H", "Accept: text/event-stream",
                "https://127.0.0.1:\(port)/v1/events/t",
            ])
        try Wait.until("the stream is open") { device.output.contains("retry: ") }
        #expect(try commonName(port) == "first")
        try certificate.replace(name: "second")
        try Wait.until("the second one is in force") { try commonName(port) == "second" }
        // Who was there stays.
        try server.publish("t", "still here")
        try Wait.until("the event has come") { device.output.contains("data: still here") }
        try "not a key".write(toFile: certificate.key, atomically: true, encoding: .utf8)
        try Wait.until("it is refused") {
            try #require(try server.metric("isotherm_tls_reloads_total{outcome=\"failed\"}")) >= 1
        }
        #expect(try commonName(port) == "second" && server.output.contains("The certificate was not read again"))
        try certificate.replace(name: "third")
        try Wait.until("the third one is in force") { try commonName(port) == "third" }
        let reloads = try #require(try server.metric("isotherm_tls_reloads_total{outcome=\"succeeded\"}"))
        kill(server.processIdentifier, SIGHUP)
        try Wait.until("SIGHUP reads it again") {
            try server.metric("isotherm_tls_reloads_total{outcome=\"succeeded\"}") == reloads + 1
        }
    }

    @Test("who does not shake hands is closed in time, whatever it sends")
    func hostile() throws {
        let certificate = try TestCertificate(name: "one")
        let (server, port) = try certificate.server(["--set", "head_timeout=500ms"])
        let silent = try RawConnection(port: port)
        let garbage = try RawConnection(port: port)
        try garbage.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        // A record that says 16 KiB will follow.
        let half = try RawConnection(port: port)
        try half.send([0x16, 3, 1, 0x40, 0, 1, 0, 0x3F, 0xFC, 3, 3])
        var random = SeededGenerator(3)
        for _ in 0..<200 {
            let connection = try RawConnection(port: port)
            var bytes: [UInt8] = [0x16, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3]
            bytes += (0..<194).map { _ in UInt8.random(in: 0...255, using: &random) }
            bytes[Int.random(in: 0..<bytes.count, using: &random)] ^= 1
            try? connection.send(bytes)
        }
        for connection in [silent, garbage, half] {
            _ = connection.receiveAll()
            #expect(connection.isClosed)
        }
        try Wait.until("nobody is left") { try server.metric("isotherm_http_connections") == 1 }
        #expect(try server.metric("isotherm_tls_handshakes_total{outcome=\"failed\"}") == 203)
        #expect(try server.metric("isotherm_http_connections_closed_total{reason=\"head_timeout\"}") == 2)
        #expect(try curl(certificate, "https://127.0.0.1:\(port)/livez", []).text.hasPrefix("ok\n"))
    }

    @Test("settings that cannot be used are named at the start")
    func settings() throws {
        let certificate = try TestCertificate(name: "one")
        func start(_ settings: [String]) throws -> Peers.Output {
            let directory = IsothermProcess.temporaryDirectory()
            defer { try? FileManager.default.removeItem(atPath: directory) }
            return try Peers.run(
                IsothermProcess.executable,
                ["serve", "--listen", "127.0.0.1:0", "--data", directory] + settings.flatMap { ["--set", $0] },
                expected: nil)
        }
        let incomplete = try start(["tls.listen=127.0.0.1:0"])
        #expect(incomplete.status == 64 && incomplete.standardError.contains("tls.certificate"))
        let missing = try start([
            "tls.listen=127.0.0.1:0", "tls.certificate=/nowhere.pem", "tls.key=\(certificate.key)",
        ])
        #expect(missing.status == 1 && missing.standardError.contains("/nowhere.pem"))
        let other = try TestCertificate(name: "two")
        let mismatch = try start([
            "tls.listen=127.0.0.1:0", "tls.certificate=\(certificate.certificate)", "tls.key=\(other.key)",
        ])
        #expect(mismatch.status == 1 && mismatch.standardError.contains(other.key))
        let open = try start([
            "tls.listen=0.0.0.0:0", "tls.certificate=\(certificate.certificate)", "tls.key=\(certificate.key)",
        ])
        #expect(open.status == 64 && open.standardError.contains("tls.listen"))
    }
}

@Suite("HTTP/2")
struct HTTP2Tests {
    /// Frames by RFC 9113, section 4.1, header blocks by RFC 7541 without a table.
    private enum Frame {
        static let preface = Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8) + bytes(type: 4, stream: 0, [])

        static func bytes(type: UInt8, flags: UInt8 = 0, stream: UInt32, _ payload: [UInt8]) -> [UInt8] {
            let size = UInt32(payload.count)
            return [UInt8(size >> 16), UInt8(size >> 8 & 0xFF), UInt8(size & 0xFF), type, flags]
                + withUnsafeBytes(of: stream.bigEndian) { Array($0) } + payload
        }

        /// GET, http, a path, an authority and one more field.
        static func get(_ path: String, accept: String = "*/*") -> [UInt8] {
            [0x82, 0x86, 0x04, UInt8(path.utf8.count)] + Array(path.utf8) + [0x01, 1, UInt8(ascii: "x")]
                + [0x0F, 0x04, UInt8(accept.utf8.count)] + Array(accept.utf8)
        }

        static func request(_ path: String, stream: UInt32, accept: String = "*/*") -> [UInt8] {
            bytes(type: 1, flags: 0x5, stream: stream, get(path, accept: accept))
        }
    }

    private struct Received {
        let type: UInt8
        let stream: UInt32
        let payload: [UInt8]

        static func parse(_ bytes: [UInt8]) -> [Received] {
            var frames: [Received] = []
            var rest = bytes[...]
            while rest.count >= 9 {
                let head = Array(rest.prefix(9))
                let size = Int(head[0]) << 16 | Int(head[1]) << 8 | Int(head[2])
                let stream = head[5...].reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
                frames.append(Received(type: head[3], stream: stream, payload: Array(rest.dropFirst(9).prefix(size))))
                rest = rest.dropFirst(9 + size)
            }
            return frames
        }
    }

    private func receiveAll(_ connection: RawConnection) -> [Received] {
        var bytes: [UInt8] = []
        let deadline = ContinuousClock.now + .seconds(10)
        while ContinuousClock.now < deadline {
            let more = connection.receive(milliseconds: 300)
            if more.isEmpty, connection.isClosed { break }
            bytes += more
        }
        return Received.parse(bytes)
    }

    @Test("on plain TCP the preface decides; many streams share a connection")
    func priorKnowledge() throws {
        let server = try IsothermProcess(arguments: ["--set", "delivery.heartbeat=200ms"])
        let curl = try Peers.run(
            "curl",
            ["-sS", "--http2-prior-knowledge", "-w", "\nHTTP %{http_version}", "http://127.0.0.1:\(server.port)/livez"])
        #expect(curl.text == "ok\n\nHTTP 2")
        let connection = try RawConnection(port: server.port)
        // As many as the settings allow.
        var bytes = Frame.preface
        for number in 0..<100 {
            bytes += Frame.request("/v1/events/t?group=h2", stream: UInt32(1 + 2 * number), accept: "text/event-stream")
        }
        // Byte by byte at first, so that the preface comes in pieces.
        for byte in bytes.prefix(40) { try connection.send([byte]) }
        try connection.send(Array(bytes.dropFirst(40)))
        let connected = "isotherm_connections{tenant=\"default\",device_group=\"h2\"}"
        try Wait.until("a hundred streams are open") { try server.metric(connected) == 100 }
        try server.publish("t", "hello")
        let delivered = "isotherm_events_delivered_total{tenant=\"default\",device_group=\"h2\"}"
        try Wait.until("each has the event") { try server.metric(delivered) == 100 }
        var received: [UInt8] = []
        try Wait.until("they have come") {
            received += connection.receive(milliseconds: 100)
            return Received.parse(received).count {
                String(decoding: $0.payload, as: UTF8.self).contains("data: hello")
            }
                == 100
        }
        // One more breaks the rules (RFC 9113, section 5.1.2).
        try connection.send(Frame.request("/livez", stream: 201))
        let frames = receiveAll(connection)
        #expect(connection.isClosed && frames.contains { $0.type == 7 })
        try Wait.until("none is left") { try server.metric(connected) == 0 }
    }

    @Test(
        "floods end with GOAWAY and the connection, are counted, and cost nobody else anything",
        arguments: ["rapid reset", "continuation", "ping", "settings", "empty data", "huge headers", "garbage"])
    func floods(kind: String) throws {
        let server = try IsothermProcess()
        let device = try Device(port: server.port, "/v1/events/t")
        let connection = try RawConnection(port: server.port)
        var bytes = Frame.preface
        switch kind {
        case "rapid reset":
            for number in 0..<2_000 {
                let stream = UInt32(1 + 2 * number)
                bytes += Frame.request("/v1/events/t?wait=30s", stream: stream, accept: "application/json")
                bytes += Frame.bytes(type: 3, stream: stream, [0, 0, 0, 8])
            }
        case "continuation":
            bytes += Frame.bytes(type: 1, flags: 1, stream: 1, Frame.get("/livez"))
            for _ in 0..<2_000 { bytes += Frame.bytes(type: 9, stream: 1, [0x00, 1, 97, 1, 98]) }
        case "ping":
            for _ in 0..<2_000 { bytes += Frame.bytes(type: 6, stream: 0, [0, 1, 2, 3, 4, 5, 6, 7]) }
        case "settings":
            for _ in 0..<2_000 { bytes += Frame.bytes(type: 4, stream: 0, [0, 4, 0, 0, 255, 255]) }
        case "empty data":
            bytes += Frame.bytes(type: 1, flags: 4, stream: 1, [0x83] + Frame.get("/v1/events/t").dropFirst())
            for _ in 0..<2_000 { bytes += Frame.bytes(type: 0, stream: 1, []) }
        case "huge headers":
            // 40 kB of fields in three frames; the limit of the list is 16 KiB.
            let field = [UInt8]([0x00, 1, 97, 0x7F, 0x91, 0x4D]) + [UInt8](repeating: 98, count: 10_000)
            bytes += Frame.bytes(type: 1, flags: 1, stream: 1, Frame.get("/livez") + field)
            for number in 0..<3 { bytes += Frame.bytes(type: 9, flags: number == 2 ? 4 : 0, stream: 1, field) }
        default:
            bytes += [UInt8](repeating: 0xFF, count: 100_000)
        }
        try? connection.send(bytes)
        let frames = receiveAll(connection)
        #expect(connection.isClosed, "\(kind)")
        #expect(frames.contains { $0.type == 7 }, "\(kind): \(frames.map(\.type).suffix(5))")
        try server.publish("t", "hello")
        #expect(try device.events(1).map(\.data) == ["hello"])
        try Wait.until("it is counted") {
            try server.metric("isotherm_http_connections_closed_total{reason=\"malformed\"}") == 1
        }
        try Wait.until("nothing of it is left") { try server.metric("isotherm_http_connections") == 2 }
    }

    @Test("a drain says so with GOAWAY, and ends the streams with a retry")
    func drain() throws {
        let server = try IsothermProcess(arguments: ["--set", "delivery.drain_interval=300ms"])
        let connection = try RawConnection(port: server.port)
        try connection.send(Frame.preface + Frame.request("/v1/events/t", stream: 1, accept: "text/event-stream"))
        try Wait.until("the stream is open") { try server.metric("isotherm_connections_opened_total") == 1 }
        #expect(server.stop() == 0)
        let frames = receiveAll(connection)
        #expect(frames.contains { $0.type == 7 })
        let text = frames.filter { $0.type == 0 }.map { String(decoding: $0.payload, as: UTF8.self) }.joined()
        #expect(text.contains("closing, please reconnect"))
    }
}

@Suite("Forms of an answer")
struct FormTests {
    @Test("newline-delimited JSON: an object a line as the long poll has it, and an empty line for a heartbeat")
    func lines() throws {
        let server = try IsothermProcess(arguments: ["--set", "delivery.heartbeat=200ms"])
        func open(_ query: String) throws -> RawConnection {
            let connection = try RawConnection(port: server.port)
            try connection.send(
                "GET /v1/events/t?\(query) HTTP/1.1\r\nHost: x\r\nAccept: application/x-ndjson\r\n\r\n")
            let head = try connection.receive(until: "\r\n\r\n").lowercased()
            #expect(head.contains("content-type: application/x-ndjson") && head.contains("no-transform"))
            return connection
        }
        /// Lines of chunks: those with an object.
        func objects(_ connection: RawConnection, _ count: Int) throws -> [[String: String]] {
            var found: [[String: String]] = []
            while found.count < count {
                let line = try connection.receive(until: "\n")
                guard line.hasPrefix("{") else { continue }
                found.append(try JSONDecoder().decode([String: String].self, from: Data(line.utf8)))
            }
            return found
        }
        let device = try open("group=lines")
        try Wait.until("it is open") {
            try server.metric("isotherm_connections{tenant=\"default\",device_group=\"lines\"}") == 1
        }
        let first = try server.publish("t", "a \"b\"\nc", fields: [("X-Event-Type", "kind")])
        try server.publish("t", "two")
        let events = try objects(device, 2)
        #expect(events.map { $0["data"] } == ["a \"b\"\nc", "two"])
        #expect(events[0]["id"] == first.id && events[0]["type"] == "kind" && events[0]["topic"] == "t")
        // A chunk of one byte: a line that is empty.
        _ = try device.receive(until: "\r\n1\r\n\n\r\n")
        #expect(try objects(open("last-event-id=\(first.id)"), 1).map { $0["data"] } == ["two"])
        #expect(try objects(open("last-event-id=ev_forged"), 1).map { $0["reset"] } == ["foreign"])
        let poll = try HTTP.get(
            "/v1/events/t?after=\(first.id)", port: server.port, fields: [("Accept", "application/json")])
        struct Poll: Decodable { let events: [[String: String]] }
        #expect(try JSONDecoder().decode(Poll.self, from: Data(poll.body.utf8)).events == [events[1]])
    }

    @Test("pages of allowed origins may use every route, others none; a preflight says why")
    func crossOrigin() throws {
        let server = try IsothermProcess(arguments: [
            "--set", "cors.allowed_origins=https://app.example,http://localhost:3000", "--set",
            "cors.allow_credentials=true",
        ])
        let mine = [("Origin", "https://app.example")]
        let other = [("Origin", "https://evil.example")]
        let device = try Device(port: server.port, "/v1/events/t", fields: mine)
        let replies = [
            try HTTP.post("/v1/events/t", "x", port: server.port, fields: mine),
            try HTTP.post("/v1/events/a%20b", "x", port: server.port, fields: mine),
            try HTTP.get("/heatmap", port: server.port, fields: mine),
            try HTTP.get("/nowhere", port: server.port, fields: mine),
            try HTTP.get("/v1/events/t?wait=0s", port: server.port, fields: mine + [("Accept", "application/json")]),
        ]
        #expect(replies.map(\.status) == [202, 400, 200, 404, 200])
        for head in replies.map(\.head) + [device.head] {
            let reply = HTTPReply(status: 0, head: head, body: "")
            #expect(reply.field("Access-Control-Allow-Origin") == "https://app.example", "\(head)")
            #expect(reply.field("Access-Control-Allow-Credentials") == "true")
            #expect(reply.field("Access-Control-Expose-Headers")?.contains("X-Trace-ID") == true)
            #expect(reply.field("Vary")?.contains("Origin") == true)
        }
        for reply in [
            try HTTP.post("/v1/events/t", "x", port: server.port, fields: other),
            try HTTP.get("/heatmap", port: server.port, fields: other), try HTTP.get("/livez", port: server.port),
        ] {
            #expect(!reply.head.contains("Access-Control") && reply.field("Vary")?.contains("Origin") == true)
        }
        let asks = [("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "x-event-type")]
        let allowed = try HTTP.request("OPTIONS", "/v1/events/t", port: server.port, fields: mine + asks)
        #expect(allowed.status == 204 && allowed.field("Access-Control-Allow-Methods")?.contains("POST") == true)
        #expect(allowed.field("Access-Control-Allow-Headers")?.contains("X-Event-Type") == true)
        #expect(allowed.field("Access-Control-Max-Age") == "600")
        #expect(allowed.field("Access-Control-Allow-Origin") == "https://app.example")
        let refused = try HTTP.request("OPTIONS", "/v1/events/t", port: server.port, fields: other + asks)
        #expect(refused.status == 403 && refused.body.contains("cors.allowed_origins"))
        // With * no credentials: any page could act for a user.
        let both = try Peers.run(
            IsothermProcess.executable,
            ["serve", "--print-config", "--set", "cors.allowed_origins=*", "--set", "cors.allow_credentials=true"],
            expected: 64)
        #expect(both.standardError.contains("cors.allow_credentials"))
    }

    @Test("reports and metrics are gzipped for who asks, streams never")
    func compression() throws {
        let server = try IsothermProcess()
        for number in 1...50 { try server.publish("t", "\(number)") }
        let url = "http://127.0.0.1:\(server.port)"
        for path in ["/heatmap.html", "/metrics"] {
            let plain = try Peers.run("curl", ["-sSi", url + path]).text
            #expect(
                !plain.lowercased().contains("content-encoding") && plain.lowercased().contains("vary: accept-encoding")
            )
            let none = try Peers.run("curl", ["-sSi", "-H", "Accept-Encoding: gzip;q=0, br", url + path]).text
            #expect(!none.lowercased().contains("content-encoding"))
            let packed = try Peers.run("curl", ["-sS", "-H", "Accept-Encoding: br, gzip;q=0.5", url + path])
            // Python's gzip checks length and checksum; one member, nothing behind it.
            let unpacked = try Peers.python(
                """
                import sys, zlib
                d = zlib.decompressobj(31)
                text = d.decompress(sys.stdin.buffer.read())
                assert d.eof and not d.unused_data
                sys.stdout.buffer.write(text)
                """, input: packed.standardOutput)
            #expect(packed.standardOutput.count * 2 < unpacked.standardOutput.count)
            #expect(plain.contains(unpacked.text.prefix(300)))
        }
        let device = try Device(port: server.port, "/v1/events/t", fields: [("Accept-Encoding", "gzip")])
        #expect(!device.head.lowercased().contains("content-encoding"))
        let later = try RawConnection(port: server.port)
        try later.send(
            "GET /livez HTTP/1.1\r\nHost: x\r\n\r\nGET /v1/events/t HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n"
                + "Accept-Encoding: gzip\r\n\r\n")
        #expect(try !later.receive(until: "retry: ").lowercased().contains("content-encoding"))
    }
}
