import Foundation
import Glibc
import OTLP
import Synchronization
import Telemetry
import TestSupport
import Testing

@Suite("Delivery: retries, losses and the ledger")
struct DeliveryTests {
    private struct Outcome {
        let ledger: SpanLedger
        let requests: [Receiver.Request]
        let reports: [String]
        let undelivered: UInt64
    }

    /// Records spans, flushes and shuts down; the ledger must balance, whatever the receiver did.
    private func deliver(
        _ spans: Int = 3, to receiver: Receiver, deadline: Duration = .seconds(20),
        _ change: (inout TelemetryConfiguration) -> Void = { _ in }
    ) -> Outcome {
        let reports = Reports()
        let sdk = TelemetrySDK(
            configuration: .test(receiver) {
                $0.scheduleDelay = .seconds(60)
                $0.report = { reports.append($0) }
                change(&$0)
            })
        for index in 0..<spans {
            let span = sdk.tracer.startSpan("delivered")
            span.setAttribute("index", index)
            span.end()
        }
        let undelivered = sdk.shutdown(deadline: deadline).undelivered
        let ledger = sdk.ledger
        expectSettled(ledger, started: spans)
        return Outcome(ledger: ledger, requests: receiver.requests, reports: reports.lines, undelivered: undelivered)
    }

