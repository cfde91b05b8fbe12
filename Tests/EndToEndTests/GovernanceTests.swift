import Foundation
import TestSupport
import Testing

@Suite("Limits, and who finds no room")
struct GovernanceTests {
    private static let stream = "GET /v1/events/t HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n"

    /// A stream that is turned away: 200, a `retry:` of one to two times the setting, and the end.
    private func expectShed(_ text: String, retry: ClosedRange<Int>) throws {
        #expect(text.hasPrefix("HTTP/1.1 200 "), "\(text)")
        #expect(text.contains("Content-Type: text/event-stream\r\n"))
        let found = try #require(text.firstMatch(of: /retry: (\d+)\n/), "\(text)")
        #expect(retry.contains(try #require(Int(found.1))))
        #expect(!text.contains("data:"))
    }

    private func closed(_ server: IsothermProcess, _ reason: String) throws -> Double? {
        try server.metric("isotherm_http_connections_closed_total{reason=\"\(reason)\"}")
    }

    @Test(
        "beyond the limit of connections a browser is told when to come back, others get 429, and probes are answered")
    func connections() throws {
        let server = try IsothermProcess(arguments: ["--set", "limits.connections=4", "--set", "limits.shed_retry=3s"])
        let devices = try (0..<4).map { _ in try Device(port: server.port, "/v1/events/t") }
        #expect(devices.allSatisfy { $0.head.hasPrefix("HTTP/1.1 200 ") })
        let browser = try RawConnection(port: server.port)
        try browser.send(Self.stream)
        try expectShed(browser.receiveAll(), retry: 3_000...6_000)
        let other = try HTTP.get("/heatmap", port: server.port)
        #expect(other.status == 429 && other.field("Retry-After") == "3")
        #expect(other.field("Content-Type") == "application/problem+json" && other.body.contains("4 connections"))
        #expect(try HTTP.post("/v1/events/t", "x", port: server.port).status == 429)
        #expect(try HTTP.get("/readyz", port: server.port).status == 200)
        #expect(try HTTP.get("/livez", port: server.port).status == 200)
        #expect(try server.metric("isotherm_http_connections_limit") == 4)
        #expect(try server.metric("isotherm_streams_shed_total{reason=\"too_many_connections\"}") == 1)
        #expect(try #require(try server.metric("isotherm_http_connections_refused_total{limit=\"connections\"}")) >= 3)
        // One leaves, one may come.
        devices[0].connection.abort()
        try Wait.until("there is room") {
            try Device(port: server.port, "/v1/events/t").text(milliseconds: 1).contains("come back") == false
        }
        withExtendedLifetime(devices) {}
    }

    @Test("a browser that was turned away comes back by itself, and gets its stream once there is room")
    func browser() throws {
        let server = try IsothermProcess(arguments: [
            "--set", "cors.allowed_origins=*", "--set", "delivery.max_connections=1", "--set",
            "limits.shed_retry=200ms",
        ])
        let directory = IsothermProcess.temporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let page = """
            <!doctype html><script>
            const server = "http://127.0.0.1:\(server.port)";
            const source = new EventSource(server + "/v1/events/t?group=browser");
            source.onmessage = event => {
                source.close();
                fetch(server + "/v1/events/seen", {method: "POST", mode: "no-cors", body: event.data});
            };
            </script>
            """
        try page.write(toFile: directory + "/page.html", atomically: true, encoding: .utf8)
        let first = try Device(port: server.port, "/v1/events/t")
        let browser = try ChildProcess(
            Browser.path,
            Browser.arguments(profile: directory + "/profile")
                + ["--remote-debugging-port=0", "file://\(directory)/page.html"])
        try Wait.until(seconds: 40, "it has been turned away several times") {
            try server.metric("isotherm_streams_shed_total{reason=\"too_many_connections\"}") ?? 0 >= 3
        }
        first.connection.abort()
        try Wait.until("it has its stream") {
            try server.metric("isotherm_connections{tenant=\"default\",device_group=\"browser\"}") == 1
        }
        try server.publish("t", "at last")
        try Wait.until("the page has seen it") {
            try server.metric("isotherm_stream_head_offset{tenant=\"default\"}") == 2
        }
        browser.stop()
    }

