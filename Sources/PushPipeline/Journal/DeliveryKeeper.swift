import Dispatch
import EventStreams
import GRDB
import Glibc
import Synchronization
import Telemetry

/// Keeps the journal of deliveries on the disk, so that who got an event is known after a restart.
///
/// Once a second a thread of its own asks every loop for what is new and writes it in one transaction. A disk that is slow,
/// full or broken costs no delivery: meanwhile the journals in memory hold what they can, and what leaves them is counted and
/// told as a gap. A file that is damaged is put aside, and a new one begun.
public final class DeliveryKeeper: Sendable {
    public struct Statistics: Sendable, Equatable {
        /// Broadcasts, acknowledgements, changes of connections, and receipts.
        public var writtenRows: UInt64 = 0
        /// Rows of the file that were older than the log, or that were too many.
        public var expiredRows: UInt64 = 0
        public var evictedRows: UInt64 = 0
        /// That left memory before they could be written.
        public var lostRows: UInt64 = 0
        public var failedWrites: UInt64 = 0
        public var damagedFiles: UInt64 = 0
        /// Of the rows, without the database's own.
        public var bytes = 0
        public var isFailing = false
    }

    /// What a log should say once.
    public enum Notice: Sendable {
        case failing(cause: String)
        case recovered
        case damaged(movedTo: String, cause: String)
    }

    public struct Configuration: Sendable {
        public var path: String
        /// Of each tenant.
        public var byteLimit: Int
        /// As the log's.
        public var retentionAge: Duration
        public var writeInterval = Duration.seconds(1)
        /// How often what is too old is looked for.
        public var trimInterval = Duration.seconds(60)
        /// How long a loop may take to answer.
        public var patience = Duration.seconds(5)

        public init(path: String, byteLimit: Int, retentionAge: Duration) {
            self.path = path
            self.byteLimit = byteLimit
            self.retentionAge = retentionAge
        }
    }

    /// While nothing happens, the time until which that is known is written no more often than this.
    private static let idleNano: UInt64 = 10_000_000_000

    private struct State {
        var file: DeliveryFile?
        var statistics = Statistics()
        /// A question has found the file damaged.
        var damage: String?
        var inbox: [JournalSlice] = []
        var asked: Set<Int> = []
        var isEnding = false
        var thread: WriterThread?
    }

    private let configuration: Configuration
    private let notify: @Sendable (Notice) -> Void
    private let state = Mutex(State())
    private let wake = DispatchSemaphore(value: 0)
    private let answered = DispatchSemaphore(value: 0)

    /// Opens the file or makes it. Blocks on the disk. Whatever is wrong with it is reported, and tried again by and by.
    public init(configuration: Configuration, notify: @escaping @Sendable (Notice) -> Void) {
        self.configuration = configuration
        self.notify = notify
        open()
    }

    public var statistics: Statistics { state.withLock { $0.statistics } }

    // MARK: Running

    func start(_ hub: Hub) {
        let thread = WriterThread(name: "isotherm-keep") { [self, weak hub] in run { hub } }
        state.withLock { $0.thread = thread }
    }

    /// Writes what there is and ends. The loops must still run. Blocks; idempotent.
    public func close() {
        let thread = state.withLock { state in
            state.isEnding = true
            defer { state.thread = nil }
            return state.thread
        }
        wake.signal()
        thread?.join()
        guard
            let file = state.withLock({ state in
                defer { state.file = nil }
                return state.file
            })
        else { return }
        do { try file.close() } catch { failed(error) }
    }

    private func run(_ hub: () -> Hub?) {
        var worker = Worker(keeper: self)
        while true {
            let isTimeOut =
                wake.wait(timeout: .now() + Double(configuration.writeInterval.nanoseconds) / 1e9) == .timedOut
            guard let hub = hub() else { return }
            worker.beat(hub)
            guard !isTimeOut, state.withLock({ $0.isEnding }) else { continue }
            // What could not be written before may have stood in the way of the rest.
            worker.beat(hub)
            return
        }
    }

    /// What the thread has at hand. A batch that could not be written is tried again before anything new is taken.
    private struct Worker {
        let keeper: DeliveryKeeper
        var batch: KeptBatch?
        /// The file has not heard of what is open.
        var isAnew = true
        weak var file: DeliveryFile?
        var writtenUnixNano: UInt64 = 0
        var trimmedUnixNano: UInt64 = Clock.now().unixNano

