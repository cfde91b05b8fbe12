import Foundation
import LatencyHeatmap
import OTLP
import TestSupport
import Testing

/// Requests that Python's opentelemetry-proto wrote, with what it reckons that a heatmap of them must show.
struct PeerRequests: Decodable {
    struct Cell: Decodable {
        let group: String
        let start: Int64
        let count: UInt64
        let p95: UInt64
        let max: UInt64
        let traces: [String]
    }

    let protobuf: [String]
    let json: [String]
    let received: UInt64
    let cells: [Cell]

    /// Spans with groups of all kinds: attributes of the span or its resource, as text, numbers and truth values; the
    /// service as a fallback; none at all; names that are longer than 128 bytes.
    static let program = """
        import base64, json, random
        from google.protobuf.json_format import MessageToDict
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
        from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
        r = random.Random(2026)
        T0 = 1_795_420_800 * 10 ** 9
        MS = 10 ** 6
        def attribute(key, value):
            if isinstance(value, bool): return KeyValue(key=key, value=AnyValue(bool_value=value))
            if isinstance(value, int): return KeyValue(key=key, value=AnyValue(int_value=value))
            if isinstance(value, float): return KeyValue(key=key, value=AnyValue(double_value=value))
            return KeyValue(key=key, value=AnyValue(string_value=value))
        def text(value):
            if isinstance(value, bool): return 'true' if value else 'false'
            return str(value)
        def cut(name):
            data = name.encode()[:128]
            return data.decode(errors='ignore')
        def trace_class(trace):
            mask = 2 ** 64 - 1
            product = (int(trace[16:], 16) ^ int(trace[:16], 16) * 0x9E3779B97F4A7C15 & mask) * 0xBF58476D1CE4E5B9
            mixed = product >> 64 ^ product & mask
            return min(((mixed & -mixed).bit_length() - 1) // 2, 5)
        groups = ['iOS-15+', 'Android-12', 'Größe "L"', '設備一号', '📱🇩🇪', '=1+1', 42, -7, True, False, 2.5,
                  'x' * 128, 'y' * 129, 'é' * 64, 'é' * 65, 'z' + '語' * 50, 'w' + '😀' * 40]
        resources = [
            {'service.name': 'shop', 'host.name': 'h1'},
            {'service.name': 'pay', 'device.group': 'resource-group'},
            {'device.group': 15, 'service.name': 'late'},
            {'host.name': 'nobody'},
            {'service.name': 7},
        ]
        cells, protobuf, documents, received = {}, [], [], 0
        for number in range(12):
            request = ExportTraceServiceRequest()
            for resource in r.sample(resources, 3):
                rs = request.resource_spans.add()
                rs.resource.attributes.extend(attribute(k, v) for k, v in resource.items())
                for _ in range(2):
                    scope = rs.scope_spans.add()
                    scope.scope.name = 'peer'
                    for _ in range(120):
                        span = scope.spans.add()
                        span.trace_id = r.randbytes(16)
                        span.span_id = r.randbytes(8)
                        span.name = 'push'
                        span.kind = r.randrange(6)
                        span.end_time_unix_nano = T0 + r.randrange(600 * 10 ** 9)
                        duration = int(r.lognormvariate(3.5, 1) * MS)
                        span.start_time_unix_nano = span.end_time_unix_nano - duration
                        span.attributes.append(attribute('http.route', '/v1'))
                        latency = duration
                        if r.random() < 0.5:
                            latency = int(r.lognormvariate(4, 1) * MS)
                            span.attributes.append(attribute('isotherm.latency_ns', latency))
                        group = None
                        if r.random() < 0.7:
                            group = r.choice(groups)
                            span.attributes.append(attribute('device.group', group))
                        else:
                            for key in ['device.group', 'service.name']:
                                if group is None and key in resource: group = resource[key]
                        event = span.events.add()
                        event.name = 'sent'
                        name = '(none)' if group is None else cut(text(group))
                        window = span.end_time_unix_nano // (60 * 10 ** 9) * 60
                        cells.setdefault((name, window), []).append((latency, span.trace_id.hex()))
                        received += 1
            protobuf.append(base64.b64encode(request.SerializeToString()).decode())
            document = MessageToDict(request, use_integers_for_enums=True)
            for rs in document['resourceSpans']:
                for scope in rs['scopeSpans']:
                    for span in scope['spans']:
                        for key in ['traceId', 'spanId']:
                            span[key] = base64.b64decode(span[key]).hex()
            documents.append(json.dumps(document, ensure_ascii=number % 2 == 0, indent=number % 3 or None))
        def summary(key, values):
            order = sorted(v for v, _ in values)
            slow, highest = [], -1
            for value in sorted(values, key=lambda v: (-v[0], v[1])):
                if trace_class(value[1]) > highest:
                    slow.append(value)
                    highest = trace_class(value[1])
            return dict(group=key[0], start=key[1], count=len(order), p95=order[-(-95 * len(order) // 100) - 1],
                        max=order[-1], traces=[t for _, t in slow])
        print(json.dumps(dict(protobuf=protobuf, json=documents, received=received,
                              cells=[summary(k, v) for k, v in cells.items()])))
        """

