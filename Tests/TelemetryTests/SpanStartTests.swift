import Foundation
import Glibc
import OTLP
import Synchronization
import Telemetry
import Testing

@Suite("Starting spans: names, scopes, samplers that look at more, observers, and children of fork", .serialized)
struct SpanStartTests {
    @Test("a name that is known at run time, and one that changes", arguments: [0, 1, 90, 127, 128, 1_024, 1_100])
    func names(length: Int) throws {
        let receiver = try Receiver()
        defer { receiver.stop() }
        let sdk = TelemetrySDK(configuration: .test(receiver))
        let name = String(repeating: "n", count: length)
        let named = sdk.tracer.startSpan(named: name, kind: .server)
        named.setAttribute("index", 0)
        named.end()
        let renamed = sdk.tracer.startSpan(named: "before")
        renamed.setAttribute("index", 1)
        renamed.updateName("between")
        renamed.updateName(name)
        renamed.setAttribute("after", 2)
        renamed.end()
        let ended = sdk.tracer.startSpan("literal")
        ended.setAttribute("index", 2)
        ended.end(name: name)
        sdk.shutdown(deadline: .seconds(20))
        let spans = try OfficialRequest.spans(receiver.bodies)
        #expect(spans.map(\.name) == Array(repeating: String(name.prefix(1_024)), count: 3))
        #expect(spans.map { $0["index"] } == ["int 0", "int 1", "int 2"])
        #expect(spans.first?.kind == 2 && spans[1]["after"] == "int 2")
    }

    @Test("tracers of different scopes: each span names its own")
    func scopes() throws {
        let receiver = try Receiver()
        defer { receiver.stop() }
        let sdk = TelemetrySDK(configuration: .test(receiver) { $0.scheduleDelay = .seconds(60) })
        let http = sdk.tracer(
            name: "http", version: "1.2", schemaURL: "https://opentelemetry.io/schemas/1.37.0",
            attributes: [KeyValue("library", "nio")])
        for _ in 0..<3 {
            sdk.tracer.startSpan("own").end()
            http.startSpan("request").end()
            sdk.tracer(name: "database").startSpan("query").end()
        }
        sdk.shutdown(deadline: .seconds(20))
        let requests = try OfficialRequest.decode(receiver.bodies)
        #expect(requests.count == 3)
        #expect(Set(requests.map(\.scope)) == ["isotherm", "http", "database"])
        for request in requests {
            let expected = ["isotherm": "own", "http": "request", "database": "query"][request.scope]
            #expect(request.spans.map(\.name) == Array(repeating: expected ?? "", count: 3))
        }
        let found = try #require(requests.first { $0.scope == "http" })
        #expect(found.scopeVersion == "1.2" && found.scopeSchema == "https://opentelemetry.io/schemas/1.37.0")
        #expect(found.scopeAttributes == [.init(key: "library", value: "string nio")])
    }

    @Test("tracers may be asked for by many threads at once, and are the same for all")
    func concurrentScopes() throws {
        let receiver = try Receiver()
        defer { receiver.stop() }
        let sdk = TelemetrySDK(configuration: .test(receiver) { $0.scheduleDelay = .seconds(60) })
        DispatchQueue.concurrentPerform(iterations: 64) { index in
            for other in 0..<8 { sdk.tracer(name: "scope \((index + other) % 8)").startSpan("x").end() }
        }
        sdk.shutdown(deadline: .seconds(20))
        let requests = try OfficialRequest.decode(receiver.bodies)
        let counts = Dictionary(grouping: requests, by: \.scope).mapValues { $0.reduce(0) { $0 + $1.spans.count } }
        #expect(counts == Dictionary(uniqueKeysWithValues: (0..<8).map { ("scope \($0)", 64) }))
    }

    @Test("more scopes than are kept go under the first one's, and none is lost")
    func manyScopes() throws {
        let receiver = try Receiver()
        defer { receiver.stop() }
        let sdk = TelemetrySDK(configuration: .test(receiver) { $0.scheduleDelay = .seconds(60) })
        for index in 0..<70 { sdk.tracer(name: "scope \(index)").startSpan("x").end() }
        sdk.shutdown(deadline: .seconds(20))
        let requests = try OfficialRequest.decode(receiver.bodies)
        #expect(requests.reduce(0) { $0 + $1.spans.count } == 70)
        #expect(Set(requests.map(\.scope)).count == 64)
    }

