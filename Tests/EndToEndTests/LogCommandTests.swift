import Foundation
import TestSupport
import Testing

@Suite("isotherm log, and a disk that is full")
struct LogCommandTests {
    private func isotherm(_ arguments: [String], expected: Int32? = 0) throws -> Peers.Output {
        try Peers.run(IsothermProcess.executable, ["log"] + arguments, expected: expected)
    }

    private func lines(_ output: Peers.Output) throws -> [[String: Any]] {
        try output.text.split(separator: "\n").map {
            try #require(try JSONSerialization.jsonObject(with: Data($0.utf8)) as? [String: Any])
        }
    }

    /// A server with three events: two topics, a type, a key, and a payload that is no text.
    private func server() throws -> (server: IsothermProcess, ids: [String]) {
        let server = try IsothermProcess()
        var ids: [String] = []
        for (topic, body, fields) in [
            ("orders.eu", Array("one".utf8), [("X-Event-Type", "created"), ("X-Event-Key", "k1")]),
            ("orders.us.ny", [0xff, 0x00], []), ("alerts", Array("three \"3\"\n".utf8), []),
        ] {
            let reply = try HTTP.request("POST", "/v1/events/\(topic)", port: server.port, fields: fields, body: body)
            let json = try JSONSerialization.jsonObject(with: Data(reply.body.utf8)) as? [String: Any]
            ids.append(try #require(json?["id"] as? String))
        }
        return (server, ids)
    }

    @Test("dump prints what was published, as the filters say, beside the running server")
    func dump() throws {
        let (server, ids) = try server()
        let data = ["--data", server.dataDirectory]
        let all = try lines(isotherm(["dump"] + data))
        #expect(all.map { $0["id"] as? String } == ids)
        #expect(all.map { $0["offset"] as? Int } == [1, 2, 3])
        #expect(all.map { $0["topic"] as? String } == ["orders.eu", "orders.us.ny", "alerts"])
        #expect(all.map { $0["tenant"] as? String } == ["default", "default", "default"])
        #expect(all[0]["type"] as? String == "created" && all[0]["key"] as? String == "k1")
        #expect(all[0]["data"] as? String == "one" && all[2]["data"] as? String == "three \"3\"\n")
        #expect(all[1]["data_base64"] as? String == "/wA=" && all[1]["data"] == nil)
        #expect((all[0]["accepted_at"] as? String)?.hasSuffix("Z") == true)
        for (arguments, offsets) in [
            (["--topic", "orders.*"], [1]), (["--topic", "orders.>"], [1, 2]),
            (["--topic", "orders.>", "--topic", "alerts"], [1, 2, 3]), (["--type", "created"], [1]),
            (["--type", "message"], [2, 3]), (["--after", ids[0]], [2, 3]), (["--after", "2"], [3]),
            (["--limit", "2"], [1, 2]), (["--since", "1h"], [1, 2, 3]), (["--since", "2100-01-01T00:00:00Z"], []),
            (["--tenant", "default", "--limit", "1"], [1]),
        ] {
            let found = try lines(isotherm(["dump"] + arguments + data)).map { $0["offset"] as? Int }
            #expect(found == offsets, "\(arguments)")
        }
        for (arguments, status, reason) in [
            (["--topic", "a..b"], 64, "\"a..b\" has an empty token"), (["--since", "noon"], 64, "\"noon\" is no time"),
            (["--limit", "0"], 64, "--limit 0"), (["--tenant", "acme"], 1, "no tenant acme; the log holds default"),
            (["--after", "ev_forged"], 1, "--after ev_forged"),
        ] as [([String], Int32, String)] {
            let output = try isotherm(["dump"] + arguments + data, expected: status)
            #expect(output.standardError.contains(reason), "\(output.standardError)")
        }
        server.stop()
    }

    @Test("verify says what is sound and what is not, with its status; compact waits for the server to go")
    func verifyAndCompact() throws {
        let (server, _) = try server()
        let data = ["--data", server.dataDirectory]
        let sound = try isotherm(["verify"] + data)
        let rows = sound.text.split(separator: "\n").map { $0.split(separator: " ").map(String.init) }
        #expect(rows[0] == ["tenant", "events", "bytes", "first", "last", "epochs", "gaps", "problems"])
        #expect(
            rows.count == 2 && rows[1].prefix(2) == ["default", "3"] && rows[1].suffix(5) == ["1", "3", "1", "0", "0"])
        #expect(sound.standardError.contains("3 events read") && sound.standardError.contains("sound"))

        let refused = try isotherm(["compact"] + data, expected: 1)
        #expect(refused.standardError.contains("in use by process \(server.processIdentifier)"))
        server.stop()
        let compacted = try isotherm(["compact", "--retention-events", "1"] + data)
        #expect(compacted.text.hasPrefix("removed 2 events; "))
        #expect(compacted.text.contains(" bytes before, ") && compacted.text.hasSuffix(" after\n"))
        #expect(try lines(isotherm(["dump"] + data)).map { $0["offset"] as? Int } == [3])

        let python =
            "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute(\"UPDATE events SET payload = 'x'\"); c.commit()"
        _ = try Peers.python(python, [server.dataDirectory + "/log.sqlite"])
        let damaged = try isotherm(["verify"] + data, expected: 1)
        #expect(damaged.text.contains("\ndefault: offset 3: does not match its checksum\n"))
        let dumped = try isotherm(["dump"] + data, expected: 1)
        #expect(dumped.text.isEmpty && dumped.standardError.contains("offset 3 of default"))
        // No database is made where none was.
        for command in ["verify", "dump", "compact"] {
            let missing = try isotherm([command, "--data", server.dataDirectory + "/none"], expected: 1)
            #expect(missing.standardError.contains("/none holds no log"))
        }
        #expect(!FileManager.default.fileExists(atPath: server.dataDirectory + "/none"))
    }

