import Foundation
import TestSupport
import Testing

/// `clients/javascript`, as the server serves it.
@Suite("The client for browsers")
struct BrowserClientTests {
    private let directory = Peers.repositoryRoot.appendingPathComponent("clients/javascript")

    @Test("what is served is made from the source, and is smaller than 3,000 bytes")
    func size() throws {
        try Peers.run(Peers.python, [directory.appendingPathComponent("minify").path, "--check"])
        let served = Peers.repositoryRoot.appendingPathComponent("Sources/PushServer/client.js")
        let bytes = try Data(contentsOf: served)
        #expect(bytes.count < 3_000)
        let server = try IsothermProcess()
        let reply = try HTTP.get("/v1/client.js", port: server.port)
        #expect(reply.status == 200 && reply.field("Content-Type")?.hasPrefix("text/javascript") == true)
        #expect(Data(reply.body.utf8) == bytes)
    }

    @Test("a hello comes only where it is asked for, has no id, and stands before the events, on either codec")
    func hello() throws {
        let server = try IsothermProcess()
        let id = try server.publish("t", "one").id
        let plain = try Device(port: server.port, "/v1/events/t?last-event-id=\(id)")
        try server.publish("t", "two")
        #expect(try plain.events(1).map(\.data) == ["two"])
        #expect(!plain.text(milliseconds: 0).contains("hello"))
        let device = try Device(port: server.port, "/v1/events/t?hello=1&last-event-id=\(id)")
        #expect(try device.events(2).map(\.data) == ["{}", "two"])
        let text = device.text(milliseconds: 0)
        let hello = try #require(text.firstRange(of: "event: isotherm.hello\ndata: {}\n\n"))
        let first = try #require(text.firstRange(of: "id: "))
        #expect(hello.upperBound <= first.lowerBound)
    }

    @Test(
        "in Chromium, directly, behind nginx with and without buffering, and across kill -9: all comes, once, in order")
    func chromium() throws {
        let program = Peers.repositoryRoot.appendingPathComponent("Tests/Peers/client_page.py").path
        #expect(try Peers.run(Peers.python, [program, IsothermProcess.executable]).text.hasSuffix("ok\n"))
    }
}
