/// Logs of many tenants in one directory of this machine, on SQLite.
///
/// ## What survives
/// An append that completed with durability `fsync` survives a power failure, one with `written` the death of the
/// process. A commit that failed with an I/O error may, after a crash that follows at once, still be found in the
/// log: then the device sees an event whose append was told to have failed, as it may have before.
///
/// Keep the store while its streams are in use: releasing it closes it.
public final class EmbeddedEventStore: Sendable {
    let core: StoreCore

    /// Opens the directory, or creates it. Blocks on the disk.
    ///
    /// Throws ``StreamError/Code/incompatible`` when another process holds the directory (named by its pid), or when
    /// it holds something else; ``StreamError/Code/corrupt`` when the file is damaged; ``StreamError/Code/invalid``
    /// for a setting that makes no sense.
    public init(configuration: EmbeddedStoreConfiguration) throws(StreamError) {
        try configuration.validate()
        let directory = try DataDirectory(path: configuration.directory)
        do {
            core = try StoreCore(configuration: configuration, directory: directory)
        } catch {
            directory.release()
            throw error
        }
        core.checkpointer.start(core)
        core.writer.start(core)
    }

    deinit {
        close()
    }

    /// The tenant's log, created on first use. The first call for a tenant blocks on the disk.
    public func stream(tenant: String) throws(StreamError) -> any EventStream {
        try core.stream(tenant: tenant)
    }

    public var statistics: EmbeddedStoreStatistics {
        var statistics = core.statistics.withLock { $0 }
        for stream in core.allStreams {
            let (pending, tail) = stream.state.withLock {
                (($0.pendingEvents, $0.pendingBytes), ($0.tail.count, $0.tailBytes))
            }
            statistics.pendingEvents += pending.0
            statistics.pendingBytes += pending.1
            statistics.tailEvents += tail.0
            statistics.tailBytes += tail.1
        }
        return statistics
    }

    /// What a compaction did. Sizes are those of the files.
    public struct Compaction: Sendable, Equatable {
        public var removedEvents: UInt64
        public var bytesBefore: Int
        public var bytesAfter: Int
    }

    /// Tells the writer of what was appended without waking it.
    public func wake() { core.writer.wake() }

    /// Removes what retention does not keep any more, of every tenant, and gives the space back to the file system.
    ///
    /// Blocks, and appends wait, for as long as it takes to write the file anew; needs as much free space as what
    /// remains. Not for a store that serves.
    public func compact() throws(StreamError) -> Compaction {
        let before = core.directory.databaseBytes
        for tenant in try core.database.tenants() { _ = try core.stream(tenant: tenant) }
        let retired = statistics.retiredEvents
        let failed = statistics.failedRetentionSteps
        core.writer.maintain()
        let statistics = self.statistics
        if statistics.failedRetentionSteps > failed {
            throw statistics.failure
                ?? StreamError(
                    code: .unavailable, cause: "old events could not be removed; isotherm log verify says more")
        }
        try core.checkpointer.exclusively { () throws(StreamError) in try core.database.vacuum() }
        return Compaction(
            removedEvents: statistics.retiredEvents - retired, bytesBefore: before,
            bytesAfter: core.directory.databaseBytes)
    }

    /// Refuses further appends, writes what waits, marks the clean end and lets go of the directory. Idempotent.
    ///
    /// Blocks until all is written; completions run before it returns. Not to be called from a completion.
    public func close() {
        close(.drain)
    }

    func close(_ ending: LogWriter.Ending) {
        let streams: [EmbeddedStream]? = core.streams.withLock { streams in
            if streams.isClosed { return nil }
            streams.isClosed = true
            return Array(streams.byTenant.values)
        }
        guard let streams else { return }
        for stream in streams { stream.state.withLock { $0.close() } }
        core.writer.stop(ending)
        core.checkpointer.close()
        core.indexer.close()
        core.readers.close()
        do {
            try core.database.close()
        } catch {
            // The connection closes with its object; the log is complete either way.
            core.setFailure(error)
        }
        core.streams.withLock { $0.byTenant = [:] }
        core.directory.release()
    }
}
