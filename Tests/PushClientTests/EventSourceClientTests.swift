import PushClient
import Synchronization
import TestSupport
import Testing

@Suite("Following a stream")
struct EventSourceClientTests {
    /// What a client saw.
    struct Run: Sendable {
        var events: [ServerSentEvent] = []
        var notices: [EventSourceClient.Notice] = []
        var lastEventID: String?
        var error: PushClientError?
        var time: Duration = .zero

        var data: [String] { events.map(\.data) }
        var ends: [String] {
            notices.compactMap {
                if case .ended(let text) = $0 { text } else { nil }
            }
        }
        var waits: [(reason: String, time: Duration)] {
            notices.compactMap {
                if case .disconnected(let reason, let wait) = $0 { (reason, wait) } else { nil }
            }
        }
        var connections: Int {
            notices.count {
                if case .connected = $0 { true } else { false }
            }
        }
    }

    /// Follows until the event `last`, until the client gives up, or for `limit`.
    private func follow(
        _ configuration: EventSourceClient.Configuration, until last: String? = nil, limit: Duration = .seconds(20)
    ) async throws -> Run {
        try await onThread {
            let client = EventSourceClient(configuration: configuration)
            let run = Mutex(Run())
            let start = ContinuousClock.now
            do throws(PushClientError) {
                try client.run(
                    shouldStop: { ContinuousClock.now - start >= limit },
                    onNotice: { notice in run.withLock { $0.notices.append(notice) } },
                    onEvent: { event in
                        run.withLock { $0.events.append(event) }
                        return event.data == last ? .stop : .continue
                    })
            } catch {
                run.withLock { $0.error = error }
            }
            return run.withLock {
                $0.time = ContinuousClock.now - start
                $0.lastEventID = client.lastEventID
                return $0
            }
        }
    }

    private func quick(_ server: ScriptedServer) -> EventSourceClient.Configuration {
        .init(url: server.url, maxBackoff: .milliseconds(40))
    }

