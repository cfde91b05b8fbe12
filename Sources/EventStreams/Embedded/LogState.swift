/// Where an epoch of a log begins.
struct EpochStart: Equatable, Sendable {
    var epoch: UInt32
    var firstOffset: UInt64
}

/// An append that waits for the disk.
struct PendingBatch: Sendable {
    /// Only the new ones; duplicates are in `receipts` alone.
    var events: [StoredEvent]
    var receipts: [AppendReceipt]
    var durability: Durability
    /// nil when the append has completed already (durability `memory`).
    var completion: (@Sendable (Result<[AppendReceipt], StreamError>) -> Void)?
    var bytes: Int
}

/// One log's sequencing state: a plain machine that decides; ``EmbeddedStream`` locks it and acts.
///
///     trimmedThrough ≤ durableHead < nextOffset,  evictedThrough ≤ durableHead
///     events in (trimmedThrough, durableHead] are on disk, in (evictedThrough, nextOffset) in memory
struct LogState: Sendable {
    struct Wakes: Sendable {
        var append: [UInt64: @Sendable () -> Void] = [:]
        var durable: [UInt64: @Sendable () -> Void] = [:]
        var nextToken: UInt64 = 1
    }

    enum Outcome {
        case refused(StreamError)
        /// `completion` was kept when the batch waits, and is to be called by the caller when `completesNow`.
        case sequenced([AppendReceipt], completesNow: Bool, enqueue: Enqueue, wakes: [UInt64: @Sendable () -> Void]?)
    }

    /// What the writer must be told.
    enum Enqueue {
        case nothing
        /// There is something to write, when convenient.
        case lazily
        case urgently
    }

    let tenant: String
    let tailLimit: (events: Int, bytes: Int)
    let pendingLimit: (events: Int, bytes: Int)
    let maximumEventBytes: Int
    let codec: EventIDCodec

    private(set) var epochs: [EpochStart]
    /// The current epoch's row, until it was committed.
    private(set) var uncommittedEpoch: EpochStart?
    private(set) var holes: LogHoles
    /// What failed commits have left since the last one that did not.
    private(set) var uncommittedHole: ClosedRange<UInt64>?
    private(set) var nextOffset: UInt64
    private(set) var durableHead: UInt64
    /// The last offset that a sync covered.
    private(set) var syncedHead: UInt64
    private(set) var trimmedThrough: UInt64
    private(set) var evictedThrough: UInt64
    private(set) var tail = Ring<StoredEvent>()
    private(set) var tailBytes = 0
    private(set) var pending = Ring<PendingBatch>()
    /// Includes what the writer has taken and not committed yet.
    private(set) var pendingEvents = 0
    private(set) var pendingBytes = 0
    private var idempotency: IdempotencyIndex
    /// What the writer was told and has not acted upon.
    private var enqueued = Enqueue.nothing
    private(set) var isClosed = false
    var wakes = Wakes()

    init(
        tenant: String, configuration: EmbeddedStoreConfiguration, codec: EventIDCodec, record: LogRecord,
        epochs: [EpochStart], generation: UInt32, idempotency: IdempotencyIndex
    ) {
        self.tenant = tenant
        tailLimit = (configuration.tailEvents, configuration.tailBytes)
        pendingLimit = (configuration.pendingEvents, configuration.pendingBytes)
        maximumEventBytes = configuration.maximumEventBytes
        self.codec = codec
        self.idempotency = idempotency
        self.epochs = epochs
        holes = record.holes
        nextOffset = record.nextOffset
        durableHead = record.nextOffset - 1
        syncedHead = durableHead
        evictedThrough = durableHead
        trimmedThrough = record.trimmedThrough
        if epochs.last?.epoch != generation {
            let start = EpochStart(epoch: generation, firstOffset: nextOffset)
            self.epochs.append(start)
            uncommittedEpoch = start
        }
    }

    var head: UInt64 { nextOffset - 1 }
    var epoch: UInt32 { epochs.last?.epoch ?? 0 }

    // MARK: Appending

