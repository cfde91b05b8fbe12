import CCurl
import OTLP

/// What the exporter's thread does: keeps a few requests under way, tries again what may be tried again, and moves
/// batches to disk while the endpoint is away.
///
/// Retries by OTLP's rules: 429, 502, 503, 504, a connection that could not be made and one that broke before an answer
/// are tried again, with the same bytes, until the export time-out; everything else is final. With a disk queue there is
/// one request at a time and no time-out: after the first failure all batches go through the disk, in order, until it is
/// empty, and a request that is not answered is sent again.
final class ExportLoop {
    private let exporter: Exporter
    private let settings: OTLPExporterSettings
    private let multi: CurlMulti
    private let encoder: PayloadEncoder
    private let slots: [Slot]
    private let disk: DiskQueue?

    /// One request at a time.
    private final class Slot {
        let transfer: Transfer
        let payload = PayloadBuffer()
        var delivery: Delivery?
        var isRunning = false
        var backoff: Backoff
        /// Nothing is sent before.
        var resumeAt = ContinuousClock.now

        init(transfer: Transfer, backoff: Backoff) {
            self.transfer = transfer
            self.backoff = backoff
        }
    }

    /// A batch on its way, and what it was split into.
    private struct Delivery {
        /// What is left to send, the next one last.
        var parts: [Batch]
        var isEncoded = false
        /// Nil for one from disk.
        let sequence: UInt64?
        let deadline: ContinuousClock.Instant?
        var isRecovered = false
        let begin = ContinuousClock.now
        /// Why something of it was lost.
        var errorType: String?

        var itemCount: Int { parts.reduce(0) { $0 + $1.itemCount } }
    }

    private static let idleWait = Duration.seconds(60)

    /// Nil for want of memory.
    init?(exporter: Exporter, multi: CurlMulti) {
        self.exporter = exporter
        self.multi = multi
        settings = exporter.settings
        encoder = PayloadEncoder(signal: exporter.signal, settings: settings)
        disk = Self.openDisk(exporter)
        var slots: [Slot] = []
        for _ in 0..<(disk == nil ? max(1, settings.maxConcurrentRequests) : 1) {
            guard let transfer = Transfer(settings: settings, encoder: encoder) else { return nil }
            slots.append(Slot(transfer: transfer, backoff: Backoff(settings)))
        }
        self.slots = slots
        if settings.compression == .zstd, encoder.contentEncoding != "zstd" {
            exporter.warn("libzstd.so.1 cannot be loaded; \(exporter.signal.rawValue) are compressed with gzip")
        }
    }

    private static func openDisk(_ exporter: Exporter) -> DiskQueue? {
        guard let settings = exporter.diskQueue else { return nil }
        do {
            let disk = try DiskQueue(
                directory: "\(settings.directory)/\(exporter.signal.rawValue)", maxBytes: settings.maxBytes)
            exporter.foundOnDisk(disk.status.items)
            exporter.setDisk(disk.status)
            return disk
        } catch {
            exporter.warn("\(exporter.signal.rawValue) have no disk queue: \(error)")
            return nil
        }
    }

    func run() {
        while true {
            let wishes = exporter.wishes
            if wishes.isAborted { return giveUp() }
            moveToDisk()
            for slot in slots where !slot.isRunning { start(slot) }
            multi.perform()
            var isAnyDone = false
            while let (handle, result) = multi.nextDone() {
                guard let slot = slots.first(where: { $0.transfer.handle == handle }) else { continue }
                isAnyDone = true
                slot.isRunning = false
                multi.remove(slot.transfer)
                conclude(slot, slot.transfer.answer(result))
            }
            if isAnyDone { continue }
            // What waits on disk for the end of a backoff stays there for the next process.
            let isIdle = slots.allSatisfy { $0.delivery == nil || $0.delivery?.sequence == nil && !$0.isRunning }
            if isIdle, wishes.isStopping, !exporter.wishes.hasQueued { return }
            multi.wait(timeToWait)
        }
    }

