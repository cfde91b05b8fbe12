import Dispatch
import GRDB
import GRDBSQLite

/// Copies what was committed from the write-ahead log into the file, on a thread and a connection of its own.
///
/// SQLite does this in the commit that has filled the write-ahead log, with two syncs, and everybody waits. Here the
/// writer goes on meanwhile and adds pages, which the next pass copies. For the log to begin anew all of it must have
/// been copied at an instant: once it is long, the writer copies the last few pages itself, between two commits.
final class LogCheckpointer: Sendable {
    /// Pages that make a pass worth its two syncs, 32 MiB: a slow disk keeps the writer waiting meanwhile.
    static let passPages = 8_000
    /// From this length on (48 MiB) the log is to begin anew.
    static let restartPages = 12_000
    /// The writer copies as many as these itself, and more the longer the log has become.
    static let finishPages = 256
    /// Beyond this length (128 MiB) the writer waits: the disk does not keep up.
    static let maximumPages = 32_000

    /// Decides what follows a transaction.
    struct State {
        var isRunning = false
        var isEnding = false
        /// The log's length when it was last copied, and how much of it is in the file.
        var length = 0
        var copied = 0
        /// All of it was copied, and it is to begin anew with the next commit, unless somebody still reads it.
        var isFinished = false

        enum Action { case nothing, pass, finish }

        mutating func next(_ pages: Int) -> Action {
            if pages < length { (length, copied, isFinished) = (0, 0, false) }
            guard !isEnding else { return .nothing }
            let hasGrown = pages - length >= LogCheckpointer.passPages
            if pages >= LogCheckpointer.maximumPages, hasGrown || !isFinished {
                (length, isFinished) = (pages, true)
                return .finish
            }
            guard !isRunning else { return .nothing }
            // Passes follow each other until so little is left that the writer can do it.
            let isClosing = pages >= LogCheckpointer.restartPages && copied >= length && !isFinished
            guard hasGrown || isClosing else { return .nothing }
            let finishPages = LogCheckpointer.finishPages + (pages - LogCheckpointer.restartPages) / 8
            isFinished = isClosing && pages - copied <= finishPages
            isRunning = !isFinished
            length = pages
            return isFinished ? .finish : .pass
        }
    }

    private let state = Locked(State())
    private let signal = DispatchSemaphore(value: 0)
    /// Held by who copies: SQLite lets only one, and refuses the other at once.
    private let turn = DispatchSemaphore(value: 1)
    private let queue: DatabaseQueue
    private let thread = Locked<WriterThread?>(nil)

    init(path: String) throws(StreamError) {
        do {
            queue = try DatabaseQueue(
                path: path, configuration: LogDatabase.configuration(label: "isotherm.log.checkpointer"))
            try queue.writeWithoutTransaction { try $0.execute(sql: "PRAGMA wal_autocheckpoint = 0") }
        } catch {
            throw LogDatabase.translate(error, "open \(path)")
        }
    }

    func start(_ core: StoreCore) {
        thread.withLock { $0 = WriterThread(name: "isotherm-copy") { [self] in run(core) } }
    }

    /// Waits for a pass that is under way. Idempotent.
    func close() {
        state.withLock { $0.isEnding = true }
        signal.signal()
        thread.withLock { thread in
            defer { thread = nil }
            return thread
        }?.join()
        // It has nothing to lose; the descriptor is freed with the object at the latest.
        try? queue.close()
    }

    /// While no pass runs.
    func exclusively<T>(_ body: () throws(StreamError) -> T) throws(StreamError) -> T {
        turn.wait()
        defer { turn.signal() }
        return try body()
    }

    /// Called by the writer after a transaction.
    func advance(_ core: StoreCore) {
        let pages = core.database.writeAheadPages
        guard pages >= Self.passPages else { return }
        switch state.withLock({ $0.next(pages) }) {
        case .nothing: break
        case .pass: signal.signal()
        case .finish:
            turn.wait()
            let copied = core.database.copyWriteAheadLog()
            turn.signal()
            note(copied, core)
        }
    }

    private func note(_ copied: Int?, _ core: StoreCore) {
        if let copied {
            state.withLock { $0.copied = copied }
        } else {
            core.statistics.withLock { $0.failedCheckpoints += 1 }
        }
    }

    private func run(_ core: StoreCore) {
        while true {
            signal.wait()
            guard !state.withLock({ $0.isEnding }) else { return }
            turn.wait()
            let copied = queue.writeWithoutTransaction(LogDatabase.copyWriteAheadLog)
            turn.signal()
            note(copied, core)
            state.withLock { $0.isRunning = false }
        }
    }
}

extension LogDatabase {
    /// How many pages of the write-ahead log are in the file now; nil when that failed: a full disk shows in the next
    /// commit, and the next pass tries again.
    static func copyWriteAheadLog(_ db: Database) -> Int? {
        guard let connection = db.sqliteConnection else { return nil }
        var pages: CInt = 0
        var copied: CInt = 0
        let code = sqlite3_wal_checkpoint_v2(connection, nil, SQLITE_CHECKPOINT_PASSIVE, &pages, &copied)
        return code == SQLITE_OK ? max(0, Int(copied)) : nil
    }
}
