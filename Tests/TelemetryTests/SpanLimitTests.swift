import OTLP
import Telemetry
import Testing

@Suite("Span limits, at, below and above each")
struct SpanLimitTests {
    /// One span, as it arrives.
    private func exported(
        _ change: (inout SpanLimits) -> Void, _ record: (Span) -> Void
    ) throws -> OfficialRequest.Span {
        let receiver = try Receiver()
        defer { receiver.stop() }
        let sdk = TelemetrySDK(configuration: .test(receiver) { change(&$0.limits) })
        let span = sdk.tracer.startSpan("limited")
        record(span)
        span.end()
        sdk.shutdown(deadline: .seconds(20))
        #expect(sdk.ledger.isBalanced && sdk.ledger.exported == 1, "\(sdk.ledger)")
        return try #require(OfficialRequest.spans(receiver.bodies).first)
    }

    private let other = SpanContext(
        traceID: TraceID(high: 1, low: 2), spanID: SpanID(rawValue: 3), traceFlags: .sampled)

    // https://opentelemetry.io/docs/specs/otel/common/#attribute-limits
    @Test(
        "attributes: what is beyond the limit is counted, whatever its type",
        arguments: [(2, 0), (3, 0), (4, 1), (9, 6)])
    func attributes(set: Int, dropped: Int) throws {
        let span = try exported({ $0.attributeCount = 3 }) { span in
            let keys: [StaticString] = ["a", "b", "c", "d", "e", "f", "g", "h", "i"]
            for (index, key) in keys.prefix(set).enumerated() {
                switch index % 3 {
                case 0: span.setAttribute(key, 1)
                case 1: span.setAttribute(key, "text")
                default: span.setAttribute(key, 0.5)
                }
            }
        }
        #expect(span.attributes.count == min(set, 3))
        #expect(span.droppedAttributes == dropped)
    }

    @Test("an attribute limit of 0 keeps none")
    func noAttributes() throws {
        let span = try exported({ $0.attributeCount = 0 }) { span in
            span.setAttribute("a", 1)
            span.setAttribute(String("b"), .array([]))
        }
        #expect(span.attributes.isEmpty && span.droppedAttributes == 2)
    }

    @Test("events and their attributes", arguments: [(1, 0), (2, 0), (3, 1), (200, 198)])
    func events(added: Int, dropped: Int) throws {
        let span = try exported({
            $0.eventCount = 2
            $0.attributesPerEvent = 2
        }) { span in
            for index in 0..<added {
                // The second value of a key replaces the first, and is no drop.
                span.addEvent(
                    "e\(index)",
                    attributes: [KeyValue("k", 1), KeyValue("k", 2), KeyValue("", 0), KeyValue("l", 3)]
                        + (index == 0 ? [KeyValue("m", 4), KeyValue("n", 5)] : []))
            }
        }
        #expect(span.events.map(\.name) == (0..<min(2, added)).map { "e\($0)" })
        #expect(span.droppedEvents == dropped)
        let first = try #require(span.events.first)
        #expect(first.attributes == [.init(key: "k", value: "int 2"), .init(key: "l", value: "int 3")])
        #expect(first.droppedAttributes == 2)
        #expect(span.events.dropFirst().allSatisfy { $0.droppedAttributes == 0 })
    }

    @Test("links and their attributes", arguments: [(1, 0), (2, 0), (3, 1)])
    func links(added: Int, dropped: Int) throws {
        let span = try exported({
            $0.linkCount = 2
            $0.attributesPerLink = 1
        }) { span in
            for _ in 0..<added { span.addLink(other, attributes: [KeyValue("a", 1), KeyValue("b", 2)]) }
        }
        #expect(span.links.count == min(2, added))
        #expect(span.droppedLinks == dropped)
        #expect(span.links.allSatisfy { $0.attributes == [.init(key: "a", value: "int 1")] })
        #expect(span.links.allSatisfy { $0.droppedAttributes == 1 })
    }

    @Test("nested values: what lies deeper than the limit becomes empty")
    func depth() throws {
        let value = AnyValue.array([.keyValueList([KeyValue("k", .array([1]))])])
        let kept = try exported({ $0.attributeDepth = 3 }) { $0.setAttribute(String("v"), value) }
        #expect(kept["v"] == "array [kvlist [k: array [int 1]]]")
        let cut = try exported({ $0.attributeDepth = 2 }) { $0.setAttribute(String("v"), value) }
        #expect(cut["v"] == "array [kvlist [k: empty]]")
        let flat = try exported({ $0.attributeDepth = 0 }) { span in
            span.setAttribute(String("v"), value)
            span.setAttribute(String("text"), .string("stays"))
        }
        #expect(flat["v"] == "empty" && flat["text"] == "string stays")
    }

    @Test("a value that is nested ten thousand times does no harm")
    func veryDeep() throws {
        var value = AnyValue.int(1)
        for _ in 0..<10_000 { value = .array([value]) }
        let span = try exported({ _ in }) { $0.setAttribute(String("v"), value) }
        #expect(span["v"]?.hasPrefix("array [array [") == true)
    }

    @Test("bytes: an attribute that does not fit the span is left out, the others stay")
    func spanBytes() throws {
        let text = String(repeating: "x", count: 1_500)
        let span = try exported({ $0.spanBytes = 2_000 }) { span in
            span.setAttribute("first", text)
            span.setAttribute("second", text)
            span.setAttribute("third", 3)
        }
        #expect(span.attributes.map(\.key) == ["first", "third"])
        #expect(span.droppedAttributes == 1)
    }

    @Test("the environment's names for all of them")
    func environment() {
        let (configuration, warnings) = TelemetryConfiguration.fromEnvironment([
            "OTEL_ATTRIBUTE_COUNT_LIMIT": "7", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "8",
            "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT": "9", "OTEL_SPAN_EVENT_COUNT_LIMIT": "10",
            "OTEL_SPAN_LINK_COUNT_LIMIT": "11", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "12",
        ])
        #expect(warnings.isEmpty)
        var expected = SpanLimits()
        expected.attributeCount = 8
        expected.attributesPerEvent = 7
        expected.attributesPerLink = 9
        expected.eventCount = 10
        expected.linkCount = 11
        expected.attributeValueLength = 12
        #expect(configuration.limits == expected)
        let own = TelemetryConfiguration.fromEnvironment([
            "OTEL_ATTRIBUTE_COUNT_LIMIT": "7", "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT": "6",
            "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "12", "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "13",
        ]).configuration.limits
        #expect(own.attributesPerEvent == 6 && own.attributesPerLink == 7 && own.attributeValueLength == 13)
    }

    @Test(
        "a limit that is no number is a warning, and the default stays",
        arguments: ["-1", "many", "1.5", "99999999999"])
    func badLimit(text: String) {
        let names = [
            "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT",
            "OTEL_SPAN_EVENT_COUNT_LIMIT", "OTEL_SPAN_LINK_COUNT_LIMIT", "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
        ]
        let (configuration, warnings) = TelemetryConfiguration.fromEnvironment(
            Dictionary(uniqueKeysWithValues: names.map { ($0, text) }))
        #expect(configuration.limits == SpanLimits())
        #expect(warnings.count == names.count)
        for name in names { #expect(warnings.contains { $0.contains("\(name)=\(text)") }) }
    }
}
