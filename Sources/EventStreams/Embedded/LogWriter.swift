import Dispatch

/// The one thread that writes: takes everything that waits, over all tenants, into one transaction and one sync.
final class LogWriter: Sendable {
    enum Ending {
        /// Write what waits, mark the clean end.
        case drain
        /// Stop as a crash would. For tests.
        case abandon
    }

    private struct Inbox {
        var streams: [EmbeddedStream] = []
        var isUrgent = false
        /// The semaphore was signalled for lazy work, or for urgent work, that was not taken yet.
        var isSignalled = false
        /// There is work that `wake` is to signal.
        var isWakeDue = false
        var ending: Ending?
        var maintenance: [DispatchSemaphore] = []
    }

    private let inbox = Locked(Inbox())
    private let signal = DispatchSemaphore(value: 0)
    private let thread = Locked<WriterThread?>(nil)
    /// Events that retention removes in a step: as many as take a part of a millisecond here.
    private let pace = Locked(64)

    func start(_ core: StoreCore) {
        thread.withLock { $0 = WriterThread(name: "isotherm-log") { [self] in run(core) } }
    }

    /// - Parameter signals: whether the thread hears of it now; else at the next `wake`.
    func enqueue(_ stream: EmbeddedStream, isUrgent: Bool, signals: Bool) {
        let wakes = inbox.withLock { inbox in
            inbox.streams.append(stream)
            let wakes = inbox.isWakeDue || (isUrgent ? !inbox.isUrgent : !inbox.isSignalled)
            inbox.isSignalled = true
            inbox.isUrgent = inbox.isUrgent || isUrgent
            inbox.isWakeDue = wakes && !signals
            return wakes && signals
        }
        if wakes { signal.signal() }
    }

    func wake() {
        let wakes = inbox.withLock { inbox in
            defer { inbox.isWakeDue = false }
            return inbox.isWakeDue
        }
        if wakes { signal.signal() }
    }

    /// Ends the thread and waits for it, unless called on it.
    func stop(_ ending: Ending) {
        inbox.withLock { inbox in
            if inbox.ending == nil { inbox.ending = ending }
            inbox.isUrgent = true
        }
        signal.signal()
        thread.withLock { thread in
            defer { thread = nil }
            return thread
        }?.join()
    }

    /// Runs a retention pass now and waits for it.
    func maintain() {
        let done = DispatchSemaphore(value: 0)
        let isRunning = inbox.withLock { inbox in
            guard inbox.ending == nil else { return false }
            inbox.maintenance.append(done)
            inbox.isUrgent = true
            return true
        }
        guard isRunning else { return }
        signal.signal()
        done.wait()
    }

    // MARK: The thread

