import Glibc
import Gzip

/// What the system said.
struct SystemError: Error, CustomStringConvertible {
    let operation: String
    let number: Int32

    init(_ operation: String, _ number: Int32 = errno) {
        self.operation = operation
        self.number = number
    }

    var description: String { "\(operation): \(String(cString: strerror(number)))" }
}

/// One file of a disk queue: records, one after another. Belongs to one thread.
final class DiskSegment {
    let path: String
    /// Written by an earlier process.
    let isRecovered: Bool
    let file: DiskFile
    /// Bytes in the file.
    private(set) var end: Int
    /// Where the first record stands that is not done with.
    private var head = 0
    /// In records that are not done with.
    private(set) var itemsLeft = 0
    private(set) var needsSync = false
    /// The process may not make files that are larger.
    private(set) var isAtLimit = false

    /// Opens a file that an earlier process left, or makes a new one.
    init(path: String, isRecovered: Bool) throws(SystemError) {
        self.path = path
        self.isRecovered = isRecovered
        let descriptor = open(path, O_RDWR | O_CLOEXEC | (isRecovered ? 0 : O_CREAT | O_EXCL), 0o600)
        guard descriptor >= 0 else { throw SystemError("cannot open \(path)") }
        file = DiskFile(descriptor)
        end = max(0, Int(lseek(descriptor, 0, SEEK_END)))
        if isRecovered { countItems() }
    }

    var isEmpty: Bool { head >= end }

    func remove() { unlink(path) }

    // MARK: Writing

    /// Appends a record, whole or not at all.
    func append(_ record: DiskRecord, _ body: UnsafeRawBufferPointer) throws(SystemError) {
        let isWritten = record.withHeader { write($0, at: end) && write(body, at: end + DiskRecord.headerBytes) }
        guard isWritten else {
            let cause = SystemError("cannot write \(path)")
            ftruncate(file.descriptor, off_t(end))
            isAtLimit = cause.number == EFBIG
            throw cause
        }
        end += record.totalBytes
        itemsLeft += record.itemCount
        needsSync = true
    }

    /// What was written so far is being made to survive a loss of power.
    func isSyncing() { needsSync = false }

    private func write(_ bytes: UnsafeRawBufferPointer, at offset: Int) -> Bool {
        var written = 0
        while written < bytes.count, let start = bytes.baseAddress {
            let count = pwrite(file.descriptor, start + written, bytes.count - written, off_t(offset + written))
            if count < 0, errno == EINTR { continue }
            guard count > 0 else {
                if count == 0 { errno = ENOSPC }
                return false
            }
            written += count
        }
        return true
    }

    // MARK: Reading

    /// The first record that is not done with, its head only. Passes over what is damaged.
    func peek() -> DiskRecord? {
        while let record = header(at: head) {
            if !record.isDone { return record }
            head += record.totalBytes
        }
        head = end
        return nil
    }

    /// The body of the record that `peek` gave; nil where it is damaged.
    func body(of record: DiskRecord) -> [UInt8]? {
        let bytes = [UInt8](unsafeUninitializedCapacity: record.bodyBytes) { buffer, count in
            count = read(UnsafeMutableRawBufferPointer(buffer), at: head + DiskRecord.headerBytes)
        }
        guard bytes.count == record.bodyBytes, bytes.withUnsafeBytes({ Gzip.checksum($0) }) == record.checksum else {
            return nil
        }
        return bytes
    }

    /// The record that `peek` gave is done with, and will not be read again, not by a later process either.
    func finish(_ record: DiskRecord) {
        var mark = DiskRecord.done.littleEndian
        withUnsafeBytes(of: &mark) { _ = write($0, at: head) }
        head += record.totalBytes
        itemsLeft -= record.itemCount
    }

    /// The record at an offset, or the next after it where that place is damaged.
    private func header(at offset: Int) -> DiskRecord? {
        guard offset + DiskRecord.headerBytes <= end else { return nil }
        return withUnsafeTemporaryAllocation(byteCount: DiskRecord.headerBytes, alignment: 8) { buffer in
            guard read(buffer, at: offset) == DiskRecord.headerBytes,
                let record = DiskRecord(header: UnsafeRawBufferPointer(buffer)), offset + record.totalBytes <= end
            else {
                guard let next = nextHeader(after: offset) else { return nil }
                head = next
                return header(at: next)
            }
            return record
        }
    }

    /// Looks for the next whole record behind damage.
    private func nextHeader(after offset: Int) -> Int? {
        let rest = [UInt8](unsafeUninitializedCapacity: max(0, end - offset - 1)) { buffer, count in
            count = read(UnsafeMutableRawBufferPointer(buffer), at: offset + 1)
        }
        return rest.withUnsafeBytes { bytes in
            guard bytes.count >= DiskRecord.headerBytes else { return nil }
            for start in 0...bytes.count - DiskRecord.headerBytes where bytes[start] == 0x49 {
                let header = UnsafeRawBufferPointer(rebasing: bytes[start..<start + DiskRecord.headerBytes])
                if let record = DiskRecord(header: header), start + record.totalBytes <= bytes.count {
                    return offset + 1 + start
                }
            }
            return nil
        }
    }

    private func read(_ buffer: UnsafeMutableRawBufferPointer, at offset: Int) -> Int {
        var filled = 0
        while filled < buffer.count, let start = buffer.baseAddress {
            let count = pread(file.descriptor, start + filled, buffer.count - filled, off_t(offset + filled))
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { break }
            filled += count
        }
        return filled
    }

    /// After a crash: what is there, up to a torn tail.
    private func countItems() {
        while let record = header(at: head) {
            if !record.isDone { itemsLeft += record.itemCount }
            head += record.totalBytes
        }
        // A head without its whole body says how many items were torn off; they count as damaged when it is their turn.
        withUnsafeTemporaryAllocation(byteCount: DiskRecord.headerBytes, alignment: 8) { buffer in
            let count = read(buffer, at: head)
            if let torn = DiskRecord(header: UnsafeRawBufferPointer(rebasing: buffer[..<count])), !torn.isDone {
                itemsLeft += torn.itemCount
            }
        }
        head = 0
    }
}