    static let shared = Result {
        try JSONDecoder().decode(PeerRequests.self, from: Peers.python(program).standardOutput)
    }

    var messages: [[UInt8]] { protobuf.map { Array(Data(base64Encoded: $0) ?? Data()) } }
}

/// Spans that a test puts together by hand.
struct Request {
    struct Span {
        var name = "push"
        var kind: UInt64 = 0
        var start = monday * second
        var end = monday * second + 20 * millisecond
        var attributes: [KeyValue] = []
    }

    static func protobuf(_ spans: [Span], resource: [KeyValue] = []) -> [UInt8] {
        var writer = ProtobufWriter()
        writer.message(field: 1) { all in
            all.message(field: 1) { part in
                for attribute in resource { part.message(field: 1) { attribute.encode(into: &$0) } }
            }
            all.message(field: 2) { scope in
                for span in spans {
                    scope.message(field: 2) { part in
                        part.data(field: 1, Array(1...16))
                        part.string(field: 5, span.name)
                        part.varint(field: 6, span.kind)
                        part.fixed64(field: 7, span.start)
                        part.fixed64(field: 8, span.end)
                        for attribute in span.attributes { part.message(field: 9) { attribute.encode(into: &$0) } }
                    }
                }
            }
        }
        return writer.bytes
    }
}

@Suite("Counting received spans")
struct IngestTests {
    enum Encoding: CaseIterable { case protobuf, json }

    private func ingest(_ requests: PeerRequests, _ encoding: Encoding, into engine: HeatmapEngine) throws {
        switch encoding {
        case .protobuf: for message in requests.messages { try engine.ingest(protobuf: message) }
        case .json: for text in requests.json { try engine.ingest(json: Array(text.utf8)) }
        }
    }

    @Test("requests of Python's OpenTelemetry packages are counted as Python counts them", arguments: Encoding.allCases)
    func peer(encoding: Encoding) throws {
        let requests = try PeerRequests.shared.get()
        let engine = try makeEngine()
        try ingest(requests, encoding, into: engine)
        #expect(engine.ledger.received == requests.received)
        #expect(engine.ledger.counted == requests.received)
        #expect(engine.ledger.isBalanced)
        let grid = try engine.grid([("window", "1m")])
        var compared: UInt64 = 0
        for expected in requests.cells {
            let row = try #require(grid.row(expected.group), "\(expected.group)")
            let column = try #require(grid.windows.firstIndex { $0.start == expected.start })
            let cell = try #require(row.cells[column])
            #expect(cell.count == expected.count)
            if cell.count <= 64 {
                #expect(cell.p95Nano == expected.p95, "\(expected.group) at \(expected.start)")
            } else {
                let off = abs(Double(cell.p95Nano) / Double(expected.p95) - 1)
                #expect(off <= BucketScale.relativeError, "\(expected.group) at \(expected.start)")
            }
            #expect(cell.maxNano == expected.max)
            #expect(cell.slowest.map(\.traceID) == expected.traces)
            compared += cell.count
        }
        #expect(compared == grid.count)
        #expect(grid.count == requests.received)
    }