    @Test("it asks for a stream, gives its events in order, and stops when told to")
    func stream() async throws {
        let server = ScriptedServer([
            ScriptedServer.stream(
                ": hello\n\n", "id: 1\ndata: a\n\nid: 2\nevent: isotherm.reset\ndata: b\n\n", "id: 3\ntraceparent: t\n",
                "data: c\n\nid: 4\ndata: d\n\nid: 5\n\n", then: [.hold])
        ])
        defer { server.close() }
        var configuration = quick(server)
        configuration.headers = [("Authorization", "Bearer x")]
        let run = try await follow(configuration, until: "c")
        #expect(
            run.events == [
                ServerSentEvent(id: "1", data: "a"), ServerSentEvent(id: "2", type: "isotherm.reset", data: "b"),
                ServerSentEvent(id: "3", data: "c", traceparent: "t"),
            ])
        // 4 and 5 had come too, but were not given.
        #expect(run.lastEventID == "3")
        #expect(run.error == nil && run.connections == 1 && run.waits.isEmpty)
        let request = try #require(server.requests.first)
        #expect(request.head.hasPrefix("GET /stream HTTP/1.1\r\n"))
        #expect(request.field("Accept") == "text/event-stream")
        #expect(request.field("Authorization") == "Bearer x")
        #expect(request.field("Last-Event-ID") == nil)
    }

    enum Cut: String, CaseIterable { case regular, short, reset }

    @Test("after a cut it resumes with the last id, without the event that was cut in two", arguments: Cut.allCases)
    func resume(_ cut: Cut) async throws {
        let ending: [ScriptedServer.Step] =
            switch cut {
            case .regular: [.lastChunk]
            case .short: []
            case .reset: [.pause(milliseconds: 100), .reset]
            }
        let server = ScriptedServer([
            ScriptedServer.stream("id: 6\ndata: a\n\nid: 7\ndata: b\n\nid: 8\ndata: lo", then: ending),
            ScriptedServer.stream("\u{FEFF}data: c\n\n", then: ending), ScriptedServer.stream("id: 8\ndata: d\n\n"),
        ])
        defer { server.close() }
        var configuration = quick(server)
        configuration.lastEventID = "5-ü"
        let run = try await follow(configuration, until: "d")
        #expect(
            run.events == [
                ServerSentEvent(id: "6", data: "a"), ServerSentEvent(id: "7", data: "b"),
                ServerSentEvent(id: "7", data: "c"),
                ServerSentEvent(id: "8", data: "d"),
            ])
        #expect(server.requests.map { $0.field("Last-Event-ID") } == ["5-ü", "7", "7"])
        #expect(run.waits.count == 2 && run.connections == 3)
    }

    @Test("an id that the server took back is not sent")
    func emptyID() async throws {
        let server = ScriptedServer([
            ScriptedServer.stream("id: 6\ndata: a\n\nid\ndata: b\n\n"), ScriptedServer.stream("data: c\n\n"),
        ])
        defer { server.close() }
        let run = try await follow(quick(server), until: "c")
        #expect(run.events.map(\.id) == ["6", "", ""])
        #expect(server.requests.map { $0.field("Last-Event-ID") } == [nil, nil])
    }

    @Test("it waits as long as the server's retry says, give or take one half")
    func retry() async throws {
        let server = ScriptedServer([
            ScriptedServer.stream("retry: 300\ndata: a\n\n"), ScriptedServer.stream("data: b\n\n"),
        ])
        defer { server.close() }
        let run = try await follow(.init(url: server.url), until: "b")
        #expect(run.data == ["a", "b"])
        let wait = try #require(run.waits.first).time
        #expect(wait >= .milliseconds(150) && wait <= .milliseconds(450))
        let times = server.requests.map(\.time)
        #expect(times[1] - times[0] >= wait)
    }

    @Test("it waits longer and longer for a server that is not there, up to the cap")
    func backoff() async throws {
        let configuration = EventSourceClient.Configuration(
            url: "http://127.0.0.1:\(Peers.freePort())/", maxBackoff: .milliseconds(60))
        let run = try await follow(configuration, limit: .milliseconds(600))
        #expect(run.error == nil && run.connections == 0)
        #expect(run.waits.count >= 5)
        #expect(run.waits.allSatisfy { $0.time >= .milliseconds(30) && $0.time <= .milliseconds(60) })
        #expect(run.waits.first?.reason.contains(configuration.url) == true)
    }

    @Test(
        "it gives up on an answer that will not change, and names URL and status",
        arguments: [400, 401, 403, 404, 410, 202, 301, 307])
    func rejected(_ status: Int) async throws {
        let server = ScriptedServer([
            ScriptedServer.answer(
                "\(status) X", fields: "Content-Type: application/problem+json\r\nLocation: /elsewhere\r\n",
                body: #"{"type":"about:blank","title":"No \"acme\"","detail":"the tenant\u000ais unknown","status":4}"#)
        ])
        defer { server.close() }
        let run = try await follow(quick(server))
        let error = try #require(run.error)
        #expect(error.code == .rejected && error.status == status)
        #expect(error.cause.hasPrefix("\(server.url) answered \(status): No \"acme\": the tenant is unknown"))
        #expect(error.cause.contains("/elsewhere") == (300..<400).contains(status))
        #expect(server.requests.count == 1)
    }

    @Test(
        "200 with another content type is an error that names it", arguments: ["text/html", "text/event-streams", nil])
    func contentType(_ type: String?) async throws {
        let server = ScriptedServer([
            ScriptedServer.answer("200 OK", fields: type.map { "Content-Type: \($0)\r\n" } ?? "", body: "data: x\n\n")
        ])
        defer { server.close() }
        let run = try await follow(quick(server))
        #expect(run.events.isEmpty && run.connections == 0)
        #expect(run.error?.code == .malformed && run.error?.status == 200)
        #expect(run.error?.cause.contains(type ?? "(none)") == true)
    }

    @Test("408, 425, 429 and 5xx are tried again", arguments: [408, 425, 429, 500, 502, 503])
    func transient(_ status: Int) async throws {
        let server = ScriptedServer([
            ScriptedServer.answer("\(status) X", fields: "Content-Type: text/plain\r\n", body: "busy\n"),
            ScriptedServer.stream("data: a\n\n"),
        ])
        defer { server.close() }
        let run = try await follow(quick(server), until: "a")
        #expect(run.data == ["a"])
        #expect(run.waits.map(\.reason) == ["\(server.url) answered \(status): busy"])
    }

    @Test("503 with Retry-After is asked again no earlier")
    func retryAfter() async throws {
        let server = ScriptedServer([
            ScriptedServer.answer("503 Service Unavailable", fields: "Retry-After: 1\r\n"),
            ScriptedServer.stream("data: a\n\n"),
        ])
        defer { server.close() }
        let run = try await follow(quick(server), until: "a")
        #expect(run.data == ["a"])
        let times = server.requests.map(\.time)
        #expect(times[1] - times[0] >= .seconds(1) && times[1] - times[0] < .seconds(10))
    }

    @Test("204 ends it for good")
    func noContent() async throws {
        let server = ScriptedServer([
            ScriptedServer.stream("data: a\n\n"), [.request, .send("HTTP/1.1 204 No Content\r\n\r\n"), .hold],
        ])
        defer { server.close() }
        let run = try await follow(quick(server))
        #expect(run.error == nil && run.data == ["a"])
        #expect(run.ends.count == 1 && run.ends.first?.contains("204") == true)
        #expect(server.requests.count == 2)
    }

    @Test("a silent connection is given up after the idle timeout, and heartbeats keep it")
    func idle() async throws {
        let beats = Array(repeating: [ScriptedServer.Step.pause(milliseconds: 100), .chunk(":\n\n")], count: 8).flatMap
        { $0 }
        let server = ScriptedServer([
            ScriptedServer.stream("id: 1\ndata: a\n\n", then: beats + [.chunk("id: 2\ndata: b\n\n"), .hold]),
            [.request, .hold],
            [.request, .send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"), .hold],
            ScriptedServer.stream("data: c\n\n"),
        ])
        defer { server.close() }
        var configuration = quick(server)
        configuration.idleTimeout = .milliseconds(500)
        let run = try await follow(configuration, until: "c")
        #expect(run.data == ["a", "b", "c"])
        #expect(run.waits.count == 3)
        #expect(run.waits.allSatisfy { $0.reason.contains("idle timeout") && $0.reason.contains(server.url) })
        #expect(server.requests.map { $0.field("Last-Event-ID") } == [nil, "2", "2", "2"])
        // 800 ms of heartbeats and three silences, by the client's clock: the server's thread may notice late.
        #expect(run.time >= .milliseconds(800 + 3 * 500))
    }

    @Test("a chunk may end anywhere, also inside a character")
    func splitCharacters() async throws {
        let bytes = Array("event: wärme\r\ndata: 🌡 21 °C\r\ndata: …\r\n\r\n".utf8)
        let server = ScriptedServer([
            [.request, .send(ScriptedServer.streamHead)] + bytes.flatMap { [.chunk([$0]), .pause(milliseconds: 1)] } + [
                .hold
            ]
        ])
        defer { server.close() }
        let run = try await follow(quick(server), until: "🌡 21 °C\n…")
        #expect(run.events == [ServerSentEvent(type: "wärme", data: "🌡 21 °C\n…")])
        #expect(run.connections == 1)
    }

    @Test("20,000 events come whole and in order", .timeLimit(.minutes(1)))
    func many() async throws {
        var text = ""
        for number in 1...20_000 { text += "id: \(number)\ndata: event \(number)\n\n" }
        let server = ScriptedServer([ScriptedServer.stream(text, then: [.hold])])
        defer { server.close() }
        let run = try await follow(quick(server), until: "event 20000")
        #expect(run.data == (1...20_000).map { "event \($0)" })
        #expect(run.lastEventID == "20000")
    }

    @Test("an event beyond the limit is an error, after those before it")
    func tooLarge() async throws {
        let server = ScriptedServer([
            ScriptedServer.stream("id: 1\ndata: a\n\n", "data: " + String(repeating: "x", count: 2_000), then: [.hold])
        ])
        defer { server.close() }
        var configuration = quick(server)
        configuration.maxEventBytes = 1_000
        let run = try await follow(configuration)
        #expect(run.data == ["a"] && run.lastEventID == "1")
        #expect(run.error?.code == .tooLarge)
        #expect(run.error?.cause.contains("1000") == true && run.error?.cause.contains(server.url) == true)
    }

    @Test("shouldStop ends a quiet stream, a request without answer, and a wait, each within a fifth of a second or so")
    func stop() async throws {
        let scripts: [[ScriptedServer.Step]] = [
            ScriptedServer.stream("data: a\n\n", then: [.hold]), [.request, .hold],
            ScriptedServer.answer("503 X", fields: "Retry-After: 60\r\n"),
        ]
        for script in scripts {
            let server = ScriptedServer([script])
            defer { server.close() }
            let run = try await follow(quick(server), limit: .milliseconds(300))
            #expect(run.error == nil)
            #expect(run.time >= .milliseconds(300) && run.time < .seconds(2))
            #expect(server.requests.count == 1)
        }
    }

    @Test("shouldStop is asked at least five times a second on a quiet stream")
    func polling() async throws {
        let server = ScriptedServer([ScriptedServer.stream("data: a\n\n", then: [.hold])])
        defer { server.close() }
        let url = server.url
        let (calls, time) = try await onThread {
            let count = Mutex(0)
            let start = ContinuousClock.now
            try EventSourceClient(configuration: .init(url: url)).run(
                shouldStop: {
                    count.withLock {
                        $0 += 1; return $0 > 10
                    }
                }, onNotice: { _ in }, onEvent: { _ in .continue })
            return (count.withLock { $0 }, ContinuousClock.now - start)
        }
        #expect(calls == 11)
        // Ten waits: two seconds at five a second, and not a busy loop.
        #expect(time < .seconds(2) && time > .milliseconds(300))
    }

    @Test("a refusal whose body never ends is reported after the idle timeout, without a busy loop")
    func endlessRefusal() async throws {
        let server = ScriptedServer([
            [.request, .send("HTTP/1.1 404 X\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n\r\nhalf"), .hold]
        ])
        defer { server.close() }
        var configuration = quick(server)
        configuration.idleTimeout = .milliseconds(300)
        let copy = configuration
        let (error, calls) = try await onThread {
            let count = Mutex(0)
            let error = pushClientError {
                try EventSourceClient(configuration: copy).run(
                    shouldStop: {
                        count.withLock { $0 += 1 }
                        return false
                    }, onNotice: { _ in }, onEvent: { _ in .continue })
            }
            return (error, count.withLock { $0 })
        }
        #expect(error?.cause == "\(server.url) answered 404: half")
        #expect(calls < 20)
    }

    @Test("a 1xx before the stream is passed over")
    func informational() async throws {
        let server = ScriptedServer([
            [.request, .send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"), .pause(milliseconds: 250)]
                + ScriptedServer.stream("data: a\n\n", then: [.hold]).dropFirst()
        ])
        defer { server.close() }
        let run = try await follow(quick(server), until: "a")
        #expect(run.data == ["a"] && run.error == nil && run.connections == 1)
    }

    @Test("without reconnects it returns at the end of the stream, cut or not", arguments: Cut.allCases)
    func once(_ cut: Cut) async throws {
        let ending: [ScriptedServer.Step] =
            cut == .regular ? [.lastChunk] : cut == .short ? [] : [.pause(milliseconds: 100), .reset]
        let server = ScriptedServer([ScriptedServer.stream("id: 1\ndata: a\n\n", then: ending)])
        defer { server.close() }
        var configuration = quick(server)
        configuration.reconnects = false
        let run = try await follow(configuration)
        #expect(run.error == nil && run.data == ["a"] && run.lastEventID == "1")
        #expect(run.ends.count == 1 && run.waits.isEmpty)
        #expect(server.requests.count == 1)
    }

    @Test("without reconnects a failure before the end is thrown")
    func onceFailed() async throws {
        let server = ScriptedServer([
            ScriptedServer.answer("503 X"), ScriptedServer.stream("data: a\n\n", then: [.hold]), [.request],
        ])
        defer { server.close() }
        var configuration = quick(server)
        configuration.reconnects = false
        configuration.idleTimeout = .milliseconds(200)
        let busy = try await follow(configuration)
        #expect(busy.error?.code == .rejected && busy.error?.status == 503)
        let silent = try await follow(configuration)
        #expect(silent.error?.code == .timedOut && silent.data == ["a"])
        let closed = try await follow(configuration)
        #expect(closed.error?.code == .connectionFailed)
        configuration.url = "http://127.0.0.1:\(Peers.freePort())/"
        let absent = try await follow(configuration)
        #expect(absent.error?.code == .connectionFailed)
    }

    @Test("a connection that is never taken is given up after the connect timeout, not the idle timeout")
    func connectTimeout() async throws {
        // Linux drops the SYNs for a listener whose queue is full, as a firewall would.
        let listener = FullListener()
        let configuration = EventSourceClient.Configuration(
            url: "http://127.0.0.1:\(listener.port)/", connectTimeout: .milliseconds(400),
            idleTimeout: .milliseconds(100), reconnects: false)
        let run = try await follow(configuration)
        #expect(run.error?.code == .timedOut && run.error?.status == nil)
        #expect(run.error?.cause.contains(configuration.url) == true)
        #expect(run.time >= .milliseconds(390) && run.time < .seconds(10))
        listener.close()
    }

    @Test("a bad URL and a bad header are thrown at once", arguments: [true, false])
    func malformed(isURL: Bool) async throws {
        var configuration = EventSourceClient.Configuration(url: isURL ? "gopher://x/" : "http://127.0.0.1:1/")
        if !isURL { configuration.lastEventID = "1\r\nX: y" }
        let run = try await follow(configuration)
        #expect(run.error?.code == .malformed)
        #expect(run.waits.isEmpty)
    }

    @Test("a second run goes on where the first one stopped")
    func secondRun() async throws {
        let server = ScriptedServer([
            ScriptedServer.stream("id: 1\ndata: a\n\nid: 2\ndata: b\n\n", then: [.hold]),
            ScriptedServer.stream("id: 2\ndata: b\n\n", then: [.hold]),
        ])
        defer { server.close() }
        let url = server.url
        let data = try await onThread {
            let client = EventSourceClient(configuration: .init(url: url))
            let data = Mutex<[String]>([])
            for _ in 0..<2 {
                try client.run(shouldStop: { false }, onNotice: { _ in }) { event in
                    data.withLock { $0.append(event.data) }
                    return .stop
                }
            }
            return data.withLock { $0 }
        }
        #expect(data == ["a", "b"])
        #expect(server.requests.map { $0.field("Last-Event-ID") } == [nil, "1"])
    }
}
