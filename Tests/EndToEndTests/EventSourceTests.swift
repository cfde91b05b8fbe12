import Foundation
import TestSupport
import Testing

/// The stream as a real browser's EventSource reads it, which is the reference for the WHATWG's rules. Expected values
/// are those that the standard gives by hand: https://html.spec.whatwg.org/multipage/server-sent-events.html
@Suite("EventSource in Chromium")
struct EventSourceTests {
    enum Way: String, CaseIterable {
        case direct
        case nginxBuffering = "nginx, buffering"
        case nginxUnbuffered = "nginx, not buffering"
    }

    /// What is published, and what `event.data` must be: every CR, LF and CRLF is a line's end, and lines are joined by LF.
    private static let payloads: [(published: String, data: String)] = [
        ("plain", "plain"),
        ("two\nlines", "two\nlines"),
        ("of\r\nWindows", "of\nWindows"),
        ("a lone\rreturn", "a lone\nreturn"),
        ("\r\n\r\n", "\n\n"),
        ("\n", "\n"),
        ("", ""),
        (" one space before, one behind ", " one space before, one behind "),
        ("  two", "  two"),
        (": no comment", ": no comment"),
        ("id: 7\nevent: forged\nretry: 1\ndata: x\n\ndata: y", "id: 7\nevent: forged\nretry: 1\ndata: x\n\ndata: y"),
        ("\u{FEFF}a mark of the byte order", "\u{FEFF}a mark of the byte order"),
        ("naïve 時刻 😀 \u{0301}", "naïve 時刻 😀 \u{0301}"),
        ("a NUL \u{0} inside", "a NUL \u{0} inside"),
        ("separators \u{85} \u{2028} \u{2029} end no line", "separators \u{85} \u{2028} \u{2029} end no line"),
        (String(repeating: "long ", count: 40_000), String(repeating: "long ", count: 40_000)),
        ("ends with a line\n", "ends with a line\n"),
    ]

    private struct Seen: Decodable, Equatable {
        let type: String
        let data: String
        let id: String
    }

    @Test("data, types and ids come through as they were published", arguments: Way.allCases)
    func conformance(way: Way) throws {
        let server = try IsothermProcess(arguments: [
            "--set", "cors.allowed_origins=*", "--set", "delivery.retry=200ms",
        ])
        let page = try EventSourcePage(of: server, way)
        defer { page.close() }
        let listener = try Device(port: server.port, "/v1/events/seen")
        var expected: [Seen] = []
        for (published, data) in Self.payloads {
            expected.append(Seen(type: "message", data: data, id: try server.publish("t", published).id))
        }
        for type in ["price", "a type with spaces", "時刻"] {
            let id = try server.publish("t", type, fields: [("X-Event-Type", type)]).id
            expected.append(Seen(type: type, data: type, id: id))
        }
        try server.publish("t", "", fields: [("X-Event-Type", "end")])
        let seen = try JSONDecoder().decode(
            [Seen].self, from: Data(try listener.events(1, seconds: 40)[0].data.utf8))
        #expect(seen.count == expected.count)
        for (seen, expected) in zip(seen, expected) { #expect(seen == expected) }
    }

    @Test("a stream that ends is taken up again after its retry, from the last id", arguments: Way.allCases)
    func reconnects(way: Way) throws {
        let server = try IsothermProcess(arguments: [
            "--set", "cors.allowed_origins=*", "--set", "delivery.retry=100ms", "--set",
            "delivery.drain_interval=100ms",
        ])
        let page = try EventSourcePage(of: server, way)
        defer { page.close() }
        try server.publish("t", "before")
        try Wait.until("it is delivered") {
            try server.metric("isotherm_events_delivered_total{tenant=\"default\",device_group=\"browser\"}") == 1
        }
        // In an orderly way this time: the stream ends with a retry.
        server.stop()
        let second = try IsothermProcess(
            dataDirectory: server.dataDirectory, port: server.port, arguments: ["--set", "cors.allowed_origins=*"])
        let listener = try Device(port: second.port, "/v1/events/seen")
        try second.publish("t", "while it was away, or after")
        try second.publish("t", "", fields: [("X-Event-Type", "end")])
        let seen = try JSONDecoder().decode(
            [Seen].self, from: Data(try listener.events(1, seconds: 40)[0].data.utf8))
        #expect(seen.map(\.data) == ["before", "while it was away, or after"])
    }
}

/// A browser's page that listens, and publishes what it has seen when the event `end` comes.
private final class EventSourcePage {
    private let directory = IsothermProcess.temporaryDirectory()
    private let proxy: NginxProxy?
    private let browser: ChildProcess