    private func run(_ core: StoreCore) {
        let configuration = core.configuration
        let maintenanceInterval: UInt64 = 1_000_000_000
        var nextMaintenance = WallClock.monotonicNano() + maintenanceInterval
        var nextSweep: UInt64 = 0
        let retry = configuration.recoveryInterval
        var retryDelay = retry.lowerBound.clampedNanoseconds
        var nextRetry: UInt64?
        while true {
            let deadline = min(nextMaintenance, nextRetry ?? .max)
            wait(until: deadline)
            // Company for a commit: a little for events that must be durable, more for those that need not be.
            let (hasWork, isUrgent) = inbox.withLock { (!$0.streams.isEmpty, $0.isUrgent) }
            if hasWork && !isUrgent {
                wait(until: WallClock.monotonicNano() + configuration.memoryCommitInterval.clampedNanoseconds)
            } else if isUrgent && configuration.commitInterval > .zero {
                let end = WallClock.monotonicNano() + configuration.commitInterval.clampedNanoseconds
                while inbox.withLock({ $0.ending == nil }), WallClock.monotonicNano() < end { wait(until: end) }
            }
            let work = inbox.withLock { inbox in
                let work = inbox
                inbox.streams = []
                inbox.maintenance = []
                inbox.isUrgent = false
                inbox.isSignalled = false
                inbox.isWakeDue = false
                return work
            }
            if work.ending == .abandon {
                for waiter in work.maintenance { waiter.signal() }
                return
            }
            write(work.streams, core)

            let now = WallClock.monotonicNano()
            if core.failure != nil {
                if let time = nextRetry {
                    if now >= time {
                        core.checkpointer.advance(core)
                        if core.database.probe() == nil {
                            core.setFailure(nil)
                            nextRetry = nil
                            retryDelay = retry.lowerBound.clampedNanoseconds
                        } else {
                            retryDelay = min(retryDelay * 2, max(1, retry.upperBound.clampedNanoseconds))
                            nextRetry = now + retryDelay
                        }
                    }
                } else {
                    nextRetry = now + retryDelay
                }
            }
            if now >= nextMaintenance || !work.maintenance.isEmpty {
                if now >= nextSweep {
                    core.loadAgedLogs()
                    nextSweep = now + 60 * maintenanceInterval
                }
                // For an index that has far to go some of the time, unless somebody waits for it.
                let end = work.maintenance.isEmpty ? now + maintenanceInterval : .max
                for stream in core.allStreams {
                    retire(stream, core, goal: .max, isPaced: work.maintenance.isEmpty)
                    var start = WallClock.monotonicNano()
                    while start < end, inbox.withLock({ $0.ending == nil }),
                        core.indexer.step(stream, core, weight: 256, isIdle: true)
                    {
                        core.checkpointer.advance(core)
                        giveWay(core, since: start, isPaced: work.maintenance.isEmpty)
                        start = WallClock.monotonicNano()
                    }
                }
                nextMaintenance = WallClock.monotonicNano() + maintenanceInterval
                for waiter in work.maintenance { waiter.signal() }
            }
            if work.ending == .drain {
                finish(core)
                return
            }
        }
    }

    private func wait(until deadline: UInt64) {
        let now = WallClock.monotonicNano()
        guard deadline > now else { return }
        _ = signal.wait(timeout: .now() + .nanoseconds(Int(clamping: deadline - now)))
    }

    private struct Share {
        let stream: EmbeddedStream
        var work: LogDatabase.Work
    }

    /// Writes everything that waits in these streams, in as many transactions as the limits ask for.
    private func write(_ streams: [EmbeddedStream], _ core: StoreCore) {
        // One that had lazy and then urgent work is there twice, and must not have two shares in one transaction: both
        // would bring the row of a new epoch.
        var logs = Set<Int64>()
        var remaining = streams.count > 1 ? streams.filter { logs.insert($0.log).inserted } : streams
        while !remaining.isEmpty {
            var shares: [Share] = []
            var next: [EmbeddedStream] = []
            var isSynced = false
            for stream in remaining {
                let (batches, hasMore, epoch, hole, needsSync) = stream.state.withLock { state in
                    let (batches, hasMore) = state.take(
                        events: core.configuration.maximumCommitEvents, bytes: core.configuration.maximumCommitBytes)
                    return (
                        batches, hasMore, state.uncommittedEpoch, state.uncommittedHole, state.needsSync(batches)
                    )
                }
                if hasMore { next.append(stream) }
                guard !batches.isEmpty else { continue }
                var work = LogDatabase.Work(log: stream.log, batches: batches, events: 0, bytes: 0)
                for batch in batches {
                    work.events += batch.events.count
                    work.bytes += batch.bytes
                    if let last = batch.events.last { work.through = last.offset }
                }
                if work.through != nil {
                    work.epoch = epoch
                    work.hole = hole
                }
                isSynced = isSynced || needsSync
                shares.append(Share(stream: stream, work: work))
            }
            if !shares.isEmpty { commit(shares, isSynced: isSynced, core) }
            remaining = next
        }
    }

