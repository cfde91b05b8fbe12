import PushClient
import TestSupport
import Testing

/// The error that `body` throws.
func pushClientError(_ body: () throws -> Void) -> PushClientError? {
    do { try body() } catch { return error as? PushClientError }
    return nil
}

@Suite("Requests")
struct HTTPClientTests {
    @Test("a GET sends its headers and reads status, headers and body")
    func get() async throws {
        let server = ScriptedServer([
            ScriptedServer.answer("418 Short and stout", fields: "X-Pot:  tea \t\r\nX-POT: two\r\n", body: "steam")
        ])
        defer { server.close() }
        let response = try await onThread {
            try HTTPClient().get(server.url, headers: [("X-Tenant", "acme"), ("X-Empty", "")])
        }
        #expect(response.status == 418)
        #expect(response.header("x-pot") == "tea")
        #expect(response.headers.map(\.name) == ["X-Pot", "X-POT", "Content-Length"])
        #expect(response.header("X-Other") == nil)
        #expect(response.body == Array("steam".utf8))
        let request = try #require(server.requests.first)
        #expect(request.head.hasPrefix("GET /stream HTTP/1.1\r\n"))
        #expect(request.field("X-Tenant") == "acme")
        #expect(request.field("X-Empty") == "")
        #expect(request.field("Content-Type") == nil)
    }

    @Test("a POST sends its body as it is", arguments: [0, 1, 5_000, 3 << 20])
    func post(_ size: Int) async throws {
        let server = ScriptedServer([ScriptedServer.answer("202 Accepted")])
        defer { server.close() }
        let body = (0..<size).map { UInt8(truncatingIfNeeded: $0 &* 31) }
        let response = try await onThread {
            try HTTPClient().post(server.url, headers: [("content-type", "application/json")], body: body)
        }
        #expect(response.status == 202 && response.body.isEmpty)
        let request = try #require(server.requests.first)
        #expect(request.head.hasPrefix("POST /stream HTTP/1.1\r\n"))
        #expect(request.field("Content-Length") == "\(size)")
        #expect(request.field("Content-Type") == "application/json")
        #expect(request.field("Expect") == nil)
        #expect(request.body == body)
    }

    @Test("one client keeps its connection, and leaves nothing of a request in the next")
    func reuse() async throws {
        let server = ScriptedServer([
            ScriptedServer.answer("200 OK", body: "one") + ScriptedServer.answer("201 Created")
                + ScriptedServer.answer("200 OK", body: "three")
        ])
        defer { server.close() }
        let bodies = try await onThread {
            let client = HTTPClient()
            let first = try client.get(server.url, headers: [("X-A", "1")])
            let second = try client.post(server.url, body: [1, 2, 3])
            let third = try client.get(server.url)
            return [first, second, third].map { String(decoding: $0.body, as: UTF8.self) }
        }
        #expect(bodies == ["one", "", "three"])
        #expect(server.requests.map(\.connection) == [0, 0, 0])
        #expect(server.requests.map { $0.field("X-A") } == ["1", nil, nil])
        #expect(server.requests.map(\.body) == [[], [1, 2, 3], []])
    }

    @Test("the final head counts, not that of a 1xx or the trailers")
    func informational() async throws {
        let server = ScriptedServer([
            [
                .request, .send("HTTP/1.1 103 Early Hints\r\nX-Early: 1\r\n\r\n"),
                .send("HTTP/1.1 200 OK\r\nX-Late: 1\r\nTransfer-Encoding: chunked\r\n\r\n"), .chunk("ab"), .chunk("c"),
                .send("0\r\nX-Trailer: 1\r\n\r\n"),
            ]
        ])
        defer { server.close() }
        let response = try await onThread { try HTTPClient().get(server.url) }
        #expect(response.status == 200)
        #expect(response.header("X-Early") == nil && response.header("X-Trailer") == nil)
        #expect(response.header("X-Late") == "1")
        #expect(response.body == Array("abc".utf8))
    }