    private var timeToWait: Duration {
        let isAnyOnDisk = disk.map { !$0.isEmpty } ?? false
        // A batch may wait for a slot that is free again only after its backoff.
        let hasWork = isAnyOnDisk || exporter.wishes.hasQueued
        var next: ContinuousClock.Instant?
        for slot in slots where !slot.isRunning && (slot.delivery != nil || hasWork) {
            next = min(next ?? slot.resumeAt, slot.resumeAt)
        }
        guard let next else { return Self.idleWait }
        // Never early, and never a busy loop.
        return max(.milliseconds(1), next - .now + .milliseconds(1))
    }

    // MARK: Sending

    /// Begins the next request, unless it has to wait.
    private func start(_ slot: Slot) {
        guard slot.resumeAt <= .now else { return }
        while !slot.isRunning {
            if slot.delivery == nil { slot.delivery = nextDelivery(slot) }
            guard let delivery = slot.delivery, let part = delivery.parts.last else { return }
            switch encode(part, slot) {
            case nil: continue
            case .some(let bytes):
                let left = delivery.deadline.map { $0 - .now } ?? settings.timeout
                slot.transfer.prepare(bytes, timeout: min(settings.timeout, max(left, .milliseconds(1))))
                multi.add(slot.transfer)
                slot.isRunning = true
            }
        }
    }

    private func nextDelivery(_ slot: Slot) -> Delivery? {
        if let disk, !disk.isEmpty {
            let head = disk.takeHead()
            reportDiskLosses()
            guard let head else { return nil }
            let batch = Batch(body: head.body, itemCount: head.itemCount)
            return Delivery(parts: [batch], sequence: nil, deadline: nil, isRecovered: head.isRecovered)
        }
        guard let (batch, sequence) = exporter.next() else { return nil }
        if disk == nil { slot.backoff = Backoff(settings) }
        return Delivery(parts: [batch], sequence: sequence, deadline: .now + settings.exportTimeout)
    }

    /// The bytes to send; nil where the part had to be split or given up.
    private func encode(_ part: Batch, _ slot: Slot) -> UnsafeRawBufferPointer? {
        if slot.delivery?.isEncoded == true { return slot.payload.bytes }
        do {
            switch try encoder.encode(part.body(), into: slot.payload, maxBytes: settings.maxRequestBytes) {
            case .asIs: return part.body()
            case .encoded:
                slot.delivery?.isEncoded = true
                return slot.payload.bytes
            case .tooLarge:
                split(slot, "a request of more than \(settings.maxRequestBytes) bytes")
                return nil
            }
        } catch {
            lose(part.itemCount, .corrupt, "\(error)", slot)
            finishPart(slot)
            return nil
        }
    }

    // MARK: Answers

    private func conclude(_ slot: Slot, _ answer: Answer) {
        guard let delivery = slot.delivery, let part = delivery.parts.last else { return }
        switch answer {
        case .accepted(let rejected, let message):
            exporter.accepted(
                part.itemCount, rejected: rejected, message: message, isRecovered: delivery.isRecovered)
            slot.backoff = Backoff(settings)
            finishPart(slot)
        case .refused(let cause):
            lose(part.itemCount, nil, cause, slot)
            finishPart(slot)
        case .tooLarge(let cause):
            split(slot, cause)
        case .unanswered(let cause) where disk == nil:
            lose(part.itemCount, .retryExpired, cause, slot)
            finishPart(slot)
        case .unanswered(let cause):
            retry(slot, cause, after: nil)
        case .retry(let cause, let after):
            retry(slot, cause, after: after)
        }
    }

    private func lose(_ count: Int, _ reason: ExportLedger.DropReason?, _ cause: String, _ slot: Slot) {
        slot.delivery?.errorType = reason?.rawValue ?? "rejected"
        exporter.lost(count, reason, cause, isRecovered: slot.delivery?.isRecovered ?? false)
    }