    mutating func sequence(
        _ events: [NewEvent], durability: Durability, now: UInt64, failure: StreamError?,
        completion: @escaping @Sendable (Result<[AppendReceipt], StreamError>) -> Void
    ) -> Outcome {
        if isClosed { return .refused(StreamError(code: .closed, cause: "the store of \(tenant) is closed")) }
        if let failure { return .refused(failure) }

        // Decide: which events are new, and whether there is room for them.
        var originals: [Int: IdempotencyIndex.Entry] = [:]  // index → what stands for it
        var twins: [Int: Int] = [:]  // index → an earlier index of this batch
        var seen: [ExactText: Int] = [:]
        var newCount = 0
        var newBytes = 0
        for index in events.indices {
            if let key = events[index].idempotencyKey {
                if let entry = idempotency.find(key, now: now) {
                    originals[index] = entry
                    continue
                }
                if let twin = seen[ExactText(key)] {
                    twins[index] = twin
                    continue
                }
                seen[ExactText(key)] = index
            }
            let bytes = events[index].byteCount
            guard bytes <= maximumEventBytes else {
                return .refused(
                    StreamError(
                        code: .tooLarge,
                        cause: "an event for \(tenant)/\(events[index].topic) counts \(bytes) bytes with its fields, "
                            + "the limit is \(maximumEventBytes); send a smaller payload"))
            }
            newCount += 1
            newBytes += bytes
        }
        if let error = refuse(newCount, newBytes) { return .refused(error) }

        // Act.
        var stored: [StoredEvent] = []
        stored.reserveCapacity(newCount)
        var receipts: [AppendReceipt] = []
        receipts.reserveCapacity(events.count)
        let epoch = self.epoch
        for index in events.indices {
            if let original = originals[index] {
                receipts.append(
                    AppendReceipt(
                        offset: original.offset, epoch: original.epoch, isDuplicate: true,
                        originalTraceparent: original.traceparent, codec: codec))
            } else if let twin = twins[index] {
                receipts.append(
                    AppendReceipt(
                        offset: receipts[twin].offset, epoch: epoch, isDuplicate: true,
                        originalTraceparent: events[twin].traceparent, codec: codec))
            } else {
                let offset = nextOffset
                nextOffset += 1
                let element = StoredEvent(events[index], offset: offset, epoch: epoch)
                stored.append(element)
                tail.append(element)
                receipts.append(AppendReceipt(offset: offset, epoch: epoch, codec: codec))
                if let key = element.idempotencyKey {
                    idempotency.claim(
                        key,
                        IdempotencyIndex.Entry(
                            offset: offset, epoch: epoch, acceptedUnixNano: element.acceptedUnixNano,
                            traceparent: element.traceparent), now: now)
                }
            }
        }
        tailBytes += newBytes
        pendingEvents += newCount
        pendingBytes += newBytes
        _ = evict(atMost: 2 * newCount)

        let completesNow = durability == .memory || isDone(receipts, durability)
        if newCount == 0 && completesNow {
            return .sequenced(receipts, completesNow: true, enqueue: .nothing, wakes: nil)
        }
        pending.append(
            PendingBatch(
                events: stored, receipts: receipts, durability: durability,
                completion: completesNow ? nil : completion, bytes: newBytes))
        return .sequenced(
            receipts, completesNow: completesNow, enqueue: enqueue(durability),
            wakes: newCount > 0 && !wakes.append.isEmpty ? wakes.append : nil)
    }

    private func refuse(_ events: Int, _ bytes: Int) -> StreamError? {
        if events > pendingLimit.events || bytes > pendingLimit.bytes {
            return StreamError(
                code: .tooLarge,
                cause: "a batch of \(events) events and \(bytes) bytes for \(tenant) exceeds the bound of "
                    + "\(pendingLimit.events) events and \(pendingLimit.bytes) bytes; split it")
        }
        if pendingEvents + events > pendingLimit.events {
            return StreamError(
                code: .full,
                cause: "\(pendingEvents) of \(pendingLimit.events) events of \(tenant) wait for the disk and "
                    + "\(events) more do not fit; retry shortly, or raise pendingEvents")
        }
        if pendingBytes + bytes > pendingLimit.bytes {
            return StreamError(
                code: .full,
                cause: "\(pendingBytes) of \(pendingLimit.bytes) bytes of \(tenant) wait for the disk and "
                    + "\(bytes) more do not fit; retry shortly, or raise pendingBytes")
        }
        if nextOffset + UInt64(events) > EventPosition.maximumOffset {
            return StreamError(
                code: .tooLarge, cause: "\(tenant) has used all \(EventPosition.maximumOffset) offsets of its log")
        }
        return nil
    }

    private mutating func enqueue(_ durability: Durability) -> Enqueue {
        let isUrgent = durability != .memory || pendingEvents >= pendingLimit.events / 8
        switch (enqueued, isUrgent) {
        case (.urgently, _), (.lazily, false): return .nothing
        case (_, true):
            enqueued = .urgently
            return .urgently
        case (.nothing, false):
            enqueued = .lazily
            return .lazily
        }
    }

    private func isDone(_ receipts: [AppendReceipt], _ durability: Durability) -> Bool {
        let through = durability == .fsync ? min(syncedHead, durableHead) : durableHead
        return receipts.allSatisfy { $0.offset <= through }
    }

    // MARK: The writer's side