    @Test("both encodings and any order of requests give the same report")
    func sameReport() throws {
        let requests = try PeerRequests.shared.get()
        let reports = try Encoding.allCases.map { encoding in
            let engine = try makeEngine()
            try ingest(requests, encoding, into: engine)
            return try engine.grid().everything
        }
        let engine = try makeEngine()
        for message in requests.messages.reversed() { try engine.ingest(protobuf: message) }
        #expect(reports[0] == reports[1])
        #expect(try engine.grid().everything == reports[0])
    }

    // MARK: Discards

    @Test("each reason to discard a span is counted, and the ledger balances")
    func discards() throws {
        let clock = TestClock(monday + 10)
        let engine = try makeEngine(clock: clock) {
            $0.ownInstanceID = "me"
            $0.filter = SpanFilter(name: "push", kind: 4)
        }
        var sketch = Sketch()
        sketch.insert(nanoseconds: millisecond, count: 1_000)
        let start = monday * second
        func span(_ change: (inout Request.Span) -> Void = { _ in }) -> Request.Span {
            var span = Request.Span(kind: 4)
            change(&span)
            return span
        }
        let spans = [
            span(), span { $0.attributes = [KeyValue("isotherm.latency_sketch", .bytes(sketch.encoded()))] },
            span { $0.name = "pull" }, span { $0.kind = 5 }, span { $0.name = "pushes" },
            span { $0.attributes = [KeyValue("isotherm.summarised", true)] },
            span { $0.end = 0 }, span { $0.end = $0.start - 1 }, span { $0.start = 0 },
            span {
                $0.attributes = [KeyValue("isotherm.latency_ns", -5)]; $0.start = 0
            },
            // A latency of its own needs no start.
            span {
                $0.attributes = [KeyValue("isotherm.latency_ns", 5)]; $0.start = 0
            },
            span { $0.end = start + 70 * second }, span { $0.end = start + 70 * second + 1 },
            span { ($0.start, $0.end) = (start - 86_401 * second, start - 86_400 * second) },
            span { $0.attributes = [KeyValue("isotherm.latency_sketch", .bytes([9, 9]))] },
            span { $0.attributes = [KeyValue("isotherm.latency_sketch", .bytes(Sketch().encoded()))] },
            span { $0.attributes = [KeyValue("isotherm.latency_sketch", .bytes([]))] },
            // Neither text nor a number is a sketch or a summary.
            span { $0.attributes = [KeyValue("isotherm.latency_sketch", "text"), KeyValue("isotherm.summarised", 1)] },
        ]
        let result = try engine.ingest(protobuf: Request.protobuf(spans))
        _ = try engine.ingest(
            protobuf: Request.protobuf([span(), span()], resource: [KeyValue("service.instance.id", "me")]))
        _ = try engine.ingest(protobuf: Request.protobuf([span()], resource: [KeyValue("service.instance.id", "you")]))
        #expect(result.received == 18)
        #expect(result.counted == 5)
        #expect(
            engine.ledger.discarded == [
                .own: 2, .filtered: 3, .summarised: 1, .noLatency: 4, .future: 1, .expired: 1, .badSketch: 3,
            ])
        #expect(engine.ledger.received == 21)
        #expect(engine.ledger.counted == 6)
        #expect(engine.ledger.latencies == 1_005)
        #expect(engine.ledger.isBalanced)
        #expect(
            engine.ledger.description == "received 21 = counted 6 + discarded (2 own, 1 summarised, 3 filtered, "
                + "4 no_latency, 1 future, 1 expired, 3 bad_sketch)")
    }

    @Test("a span that is discarded takes no group's place")
    func discardedGroups() throws {
        let clock = TestClock(monday)
        let engine = try makeEngine(clock: clock) { $0.maxGroups = 1 }
        let start = monday * second
        let old = Request.Span(start: 1, end: start - 86_400 * second, attributes: [KeyValue("device.group", "old")])
        let future = Request.Span(end: start + 86_400 * second, attributes: [KeyValue("device.group", "future")])
        let bad = Request.Span(attributes: [
            KeyValue("device.group", "bad"), KeyValue("isotherm.latency_sketch", .bytes([9])),
        ])
        let none = Request.Span(start: 0, attributes: [KeyValue("device.group", "none")])
        try engine.ingest(protobuf: Request.protobuf([old, future, bad, none]))
        #expect(engine.groupCount == 0)
        try engine.ingest(protobuf: Request.protobuf([Request.Span(attributes: [KeyValue("device.group", "good")])]))
        #expect(try engine.grid().rows.map(\.group) == ["good"])
        #expect(engine.ledger.discarded == [.expired: 1, .future: 1, .badSketch: 1, .noLatency: 1])
    }

    @Test("the filter by service leaves out other services' spans, and those that name none")
    func serviceFilter() throws {
        let engine = try makeEngine { $0.filter = SpanFilter(service: "shop") }
        for resource in [[KeyValue("service.name", "shop")], [KeyValue("service.name", "shops")], []] {
            try engine.ingest(protobuf: Request.protobuf([Request.Span()], resource: resource))
        }
        #expect(engine.ledger.counted == 1)
        #expect(engine.ledger.discarded == [.filtered: 2])
    }

    @Test("a stage's spans count there, and other programs' spans under span")
    func stages() throws {
        let engine = try makeEngine()
        let spans = [[], [KeyValue("isotherm.stage", "deliver")], [KeyValue("isotherm.stage", "receive")]]
        try engine.ingest(protobuf: Request.protobuf(spans.map { Request.Span(attributes: $0) }))
        for stage in ["span", "deliver", "receive"] { #expect(try engine.grid([("stage", stage)]).count == 1) }
    }

    @Test("the attribute that is named first wins, and the span's own over its resource's")
    func precedence() throws {
        let engine = try makeEngine { $0.groupBy = ["first", "second"] }
        let resource = [KeyValue("first", "resource 1"), KeyValue("second", "resource 2")]
        func group(_ attributes: [KeyValue], _ resource: [KeyValue]) throws {
            try engine.ingest(protobuf: Request.protobuf([Request.Span(attributes: attributes)], resource: resource))
        }
        try group([KeyValue("second", "span 2"), KeyValue("first", "span 1")], resource)
        try group([KeyValue("second", "span 2")], resource)
        try group([KeyValue("second", "span 2 alone")], [resource[1]])
        try group([], [resource[1]])
        // Empty text names nothing.
        try group([KeyValue("first", "")], [])
        #expect(
            try engine.grid().rows.map(\.group) == ["(none)", "resource 1", "resource 2", "span 1", "span 2 alone"])
    }

    @Test("a prefix keeps senders' groups apart, also those without a name")
    func prefix() throws {
        let engine = try makeEngine()
        let message = Request.protobuf([Request.Span(), Request.Span(attributes: [KeyValue("device.group", "a")])])
        try engine.ingest(protobuf: message, groupPrefix: "one/")
        try engine.ingest(protobuf: message, groupPrefix: "two/")
        #expect(try engine.grid().rows.map(\.group) == ["one/(none)", "one/a", "two/(none)", "two/a"])
        var query = HeatmapQuery()
        query.groupPrefix = "two/"
        #expect(try engine.snapshot(query: query).rows.map(\.group) == ["(none)", "a"])
    }

    @Test("names that are no characters are cut to the limit all the same")
    func badBytes() throws {
        let engine = try makeEngine()
        var message = Request.protobuf([
            Request.Span(attributes: [KeyValue("device.group", .string(String(repeating: "x", count: 300)))])
        ])
        for at in message.indices where message[at] == UInt8(ascii: "x") { message[at] = 0x80 }
        try engine.ingest(protobuf: message)
        let name = try #require(engine.grid().rows.first?.group)
        #expect(!name.isEmpty)
        #expect(name.unicodeScalars.count <= 128)
    }

    @Test("summaries whose counts fill 64 bits overflow nothing, late ones neither")
    func largeSummaries() throws {
        var sketch = Sketch()
        sketch.insert(nanoseconds: millisecond, count: .max)
        let clock = TestClock(monday + 3_600)
        let engine = try makeEngine(clock: clock)
        let span = Request.Span(attributes: [KeyValue("isotherm.latency_sketch", .bytes(sketch.encoded()))])
        try engine.ingest(protobuf: Request.protobuf([span, span]))
        #expect(engine.ledger.late == .max)
        #expect(engine.ledger.counted == 2)
        let grid = try engine.grid([("stage", "span")])
        #expect(grid.count == .max)
        for width in [60, 200] { #expect(HeatmapText.render(grid, width: width).contains("18.4E")) }
    }

    // MARK: Hostile

    @Test("a request that has been cut is refused whole, or counted as far as its spans are whole")
    func truncations() throws {
        let requests = try PeerRequests.shared.get()
        let engine = try makeEngine()
        let protobuf = Request.protobuf(
            (0..<5).map { _ in
                Request.Span(attributes: [KeyValue("device.group", "a"), KeyValue("isotherm.stage", "deliver")])
            })
        var thrown = 0
        for length in 0..<protobuf.count {
            thrown += try offer(Array(protobuf[..<length]), .protobuf, engine) ? 0 : 1
        }
        // Only nothing at all is a whole request.
        #expect(thrown == protobuf.count - 1)
        let json = Array(requests.json[0].utf8.prefix(6_000))
        for length in 0..<json.count { #expect(try !offer(Array(json[..<length]), .json, engine)) }
        #expect(engine.ledger.received == 0)
    }

    /// Whether it was taken. When it was not, nothing of it may have been counted.
    private func offer(_ message: [UInt8], _ encoding: Encoding, _ engine: HeatmapEngine) throws -> Bool {
        let before = engine.ledger
        do {
            let result =
                switch encoding {
                case .protobuf: try engine.ingest(protobuf: message)
                case .json: try engine.ingest(json: message)
                }
            let after = engine.ledger
            guard after.isBalanced, after.received == before.received + result.received,
                after.counted == before.counted + result.counted
            else {
                Issue.record("\(before) became \(after)")
                return true
            }
            return true
        } catch {
            #expect(engine.ledger == before)
            return false
        }
    }

    @Test("hostile requests throw or are counted, and the ledger always balances", arguments: Encoding.allCases)
    func mutations(encoding: Encoding) throws {
        var generator = SeededGenerator(encoding == .json ? 1 : 2)
        let clock = TestClock(monday + 60)
        let engine = try makeEngine(clock: clock) {
            $0.maxGroups = 50
            $0.ownInstanceID = "me"
        }
        var sketch = Sketch()
        for value: UInt64 in 1...70 { sketch.insert(nanoseconds: value * millisecond) }
        let text = """
            {"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"a\\u00e9"}}]},
            "scopeSpans":[{"spans":[{"traceId":"0102030405060708090a0b0c0d0e0f10","name":"push","kind":4,
            "startTimeUnixNano":"\(monday * second)","endTimeUnixNano":"\(monday * second + 5)","attributes":[
            {"key":"device.group","value":{"intValue":"15"}},{"key":"isotherm.latency_ns","value":{"intValue":99}},
            {"key":"isotherm.latency_sketch","value":{"bytesValue":"\(Data(sketch.encoded()).base64EncodedString())"}},
            {"key":"isotherm.stage","value":{"stringValue":"deliver"}}]}]}]}]}
            """
        let message =
            encoding == .json
            ? Array(text.utf8)
            : Request.protobuf(
                [
                    Request.Span(attributes: [
                        KeyValue("device.group", 15), KeyValue("isotherm.latency_sketch", .bytes(sketch.encoded())),
                        KeyValue("isotherm.stage", "deliver"),
                    ]),
                    Request.Span(attributes: [
                        KeyValue("isotherm.latency_ns", 99), KeyValue("isotherm.summarised", false),
                    ]),
                ], resource: [KeyValue("service.name", "aé")])
        #expect(try offer(message, encoding, engine))
        #expect(engine.ledger.counted == engine.ledger.received)
        var taken = 0
        for _ in 0..<20_000 where try offer(mutated(message, &generator), encoding, engine) { taken += 1 }
        #expect(taken > 1_000)
        #expect(taken < 19_900)
        #expect(engine.groupCount <= 50)
        engine.maintain()
        // Whatever came of it can be shown.
        for stage in ["deliver", "span"] {
            let grid = try engine.grid([("stage", stage), ("window", "1d")])
            #expect(HeatmapText.render(grid, width: 80).unicodeScalars.allSatisfy { $0 == "\n" || $0.value >= 0x20 })
            #expect(!HeatmapCSV.render(grid).isEmpty && !HeatmapHTML.render(grid).isEmpty && !grid.everything.isEmpty)
        }
    }
}