    /// Returns once it listens.
    init(of server: IsothermProcess, _ way: EventSourceTests.Way) throws {
        proxy = try way == .direct ? nil : NginxProxy(of: server.port, buffers: way == .nginxBuffering)
        let page = """
            <!doctype html><meta charset="utf-8"><script>
            const seen = [];
            const source = new EventSource("http://127.0.0.1:\(proxy?.port ?? server.port)/v1/events?topic=t&group=browser");
            const note = event => seen.push({type: event.type, data: event.data, id: event.lastEventId});
            for (const type of ["message", "price", "a type with spaces", "時刻", "forged"]) {
                source.addEventListener(type, note);
            }
            source.addEventListener("end", () => {
                source.close();
                fetch("http://127.0.0.1:\(server.port)/v1/events/seen",
                    {method: "POST", mode: "no-cors", body: JSON.stringify(seen)});
            });
            </script>
            """
        try page.write(toFile: directory + "/page.html", atomically: true, encoding: .utf8)
        browser = try ChildProcess(
            Browser.path,
            Browser.arguments(profile: directory + "/profile")
                + ["--remote-debugging-port=0", "file://\(directory)/page.html"])
        let connections = "isotherm_connections{tenant=\"default\",device_group=\"browser\"}"
        try Wait.until(seconds: 40, "the browser listens") { try server.metric(connections) == 1 }
    }

    func close() {
        browser.stop()
        try? FileManager.default.removeItem(atPath: directory)
    }
}

/// A real nginx before the server, as its documentation has it for a proxy; buffering is its default.
private final class NginxProxy {
    let port = Peers.freePort()
    private let directory = IsothermProcess.temporaryDirectory()
    private let process: ChildProcess

    init(of upstream: Int, buffers: Bool) throws {
        let directory = directory
        let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map { "\($0)_temp_path \(directory)/\($0);" }
        let configuration = """
            \(geteuid() == 0 ? "user root;" : "")
            daemon off;
            pid \(directory)/nginx.pid;
            error_log stderr;
            events { worker_connections 256; }
            http {
                access_log off;
                \(paths.joined(separator: " "))
                server {
                    listen 127.0.0.1:\(port);
                    location / {
                        proxy_pass http://127.0.0.1:\(upstream);
                        proxy_http_version 1.1;
                        proxy_set_header Connection "";
                        proxy_buffering \(buffers ? "on" : "off");
                        error_page 502 503 504 = @away;
                    }
                    # Anything but 200 ends an EventSource for good.
                    location @away {
                        default_type text/event-stream;
                        add_header Access-Control-Allow-Origin *;
                        return 200 "retry: 200\\n\\n";
                    }
                }
            }
            """
        try configuration.write(toFile: directory + "/nginx.conf", atomically: true, encoding: .utf8)
        process = try ChildProcess(
            "/usr/sbin/nginx", ["-p", directory, "-e", "stderr", "-c", directory + "/nginx.conf"])
        try Wait.until("nginx answers") { (try? HTTP.get("/livez", port: port).status) == 200 }
    }

    deinit {
        process.stop()
        try? FileManager.default.removeItem(atPath: directory)
    }
}
