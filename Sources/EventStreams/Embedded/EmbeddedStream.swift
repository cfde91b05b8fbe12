import Synchronization

/// One tenant's log in an embedded store.
final class EmbeddedStream: EventStream {
    let tenant: String
    let log: Int64
    let state: Locked<LogState>
    /// What the writer knows of the log on disk.
    let disk: Locked<DiskTotals>
    private let codec: EventIDCodec
    let core: StoreCore

    struct DiskTotals {
        var events: Int
        var bytes: Int
        /// Acceptance of the first event on disk; nil when unknown or when there is none.
        var oldestUnixNano: UInt64?
        var indexedThrough: UInt64
        /// Events to be removed or indexed before the log has grown much more.
        var owedRemovals = 0
        var owedIndexing = 0
    }

    init(record: LogRecord, state: LogState, codec: EventIDCodec, core: StoreCore) {
        tenant = state.tenant
        log = record.id
        self.state = Locked(state)
        disk = Locked(DiskTotals(events: record.events, bytes: record.bytes, indexedThrough: record.indexedThrough))
        self.codec = codec
        self.core = core
    }

    func append(
        _ events: [NewEvent], durability: Durability, wakesWriter: Bool,
        completion: @escaping @Sendable (Result<[AppendReceipt], StreamError>) -> Void
    ) {
        let failure = core.failure
        // For the keys' window only.
        let now = events.contains { $0.idempotencyKey != nil } ? core.configuration.now() : 0
        let outcome = state.withLock {
            $0.sequence(events, durability: durability, now: now, failure: failure, completion: completion)
        }
        switch outcome {
        case .refused(let error):
            completion(.failure(error))
        case .sequenced(let receipts, let completesNow, let enqueue, let wakes):
            // Before the writer hears of it: delivery does not wait for the disk, and this wake-up comes first.
            if let wakes { for wake in wakes.values { wake() } }
            switch enqueue {
            case .nothing: break
            case .lazily: core.writer.enqueue(self, isUrgent: false, signals: wakesWriter)
            case .urgently: core.writer.enqueue(self, isUrgent: true, signals: wakesWriter)
            }
            if completesNow { completion(.success(receipts)) }
        }
    }

    func tail(after offset: UInt64, limit: Int) -> TailRead {
        state.withLock { $0.tailEvents(after: offset, limit: limit) }.map(TailRead.events) ?? .behind
    }

    func read(after offset: UInt64, limit: Int, byteLimit: Int) throws(StreamError) -> [StoredEvent] {
        try read(after: offset, limit: limit, byteLimit: byteLimit, readers: core.readers)
    }

    func read(
        after offset: UInt64, limit: Int, byteLimit: Int, readers: LogReaders
    ) throws(StreamError) -> [StoredEvent] {
        guard limit > 0 else { return [] }
        let (events, evicted) = state.withLock {
            ($0.tailEvents(after: offset, limit: limit, byteLimit: byteLimit), $0.evictedThrough)
        }
        if let events { return events }
        try refuseTrimmed(offset)
        let stored: [StoredEvent]
        do {
            stored = try readers.read(
                log: log, tenant: tenant, after: offset, limit: limit, byteLimit: byteLimit, holes: holes)
        } catch {
            try refuseTrimmed(offset)
            throw error
        }
        // Retention tells memory before it removes from disk: what was removed under this read is noticed here.
        try refuseTrimmed(offset)
        guard let last = stored.last else {
            // Nothing but holes that failed commits have left, as far as memory did not reach: it goes on from there.
            if evicted > offset, let lost = holes().lost(in: offset + 1...evicted) {
                throw LogReaders.loss(lost, tenant)
            }
            return try read(after: evicted, limit: limit, byteLimit: byteLimit, readers: readers)
        }
        guard stored.count < limit else { return stored }
        let bytes = stored.reduce(0) { $0 + $1.byteCount }
        guard bytes < byteLimit else { return stored }
        let recent = state.withLock {
            $0.tailEvents(after: last.offset, limit: limit - stored.count, byteLimit: byteLimit - bytes)
        }
        // The one event that a tail gives whatever its size may not fit beside what is here already.
        guard let recent, let first = recent.first, bytes + first.byteCount <= byteLimit else { return stored }
        return stored + recent
    }

    func holes() -> LogHoles { state.withLock { $0.holes } }

    func latest(upTo offset: UInt64, filter: TopicFilter) throws(StreamError) -> LatestEvents {
        try LatestEvents(self, upTo: offset, filter: filter)
    }

    func refuseTrimmed(_ offset: UInt64) throws(StreamError) {
        let trimmed = state.withLock { $0.trimmedThrough }
        guard offset < trimmed else { return }
        throw StreamError(
            code: .tooOld,
            cause: "offset \(offset) of \(tenant) was removed by retention, the earliest left is \(trimmed + 1)",
            offset: trimmed + 1)
    }

    var head: UInt64 { state.withLock { $0.head } }
    var earliest: UInt64 { state.withLock { $0.trimmedThrough + 1 } }
    var durableHead: UInt64 { state.withLock { $0.durableHead } }
    var epoch: UInt32 { state.withLock { $0.epoch } }

    func onAppend(_ wake: @escaping @Sendable () -> Void) -> WakeToken {
        register(wake, at: \.append)
    }