        mutating func beat(_ hub: Hub) {
            guard let file = keeper.usableFile() else { return }
            if self.file !== file { (self.file, isAnew) = (file, true) }
            var batch = self.batch ?? keeper.take(from: hub, isAnew: isAnew)
            if self.batch != nil, isAnew {
                // The file is another than the batch was for.
                let more = keeper.take(from: hub, isAnew: true)
                batch.slices += more.slices
                batch.receipts += more.receipts
                batch.epochs.merge(more.epochs) { $1 }
            }
            isAnew = false
            self.batch = batch
            if batch.isEmpty, batch.takenUnixNano - min(batch.takenUnixNano, writtenUnixNano) < DeliveryKeeper.idleNano
            {
                self.batch = nil
                return
            }
            guard keeper.write(batch, to: file, hub) else { return }
            self.batch = nil
            writtenUnixNano = batch.takenUnixNano
            keeper.trimToBytes(file, batch)
            if batch.takenUnixNano - min(batch.takenUnixNano, trimmedUnixNano)
                >= keeper.configuration.trimInterval.nanoseconds
            {
                trimmedUnixNano = batch.takenUnixNano
                keeper.trimByAge(file, hub, nowUnixNano: batch.takenUnixNano)
            }
        }
    }

    // MARK: Taking

    /// What is new on all loops, and the new receipts. A loop that is held up for long is asked no second time meanwhile.
    private func take(from hub: Hub, isAnew: Bool) -> KeptBatch {
        var batch = KeptBatch(takenUnixNano: Clock.now().unixNano)
        // Before the loops: what came before a receipt is in the file once the receipt is.
        for channel in hub.openChannels {
            let (receipts, lost) = channel.receipts.takeNew()
            batch.receipts.append((channel.tenant.name, receipts, lost))
            batch.epochs[channel.tenant.name] = channel.stream.epoch
        }
        let free = state.withLock { state in
            let free = hub.loops.filter { !state.asked.contains($0.index) }
            state.asked.formUnion(free.map(\.index))
            return free
        }
        for loop in free {
            loop.execute { [self] in
                let slices = loop.takeSlices(isAnew: isAnew)
                state.withLock { state in
                    state.inbox += slices
                    state.asked.remove(loop.index)
                }
                answered.signal()
            }
        }
        let deadline = DispatchTime.now() + Double(configuration.patience.nanoseconds) / 1e9
        while !state.withLock({ $0.asked.isEmpty }), answered.wait(timeout: deadline) == .success {}
        batch.slices = state.withLock { state in
            defer { state.inbox = [] }
            return state.inbox
        }
        let lost = batch.lostRows
        if lost > 0 { state.withLock { $0.statistics.lostRows += lost } }
        return batch
    }

    // MARK: The file

    private func usableFile() -> DeliveryFile? {
        if let damage = state.withLock({ state in
            defer { state.damage = nil }
            return state.damage
        }) {
            putAside(cause: damage)
        }
        if let file = state.withLock({ $0.file }) { return file }
        open()
        return state.withLock { $0.file }
    }

    private func open() {
        do {
            let file: DeliveryFile
            do {
                file = try DeliveryFile(path: configuration.path, nowUnixNano: Clock.now().unixNano)
            } catch  where Self.isDamage(error) {
                putAside(cause: "\(error)")
                file = try DeliveryFile(path: configuration.path, nowUnixNano: Clock.now().unixNano)
            }
            state.withLock { $0.file = file }
        } catch {
            failed(error)
        }
    }

    private static func isDamage(_ error: any Error) -> Bool {
        if error is DeliveryFile.Damage { return true }
        guard let error = error as? DatabaseError else { return false }
        return [.SQLITE_CORRUPT, .SQLITE_NOTADB].contains(error.resultCode)
    }

    /// One is kept for whoever wants to look at it.
    private func putAside(cause: String) {
        let file = state.withLock { state in
            defer { state.file = nil }
            state.statistics.damagedFiles += 1
            return state.file
        }
        try? file?.pool.close()
        let target = configuration.path + ".damaged"
        for suffix in ["-wal", "-shm", ""] {
            unlink(target + suffix)
            rename(configuration.path + suffix, target + suffix)
        }
        notify(.damaged(movedTo: target, cause: cause))
    }

