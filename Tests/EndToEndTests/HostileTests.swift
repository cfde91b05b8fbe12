import Foundation
import TestSupport
import Testing

@Suite("Hostile clients")
struct HostileTests {
    private static let victim = "GET /v1/events/t?wait=0s&smuggled=1 HTTP/1.1\r\nHost: x\r\n\r\n"

    /// Requests that two parsers may cut in two places (RFC 9112, sections 2.2, 5.2, 6.3 and 7.1). The routes that both
    /// codecs serve, so that each is asked.
    private static let smuggling: [String] = {
        let post = "POST /v1/events/t HTTP/1.1\r\nHost: x\r\n"
        let heads = [
            "Content-Length: 5\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 5",
            "Content-Length: 5\r\nContent-Length: 40", "Content-Length: 5\r\nContent-Length: 5", "Content-Length: 5, 5",
            "Content-Length: +5", "Content-Length: 0x5", "Content-Length: 5 ,", "Content-Length: -5",
            "Content-Length: 99999999999999999999", "Content-Length : 5", "Transfer-Encoding: xchunked",
            "Transfer-Encoding: chunked, identity", "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: identity",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "Transfer-Encoding : chunked",
            "Transfer-Encoding: \u{B}chunked", "Transfer-Encoding: \"chunked\"", "Transfer-Encoding:\r\n chunked",
            "X-A: a\r\n Content-Length: 40\r\nContent-Length: 5", "X-A: a\nContent-Length: 5",
            "X-A: a\rContent-Length: 40\r\nContent-Length: 5", "X-A: a\u{0}b\r\nContent-Length: 5",
        ]
        return heads.map { "\(post)\($0)\r\n\r\n0\r\n\r\n" }
            + [
                "2;\n{}\r\n0\r\n\r\n", "2\n{}\n0\n\n", "0x2\r\n{}\r\n0\r\n\r\n", "-2\r\n{}\r\n", "2\r\n{}XX0\r\n\r\n",
                "10000000000000002\r\n{}\r\n0\r\n\r\n",
            ]
            .map { "\(post)Transfer-Encoding: chunked\r\n\r\n\($0)" }
            + ["GET /livez HTTP/1.1\nHost: x\n\n", "GET /livez HTTP/1.1\r\nHost: x\r\nX-A: b\n\r\n"]
    }()

