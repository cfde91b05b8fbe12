import Foundation
import TestSupport
import Testing

@Suite("The OTLP receiver and the heatmap, over HTTP")
struct ReceiverTests {
    /// What the programs have in common: requests of the official classes, and the reader of each form.
    private static let head = """
        import csv, gzip, http.client, io, json, os, re, socket, sys, time
        from google.protobuf.json_format import MessageToJson
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest, ExportMetricsServiceResponse
        port = int(sys.argv[1])
        PROTOBUF, JSON = "application/x-protobuf", "application/json"
        def post(path, body, kind=PROTOBUF, **fields):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("POST", path, body, {"Content-Type": kind, **{k.replace("_", "-"): v for k, v in fields.items()}})
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        def get(path):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read().decode()
            assert answer.status == 200, (path, answer.status, body)
            return body
        def metric(name):
            return next(int(float(l.split()[-1])) for l in get("/metrics").splitlines() if l.startswith(name + " "))
        now = time.time_ns()
        def spans(group, durations, end=None):
            request = ExportTraceServiceRequest()
            resource = request.resource_spans.add()
            scope = resource.scope_spans.add()
            for number, ns in enumerate(durations):
                span = scope.spans.add(name="work", trace_id=os.urandom(16), span_id=os.urandom(8))
                span.end_time_unix_nano = end or now
                span.start_time_unix_nano = span.end_time_unix_nano - ns
                if group is not None: span.attributes.add(key="device.group").value.string_value = group
            return request
        def ledger():
            return {o: metric('isotherm_otlp_received_spans_total{outcome="%s"}' % o) for o in ["received", "counted"]}

        """

    private func run(_ server: IsothermProcess, _ program: String, _ arguments: [String] = []) throws {
        #expect(try Peers.python(Self.head + program, ["\(server.port)"] + arguments).text == "ok\n")
        #expect(server.isRunning)
    }

    @Test("a receiver that reads as much as it may answers 429 with Retry-After, and takes spans again after that")
    func overload() throws {
        let server = try IsothermProcess(arguments: ["--set", "otlp.max_requests=1"])
        func post() throws -> HTTPReply {
            try HTTP.post("/v1/traces", "{}", port: server.port, fields: [("Content-Type", "application/json")])
        }
        #expect(try post().status == 200)
        var slow: RawConnection? = try RawConnection(port: server.port)
        try slow?.send(
            "POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")
        try Wait.until("there is no room for another") { try post().status == 429 }
        let refused = try post()
        #expect(refused.field("Retry-After") == "1" && refused.body.contains("urn:isotherm:problem:overloaded"))
        slow = nil
        try Wait.until("there is room again") { try post().status == 200 }
    }

    @Test("zstd, gzip and plain count the same; a bomb is refused at the limit, in each form")
    func compression() throws {
        try run(
            try IsothermProcess(arguments: ["--set", "otlp.max_decompressed_bytes=1MiB"]),
            """
            import ctypes, ctypes.util
            library = ctypes.CDLL("libzstd.so.1")
            def zstd(data):
                bound = library.ZSTD_compressBound(ctypes.c_size_t(len(data)))
                room = ctypes.create_string_buffer(bound)
                library.ZSTD_compress.restype = ctypes.c_size_t
                size = library.ZSTD_compress(room, ctypes.c_size_t(bound), data, ctypes.c_size_t(len(data)), 3)
                return room.raw[:size]
            for name, change in [("identity", bytes), ("gzip", gzip.compress), ("zstd", zstd)]:
                body = spans(name, [5000000 + i for i in range(100)]).SerializeToString()
                status, _, answer = post("/v1/traces", change(body), Content_Encoding=name)
                assert (status, answer) == (200, b""), (name, status, answer)
            grid = json.loads(get("/heatmap.json?stage=span"))
            assert {g["group"]: g["total"]["count"] for g in grid["groups"]} == {"identity": 100, "gzip": 100, "zstd": 100}
            assert len({g["total"]["value_ns"] for g in grid["groups"]}) == 1
            for name, change in [("gzip", gzip.compress), ("zstd", zstd)]:
                for size, expected in [((1 << 20) - 1, 400), (1 << 20, 400), ((1 << 20) + 1, 413), (64 << 20, 413)]:
                    # Not OTLP: what is within the limit is read, and then refused for that.
                    status, _, answer = post("/v1/traces", change(b"\\xff" * size), Content_Encoding=name)
                    assert status == expected, (name, size, status, answer)
                status, _, answer = post("/v1/traces", change(b"x" * 1000)[:-9], Content_Encoding=name)
                assert status == 400 and b"truncated or corrupt" in answer, (name, status, answer)
            assert post("/v1/traces", b"x", Content_Encoding="br")[0] == 415
            assert ledger() == {"received": 300, "counted": 300}, ledger()
            print("ok")
            """)
    }

