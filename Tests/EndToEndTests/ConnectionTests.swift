import Foundation
import TestSupport
import Testing

@Suite("Connections")
struct ConnectionTests {
    private func publish(_ topic: String, _ data: String, _ fields: String = "") -> String {
        "POST /v1/events/\(topic) HTTP/1.1\r\nHost: x\r\nContent-Length: \(data.utf8.count)\r\n\(fields)\r\n\(data)"
    }

    @Test("pipelined requests are answered in order, also those that only the general codec serves")
    func pipelining() throws {
        let server = try IsothermProcess()
        let device = try Device(port: server.port, "/v1/events/t")
        let connection = try RawConnection(port: server.port)
        let requests = (1...20).map { publish("t", "\($0)") }.joined()
        try connection.send(
            requests + "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" + publish("t", "21", "Connection: close\r\n"))
        let text = connection.receiveAll()
        #expect(text.components(separatedBy: "HTTP/1.1 202 Accepted").count == 22)
        #expect(text.contains("\r\n\r\nok\n"))
        #expect(try device.events(21).map(\.data) == (1...21).map(String.init))
    }

    @Test("a request that comes byte by byte is a request")
    func byteByByte() throws {
        let server = try IsothermProcess()
        let connection = try RawConnection(port: server.port)
        for byte in publish("t", "slow").utf8 {
            try connection.send([byte])
            if byte == 0x0A { usleep(1_000) }
        }
        #expect(try connection.receive(until: "\r\n\r\n").hasPrefix("HTTP/1.1 202"))
    }

    @Test("a body in chunks, and one that expects 100, are published as well")
    func otherForms() throws {
        let server = try IsothermProcess()
        let device = try Device(port: server.port, "/v1/events/t")
        let chunked = try RawConnection(port: server.port)
        try chunked.send(
            "POST /v1/events/t HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
                + "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
        #expect(chunked.receiveAll().contains("HTTP/1.1 202"))
        #expect(try device.events(1)[0].data == "abcde")
        // Two lengths, or a length and chunks: nobody may read this in two ways.
        for fields in ["Content-Length: 3\r\nContent-Length: 4", "Content-Length: 3\r\nTransfer-Encoding: chunked"] {
            let doubtful = try RawConnection(port: server.port)
            try doubtful.send("POST /v1/events/t HTTP/1.1\r\nHost: x\r\n\(fields)\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
            let answer = doubtful.receiveAll(milliseconds: 3_000)
            // One answer, for one request: what follows the head is never read as another one.
            #expect(answer.components(separatedBy: "HTTP/1.1 ").count == 2, "\(answer)")
        }
        #expect(server.isRunning)
    }

    @Test("a stream on a connection that has carried another request delivers as any other")
    func streamAfterRequest() throws {
        let server = try IsothermProcess(arguments: ["--set", "delivery.heartbeat=300ms"])
        let connection = try RawConnection(port: server.port)
        try connection.send("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        _ = try connection.receive(until: "ok\n")
        try connection.send("GET /v1/events/t?group=reused HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n")
        #expect(try connection.receive(until: "\r\n\r\n").contains("text/event-stream"))
        let connected = "isotherm_connections{tenant=\"default\",device_group=\"reused\"}"
        try Wait.until("the stream is open") { try server.metric(connected) == 1 }
        let id = try server.publish("t", "hello").id
        let text = try connection.receive(until: "data: hello\n")
        #expect(text.contains("id: \(id)"))
        _ = try connection.receive(until: "\n:\n")
    }

    @Test("three thousand broken requests on as many connections leave the server as it was")
    func fuzz() throws {
        // A device that went away without a word is noticed by the second heartbeat.
        let server = try IsothermProcess(arguments: ["--set", "head_timeout=1s", "--set", "delivery.heartbeat=500ms"])
        var random = SystemRandomNumberGenerator()
        let seeds = [
            publish(
                "t", "{\"a\":1}",
                "X-Event-Type: a\r\ntraceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n"),
            "GET /v1/events/t?group=%41&wait=0s HTTP/1.1\r\nHost: x\r\nAccept: application/json\r\n\r\n",
            "GET /v1/events?topic=a&topic=b HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nLast-Event-ID: ev_x\r\n\r\n",
            "POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n{\"resourceSpans\":[]}",
        ].map { Array($0.utf8) }
        for _ in 0..<3_000 {
            var bytes = seeds.randomElement(using: &random) ?? []
            for _ in 0..<Int.random(in: 1...8, using: &random) {
                let at = Int.random(in: 0..<bytes.count, using: &random)
                if Bool.random(using: &random) {
                    bytes[at] = .random(in: 0...255, using: &random)
                } else {
                    bytes.remove(at: at)
                }
            }
            let connection = try RawConnection(port: server.port)
            try? connection.send(bytes)
            if Int.random(in: 0..<10, using: &random) == 0 { _ = connection.receive(milliseconds: 5) }
        }
        #expect(try server.publish("t", "still here").id.hasPrefix("ev_"))
        // Nothing of it stays open.
        try Wait.until("all connections are closed") {
            let open = try HTTP.get("/metrics", port: server.port).body.split(separator: "\n")
                .filter { $0.hasPrefix("isotherm_connections{") }.compactMap { Int($0.split(separator: " ")[1]) }
            return open.reduce(0, +) == 0
        }
    }

    @Test("a second server on the same directory says who holds it, and one on the same port says which")
    func conflicts() throws {
        let server = try IsothermProcess()
        let sameDirectory = try Peers.run(
            IsothermProcess.executable, ["serve", "--listen", "127.0.0.1:0", "--data", server.dataDirectory],
            expected: 1)
        #expect(sameDirectory.standardError.contains("process \(server.processIdentifier)"))
        let scratch = IsothermProcess.temporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: scratch) }
        let samePort = try Peers.run(
            IsothermProcess.executable, ["serve", "--listen", "127.0.0.1:\(server.port)", "--data", scratch],
            expected: 1)
        #expect(samePort.standardError.contains("127.0.0.1:\(server.port)"))
    }

    @Test("a connection that sends no request is closed after its time")
    func headTimeout() throws {
        let server = try IsothermProcess(arguments: ["--set", "head_timeout=300ms"])
        let silent = try RawConnection(port: server.port)
        try Wait.until("it is closed") { silent.isClosed }
        let begun = try RawConnection(port: server.port)
        try begun.send("GET /v1/ev")
        #expect(begun.receiveAll().hasPrefix("HTTP/1.1 408 "))
    }

    @Test("a device that takes nothing is closed after its time, and counted")
    func stalled() throws {
        let server = try IsothermProcess(arguments: [
            "--set", "delivery.stall_timeout=500ms", "--set", "delivery.heartbeat=200ms",
            "--set", "gateway.durability=written",
        ])
        let device = try Device(port: server.port, "/v1/events/t", receiveBuffer: 4_096)
        let payload = String(repeating: "x", count: 200_000)
        for _ in 1...20 { try server.publish("t", payload) }
        try Wait.until("the stalled connection is closed") {
            try server.metric("isotherm_connections_closed_total{reason=\"stalled\"}") == 1
        }
        #expect(try server.metric("isotherm_connection_bytes") == 0)
        #expect(device.head.contains("200"))
    }
}
