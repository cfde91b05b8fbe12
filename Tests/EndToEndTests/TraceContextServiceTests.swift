import Foundation
import TestSupport
import Testing

/// `trace-context-service` between two real sockets: Python sends a request's raw bytes and receives the calls. The
/// cases are those of W3C's test suites: github.com/w3c/trace-context (test/test.py) and github.com/w3c/baggage.
@Suite("The service for W3C's test suites")
struct TraceContextServiceTests {
    private static let trace = "12345678901234567890123456789012"
    private static let span = "1234567890123456"
    private static let parent = "00-\(trace)-\(span)-01"

    private typealias Headers = [[String]]

    /// What the service's calls had as headers, for each request one list of calls.
    private func passOn(
        _ requests: [Headers], calls: Int = 1, environment: [String: String] = [:]
    ) throws -> [[Headers]] {
        let program = URL(fileURLWithPath: IsothermProcess.executable).deletingLastPathComponent()
            .appendingPathComponent("trace-context-service").path
        let settings = ["OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"].merging(environment) { $1 }
        let service = try ChildProcess(program, ["0"], environment: settings)
        let url = try service.waitForLine("listening on ")
        let input = try JSONEncoder().encode(requests)
        let output = try Peers.python(Self.harness, [url, "\(calls)"], input: input)
        #expect(service.stop() == 0)
        return try JSONDecoder().decode([[Headers]].self, from: output.standardOutput)
    }

    private static let harness = """
        import http.server, json, socket, sys, threading, urllib.parse
        url, count = urllib.parse.urlparse(sys.argv[1]), int(sys.argv[2])
        calls = []
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                calls.append((self.path, body, [list(x) for x in self.headers.raw_items()]))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()
            def log_message(self, *_): pass
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        out = []
        for headers in json.load(sys.stdin):
            calls.clear()
            body = json.dumps([dict(url=f"http://127.0.0.1:{server.server_port}/{i}", arguments=[{"n": i}]) for i in range(count)])
            head = [f"POST {url.path} HTTP/1.1", f"Host: {url.netloc}", "Connection: close", f"Content-Length: {len(body)}"]
            head += [f"{name}:{value}" for name, value in headers]
            with socket.create_connection((url.hostname, url.port), 10) as s:
                s.sendall("\\r\\n".join(head + ["", body]).encode())
                answer = b""
                while chunk := s.recv(65536): answer += chunk
            assert answer.startswith(b"HTTP/1.1 200 "), answer
            assert [(p, b) for p, b, _ in calls] == [(f"/{i}", [{"n": i}]) for i in range(count)], (calls, answer)
            out.append([h for _, _, h in calls])
        print(json.dumps(out))
        """

    private func values(_ name: String, _ headers: Headers) -> [String] {
        headers.filter { $0.first?.lowercased() == name }.compactMap(\.last)
    }

    /// Trace and span id of a call's one traceparent.
    private func ids(_ headers: Headers) throws -> (trace: String, span: String) {
        let all = values("traceparent", headers)
        let parent = try #require(all.first)
        #expect(all.count == 1)
        let match = try #require(parent.wholeMatch(of: /00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}/))
        #expect(match.1 != String(repeating: "0", count: 32) && match.2 != String(repeating: "0", count: 16))
        return (String(match.1), String(match.2))
    }