    /// What to write next, in order; the rest stays enqueued.
    mutating func take(events limit: Int, bytes byteLimit: Int) -> (batches: [PendingBatch], hasMore: Bool) {
        var batches: [PendingBatch] = []
        var events = 0
        var bytes = 0
        while let next = pending.first {
            if !batches.isEmpty && (events + next.events.count > limit || bytes + next.bytes > byteLimit) { break }
            events += next.events.count
            bytes += next.bytes
            batches.append(next)
            pending.popFirst()
        }
        enqueued = pending.isEmpty ? .nothing : .urgently
        return (batches, !pending.isEmpty)
    }

    /// The highest offset that these batches refer to and that no sync covers yet, if a batch asks for one.
    func needsSync(_ batches: [PendingBatch]) -> Bool {
        batches.contains { batch in
            batch.durability == .fsync
                && (!batch.events.isEmpty || batch.receipts.contains { $0.offset > syncedHead })
        }
    }

    mutating func committed(
        through offset: UInt64?, events: Int, bytes: Int, synced: Bool
    ) -> [UInt64: @Sendable () -> Void]? {
        pendingEvents -= events
        pendingBytes -= bytes
        if let offset {
            durableHead = max(durableHead, offset)
            uncommittedEpoch = nil
            uncommittedHole = nil
        }
        if synced { syncedHead = durableHead }
        return offset == nil || wakes.durable.isEmpty ? nil : wakes.durable
    }

    /// Takes everything that is not durable out of the log again. Offsets stay used.
    mutating func withdraw() -> (batches: [PendingBatch], events: Int) {
        var batches: [PendingBatch] = []
        while let batch = pending.popFirst() { batches.append(batch) }
        enqueued = .nothing
        pendingEvents = 0
        pendingBytes = 0
        idempotency.withdraw(after: durableHead)
        var events = 0
        while let last = tail.last, last.offset > durableHead {
            tail.popLast()
            tailBytes -= last.byteCount
            events += 1
        }
        if durableHead < head {
            holes.add(durableHead + 1...head)
            uncommittedHole = durableHead + 1...head
        }
        return (batches, events)
    }

    /// Whether a batch without events of its own is as durable as asked.
    func isCovered(_ batch: PendingBatch) -> Bool {
        isDone(batch.receipts, batch.durability)
    }

    mutating func trim(through offset: UInt64) {
        trimmedThrough = max(trimmedThrough, offset)
        holes.trim(through: offset)
    }

    mutating func close() {
        isClosed = true
    }

    // MARK: Memory

    /// Lets go of durable events beyond the limits; true when more are left to let go.
    mutating func evict(atMost count: Int) -> Bool {
        for _ in 0..<count {
            guard let oldest = tail.first, oldest.offset <= durableHead,
                tail.count > tailLimit.events || tailBytes > tailLimit.bytes || oldest.offset <= trimmedThrough
            else { return false }
            tail.popFirst()
            tailBytes -= oldest.byteCount
            evictedThrough = oldest.offset
        }
        return true
    }

    /// nil when memory does not reach back to `offset`.
    func tailEvents(after offset: UInt64, limit: Int, byteLimit: Int = .max) -> [StoredEvent]? {
        guard offset >= evictedThrough, offset >= trimmedThrough else { return nil }
        // The first index whose offset is greater; offsets ascend but may have holes.
        var low = 0
        var high = tail.count
        while low < high {
            let middle = (low + high) / 2
            if tail[middle].offset > offset { high = middle } else { low = middle + 1 }
        }
        let available = min(limit, tail.count - low)
        guard available > 0 else { return [] }
        var result: [StoredEvent] = []
        result.reserveCapacity(available)
        var bytes = 0
        for index in low..<low + available {
            let event = tail[index]
            bytes += event.byteCount
            if bytes > byteLimit && !result.isEmpty { break }
            result.append(event)
        }
        return result
    }

    // MARK: Cursors

    /// Where to continue after (`cursorEpoch`, `offset`), which this log's key has authenticated.
    ///
    /// An epoch ends where the next begins, at the last durable offset before the crash. A cursor beyond that end
    /// names an event that was seen and never became durable: it continues at the end, so that nothing durable is
    /// skipped. An epoch without a row was never committed to: it began and ended where the next one begins.
    func resolve(epoch cursorEpoch: UInt32, offset: UInt64) -> CursorResolution {
        let position: UInt64
        if let next = epochs.first(where: { $0.epoch > cursorEpoch }) {
            position = min(offset, next.firstOffset - 1)
        } else if cursorEpoch == epoch && offset <= head {
            position = offset
        } else {
            return .foreign
        }
        return position < trimmedThrough ? .tooOld(earliest: trimmedThrough + 1) : .position(position)
    }
}
