import Foundation
import TestSupport
import Testing

@Suite("isotherm bench")
struct BenchTests {
    private func bench(_ server: IsothermProcess, _ arguments: String, expected: Int32 = 0) throws -> [String: Any] {
        let output = try Peers.run(
            IsothermProcess.executable,
            ["bench", "--server", "http://127.0.0.1:\(server.port)", "--format", "json", "--warm-up", "0s"]
                + arguments.split(separator: " ").map(String.init), expected: expected)
        return try #require(JSONSerialization.jsonObject(with: Data(output.text.utf8)) as? [String: Any])
    }

    private func object(_ report: [String: Any], _ name: String) throws -> [String: Any] {
        try #require(report[name] as? [String: Any])
    }

    @Test("a real server's deliveries are complete, and its process, CPU and memory are found by its port")
    func deliveries() throws {
        let server = try IsothermProcess()
        let report = try bench(server, "-c 50 --channels 5 --rate 50 --duration 1s --stalled 2")
        let deliveries = try object(report, "deliveries")
        // 50 events, each to the 10 streams of its channel.
        #expect(deliveries["expected"] as? Int == 500 && deliveries["received"] as? Int == 500)
        #expect(deliveries["lost"] as? Int == 0 && report["clean"] as? Bool == true)
        #expect(try object(report, "stalled")["opened"] as? Int == 2)
        let found = try object(report, "server")
        #expect(found["pids"] as? [Int] == [Int(server.processIdentifier)])
        #expect(try #require(found["cpu_us_per_delivery"] as? Double) > 0)
        #expect(try server.metric("isotherm_events_published_total{tenant=\"default\"}") == 50)
    }

    @Test("a storm against a real server: all come back and have everything once")
    func storm() throws {
        let server = try IsothermProcess(arguments: ["--set", "delivery.retry=200ms"])
        let report = try bench(server, "-c 60 --rate 50 --duration 2s --storm")
        let storm = try object(report, "storm")
        #expect(storm["cut"] as? Int == 60 && storm["back"] as? Int == 60)
        #expect(storm["complete_seconds"] is Double)
        let deliveries = try object(report, "deliveries")
        #expect(deliveries["received"] as? Int == 6_000 && report["clean"] as? Bool == true)
    }

    @Test(
        "over TLS, over HTTP/2 and over both: everything comes once and in order, also after a cut",
        arguments: ["https", "https --http2", "http --http2"])
    func protocols(way: String) throws {
        let certificate = try TestCertificate(name: "bench")
        let (server, securePort) = try certificate.server(["--set", "delivery.retry=200ms"])
        let port = way.hasPrefix("https") ? securePort : server.port
        // Published over TLS as well.
        let scheme = way.hasPrefix("https") ? "https" : "http"
        let flags = way.contains("--http2") ? "--http2 " : ""
        let report = try bench(
            server,
            flags + "-c 30 --rate 50 --duration 2s --storm --stalled 2 "
                + "--subscribe \(scheme)://127.0.0.1:\(port)/v1/events/{channel} "
                + "--publish \(scheme)://127.0.0.1:\(port)/v1/events/{channel}")
        let deliveries = try object(report, "deliveries")
        #expect(deliveries["received"] as? Int == 3_000 && report["clean"] as? Bool == true, "\(report)")
        let storm = try object(report, "storm")
        #expect(storm["back"] as? Int == 30)
        #expect(try object(report, "stalled")["opened"] as? Int == 2)
        #expect(try server.metric("isotherm_events_published_total{tenant=\"default\"}") == 100)
        let handshakes = try server.metric("isotherm_tls_handshakes_total{outcome=\"succeeded\"}")
        // 32 streams, 30 again, and 8 publishers.
        #expect(handshakes == (scheme == "https" ? 70 : 0))
    }

    @Test("a server that does not speak what was asked for is named")
    func wrongProtocol() throws {
        let server = try IsothermProcess()
        let output = try Peers.run(
            IsothermProcess.executable,
            ["bench", "--server", "https://127.0.0.1:\(server.port)", "-c", "1", "--duration", "1s"], expected: 1)
        #expect(output.standardError.contains("TLS: "), "\(output.standardError)")
    }

    @Test("Ctrl-C prints what was measured until then")
    func interrupt() throws {
        let server = try IsothermProcess()
        let child = try ChildProcess(
            IsothermProcess.executable,
            ["bench", "--server", "http://127.0.0.1:\(server.port)", "-c", "5", "--warm-up", "0s", "--duration", "1h"])
        try Wait.until("events are delivered") { child.output.contains(" deliveries\n") }
        #expect(child.stop(SIGINT) == 1)
        #expect(child.output.contains("interrupted: these are the figures up to then"))
        #expect(child.output.contains("5 of 5 open"))
    }

    @Test("wrong usage names the value and the limit; no server is a failure")
    func wrongUsage() throws {
        func run(_ arguments: String, expected: Int32) throws -> String {
            try Peers.run(
                IsothermProcess.executable, ["bench"] + arguments.split(separator: " ").map(String.init),
                expected: expected
            ).standardError
        }
        #expect(try run("--rate fast", expected: 64).contains("fast"))
        #expect(try run("--size 50", expected: 64).contains("size 50 is not from 51"))
        #expect(try run("--duration 5", expected: 64).contains("\"5\" is no duration"))
        #expect(try run("--header nocolon", expected: 64).contains("nocolon"))
        #expect(try run("--subscribe ftp://127.0.0.1 -c 1", expected: 64).contains("neither http:// nor https://"))
        let port = Peers.freePort()
        #expect(
            try run("--server http://127.0.0.1:\(port) -c 1", expected: 1).contains("connect: Connection refused"))
    }
}
