import Foundation
import OTLP
import Telemetry
import Testing

@Suite("Many spans of one model")
struct ManySpansTests {
    private func model(_ tracer: Tracer, state: TraceState? = nil) -> Span {
        let parent = SpanContext(
            traceID: TraceID(high: 1, low: 2), spanID: SpanID(rawValue: 3), traceFlags: .sampled, traceState: state,
            isRemote: true)
        let span = tracer.startSpan("deliver", kind: .consumer, parent: parent, at: Instant(unixNano: 1_000))
        span.setAttribute("shared", "of all")
        return span
    }

    /// As a recorder of deliveries does it: whatever cannot be recorded together is started by itself. How many were
    /// recorded together.
    @discardableResult
    private func record(_ tracer: Tracer, count: Int, state: TraceState? = nil, longAt: Int? = nil) -> Int {
        var together = 0
        var index = 0
        func describe(_ span: Span, as index: Int) -> Instant {
            span.setAttribute("number", index)
            if index % 2 == 0 { span.setAttribute("even", true) }
            if index == longAt { span.setAttribute("long", String(repeating: "x", count: 2_000)) }
            return Instant(unixNano: UInt64(2_000 + index))
        }
        while index < count {
            let span = model(tracer, state: state)
            let first = index
            let recorded = tracer.recordSpans(like: span, count: count - index - 1) { describe(span, as: first + $0) }
            together += recorded
            index += recorded
            span.end(at: describe(span, as: index))
            index += 1
        }
        return together
    }

    // A request has 512 at most, and a block 64 KiB: some 550 of these.
    @Test(
        "each has what all share and what is its own, in requests of no more than the limit",
        arguments: [1, 2, 512, 513, 514, 1_100])
    func fields(count: Int) throws {
        let receiver = try Receiver()
        defer { receiver.stop() }
        let sdk = TelemetrySDK(configuration: .test(receiver) { $0.scheduleDelay = .seconds(60) })
        #expect(record(sdk.tracer, count: count) == count - 1)
        sdk.shutdown(deadline: .seconds(20))
        #expect(sdk.ledger.isBalanced && sdk.ledger.exported == UInt64(count), "\(sdk.ledger)")
        let requests = try OfficialRequest.decode(receiver.bodies)
        #expect(requests.allSatisfy { $0.spans.count <= 512 })
        let spans = requests.flatMap(\.spans).sorted { $0.end < $1.end }
        #expect(Set(spans.map(\.span)).count == count)
        for (index, span) in spans.enumerated() {
            #expect(span.trace == "00000000000000010000000000000002" && span.parent == "0000000000000003")
            #expect(span.name == "deliver" && span.kind == 5 && span.start == 1_000)
            #expect(span.end == UInt64(2_000 + index))
            #expect(span["shared"] == "string of all" && span["number"] == "int \(index)")
            #expect(span.attributes.count == (index % 2 == 0 ? 3 : 2), "\(span.attributes)")
        }
    }

    @Test("one that outgrows its place ends the series, and nothing of it is in the next", arguments: [0, 30, 75, 99])
    func outgrown(index: Int) throws {
        let receiver = try Receiver()
        defer { receiver.stop() }
        let sdk = TelemetrySDK(configuration: .test(receiver))
        record(sdk.tracer, count: 100, longAt: index)
        sdk.shutdown(deadline: .seconds(20))
        #expect(sdk.ledger.isBalanced && sdk.ledger.exported == 100, "\(sdk.ledger)")
        let spans = try OfficialRequest.spans(receiver.bodies).sorted { $0.end < $1.end }
        #expect(Set(spans.map(\.span)).count == 100)
        #expect(spans.map { $0["number"] } == (0..<100).map { "int \($0)" })
        for (number, span) in spans.enumerated() { #expect((span["long"] != nil) == (number == index)) }
    }

    @Test(
        "what cannot be recorded together is not: an end, an event, a trace state, no room, another SDK's, not sampled")
    func oneByOne() throws {
        let receiver = try Receiver()
        defer { receiver.stop() }
        let state = try #require(TraceState(header: "a=1"))
        let sdk = TelemetrySDK(configuration: .test(receiver))
        #expect(record(sdk.tracer, count: 3, state: state) == 0)
        let eventful = model(sdk.tracer)
        eventful.addEvent("happened")
        let long = model(sdk.tracer)
        long.setAttribute("long", String(repeating: "x", count: 2_000))
        let ended = model(sdk.tracer)
        ended.end()
        let other = TelemetrySDK(configuration: .test(receiver))
        let never = TelemetrySDK(configuration: .test(receiver) { $0.sampler = .alwaysOff })
        for span in [eventful, long, ended, model(other.tracer), model(never.tracer)] {
            #expect(sdk.tracer.recordSpans(like: span, count: 5) { _ in Instant(unixNano: 1) } == 0)
            span.end()
        }
        #expect(never.tracer.recordSpans(like: model(never.tracer), count: 5) { _ in Instant(unixNano: 1) } == 0)
        for sdk in [sdk, other, never] { sdk.shutdown(deadline: .seconds(20)) }
        #expect(sdk.ledger.exported == 6 && sdk.ledger.isBalanced, "\(sdk.ledger)")
        #expect(other.ledger.exported == 1 && never.ledger.exported == 0)
        #expect(try OfficialRequest.spans(receiver.bodies).count { $0.state == "a=1" } == 3)
    }

    @Test("what the exporter has no room for is started one by one, and dropped by count")
    func noRoom() throws {
        let receiver = try Receiver(otherwise: .blackHole)
        defer { receiver.stop() }
        let sdk = TelemetrySDK(
            configuration: .test(receiver) {
                $0.maxQueueSize = 256
                $0.maxExportBatchSize = 64
            })
        record(sdk.tracer, count: 5_000)
        let held = sdk.ledger
        #expect(held.isBalanced && held.started == 5_000, "\(held)")
        #expect(held.dropped[.queueFull] ?? 0 > 0 && held.queued > 0, "\(held)")
        sdk.shutdown(deadline: .milliseconds(200))
        #expect(sdk.ledger.isBalanced && sdk.ledger.started == 5_000 && sdk.ledger.queued == 0, "\(sdk.ledger)")
    }
}