    @Test("what is not taken is told as a partial success, in the encoding of the request")
    func partialSuccess() throws {
        try run(
            try IsothermProcess(),
            """
            future = now + 10 ** 15
            for number, kind in enumerate([PROTOBUF, JSON]):
                request = spans("a", [1000000 + number] * 7)
                request.MergeFrom(spans("a", [1000000 + number] * 3, future))
                body = request.SerializeToString()
                if kind == JSON:
                    # OTLP's JSON has ids in hexadecimal.
                    tree = json.loads(MessageToJson(request))
                    for span in [s for r in tree["resourceSpans"] for c in r["scopeSpans"] for s in c["spans"]]:
                        span["traceId"], span["spanId"] = os.urandom(16).hex(), os.urandom(8).hex()
                    body = json.dumps(tree).encode()
                status, fields, answer = post("/v1/traces", body, kind)
                assert status == 200 and fields["Content-Type"].startswith(kind), (status, fields)
                if kind == PROTOBUF:
                    partial = ExportTraceServiceResponse.FromString(answer).partial_success
                    rejected, message = partial.rejected_spans, partial.error_message
                else:
                    partial = json.loads(answer)["partialSuccess"]
                    rejected, message = int(partial["rejectedSpans"]), partial["errorMessage"]
                assert (rejected, message) == (3, "3 future"), (rejected, message)
            assert ledger() == {"received": 20, "counted": 14}
            assert metric('isotherm_otlp_received_spans_total{outcome="discarded_future"}') == 6
            print("ok")
            """)
    }

    @Test("exponential histograms come over /v1/metrics, as protobuf and as JSON, with the same counts")
    func metrics() throws {
        try run(
            try IsothermProcess(),
            """
            def request(group, temporality=1):
                request = ExportMetricsServiceRequest()
                metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name="rpc.duration", unit="s")
                metric.exponential_histogram.aggregation_temporality = temporality
                point = metric.exponential_histogram.data_points.add(count=60, sum=6.5, scale=6, time_unix_nano=now)
                point.attributes.add(key="device.group").value.string_value = group
                point.positive.offset = -214
                point.positive.bucket_counts.extend([10, 0, 50])
                return request
            assert post("/v1/metrics", request("binary").SerializeToString())[::2] == (200, b"")
            status, _, answer = post("/v1/metrics", MessageToJson(request("text"), use_integers_for_enums=True).encode(), JSON)
            assert (status, json.loads(answer)) == (200, {}), answer
            status, _, answer = post("/v1/metrics", request("sum", 2).SerializeToString())
            partial = ExportMetricsServiceResponse.FromString(answer).partial_success
            assert status == 200 and partial.rejected_data_points > 0 and "cumulative" in partial.error_message, partial
            rows = list(csv.DictReader(io.StringIO(get("/heatmap.csv?view=distribution&stage=rpc.duration&group=text"), newline="")))
            # (2^(i/64), 2^((i+1)/64)] seconds: 98.5 to 99.6 ms, and 100.6 to 101.7.
            assert [(int(r["count"]), round(2 ** ((i + 1) / 64) * 1e3 - float(r["to_ms"]), 5)) for r, i in zip(rows, [-214, -212])] \\
                == [(10, 0), (50, 0)], rows
            grid = json.loads(get("/heatmap.json?stage=rpc.duration"))
            totals = [g["total"] for g in grid["groups"]]
            assert [g["group"] for g in grid["groups"]] == ["binary", "text"] and totals[0] == totals[1] and totals[0]["count"] == 60
            print("ok")
            """)
    }

