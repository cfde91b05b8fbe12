import CEpoll
import Glibc
import LatencyHeatmap
import Synchronization

/// Opens streams and reads them, on one thread with one buffer.
final class StreamReader: @unchecked Sendable {  // `run` has a thread of its own; the rest is read after it has ended
    private static let bufferBytes = 256 << 10
    private static let maxHeadBytes = 16 << 10
    private static let attemptNano: UInt64 = 10_000_000_000
    private static let maxAttempts = 3
    /// Connections from one loopback address before the next is taken; beyond some 14,000 finding a free port gets slow.
    private static let connectionsPerAddress = 14_000

    let signals = ReaderSignals()
    /// Of its own thread, and of others once that has ended.
    var counts: ReaderCounts { hot.pointee.counts }
    let streams: UnsafeMutableBufferPointer<LoadStream>

    /// What each delivery reads and writes: raw memory, since a class's variables are checked for exclusive access.
    private struct Hot {
        var counts = ReaderCounts()
        var received = 0
        var measureFrom = UInt64.max
        var backNano = UInt64.max
    }

    private let hot = UnsafeMutablePointer<Hot>.allocate(capacity: 1)
    private let plan: LoadPlan
    private let endpoint: Endpoint
    private let tls: TLSClient?
    private let tag: UInt64
    private let poller: Poller
    private let buffer = UnsafeMutablePointer<UInt8>.allocate(capacity: StreamReader.bufferBytes)
    private let addresses: Int
    private let maxOpening: Int
    private var started = 0
    private var opening = 0
    private var waiting: [Int] = []
    private var openCount = 0
    private var overCount = 0
    private var cutNano: UInt64 = 0
    private var nextCheckNano: UInt64 = 0

    /// - Parameter numbers: of the streams, in the order in which they are opened.
    init(_ plan: LoadPlan, _ endpoint: Endpoint, _ tag: UInt64, numbers: [Int]) throws(LoadError) {
        self.plan = plan
        self.endpoint = endpoint
        tls = try plan.target.subscribesSecurely ? TLSClient(offers: plan.http2 ? "h2" : "http/1.1") : nil
        self.tag = tag
        hot.initialize(to: Hot())
        poller = try Poller()
        streams = .allocate(capacity: numbers.count)
        for (index, number) in numbers.enumerated() {
            streams.initializeElement(
                at: index,
                to: LoadStream(
                    number: number, channel: number % plan.channels, isStalled: number >= plan.connections,
                    publishers: plan.publishers))
        }
        addresses = plan.streams / Self.connectionsPerAddress + 1
        // What waits for its head together stays below a small backlog.
        maxOpening = max(1, 128 / plan.threads)
    }

    func deallocate() {
        for index in streams.indices {
            streams[index].wire.close()
            streams[index].deallocate()
        }
        hot.deinitialize(count: 1)
        hot.deallocate()
        streams.baseAddress?.deinitialize(count: streams.count)
        streams.deallocate()
        buffer.deallocate()
        poller.deallocate()
    }

    func run() {
        while !signals.isStopped.load(ordering: .relaxed) {
            let wanted = signals.wanted.load(ordering: .relaxed)
            let isBusy = started < wanted || opening > 0 || !waiting.isEmpty
            let count = poller.wait(milliseconds: isBusy ? 5 : 50)
            // After the wait: they may have been set during it, and what has just come is judged by them.
            hot.pointee.measureFrom = signals.measureFromNano.load(ordering: .relaxed)
            hot.pointee.backNano = signals.backNano.load(ordering: .relaxed)
            for index in 0..<count { handle(poller.number(index)) }
            if cutNano == 0, signals.isCut.load(ordering: .relaxed) { cutAll() }
            while started < wanted, opening < maxOpening {
                open(started)
                started += 1
            }
            if isBusy { keepTime() }
            signals.open.store(openCount, ordering: .relaxed)
            signals.over.store(overCount, ordering: .relaxed)
            signals.back.store(Int(hot.pointee.counts.reconnects), ordering: .relaxed)
            signals.received.store(hot.pointee.received, ordering: .relaxed)
        }
    }

    // MARK: Opening

