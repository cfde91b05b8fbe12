import Foundation
import TestSupport
import Testing

@Suite("Publishing and listening")
struct DeliveryTests {
    @Test("an event reaches a listener with its id, its type and its trace")
    func delivery() throws {
        let server = try IsothermProcess()
        let device = try Device(port: server.port, "/v1/events/orders?group=iOS-15+")
        #expect(device.head.contains("Content-Type: text/event-stream"))
        #expect(device.head.contains("Cache-Control: no-cache, no-transform"))
        #expect(device.head.contains("X-Accel-Buffering: no"))
        let reply = try server.publish("orders", "{\"a\":1}", fields: [("X-Event-Type", "created")])
        let event = try device.events(1)[0]
        #expect(event.id == reply.id)
        #expect(event.type == "created")
        #expect(event.data == "{\"a\":1}")
        #expect(event.traceparent.split(separator: "-")[1] == reply.trace_id)
        #expect(reply.id.wholeMatch(of: /ev_[A-Za-z0-9_-]{1,61}/) != nil)
        #expect(device.text(milliseconds: 1).hasPrefix("retry: "))
        try Wait.until("the delivery is in the heatmap") {
            try HTTP.get("/heatmap.csv", port: server.port).body.contains(",iOS-15+,deliver,1,")
        }
    }

    /// The kernel's own times, of packets on loopback.
    @Test("a few devices get an event before its publisher is answered, many after it", arguments: [16, 17])
    func order(count: Int) throws {
        let server = try IsothermProcess(
            arguments: [
                "--set", "gateway.durability=memory", "--set", "threads=1", "--set", "delivery.join_interval=0s",
            ])
        let devices = try (0..<count).map { _ in try Device(port: server.port, "/v1/events/t") }
        // From some moment after a socket has asked for it.
        try Wait.until("packets are timed") {
            try server.publish("t", "warm")
            return devices[0].connection.arrival(of: "data: warm\n") != nil
        }
        let publisher = try RawConnection(port: server.port)
        try publisher.send("POST /v1/events/t HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nsoon")
        let answered = try #require(publisher.arrival(of: "202"))
        for device in devices {
            let delivered = try #require(device.connection.arrival(of: "data: soon\n"))
            #expect((delivered < answered) == (count <= 16), "\(delivered) and \(answered)")
        }
    }

    @Test("a payload of several lines, with lone carriage returns, comes as lines of data")
    func lines() throws {
        let server = try IsothermProcess()
        let device = try Device(port: server.port, "/v1/events/t")
        try server.publish("t", "a\r\nid: forged\rdata: b\n\nevent: c")
        let event = try device.events(1)[0]
        #expect(event.data == "a\nid: forged\ndata: b\n\nevent: c")
        #expect(event.type == "")
    }

    @Test("a device that resumes after kill -9 gets everything after its id, once and in order")
    func resumeAfterKill() throws {
        let first = try IsothermProcess()
        let device = try Device(port: first.port, "/v1/events/orders")
        var ids: [String] = []
        for number in 1...20 { ids.append(try first.publish("orders", "\(number)").id) }
        let seen = try device.events(5)
        #expect(seen.map(\.data) == (1...5).map(String.init))
        first.killNow()

        let second = try IsothermProcess(dataDirectory: first.dataDirectory)
        let resumed = try Device(port: second.port, "/v1/events/orders", lastEventID: seen[4].id)
        for number in 21...25 { try second.publish("orders", "\(number)") }
        let rest = try resumed.events(20)
        #expect(rest.map(\.data) == (6...25).map(String.init))
        #expect(!rest.contains { $0.type == "isotherm.reset" })
        // The same by query, as a browser's first connection has it.
        let byQuery = try Device(port: second.port, "/v1/events?topic=orders&last-event-id=\(ids[9])")
        #expect(try byQuery.events(15).map(\.data) == (11...25).map(String.init))
    }

    @Test("one connection carries several topics in the order of the log, with one cursor")
    func severalTopics() throws {
        let server = try IsothermProcess()
        let device = try Device(port: server.port, "/v1/events?topic=a&topic=b")
        for number in 1...30 { try server.publish(number % 3 == 0 ? "b" : number % 3 == 1 ? "a" : "c", "\(number)") }
        let expected = (1...30).filter { $0 % 3 != 2 }.map(String.init)
        let events = try device.events(expected.count)
        #expect(events.map(\.data) == expected)
        let resumed = try Device(port: server.port, "/v1/events?topic=a&topic=b", lastEventID: events[6].id)
        #expect(try resumed.events(expected.count - 7).map(\.data) == Array(expected[7...]))
    }

