import Foundation
import TestSupport
import Testing

/// `GET /v1/events/{id}/deliveries`, against devices on real sockets.
@Suite("Proof of delivery")
struct ProofTests {
    @Test("it tells who got an event, and why each of the others did not")
    func everyStatus() throws {
        let server = try IsothermProcess(arguments: ["--set", "gateway.durability=written"])
        func device(_ name: String, _ topic: String = "orders", buffer: Int32? = nil) throws -> Device {
            try Device(port: server.port, "/v1/events/\(topic)?group=g&device=\(name)", receiveBuffer: buffer)
        }
        let reader = try device("reader")
        let prices = try device("prices", "prices")
        var gone: Device? = try device("gone")
        #expect(gone?.head.contains("200") == true)
        let stalled = try device("stalled", buffer: 4_096)
        try server.publish("orders", "before")
        _ = try gone?.events(1)
        gone = nil
        try Wait.until("its connection is closed") {
            try server.metric("isotherm_connections_closed_total{reason=\"client\"}") == 1
        }
        // More than the kernels hold: the stalled device's socket is full before the event comes.
        let filler = String(repeating: "x", count: 200_000)
        for _ in 1...30 { try server.publish("orders", filler) }
        let id = try server.publish("orders", "the event").id
        let later = try device("later")
        _ = try reader.events(32, seconds: 60)

        var report = try server.deliveries(id)
        #expect(report.id == id && report.topic == "orders")
        try Wait.until("the reader's kernel has acknowledged it, or it was not sampled") {
            report = try server.deliveries(id)
            return ["acknowledged", "written"].contains(report["reader"]?.status)
        }
        #expect(try #require(report["reader"]?.written_ms) > 0)
        #expect(report["prices"]?.status == "filtered")
        #expect(report["gone"]?.status == "not_connected")
        #expect(report["gone"]?.closed_reason == "client")
        #expect(report["later"]?.status == "not_connected")
        #expect(report["stalled"]?.status == "behind")
        #expect(try #require(report["stalled"]?.places_behind) >= 1)
        #expect(report["stalled"]?.written_ms == nil)
        #expect(try server.deliveries(id, "?device=nobody").devices.map(\.status) == ["never_connected"])

        // A device's own word, from a clock that is an hour slow.
        let slow = Date().timeIntervalSince1970 - 3_600
        let receipt = """
            {"device":"reader","group":"g","sent_at_unix_nano":"\(UInt64((slow + 0.001) * 1e9))",
             "receipts":[{"id":"\(id)","received_at_unix_nano":"\(UInt64(slow * 1e9))"}]}
            """
        let answer = try HTTP.post("/v1/receipts", receipt, port: server.port).body
        #expect(answer.contains("\"accepted\":1") && answer.contains("\"clock_offset_ms\":3"))
        report = try server.deliveries(id)
        let row = try #require(report["reader"])
        #expect(row.status == "received")
        #expect(abs(try #require(row.clock_offset_ms) - 3_600_000) <= (row.clock_uncertainty_ms ?? 0) + 1)
        #expect(try #require(row.received_ms) >= 0)

        let group = try #require(report.groups.first { $0.group == "g" })
        #expect(group.received == 1 && group.filtered == 1 && group.behind == 1 && group.not_connected == 2)

        // The stalled device reads at last: behind becomes written.
        _ = try stalled.events(32, seconds: 60)
        try Wait.until("the stalled device has it") {
            ["written", "acknowledged"].contains(try server.deliveries(id)["stalled"]?.status)
        }
        withExtendedLifetime((prices, later)) {}
    }

