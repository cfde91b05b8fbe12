import Glibc

/// Batches on disk, first in, first out: segment files in a directory that one process at a time holds. Belongs to one
/// thread.
///
/// A batch is deleted after its answer: a crash in between repeats that one batch. What `append` has returned for survives
/// the end of the process, and a loss of power once the disk has it: `sync` begins that and does not wait.
final class DiskQueue {
    /// Items that are lost, and why.
    struct Loss {
        let itemCount: Int
        let isRecovered: Bool
        let reason: ExportLedger.DropReason
    }

    /// The first batch.
    struct Head {
        let body: [UInt8]
        let itemCount: Int
        let isRecovered: Bool
    }

    let directory: String
    private let maxBytes: Int
    private let maxSegmentBytes: Int
    private let lock: Int32
    private let syncer = DiskSyncer()
    private var segments: [DiskSegment] = []
    private var nextNumber: UInt64 = 1
    private var losses: [Loss] = []
    /// Of all segments.
    private var byteCount = 0
    private var itemCount = 0
    /// The first batch as long as somebody has it.
    private var taken: DiskRecord?
    /// Its segment was dropped to make room.
    private(set) var isHeadGone = false

    /// - Throws: when the directory cannot be made or written, or when another process holds it.
    init(directory: String, maxBytes: Int) throws(SystemError) {
        self.directory = directory
        self.maxBytes = maxBytes
        // Small against the whole, so that little is dropped at a time.
        maxSegmentBytes = min(max(maxBytes / 16, 16 * 1024), 16 * 1024 * 1024)
        try Self.makeDirectory(directory)
        lock = open("\(directory)/lock", O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard lock >= 0 else { throw SystemError("cannot open \(directory)/lock") }
        guard flock(lock, LOCK_EX | LOCK_NB) == 0 else {
            let cause = errno
            close(lock)
            throw SystemError(
                cause == EWOULDBLOCK ? "another process uses \(directory)" : "cannot lock \(directory)", cause)
        }
        for number in Self.segmentNumbers(directory) {
            nextNumber = number + 1
            let segment: DiskSegment
            do {
                segment = try DiskSegment(path: Self.path(directory, number), isRecovered: true)
            } catch {
                close(lock)
                throw error
            }
            if segment.itemsLeft > 0 { segments.append(segment) } else { segment.remove() }
        }
        byteCount = segments.reduce(0) { $0 + $1.end }
        itemCount = segments.reduce(0) { $0 + $1.itemsLeft }
    }

    deinit {
        // Not by closing alone: a process that was just forked may have the descriptor as well for a moment.
        flock(lock, LOCK_UN)
        close(lock)
    }

    var isEmpty: Bool { segments.isEmpty }

    var status: DiskQueueStatus {
        DiskQueueStatus(items: UInt64(itemCount), bytes: UInt64(byteCount), oldestSequence: oldestSequence)
    }

    private var oldestSequence: UInt64? {
        guard let segment = segments.first else { return nil }
        return segment.isRecovered ? 0 : segment.peek()?.sequence ?? 0
    }

    /// What was lost since the last call.
    func takeLosses() -> [Loss] {
        defer { losses = [] }
        return losses
    }

    // MARK: Writing

    /// Appends a batch, and drops the oldest ones where there is no room.
    /// - Throws: when there is no room even then.
    func append(_ body: UnsafeRawBufferPointer, itemCount: Int, sequence: UInt64) throws(SystemError) {
        let record = DiskRecord(body: body, itemCount: itemCount, sequence: sequence)
        guard record.totalBytes <= maxBytes, body.count <= DiskRecord.maxBodyBytes else {
            throw SystemError("a batch of \(body.count) bytes in a queue of \(maxBytes)", EFBIG)
        }
        while byteCount + record.totalBytes > maxBytes { dropOldestSegment() }
        while true {
            do {
                try tail(for: record).append(record, body)
                byteCount += record.totalBytes
                self.itemCount += record.itemCount
                return
            } catch {
                // As large as a file may be (`ulimit -f`): the next one.
                if error.number == EFBIG, let last = segments.last, last.end > 0 { continue }
                // The disk is full: the oldest makes way here as well.
                guard error.number == ENOSPC || error.number == EDQUOT, segments.count > 1 else { throw error }
                dropOldestSegment()
            }
        }
    }

    /// Begins to make what was appended survive a loss of power.
    func sync() {
        for segment in segments where segment.needsSync {
            segment.isSyncing()
            syncer.sync(segment.file)
        }
    }

    private func tail(for record: DiskRecord) throws(SystemError) -> DiskSegment {
        if let last = segments.last, !last.isRecovered, !last.isAtLimit, last.end + record.totalBytes <= maxSegmentBytes
        {
            return last
        }
        let segment = try DiskSegment(path: Self.path(directory, nextNumber), isRecovered: false)
        nextNumber += 1
        segments.append(segment)
        syncDirectory()
        return segment
    }

    private func dropOldestSegment() {
        guard let segment = segments.first else { return }
        // The batch that somebody has may still be delivered; its holder accounts for it.
        let held = taken?.itemCount ?? 0
        if taken != nil { isHeadGone = true }
        taken = nil
        lose(segment.itemsLeft - held, segment, .queueFull)
        removeFirstSegment()
    }

    private func lose(_ itemCount: Int, _ segment: DiskSegment, _ reason: ExportLedger.DropReason) {
        guard itemCount > 0 else { return }
        losses.append(Loss(itemCount: itemCount, isRecovered: segment.isRecovered, reason: reason))
    }

    // MARK: Reading

    /// The first batch, which stays until `finishHead`; nil when there is none. What is damaged is passed over and
    /// counted.
    func takeHead() -> Head? {
        while let segment = segments.first {
            guard let record = segment.peek() else {
                // Nothing whole is left: items that are still missing stood in what is damaged.
                lose(segment.itemsLeft, segment, .corrupt)
                removeFirstSegment()
                continue
            }
            guard let body = segment.body(of: record) else {
                finish(record, segment)
                lose(record.itemCount, segment, .corrupt)
                continue
            }
            taken = record
            isHeadGone = false
            return Head(body: body, itemCount: record.itemCount, isRecovered: segment.isRecovered)
        }
        return nil
    }

    /// The first batch has its answer.
    func finishHead() {
        defer {
            taken = nil
            isHeadGone = false
        }
        guard let record = taken, let segment = segments.first else { return }
        finish(record, segment)
        if segment.peek() == nil {
            lose(segment.itemsLeft, segment, .corrupt)
            removeFirstSegment()
        }
    }

    private func finish(_ record: DiskRecord, _ segment: DiskSegment) {
        segment.finish(record)
        itemCount -= record.itemCount
    }

    private func removeFirstSegment() {
        let segment = segments.removeFirst()
        segment.remove()
        byteCount -= segment.end
        itemCount -= segment.itemsLeft
    }

    // MARK: The directory

    private static func path(_ directory: String, _ number: UInt64) -> String {
        let digits = String(number)
        return "\(directory)/\(String(repeating: "0", count: max(0, 20 - digits.count)))\(digits).segment"
    }

    private static func segmentNumbers(_ directory: String) -> [UInt64] {
        guard let listing = opendir(directory) else { return [] }
        defer { closedir(listing) }
        var numbers: [UInt64] = []
        while let entry = readdir(listing) {
            let name = withUnsafeBytes(of: entry.pointee.d_name) {
                String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
            }
            if name.hasSuffix(".segment"), let number = UInt64(name.dropLast(".segment".count)), number < .max {
                numbers.append(number)
            }
        }
        return numbers.sorted()
    }

    private static func makeDirectory(_ path: String) throws(SystemError) {
        var made = ""
        for part in path.split(separator: "/", omittingEmptySubsequences: false) {
            made += made.isEmpty && part.isEmpty ? "/" : made.isEmpty || made == "/" ? String(part) : "/\(part)"
            guard mkdir(made, 0o700) != 0, errno != EEXIST else { continue }
            // A parent that exists may not be writable.
            var status = stat()
            guard stat(made, &status) == 0 else { throw SystemError("cannot make \(made)") }
        }
        guard access(path, R_OK | W_OK | X_OK) == 0 else { throw SystemError("cannot use \(path)") }
    }

    private func syncDirectory() {
        let descriptor = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { return }
        syncer.sync(DiskFile(descriptor))
    }
}