    @Test("a place that was given up is free again")
    func placesReturn() throws {
        // Streams, not connections: the one that asks for the metrics may still be there when the next ones come.
        let server = try IsothermProcess(arguments: [
            "--set", "delivery.max_connections=2", "--set", "limits.streams_per_device=2",
        ])
        for _ in 0..<20 {
            let first = try Device(port: server.port, "/v1/events/t?device=d")
            let second = try Device(port: server.port, "/v1/events/t?device=d")
            #expect(first.head.hasPrefix("HTTP/1.1 200 ") && second.head.hasPrefix("HTTP/1.1 200 "))
            first.connection.abort()
            second.connection.abort()
            try Wait.until("both are gone") { try server.metric("isotherm_http_connections") == 1 }
        }
        #expect(try server.metric("isotherm_streams_shed_total{reason=\"too_many_connections\"}") == 0)
    }

    @Test("an address, a device and a tenant have limits of their own")
    func ownLimits() throws {
        let server = try IsothermProcess(
            configuration: """
                limits: {connections_per_address: 3, streams_per_device: 2, device_overflow: refuse}
                tenants:
                  acme: {tokens: [acme-token-1], connections: 3}
                  other: {tokens: [other-token-1]}
                """)
        func open(_ query: String, source: UInt8) throws -> RawConnection {
            let connection = try RawConnection(port: server.port, source: source)
            try connection.send(
                "GET /v1/events/t?\(query) HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n")
            return connection
        }
        func isOpen(_ connection: RawConnection) throws -> Bool {
            // A stream that stays opens with the configured retry, one that is turned away names the reason.
            try !connection.receive(until: "\n\n").contains("come back")
        }
        // By address: the fourth from one is turned away, one from another is not.
        let acme = "token=acme-token-1"
        let others = try (0..<4).map { _ in try open("token=other-token-1", source: 2) }
        // They come to different threads: any one of them may be the fourth.
        #expect(try others.map(isOpen).count { !$0 } == 1)
        // By device, by tenant.
        let first = try (0..<3).map { try open("\(acme)&device=d", source: 3 + UInt8($0)) }
        #expect(try first.map(isOpen).count { !$0 } == 1)
        let third = try open("\(acme)&device=e", source: 7)
        #expect(try isOpen(third))
        #expect(try !isOpen(open("\(acme)&device=f", source: 8)))
        // The same name at another tenant is another device, and a poll is told in its own way.
        #expect(try isOpen(open("token=other-token-1&device=d", source: 9)))
        let poll = try HTTP.get("/v1/events/t?\(acme)&device=d&wait=1s", port: server.port)
        #expect(poll.status == 429 && poll.field("Retry-After") != nil, "\(poll.body)")
        // Those that ask for the metrics have an address as well.
        #expect(try #require(try server.metric("isotherm_http_connections_refused_total{limit=\"address\"}")) >= 1)
        #expect(try server.metric("isotherm_streams_shed_total{reason=\"quota_exceeded\"}") == 1)
        withExtendedLifetime((others, first, third)) {}
    }