    @Test("hostile attribute values come out of every form whole or marked, and every span is accounted for")
    func hostile() throws {
        try run(
            try IsothermProcess(),
            """
            names = ["\\x1b[2J\\x1b[31mred", "a\\r\\nb", "<script>alert(1)</script>", "=cmd|' /C calc'!A0", "\\u202eevil",
                "\\x00nul", 'quo"te,comma', "x" * (1 << 20), "語" * 400000, "", "+1", "@SUM(A1)", "-2+3", "BAD"]
            total = 0
            for number, name in enumerate(names):
                count = 30 if len(name) < 1000 else 2
                body = spans(name, [10000000 + number] * count).SerializeToString()
                # Invalid UTF-8: the official classes would not write it.
                if name == "BAD": body = body.replace(b"BAD", b"\\xff\\xfe\\x80")
                status, _, answer = post("/v1/traces", body)
                assert status == 200, (name[:20], status, answer[:200])
                total += count
            # Times that make no sense.
            for start, end in [(0, 0), (2 ** 64 - 1, 2 ** 64 - 1), (now, now - 10 ** 9), (0, now)]:
                request = spans("times", [1])
                span = request.resource_spans[0].scope_spans[0].spans[0]
                span.start_time_unix_nano, span.end_time_unix_nano = start, end
                assert post("/v1/traces", request.SerializeToString())[0] == 200
                total += 1
            assert ledger()["received"] == total
            outcomes = [l for l in get("/metrics").splitlines() if l.startswith("isotherm_otlp_received_spans_total{")]
            assert total == sum(int(l.split()[-1]) for l in outcomes if 'outcome="received"' not in l), outcomes
            grid = json.loads(get("/heatmap.json?stage=span"))
            counts = {g["group"]: g["total"]["count"] for g in grid["groups"]}
            assert grid["count"] == sum(counts.values()) == ledger()["counted"], counts
            assert all(len(g.encode()) <= 4096 for g in counts)
            rows = list(csv.DictReader(io.StringIO(get("/heatmap.csv?stage=span"), newline="")))
            assert sum(int(r["count"]) for r in rows) == grid["count"]
            assert not any(r["device_group"][:1] in tuple("=+-@\\t\\r") for r in rows)
            for view in ["grid", "distribution", "slo"]:
                text = get(f"/heatmap.txt?stage=span&width=120&view={view}")
                assert not re.search("[\\x00-\\x09\\x0b-\\x1f\\x7f-\\x9f\\u2028-\\u202e\\u2066-\\u2069]", text), view
                html = get(f"/heatmap.html?stage=span&view={view}")
                assert "<script>alert" not in html and "\\u202e" not in html and "\\x1b" not in html
            spread = list(csv.DictReader(io.StringIO(get("/heatmap.csv?stage=span&view=distribution"), newline="")))
            assert sum(int(r["count"]) for r in spread) == grid["count"]
            slo = json.loads(get("/heatmap.json?stage=span&view=slo"))
            assert {g["group"]: g["thresholds"][0]["spans"][0]["count"] for g in slo["groups"]} == counts
            print("ok")
            """)
    }

    @Test("own deliveries are in every view: by tenant, by topic, by a pair, by service")
    func views() throws {
        let server = try IsothermProcess(arguments: [
            "--set", "delivery.acknowledgement_probes=0", "--set",
            "heatmap.views=tenant.id,messaging.destination.name,device.group+messaging.destination.name,service.name",
        ])
        let devices = try ["iOS", "web"].map { try Device(port: server.port, "/v1/events?topic=a&topic=b&group=\($0)") }
        for _ in 1...3 { try server.publish("a", "x") }
        for _ in 1...2 { try server.publish("b", "x") }
        for device in devices { _ = try device.events(5) }
        try Wait.until("all deliveries are in cells") {
            try server.metric("isotherm_heatmap_latencies_total{kind=\"all\"}") == 30
        }
        try run(
            server,
            """
            def counts(by):
                grid = json.loads(get("/heatmap.json?by=" + by.replace("+", "%2B")))
                return {g["group"]: g["total"]["count"] for g in grid["groups"]}
            assert counts("device.group") == {"iOS": 5, "web": 5}
            assert counts("tenant.id") == {"default": 10}
            assert counts("messaging.destination.name") == {"a": 6, "b": 4}
            assert counts("device.group+messaging.destination.name") == {"iOS / a": 3, "iOS / b": 2, "web / a": 3, "web / b": 2}
            assert counts("service.name") == {"isotherm": 10}
            part = json.loads(get("/heatmap.json?by=device.group&where=messaging.destination.name=b"))
            assert {g["group"]: g["total"]["count"] for g in part["groups"]} == {"iOS": 2, "web": 2}
            # The breakdown by stage is there too.
            assert all(g["total"]["stages"] for g in json.loads(get("/heatmap.json?by=tenant.id"))["groups"])
            print("ok")
            """)
    }