    @Test("a valid traceparent is continued with another span, and one that is not valid begins a new trace")
    func traceparent() throws {
        let (trace, span, parent) = (Self.trace, Self.span, Self.parent)
        let future = "cc" + parent.dropFirst(2)
        let continued: [Headers] =
            [
                parent, future, future + "-what-the-future-will-be-like", " \(parent)", "\t\(parent)", "\(parent) ",
                "\(parent)\t", "\t \(parent) \t",
            ].map { [["traceparent", $0]] } + ["TraceParent", "TrAcEpArEnT", "TRACEPARENT"].map { [[$0, parent]] }
        let begun: [Headers] =
            [
                parent + ".", parent + "-what-the-future-will-be-like", future + ".what-the-future-will-be-like",
                "ff" + parent.dropFirst(2), ".0" + parent.dropFirst(2), "0." + parent.dropFirst(2), "0" + parent,
                "00" + parent, String(parent.dropFirst()), "00-\(String(repeating: "0", count: 32))-\(span)-01",
                "00-.\(trace.dropFirst())-\(span)-01", "00-\(trace.dropLast()).-\(span)-01", "00-\(trace)3-\(span)-01",
                "00-\(trace.dropLast())-\(span)-01", "00-\(trace)-0000000000000000-01",
                "00-\(trace)-.\(span.dropFirst())-01", "00-\(trace)-\(span.dropLast()).-01", "00-\(trace)-\(span)7-01",
                "00-\(trace)-\(span.dropLast())-01", "00-\(trace)-\(span)-.0", "00-\(trace)-\(span)-0.",
                "00-\(trace)-\(span)-001", "00-\(trace)-\(span)-1", "", "00-\(trace)-\(span)-é",
            ].map { [["traceparent", $0]] }
            + [
                [], [["trace-parent", parent]], [["trace.parent", parent]],
                [["traceparent", parent], ["traceparent", parent]],
                [["traceparent", parent], ["TraceParent", "00-\(trace.dropLast())1-\(span)-01"]],
            ]
        let calls = try passOn(continued + begun)
        #expect(calls.count == continued.count + begun.count)
        for (index, call) in calls.enumerated() {
            let found = try ids(try #require(call.first))
            if index < continued.count {
                #expect(found.trace == trace && found.span != span, "\(continued[index])")
            } else {
                #expect(!found.trace.hasPrefix(trace.dropLast()), "\(begun[index - continued.count])")
            }
        }
    }

    @Test("tracestate headers are combined, and dropped where they are not valid")
    func tracestate() throws {
        let full = (1...32).map { "bar\($0)=\($0)" }
        let long = "z=" + String(repeating: "v", count: 256)
        let printable = String(
            decoding: (UInt8(0x20)...0x7E).filter { $0 != UInt8(ascii: ",") && $0 != UInt8(ascii: "=") }, as: UTF8.self)
        let cases: [([String], String?)] = [
            (["foo=1,bar=2"], "foo=1,bar=2"),
            (["foo=1,bar=2", "rojo=1,congo=2", "baz=3"], "foo=1,bar=2,rojo=1,congo=2,baz=3"),
            ([""], nil), (["foo=1", ""], "foo=1"), (["", "foo=1"], "foo=1"), (["foo=1,foo=1"], nil),
            (["foo=1", "foo=2"], nil), (["foo=1 \t , \t bar=2, \t baz=3"], "foo=1,bar=2,baz=3"),
            (["\t foo=1 \t"], "foo=1"), (["foo =1"], nil), (["FOO=1"], nil), (["foo@=1,bar=2"], nil),
            (["foo@bar@baz=1,bar=2"], nil), (["foo=bar=baz"], nil), (["foo=,bar=3"], nil), (["foo=é"], nil),
            ([full[..<20].joined(separator: ","), full[20...].joined(separator: ",")], full.joined(separator: ",")),
            ([full.joined(separator: ","), "bar33=33"], nil),
            (["a-z0-9_-*/@v=\(printable)"], "a-z0-9_-*/@v=\(printable)"),
            // 514 and 513 characters: the long entries go first.
            ([long, "y=" + String(repeating: "v", count: 253)], long),
            ([long, "a=1", "y" + long.dropFirst()], "\(long),a=1"),
        ]
        let calls = try passOn(cases.map { [["traceparent", Self.parent]] + $0.0.map { ["tracestate", $0] } })
        for (call, (headers, expected)) in zip(calls, cases) {
            let call = try #require(call.first)
            #expect(try ids(call).trace == Self.trace, "\(headers)")
            #expect(values("tracestate", call) == (expected.map { [$0] } ?? []), "\(headers)")
        }
        // Without a traceparent it means nothing.
        let alone = try #require(try passOn([[["tracestate", "foo=1"]]]).first?.first)
        #expect(values("tracestate", alone).isEmpty)
    }

    @Test("baggage is passed on, with its properties, up to its limits")
    func baggage() throws {
        let members = (0..<65).map { "key\($0)=value" }
        let large = "a=" + String(repeating: "0123456789", count: 819)
        let cases: [([String], String?)] = [
            (["SomeKey \t = \t Some%20Value \t ; \t SomeProp ; k = v"], "SomeKey=Some%20Value;SomeProp;k=v"),
            (["a=1", "b=2,c=3"], "a=1,b=2,c=3"), (["a=1,é=2,=3,b,c d=4,e=5"], "a=1,e=5"), (["a=b=c"], "a=b=c"),
            ([""], nil), ([large], large), ([large + "0"], nil), ([large, "b=1"], large),
            ([members.joined(separator: ",")], members[..<64].joined(separator: ",")),
        ]
        let calls = try passOn(cases.map { $0.0.map { ["baggage", $0] } })
        for (call, (headers, expected)) in zip(calls, cases) {
            let call = try #require(call.first)
            #expect(values("baggage", call) == (expected.map { [$0] } ?? []), "\(headers)")
        }
    }

    @Test("each call has a span of its own in the one trace")
    func severalCalls() throws {
        let requests: [Headers] = [
            [["traceparent", Self.parent]], [],
            [["traceparent", "00-\(String(repeating: "0", count: 32))-\(Self.span)-01"]],
        ]
        for (index, calls) in try passOn(requests, calls: 3).enumerated() {
            let found = try calls.map(ids)
            #expect(Set(found.map(\.span)).count == 3 && Set(found.map(\.trace)).count == 1)
            #expect((found.first?.trace == Self.trace) == (index == 0))
        }
    }

    @Test("OTEL_PROPAGATORS chooses what is passed on")
    func propagators() throws {
        let headers = [["b3", "\(Self.trace)-\(Self.span)-d"], ["baggage", "k=v"]]
        let calls = try passOn([headers], environment: ["OTEL_PROPAGATORS": "b3multi"])
        let call = try #require(calls.first?.first)
        #expect(values("x-b3-traceid", call) == [Self.trace] && values("x-b3-flags", call) == ["1"])
        #expect(values("x-b3-spanid", call).first.map { $0 != Self.span } == true)
        #expect(values("traceparent", call).isEmpty && values("baggage", call).isEmpty)
    }
}