    /// One part is done with, for better or worse.
    private func finishPart(_ slot: Slot) {
        slot.delivery?.parts.removeLast()
        slot.delivery?.isEncoded = false
        if slot.delivery?.parts.isEmpty ?? true { finish(slot) }
    }

    private func finish(_ slot: Slot) {
        guard let delivery = slot.delivery else { return }
        slot.delivery = nil
        exporter.operationEnded(after: .now - delivery.begin, errorType: delivery.errorType)
        if let sequence = delivery.sequence {
            exporter.finish(sequence, disk: disk?.status)
        } else if let disk {
            disk.finishHead()
            reportDiskLosses()
        }
    }

    /// Two halves take the place of a part that is too large; an item that is so by itself is dropped.
    private func split(_ slot: Slot, _ cause: String) {
        guard let part = slot.delivery?.parts.last else { return }
        let request = exporter.signal.request
        do {
            let count = try request.itemCount(part.body())
            guard count > 1 else {
                lose(part.itemCount, .oversize, cause, slot)
                return finishPart(slot)
            }
            let first = try request.part(part.body(), items: 0..<count / 2)
            let second = try request.part(part.body(), items: count / 2..<count)
            slot.delivery?.parts.removeLast()
            slot.delivery?.isEncoded = false
            slot.delivery?.parts.append(Batch(body: second, itemCount: part.itemCount - count / 2))
            slot.delivery?.parts.append(Batch(body: first, itemCount: count / 2))
        } catch {
            lose(part.itemCount, .corrupt, "\(error)", slot)
            finishPart(slot)
        }
    }

    // MARK: Trying again

    private func retry(_ slot: Slot, _ cause: String, after: Duration?) {
        guard let delivery = slot.delivery else { return }
        exporter.attemptFailed()
        let wait = slot.backoff.wait(retryAfter: after)
        if let deadline = delivery.deadline, disk == nil, .now + wait >= deadline {
            lose(delivery.itemCount, .retryExpired, cause, slot)
            return finish(slot)
        }
        slot.resumeAt = .now + wait
        guard let disk else { return }
        if delivery.sequence != nil {
            store(delivery)
            slot.delivery = nil
            moveToDisk()
        } else if disk.isHeadGone {
            lose(delivery.itemCount, .queueFull, "the disk queue is full; \(cause)", slot)
            finish(slot)
        }
    }

    /// While anything is on disk, everything goes there, so that the order stays.
    private func moveToDisk() {
        guard let disk, !disk.isEmpty else { return }
        storeQueue(disk)
    }

    private func storeQueue(_ disk: DiskQueue) {
        while let (batch, sequence) = exporter.next() {
            store(Delivery(parts: [batch], sequence: sequence, deadline: nil))
        }
        disk.sync()
    }

    private func store(_ delivery: Delivery) {
        guard let disk, let sequence = delivery.sequence else { return }
        for part in delivery.parts.reversed() {
            do {
                try disk.append(part.body(), itemCount: part.itemCount, sequence: sequence)
            } catch {
                exporter.lost(part.itemCount, .queueFull, "\(error)", isRecovered: false)
            }
        }
        reportDiskLosses()
        exporter.finish(sequence, disk: disk.status)
    }

    private func reportDiskLosses() {
        guard let disk else { return }
        for loss in disk.takeLosses() {
            let cause = loss.reason == .corrupt ? "damaged" : "full"
            exporter.lost(
                loss.itemCount, loss.reason, "\(disk.directory) is \(cause)", isRecovered: loss.isRecovered)
        }
        exporter.setDisk(disk.status)
    }

    /// Aborted: what is under way may have been taken or not.
    private func giveUp() {
        for slot in slots {
            if slot.isRunning { multi.remove(slot.transfer) }
            guard let delivery = slot.delivery else { continue }
            if disk == nil {
                lose(delivery.itemCount, .shutdown, "aborted", slot)
            } else if delivery.sequence != nil {
                store(delivery)
            }
            slot.delivery = nil
        }
        if let disk { storeQueue(disk) }
    }
}
