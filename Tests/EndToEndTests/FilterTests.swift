import Foundation
import TestSupport
import Testing

@Suite("What a device asks for")
struct FilterTests {
    @Test("patterns of topics: * is one token, > the rest, in the order of the log and with one cursor")
    func patterns() throws {
        let server = try IsothermProcess()
        let one = try Device(port: server.port, "/v1/events/orders.*")
        let rest = try Device(port: server.port, "/v1/events/orders.%3E")
        let mixed = try Device(port: server.port, "/v1/events?topic=alerts&topic=orders.*.berlin")
        for (number, topic) in ["orders", "orders.eu", "alerts", "orders.eu.berlin", "orders.us"].enumerated() {
            try server.publish(topic, "\(number)")
        }
        #expect(try one.events(2).map(\.data) == ["1", "4"])
        let received = try rest.events(3)
        #expect(received.map(\.data) == ["1", "3", "4"])
        #expect(try mixed.events(2).map(\.data) == ["2", "3"])
        let resumed = try Device(port: server.port, "/v1/events/orders.%3E", lastEventID: received[0].id)
        #expect(try resumed.events(2).map(\.data) == ["3", "4"])
    }

    @Test("event types: only these, live, resumed and polled; message stands for events without one")
    func types() throws {
        let server = try IsothermProcess()
        let device = try Device(port: server.port, "/v1/events/t?type=price&type=message")
        var ids: [String] = []
        for (number, type) in [nil, "price", "news", "price", "news"].enumerated() {
            ids.append(try server.publish("t", "\(number)", fields: type.map { [("X-Event-Type", $0)] } ?? []).id)
        }
        #expect(try device.events(3).map(\.data) == ["0", "1", "3"])
        let resumed = try Device(port: server.port, "/v1/events/t?type=news", lastEventID: ids[0])
        #expect(try resumed.events(2).map(\.data) == ["2", "4"])
        let polled = try HTTP.get("/v1/events/t?type=price&after=\(ids[0])", port: server.port).body
        #expect(polled.contains("\"data\":\"1\"") && polled.contains("\"data\":\"3\"") && !polled.contains("news"))
    }

    @Test("a pattern that is none is refused by its name", arguments: ["orders..eu", "a.>.b", "or*", ".a", "a.%20"])
    func broken(pattern: String) throws {
        let server = try IsothermProcess()
        let reply = try HTTP.get("/v1/events/\(pattern)?limit=1", port: server.port)
        #expect(reply.status == 400 && reply.body.contains("urn:isotherm:problem:invalid-topic"))
    }

    @Test("a quiet follower is not sent over what was for others, however much that was")
    func quietFollower() throws {
        let server = try IsothermProcess(arguments: ["--set", "gateway.durability=written"])
        let device = try Device(port: server.port, "/v1/events?topic=a&topic=b")
        try server.publish("a", "first")
        #expect(try device.events(1)[0].data == "first")
        let lines = String(repeating: "{}\n", count: 5_000)
        for _ in 1...8 {
            let reply = try HTTP.post(
                "/v1/events/other", lines, port: server.port, fields: [("Content-Type", "application/x-ndjson")])
            #expect(reply.status == 202)
        }
        try server.publish("b", "last")
        #expect(try device.events(1)[0].data == "last")
        // It stayed live: nothing had to be read again for it.
        #expect(try server.metric("isotherm_catch_up_connections") == 0)
    }

    @Test("a snapshot: the latest of each key, then live, without a gap or a repeat between")
    func snapshot() throws {
        let server = try IsothermProcess(arguments: ["--set", "gateway.durability=written"])
        for number in 1...600 {
            try server.publish("t", "\(number)", fields: number % 2 == 0 ? [("X-Event-Key", "k\(number % 10)")] : [])
        }
        try server.publish("other", "x", fields: [("X-Event-Key", "k0")])
        let device = try Device(port: server.port, "/v1/events/t?snapshot=latest")
        let values = try device.events(5)
        #expect(Set(values.map(\.data)) == ["592", "594", "596", "598", "600"])
        #expect(values.allSatisfy { $0.id.isEmpty })
        let end = try device.events(1)[0]
        #expect(end.type == "isotherm.snapshot" && end.data == "{\"events\":5}" && end.id.hasPrefix("ev_"))
        try server.publish("t", "601", fields: [("X-Event-Key", "k0")])
        #expect(try device.events(1)[0].data == "601")
        // The snapshot's id is a cursor; a device that has one needs no snapshot.
        let resumed = try Device(port: server.port, "/v1/events/t?snapshot=latest", lastEventID: end.id)
        #expect(try resumed.events(1)[0].data == "601")
        #expect(try HTTP.get("/v1/events/t?snapshot=all&limit=1", port: server.port).status == 400)
    }

    @Test("snapshots while values change: what comes after is exactly what came after")
    func snapshotUnderLoad() async throws {
        let server = try IsothermProcess(arguments: ["--set", "gateway.durability=memory"])
        let port = server.port
        let total = 2_000
        async let publishing: Void = Task.detached {
            for number in 1...total {
                let reply = try HTTP.post(
                    "/v1/events/t", "\(number)", port: port, fields: [("X-Event-Key", "k\(number % 7)")])
                guard reply.status == 202 else { throw Wait.TimedOut(description: "publish: \(reply.status)") }
            }
        }.value
        var devices: [Device] = []
        for _ in 1...20 {
            devices.append(try Device(port: port, "/v1/events/t?snapshot=latest"))
            try await Task.sleep(for: .milliseconds(20))
        }
        try await publishing
        for device in devices {
            var newest = 0
            while true {
                let event = try device.events(1, seconds: 30)[0]
                if event.type == "isotherm.snapshot" { break }
                newest = max(newest, try #require(Int(event.data)))
            }
            if newest < total {
                #expect(try device.events(total - newest).map(\.data) == (newest + 1...total).map(String.init))
            }
        }
    }

    @Test("conflation: a device that is behind gets the latest of each key, and every event without one")
    func conflation() throws {
        let server = try IsothermProcess(arguments: ["--set", "gateway.durability=written"])
        let start = try server.publish("t", "start").id
        for number in 1...300 {
            try server.publish("t", "\(number)", fields: number % 100 == 0 ? [] : [("X-Event-Key", "k\(number % 3)")])
        }
        let device = try Device(port: server.port, "/v1/events/t?conflate=key", lastEventID: start)
        #expect(try device.events(6).map(\.data) == ["100", "200", "297", "298", "299", "300"])
        #expect(try server.metric("isotherm_events_conflated_total") == 294)
        // Behind no more: every event comes.
        for number in 301...303 { try server.publish("t", "\(number)", fields: [("X-Event-Key", "k")]) }
        #expect(try device.events(3).map(\.data) == ["301", "302", "303"])
        #expect(try HTTP.get("/v1/events/t?conflate=all&limit=1", port: server.port).status == 400)
    }
}