    @Test("the heatmap's sketches are pushed, and every bucket has the count that the heatmap has")
    func pushed() throws {
        let sink = try OTLPSink()
        let server = try IsothermProcess(environment: [
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": sink.endpoint + "/v1/metrics", "OTEL_METRIC_EXPORT_INTERVAL": "200",
        ])
        let device = try Device(port: server.port, "/v1/events/t?group=iOS")
        for number in 1...80 { try server.publish("t", "\(number)") }
        _ = try device.events(80)
        try run(
            server,
            """
            import glob
            # In an old window as well, which is closed before the push.
            for number, end in enumerate([now, now - 20 * 60 * 10 ** 9]):
                body = spans("web", [number + 1000 * 2 ** (i % 20) for i in range(100)], end).SerializeToString()
                assert post("/v1/traces", body)[0] == 200
            def pushed():
                names = sorted(glob.glob(sys.argv[2] + "/*.metrics.pb"))
                found = {}
                for name in names[-3:]:
                    request = ExportMetricsServiceRequest.FromString(open(name, "rb").read())
                    for m in [m for r in request.resource_metrics for s in r.scope_metrics for m in s.metrics]:
                        if m.name != "isotherm.heatmap.latency": continue
                        assert m.unit == "s" and m.exponential_histogram.aggregation_temporality == 2
                        for p in m.exponential_histogram.data_points:
                            labels = {a.key: a.value.string_value for a in p.attributes}
                            found[labels["device.group"], labels["isotherm.stage"]] = p
                return found
            def heatmap(group, stage):
                rows = csv.DictReader(io.StringIO(get(f"/heatmap.csv?view=distribution&group={group}&stage={stage}&since=1h"), newline=""))
                buckets = {}
                for row in rows:
                    edge = round(float(row["to_ms"]) * 1e6)
                    buckets[edge] = buckets.get(edge, 0) + int(row["count"])
                return buckets
            wanted = [("iOS", "deliver"), ("iOS", "gateway"), ("iOS", "stream"), ("web", "span")]
            def same():
                found = pushed()
                for key in wanted:
                    point = found.get(key)
                    if point is None: return False
                    own = {int(2 ** ((point.positive.offset + i + 1) / 2 ** point.scale) * 1e9): c
                        for i, c in enumerate(point.positive.bucket_counts) if c}
                    if point.zero_count: own[0] = point.zero_count
                    if own != heatmap(*key) or point.count != sum(own.values()): return False
                return found
            end = time.time() + 30
            while not (found := same()):
                assert time.time() < end, (pushed().keys(), [heatmap(*k) for k in wanted])
                time.sleep(0.2)
            assert {k: found[k].count for k in wanted} == {("iOS", "deliver"): 80, ("iOS", "gateway"): 80, ("iOS", "stream"): 80, ("web", "span"): 200}
            print("ok")
            """, [sink.directory])
    }

    @Test("an Isotherm behind an Isotherm and a collector has the sketches of each stage by itself, bucket by bucket")
    func relayed() throws {
        let behind = try IsothermProcess()
        let relay = try RotelCollector(exporterEndpoint: "http://127.0.0.1:\(behind.port)")
        let first = try IsothermProcess(environment: [
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": relay.endpoint + "/v1/metrics",
            "OTEL_METRIC_EXPORT_INTERVAL": "200", "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta",
        ])
        let device = try Device(port: first.port, "/v1/events/t?group=iOS")
        for number in 1...80 { try first.publish("t", "\(number)") }
        _ = try device.events(80)
        func buckets(_ server: IsothermProcess, _ stage: String) throws -> [String: Int] {
            let report = try HTTP.get(
                "/heatmap.csv?view=distribution&group=iOS&since=1h&stage=\(stage)", port: server.port)
            guard report.status == 200 else { return [:] }
            var counts: [String: Int] = [:]
            // window_start,window_end,device_group,stage,from_ms,to_ms,count,level
            for line in report.body.split(separator: "\r\n").dropFirst() {
                let fields = line.split(separator: ",", omittingEmptySubsequences: false).map(String.init)
                counts[fields[5], default: 0] += Int(fields[6]) ?? 0
            }
            return counts
        }
        for stage in ["gateway", "stream", "deliver"] {
            let sent = try buckets(first, stage)
            #expect(sent.values.reduce(0, +) == 80)
            try Wait.until("all of \(stage) has arrived") {
                try buckets(behind, "isotherm.heatmap.latency/\(stage)") == sent
            }
        }
    }
}
