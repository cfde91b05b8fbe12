import Foundation
import TestSupport
import Testing

/// `GET /v1/events/{id}/deliveries` after a restart: what was written is told as before.
@Suite("Proof of delivery after a restart")
struct RestartedProofTests {
    enum Ending: CaseIterable { case killed, stopped }

    private static let arguments = ["--set", "gateway.durability=written", "--set", "delivery.drain_interval=100ms"]

    private func server(_ directory: String, configuration: String? = nil) throws -> IsothermProcess {
        try IsothermProcess(dataDirectory: directory, configuration: configuration, arguments: Self.arguments)
    }

    private func withDirectory(_ body: (String) throws -> Void) throws {
        let directory = IsothermProcess.temporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        try body(directory)
    }

    /// The file as Python's SQLite reads it.
    private func query(_ directory: String, _ sql: String) throws -> String {
        let script = """
            import sqlite3, sys
            file = sqlite3.connect("file:" + sys.argv[1] + "/deliveries.sqlite?mode=ro", uri=True, timeout=10)
            print(*[column for row in file.execute(sys.argv[2]) for column in row], sep=",")
            """
        return try Peers.run(Peers.python, ["-c", script, directory, sql]).text
            .trimmingCharacters(in: .whitespacesAndNewlines)
    }

    private func receipt(_ device: String, _ id: String) -> String {
        """
        {"device":"\(device)","group":"g","receipts":[{"id":"\(id)",
         "received_at_unix_nano":"\(UInt64(Date().timeIntervalSince1970 * 1e9))"}]}
        """
    }

    @Test("every status is told as before, and what a crash may have cost is told as a gap", arguments: Ending.allCases)
    func everyStatus(ending: Ending) throws {
        try withDirectory { directory in
            var server = try server(directory)
            func device(_ name: String, _ topic: String = "orders", buffer: Int32? = nil) throws -> Device {
                try Device(port: server.port, "/v1/events/\(topic)?group=g&device=\(name)", receiveBuffer: buffer)
            }
            let reader = try device("reader")
            let quiet = try device("quiet")
            let prices = try device("prices", "prices")
            var gone: Device? = try device("gone")
            let stalled = try device("stalled", buffer: 4_096)
            let first = try server.publish("orders", "before").id
            _ = try gone?.events(1)
            gone = nil
            try Wait.until("its connection is closed") {
                try server.metric("isotherm_connections_closed_total{reason=\"client\"}") == 1
            }
            let filler = String(repeating: "x", count: 200_000)
            for _ in 1...30 { try server.publish("orders", filler) }
            let id = try server.publish("orders", "the event").id
            _ = try reader.events(32, seconds: 60)
            _ = try quiet.events(32, seconds: 60)
            #expect(try HTTP.post("/v1/receipts", receipt("reader", id), port: server.port).status == 202)
            try Wait.until("the kernel's word is in, where one was sampled") {
                try server.deliveries(id)["stalled"]?.status == "behind"
            }
            // What came before the receipt is in the file once the receipt is.
            try Wait.until("it is written") { try query(directory, "SELECT count(*) FROM receipts") == "1" }
            let before = try server.deliveries(id)
            #expect(before.gaps == nil)

            switch ending {
            case .killed: server.killNow()
            case .stopped: #expect(server.stop() == 0)
            }
            server = try self.server(directory)
            let after = try server.deliveries(id)

            #expect(after.known_since == before.known_since && after.accepted_at == before.accepted_at)
            #expect(after["reader"]?.status == "received" && before["reader"]?.status == "received")
            #expect(after["reader"]?.received_at == before["reader"]?.received_at)
            for name in ["reader", "quiet"] {
                #expect(after[name]?.written_at == before[name]?.written_at && after[name]?.written_at_is == nil)
                #expect(after[name]?.group == "g")
            }
            #expect(["written", "acknowledged"].contains(after["quiet"]?.status))
            #expect(after["prices"]?.status == "filtered")
            #expect(after["gone"]?.status == "not_connected" && after["gone"]?.closed_reason == "client")
            #expect(after["stalled"]?.status == "closed")
            #expect(after["stalled"]?.closed_reason == (ending == .killed ? "server_lost" : "drained"))
            #expect(try server.deliveries(first)["stalled"]?.written_at != nil)
            let group = try #require(after.groups.first { $0.group == "g" })
            #expect(group.received == 1 && group.filtered == 1 && group.closed == 1 && group.not_connected == 1)
            #expect(after.devices.count == 5)
            #expect(try server.deliveries(id, "?device=nobody").devices.map(\.status) == ["never_connected"])
            if ending == .killed {
                let gap = try #require(after.gaps?.first)
                #expect(after.gaps?.count == 1 && gap.from < gap.until && gap.from > after.accepted_at)
            } else {
                #expect(after.gaps == nil)
            }

            // An event of after the gap has none, and a device that resumes gets the old one as a replay.
            let new = try server.publish("orders", "after").id
            #expect(try server.deliveries(new).gaps == nil)
            let resumed = try Device(
                port: server.port, "/v1/events/orders?group=g&device=stalled", lastEventID: first)
            _ = try resumed.events(32, seconds: 60)
            let row = try #require(try server.deliveries(id)["stalled"])
            #expect(row.replay == true && row.writes == nil && ["written", "acknowledged"].contains(row.status))
            withExtendedLifetime((prices, stalled)) {}
        }
    }

