import Glibc
import LatencyHeatmap
import Synchronization

/// Puts a load on a server and reports what became of it.
///
/// Opens the streams, publishes, waits for what is missing, and ends; blocks the calling thread.
public struct LoadRun {
    private let plan: LoadPlan
    private let shouldStop: () -> Bool
    private let progress: (String) -> Void
    private var lastNoteNano: UInt64 = 0

    /// - Parameters:
    ///   - shouldStop: asked some hundred times a second; what was measured until then is reported.
    ///   - progress: about once a second, what goes on.
    public static func run(
        _ plan: LoadPlan, shouldStop: @escaping () -> Bool = { false }, progress: @escaping (String) -> Void = { _ in }
    ) throws(LoadError) -> LoadReport {
        try plan.validate()
        var run = LoadRun(plan: plan, shouldStop: shouldStop, progress: progress)
        return try run.run()
    }

    private init(plan: LoadPlan, shouldStop: @escaping () -> Bool, progress: @escaping (String) -> Void) {
        self.plan = plan
        self.shouldStop = shouldStop
        self.progress = progress
    }

    private mutating func run() throws(LoadError) -> LoadReport {
        signal(SIGPIPE, SIG_IGN)
        try OpenFiles.require(plan.streams + plan.publishers + plan.threads + 32)
        let subscribe = try HTTPURL(LoadTarget.filled(plan.target.subscribeURL, []))
        let publish = try HTTPURL(LoadTarget.filled(plan.target.publishURL, []))
        let listenEndpoint = try Endpoint(host: subscribe.host, port: subscribe.port)
        let publishEndpoint = try Endpoint(host: publish.host, port: publish.port)
        let server =
            plan.serverPIDs.isEmpty
            ? ServerProcess(listeningOn: listenEndpoint.port) : try ServerProcess(pids: plan.serverPIDs)
        let tag = EventPayload.makeTag()

        let pool = try ReaderPool(plan, listenEndpoint, tag)
        var report = LoadReport(plan: plan)
        report.connections.asked = plan.connections
        report.server = server.map { LoadReport.Server(pids: $0.pids) }
        if server == nil {
            report.notes.append(
                "the server's CPU and memory are not measured: no process that listens on port \(listenEndpoint.port) can "
                    + "be seen here; name one with --server-pid")
        }
        try open(pool, server, &report)
        if plan.duration > .zero, !shouldStop() {
            try measure(pool, publishEndpoint, server, tag, &report)
        }
        report.isInterrupted = shouldStop()
        report.server?.memoryBytes = server?.memoryBytes

        pool.stop()
        report.stalledClosed = report.stalledOpened - pool.stalledStillOpen
        let counts = pool.counts
        report.connections.failures = counts.failures
        report.connections.ended = counts.ended
        report.connections.reconnects = counts.reconnects
        return report
    }

    // MARK: Opening

    /// Opens a tenth, and after that the rest: what the server needs once is not taken for a connection's.
    private mutating func open(
        _ pool: ReaderPool, _ server: ServerProcess?, _ report: inout LoadReport
    ) throws(LoadError) {
        guard plan.streams > 0 else { return }
        let first = plan.connections / 10
        let begin = monotonicNano()
        _ = open(first, of: plan.connections, pool)
        var spent = monotonicNano() - begin
        pause(server == nil ? .zero : plan.rest)
        let (memory, cpu) = (server?.memoryBytes, server?.cpuNano)
        let again = monotonicNano()
        let opened = open(plan.connections, of: plan.connections, pool)
        spent += monotonicNano() - again
        pause(server == nil ? .zero : plan.rest)
        report.connections.opened = opened
        if opened > 0 { report.connections.perSecond = Double(opened) / (Double(spent) / 1e9) }
        if opened > first, let server {
            let count = Double(opened - first)
            if let cpu { report.connections.serverCPUMicroseconds = Double(server.cpuNano(since: cpu)) / 1e3 / count }
            if let memory, let now = server.memoryBytes {
                report.connections.memoryBytes = Double(now - memory) / count
            }
        }
        if plan.stalled > 0 { report.stalledOpened = open(plan.streams, of: plan.streams, pool) - opened }
        guard opened < plan.connections, !shouldStop() else { return }
        guard opened > 0 else {
            pool.stop()
            let reasons = pool.counts.failures.sorted { $0.value > $1.value }.map { "\($0.key) (\($0.value) times)" }
            throw LoadError(
                code: .refused,
                cause: "no stream of \(plan.target.subscribeURL) could be opened: \(reasons.joined(separator: ", "))")
        }
        report.notes.append("\(plan.connections - opened) connections could not be opened")
    }

    /// Waits until as many streams are open or given up; how many are open.
    private mutating func open(_ count: Int, of total: Int, _ pool: ReaderPool) -> Int {
        pool.open(count)
        while !shouldStop() {
            let open = pool.openCount
            if open + pool.overCount >= count { break }
            note("opening streams: \(LoadReport.number(open)) of \(LoadReport.number(total))")
            usleep(2_000)
        }
        return pool.openCount
    }

    // MARK: Measuring