    private func open(_ index: Int) {
        streams[index].momentNano = monotonicNano()
        streams[index].phase = .connecting
        streams[index].head = []
        opening += 1
        if cutNano > 0 {
            let tenth = Int((streams[index].momentNano - cutNano) / 100_000_000)
            if tenth >= hot.pointee.counts.attemptsAfterCut.count {
                hot.pointee.counts.attemptsAfterCut += [Int](
                    repeating: 0, count: tenth + 1 - hot.pointee.counts.attemptsAfterCut.count)
            }
            hot.pointee.counts.attemptsAfterCut[tenth] += 1
        }
        let source = addresses > 1 ? 1 + streams[index].number % addresses : 0
        let descriptor = endpoint.connect(source: source)
        guard descriptor >= 0 else { return failed(index, "connect: \(reason(-descriptor))") }
        streams[index].wire = Wire(descriptor, tls)
        poller.add(descriptor, Poller.output, as: index)
    }

    private func connected(_ index: Int) {
        let code = connectResult(streams[index].wire.descriptor)
        guard code == 0 else { return failed(index, "connect: \(reason(code))") }
        streams[index].phase = .greeting
        greet(index)
    }

    /// Shakes hands, and asks for the stream.
    private func greet(_ index: Int) {
        if let (interest, cause) = streams[index].wire.shakeHands() {
            if let cause { return failed(index, cause) }
            return poller.change(streams[index].wire.descriptor, interest, as: index)
        }
        if tls != nil, plan.http2, streams[index].wire.chosenProtocol != "h2" {
            return failed(index, "the server does not offer h2")
        }
        guard let request = try? request(index) else { return failed(index, "no request") }
        // A socket that was just connected takes a head whole.
        guard streams[index].wire.send(request, request.count) == request.count else {
            return failed(index, "send: \(reason(errno))")
        }
        streams[index].frames = plan.http2 ? FrameReader() : nil
        streams[index].phase = .head
        poller.change(streams[index].wire.descriptor, Poller.input, as: index)
    }

    private func request(_ index: Int) throws(LoadError) -> [UInt8] {
        let (channel, connection) = (streams[index].channel, streams[index].number)
        let id = streams[index].scanner.lastEventID
        if plan.http2 {
            return try plan.target.subscribeFrames(channel: channel, connection: connection, lastEventID: id)
        }
        var request = try plan.target.subscribeHead(channel: channel, connection: connection)
        if let id { request += Array("Last-Event-ID: ".utf8) + id + [13, 10] }
        return request + [13, 10]
    }

    /// An attempt brought no stream.
    private func failed(_ index: Int, _ cause: String) {
        hot.pointee.counts.failures[cause, default: 0] += 1
        opening -= 1
        disconnect(index)
        streams[index].failures += 1
        guard streams[index].wasOpen || streams[index].failures < Self.maxAttempts else {
            streams[index].phase = .over
            overCount += 1
            return
        }
        wait(index)
    }

    private func disconnect(_ index: Int) {
        streams[index].wire.close()
        streams[index].scanner.disconnect()
    }

    /// As Isotherm's own clients do: the server's `retry`, doubled for each failure in a row, give or take a half.
    private func wait(_ index: Int) {
        let base = Double(streams[index].scanner.retry ?? (streams[index].wasOpen ? 1_000 : 200))
        let doubled = min(base * Double(1 << min(max(0, streams[index].failures - 1), 10)), 30_000)
        streams[index].momentNano = monotonicNano() + UInt64(doubled * Double.random(in: 0.5..<1.5) * 1e6)
        streams[index].phase = .waiting
        waiting.append(index)
    }

    /// What is due to be opened again, and what has waited too long for its head.
    private func keepTime() {
        let now = monotonicNano()
        var at = 0
        while at < waiting.count {
            guard streams[waiting[at]].momentNano <= now else {
                at += 1
                continue
            }
            let index = waiting[at]
            waiting.swapAt(at, waiting.count - 1)
            waiting.removeLast()
            open(index)
        }
        guard now >= nextCheckNano, opening > 0 else { return }
        nextCheckNano = now + 1_000_000_000
        for index in 0..<started where now > streams[index].momentNano + Self.attemptNano {
            switch streams[index].phase {
            case .connecting, .greeting, .head: failed(index, "no answer within 10 s")
            case .idle, .over, .open, .waiting, .stalled: break
            }
        }
    }

