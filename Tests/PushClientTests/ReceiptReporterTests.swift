import Foundation
import TestSupport
import Testing

@testable import PushClient

@Suite("Receipts of a device")
struct ReceiptReporterTests {
    private struct Report: Decodable {
        struct Receipt: Decodable {
            let id: String
            let received_at: String
        }
        let device: String?
        let group: String?
        let sent_at: String
        let receipts: [Receipt]
    }

    private func reports(_ server: ScriptedServer) throws -> [Report] {
        try server.requests.map { try JSONDecoder().decode(Report.self, from: Data($0.body)) }
    }

    private func reporter(_ server: ScriptedServer, maxQueued: Int = 10_000) -> ReceiptReporter {
        ReceiptReporter(
            configuration: .init(
                server: "http://127.0.0.1:\(server.port)", headers: [("Authorization", "Bearer x")], device: "d1",
                group: "g", interval: .milliseconds(20), maxQueued: maxQueued))
    }

    @Test("receipts go in batches, with the device, the times and when they were sent")
    func batches() throws {
        let server = ScriptedServer([ScriptedServer.answer("202 Accepted")])
        defer { server.close() }
        let reporter = reporter(server)
        for number in 0..<2_500 { reporter.received("ev_\(number)") }
        reporter.finish()
        #expect(reporter.counts == (2_500, 0))
        let reports = try reports(server)
        #expect(reports.allSatisfy { $0.device == "d1" && $0.group == "g" && $0.receipts.count <= 1_000 })
        #expect(reports.flatMap { $0.receipts.map(\.id) } == (0..<2_500).map { "ev_\($0)" })
        #expect(server.requests.allSatisfy { $0.head.hasPrefix("POST /v1/receipts HTTP/1.1\r\n") })
        #expect(server.requests[0].field("Authorization") == "Bearer x")
        let receipt = try #require(reports.first?.receipts.first)
        #expect(receipt.received_at.count == "1985-04-12T23:20:50.520000000Z".count)
        #expect(receipt.received_at <= reports[0].sent_at)
    }

    /// The second is that of RFC 3339's own example, section 5.8.
    @Test("times are RFC 3339 in UTC")
    func times() {
        #expect(ReceiptReporter.text(482_196_050_520_000_000) == "1985-04-12T23:20:50.520000000Z")
        #expect(ReceiptReporter.text(1) == "1970-01-01T00:00:00.000000001Z")
    }

    @Test("what the server cannot take now is sent again; what it refuses is not")
    func again() throws {
        let server = ScriptedServer([
            ScriptedServer.answer("503 Service Unavailable"), ScriptedServer.answer("429 Too Many Requests"),
            [.request],
            ScriptedServer.answer("202 Accepted"), ScriptedServer.answer("400 Bad Request"),
        ])
        defer { server.close() }
        let reporter = reporter(server)
        reporter.received("ev_1")
        try Wait.until("the receipt is taken") { reporter.counts.reported == 1 }
        #expect(try reports(server).map { $0.receipts.map(\.id) } == [["ev_1"], ["ev_1"], ["ev_1"], ["ev_1"]])
        reporter.received("ev_2")
        try Wait.until("the receipt is refused") { reporter.counts.lost == 1 }
        reporter.finish()
        #expect(reporter.counts == (1, 1) && server.requests.count == 5)
    }

    @Test("without a server the queue is bounded, the oldest go, and all are counted")
    func bounded() throws {
        let server = ScriptedServer([ScriptedServer.answer("503 Service Unavailable")])
        defer { server.close() }
        let reporter = reporter(server, maxQueued: 3)
        for number in 0..<5 { reporter.received("ev_\(number)") }
        reporter.finish()
        #expect(reporter.counts == (0, 5))
    }

    @Test("an event that comes again after a resume is given once; one without an id of its own always")
    func duplicates() throws {
        let server = ScriptedServer([
            ScriptedServer.stream("id: 1\ndata: a\n\nid: 2\ndata: b\n\ndata: no id\n\n"),
            ScriptedServer.stream("id: 2\ndata: b\n\ndata: no id\n\nid: 3\ndata: c\n\n", then: [.hold]),
        ])
        defer { server.close() }
        let client = EventSourceClient(configuration: .init(url: server.url, maxBackoff: .milliseconds(20)))
        var seen: [String] = []
        try client.run(shouldStop: { false }, onNotice: { _ in }) { event in
            seen.append(event.data)
            return event.id == "3" ? .stop : .continue
        }
        #expect(seen == ["a", "b", "no id", "no id", "c"])
        #expect(client.duplicates == 1)
        #expect(server.requests.map { $0.field("Last-Event-ID") } == [nil, "2"])
    }

    @Test("ids are remembered up to the limit", arguments: [0, 1, 3])
    func remembered(capacity: Int) {
        var ids = RecentIDs(capacity: capacity)
        let news = ["a", "b", "c", "a", "d", "a", "b", ""].map { ids.isNew($0) }
        let expected: [Int: [Bool]] = [
            0: [true, true, true, true, true, true, true, true],
            1: [true, true, true, true, true, true, true, true],
            // d pushes a out, a pushes b out, b pushes c out.
            3: [true, true, true, false, true, true, true, true],
        ]
        #expect(news == expected[capacity])
        #expect(RecentIDs(capacity: capacity).isNewTwice("x") == (capacity == 0))
    }
}

extension RecentIDs {
    /// Whether an id is new when it comes a second time at once.
    fileprivate func isNewTwice(_ id: String) -> Bool {
        var copy = self
        _ = copy.isNew(id)
        return copy.isNew(id)
    }
}