    // Name, kind, attributes and links go to the sampler; its state and attributes come back.
    // https://opentelemetry.io/docs/specs/otel/trace/sdk/#shouldsample
    @Test("a sampler sees what the span starts with, and what it gives is on the span")
    func generalSampler() throws {
        let receiver = try Receiver()
        defer { receiver.stop() }
        let seen = Mutex<[SamplingParameters]>([])
        let state = try #require(TraceState(header: "ot=th:8"))
        let sdk = TelemetrySDK(
            configuration: .test(receiver) {
                $0.sampler = .custom("test") { span in
                    seen.withLock { $0.append(span) }
                    return SamplingResult(
                        decision: span.name == "drop" ? .drop : .recordAndSample, traceState: state,
                        attributes: [KeyValue("sampler", "test")])
                }
            })
        let parent = SpanContext(
            traceID: TraceID(high: 1, low: 2), spanID: SpanID(rawValue: 3), traceFlags: .random, isRemote: true)
        let linked = SpanContext(
            traceID: TraceID(high: 7, low: 8), spanID: SpanID(rawValue: 9), traceFlags: .sampled)
        let kept = sdk.tracer.startSpan(
            named: "kept", kind: .client, parent: parent, attributes: [KeyValue("a", 1)],
            links: [Span.Link(linked, attributes: [KeyValue("why", "because")])])
        let dropped = sdk.tracer.startSpan("drop", parent: parent)
        kept.end()
        dropped.end()
        sdk.shutdown(deadline: .seconds(20))

        let parameters = seen.withLock { $0 }
        #expect(parameters.map(\.name) == ["kept", "drop"])
        #expect(parameters.first?.kind == .client && parameters.first?.parent == parent)
        #expect(parameters.first?.attributes == [KeyValue("a", 1)] && parameters.first?.links == [linked])
        #expect(parameters.allSatisfy { $0.traceID == parent.traceID })

        let spans = try OfficialRequest.spans(receiver.bodies)
        let span = try #require(spans.first)
        #expect(spans.count == 1 && span.name == "kept" && span.state == "ot=th:8")
        #expect(span["a"] == "int 1" && span["sampler"] == "string test")
        #expect(span.links.map(\.attributes) == [[.init(key: "why", value: "string because")]])
        #expect(span.flags == 0x303)
        // What was left out goes on as a valid context, unsampled, with the state.
        #expect(dropped.context.isValid && !dropped.context.isSampled)
        #expect(dropped.context.traceID == parent.traceID && dropped.context.spanID != parent.spanID)
        #expect(dropped.context.traceState == state && dropped.context.traceFlags == .random)
        #expect(sdk.ledger.isBalanced && sdk.ledger.sampledOut == 1)
    }

    @Test("spans that are recorded only are observed and not exported, and the ledger knows")
    func recordOnly() throws {
        let receiver = try Receiver()
        defer { receiver.stop() }
        let observed = Mutex<[[UInt8]]>([])
        let sdk = TelemetrySDK(
            configuration: .test(receiver) {
                $0.sampler = .custom("half") { span in
                    SamplingResult(decision: span.name == "seen" ? .recordOnly : .recordAndSample, traceState: nil)
                }
                $0.observer = { bytes in observed.withLock { $0.append(Array(bytes)) } }
            })
        for _ in 0..<5 {
            let span = sdk.tracer.startSpan("seen")
            #expect(span.isRecording && !span.context.isSampled)
            span.setAttribute("kept", true)
            span.end()
        }
        for _ in 0..<3 { sdk.tracer.startSpan("sent").end() }
        sdk.shutdown(deadline: .seconds(20))
        let inside = try OfficialRequest.spans(observed.withLock { $0 })
        #expect(inside.count { $0.name == "seen" && $0["kept"] == "bool true" } == 5)
        #expect(inside.count { $0.name == "sent" } == 3)
        #expect(try OfficialRequest.spans(receiver.bodies).map(\.name) == ["sent", "sent", "sent"])
        #expect(sdk.ledger.isBalanced && sdk.ledger.sampledOut == 5 && sdk.ledger.exported == 3, "\(sdk.ledger)")
    }

    @Test("with an observer and no endpoint, spans are observed and count as sampled out")
    func observerAlone() throws {
        let observed = Mutex<[[UInt8]]>([])
        var configuration = TelemetryConfiguration()
        configuration.observer = { bytes in observed.withLock { $0.append(Array(bytes)) } }
        let sdk = TelemetrySDK(configuration: configuration)
        for _ in 0..<10 { sdk.tracer.startSpan("seen").end() }
        sdk.shutdown(deadline: .seconds(20))
        #expect(try OfficialRequest.spans(observed.withLock { $0 }).count == 10)
        #expect(sdk.ledger.isBalanced && sdk.ledger.sampledOut == 10 && sdk.ledger.started == 10, "\(sdk.ledger)")
    }