    @Test("a body at its limit is read, and one byte more is an error", arguments: [99, 100, 101])
    func limit(_ size: Int) async throws {
        let body = String(repeating: "x", count: size)
        let server = ScriptedServer([
            ScriptedServer.answer("200 OK", body: body), ScriptedServer.answer("200 OK", body: "after"),
        ])
        defer { server.close() }
        try await onThread {
            let client = HTTPClient(maxResponseBytes: 100)
            if size <= 100 {
                let response = try client.get(server.url)
                #expect(response.body.count == size)
            } else {
                let error = pushClientError { _ = try client.get(server.url) }
                #expect(error?.code == .tooLarge)
                #expect(error?.status == 200)
                #expect(error?.cause.contains("100 bytes of maxResponseBytes") == true)
            }
            let next = try client.get(server.url)
            #expect(next.body == Array("after".utf8))
        }
    }

    @Test("a server that does not answer in time is an error that names the URL and the time")
    func timeout() async throws {
        let server = ScriptedServer([[.request, .hold], [.request, .send("HTTP/1.1 200 OK\r\n\r\nhalf"), .hold]])
        defer { server.close() }
        try await onThread {
            for status in [nil, 200] {
                let start = ContinuousClock.now
                let error = pushClientError { _ = try HTTPClient(timeout: .milliseconds(150)).get(server.url) }
                #expect(error?.code == .timedOut)
                #expect(error?.status == status)
                #expect(error?.cause.contains(server.url) == true)
                let time = ContinuousClock.now - start
                #expect(time >= .milliseconds(140) && time < .seconds(5))
            }
        }
    }

    @Test("a port where nobody listens is a failed connection")
    func refused() async throws {
        let url = "http://127.0.0.1:\(Peers.freePort())/"
        try await onThread {
            let error = pushClientError { _ = try HTTPClient().get(url) }
            #expect(error?.code == .connectionFailed)
            #expect(error?.status == nil)
            #expect(error?.cause.contains(url) == true)
        }
    }

    @Test("an answer that is cut off is a failed connection")
    func cut() async throws {
        let server = ScriptedServer([[.request, .send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")]])
        defer { server.close() }
        let error = try await onThread { pushClientError { _ = try HTTPClient().get(server.url) } }
        #expect(error?.code == .connectionFailed)
        #expect(error?.status == 200)
    }

    @Test(
        "a URL that cannot be sent is refused",
        arguments: [
            "", "http://", "ftp://127.0.0.1/", "file:///etc/passwd", "http://127.0.0.1/a b", "http://a/\r\nX: y",
        ])
    func malformedURL(_ url: String) async throws {
        let error = try await onThread { pushClientError { _ = try HTTPClient().get(url) } }
        #expect(error?.code == .malformed, "\(String(describing: error))")
    }

    @Test(
        "a header that could smuggle in another is refused",
        arguments: [
            ("X-A", "1\r\nX-B: 2"), ("X-A\r\nX-B", "1"), ("X-A", "a\0b"), ("", "x"), ("X A", "1"), ("X:A", "1"),
        ])
    func malformedHeader(_ name: String, _ value: String) async throws {
        let server = ScriptedServer([ScriptedServer.answer("200 OK")])
        defer { server.close() }
        let error = try await onThread {
            pushClientError { _ = try HTTPClient().get(server.url, headers: [(name, value)]) }
        }
        #expect(error?.code == .malformed)
        #expect(server.requests.isEmpty)
    }

    @Test("messages leave credentials out of URLs")
    func redaction() async throws {
        let port = Peers.freePort()
        let url = "http://user:hunter2@127.0.0.1:\(port)/x?topic=a&access_token=s3cret&b"
        let error = try await onThread { pushClientError { _ = try HTTPClient().get(url) } }
        let cause = try #require(error?.cause)
        #expect(cause.contains("http://<redacted>@127.0.0.1:\(port)/x?topic=a&access_token=<redacted>&b"))
        #expect(!cause.contains("hunter2") && !cause.contains("s3cret"))
    }
}
