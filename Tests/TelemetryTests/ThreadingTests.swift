import Foundation
import Glibc
import OTLP
import Synchronization
import Telemetry
import Testing

@Suite("Threads: queues, overflow and the ledger", .serialized)
struct ThreadingTests {
    /// Runs the closure on so many threads at once, and returns when all have ended.
    private func onThreads(_ count: Int, _ body: @escaping @Sendable (Int) -> Void) {
        let group = DispatchGroup()
        for index in 0..<count {
            group.enter()
            Thread.detachNewThread {
                body(index)
                group.leave()
            }
        }
        group.wait()
    }

    /// Runs the closure on a new thread and waits until that thread is gone: the next one may get the same id.
    private func onThread(_ body: @escaping @Sendable () -> Void) {
        final class Box: Sendable {
            let body: @Sendable () -> Void
            init(_ body: @escaping @Sendable () -> Void) { self.body = body }
        }
        var thread = pthread_t()
        pthread_create(
            &thread, nil,
            { argument in
                if let argument { Unmanaged<Box>.fromOpaque(argument).takeRetainedValue().body() }
                return nil
            }, Unmanaged.passRetained(Box(body)).toOpaque())
        pthread_join(thread, nil)
    }

    private func expectSettled(_ ledger: SpanLedger, sourceLocation: SourceLocation = #_sourceLocation) {
        #expect(ledger.isBalanced, "\(ledger)", sourceLocation: sourceLocation)
        #expect(ledger.live == 0 && ledger.queued == 0, "\(ledger)", sourceLocation: sourceLocation)
    }

    @Test(
        "what does not fit the queue is dropped as queue_full and counted, and the rest arrives (four threads, a slow receiver)"
    )
    func overflow() throws {
        let receiver = try Receiver(otherwise: .status(200, delay: .milliseconds(20)))
        defer { receiver.stop() }
        let sdk = TelemetrySDK(
            configuration: .test(receiver) {
                $0.maxQueueSize = 128
                $0.maxExportBatchSize = 64
            })
        onThreads(4) { producer in
            for index in 0..<5_000 {
                let span = sdk.tracer.startSpan("produced")
                span.setAttribute("id", producer * 5_000 + index)
                span.end()
            }
        }
        #expect(sdk.ledger.isBalanced, "\(sdk.ledger)")
        #expect(sdk.shutdown(deadline: .seconds(30)).undelivered == 0)
        let ledger = sdk.ledger
        expectSettled(ledger)
        #expect(ledger.started == 20_000)
        #expect((ledger.dropped[.queueFull] ?? 0) > 0)
        #expect(ledger.totalDropped == ledger.dropped[.queueFull])
        #expect(ledger.started == ledger.exported + ledger.totalDropped)
        let ids = try OfficialRequest.spans(receiver.bodies).compactMap { $0["id"] }
        #expect(UInt64(ids.count) == ledger.exported)
        #expect(Set(ids).count == ids.count, "a span arrived twice")
    }