    @Test("all copies of a span that is not sampled have the same ids, and no two spans do")
    func unsampledIDs() {
        var configuration = TelemetryConfiguration()
        configuration.endpoint = "http://127.0.0.1:1/v1/traces"
        configuration.sampler = .alwaysOff
        let sdk = TelemetrySDK(configuration: configuration)
        var traces: Set<TraceID> = []
        var spans: Set<SpanID> = []
        for _ in 0..<10_000 {
            let span = sdk.tracer.startSpan("x")
            let copy = span
            #expect(span.context == copy.context && span.context.isValid && !span.context.isSampled)
            let child = sdk.tracer.startSpan("y", parent: span.context)
            #expect(child.context.traceID == span.context.traceID)
            traces.insert(span.context.traceID)
            spans.insert(span.context.spanID)
            spans.insert(child.context.spanID)
        }
        #expect(traces.count == 10_000 && spans.count == 20_000)
        #expect(sdk.ledger.sampledOut == 20_000 && sdk.ledger.started == 20_000)
    }

    @Test("more threads than the limit drop their spans as `limit`, and the rest is exported")
    func tooManyThreads() throws {
        let receiver = try Receiver()
        defer { receiver.stop() }
        let sdk = TelemetrySDK(configuration: .test(receiver) { $0.maxSpanThreads = 2 })
        // All four have a queue, or none, before any may end.
        let started = Atomic(0)
        let group = DispatchGroup()
        for _ in 0..<4 {
            group.enter()
            Thread.detachNewThread {
                let span = sdk.tracer.startSpan("x")
                started.add(1, ordering: .acquiringAndReleasing)
                while started.load(ordering: .acquiring) < 4 { sched_yield() }
                #expect(span.context.isValid && span.context.isSampled)
                span.end()
                group.leave()
            }
        }
        group.wait()
        sdk.shutdown(deadline: .seconds(20))
        #expect(sdk.ledger.isBalanced && sdk.ledger.dropped[.limit] == 2 && sdk.ledger.exported == 2, "\(sdk.ledger)")
    }

    @Test("a queue for which there is no memory drops its spans as `limit`, and the program goes on")
    func noMemory() {
        var configuration = TelemetryConfiguration()
        configuration.endpoint = "http://127.0.0.1:1/v1/traces"
        // 128 TiB, all that a process can address.
        configuration.maxQueueSize = 1 << 37
        let sdk = TelemetrySDK(configuration: configuration)
        let span = sdk.tracer.startSpan("x")
        #expect(span.context.isValid && !span.isRecording)
        span.end()
        #expect(sdk.ledger.isBalanced && sdk.ledger.dropped[.limit] == 1, "\(sdk.ledger)")
        sdk.shutdown(deadline: .seconds(5))
    }

    @Test("a child of fork has ids of its own, exports nothing of its parent's, and ends at once")
    func fork() throws {
        // Swift does not offer fork; C programs that embed this library use it.
        typealias Fork = @convention(c) () -> pid_t
        let fork = unsafeBitCast(try #require(dlsym(nil, "fork")), to: Fork.self)
        let receiver = try Receiver()
        defer { receiver.stop() }
        let sdk = TelemetrySDK(configuration: .test(receiver) { $0.scheduleDelay = .seconds(60) })
        let live = sdk.tracer.startSpan("parent's")
        for _ in 0..<10 { sdk.tracer.startSpan("before").end() }
        var pipe: [Int32] = [0, 0]
        #expect(Glibc.pipe(&pipe) == 0)
        let child = fork()
        if child == 0 {
            // Only what a child of many threads may do, and no test machinery.
            for _ in 0..<3 {
                let span = sdk.tracer.startSpan("child's")
                var ids = (span.context.traceID.high, span.context.traceID.low, span.context.spanID.rawValue)
                write(pipe[1], &ids, 24)
                span.end()
            }
            live.end()
            sdk.flush(deadline: .seconds(30))
            sdk.shutdown(deadline: .seconds(30))
            _exit(7)
        }
        close(pipe[1])
        var ids: [(UInt64, UInt64, UInt64)] = []
        var one: (UInt64, UInt64, UInt64) = (0, 0, 0)
        while read(pipe[0], &one, 24) == 24 { ids.append(one) }
        close(pipe[0])
        var status: Int32 = 0
        #expect(waitpid(child, &status, 0) == child)
        #expect(status == 7 << 8)
        // The parent goes on as before; its thread draws the ids that the child would have drawn, had it kept the seed.
        let after = (0..<3).map { _ in sdk.tracer.startSpan("after") }
        for span in after { span.end() }
        live.end()
        sdk.shutdown(deadline: .seconds(20))
        #expect(ids.count == 3)
        #expect(Set(ids.map(\.2)).isDisjoint(with: after.map(\.context.spanID.rawValue)))
        #expect(Set(ids.map(\.1)).isDisjoint(with: after.map(\.context.traceID.low)))
        let names = try OfficialRequest.spans(receiver.bodies).map(\.name).sorted()
        #expect(names == (Array(repeating: "before", count: 10) + ["after", "after", "after", "parent's"]).sorted())
        #expect(sdk.ledger.isBalanced && sdk.ledger.exported == 14, "\(sdk.ledger)")
    }
}