    private func cutAll() {
        cutNano = monotonicNano()
        for index in 0..<started {
            switch streams[index].phase {
            case .open:
                openCount -= 1
                disconnect(index)
                wait(index)
            case .connecting, .greeting, .head:
                opening -= 1
                disconnect(index)
                wait(index)
            case .idle, .over, .waiting, .stalled: break
            }
        }
    }

    // MARK: Reading

    @inline(__always)
    private func handle(_ index: Int) {
        let stream = streams.baseAddress.unsafelyUnwrapped + index
        guard stream.pointee.phase == .open else { return prepare(index) }
        repeat {
            let count = stream.pointee.wire.read(buffer, Self.bufferBytes)
            guard count > 0 else { return readFailed(index, count) }
            take(stream, UnsafePointer(buffer), UnsafePointer(buffer) + count)
        } while stream.pointee.wire.hasMore
    }

    /// One look at the clock for each read: what was read together arrived together.
    @inline(__always)
    private func take(
        _ stream: UnsafeMutablePointer<LoadStream>, _ start: UnsafePointer<UInt8>, _ end: UnsafePointer<UInt8>
    ) {
        let now = monotonicNano()
        if now >= hot.pointee.measureFrom { hot.pointee.counts.bytes &+= UInt64(end - start) }
        if stream.pointee.frames != nil {
            takeFrames(stream, start, end) { scan(stream, $0, $1, now) }
        } else if stream.pointee.isChunked {
            stream.pointee.chunks.read(start, end) { scan(stream, $0, $1, now) }
            if stream.pointee.chunks.isOver { ended(stream - streams.baseAddress.unsafelyUnwrapped) }
        } else {
            scan(stream, start, end, now)
        }
    }

    /// HTTP/2: answers what must be answered, and widens the windows before they close.
    private func takeFrames(
        _ stream: UnsafeMutablePointer<LoadStream>, _ start: UnsafePointer<UInt8>, _ end: UnsafePointer<UInt8>,
        _ data: (UnsafePointer<UInt8>, UnsafePointer<UInt8>) -> Void
    ) {
        guard var frames = stream.pointee.frames else { return }
        let index = stream - streams.baseAddress.unsafelyUnwrapped
        var replies: [UInt8] = []
        frames.read(start, end, data: data) { frame in
            if frame.kind == HTTP2Client.Kind.headers, stream.pointee.phase == .head {
                return answered(index, HTTP2Client.status(frame.payload))
            }
            guard frame.flags & HTTP2Client.acknowledges == 0 else { return }
            if frame.kind == HTTP2Client.Kind.settings || frame.kind == HTTP2Client.Kind.ping {
                replies += HTTP2Client.frame(
                    frame.kind, HTTP2Client.acknowledges, stream: 0,
                    frame.kind == HTTP2Client.Kind.ping ? frame.payload : [])
            }
        }
        if frames.unacknowledged > 1 << 30 {
            replies += HTTP2Client.windows(frames.unacknowledged)
            frames.widened()
        }
        stream.pointee.frames = frames
        // The little that this is fits into a socket; one that takes nothing is as good as broken.
        let isBroken = !replies.isEmpty && stream.pointee.wire.send(replies, replies.count) != replies.count
        guard isBroken || frames.isOver else { return }
        switch stream.pointee.phase {
        case .open: ended(index)
        case .head: failed(index, "the stream was reset")
        case .idle, .over, .connecting, .greeting, .waiting, .stalled: break
        }
    }

    @inline(__always)
    private func scan(
        _ stream: UnsafeMutablePointer<LoadStream>, _ start: UnsafePointer<UInt8>, _ end: UnsafePointer<UInt8>,
        _ now: UInt64
    ) {
        stream.pointee.scanner.scan(start, end, tag: tag) { payload in
            if let payload { delivered(payload, stream, now) } else { hot.pointee.counts.others &+= 1 }
        }
    }