    @Test("one line tells of spans that were dropped, how many, why, and what to do")
    func dropReport() throws {
        let receiver = try Receiver()
        defer { receiver.stop() }
        let lines = Mutex<[String]>([])
        let sdk = TelemetrySDK(
            configuration: .test(receiver) {
                $0.maxQueueSize = 64
                $0.scheduleDelay = .seconds(60)
                $0.report = { line in lines.withLock { $0.append(line) } }
            })
        // Live spans hold their slots: 64 fit, 36 do not.
        let spans = (0..<100).map { _ in sdk.tracer.startSpan("held") }
        for span in spans { span.end() }
        sdk.shutdown(deadline: .seconds(20))
        #expect(sdk.ledger.dropped[.queueFull] == 36 && sdk.ledger.exported == 64, "\(sdk.ledger)")
        #expect(
            lines.withLock { $0 } == [
                "36 spans were dropped (queue_full: a thread's 64 are in use; raise OTEL_BSP_MAX_QUEUE_SIZE)"
            ])
    }

    @Test("nothing is lost when the queue is large enough (four threads)")
    func noLoss() throws {
        let receiver = try Receiver()
        defer { receiver.stop() }
        let sdk = TelemetrySDK(
            configuration: .test(receiver) {
                $0.maxQueueSize = 8_192
                $0.maxExportBatchSize = 1_000
            })
        onThreads(4) { producer in
            for index in 0..<2_000 {
                let span = sdk.tracer.startSpan("produced")
                span.setAttribute("id", producer * 2_000 + index)
                span.end()
            }
        }
        sdk.shutdown(deadline: .seconds(30))
        expectSettled(sdk.ledger)
        #expect(sdk.ledger.exported == 8_000)
        let requests = try OfficialRequest.decode(receiver.bodies)
        #expect(requests.allSatisfy { $0.spans.count <= 1_000 })
        #expect(Set(requests.flatMap(\.spans).compactMap { $0["id"] }) == Set((0..<8_000).map { "int \($0)" }))
        #expect(Set(requests.flatMap(\.spans).map(\.span)).count == 8_000)
    }

    @Test("the ledger balances at every moment")
    func ledgerUnderLoad() throws {
        let receiver = try Receiver()
        defer { receiver.stop() }
        let sdk = TelemetrySDK(
            configuration: .test(receiver) {
                $0.maxQueueSize = 256; $0.sampler = .traceIDRatio(0.5)
            })
        let isDone = Atomic(false)
        let unbalanced = Mutex<[String]>([])
        let readings = Atomic(0)
        let reader = DispatchGroup()
        reader.enter()
        Thread.detachNewThread {
            while !isDone.load(ordering: .acquiring) {
                let ledger = sdk.ledger
                if !ledger.isBalanced { unbalanced.withLock { $0.append("\(ledger)") } }
                readings.add(1, ordering: .relaxed)
            }
            reader.leave()
        }
        // Until the ledger has been read often enough meanwhile, however slow the machine is.
        onThreads(3) { _ in
            var left = 20_000
            while left > 0 || readings.load(ordering: .relaxed) <= 10 {
                sdk.tracer.startSpan("load").end()
                left -= 1
            }
        }
        isDone.store(true, ordering: .releasing)
        reader.wait()
        #expect(readings.load(ordering: .relaxed) > 10)
        let lines = unbalanced.withLock { $0 }
        #expect(lines.isEmpty, "\(lines.count) of \(readings.load(ordering: .relaxed)), such as \(lines.first ?? "")")
        sdk.shutdown(deadline: .seconds(30))
        expectSettled(sdk.ledger)
    }

    @Test("no two threads share a queue, also when a new thread gets the id of one that has ended")
    func reusedThreadIDs() throws {
        let receiver = try Receiver()
        defer { receiver.stop() }
        let sdk = TelemetrySDK(
            configuration: .test(receiver) {
                $0.maxQueueSize = 65_536; $0.scheduleDelay = .seconds(60)
            })
        for _ in 0..<20 {
            onThread { sdk.tracer.startSpan("short-lived").end() }
            onThreads(3) { _ in for _ in 0..<1_000 { sdk.tracer.startSpan("crowd").end() } }
        }
        #expect(sdk.ledger.started == 20 * 3_001)
        sdk.shutdown(deadline: .seconds(30))
        expectSettled(sdk.ledger)
        #expect(sdk.ledger.started == 20 * 3_001)
        let ids = try OfficialRequest.spans(receiver.bodies).map(\.span)
        #expect(UInt64(ids.count) == sdk.ledger.exported)
        #expect(Set(ids).count == ids.count)
    }

    @Test("a span that starts on one thread may end on another")
    func acrossThreads() throws {
        let receiver = try Receiver()
        defer { receiver.stop() }
        let sdk = TelemetrySDK(configuration: .test(receiver))
        let handed = Mutex<[Span]>([])
        onThread {
            for _ in 0..<10 {
                let span = sdk.tracer.startSpan("handed over")
                span.setAttribute("first", 1)
                handed.withLock { $0.append(span) }
            }
        }
        let spans = handed.withLock { $0 }
        onThreads(2) { thread in
            for (index, span) in spans.enumerated() where index % 2 == thread {
                span.setAttribute("second", 2)
                span.end()
            }
        }
        sdk.shutdown(deadline: .seconds(10))
        expectSettled(sdk.ledger)
        let arrived = try OfficialRequest.spans(receiver.bodies)
        #expect(Set(arrived.map(\.span)) == Set(spans.map(\.context.spanID.description)))
        #expect(arrived.count == 10)
        #expect(arrived.allSatisfy { $0["first"] == "int 1" && $0["second"] == "int 2" })
    }

    @Test("of many ends of one span one counts, and what is set after it is ignored")
    func endTwice() throws {
        let receiver = try Receiver()
        defer { receiver.stop() }
        let sdk = TelemetrySDK(configuration: .test(receiver) { $0.scheduleDelay = .seconds(60) })
        for _ in 0..<50 {
            let span = sdk.tracer.startSpan("once")
            #expect(span.isRecording)
            onThreads(4) { _ in span.end() }
            #expect(!span.isRecording)
            span.setAttribute("late", 1)
            span.setStatus(.error, "late")
            span.addEvent("late")
            span.addLink(span.context)
            span.end()
        }
        sdk.shutdown(deadline: .seconds(10))
        expectSettled(sdk.ledger)
        #expect(sdk.ledger.exported == 50)
        let spans = try OfficialRequest.spans(receiver.bodies)
        #expect(spans.count == 50)
        #expect(spans.allSatisfy { $0.attributes.isEmpty && $0.status == 0 && $0.events.isEmpty && $0.links.isEmpty })
    }

    @Test("a handle of an ended span does not touch the span that has its place now")
    func staleHandle() throws {
        let receiver = try Receiver()
        defer { receiver.stop() }
        let sdk = TelemetrySDK(configuration: .test(receiver) { $0.maxQueueSize = 64 })
        let stale = sdk.tracer.startSpan("stale")
        stale.end()
        // All 64 places come round.
        for _ in 0..<4 {
            #expect(sdk.flush(deadline: .seconds(10)).undelivered == 0)
            let fresh = (0..<40).map { _ in sdk.tracer.startSpan("fresh") }
            stale.setAttribute("late", 1)
            stale.end()
            #expect(!stale.isRecording)
            #expect(sdk.ledger.live == 40)
            for span in fresh { span.end() }
        }
        sdk.shutdown(deadline: .seconds(10))
        expectSettled(sdk.ledger)
        #expect(try OfficialRequest.spans(receiver.bodies).allSatisfy { $0.attributes.isEmpty })
    }

    @Test("spans that start or end after the shutdown are counted and harm nothing")
    func afterShutdown() throws {
        let receiver = try Receiver()
        defer { receiver.stop() }
        let sdk = TelemetrySDK(configuration: .test(receiver) { $0.maxQueueSize = 64 })
        let early = sdk.tracer.startSpan("early")
        sdk.shutdown(deadline: .seconds(10))
        #expect(sdk.ledger.live == 1)
        early.setAttribute(String("large"), .string(String(repeating: "x", count: 5_000)))
        early.end()
        for _ in 0..<200 {
            let span = sdk.tracer.startSpan("late")
            #expect(span.context.isValid)
            span.setStatus(.error, "late")
            span.end()
        }
        #expect(sdk.flush(deadline: .milliseconds(100)).undelivered == 0)
        #expect(sdk.shutdown(deadline: .seconds(1)).undelivered == 0)
        let ledger = sdk.ledger
        expectSettled(ledger)
        #expect(ledger.started == 201)
        #expect(ledger.totalDropped == 201)
        #expect(receiver.requests.isEmpty)
    }

    @Test("spans that end while the shutdown runs are exported or counted as dropped")
    func duringShutdown() throws {
        for _ in 0..<10 {
            let receiver = try Receiver()
            defer { receiver.stop() }
            let sdk = TelemetrySDK(
                configuration: .test(receiver) {
                    $0.maxQueueSize = 4_096; $0.maxExportBatchSize = 16
                })
            let isDone = Atomic(false)
            let producers = DispatchGroup()
            for _ in 0..<2 {
                producers.enter()
                Thread.detachNewThread {
                    while !isDone.load(ordering: .acquiring) {
                        sdk.tracer.startSpan("hurried").end()
                        usleep(300)
                    }
                    producers.leave()
                }
            }
            #expect(eventually { !receiver.requests.isEmpty })
            sdk.shutdown(deadline: .seconds(10))
            isDone.store(true, ordering: .releasing)
            producers.wait()
            let ledger = sdk.ledger
            expectSettled(ledger)
            #expect(try UInt64(OfficialRequest.spans(receiver.bodies).count) == ledger.exported)
        }
    }

    @Test("two SDKs in one thread keep their spans apart")
    func twoSDKs() throws {
        let receivers = [try Receiver(), try Receiver()]
        defer { for receiver in receivers { receiver.stop() } }
        let sdks = receivers.map { TelemetrySDK(configuration: .test($0) { $0.scheduleDelay = .seconds(60) }) }
        for index in 0..<100 {
            let span = sdks[index % 2].tracer.startSpan("apart")
            span.setAttribute("sdk", index % 2)
            span.end()
        }
        for (index, sdk) in sdks.enumerated() {
            sdk.shutdown(deadline: .seconds(10))
            expectSettled(sdk.ledger)
            let spans = try OfficialRequest.spans(receivers[index].bodies)
            #expect(spans.count == 50)
            #expect(spans.allSatisfy { $0["sdk"] == "int \(index)" })
        }
    }
}