    @Test("tenants see their own, over a restart too")
    func tenants() throws {
        try withDirectory { directory in
            let configuration = """
                tenants:
                  acme:
                    tokens: [acme-secret]
                  globex:
                    tokens: [globex-secret]
                """
            var server = try server(directory, configuration: configuration)
            func bearer(_ tenant: String) -> [(String, String)] { [("Authorization", "Bearer \(tenant)-secret")] }
            var ids: [String: String] = [:]
            for tenant in ["acme", "globex"] {
                let device = try Device(
                    port: server.port, "/v1/events/t?group=g&device=of-\(tenant)", fields: bearer(tenant))
                ids[tenant] = try server.publish("t", "x", fields: bearer(tenant)).id
                _ = try device.events(1)
            }
            server.stop()
            server = try self.server(directory, configuration: configuration)
            for tenant in ["acme", "globex"] {
                let id = try #require(ids[tenant])
                let devices = try server.deliveries(id, fields: bearer(tenant)).devices
                #expect(devices.map(\.device) == ["of-\(tenant)"] && devices[0].written_at != nil)
                let other = tenant == "acme" ? "globex" : "acme"
                let refused = try HTTP.get("/v1/events/\(id)/deliveries", port: server.port, fields: bearer(other))
                #expect(refused.status == 404)
            }
        }
    }

    @Test("a damaged file is put aside and costs no delivery")
    func damaged() throws {
        try withDirectory { directory in
            try Data(repeating: 0x2A, count: 10_000).write(to: URL(fileURLWithPath: directory + "/deliveries.sqlite"))
            var server = try server(directory)
            #expect(server.output.contains("was put aside") && server.output.contains("deliveries.sqlite.damaged"))
            #expect(try server.metric("isotherm_deliveries_damaged_files_total") == 1)
            #expect(FileManager.default.fileExists(atPath: directory + "/deliveries.sqlite.damaged"))
            let device = try Device(port: server.port, "/v1/events/t?group=g&device=d")
            let id = try server.publish("t", "x").id
            _ = try device.events(1)
            server.stop()
            server = try self.server(directory)
            #expect(try server.deliveries(id)["d"]?.written_at != nil)
            #expect(try server.metric("isotherm_deliveries_damaged_files_total") == 0)
        }
    }

    @Test("a file that cannot be written is told as degraded, costs no delivery, and is made up for")
    func unwritable() throws {
        try withDirectory { directory in
            let path = directory + "/deliveries.sqlite"
            try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: false)
            var server = try server(directory)
            let device = try Device(port: server.port, "/v1/events/t?group=g&device=d")
            let id = try server.publish("t", "x").id
            _ = try device.events(1)
            #expect(try server.deliveries(id)["d"]?.written_at != nil)
            #expect(try HTTP.get("/readyz", port: server.port).body.contains("\"degraded\":[\"deliveries_file\"]"))
            #expect(try server.metric("isotherm_degraded{dependency=\"deliveries_file\"}") == 1)
            try FileManager.default.removeItem(atPath: path)
            try Wait.until("it is written again") {
                try server.metric("isotherm_degraded{dependency=\"deliveries_file\"}") == 0
            }
            #expect(server.output.components(separatedBy: "cannot be written").count == 2, "said once")
            server.killNow()
            server = try self.server(directory)
            #expect(try server.deliveries(id)["d"]?.written_at != nil)
        }
    }

    @Test("journal_bytes 0 keeps nothing on the disk; less than 1 MiB is refused")
    func memoryOnly() throws {
        try withDirectory { directory in
            let server = try IsothermProcess(
                dataDirectory: directory, arguments: Self.arguments + ["--set", "delivery.journal_bytes=0"])
            let device = try Device(port: server.port, "/v1/events/t?group=g&device=d")
            let id = try server.publish("t", "x").id
            _ = try device.events(1)
            #expect(try server.deliveries(id)["d"]?.written_at != nil)
            server.stop()
            #expect(!FileManager.default.fileExists(atPath: directory + "/deliveries.sqlite"))
            #expect(throws: (any Error).self) {
                try IsothermProcess(arguments: ["--set", "delivery.journal_bytes=1048575"])
            }
            _ = try IsothermProcess(arguments: ["--set", "delivery.journal_bytes=1MiB"])
        }
    }
}