    @Test(
        "the kernel's acknowledgements are found below TLS and HTTP/2, and not while the device reads nothing",
        arguments: ["--http1.1", "--http2", "--http2-prior-knowledge"])
    func acknowledgedBelowCodecs(version: String) throws {
        let certificate = try TestCertificate(name: "one")
        let (server, securePort) = try certificate.server(["--set", "gateway.durability=memory"])
        let url = version.contains("prior") ? "http://127.0.0.1:\(server.port)" : "https://127.0.0.1:\(securePort)"
        let curl = try ChildProcess(
            "/usr/bin/curl",
            [
                "-sSN", version, "--cacert", certificate.certificate, "-H", "Accept: text/event-stream",
                url + "/v1/events/t?device=d&group=g",
            ])
        try Wait.until("the stream is open") { curl.output.contains(": isotherm") }
        func acknowledged() throws -> Double? {
            try server.metric("isotherm_acknowledgements_total{outcome=\"acknowledged\"}")
        }
        let id = try server.publish("t", "the event").id
        try Wait.until("it is acknowledged") { try server.deliveries(id)["d"]?.status == "acknowledged" }
        let row = try #require(try server.deliveries(id)["d"])
        #expect(try #require(row.acknowledged_ms) >= (try #require(row.written_ms)) - 1)
        // It stops reading: what its kernel still takes is acknowledged, the rest is not written, and never said to be.
        kill(curl.processIdentifier, SIGSTOP)
        let filler = String(repeating: "x", count: 200_000)
        var last = id
        for _ in 1...80 { last = try server.publish("t", filler).id }
        try Wait.until("the stream is behind") { try server.deliveries(last)["d"]?.status == "behind" }
        let soFar = try acknowledged()
        #expect(soFar ?? 0 >= 1)
        kill(curl.processIdentifier, SIGCONT)
        try Wait.until("all has arrived") { try server.deliveries(last)["d"]?.status != "behind" }
        try Wait.until("the last is acknowledged") { try server.deliveries(last)["d"]?.status == "acknowledged" }
        curl.stop()
    }

    @Test("a connection that ends before the event's turn is told as closed; the resumed one as a replay")
    func closedThenResumed() throws {
        let server = try IsothermProcess(arguments: ["--set", "gateway.durability=written"])
        var stalled: Device? = try Device(
            port: server.port, "/v1/events/t?group=g&device=d", receiveBuffer: 4_096)
        let first = try server.publish("t", "first").id
        #expect(try stalled?.events(1).count == 1)
        let filler = String(repeating: "x", count: 200_000)
        for _ in 1...30 { try server.publish("t", filler) }
        let id = try server.publish("t", "the event").id
        #expect(try server.deliveries(id)["d"]?.status == "behind")
        stalled = nil
        try Wait.until("it is closed") { try server.deliveries(id)["d"]?.status == "closed" }
        #expect(try server.deliveries(first)["d"]?.written_ms != nil)
        let resumed = try Device(port: server.port, "/v1/events/t?group=g&device=d", lastEventID: first)
        _ = try resumed.events(31, seconds: 60)
        let row = try #require(try server.deliveries(id)["d"])
        #expect(row.replay == true && row.writes == nil, "once, on its second connection")
    }

    @Test("acknowledgements are a stage of their own, in the metrics and the heatmap")
    func acknowledgements() throws {
        let server = try IsothermProcess()
        let devices = try (0..<3).map { try Device(port: server.port, "/v1/events/t?group=g&device=d\($0)") }
        var ids: [String] = []
        for number in 1...20 { ids.append(try server.publish("t", "\(number)").id) }
        for device in devices { _ = try device.events(20) }
        try Wait.until("samples are acknowledged") {
            (try server.metric("isotherm_acknowledgements_total{outcome=\"acknowledged\"}") ?? 0) >= 10
        }
        #expect(
            (try server.metric("isotherm_push_duration_seconds_count{device_group=\"g\",stage=\"acknowledge\"}") ?? 0)
                >= 10)
        #expect(try HTTP.get("/heatmap.csv?stage=acknowledge", port: server.port).body.contains(",g,acknowledge,"))
        let rows = try ids.flatMap { try server.deliveries($0).devices }.filter { $0.status == "acknowledged" }
        #expect(rows.count >= 10)
        for row in rows { #expect(try #require(row.acknowledged_ms) >= 0) }
    }

    @Test("pages by name; an id that is none of ours is a 404 that names it")
    func pages() throws {
        let server = try IsothermProcess()
        let devices = try (0..<5).map { try Device(port: server.port, "/v1/events/t?group=g&device=d\($0)") }
        let id = try server.publish("t", "x").id
        for device in devices { _ = try device.events(1) }
        let first = try server.deliveries(id, "?limit=2")
        #expect(first.devices.map(\.device) == ["d0", "d1"] && first.next == "d1")
        let rest = try server.deliveries(id, "?limit=3&after=d1")
        #expect(rest.devices.map(\.device) == ["d2", "d3", "d4"] && rest.next == nil)
        let unknown = try HTTP.get("/v1/events/ev_forged/deliveries", port: server.port)
        #expect(unknown.status == 404 && unknown.body.contains("ev_forged"))
        #expect(try HTTP.get("/v1/events/\(id)/deliveries?limit=0", port: server.port).status == 400)
    }
}
