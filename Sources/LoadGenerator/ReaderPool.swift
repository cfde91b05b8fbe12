import Glibc
import Synchronization

/// The reading threads, and what they know together.
final class ReaderPool {
    let readers: [StreamReader]
    private(set) var threads: [LoadThread] = []
    private var isStopped = false

    init(_ plan: LoadPlan, _ endpoint: Endpoint, _ tag: UInt64) throws(LoadError) {
        var readers: [StreamReader] = []
        for index in 0..<plan.threads {
            let numbers = stride(from: index, to: plan.streams, by: plan.threads)
            readers.append(try StreamReader(plan, endpoint, tag, numbers: Array(numbers)))
        }
        self.readers = readers
        for reader in readers { threads.append(try LoadThread("bench-reader") { reader.run() }) }
    }

    deinit {
        stop()
        for reader in readers { reader.deallocate() }
    }

    /// Ends the threads; the streams stay open, and nobody reads them.
    func stop() {
        guard !isStopped else { return }
        isStopped = true
        for reader in readers { reader.signals.isStopped.store(true, ordering: .relaxed) }
        for thread in threads { thread.join() }
    }

    /// Has the first `count` streams opened.
    func open(_ count: Int) {
        for (index, reader) in readers.enumerated() {
            let wanted = count / readers.count + (index < count % readers.count ? 1 : 0)
            reader.signals.wanted.store(wanted, ordering: .relaxed)
        }
    }

    func measure(from nano: UInt64) {
        for reader in readers { reader.signals.measureFromNano.store(nano, ordering: .relaxed) }
    }

    func cut() {
        for reader in readers { reader.signals.isCut.store(true, ordering: .relaxed) }
    }

    /// Events that were due until then are what the streams have to catch up with.
    func caughtUp(with nano: UInt64) {
        for reader in readers { reader.signals.backNano.store(nano, ordering: .relaxed) }
    }

    var openCount: Int { readers.reduce(0) { $0 + $1.signals.open.load(ordering: .relaxed) } }
    var overCount: Int { readers.reduce(0) { $0 + $1.signals.over.load(ordering: .relaxed) } }
    var backCount: Int { readers.reduce(0) { $0 + $1.signals.back.load(ordering: .relaxed) } }
    var receivedCount: Int { readers.reduce(0) { $0 + $1.signals.received.load(ordering: .relaxed) } }

    // MARK: After `stop`

    var counts: ReaderCounts {
        var counts = ReaderCounts()
        for reader in readers { counts.merge(reader.counts) }
        return counts
    }

    var stalledStillOpen: Int { readers.reduce(0) { $0 + $1.stalledStillOpen } }
}

/// A cut of all streams, and how they come back.
struct ReconnectStorm {
    private let pool: ReaderPool
    private let cut: Int
    private let cutNano: UInt64
    private var backNano: UInt64?

    /// Cuts them.
    init(_ pool: ReaderPool, streams: Int) {
        self.pool = pool
        cut = streams
        cutNano = monotonicNano()
        pool.cut()
    }

    /// Whether all are back.
    mutating func look() -> Bool {
        if backNano == nil, pool.backCount >= cut {
            let now = monotonicNano()
            backNano = now
            pool.caughtUp(with: now)
        }
        return backNano != nil
    }

    /// - Parameter lost: events that had not come at the end.
    func report(_ counts: ReaderCounts, lost: Int) -> LoadReport.Storm {
        var report = LoadReport.Storm()
        report.cut = cut
        report.back = min(cut, pool.backCount)
        let isBack = backNano != nil && counts.lastBackNano > cutNano
        if isBack { report.backSeconds = Double(counts.lastBackNano - cutNano) / 1e9 }
        if isBack, lost == 0 {
            report.completeSeconds = Double(max(counts.lastOldNano, counts.lastBackNano) - cutNano) / 1e9
        }
        let tenths = counts.attemptsAfterCut
        guard let first = tenths.firstIndex(where: { $0 > 0 }), let last = tenths.lastIndex(where: { $0 > 0 }) else {
            return report
        }
        var peak = 0
        for begin in first...last { peak = max(peak, tenths[begin..<min(begin + 10, tenths.count)].reduce(0, +)) }
        report.peakPerSecond = Double(peak)
        // What is over within a second has no rate beyond it.
        report.meanPerSecond = Double(tenths.reduce(0, +)) / max(1, Double(last - first + 1) / 10)
        return report
    }
}