    private mutating func measure(
        _ pool: ReaderPool, _ endpoint: Endpoint, _ server: ServerProcess?, _ tag: UInt64, _ report: inout LoadReport
    ) throws(LoadError) {
        let publisher = try EventPublisher(
            plan, endpoint, tag, startNano: monotonicNano() + 50_000_000, streamsOfChannel: streamsOfChannel)
        defer { publisher.deallocate() }
        pool.measure(from: publisher.measureFromNano)
        let thread = try LoadThread("bench-publish") { publisher.run() }
        var isJoined = false
        defer {
            publisher.isStopped.store(true, ordering: .relaxed)
            if !isJoined { thread.join() }
        }
        let all = pool.threads + [thread]
        wait(until: publisher.measureFromNano)
        let serverCPU = server?.cpuNano
        let threadCPU = all.map { $0.cpuNano }
        let began = monotonicNano()
        var storm: ReconnectStorm?
        while !shouldStop(), !publisher.isDone.load(ordering: .acquiring) {
            let now = monotonicNano()
            if plan.storm, storm == nil, now > publisher.measureFromNano + plan.duration.nano / 2 {
                storm = ReconnectStorm(pool, streams: report.connections.opened)
            }
            _ = storm?.look()
            note(
                "\(LoadReport.number(Int((now - began) / 1_000_000_000))) s: "
                    + "\(LoadReport.number(pool.receivedCount)) deliveries")
            usleep(plan.storm ? 2_000 : 20_000)
        }
        let threadShares = zip(all, threadCPU).map {
            Double(max($0.cpuNano, $1) - $1) / Double(max(1, monotonicNano() - began))
        }
        publisher.isStopped.store(true, ordering: .relaxed)
        thread.join()
        isJoined = true
        drain(pool, publisher, &storm)
        let drained = monotonicNano()
        pause(plan.settle)
        if let server, let serverCPU {
            let used = server.cpuNano(since: serverCPU)
            report.server?.cpuSeconds = Double(used) / 1e9
            report.server?.cpuShare = Double(used) / Double(max(1, drained - began))
        }
        pool.stop()
        fill(&report, pool, publisher, began)
        report.storm = storm?.report(pool.counts, lost: report.deliveries.lost)
        report.generatorShare = threadShares.max() ?? 0
        if report.generatorShare > 0.9 {
            report.notes.append(
                "the generator's busiest thread had no time left: it may be what was measured (--threads)")
        }
    }

    /// By the plan, also where a stream could not be opened.
    private var streamsOfChannel: [Int] {
        (0..<plan.channels).map { plan.connections / plan.channels + ($0 < plan.connections % plan.channels ? 1 : 0) }
    }

    /// Until everything has come, or nothing more does for two seconds, or the time is over.
    private mutating func drain(_ pool: ReaderPool, _ publisher: EventPublisher, _ storm: inout ReconnectStorm?) {
        let expected = publisher.expected.load(ordering: .relaxed)
        let begin = monotonicNano()
        var last = -1
        var sinceNano = begin
        while !shouldStop() {
            let now = monotonicNano()
            let isBack = storm?.look() ?? true
            let received = pool.receivedCount
            if received >= expected, isBack { return }
            if received != last { (last, sinceNano) = (received, now) }
            let isWaiting = plan.resumes && pool.openCount + pool.overCount < plan.streams
            if now > sinceNano + 2_000_000_000, !isWaiting, isBack { return }
            if now > begin + plan.drain.nano { return }
            note("waiting for \(LoadReport.number(expected - received)) deliveries")
            usleep(5_000)
        }
    }

    private func fill(
        _ report: inout LoadReport, _ pool: ReaderPool, _ publisher: EventPublisher, _ began: UInt64
    ) {
        let sent = publisher.counts
        report.published.due = sent.due
        report.published.sent = sent.sent
        report.published.accepted = sent.accepted
        report.published.refused = sent.refused
        report.published.unanswered = sent.unanswered
        report.published.answers = sent.answers
        report.published.maxLagNano = sent.maxLag
        let spent = Double(max(1, min(sent.endNano, began + plan.duration.nano) - min(began, sent.endNano))) / 1e9
        report.published.perSecond = Double(sent.accepted) / max(spent, 1e-3)
        if let failure = sent.failure { report.notes.append("publishing ended early: \(failure)") }

        let got = pool.counts
        for reader in pool.readers {
            for stream in reader.streams where stream.wasOpen && !stream.isStalled {
                let first = sent.channelMeasuredFrom[stream.channel]
                guard first >= 0 else { continue }
                let range = first..<sent.channelSent[stream.channel]
                let refused = sent.channelRefused[stream.channel] ?? []
                report.deliveries.expected += range.count - refused.count { range.contains($0) }
                report.deliveries.lost += stream.check.missing(in: range, refused: refused)
            }
        }
        report.deliveries.received = got.deliveries
        report.deliveries.duplicates = got.duplicates
        report.deliveries.outOfOrder = got.outOfOrder
        report.deliveries.misrouted = got.misrouted
        report.deliveries.others = got.others
        report.deliveries.bytes = got.bytes
        report.deliveries.latencies = got.latencies
        let beyond = Int(got.deliveries) + report.deliveries.lost - report.deliveries.expected
        if beyond > 0 {
            report.notes.append(
                "\(LoadReport.number(beyond)) deliveries are of events whose publishing was refused or not answered in time"
            )
        }
        if got.lastNano > began {
            report.deliveries.perSecond = Double(got.deliveries) / (Double(got.lastNano - began) / 1e9)
        }
    }

    // MARK: Time

    private func pause(_ duration: Duration) { wait(until: monotonicNano() + duration.nano) }

    private func wait(until moment: UInt64) {
        while !shouldStop() {
            let now = monotonicNano()
            guard now < moment else { return }
            usleep(UInt32(min(moment - now, 5_000_000) / 1_000 + 1))
        }
    }

    private mutating func note(_ text: String) {
        let now = monotonicNano()
        guard now > lastNoteNano + 1_000_000_000 else { return }
        // Not in the first second: what is over by then needs no words.
        if lastNoteNano > 0 { progress(text) }
        lastNoteNano = now
    }
}