    @Test("a forged, a foreign and a garbled id are answered with a reset that can be continued from")
    func badCursors() throws {
        let server = try IsothermProcess()
        let id = try server.publish("t", "one").id
        let other = try IsothermProcess()
        let foreign = try other.publish("t", "elsewhere").id
        let last = id.last == "A" ? "B" : "A"
        for cursor in [String(id.dropLast()) + last, foreign, "ev_", "42", String(repeating: "x", count: 500)] {
            let device = try Device(port: server.port, "/v1/events/t", lastEventID: cursor)
            let reset = try device.events(1)[0]
            #expect(reset.type == "isotherm.reset")
            #expect(reset.data.contains("\"reason\":\"foreign\""), "\(cursor): \(reset.data)")
            let number = Int.random(in: 0..<1_000_000)
            try server.publish("t", "\(number)")
            #expect(try device.events(1)[0].data == "\(number)")
            // Its id is a cursor from which a device goes on without another reset.
            let again = try Device(port: server.port, "/v1/events/t", lastEventID: reset.id)
            #expect(try again.events(1)[0].data == "\(number)")
        }
    }

    @Test("a cursor that retention has overtaken gets a reset, then everything that is kept")
    func tooOld() throws {
        let server = try IsothermProcess(arguments: ["--set", "log.retention_events=10"])
        let first = try server.publish("t", "0").id
        for number in 1...40 { try server.publish("t", "\(number)") }
        // Retention runs in steps beside the appends.
        var events: [ReceivedEvent] = []
        try Wait.until("the first event is gone") {
            let device = try Device(port: server.port, "/v1/events/t", lastEventID: first)
            events = try device.events(1)
            guard events[0].type == "isotherm.reset" else { return false }
            events += try device.events(10)
            return true
        }
        #expect(events[0].data.contains("\"reason\":\"too_old\""))
        let kept = events.dropFirst().compactMap { Int($0.data) }
        #expect(kept == Array(kept[0]..<kept[0] + 10))
        let after = try Device(port: server.port, "/v1/events/t", lastEventID: events[0].id)
        #expect(try after.events(1)[0].data == "\(kept[0])")
    }

    @Test(
        "a row gone from the log's file is a reset with the reason corrupt, in every form; the rest comes")
    func corrupt() throws {
        let directory = IsothermProcess.temporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        var ids: [String] = []
        do {
            let server = try IsothermProcess(dataDirectory: directory)
            for number in 1...9 { ids.append(try server.publish("t", "\(number)").id) }
            server.stop()
        }
        // The offset is the lower 46 bits of a position.
        try Peers.python(
            """
            import sqlite3, sys
            log = sqlite3.connect(sys.argv[1] + "/log.sqlite")
            assert log.execute("DELETE FROM events WHERE position & 70368744177663 IN (4, 5)").rowcount == 2
            log.commit()
            """, [directory])
        let server = try IsothermProcess(dataDirectory: directory)
        let device = try Device(port: server.port, "/v1/events/t", lastEventID: ids[1])
        let events = try device.events(6)
        #expect(events.map(\.type) == ["", "isotherm.reset", "", "", "", ""])
        #expect(events.map(\.data).filter { Int($0) != nil } == ["3", "6", "7", "8", "9"])
        #expect(events[1].data.contains("\"reason\":\"corrupt\""))
        let again = try Device(port: server.port, "/v1/events/t", lastEventID: events[1].id)
        #expect(try again.events(1)[0].data == "6")

        struct Poll: Decodable {
            struct Event: Decodable { let data: String }
            let reset: String?
            let events: [Event]?
            let next: String?
        }
        func poll(after id: String) throws -> Poll {
            let reply = try HTTP.get("/v1/events/t?after=\(id)", port: server.port)
            #expect(reply.status == 200, "\(reply.body)")
            return try JSONDecoder().decode(Poll.self, from: Data(reply.body.utf8))
        }
        var told: [String] = []
        var cursor = ids[1]
        while told.last != "9", told.count < 9 {
            let page = try poll(after: cursor)
            told += (page.reset.map { [$0] } ?? []) + (page.events ?? []).map(\.data)
            cursor = try #require(page.next)
        }
        #expect(told == ["3", "corrupt", "6", "7", "8", "9"])

        let lines = try RawConnection(port: server.port)
        try lines.send(
            "GET /v1/events/t?last-event-id=\(ids[1]) HTTP/1.1\r\nHost: x\r\nAccept: application/x-ndjson\r\n\r\n")
        let objects = try lines.receive(until: "\"data\":\"9\"}").split(whereSeparator: \.isNewline)
            .filter { $0.hasPrefix("{") }
            .map { try JSONDecoder().decode(Line.self, from: Data($0.utf8)) }
        #expect(objects.compactMap { $0.data ?? $0.reset } == ["3", "corrupt", "6", "7", "8", "9"])
        let reset = try #require(objects.first { $0.reset != nil })
        #expect(try poll(after: #require(reset.next)).events?.first?.data == "6")
        // A stream, a poll and lines went over the place.
        #expect(try server.metric("isotherm_resets_total{reason=\"corrupt\"}") == 3)
    }