    private func commit(_ shares: [Share], isSynced: Bool, _ core: StoreCore) {
        if let failure = core.failure { return withdraw(shares, failure, core) }
        let events = shares.reduce(0) { $0 + $1.work.events }
        let bytes = shares.reduce(0) { $0 + $1.work.bytes }
        if events > 0 || isSynced {
            let start = WallClock.monotonicNano()
            let error = core.database.commit(shares.map(\.work), synced: isSynced)
            let nanoseconds = WallClock.monotonicNano() - start
            core.statistics.withLock { statistics in
                if error == nil {
                    statistics.commits += 1
                    statistics.appendedEvents += UInt64(events)
                    statistics.appendedBytes += UInt64(bytes)
                    statistics.lastCommitNanoseconds = nanoseconds
                    statistics.totalCommitNanoseconds += nanoseconds
                } else {
                    statistics.failedCommits += 1
                }
            }
            core.configuration.onCommit?(
                CommitObservation(
                    events: events, logs: shares.count, nanoseconds: nanoseconds, synced: isSynced, error: error?.code))
            if let error {
                core.setFailure(error)
                return withdraw(shares, error, core)
            }
        }
        for share in shares {
            let wakes = share.stream.state.withLock { state in
                state.committed(
                    through: share.work.through, events: share.work.events, bytes: share.work.bytes, synced: isSynced)
            }
            share.stream.disk.withLock { disk in
                if disk.events == 0 { disk.oldestUnixNano = share.work.batches.first?.events.first?.acceptedUnixNano }
                disk.events += share.work.events
                disk.bytes += share.work.bytes
                disk.owedRemovals += 2 * share.work.events
                disk.owedIndexing += 4 * share.work.events
            }
            for batch in share.work.batches { batch.completion?(.success(batch.receipts)) }
            if let wakes { for wake in wakes.values { wake() } }
            // In small steps: a publisher waits for one step at most.
            while share.stream.state.withLock({ $0.evict(atMost: 256) }) {}
        }
        for share in shares { keepUp(share.stream, core) }
        core.checkpointer.advance(core)
    }

    /// After a commit: removes and indexes faster than the log grows, when enough is owed to be worth a step. After a
    /// small commit mostly nothing.
    private func keepUp(_ stream: EmbeddedStream, _ core: StoreCore) {
        let step = pace.withLock { $0 }
        let (removals, indexing) = stream.disk.withLock { disk in
            let due = (
                disk.owedRemovals >= step ? disk.owedRemovals : 0, disk.owedIndexing >= 256 ? disk.owedIndexing : 0
            )
            if due.0 > 0 { disk.owedRemovals = 0 }
            if due.1 > 0 { disk.owedIndexing = 0 }
            return due
        }
        if removals > 0 { retire(stream, core, goal: removals) }
        if indexing > 0 { _ = core.indexer.step(stream, core, weight: indexing, isIdle: false) }
    }

    /// Everything that is not durable leaves every log; its appends fail.
    private func withdraw(_ shares: [Share], _ error: StreamError, _ core: StoreCore) {
        var failed: [(stream: EmbeddedStream, batches: [PendingBatch])] = shares.map { ($0.stream, $0.work.batches) }
        var withdrawn = 0
        for stream in core.allStreams {
            let (batches, events) = stream.state.withLock { $0.withdraw() }
            withdrawn += events
            if !batches.isEmpty { failed.append((stream, batches)) }
        }
        let lost = failed.reduce(0) { sum, element in
            sum + element.batches.reduce(0) { $0 + ($1.durability == .memory ? $1.events.count : 0) }
        }
        core.statistics.withLock { statistics in
            statistics.withdrawnEvents += UInt64(withdrawn)
            statistics.lostMemoryEvents += UInt64(lost)
        }
        for (stream, batches) in failed {
            for batch in batches {
                // A duplicate whose original is durable does not fail for others' sake.
                let isCovered = batch.events.isEmpty && stream.state.withLock { $0.isCovered(batch) }
                batch.completion?(isCovered ? .success(batch.receipts) : .failure(error))
            }
        }
    }

    // MARK: Retention

    /// A step of retention that takes longer is followed by smaller ones. Of the thread's own time: on a busy machine a
    /// step takes as long as the others leave it, whatever its size.
    private static let stepNanoseconds: UInt64 = 400_000
    /// Paced upkeep rests for as many times as long as it has worked.
    private static let rest: UInt64 = 7