    @Test("a device's stream beyond its limit ends its oldest, told when to come back; other devices keep theirs")
    func replacement() throws {
        let server = try IsothermProcess(arguments: [
            "--set", "limits.streams_per_device=2", "--set", "gateway.durability=memory",
        ])
        func replaced() throws -> Double? {
            try server.metric("isotherm_connections_closed_total{reason=\"replaced\"}")
        }
        let other = try Device(port: server.port, "/v1/events/t?device=other")
        let nameless = try (0..<3).map { _ in try Device(port: server.port, "/v1/events/t") }
        // At the limit: both stay.
        let first = try Device(port: server.port, "/v1/events/t?device=d")
        let second = try Device(port: server.port, "/v1/events/t?device=d")
        try server.publish("t", "1")
        _ = try first.events(1)
        _ = try second.events(1)
        #expect(try replaced() == 0)
        // Beyond it: the oldest ends, whichever codec the newest has.
        let third = try Device(port: server.port, "/v1/events/t?device=d")
        let end = first.connection.receiveAll()
        #expect(end.contains(#/retry: [0-9]{5}\n/#), "10 to 20 s: \(end)")
        let lines = try RawConnection(port: server.port)
        try lines.send("GET /v1/events/t?device=d HTTP/1.1\r\nHost: x\r\nAccept: application/x-ndjson\r\n\r\n")
        _ = try lines.receive(until: "\r\n\r\n")
        #expect(second.connection.receiveAll().contains("retry: "))
        // A stream of lines is replaced as well, and a stream behind a codec.
        let codec = try RawConnection(port: server.port)
        try codec.send("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        _ = try codec.receive(until: "ok\n")
        try codec.send("GET /v1/events/t?device=d HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n")
        _ = try codec.receive(until: ": isotherm")
        #expect(third.connection.receiveAll().contains("retry: "))
        let newest = try (0..<2).map { _ in try Device(port: server.port, "/v1/events/t?device=d") }
        #expect(try codec.receive(until: ": closing").contains(#/retry: [0-9]{5}\n/#))
        #expect(try lines.receive(until: "0\r\n\r\n").hasSuffix("0\r\n\r\n"), "the answer ends in good order")
        try Wait.until("five are counted") { try replaced() == 5 }
        try server.publish("t", "2")
        for device in nameless + [other] { #expect(try device.events(2).map(\.data) == ["1", "2"]) }
        for device in newest { #expect(try device.events(1).map(\.data) == ["2"]) }
        #expect(try server.metric("isotherm_streams_shed_total{reason=\"too_many_connections\"}") == 0)
        let opened = try #require(try server.metric("isotherm_connections_opened_total"))
        let open = try server.metric("isotherm_connections{tenant=\"default\",device_group=\"unknown\"}")
        #expect(opened == 11 && open == 6, "\(opened) opened, \(open ?? -1) open")
    }

    @Test("a device's poll beyond its limit ends its oldest, which is answered with its cursor")
    func replacedPoll() throws {
        let server = try IsothermProcess(arguments: [
            "--set", "limits.streams_per_device=2", "--set", "gateway.durability=memory",
        ])
        let cursor = try server.publish("t", "1").id
        func poll() throws -> RawConnection {
            let connection = try RawConnection(port: server.port)
            try connection.send(
                "GET /v1/events/t?device=d&after=\(cursor)&wait=60s HTTP/1.1\r\nHost: x\r\nAccept: application/json\r\n\r\n"
            )
            return connection
        }
        // Each poll ends a stream, and so is known to wait.
        let streams = try (0..<2).map { _ in try Device(port: server.port, "/v1/events/t?device=d") }
        let older = try poll()
        #expect(streams[0].connection.receiveAll().contains("retry: "))
        let newer = try poll()
        #expect(streams[1].connection.receiveAll().contains("retry: "))
        let stream = try Device(port: server.port, "/v1/events/t?device=d")
        let answer = try older.receive(until: "}\n")
        #expect(answer.contains("200 OK") && answer.contains("{\"events\":[],\"next\":\"\(cursor)\"}"), "\(answer)")
        try server.publish("t", "2")
        #expect(try newer.receive(until: "}\n").contains("\"data\":\"2\""))
        #expect(try stream.events(1)[0].data == "2")
        #expect(try server.metric("isotherm_streams_shed_total{reason=\"too_many_connections\"}") == 0)
    }

    @Test("heads and bodies that drip are answered 408 and closed, however often a byte comes")
    func slow() throws {
        let server = try IsothermProcess(arguments: [
            "--set", "head_timeout=600ms", "--set", "limits.body_rate=100KiB", "--set", "idle_timeout=1m",
        ])
        /// Sends a byte every few milliseconds until the server has had enough.
        func drip(_ connection: RawConnection, _ bytes: [UInt8]) throws -> String {
            var answer: [UInt8] = []
            for byte in bytes {
                guard (try? connection.send([byte])) != nil else { break }
                answer += connection.receive(milliseconds: 20)
                if !answer.isEmpty { break }
            }
            return String(decoding: answer, as: UTF8.self) + connection.receiveAll()
        }
        func keptAlive() throws -> RawConnection {
            let connection = try RawConnection(port: server.port)
            try connection.send("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            _ = try connection.receive(until: "ok\n")
            return connection
        }
        let filler = Array(repeating: UInt8(ascii: "x"), count: 2_000)
        let head = Array("GET /heatmap HTTP/1.1\r\nX-A: ".utf8) + filler
        #expect(try drip(RawConnection(port: server.port), head).hasPrefix("HTTP/1.1 408 "))
        #expect(try drip(keptAlive(), head).hasPrefix("HTTP/1.1 408 "))
        // After a publish the connection is still the front door's.
        let published = try RawConnection(port: server.port)
        try published.send("POST /v1/events/t HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
        _ = try published.receive(until: "}\n")
        #expect(try drip(published, head).hasPrefix("HTTP/1.1 408 "))
        try Wait.until("they are counted") { try closed(server, "head_timeout") == 3 }
        for body in [
            "Content-Length: 2000\r\n\r\n", "Content-Type: application/x-ndjson\r\nContent-Length: 2000\r\n\r\n",
        ] {
            let connection = try RawConnection(port: server.port)
            try connection.send("POST /v1/events/t HTTP/1.1\r\nHost: x\r\n\(body)")
            #expect(try drip(connection, filler).hasPrefix("HTTP/1.1 408 "))
        }
        try Wait.until("they are counted") { try closed(server, "body_timeout") == 2 }
        // A large body that comes at that rate may take longer than a head.
        #expect(try server.publish("t", String(repeating: "y", count: 200_000)).id.hasPrefix("ev_"))
    }

    @Test("idle connections are closed, whichever codec has them")
    func idle() throws {
        let server = try IsothermProcess(arguments: [
            "--set", "idle_timeout=300ms", "--set", "delivery.drain_interval=100ms",
        ])
        for request in [
            "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
            "POST /v1/events/t HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx",
        ] {
            let connection = try RawConnection(port: server.port)
            try connection.send(request)
            _ = try connection.receive(until: "\n")
            _ = connection.receiveAll()
        }
        // HTTP/2's preface and empty SETTINGS, and no stream.
        let http2 = try RawConnection(port: server.port)
        try http2.send(Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8) + [0, 0, 0, 4, 0, 0, 0, 0, 0])
        _ = http2.receiveAll()
        try Wait.until("all are counted") { try closed(server, "idle") == 3 }
    }

    @Test("a head at its limits is served, one beyond gets 431, on a first and on a later request")
    func headLimits() throws {
        let server = try IsothermProcess(arguments: ["--set", "max_head_bytes=2KiB", "--set", "limits.head_fields=20"])
        func head(fields: Int, bytes: Int) -> String {
            var head = "GET /livez HTTP/1.1\r\n" + (1..<fields).map { "X-\($0): a\r\n" }.joined() + "X-Last: "
            head += String(repeating: "z", count: bytes - head.utf8.count - 4)
            return head + "\r\n\r\n"
        }
        for (fields, bytes, isServed) in [
            (19, 2_048, true), (20, 2_048, true), (21, 2_048, false), (5, 2_047, true), (5, 2_049, false),
            (5, 1_000_000, false),
        ] {
            let connection = try RawConnection(port: server.port)
            try? connection.send(head(fields: fields, bytes: bytes))
            let answer = try connection.receive(until: "\r\n\r\n")
            #expect(answer.hasPrefix(isServed ? "HTTP/1.1 200 " : "HTTP/1.1 431 "), "\(fields) \(bytes): \(answer)")
            // The general codec counts names and values alone, so only what is well beyond is compared.
            let later = try RawConnection(port: server.port)
            try later.send("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            _ = try later.receive(until: "ok\n")
            try? later.send(head(fields: isServed ? fields : fields * 2, bytes: isServed ? bytes : bytes * 4))
            let second = isServed ? try later.receive(until: "ok\n") : later.receiveAll()
            #expect(second.hasPrefix("HTTP/1.1 200 ") == isServed, "\(fields) \(bytes): \(second)")
        }
        #expect(try #require(try closed(server, "malformed")) >= 5)
        #expect(try server.metric("isotherm_requests_total{route=\"other\",code=\"431\"}") == 3)
    }

    @Test("while it drains, readyz says so, new streams are told to come back, and what is published is kept")
    func drain() throws {
        let server = try IsothermProcess(arguments: [
            "--set", "delivery.drain_interval=3s", "--set", "delivery.retry=1s",
        ])
        let devices = try (0..<10).map { _ in try Device(port: server.port, "/v1/events/t") }
        let reused = try RawConnection(port: server.port)
        try reused.send("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        _ = try reused.receive(until: "ok\n")
        try reused.send(Self.stream)
        _ = try reused.receive(until: "retry: ")
        kill(server.processIdentifier, SIGTERM)
        var ready: HTTPReply?
        try Wait.until("it is not ready any more") {
            ready = try HTTP.get("/readyz", port: server.port)
            return ready?.status == 503
        }
        #expect(ready?.body.contains("\"draining\"") == true)
        let late = try RawConnection(port: server.port)
        try late.send(Self.stream)
        try expectShed(late.receiveAll(), retry: 1_000...2_000)
        let heatmap = try HTTP.get("/heatmap", port: server.port)
        #expect(heatmap.status == 503 && heatmap.field("Retry-After") == "1")
        #expect(try server.publish("t", "late").id.hasPrefix("ev_"))
        for connection in devices.map(\.connection) + [reused] {
            let text = connection.receiveAll()
            #expect(text.contains("closing, please reconnect"), "\(text)")
        }
        try Wait.until("it has ended") { !server.isRunning }
        let after = try IsothermProcess(dataDirectory: server.dataDirectory)
        #expect(try after.metric("isotherm_stream_head_offset{tenant=\"default\"}") == 1)
    }

    @Test("without a descriptor left it turns connections away, serves those that are there, and recovers")
    func descriptors() throws {
        let server = try IsothermProcess()
        let device = try Device(port: server.port, "/v1/events/t")
        let kept = try RawConnection(port: server.port)
        func get(_ target: String) throws -> String {
            try kept.send("GET \(target) HTTP/1.1\r\nHost: x\r\n\r\n")
            let head = try kept.receive(until: "\r\n\r\n")
            let length = try #require(head.firstMatch(of: /[Cc]ontent-[Ll]ength: (\d+)/).flatMap { Int($0.1) })
            return try kept.receive(bytes: length)
        }
        _ = try get("/metrics")
        func limit(_ descriptors: Int) throws {
            try Peers.run("prlimit", ["--pid", "\(server.processIdentifier)", "--nofile=\(descriptors):4096"])
        }
        // A limit under which three are free.
        let open = Set(try server.openDescriptors())
        try limit((0..<4_096).filter { !open.contains($0) }[3])
        let crowd = (0..<40).compactMap { _ in try? RawConnection(port: server.port) }
        try Wait.until("the crowd is turned away") { crowd.count { $0.isClosed } >= 35 }
        try kept.send("POST /v1/events/t HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n")
        #expect(try kept.receive(until: "}\n").contains("202"))
        #expect(try device.events(1).map(\.data) == ["x"])
        let metrics = try get("/metrics")
        for sample in [
            "isotherm_accept_errors_total{error=\"EMFILE\"}",
            "isotherm_http_connections_refused_total{limit=\"descriptors\"}",
        ] {
            let value = metrics.split(separator: "\n").first { $0.hasPrefix(sample + " ") }?.split(separator: " ").last
            #expect(try #require(value.flatMap { Double($0) }) > 0, "\(sample)")
        }
        try limit(4_096)
        try Wait.until("it accepts again") { (try? HTTP.get("/livez", port: server.port).status) == 200 }
    }

    @Test("after much coming and going, opened is closed plus live, and descriptors and memory are as before")
    func churn() throws {
        let server = try IsothermProcess(arguments: [
            "--set", "gateway.durability=memory", "--set", "delivery.heartbeat=100ms", "--set", "head_timeout=2s",
        ])
        var random = SeededGenerator(11)
        func round(_ count: Int) throws {
            var open: [RawConnection] = []
            for number in 0..<count {
                let connection = try RawConnection(port: server.port, source: UInt8(1 + number % 5))
                switch number % 8 {
                case 0, 1: try connection.send(Self.stream)
                case 2:
                    try connection.send(
                        "GET /v1/events/t?wait=0s HTTP/1.1\r\nHost: x\r\nAccept: application/json\r\n\r\n")
                case 3: try connection.send("POST /v1/events/t HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello")
                case 4: try connection.send("POST /v1/events/t HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\nhel")
                case 5: try connection.send("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" + Self.stream)
                case 6: try connection.send("GET /li")
                default: try connection.send("nonsense\r\n\r\n")
                }
                if Bool.random(using: &random) { _ = connection.receive(milliseconds: 1) }
                if Bool.random(using: &random) { connection.abort() }
                open.append(connection)
                if open.count > 100 { open.removeFirst(Int.random(in: 1...50, using: &random)) }
            }
        }
        func settled() throws -> (descriptors: Int, kilobytes: Int) {
            var text = ""
            func sum(_ prefix: String) -> Double {
                text.split(separator: "\n").filter { $0.hasPrefix(prefix) }
                    .compactMap { $0.split(separator: " ").last.flatMap { Double($0) } }.reduce(0, +)
            }
            // The one that asks is open itself; a stream of the general codec notices its end by a heartbeat, and what waited
            // for a socket is given up a turn of the loop later.
            let gauges = ["isotherm_connections{", "isotherm_connection_bytes ", "isotherm_catch_up_connections "]
            try Wait.until("all are closed, and nothing waits") {
                text = try HTTP.get("/metrics", port: server.port).body
                return sum("isotherm_http_connections ") == 1 && gauges.allSatisfy { sum($0) == 0 }
            }
            for name in ["isotherm_http_connections", "isotherm_connections"] {
                let (opened, closed) = (sum("\(name)_opened_total "), sum("\(name)_closed_total{"))
                let live = name == "isotherm_connections" ? sum("\(name){") : sum("\(name) ")
                #expect(opened > 0 && opened == closed + live, "\(name): \(opened) = \(closed) + \(live)")
            }
            let status = try String(contentsOfFile: "/proc/\(server.processIdentifier)/status", encoding: .utf8)
            let resident = try #require(status.firstMatch(of: /RssAnon:\s+(\d+) kB/).flatMap { Int($0.1) })
            return (try server.openDescriptors().count, resident)
        }
        try round(1_000)
        let before = try settled()
        for _ in 0..<3 { try round(1_000) }
        let after = try settled()
        #expect(
            after.descriptors <= before.descriptors + 2, "\(before.descriptors) descriptors, then \(after.descriptors)")
        #expect(after.kilobytes < before.kilobytes + 24_000, "\(before.kilobytes) kB, then \(after.kilobytes) kB")
    }

    /// Over TLS and HTTP/2 too, with devices that come back; the same as is run for an hour.
    @Test("connections of every kind that come and go: no device loses an event, and nothing stays behind")
    func everyKind() throws {
        let directory = IsothermProcess.temporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let program = Peers.repositoryRoot.appendingPathComponent("Tests/Peers/churn.py").path
        let output = try Peers.run(Peers.python, [program, IsothermProcess.executable, directory, "5", "16"])
        let report = try #require(output.text.split(separator: "\n").first { $0.hasPrefix("{") })
        let totals = try #require(
            JSONSerialization.jsonObject(with: Data(report.utf8)) as? [String: Any], "\(output.text)")
        for name in ["sessions", "others", "events", "receipts"] {
            #expect(try #require(totals[name] as? Int) > 0, "\(name): \(output.text)")
        }
    }
}