    @Test("a server whose disk is full answers 507, serves what it has, and goes on when there is room")
    func fullDisk() throws {
        let server = try IsothermProcess()
        // The kernel refuses writes beyond a file's largest size as it refuses them on a full disk.
        func limit(_ bytes: String) throws {
            try Peers.run("prlimit", ["--pid", "\(server.processIdentifier)", "--fsize=\(bytes):"])
        }
        func post() throws -> HTTPReply {
            try HTTP.request("POST", "/v1/events/t", port: server.port, body: [UInt8](repeating: 0x78, count: 50_000))
        }
        try limit("400000")
        var stored = 0
        var reply = try post()
        while reply.status == 202, stored < 100 {
            stored += 1
            reply = try post()
        }
        #expect(stored > 0 && reply.status == 507)
        #expect(reply.field("content-type")?.hasPrefix("application/problem+json") == true)
        #expect(reply.body.contains("no space left"))
        #expect(try server.metric("isotherm_log_failures_total{step=\"append\"}") ?? 0 >= 1)
        #expect(try server.metric("isotherm_log_failures_total{step=\"checkpoint\"}") == 0)
        #expect(try isotherm(["verify", "--data", server.dataDirectory]).text.contains("default"))
        let kept = try lines(isotherm(["dump", "--data", server.dataDirectory])).count
        #expect(kept == stored)
        try limit("unlimited")
        try Wait.until("there is room again") { try post().status == 202 }
        #expect(try lines(isotherm(["dump", "--data", server.dataDirectory])).count == stored + 1)
        #expect(server.stop() == 0)
    }

    @Test("each command's help shows how it is called")
    func help() throws {
        for (arguments, expected) in [
            (["--help"], "isotherm log verify"), (["verify", "--help"], "exit status 1"),
            (["dump", "--help"], "--topic 'orders.>'"), (["compact", "--help"], "The server must be stopped"),
        ] {
            #expect(try isotherm(arguments).text.contains(expected))
        }
    }
}
