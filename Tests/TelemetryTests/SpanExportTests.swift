import Foundation
import OTLP
import Synchronization
import Telemetry
import Testing

extension TelemetryConfiguration {
    /// Exports to a receiver, soon, and waits for nothing that a test does not ask for.
    static func test(_ receiver: Receiver, _ change: (inout TelemetryConfiguration) -> Void = { _ in })
        -> TelemetryConfiguration
    {
        var configuration = TelemetryConfiguration()
        configuration.endpoint = receiver.endpoint
        configuration.scheduleDelay = .milliseconds(20)
        configuration.sampler = .alwaysOn
        change(&configuration)
        return configuration
    }
}

@Suite("Exported spans are what was recorded, by the official protobuf classes")
struct SpanExportTests {
    /// Records, shuts down, and gives what arrived.
    private func exported(
        _ change: (inout TelemetryConfiguration) -> Void = { _ in }, gzip: Bool = false, _ record: (Tracer) -> Void
    ) throws -> [OfficialRequest] {
        let receiver = try Receiver()
        defer { receiver.stop() }
        let sdk = TelemetrySDK(
            configuration: .test(receiver) {
                // One request with everything.
                $0.scheduleDelay = .seconds(60)
                $0.compression = gzip ? .gzip : .none
                change(&$0)
            })
        record(sdk.tracer)
        #expect(sdk.shutdown(deadline: .seconds(20)) == sdk.shutdown(deadline: .seconds(1)))
        #expect(sdk.ledger.isBalanced)
        #expect(receiver.requests.allSatisfy { $0.target == "POST /v1/traces HTTP/1.1" })
        #expect(receiver.requests.allSatisfy { $0.headers["content-type"] == "application/x-protobuf" })
        #expect(receiver.requests.allSatisfy { $0.headers["content-encoding"] == (gzip ? "gzip" : nil) })
        #expect(receiver.requests.allSatisfy { $0.headers["user-agent"]?.isEmpty == false })
        return try OfficialRequest.decode(receiver.bodies, gzip: gzip)
    }

    private func value(_ key: String, _ value: String) -> OfficialRequest.Value { .init(key: key, value: value) }