    @Test("a request that can be cut in two places gets one answer, an error, and the end", arguments: [false, true])
    func smuggling(isLater: Bool) throws {
        let server = try IsothermProcess()
        for request in Self.smuggling {
            let connection = try RawConnection(port: server.port)
            if isLater {
                // From here on it is the general codec's.
                try connection.send("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
                _ = try connection.receive(until: "ok\n")
            }
            try connection.send(request + Self.victim)
            let answer = connection.receiveAll()
            #expect(connection.isClosed, "\(request.debugDescription)")
            #expect(answer.hasPrefix("HTTP/1.1 400 "), "\(request.debugDescription): \(answer)")
            #expect(answer.components(separatedBy: "HTTP/1.1 ").count == 2, "\(request.debugDescription): \(answer)")
        }
        let count = Double(Self.smuggling.count)
        try Wait.until("each is counted") {
            try server.metric("isotherm_http_connections_closed_total{reason=\"malformed\"}") == count
        }
        #expect(try server.metric("isotherm_requests_total{route=\"other\",code=\"400\"}") == count)
        // Nothing of it was published.
        #expect(try server.metric("isotherm_stream_head_offset{tenant=\"default\"}") == 0)
    }

    @Test("line ends and NUL in any field that reaches a frame are refused, and never become a line of the stream")
    func injection() throws {
        let server = try IsothermProcess()
        let device = try Device(port: server.port, "/v1/events/t")
        let evils = ["a\rid: forged", "a\nid: forged", "a\u{0}b", "a\r\ndata: forged\r\n\r\n"]
        var refused = 0
        for evil in evils {
            let json = String(decoding: try JSONEncoder().encode(evil), as: UTF8.self)
            let event = #"{"specversion":"1.0","id":"1","source":"/s","type":\#(json),"subject":\#(json),"data":1}"#
            for type in ["application/cloudevents+json", "application/cloudevents-batch+json"] {
                let body = type.contains("batch") ? "[\(event)]" : event
                let reply = try HTTP.post("/v1/events/t", body, port: server.port, fields: [("Content-Type", type)])
                #expect(reply.status == 400, "\(reply.body)")
                refused += 1
            }
            // With a real CR LF in it a field is two fields, or the end of the head.
            let names = [
                "X-Event-Type", "X-Event-Key", "X-Event-Time", "Idempotency-Key", "Content-Type", "traceparent",
            ]
            for name in names where !evil.contains("\r\n") {
                let connection = try RawConnection(port: server.port)
                try connection.send(
                    "POST /v1/events/t HTTP/1.1\r\nHost: x\r\n\(name): \(evil)\r\nContent-Length: 1\r\n\r\nx")
                #expect(connection.receiveAll().hasPrefix("HTTP/1.1 400 "), "\(name) \(evil.debugDescription)")
            }
            let escaped = evil.utf8.map { String(format: "%%%02X", $0) }.joined()
            for target in [
                "/v1/events/\(escaped)", "/v1/events?topic=\(escaped)", "/v1/events/t?group=\(escaped)",
                "/v1/events/t?device=\(escaped)",
            ] {
                for accept in ["text/event-stream", "application/json"] {
                    let reply = try HTTP.get(target, port: server.port, fields: [("Accept", accept)])
                    #expect(reply.status == 400 && !reply.body.contains("\nid: forged"), "\(target) \(reply.body)")
                }
            }
            // A cursor is only looked up: it is answered with a reset, in which it does not appear.
            let cursor = try RawConnection(port: server.port)
            try cursor.send(
                "GET /v1/events/t?last-event-id=\(escaped) HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n")
            let reset = try cursor.receive(until: "isotherm.reset") + cursor.receive(until: "\n\n")
            #expect(!reset.contains("forged"), "\(reset)")
        }
        #expect(refused == 8)
        // Data may have any bytes: each line of it is a line of data.
        try server.publish("t", "a\rid: forged\nevent: forged\r\n\r\nretry: 1\u{0}")
        let event = try device.events(1)[0]
        #expect(event.data == "a\nid: forged\nevent: forged\n\nretry: 1\u{0}" && event.type.isEmpty)
        #expect(event.id.hasPrefix("ev_"))
        #expect(
            !device.text(milliseconds: 10).split(separator: "\n").contains {
                $0 == "id: forged" || $0 == "data: forged"
            })
    }

