import CEpoll
import Glibc
import LatencyHeatmap
import Synchronization

/// What a publisher has counted.
struct PublisherCounts: Sendable {
    /// Measured events: those due from the end of the warm-up on.
    var due = 0
    var sent = 0
    var accepted = 0
    /// By status; measured or not.
    var refused: [Int: Int] = [:]
    /// Requests whose connection broke, or that were not answered in time; measured or not.
    var unanswered = 0
    /// From sending to the answer, of measured events.
    var answers = Sketch()
    /// How late the latest event was sent, in nanoseconds.
    var maxLag: UInt64 = 0
    var endNano: UInt64 = 0
    var failure: String?
    /// For each channel: how many events were sent, and the number of the first measured one.
    var channelSent: [Int] = []
    var channelMeasuredFrom: [Int] = []
    /// For each channel the numbers of events that were not accepted.
    var channelRefused: [Int: Set<Int>] = [:]
}

/// Publishes at a fixed rate, or as fast as the answers come, on one thread.
///
/// An event is due at its time whether or not the server has answered those before; it carries that time, and what it waits
/// for a free connection is part of its latency.
final class EventPublisher: @unchecked Sendable {  // `run` has a thread of its own; the rest is read after it has ended
    let isStopped = Atomic<Bool>(false)
    let isDone = Atomic<Bool>(false)
    /// Deliveries that the accepted events make.
    let expected = Atomic<Int>(0)
    private(set) var counts = PublisherCounts()

    private struct Producer {
        var wire = Wire()
        var channel = 0
        var sequence = 0
        var isMeasured = false
        var sentNano: UInt64 = 0
        var isBusy = false
        /// What the socket has not taken yet.
        var rest: [UInt8] = []
        /// Where its answer is gathered.
        let answer = UnsafeMutablePointer<UInt8>.allocate(capacity: answerBytes)
        var answerCount = 0
    }

    private static let answerBytes = 16 << 10

    private let plan: LoadPlan
    private let endpoint: Endpoint
    private let tls: TLSClient?
    private let tag: UInt64
    private let poller: Poller
    private let timer: Int32
    private var requests: [UnsafeMutableBufferPointer<UInt8>] = []
    private var payloadAt: [Int] = []
    private var producers: [Producer]
    private var free: [Int]
    private let streamsOfChannel: [Int]
    private var nextEvent = 0
    private let startNano: UInt64
    let measureFromNano: UInt64
    private let endNano: UInt64
    private let deadlineNano: UInt64

    /// - Parameter startNano: when the first event is due.
    init(
        _ plan: LoadPlan, _ endpoint: Endpoint, _ tag: UInt64, startNano: UInt64, streamsOfChannel: [Int]
    ) throws(LoadError) {
        self.plan = plan
        self.endpoint = endpoint
        tls = try plan.target.publishesSecurely ? TLSClient(offers: "http/1.1") : nil
        self.tag = tag
        self.startNano = startNano
        self.streamsOfChannel = streamsOfChannel
        measureFromNano = startNano + plan.warmUp.nano
        endNano = measureFromNano + plan.duration.nano
        deadlineNano = endNano + plan.drain.nano
        for channel in 0..<plan.channels {
            let (bytes, at) = try plan.target.publishRequest(channel: channel, size: plan.size)
            let copy = UnsafeMutableBufferPointer<UInt8>.allocate(capacity: bytes.count)
            _ = copy.initialize(from: bytes)
            requests.append(copy)
            payloadAt.append(at)
        }
        poller = try Poller()
        timer = timerfd_create(CLOCK_MONOTONIC, Int32(TFD_NONBLOCK))
        guard timer >= 0 else { throw LoadError(code: .system, cause: "timerfd: \(reason(errno))") }
        poller.add(timer, Poller.input, as: plan.publishers)
        producers = (0..<plan.publishers).map { _ in Producer() }
        free = Array((0..<plan.publishers).reversed())
        counts.channelSent = [Int](repeating: 0, count: plan.channels)
        counts.channelMeasuredFrom = [Int](repeating: -1, count: plan.channels)
        for index in producers.indices {
            guard open(index) else { throw LoadError(code: .refused, cause: counts.failure ?? "") }
        }
    }

    func deallocate() {
        for request in requests { request.deallocate() }
        for index in producers.indices {
            producers[index].wire.close()
            producers[index].answer.deallocate()
        }
        close(timer)
        poller.deallocate()
    }

    private func open(_ index: Int) -> Bool {
        producers[index].wire.close()
        let descriptor = endpoint.connect(source: 0, isBlocking: true)
        var cause = descriptor < 0 ? reason(-descriptor) : nil
        if descriptor >= 0 {
            producers[index].wire = Wire(descriptor, tls)
            while cause == nil, let step = producers[index].wire.shakeHands() {
                var waited = pollfd(fd: descriptor, events: Int16(truncatingIfNeeded: step.interest), revents: 0)
                // EPOLLIN and POLLIN are the same bit, and so are EPOLLOUT and POLLOUT.
                cause = step.cause ?? (poll(&waited, 1, 5_000) > 0 ? nil : "TLS: no answer within 5 s")
            }
        }
        guard cause == nil else {
            counts.failure = "a publisher's connection to port \(endpoint.port): \(cause ?? "")"
            return false
        }
        producers[index].answerCount = 0
        poller.add(descriptor, Poller.input, as: index)
        return true
    }