    @Test("attributes of every kind arrive as they were set (cases 5 and 12)", arguments: [false, true])
    func attributes(gzip: Bool) throws {
        let requests = try exported(gzip: gzip) { tracer in
            let span = tracer.startSpan("all kinds", kind: .client)
            span.setAttribute("literal", "a literal")
            span.setAttribute("string", String("größe 🎈"))
            span.setAttribute("größe 🎈", "a key")
            span.setAttribute("empty string", String())
            Array("utf-8 ü".utf8).withUnsafeBufferPointer { span.setAttribute("utf8", utf8: $0) }
            span.setAttribute("no utf8", utf8: UnsafeBufferPointer(start: nil, count: 0))
            [UInt8]([0, 255, 10]).withUnsafeBufferPointer { span.setAttribute("bytes", bytes: $0) }
            span.setAttribute("no bytes", bytes: UnsafeBufferPointer(start: nil, count: 0))
            span.setAttribute("int", Int64.min)
            span.setAttribute("int max", Int.max)
            span.setAttribute("zero", 0)
            span.setAttribute("true", true)
            span.setAttribute("false", false)
            span.setAttribute("double", -1.5)
            span.setAttribute("nan", Double.nan)
            span.setAttribute("infinite", -Double.infinity)
            span.setAttribute(String("any empty"), AnyValue.empty)
            span.setAttribute(
                String("nested"),
                .array([1, "two", .keyValueList([KeyValue("k", .array([.bytes([1]), .empty, true, 0.5]))])]))
            span.setAttribute(String("any bytes"), .bytes([]))
            span.setAttribute(String(""), .int(1))
            span.setAttribute("", 1)
            span.end()
        }
        let span = try #require(requests.first?.spans.first)
        #expect(requests.count == 1 && requests[0].spans.count == 1)
        #expect(
            span.attributes == [
                value("literal", "string a literal"), value("string", "string größe 🎈"),
                value("größe 🎈", "string a key"),
                value("empty string", "string "),
                value("utf8", "string utf-8 ü"), value("no utf8", "string "), value("bytes", "bytes 00ff0a"),
                value("no bytes", "bytes "), value("int", "int -9223372036854775808"),
                value("int max", "int 9223372036854775807"), value("zero", "int 0"), value("true", "bool true"),
                value("false", "bool false"), value("double", "double bff8000000000000"),
                value("nan", "double 7ff8000000000000"), value("infinite", "double fff0000000000000"),
                value("any empty", "empty"),
                value(
                    "nested",
                    "array [int 1, string two, kvlist [k: array [bytes 01, empty, bool true, double 3fe0000000000000]]]"
                ),
                value("any bytes", "bytes "),
            ])
        #expect(span.name == "all kinds")
        #expect(span.kind == 3)
        #expect(span.droppedAttributes == 0)
    }

    @Test("the last value of a key counts, and setting it again is no drop (case 11)")
    func overwriting() throws {
        let span = try #require(
            exported({ $0.limits.attributeCount = 3 }) { tracer in
                let span = tracer.startSpan("again")
                span.setAttribute("a", 1)
                span.setAttribute("b", 2)
                span.addEvent("between", attributes: [KeyValue("a", 9)])
                span.setAttribute("c", 3)
                span.setAttribute("a", String("changed"))
                span.setAttribute(String("b"), .array([]))
                span.setAttribute("d", 4)
                span.setAttribute("e", true)
                span.end()
            }.first?.spans.first)
        #expect(span.attributes == [value("c", "int 3"), value("a", "string changed"), value("b", "array []")])
        #expect(span.droppedAttributes == 2)
        #expect(span.events.map(\.attributes) == [[value("a", "int 9")]])
    }

    @Test("values are cut by character, in nested values too, and never inside one (case 11)", arguments: [0, 1, 2, 5])
    func valueLength(limit: Int) throws {
        let text = "aü🎈日x!"
        let cut = String(text.unicodeScalars.prefix(limit))
        let span = try #require(
            exported({ $0.limits.attributeValueLength = limit }) { tracer in
                let span = tracer.startSpan("long")
                span.setAttribute("string", String(text))
                span.setAttribute("literal", "aü🎈日x!")
                span.setAttribute(
                    String("nested"), .array([.string(text), .keyValueList([KeyValue("long key", .string(text))])]))
                [UInt8]([1, 2, 3, 4, 5, 6]).withUnsafeBufferPointer { span.setAttribute("bytes", bytes: $0) }
                span.setAttribute(String("any bytes"), .bytes([1, 2, 3, 4, 5, 6]))
                span.setAttribute("int", 123_456)
                span.addEvent("e", attributes: [KeyValue("k", .string(text))])
                span.addLink(
                    SpanContext(traceID: TraceID(high: 1, low: 2), spanID: SpanID(rawValue: 3), traceFlags: []),
                    attributes: [KeyValue("k", .string(text))])
                span.end()
            }.first?.spans.first)
        // Bytes count one by one: https://opentelemetry.io/docs/specs/otel/common/#attribute-limits
        let bytes = "bytes " + (1...6).prefix(limit).map { "0\($0)" }.joined()
        #expect(span["string"] == "string \(cut)")
        #expect(span["literal"] == "string \(cut)")
        #expect(span["nested"] == "array [string \(cut), kvlist [long key: string \(cut)]]")
        #expect(span["bytes"] == bytes)
        #expect(span["any bytes"] == bytes)
        #expect(span["int"] == "int 123456")
        #expect(span.events.first?.attributes == [value("k", "string \(cut)")])
        #expect(span.links.first?.attributes == [value("k", "string \(cut)")])
    }

    @Test("many and large attributes arrive whole; what does not fit a span is counted (case 12)")
    func large() throws {
        let keys = (0..<200).map { "key.\($0)" }
        let spans =
            try exported { tracer in
                let many = tracer.startSpan("many")
                for (index, key) in keys.enumerated() { many.setAttribute(key, .int(Int64(index))) }
                many.end()
                let large = tracer.startSpan("large")
                for key in keys.prefix(100) { large.setAttribute(key, .string(String(repeating: "x", count: 1_000))) }
                large.setStatus(.error, "still told")
                large.end()
                let events = tracer.startSpan("events")
                for index in 0..<70_000 { events.addEvent("event \(index)") }
                events.end()
            }.first?.spans ?? []
        try #require(spans.count == 3)
        #expect(spans[0].attributes == keys.prefix(128).enumerated().map { value($1, "int \($0)") })
        #expect(spans[0].droppedAttributes == 72)
        #expect(spans[1].attributes.count + spans[1].droppedAttributes == 100)
        #expect(spans[1].attributes.count > 50)
        #expect(spans[1].status == 2)
        #expect(spans[1].statusMessage == "still told")
        #expect(spans[2].droppedAttributes == 0)
        #expect(spans[2].events.count > 0)
        #expect(spans[2].events.count + spans[2].droppedEvents == 70_000)
    }

    @Test("links that do not fit are counted as links (case 12)")
    func droppedLinks() throws {
        let span = try #require(
            exported { tracer in
                let span = tracer.startSpan("links")
                let other = SpanContext(traceID: TraceID(high: 1, low: 2), spanID: SpanID(rawValue: 3), traceFlags: [])
                for _ in 0..<5_000 { span.addLink(other) }
                span.end()
            }.first?.spans.first)
        #expect(span.links.count + span.droppedLinks == 5_000)
        #expect(span.droppedLinks > 0 && span.droppedAttributes == 0)
    }

    @Test("ids, parents, kinds, flags and times are as OTLP wants them (cases 7 to 10)")
    func identity() throws {
        let remote = try #require(
            TraceContext.parse(
                traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                tracestate: "congo=t61rcWkgMzE,rojo=1"))
        let contexts = Mutex<[SpanContext]>([])
        let spans =
            try exported { tracer in
                for kind in SpanKind.allCases { tracer.startSpan("root", kind: kind).end() }
                let child = tracer.startSpan("child of another process", kind: .server, parent: remote)
                let grandchild = tracer.startSpan("grandchild", parent: child.context)
                grandchild.end(at: Instant(unixNano: 5))
                child.end()
                contexts.withLock { $0 = [child.context, grandchild.context] }
            }.first?.spans ?? []
        let (child, grandchild) = try #require(contexts.withLock { $0.count == 2 ? ($0[0], $0[1]) : nil })
        try #require(spans.count == 7)
        #expect(spans.prefix(5).map(\.kind) == [1, 2, 3, 4, 5])
        #expect(Set(spans.prefix(5).map(\.trace)).count == 5)
        #expect(spans.prefix(5).allSatisfy { $0.parent.isEmpty && $0.state.isEmpty })
        // Sampled, random, and "is remote" known to be no.
        #expect(spans.prefix(5).allSatisfy { $0.flags == 0x103 })
        #expect(Set(spans.map(\.span)).count == 7)
        let exportedChild = try #require(spans.first { $0.name == "child of another process" })
        #expect(exportedChild.trace == "4bf92f3577b34da6a3ce929d0e0e4736")
        #expect(exportedChild.parent == "00f067aa0ba902b7")
        #expect(exportedChild.flags == 0x301)
        #expect(exportedChild.state == "congo=t61rcWkgMzE,rojo=1")
        #expect(exportedChild.span == child.spanID.description)
        let exportedGrandchild = try #require(spans.first { $0.name == "grandchild" })
        #expect(exportedGrandchild.trace == exportedChild.trace)
        #expect(exportedGrandchild.parent == exportedChild.span)
        #expect(exportedGrandchild.span == grandchild.spanID.description)
        #expect(exportedGrandchild.flags == 0x101)
        #expect(exportedGrandchild.start == exportedGrandchild.end)
        let now = UInt64(Date().timeIntervalSince1970 * 1e9)
        for span in spans {
            #expect(span.trace.count == 32 && span.trace != String(repeating: "0", count: 32))
            #expect(span.span.count == 16 && span.span != String(repeating: "0", count: 16))
            #expect(span.start <= span.end)
            #expect(span.start > now - 60_000_000_000 && span.start < now + 1_000_000_000)
        }
    }

    @Test("a parent that is not valid begins a new trace, without its state")
    func invalidParent() throws {
        let state = try #require(TraceState(header: "a=b"))
        let parent = SpanContext(
            traceID: TraceID(high: 0, low: 0), spanID: SpanID(rawValue: 7), traceFlags: .sampled, traceState: state,
            isRemote: true)
        let span = try #require(exported { $0.startSpan("orphan", parent: parent).end() }.first?.spans.first)
        #expect(span.parent.isEmpty)
        #expect(span.state.isEmpty)
        #expect(span.flags == 0x103)
    }

    @Test("events, links and status arrive; OK is final (case 8)")
    func eventsLinksStatus() throws {
        struct Broken: Error, CustomStringConvertible { let description = "it broke" }
        let linked = SpanContext(
            traceID: TraceID(high: 0xAB, low: 0xCD), spanID: SpanID(rawValue: 0xEF), traceFlags: .sampled,
            traceState: TraceState(header: "v=1"), isRemote: true)
        let spans =
            try exported { tracer in
                let span = tracer.startSpan("with all")
                span.addEvent("seen", at: Instant(unixNano: 1_700_000_000_123_456_789), attributes: [KeyValue("n", 1)])
                span.recordError(Broken())
                span.addLink(linked, attributes: [KeyValue("why", "batch")])
                span.addLink(
                    SpanContext(traceID: TraceID(high: 1, low: 2), spanID: SpanID(rawValue: 3), traceFlags: []))
                span.setStatus(.error, "first")
                span.setStatus(.unset)
                span.setStatus(.error, "größe")
                span.end()
                let fine = tracer.startSpan("fine")
                fine.setStatus(.error, "not yet")
                fine.setStatus(.ok, "never sent")
                fine.setStatus(.error, "too late")
                fine.end()
                tracer.startSpan("unset").end()
            }.first?.spans ?? []
        try #require(spans.count == 3)
        #expect(spans[0].events.map(\.name) == ["seen", "exception"])
        #expect(spans[0].events[0].time == 1_700_000_000_123_456_789)
        #expect(spans[0].events[0].attributes == [value("n", "int 1")])
        #expect(
            spans[0].events[1].attributes == [
                value("exception.type", "string Broken"), value("exception.message", "string it broke"),
            ])
        #expect(spans[0].links.map(\.flags) == [0x301, 0x100])
        #expect(spans[0].links[0].trace == "00000000000000ab00000000000000cd")
        #expect(spans[0].links[0].span == "00000000000000ef")
        #expect(spans[0].links[0].state == "v=1")
        #expect(spans[0].links[0].attributes == [value("why", "string batch")])
        #expect(spans[0].status == 2 && spans[0].statusMessage == "größe")
        #expect(spans[1].status == 1 && spans[1].statusMessage.isEmpty)
        #expect(spans[2].status == 0 && spans[2].statusMessage.isEmpty)
    }

    @Test("a long status message is cut between characters", arguments: 0..<5)
    func longMessage(shift: Int) throws {
        let message = String(repeating: "x", count: 1_000 + shift) + String(repeating: "🎈é", count: 20)
        let span = try #require(
            exported { tracer in
                let span = tracer.startSpan("long message")
                span.setStatus(.error, message)
                span.end()
            }.first?.spans.first)
        #expect(span.status == 2)
        #expect(message.hasPrefix(span.statusMessage))
        #expect((1_020...1_024).contains(span.statusMessage.utf8.count))
    }

    @Test("a message that ends in a replacement character of its own keeps it")
    func replacementCharacter() throws {
        let span = try #require(
            exported { tracer in
                let span = tracer.startSpan("replacement")
                span.setStatus(.error, "odd \u{FFFD}")
                span.end()
            }.first?.spans.first)
        #expect(span.statusMessage == "odd \u{FFFD}")
    }

    @Test("the longest trace state and the longest message fit a span that is nearly full")
    func fullSpan() throws {
        let header = (0..<4).map { "k\($0)=" + String(repeating: "v", count: 124) }.joined(separator: ",")
        let parent = SpanContext(
            traceID: TraceID(high: 1, low: 2), spanID: SpanID(rawValue: 3), traceFlags: .sampled,
            traceState: TraceState(header: header))
        let spans =
            try exported { tracer in
                for size in [400, 500, 600, 700, 800, 62_000, 63_000, 64_000, 65_000] {
                    let span = tracer.startSpan("nearly full", parent: parent)
                    span.setAttribute("filler", String(repeating: "x", count: size))
                    span.setStatus(.error, String(repeating: "m", count: 1_024))
                    span.end()
                }
            }.first?.spans ?? []
        #expect(spans.count == 9)
        // Room for the first value is made twice over; the second nearly fills it.
        let filled =
            try exported { tracer in
                for size in [32_300, 32_400, 32_450] {
                    let span = tracer.startSpan("full", parent: parent)
                    span.setAttribute("filler", String(repeating: "x", count: 32_250))
                    span.setAttribute("second", String(repeating: "x", count: size))
                    span.setStatus(.error, String(repeating: "m", count: 1_024))
                    span.end()
                }
            }.first?.spans ?? []
        #expect(filled.map(\.attributes.count) == [2, 2, 2])
        #expect(filled.allSatisfy { $0.state == header && $0.statusMessage.count == 1_024 })
        for span in spans {
            #expect(span.state == header)
            #expect(span.statusMessage.count == 1_024)
            #expect(span.attributes.count + span.droppedAttributes == 1)
        }
    }

    @Test("every request begins with the resource and the scope")
    func resource() throws {
        let (fromEnvironment, _) = TelemetryConfiguration.fromEnvironment([
            "OTEL_SERVICE_NAME": "checkout",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test,service.name=other,host.name=h%20x",
        ])
        let request = try #require(
            exported({ $0.resource = fromEnvironment.resource }) { $0.startSpan("x").end() }.first)
        let found = Dictionary(request.resource.map { ($0.key, $0.value) }) { _, _ in "twice" }
        #expect(found["service.name"] == "string checkout")
        #expect(found["deployment.environment"] == "string test")
        #expect(found["host.name"] == "string h x")
        #expect(found["telemetry.sdk.language"] == "string swift")
        #expect(found["telemetry.sdk.name"] == "string isotherm")
        #expect(found["telemetry.sdk.version"]?.hasPrefix("string ") == true)
        #expect(found["process.pid"] == "int \(ProcessInfo.processInfo.processIdentifier)")
        // RFC 9562, version 4.
        let id = try #require(found["service.instance.id"])
        #expect(id.wholeMatch(of: /string [0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}/) != nil)
        #expect(!request.scope.isEmpty && !request.scopeVersion.isEmpty)
    }

    @Test(
        "a resource of one's own is sent as it is, an empty one too",
        arguments: [[], [KeyValue("team", "a"), KeyValue("zone", 7)]] as [[KeyValue]])
    func ownResource(attributes: [KeyValue]) throws {
        let request = try #require(
            exported({ $0.resource = Resource(attributes: attributes) }) { $0.startSpan("x").end() }.first)
        #expect(request.resource == (attributes.isEmpty ? [] : [value("team", "string a"), value("zone", "int 7")]))
    }

    @Test("a name of more than 96 bytes is cut between characters")
    func longName() throws {
        let name: StaticString =
            "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123🎈🎈"
        let span = try #require(exported { $0.startSpan(name).end() }.first?.spans.first)
        #expect("\(name)".hasPrefix(span.name))
        #expect(span.name.utf8.count >= 93)
    }

    @Test("large spans are split into requests below the Collector's 20 MiB (case 17)")
    func splitBatches() throws {
        let receiver = try Receiver()
        defer { receiver.stop() }
        let sdk = TelemetrySDK(
            configuration: .test(receiver) {
                $0.scheduleDelay = .seconds(60)
                $0.maxQueueSize = 8_192
                $0.maxExportBatchSize = 8_192
            })
        for _ in 0..<600 {
            let span = sdk.tracer.startSpan("large")
            span.setAttribute("filler", String(repeating: "x", count: 60_000))
            span.end()
        }
        sdk.shutdown(deadline: .seconds(30))
        #expect(sdk.ledger.exported == 600)
        #expect(receiver.bodies.count >= 8)
        #expect(receiver.bodies.allSatisfy { $0.count < 5 * 1_024 * 1_024 })
        #expect(try OfficialRequest.spans(receiver.bodies).count == 600)
    }

    @Test("headers of the configuration are sent, and one connection serves many requests (case 18)")
    func headersAndKeepAlive() throws {
        let receiver = try Receiver()
        defer { receiver.stop() }
        let sdk = TelemetrySDK(
            configuration: .test(receiver) { $0.headers = [("Authorization", "Bearer x=y"), ("x-tenant", "a, b")] })
        for _ in 0..<5 {
            sdk.tracer.startSpan("x").end()
            #expect(sdk.flush(deadline: .seconds(10)).undelivered == 0)
        }
        sdk.shutdown(deadline: .seconds(5))
        #expect(receiver.requests.count == 5)
        #expect(Set(receiver.requests.map(\.connection)) == [0])
        #expect(
            receiver.requests.allSatisfy {
                $0.headers["authorization"] == "Bearer x=y" && $0.headers["x-tenant"] == "a, b"
            })
        // No empty envelopes: nothing more is sent when nothing was recorded.
        #expect(try OfficialRequest.decode(receiver.bodies).allSatisfy { $0.spans.count == 1 })
    }
}