    @Test("a client that publishes and does not read is held back; it gets all its answers, or is closed")
    func neverReads() throws {
        let server = try IsothermProcess(arguments: [
            "--set", "gateway.durability=memory", "--set", "delivery.stall_timeout=2s",
        ])
        let connection = try RawConnection(port: server.port, receiveBuffer: 4_096)
        let request = Array("POST /v1/events/t HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx".utf8)
        // The answers would take 100 MB, were the server to read on; what it has not read waits here, unsent.
        var sent = 0
        let batch = [UInt8]((0..<1_000).map { _ in request }.joined())
        while sent < 500_000 * request.count, let count = connection.sendWithoutWaiting(batch) { sent += count }
        #expect(sent < 100_000 * request.count, "\(sent / request.count) requests were taken")
        let published = try #require(try server.metric("isotherm_events_published_total{tenant=\"default\"}"))
        #expect(published < 50_000)
        try Wait.until("it is closed") {
            try server.metric("isotherm_http_connections_closed_total{reason=\"stalled\"}") == 1
        }
        // One that reads in the end has them all.
        let slow = try RawConnection(port: server.port, receiveBuffer: 4_096)
        try slow.send([UInt8]((0..<3_000).map { _ in request }.joined()))
        try slow.send("GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        #expect(slow.receiveAll().components(separatedBy: "HTTP/1.1 202 ").count == 3_001)
    }

    @Test("a Last-Event-ID of 10 MB is refused; a long one within the head's limit is a foreign one")
    func longCursor() throws {
        let server = try IsothermProcess()
        let cursor = String(repeating: "A", count: 10_000_000)
        for head in [
            "GET /v1/events/t HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nLast-Event-ID: ev_\(cursor)\r\n\r\n",
            "GET /v1/events/t?last-event-id=ev_\(cursor) HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n",
        ] {
            let connection = try RawConnection(port: server.port)
            try? connection.send(head)
            #expect(try connection.receive(until: "\r\n\r\n").hasPrefix("HTTP/1.1 431 "))
        }
        let device = try RawConnection(port: server.port)
        try device.send(
            "GET /v1/events/t HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nLast-Event-ID: ev_\(cursor.prefix(15_000))\r\n\r\n"
        )
        _ = try device.receive(until: "isotherm.reset")
        #expect(try server.metric("isotherm_resets_total{reason=\"foreign\"}") == 1)
        #expect(try server.metric("isotherm_requests_total{route=\"other\",code=\"431\"}") == 2)
        let status = try String(contentsOfFile: "/proc/\(server.processIdentifier)/status", encoding: .utf8)
        let peak = try #require(status.firstMatch(of: /VmHWM:\s+(\d+) kB/).flatMap { Int($0.1) })
        #expect(peak < 200_000, "\(peak) kB")
    }

    @Test("tenants that share a connection, as behind a proxy, share nothing else")
    func tenants() throws {
        let server = try IsothermProcess(
            configuration: """
                tenants:
                  acme: {tokens: [acme-token-1]}
                  other: {tokens: [other-token-1]}
                """)
        func request(_ method: String, _ target: String, _ token: String?, _ body: String = "") -> String {
            "\(method) \(target) HTTP/1.1\r\nHost: x\r\nAccept: application/json\r\n"
                + (token.map { "Authorization: Bearer \($0)\r\n" } ?? "")
                + (body.isEmpty ? "" : "Content-Length: \(body.utf8.count)\r\n") + "\r\n\(body)"
        }
        let connection = try RawConnection(port: server.port)
        let requests = (0..<50).map { number in
            number % 5 == 4
                ? request("POST", "/v1/events/t", nil, "nobody's")
                : request(
                    "POST", "/v1/events/t", number % 2 == 0 ? "acme-token-1" : "other-token-1",
                    number % 2 == 0 ? "acme's" : "other's")
        }
        try connection.send(
            requests.joined() + request("GET", "/v1/events/t?limit=1000&after=x", "acme-token-1")
                + request("GET", "/v1/events/t?limit=1000&after=x", nil)
                + request("GET", "/v1/events/t?limit=1000&after=x", "other-token-1").replacing(
                    "Accept:", with: "Connection: close\r\nAccept:"))
        let answers = connection.receiveAll().components(separatedBy: "HTTP/1.1 ").dropFirst()
        #expect(answers.count == 53)
        #expect(answers.prefix(50).count { $0.hasPrefix("202 ") } == 40)
        #expect(answers.count { $0.hasPrefix("401 ") } == 11)
        // Each sees its own: a foreign cursor goes on live, so the log is asked from its beginning.
        for (token, mine, theirs) in [("acme-token-1", "acme's", "other's"), ("other-token-1", "other's", "acme's")] {
            let reset = try HTTP.get(
                "/v1/events/t?after=ev_forged", port: server.port,
                fields: [("Authorization", "Bearer \(token)"), ("Accept", "application/json")])
            #expect(reset.body.contains("\"reset\":\"foreign\"") && !reset.body.contains(theirs))
            let device = try RawConnection(port: server.port)
            try device.send(
                "GET /v1/events/t?token=\(token)&last-event-id=ev_forged HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n"
            )
            let text = try device.receive(until: "isotherm.reset") + device.receive(until: "\n\n")
            let earliest = try #require(text.firstMatch(of: /"earliest":"([^"]+)"/)?.1, "\(text)")
            let all = try HTTP.get(
                "/v1/events/t?limit=1000&after=\(earliest)", port: server.port,
                fields: [("Authorization", "Bearer \(token)"), ("Accept", "application/json")])
            #expect(all.body.components(separatedBy: mine).count == 21 && !all.body.contains(theirs), "\(all.body)")
            #expect(!all.body.contains("nobody's"))
            // The other's cursor is foreign here, however genuine it is there.
            let other = token == "acme-token-1" ? "other-token-1" : "acme-token-1"
            let foreign = try HTTP.get(
                "/v1/events/t?limit=1000&after=\(earliest)", port: server.port,
                fields: [("Authorization", "Bearer \(other)"), ("Accept", "application/json")])
            #expect(foreign.body.contains("\"reset\":\"foreign\"") && foreign.body.contains("\"events\":[]"))
        }
    }
}