    private struct Line: Decodable {
        let data: String?
        let reset: String?
        let next: String?
    }

    @Test("a reader that does not read loses nothing, and the server's memory for it is bounded")
    func slowReader() throws {
        let server = try IsothermProcess(arguments: ["--set", "gateway.durability=written"])
        let device = try Device(port: server.port, "/v1/events/t", receiveBuffer: 4_096)
        let payload = String(repeating: "x", count: 60_000)
        for number in 1...200 { try server.publish("t", "\(number) \(payload)") }
        let waiting = try server.metric("isotherm_connection_bytes") ?? 0
        #expect(waiting <= 256 * 1024)
        let events = try device.events(200, seconds: 60)
        #expect(events.map { $0.data.prefix { $0 != " " } } == (1...200).map { "\($0)"[...] })
    }

    @Test("heartbeats are comments only")
    func heartbeats() throws {
        let server = try IsothermProcess(arguments: ["--set", "delivery.heartbeat=200ms"])
        let device = try Device(port: server.port, "/v1/events/t")
        try Wait.until("two heartbeats") { device.text(milliseconds: 100).components(separatedBy: "\n:\n\n").count > 2 }
        let text = device.text(milliseconds: 1)
        #expect(!text.contains("data:"))
        for line in text.split(separator: "\n") { #expect(line.hasPrefix(":") || line.hasPrefix("retry: ")) }
    }

    @Test("SIGTERM closes the streams with a retry and ends with status 0")
    func drain() throws {
        let server = try IsothermProcess(arguments: ["--set", "delivery.drain_interval=200ms"])
        let devices = try (0..<20).map { _ in try Device(port: server.port, "/v1/events/t") }
        try server.publish("t", "last")
        #expect(server.stop() == 0)
        var retries: Set<Substring> = []
        for device in devices {
            let text = device.text(milliseconds: 10) + device.connection.receiveAll(milliseconds: 2_000)
            #expect(text.contains("data: last"))
            let farewells = text.matches(of: /retry: (\d+)/)
            #expect(farewells.count == 2)
            retries.insert(farewells.last?.1 ?? "")
        }
        #expect(retries.count > 5, "the retries are jittered")
        #expect(server.output.contains("spans: started"))
    }

    @Test("the long poll waits, returns a cursor, and continues from it")
    func longPoll() throws {
        struct Poll: Decodable {
            struct Event: Decodable {
                let id: String
                let data: String
                let topic: String
            }
            let events: [Event]
            let next: String
        }
        let server = try IsothermProcess()
        func poll(_ query: String) throws -> Poll {
            let reply = try HTTP.get(
                "/v1/events/t?\(query)", port: server.port, fields: [("Accept", "application/json")])
            #expect(reply.status == 200)
            return try JSONDecoder().decode(Poll.self, from: Data(reply.body.utf8))
        }
        let empty = try poll("wait=0s")
        #expect(empty.events.isEmpty)
        for number in 1...5 { try server.publish("t", "\(number)") }
        let first = try poll("after=\(empty.next)&limit=2")
        #expect(first.events.map(\.data) == ["1", "2"])
        let second = try poll("after=\(first.next)")
        #expect(second.events.map(\.data) == ["3", "4", "5"])
        let port = server.port
        let publisher = Thread {
            usleep(300_000)
            _ = try? HTTP.post("/v1/events/t", "6", port: port)
        }
        publisher.start()
        let waited = try poll("after=\(second.next)&wait=10s")
        #expect(waited.events.map(\.data) == ["6"])
        #expect(waited.events[0].topic == "t")
    }

    @Test("the group comes from the query, from a header, or from the User-Agent")
    func groups() throws {
        let server = try IsothermProcess()
        let agent = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_4 like Mac OS X) AppleWebKit/605.1.15"
        let devices = [
            try Device(port: server.port, "/v1/events/t?group=from-query", fields: [("X-Device-Group", "no")]),
            try Device(port: server.port, "/v1/events/t", fields: [("X-Device-Group", "from-header")]),
            try Device(port: server.port, "/v1/events/t", fields: [("User-Agent", agent)]),
        ]
        try server.publish("t", "x")
        for device in devices { _ = try device.events(1) }
        for group in ["from-query", "from-header", "iOS-17"] {
            let sample = "isotherm_events_delivered_total{tenant=\"default\",device_group=\"\(group)\"}"
            try Wait.until("\(group) is counted") { try server.metric(sample) == 1 }
        }
    }
}