    private func failed(_ error: any Error) {
        let isNew = state.withLock { state in
            state.statistics.failedWrites += 1
            defer { state.statistics.isFailing = true }
            return !state.statistics.isFailing
        }
        if isNew { notify(.failing(cause: "\(configuration.path): \(error)")) }
    }

    private func write(_ batch: KeptBatch, to file: DeliveryFile, _ hub: Hub) -> Bool {
        do {
            let rows = try file.write(batch, groupName: hub.groups.name(of:))
            let wasFailing = state.withLock { state in
                state.statistics.writtenRows += rows
                state.statistics.bytes = file.tenants.values.reduce(0) { $0 + $1.bytes }
                defer { state.statistics.isFailing = false }
                return state.statistics.isFailing
            }
            if wasFailing { notify(.recovered) }
            return true
        } catch {
            if Self.isDamage(error) { putAside(cause: "\(error)") }
            failed(error)
            return false
        }
    }

    private func trimToBytes(_ file: DeliveryFile, _ batch: KeptBatch) {
        for tenant in Set(batch.slices.map(\.tenant)).union(batch.receipts.map(\.tenant)) {
            do {
                let removed = try file.trim(tenant, toBytes: configuration.byteLimit)
                if removed > 0 { state.withLock { $0.statistics.evictedRows += removed } }
            } catch {
                failed(error)
            }
        }
    }

    private func trimByAge(_ file: DeliveryFile, _ hub: Hub, nowUnixNano now: UInt64) {
        let oldest = now - min(now, configuration.retentionAge.nanoseconds)
        let channels = Dictionary(uniqueKeysWithValues: hub.openChannels.map { ($0.tenant.name, $0.stream) })
        for tenant in file.tenants.keys {
            var earliest = oldest
            if let stream = channels[tenant], stream.earliest > 1,
                let event = try? stream.read(after: stream.earliest - 1, limit: 1, byteLimit: 1).first
            {
                earliest = max(earliest, event.acceptedUnixNano)
            }
            do {
                let removed = try file.trim(tenant, before: earliest, nowUnixNano: now)
                if removed > 0 { state.withLock { $0.statistics.expiredRows += removed } }
            } catch {
                failed(error)
            }
        }
    }

    // MARK: Questions

    /// Both block on the disk; nil where nothing is kept of the tenant, or the file cannot be read.
    func known(of event: StoredEvent, tenant: String) -> KeptDelivery? {
        reading { try $0.known(of: event, tenant: tenant) } ?? nil
    }

    func report(_ inMemory: DeliveryReportBuilder, _ known: KeptDelivery, tenant: String) -> DeliveryReport? {
        reading { file in
            var builder = inMemory
            let event = builder.event
            // Most connections ask for what the one before asked for.
            var asked = (text: [UInt8](), matches: false)
            var filters: [[UInt8]: Bool] = [:]
            func matches(_ text: UnsafeRawBufferPointer) -> Bool {
                if !filters.isEmpty, ByteOrder.compare(asked.text, text) == 0 { return asked.matches }
                let key = Array(text)
                let matches = filters[key] ?? KeptFilter.filter(text)?.matches(event) ?? false
                filters[key] = matches
                asked = (key, matches)
                return matches
            }
            try file.forEachSession(tenant: tenant) { row in
                let (number, connected, start) = (row.number, row.connectedUnixNano, row.startOffset)
                let status = SessionOutcome.Status.of(
                    event, matches: matches(row.filter), epoch: row.epoch, connectedUnixNano: connected,
                    startOffset: start, reached: row.reachedOffset, closed: row.closed,
                    run: KeptRuns.run(
                        holding: event.offset, in: row.runs, startOffset: start, connectedUnixNano: connected),
                    broadcastUnixNano: known.broadcasts[DeviceSession.loop(of: number)],
                    latestUnixNano: row.closed.atUnixNano)
                builder.add(
                    device: row.device, group: row.group, session: number, connectedUnixNano: connected, status: status,
                    closed: row.closed, acknowledgedUnixNano: known.acknowledgements[number])
            }
            return builder.finish(sinceUnixNano: known.sinceUnixNano, gaps: known.gaps)
        }
    }

    private func reading<T>(_ body: (DeliveryFile) throws -> T) -> T? {
        guard let file = state.withLock({ $0.file }) else { return nil }
        do { return try body(file) } catch {
            if Self.isDamage(error) {
                // The thread puts it aside.
                state.withLock { $0.damage = "\(error)" }
            } else {
                failed(error)
            }
            return nil
        }
    }
}
