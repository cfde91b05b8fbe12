import EventStreams
import Glibc
import Telemetry

/// Finds out when devices' kernels have what was written to them.
///
/// *Written* means that this machine's kernel has an event. That the device's has it, the kernel knows from TCP's
/// acknowledgements (`TCP_INFO`): bytes that were sent once, bytes that wait, bytes that were acknowledged. Right after a
/// write the first two say which byte is the event's last; it has arrived once the third gets there. Holds for TLS and
/// HTTP/2 alike, where other bytes may stand before it.
///
/// Asking costs a system call (about 1 µs), so connections are sampled: a budget of calls per second, of which the
/// sampled connections that are still open questions have the first right. Belongs to one loop.
final class AcknowledgementSampler {
    private struct Question {
        let subscription: Subscription
        let event: StoredEvent
        /// Acknowledged bytes at which the event has arrived.
        let target: UInt64
        let askedUnixNano: UInt64
        var waitNano: UInt64
        var nextUnixNano: UInt64
    }

    private let loop: any DeliveryLoop
    private let recorder: DeliveryRecorder
    private let metrics: PipelineMetrics
    private let probesPerSecond: Double
    private var tokens: Double
    private var refilledUnixNano: UInt64 = 0
    private var questions: [Question] = []
    private var isTimerArmed = false

    /// Questions that are open at once; with more, nothing new is sampled.
    private static let maxQuestions = 64
    /// A sample needs this many calls in the budget, so that the questions after the first can be asked.
    private static let tokensPerSample = 8.0
    private static let firstWaitNano: UInt64 = 500_000
    private static let maxWaitNano: UInt64 = 250_000_000
    /// A device that acknowledges nothing for so long is counted as not confirmed.
    private static let patienceNano: UInt64 = 30_000_000_000

    init(loop: any DeliveryLoop, recorder: DeliveryRecorder, metrics: PipelineMetrics, probesPerSecond: Int) {
        self.loop = loop
        self.recorder = recorder
        self.metrics = metrics
        self.probesPerSecond = Double(max(0, probesPerSecond))
        tokens = Double(max(0, probesPerSecond))
    }

    /// Samples this delivery if the budget allows; the socket has just taken it.
    @inline(__always)
    func offer(_ event: StoredEvent, to subscription: Subscription) {
        guard probesPerSecond > 0, questions.count < Self.maxQuestions else { return }
        begin(event, to: subscription)
    }

    @inline(never)
    private func begin(_ event: StoredEvent, to subscription: Subscription) {
        let now = Clock.now().unixNano
        refill(now)
        guard tokens >= Self.tokensPerSample, subscription.transport.probedDescriptor >= 0 else { return }
        tokens -= 1
        guard let info = TCPProgress(subscription.transport.probedDescriptor) else { return }
        if info.acknowledgedBytes >= info.handedBytes {
            return confirm(event, subscription, info, now, since: now)
        }
        questions.append(
            Question(
                subscription: subscription, event: event, target: info.handedBytes, askedUnixNano: now,
                waitNano: Self.firstWaitNano, nextUnixNano: now + Self.firstWaitNano))
        arm(afterNano: Self.firstWaitNano)
    }

    private func refill(_ now: UInt64) {
        if refilledUnixNano > 0, now > refilledUnixNano {
            tokens = min(probesPerSecond, tokens + Double(now - refilledUnixNano) / 1e9 * probesPerSecond)
        }
        refilledUnixNano = now
    }

    private func arm(afterNano nano: UInt64) {
        guard !isTimerArmed else { return }
        isTimerArmed = true
        let box = LoopConfined(self)
        loop.schedule(after: .nanoseconds(Int64(nano))) { box.value.ask() }
    }

    private func ask() {
        isTimerArmed = false
        let now = Clock.now().unixNano
        refill(now)
        var left: [Question] = []
        for var question in questions {
            // Its descriptor may be another connection's by now.
            if question.subscription.state == .closed {
                metrics.closedUnconfirmed.add()
                continue
            }
            guard question.nextUnixNano <= now, tokens >= 1 else {
                left.append(question)
                continue
            }
            tokens -= 1
            if let info = TCPProgress(question.subscription.transport.probedDescriptor),
                info.acknowledgedBytes >= question.target
            {
                confirm(question.event, question.subscription, info, now, since: question.askedUnixNano)
            } else if now - question.askedUnixNano > Self.patienceNano {
                metrics.unconfirmed.add()
            } else {
                question.waitNano = min(2 * question.waitNano, Self.maxWaitNano)
                question.nextUnixNano = now + question.waitNano
                left.append(question)
            }
        }
        questions = left
        if let next = left.map(\.nextUnixNano).min() {
            arm(afterNano: max(Self.firstWaitNano, next > now ? next - now : 0))
        }
    }

    /// The kernel tells how long ago it got the last acknowledgement, in milliseconds: the question may come later.
    private func confirm(
        _ event: StoredEvent, _ subscription: Subscription, _ info: TCPProgress, _ now: UInt64, since asked: UInt64
    ) {
        let at = max(asked, now - min(now, UInt64(info.sinceAcknowledgementMilliseconds) * 1_000_000))
        metrics.acknowledged.add()
        subscription.tenant.journal.acknowledged(
            Acknowledgement(offset: event.offset, session: subscription.session.number, atUnixNano: at))
        recorder.acknowledged(event, by: subscription, atUnixNano: at)
    }
}

/// How far TCP is with what was handed to a socket (Linux, `struct tcp_info` in `linux/tcp.h`; offsets are its ABI).
struct TCPProgress {
    /// Bytes of the stream that were handed to the socket, sent or not.
    let handedBytes: UInt64
    let acknowledgedBytes: UInt64
    let sinceAcknowledgementMilliseconds: UInt32

    /// nil where the descriptor is no TCP socket, or the kernel is older than 4.19.
    init?(_ descriptor: Int32) {
        let size = 232
        let fields: TCPProgress? = withUnsafeTemporaryAllocation(byteCount: size, alignment: 8) { info in
            var length = socklen_t(size)
            guard getsockopt(descriptor, Int32(IPPROTO_TCP), TCP_INFO, info.baseAddress, &length) == 0, length >= 216
            else { return nil }
            let sent = info.load(fromByteOffset: 200, as: UInt64.self)
            let repeated = info.load(fromByteOffset: 208, as: UInt64.self)
            let waiting = info.load(fromByteOffset: 144, as: UInt32.self)
            return TCPProgress(
                handedBytes: sent - min(sent, repeated) + UInt64(waiting),
                acknowledgedBytes: info.load(fromByteOffset: 120, as: UInt64.self),
                sinceAcknowledgementMilliseconds: info.load(fromByteOffset: 56, as: UInt32.self))
        }
        guard let fields else { return nil }
        self = fields
    }

    private init(handedBytes: UInt64, acknowledgedBytes: UInt64, sinceAcknowledgementMilliseconds: UInt32) {
        self.handedBytes = handedBytes
        self.acknowledgedBytes = acknowledgedBytes
        self.sinceAcknowledgementMilliseconds = sinceAcknowledgementMilliseconds
    }
}