    func onDurable(_ wake: @escaping @Sendable () -> Void) -> WakeToken {
        register(wake, at: \.durable)
    }

    private func register(
        _ wake: @escaping @Sendable () -> Void,
        at list: any WritableKeyPath<LogState.Wakes, [UInt64: @Sendable () -> Void]> & Sendable
    ) -> WakeToken {
        let token = state.withLock { state in
            let token = state.wakes.nextToken
            state.wakes.nextToken += 1
            state.wakes[keyPath: list][token] = wake
            return token
        }
        return WakeToken { [weak self] in
            // Released after the lock: what the closure holds may end here.
            let removed = self?.state.withLock { $0.wakes[keyPath: list].removeValue(forKey: token) }
            _ = removed
        }
    }

    func id(epoch: UInt32, offset: UInt64) -> String {
        codec.encode(epoch: epoch, offset: offset)
    }

    func resolve(_ id: some StringProtocol) -> CursorResolution {
        guard let (epoch, offset) = codec.decode(id) else { return .foreign }
        return state.withLock { $0.resolve(epoch: epoch, offset: offset) }
    }
}

/// What the store, its streams and its writer share.
final class StoreCore: Sendable {
    struct Streams {
        var byTenant: [ExactText: EmbeddedStream] = [:]
        var isClosed = false
    }

    let configuration: EmbeddedStoreConfiguration
    let directory: DataDirectory
    let database: LogDatabase
    let readers: LogReaders
    let indexer: LogIndexer
    let gathering = GatheringBudget()
    let checkpointer: LogCheckpointer
    let writer: LogWriter
    let key: [UInt8]
    let streams = Locked(Streams())
    let statistics = Locked(EmbeddedStoreStatistics())
    private let isFailing = Atomic(false)

    init(configuration: EmbeddedStoreConfiguration, directory: DataDirectory) throws(StreamError) {
        self.configuration = configuration
        self.directory = directory
        let isNew = DataDirectory.size(of: directory.databasePath) == nil
        // Before the key is missed: a file that is none of ours has none.
        if !isNew { try LogSchema.examine(directory.databasePath) }
        key = try directory.loadKey(creating: isNew)
        database = try LogDatabase(directory: directory)
        readers = LogReaders(path: directory.databasePath, limit: configuration.readers)
        indexer = LogIndexer(path: directory.databasePath)
        checkpointer = try LogCheckpointer(path: directory.databasePath)
        writer = LogWriter()
    }

    /// Why nothing can be written now.
    var failure: StreamError? {
        guard isFailing.load(ordering: .acquiring) else { return nil }
        return statistics.withLock { $0.failure }
    }

    func setFailure(_ error: StreamError?) {
        statistics.withLock { $0.failure = error }
        isFailing.store(error != nil, ordering: .releasing)
    }

    /// Nobody has asked for these logs since the start, and their events grow old all the same.
    func loadAgedLogs() {
        let age = configuration.retentionAge.clampedNanoseconds
        let now = configuration.now()
        let tenants = (try? database.tenants(withEventsBefore: now > age ? now - age : 0)) ?? []
        // A damaged log says so when it is used; the next sweep tries again.
        for tenant in tenants where (try? stream(tenant: tenant)) == nil {
            statistics.withLock { $0.failedRetentionSteps += 1 }
        }
    }

    var allStreams: [EmbeddedStream] { streams.withLock { Array($0.byTenant.values) } }

    func stream(tenant: String) throws(StreamError) -> EmbeddedStream {
        // SQLite's texts may hold NUL, but not as GRDB binds them: two such tenants would share a log.
        guard !tenant.isEmpty, !tenant.utf8.contains(0) else {
            throw StreamError(code: .invalid, cause: "a tenant's name must not be empty or contain NUL")
        }
        let closed = StreamError(code: .closed, cause: "the store in \(directory.path) was closed")
        let (isClosed, known) = streams.withLock { ($0.isClosed, $0.byTenant[ExactText(tenant)]) }
        guard !isClosed else { throw closed }
        if let known { return known }

        // Two callers may load the same tenant at once: the second throws its copy away, nothing was appended to it.
        let (record, epochs) = try database.record(of: tenant, maximumTenants: configuration.maximumTenants)
        let now = configuration.now()
        var index = IdempotencyIndex(
            windowNanoseconds: configuration.idempotencyWindow.clampedNanoseconds,
            limit: configuration.idempotencyKeys)
        if configuration.idempotencyKeys > 0 {
            for (key, entry) in try readers.idempotencyKeys(log: record.id, limit: configuration.idempotencyKeys) {
                index.claim(key, entry, now: now)
            }
        }
        let codec = EventIDCodec(key: key, storeID: database.storeID, tenant: tenant)
        let loaded = EmbeddedStream(
            record: record,
            state: LogState(
                tenant: tenant, configuration: configuration, codec: codec, record: record, epochs: epochs,
                generation: database.generation, idempotency: index),
            codec: codec, core: self)
        let stream: EmbeddedStream? = streams.withLock { streams in
            if streams.isClosed { return nil }
            if let known = streams.byTenant[ExactText(tenant)] { return known }
            streams.byTenant[ExactText(tenant)] = loaded
            return loaded
        }
        guard let stream else { throw closed }
        return stream
    }
}