    /// Removes old events in short steps: all that are due for a `goal` of `.max`; after a commit about `goal` of them, if
    /// there are enough to be worth it.
    private func retire(_ stream: EmbeddedStream, _ core: StoreCore, goal: Int, isPaced: Bool = false) {
        let configuration = core.configuration
        let step = configuration.retentionStepEvents
        let wallClock = configuration.now()
        let age = configuration.retentionAge.clampedNanoseconds
        let cutoff = wallClock > age ? wallClock - age : 0
        let isThorough = goal == .max
        var removed = 0
        while removed < goal {
            guard core.failure == nil else { return }
            let disk = stream.disk.withLock { $0 }
            var excessEvents = disk.events - configuration.retentionEvents
            var excessBytes = disk.bytes - configuration.retentionBytes
            let isOld = disk.events > 0 && (disk.oldestUnixNano ?? 0) < cutoff
            if isThorough {
                guard excessEvents > 0 || excessBytes > 0 || isOld else { return }
            } else {
                // The rest within a second.
                guard excessEvents >= step || excessBytes > configuration.retentionBytes / 64 else { return }
            }
            let start = WallClock.monotonicNano()
            let startOfWork = WallClock.threadNano()
            let size = min(step, pace.withLock { $0 })
            var events = 0
            do {
                let oldest = try core.database.oldest(log: stream.log, limit: size + 1)
                var through: UInt64?
                var bytes = 0
                for event in oldest.prefix(size) {
                    guard excessEvents > 0 || excessBytes > 0 || event.acceptedUnixNano < cutoff else { break }
                    through = event.offset
                    events += 1
                    bytes += event.bytes
                    excessEvents -= 1
                    excessBytes -= event.bytes
                }
                let oldestLeft = events < oldest.count ? oldest[events].acceptedUnixNano : nil
                guard let through else {
                    stream.disk.withLock { $0.oldestUnixNano = oldestLeft }
                    return
                }
                // Memory first: a reader that misses the events on disk must find out why.
                stream.state.withLock { $0.trim(through: through) }
                try core.database.remove(log: stream.log, through: through, events: events, bytes: bytes)
                stream.disk.withLock { disk in
                    disk.events -= events
                    disk.bytes -= bytes
                    disk.oldestUnixNano = oldestLeft
                }
                core.statistics.withLock { $0.retiredEvents += UInt64(events) }
                while stream.state.withLock({ $0.evict(atMost: 256) }) {}
            } catch {
                // The next pass tries again; a full disk shows in the next commit, damage in the next read.
                core.statistics.withLock { $0.failedRetentionSteps += 1 }
                return
            }
            removed += events
            let work = WallClock.threadNano() - startOfWork
            pace.withLock { pace in
                if work > Self.stepNanoseconds { pace = max(32, pace / 2) }
                if work < Self.stepNanoseconds / 4 { pace = min(step, pace * 2) }
            }
            core.checkpointer.advance(core)
            if isThorough {
                giveWay(core, since: start, isPaced: isPaced)
                guard inbox.withLock({ $0.ending == nil }) else { return }
            }
        }
    }

    /// Between two steps of upkeep: writes what has come during the step, which has waited for no more than that.
    ///
    /// With `isPaced`, upkeep has an eighth of the time. That most appends meet no step is one reason; the other is that
    /// the system lets a thread wait that never rests, on a busy machine for longer than a step takes.
    private func giveWay(_ core: StoreCore, since start: UInt64, isPaced: Bool) {
        writeWaiting(core)
        guard isPaced else { return }
        let now = WallClock.monotonicNano()
        let end = now + min(Self.rest * (now - start), 50_000_000)
        repeat {
            wait(until: end)
            guard inbox.withLock({ $0.ending == nil && $0.maintenance.isEmpty }) else {
                // This signal is for the loop that has called.
                signal.signal()
                return
            }
            writeWaiting(core)
        } while WallClock.monotonicNano() < end
    }

    private func writeWaiting(_ core: StoreCore) {
        let waiting = inbox.withLock { inbox in
            let streams = inbox.streams
            inbox.streams = []
            if inbox.ending == nil, inbox.maintenance.isEmpty {
                inbox.isUrgent = false
                inbox.isSignalled = false
            }
            return streams
        }
        write(waiting, core)
    }

    // MARK: The end

    private func finish(_ core: StoreCore) {
        // Streams take no more appends by now, but one that was sequenced before may not be enqueued yet.
        let streams = core.allStreams
        write(streams, core)
        if core.failure == nil {
            do {
                try core.database.markClean(
                    streams.map { stream in
                        stream.state.withLock { (stream.log, $0.nextOffset, $0.uncommittedHole) }
                    })
            } catch {
                core.setFailure(error)
            }
        }
    }
}