    @inline(__always)
    private func delivered(_ payload: EventPayload, _ stream: UnsafeMutablePointer<LoadStream>, _ now: UInt64) {
        guard payload.channel == stream.pointee.channel, payload.publisher < plan.publishers else {
            hot.pointee.counts.misrouted &+= 1
            return
        }
        let isMeasured = payload.dueNano >= hot.pointee.measureFrom
        guard stream.pointee.check.isNew(payload.sequence) else {
            if isMeasured { hot.pointee.counts.duplicates &+= 1 }
            return
        }
        hot.pointee.received &+= 1
        let lane = stream.pointee.lanes + payload.publisher
        if payload.sequence < Int(lane.pointee) {
            if isMeasured { hot.pointee.counts.outOfOrder &+= 1 }
        } else {
            lane.pointee = UInt32(truncatingIfNeeded: payload.sequence &+ 1)
        }
        if payload.dueNano <= hot.pointee.backNano { hot.pointee.counts.lastOldNano = now }
        guard isMeasured else { return }
        hot.pointee.counts.deliveries &+= 1
        hot.pointee.counts.lastNano = now
        hot.pointee.counts.latencies.insert(nanoseconds: now > payload.dueNano ? now &- payload.dueNano : 0)
    }

    /// Something happened on a stream that is not open yet.
    @inline(never)
    private func prepare(_ index: Int) {
        switch streams[index].phase {
        case .connecting: connected(index)
        case .greeting: greet(index)
        case .head: readHead(index)
        case .idle, .over, .open, .waiting, .stalled: break
        }
    }

    private func readHead(_ index: Int) {
        repeat {
            let count = streams[index].wire.read(buffer, Self.bufferBytes)
            guard count > 0 else { return readFailed(index, count) }
            takeHead(index, count)
        } while streams[index].phase == .head && streams[index].wire.hasMore
        if streams[index].phase == .open, streams[index].wire.hasMore { handle(index) }
    }

    private func takeHead(_ index: Int, _ count: Int) {
        if streams[index].frames != nil, let stream = streams.baseAddress.map({ $0 + index }) {
            return take(stream, UnsafePointer(buffer), UnsafePointer(buffer) + count)
        }
        streams[index].head.append(contentsOf: UnsafeBufferPointer(start: buffer, count: count))
        let bytes = streams[index].head
        guard
            let head = bytes.withUnsafeBufferPointer({ $0.baseAddress.flatMap { ResponseHead($0, bytes.count) } })
        else {
            if bytes.count > Self.maxHeadBytes { failed(index, "a head of more than \(Self.maxHeadBytes) bytes") }
            return
        }
        streams[index].isChunked = head.isChunked
        streams[index].chunks = ChunkReader()
        answered(index, head.status)
        guard streams[index].phase == .open, head.bodyAt < bytes.count,
            let stream = streams.baseAddress.map({ $0 + index })
        else { return }
        bytes.withUnsafeBufferPointer {
            if let start = $0.baseAddress { take(stream, start + head.bodyAt, start + bytes.count) }
        }
    }

    private func answered(_ index: Int, _ status: Int) {
        guard status == 200 else { return failed(index, status == 0 ? "a status other than 200" : "status \(status)") }
        opening -= 1
        openCount += 1
        if streams[index].wasOpen {
            hot.pointee.counts.reconnects += 1
            hot.pointee.counts.lastBackNano = monotonicNano()
        }
        streams[index].wasOpen = true
        streams[index].failures = 0
        streams[index].head = []
        if streams[index].isStalled {
            streams[index].phase = .stalled
            poller.remove(streams[index].wire.descriptor)
            return
        }
        streams[index].phase = .open
    }

    @inline(never)
    private func readFailed(_ index: Int, _ count: Int) {
        if count < 0, errno == EAGAIN || errno == EINTR { return }
        if streams[index].phase == .open { return ended(index) }
        failed(index, count == 0 ? "closed before the head" : "read: \(reason(errno))")
    }

    /// The other side ended a stream.
    private func ended(_ index: Int) {
        openCount -= 1
        hot.pointee.counts.ended += 1
        disconnect(index)
        if plan.resumes {
            wait(index)
        } else {
            streams[index].phase = .over
            overCount += 1
        }
    }

    // MARK: After the run

    /// Stalled streams that the server still holds.
    var stalledStillOpen: Int {
        streams.count { stream in
            guard stream.phase == .stalled else { return false }
            var info = tcp_info()
            var length = socklen_t(MemoryLayout<tcp_info>.size)
            guard getsockopt(stream.wire.descriptor, Int32(IPPROTO_TCP), TCP_INFO, &info, &length) == 0 else {
                return false
            }
            return Int(info.tcpi_state) == 1  // TCP_ESTABLISHED
        }
    }
}