    func run() {
        var isOpen = true
        while isOpen {
            let now = monotonicNano()
            isOpen = now < deadlineNano && counts.failure == nil
            if isStopped.load(ordering: .relaxed) { break }
            let next = sendDue(now)
            if next == nil, free.count == plan.publishers { break }
            if let next, next > now {
                var at = itimerspec()
                at.it_value.tv_sec = Int(next / 1_000_000_000)
                at.it_value.tv_nsec = Int(next % 1_000_000_000)
                timerfd_settime(timer, Int32(TFD_TIMER_ABSTIME), &at, nil)
            }
            let count = poller.wait(milliseconds: 50)
            for index in 0..<count {
                let number = poller.number(index)
                guard number < producers.count else {
                    var ticks: UInt64 = 0
                    _ = read(timer, &ticks, 8)
                    continue
                }
                if !producers[number].rest.isEmpty { writeRest(number) }
                while receive(number), producers[number].wire.hasMore {}
            }
        }
        for index in producers.indices where producers[index].isBusy { notAccepted(index, status: nil) }
        let end = monotonicNano()
        counts.endNano = end
        counts.due = plan.rate.map { _ in dueEvents(until: min(end, endNano)) } ?? counts.sent
        isDone.store(true, ordering: .releasing)
    }

    /// Measured events that were due before a moment.
    private func dueEvents(until moment: UInt64) -> Int {
        guard let rate = plan.rate, moment > measureFromNano else { return 0 }
        func before(_ nano: UInt64) -> Int { Int((Double(nano) * rate / 1e9).rounded(.up)) }
        return before(moment - startNano) - before(measureFromNano - startNano)
    }

    /// Sends what is due to the free connections; when the next event is due, nil after the last one.
    private func sendDue(_ now: UInt64) -> UInt64? {
        while true {
            var due = now
            if let rate = plan.rate { due = startNano + UInt64(Double(nextEvent) * 1e9 / rate) }
            guard due < endNano else { return nil }
            guard due <= now, let index = free.popLast() else { return due }
            send(index, due, plan.rate == nil ? monotonicNano() : now)
        }
    }

    private func send(_ index: Int, _ due: UInt64, _ now: UInt64) {
        let channel = nextEvent % plan.channels
        nextEvent += 1
        let sequence = counts.channelSent[channel]
        counts.channelSent[channel] += 1
        let isMeasured = due >= measureFromNano
        if isMeasured {
            if counts.channelMeasuredFrom[channel] < 0 { counts.channelMeasuredFrom[channel] = sequence }
            counts.sent += 1
            counts.maxLag = max(counts.maxLag, now - due)
        }
        producers[index].channel = channel
        producers[index].sequence = sequence
        producers[index].isMeasured = isMeasured
        producers[index].sentNano = now
        producers[index].isBusy = true
        let request = requests[channel]
        guard let start = request.baseAddress else { return }
        EventPayload(dueNano: due, channel: channel, publisher: index, sequence: sequence)
            .write(tag: tag, to: start + payloadAt[channel])
        let count = producers[index].wire.send(start, request.count)
        if count == request.count { return }
        guard count >= 0 || errno == EAGAIN else { return broken(index) }
        producers[index].rest = Array(request[max(0, count)...])
        poller.change(producers[index].wire.descriptor, Poller.input | Poller.output, as: index)
    }

    private func writeRest(_ index: Int) {
        let rest = producers[index].rest
        let count = producers[index].wire.send(rest, rest.count)
        guard count >= 0 else {
            if errno != EAGAIN { broken(index) }
            return
        }
        producers[index].rest.removeFirst(count)
        if count == rest.count { poller.change(producers[index].wire.descriptor, Poller.input, as: index) }
    }

    /// False when there was nothing to read.
    private func receive(_ index: Int) -> Bool {
        let producer = producers[index]
        let count = producer.wire.read(producer.answer + producer.answerCount, Self.answerBytes - producer.answerCount)
        if count < 0, errno == EAGAIN || errno == EINTR { return false }
        if count > 0 { gather(index, count) } else { broken(index) }
        return count > 0
    }

    /// Looks whether an answer is complete.
    private func gather(_ index: Int, _ count: Int) {
        let producer = producers[index]
        let total = producer.answerCount + count
        producers[index].answerCount = total
        guard let head = ResponseHead(UnsafePointer(producer.answer), total) else {
            if total == Self.answerBytes { broken(index) }
            return
        }
        // Of a chunked body nothing but its end is looked for.
        if head.isChunked {
            guard total >= head.bodyAt + 5, memcmp(producer.answer + total - 5, "0\r\n\r\n", 5) == 0 else {
                if total == Self.answerBytes { broken(index) }
                return
            }
        } else if let length = head.contentLength, total < head.bodyAt + length {
            if head.bodyAt + length > Self.answerBytes { broken(index) }
            return
        }
        answered(index, head)
    }

    private func answered(_ index: Int, _ head: ResponseHead) {
        guard producers[index].isBusy else { return broken(index) }
        producers[index].answerCount = 0
        if producers[index].isMeasured {
            counts.answers.insert(nanoseconds: monotonicNano() - producers[index].sentNano)
        }
        if (200..<300).contains(head.status) {
            if producers[index].isMeasured { counts.accepted += 1 }
            expected.wrappingAdd(streamsOfChannel[producers[index].channel], ordering: .relaxed)
            release(index)
        } else {
            notAccepted(index, status: head.status)
        }
        if head.closes { _ = open(index) }
    }

    private func notAccepted(_ index: Int, status: Int?) {
        counts.channelRefused[producers[index].channel, default: []].insert(producers[index].sequence)
        if let status { counts.refused[status, default: 0] += 1 } else { counts.unanswered += 1 }
        release(index)
    }

    private func release(_ index: Int) {
        producers[index].isBusy = false
        free.append(index)
    }

    /// A connection ended; between two requests that is any server's right.
    private func broken(_ index: Int) {
        producers[index].rest = []
        if producers[index].isBusy { notAccepted(index, status: nil) }
        _ = open(index)
    }
}