    private func expectSettled(_ ledger: SpanLedger, started: Int, sourceLocation: SourceLocation = #_sourceLocation) {
        #expect(ledger.started == UInt64(started), sourceLocation: sourceLocation)
        #expect(ledger.isBalanced, "\(ledger)", sourceLocation: sourceLocation)
        #expect(ledger.live == 0 && ledger.queued == 0, "\(ledger)", sourceLocation: sourceLocation)
        #expect(
            ledger.started == ledger.sampledOut + ledger.exported + ledger.rejected + ledger.totalDropped,
            sourceLocation: sourceLocation)
    }

    private func gap(_ requests: [Receiver.Request]) -> Duration { requests[1].arrival - requests[0].arrival }

    // MARK: Retries

    @Test(
        "429, 502, 503 and 504 are tried again with the same bytes (case 13)", arguments: [429, 502, 503, 504],
        [false, true])
    func retried(status: Int, gzip: Bool) throws {
        let receiver = try Receiver(replies: [.status(status, body: Array("busy".utf8))])
        defer { receiver.stop() }
        let outcome = deliver(to: receiver) { $0.compression = gzip ? .gzip : .none }
        #expect(outcome.ledger.exported == 3)
        try #require(outcome.requests.count == 2)
        #expect(outcome.requests[0].body == outcome.requests[1].body)
        // Half to one and a half of the first backoff of 500 ms.
        #expect(gap(outcome.requests) > .milliseconds(240))
    }

    @Test("an answer of another failure is final (case 13)", arguments: [400, 401, 403, 404, 405, 500, 501, 505, 301])
    func final(status: Int) throws {
        let receiver = try Receiver(replies: [
            .status(
                status, headers: ["Retry-After": "0", "Content-Type": "text/plain"], body: Array("no\u{7}\r\n".utf8))
        ])
        defer { receiver.stop() }
        let outcome = deliver(to: receiver)
        #expect(outcome.requests.count == 1)
        #expect(outcome.ledger.rejected == 3)
        // What the endpoint says is reported, without control characters.
        #expect(outcome.reports.count == 1)
        #expect(outcome.reports.first?.contains("\(status)") == true)
        #expect(outcome.reports.allSatisfy { $0.utf8.allSatisfy { $0 >= 0x20 } })
    }

    @Test("a request that is too large for the endpoint goes in halves, down to one item (case 17)")
    func tooLarge() throws {
        // 4 spans: refused, then 2 that are taken, and 2 that are refused: 1 taken, 1 too large by itself.
        let receiver = try Receiver(replies: [.status(413), .ok, .status(413), .ok, .status(413)])
        defer { receiver.stop() }
        let outcome = deliver(4, to: receiver)
        #expect(outcome.requests.count == 5)
        #expect(outcome.ledger.exported == 3)
        #expect(outcome.ledger.dropped[.oversize] == 1)
        #expect(outcome.reports.count == 1 && outcome.reports[0].contains("413"))
        let sizes = try OfficialRequest.decode(outcome.requests.map(\.body)).map(\.spans.count)
        #expect(sizes == [4, 2, 2, 1, 1])
    }

    @Test("a long body behind a 503 is not read, and it is tried again all the same (cases 13 and 17)")
    func endlessFailure() throws {
        let receiver = try Receiver(replies: [
            .status(503, body: [UInt8](repeating: 0x78, count: 5 * 1_024 * 1_024)), .cutOff(503, promised: 100),
        ])
        defer { receiver.stop() }
        let outcome = deliver(to: receiver)
        #expect(outcome.requests.count == 3)
        #expect(outcome.ledger.exported == 3)
    }

    @Test("a disconnect without an answer is tried again with the same bytes (case 13)")
    func disconnected() throws {
        let receiver = try Receiver(replies: [.disconnect])
        defer { receiver.stop() }
        let outcome = deliver(to: receiver)
        try #require(outcome.requests.count == 2)
        #expect(outcome.requests[0].body == outcome.requests[1].body)
        #expect(outcome.ledger.exported == 3)
    }

    @Test("a connection that is refused is tried again until the endpoint is there (case 13)")
    func refused() throws {
        let first = try Receiver()
        let port = first.port
        first.stop()
        var configuration = TelemetryConfiguration.test(first)
        configuration.sampler = .alwaysOn
        let sdk = TelemetrySDK(configuration: configuration)
        sdk.tracer.startSpan("early").end()
        #expect(eventually { sdk.isExporterFailing })
        let receiver = try Receiver(port: port)
        defer { receiver.stop() }
        #expect(sdk.shutdown(deadline: .seconds(20)).undelivered == 0)
        #expect(receiver.requests.count == 1)
        #expect(!sdk.isExporterFailing)
        expectSettled(sdk.ledger, started: 1)
        #expect(sdk.ledger.exported == 1)
    }

    @Test("a request that was sent and not answered in time is not sent again", arguments: [false, true])
    func timeOut(onKeptConnection: Bool) throws {
        let slow = Receiver.Reply.status(200, delay: .seconds(30))
        let receiver = try Receiver(replies: onKeptConnection ? [.ok, slow] : [slow])
        defer { receiver.stop() }
        let sdk = TelemetrySDK(configuration: .test(receiver) { $0.timeout = .milliseconds(300) })
        if onKeptConnection {
            sdk.tracer.startSpan("first").end()
            #expect(sdk.flush(deadline: .seconds(10)).undelivered == 0)
        }
        sdk.tracer.startSpan("slow").end()
        sdk.shutdown(deadline: .seconds(20))
        #expect(receiver.requests.count == (onKeptConnection ? 2 : 1))
        #expect(Set(receiver.requests.map(\.connection)) == [0])
        expectSettled(sdk.ledger, started: onKeptConnection ? 2 : 1)
        // It may have been taken or not: in no case is it counted as exported.
        #expect(sdk.ledger.exported == (onKeptConnection ? 1 : 0))
    }

    // MARK: Retry-After

    @Test("Retry-After in seconds is honoured (case 14)")
    func retryAfterSeconds() throws {
        let receiver = try Receiver(replies: [.status(429, headers: ["Retry-After": "2"])])
        defer { receiver.stop() }
        let outcome = deliver(to: receiver)
        try #require(outcome.requests.count == 2)
        #expect((.milliseconds(1_950)...(.seconds(4))).contains(gap(outcome.requests)))
        #expect(outcome.ledger.exported == 3)
    }

    @Test("Retry-After as an HTTP date is honoured (case 14)")
    func retryAfterDate() throws {
        let formatter = DateFormatter()
        formatter.locale = Locale(identifier: "en_US_POSIX")
        formatter.timeZone = TimeZone(identifier: "GMT")
        formatter.dateFormat = "EEE, dd MMM yyyy HH:mm:ss 'GMT'"
        // Whole seconds: at least two of the three remain.
        let receiver = try Receiver(replies: [
            .status(503, headers: ["Retry-After": formatter.string(from: Date() + 3)])
        ])
        defer { receiver.stop() }
        let outcome = deliver(to: receiver)
        try #require(outcome.requests.count == 2)
        #expect((.milliseconds(1_500)...(.seconds(5))).contains(gap(outcome.requests)))
        #expect(outcome.ledger.exported == 3)
    }

    @Test(
        "a Retry-After in the past or without sense leaves the ordinary backoff (case 14)",
        arguments: ["Sun, 06 Nov 1994 08:49:37 GMT", "soon", "", "-5", "1.5", "99999999999999999999", "0", "  0  "])
    func retryAfterGarbage(text: String) throws {
        let receiver = try Receiver(replies: [.status(503, headers: ["Retry-After": text])])
        defer { receiver.stop() }
        let outcome = deliver(to: receiver)
        try #require(outcome.requests.count == 2)
        #expect((.milliseconds(240)...(.seconds(3))).contains(gap(outcome.requests)))
        #expect(outcome.ledger.exported == 3)
    }

    @Test(
        "a Retry-After of two years ends at the export time-out (case 14)",
        arguments: ["63072000", "Fri, 01 Jan 2055 00:00:00 GMT"])
    func retryAfterYears(text: String) throws {
        let receiver = try Receiver(otherwise: .status(503, headers: ["Retry-After": text]))
        defer { receiver.stop() }
        let start = ContinuousClock.now
        let outcome = deliver(to: receiver) { $0.exportTimeout = .seconds(1) }
        #expect(ContinuousClock.now - start < .seconds(5))
        #expect(outcome.requests.count == 1)
        #expect(outcome.ledger.dropped[.retryExpired] == 3)
    }

    @Test("retries end at the export time-out and are counted")
    func retriesExpire() throws {
        let receiver = try Receiver(otherwise: .status(503))
        defer { receiver.stop() }
        let start = ContinuousClock.now
        let outcome = deliver(to: receiver) { $0.exportTimeout = .seconds(2) }
        #expect(ContinuousClock.now - start < .seconds(6))
        #expect((2...5).contains(outcome.requests.count))
        #expect(outcome.ledger.dropped[.retryExpired] == 3)
        #expect(outcome.reports.count == 1)
    }

    // MARK: Successes

    private static func response(rejected: Int, message: String) throws -> [UInt8] {
        let program = """
            import sys
            from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse as R, ExportTracePartialSuccess as P
            sys.stdout.buffer.write(R(partial_success=P(rejected_spans=int(sys.argv[1]), error_message=sys.argv[2])).SerializeToString())
            """
        return Array(try Peers.python(program, ["\(rejected)", message]).standardOutput)
    }

    @Test("rejected spans of a partial success are counted and not sent again (case 15)", arguments: [1, 3, 1_000])
    func partialSuccess(rejected: Int) throws {
        let receiver = try Receiver(replies: [
            .status(200, body: try Self.response(rejected: rejected, message: "too old"))
        ])
        defer { receiver.stop() }
        let outcome = deliver(to: receiver)
        #expect(outcome.requests.count == 1)
        #expect(outcome.ledger.rejected == UInt64(min(rejected, 3)))
        #expect(outcome.ledger.exported == UInt64(3 - min(rejected, 3)))
        #expect(outcome.reports.count == 1 && outcome.reports[0].contains("too old"))
    }

    @Test(
        "an empty partial success is a success; a message alone is a warning (case 15)", arguments: ["", "slow down"])
    func emptyPartialSuccess(message: String) throws {
        let receiver = try Receiver(replies: [.status(200, body: try Self.response(rejected: 0, message: message))])
        defer { receiver.stop() }
        let outcome = deliver(to: receiver)
        #expect(outcome.ledger.exported == 3)
        #expect(outcome.reports.count == (message.isEmpty ? 0 : 1))
    }

    @Test(
        "200 with any content type and any body, and 204, are successes (case 16)",
        arguments: [
            (200, nil, ""), (204, nil, ""), (202, nil, ""), (200, "application/x-protobuf", ""),
            (200, "application/x-protobuf; charset=utf-8", ""),
            (200, "application/json", "{}"), (200, "application/json", #"{"partialSuccess":{},"new":1}"#),
            (200, "text/html", "<html>"),
            (200, "nonsense", "\u{0}\u{1}\u{2}"), (200, "application/x-protobuf", "\u{0A}\u{7F}"),
        ] as [(Int, String?, String)])
    func oddSuccess(status: Int, contentType: String?, body: String) throws {
        let headers = contentType.map { ["Content-Type": $0] } ?? [:]
        let receiver = try Receiver(replies: [.status(status, headers: headers, body: Array(body.utf8))])
        defer { receiver.stop() }
        let outcome = deliver(to: receiver)
        #expect(outcome.requests.count == 1)
        #expect(outcome.ledger.exported == 3)
        #expect(outcome.reports.isEmpty)
    }

    @Test("a success whose body is cut off or without end is a success (case 17)")
    func unreadableSuccess() throws {
        for reply in [
            Receiver.Reply.cutOff(200, promised: 10), .status(200, body: [UInt8](repeating: 0x78, count: 6_000_000)),
        ] {
            let receiver = try Receiver(replies: [reply])
            defer { receiver.stop() }
            let outcome = deliver(to: receiver)
            #expect(outcome.requests.count == 1)
            #expect(outcome.ledger.exported == 3)
        }
    }

    // MARK: Shutdown

    @Test(
        "a shutdown in front of a black hole ends at its deadline, and its spans are counted",
        arguments: [300, 1_000, 1_350])
    func blackHole(milliseconds: Int) throws {
        let receiver = try Receiver(otherwise: .blackHole)
        defer { receiver.stop() }
        let start = ContinuousClock.now
        let outcome = deliver(600, to: receiver, deadline: .milliseconds(milliseconds)) { $0.timeout = .seconds(60) }
        let took = ContinuousClock.now - start
        #expect(took > .milliseconds(milliseconds - 50) && took < .milliseconds(milliseconds + 400), "\(took)")
        #expect(outcome.undelivered == 600)
        #expect(outcome.ledger.dropped[.shutdown] == 600)
    }

    @Test("a shutdown between two retries ends at its deadline")
    func shutdownWhileRetrying() throws {
        let receiver = try Receiver(otherwise: .status(503, headers: ["Retry-After": "20"]))
        defer { receiver.stop() }
        let start = ContinuousClock.now
        let outcome = deliver(to: receiver, deadline: .milliseconds(500))
        #expect(ContinuousClock.now - start < .seconds(1))
        #expect(outcome.ledger.dropped[.shutdown] == 3)
    }

    @Test("a flush reports what is left at its deadline, and exports nothing twice")
    func flush() throws {
        let receiver = try Receiver(replies: [.status(200, delay: .seconds(1))])
        defer { receiver.stop() }
        let sdk = TelemetrySDK(configuration: .test(receiver) { $0.scheduleDelay = .seconds(60) })
        for _ in 0..<5 { sdk.tracer.startSpan("slow").end() }
        #expect(sdk.flush(deadline: .milliseconds(200)).undelivered == 5)
        #expect(sdk.flush(deadline: .seconds(20)).undelivered == 0)
        sdk.shutdown(deadline: .seconds(5))
        #expect(try OfficialRequest.spans(receiver.bodies).count == 5)
        expectSettled(sdk.ledger, started: 5)
    }

    @Test("an SDK that goes away without a shutdown does not wait for a black hole")
    func released() throws {
        let receiver = try Receiver(otherwise: .blackHole)
        defer { receiver.stop() }
        let start = ContinuousClock.now
        var sdk: TelemetrySDK? = TelemetrySDK(configuration: .test(receiver) { $0.timeout = .seconds(60) })
        let late = sdk?.tracer.startSpan("never ends")
        sdk?.tracer.startSpan("lost").end()
        #expect(eventually { !receiver.requests.isEmpty })
        sdk = nil
        #expect(ContinuousClock.now - start < .seconds(3))
        // A handle outlives everything and does nothing.
        late?.setAttribute("late", 1)
        late?.end()
    }

    @Test(
        "without an endpoint, and when disabled, nothing is sent and everything is counted", arguments: [false, true])
    func disabled(isDisabled: Bool) throws {
        let receiver = try Receiver()
        defer { receiver.stop() }
        var configuration = TelemetryConfiguration.test(receiver)
        configuration.isDisabled = isDisabled
        if !isDisabled { configuration.endpoint = nil }
        let sdk = TelemetrySDK(configuration: configuration)
        let remote = try #require(
            TraceContext.parse(traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"))
        let span = sdk.tracer.startSpan("nothing", parent: remote)
        #expect(!span.isRecording)
        // The trace goes through unbroken: https://opentelemetry.io/docs/specs/otel/trace/api/#behavior-of-the-api-in-the-absence-of-an-installed-sdk
        #expect(span.context.traceparent == "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
        span.end()
        let root = sdk.tracer.startSpan("nothing")
        #expect(root.context.isValid && !root.context.isSampled)
        root.end()
        #expect(sdk.flush(deadline: .seconds(5)).undelivered == 0)
        #expect(sdk.shutdown(deadline: .seconds(5)).undelivered == 0)
        #expect(receiver.requests.isEmpty)
        expectSettled(sdk.ledger, started: 2)
    }
}

/// Lines that an SDK reports.
final class Reports: Sendable {
    private let state = Mutex<[String]>([])
    var lines: [String] { state.withLock { $0 } }
    func append(_ line: String) { state.withLock { $0.append(line) } }
}
