import Glibc

/// The bytes that a store writes. Numbers are little-endian.
///
///     every file:  magic, 8 bytes | records
///     record:      length of the payload, 4 bytes | its CRC-32C, 4 bytes | payload
///     name:        view, 8 bytes (0 for stages) | number, 4 bytes | UTF-8
///     name whose number another name had before, bit 31 of the number set; empty when no name has it:
///                  view, 8 bytes | number, 4 bytes | sequence number, 8 bytes | UTF-8
///                  cells of that number in records before that sequence number are not its own
///     cells:       sequence number, 8 bytes | view, 8 bytes | start and end in seconds since 1970, 8 bytes each
///                  | number of cells, 4 bytes | number of thresholds, 1 byte | of each its nanoseconds, 8 bytes
///                  | the cells as `PackedCell` describes them
enum HeatmapFiles {
    static let magic = Array("ISOHEAT1".utf8)
    static let recordHead = 8
    static let cellsHead = 37
    /// A record that says it is longer is damaged.
    static let maxRecordBytes = 1 << 30

    struct Cells {
        let sequence: UInt64
        let view: UInt64
        let plane: PackedPlane
    }

    /// A view is known by its attributes, whatever its place in the settings. FNV-1a, 64 bits.
    static func identity(_ view: HeatmapView) -> UInt64 {
        var hash: UInt64 = 0xCBF2_9CE4_8422_2325
        for byte in view.description.utf8 { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01B3 }
        // 0 is for stages.
        return hash == 0 ? 1 : hash
    }

    static func append<T: FixedWidthInteger>(_ number: T, to bytes: inout [UInt8]) {
        withUnsafeBytes(of: number.littleEndian) { bytes.append(contentsOf: $0) }
    }

    /// Appends a record whose payload `body` appends.
    static func record(to bytes: inout [UInt8], _ body: (inout [UInt8]) -> Void) {
        let start = bytes.count
        bytes.append(contentsOf: repeatElement(0, count: recordHead))
        body(&bytes)
        let length = bytes.count - start - recordHead
        bytes.withUnsafeMutableBytes { bytes in
            let payload = UnsafeRawBufferPointer(rebasing: bytes[(start + recordHead)...])
            let crc = Checksum.crc32c(payload)
            bytes.storeBytes(of: UInt32(length).littleEndian, toByteOffset: start, as: UInt32.self)
            bytes.storeBytes(of: crc.littleEndian, toByteOffset: start + 4, as: UInt32.self)
        }
    }

    /// A name's record, as it is read.
    struct Name {
        let view: UInt64
        let number: Int
        /// Nil for a number that no other name had before.
        let since: UInt64?
        let text: UnsafeRawBufferPointer
    }

    static func name(_ text: String, view: UInt64, number: Int, since: UInt64?, to bytes: inout [UInt8]) {
        record(to: &bytes) { bytes in
            append(view, to: &bytes)
            append(UInt32(number) | (since == nil ? 0 : 1 << 31), to: &bytes)
            if let since { append(since, to: &bytes) }
            bytes.append(contentsOf: text.utf8)
        }
    }

    static func readName(_ payload: UnsafeRawBufferPointer) -> Name? {
        guard payload.count >= 12 else { return nil }
        let number = UInt32(littleEndian: payload.loadUnaligned(fromByteOffset: 8, as: UInt32.self))
        let isReused = number >> 31 == 1
        guard payload.count >= (isReused ? 20 : 12) else { return nil }
        return Name(
            view: UInt64(littleEndian: payload.loadUnaligned(as: UInt64.self)), number: Int(number & ~(1 << 31)),
            since: isReused
                ? UInt64(littleEndian: payload.loadUnaligned(fromByteOffset: 12, as: UInt64.self)) : nil,
            text: UnsafeRawBufferPointer(rebasing: payload[(isReused ? 20 : 12)...]))
    }

    static func cells(_ plane: PackedPlane, view: UInt64, sequence: UInt64, to bytes: inout [UInt8]) {
        record(to: &bytes) { bytes in
            append(sequence, to: &bytes)
            append(view, to: &bytes)
            append(plane.start, to: &bytes)
            append(plane.end, to: &bytes)
            append(UInt32(plane.cellCount), to: &bytes)
            append(UInt8(plane.thresholds.count), to: &bytes)
            for threshold in plane.thresholds { append(threshold, to: &bytes) }
            bytes.append(contentsOf: plane.bytes)
        }
    }

    /// The payloads of whole records, up to the first that is damaged or cut off.
    ///
    /// - Returns: where the last whole one ends.
    static func forEachRecord(_ bytes: UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer) -> Bool) -> Int {
        guard bytes.count >= magic.count, bytes.prefix(magic.count).elementsEqual(magic) else { return 0 }
        var at = magic.count
        while bytes.count - at >= recordHead {
            let length = Int(UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: at, as: UInt32.self)))
            let crc = UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: at + 4, as: UInt32.self))
            guard length > 0, length <= maxRecordBytes, length <= bytes.count - at - recordHead else { break }
            let payload = UnsafeRawBufferPointer(rebasing: bytes[(at + recordHead)..<(at + recordHead + length)])
            guard Checksum.crc32c(payload) == crc, body(payload) else { break }
            at += recordHead + length
        }
        return at
    }

    /// Nil for what is not such a record. The plane shares the payload's memory, and calls `free` in the end.
    static func readCells(
        _ payload: UnsafeRawBufferPointer, groupCount: (UInt64) -> Int?, stageCount: Int,
        free: @escaping (UnsafeRawBufferPointer) -> Void
    ) -> Cells? {
        guard payload.count >= cellsHead else { return nil }
        func number<T: FixedWidthInteger>(_ offset: Int, _: T.Type) -> T {
            T(littleEndian: payload.loadUnaligned(fromByteOffset: offset, as: T.self))
        }
        let view = number(8, UInt64.self)
        let (start, end) = (number(16, Int64.self), number(24, Int64.self))
        let cellCount = Int(number(32, UInt32.self))
        let thresholdCount = Int(payload[36])
        let head = cellsHead + thresholdCount * 8
        guard start < end, thresholdCount <= OpenCell.maxThresholds, payload.count >= head,
            let groups = groupCount(view)
        else { return nil }
        let body = UnsafeRawBufferPointer(rebasing: payload[head...])
        guard
            PackedPlane.isSound(
                body, thresholdCount: thresholdCount, cellCount: cellCount, groupCount: groups, stageCount: stageCount)
        else { return nil }
        return Cells(
            sequence: number(0, UInt64.self), view: view,
            plane: PackedPlane(
                start: start, end: end,
                thresholds: (0..<thresholdCount).map { number(cellsHead + $0 * 8, UInt64.self) },
                cellCount: cellCount, bytes: body, free: free))
    }
}

/// A file of the operating system, opened for appending.
final class AppendFile {
    let path: String
    private let descriptor: Int32
    private(set) var byteCount: Int

    /// Creates it, with the magic, if it is not there; cuts off what is beyond `length`.
    init?(path: String, keeping length: Int?) {
        self.path = path
        descriptor = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { return nil }
        byteCount = length ?? 0
        guard ftruncate(descriptor, off_t(byteCount)) == 0, lseek(descriptor, off_t(byteCount), SEEK_SET) >= 0 else {
            return nil
        }
        if byteCount == 0, !append(HeatmapFiles.magic) { return nil }
    }

    deinit { if descriptor >= 0 { close(descriptor) } }

    func append(_ bytes: [UInt8]) -> Bool {
        let isWritten = bytes.withUnsafeBytes { SystemFile.write(descriptor, $0) }
        byteCount += bytes.count
        return isWritten
    }

    func sync() -> Bool { fdatasync(descriptor) == 0 }
}

enum SystemFile {
    static func write(_ descriptor: Int32, _ bytes: UnsafeRawBufferPointer) -> Bool {
        var at = 0
        while at < bytes.count {
            let written = Glibc.write(descriptor, bytes.baseAddress.map { $0 + at }, bytes.count - at)
            if written < 0, errno == EINTR { continue }
            guard written > 0 else { return false }
            at += written
        }
        return true
    }

    /// All of it or nothing: written beside it, made durable, and then renamed.
    static func replace(_ path: String, with bytes: [UInt8]) -> Bool {
        let draft = path + ".new"
        let descriptor = open(draft, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { return false }
        let isWritten = bytes.withUnsafeBytes { write(descriptor, $0) } && fdatasync(descriptor) == 0
        close(descriptor)
        guard isWritten, rename(draft, path) == 0 else {
            unlink(draft)
            return false
        }
        return true
    }

    /// The file's bytes, mapped into memory; nil if it cannot be read.
    static func map(_ path: String) -> UnsafeRawBufferPointer? {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        var status = stat()
        guard fstat(descriptor, &status) == 0, status.st_size > 0 else { return nil }
        let length = Int(status.st_size)
        guard let address = mmap(nil, length, PROT_READ, MAP_PRIVATE, descriptor, 0), address != MAP_FAILED else {
            return nil
        }
        return UnsafeRawBufferPointer(start: address, count: length)
    }

    static func unmap(_ bytes: UnsafeRawBufferPointer) {
        munmap(UnsafeMutableRawPointer(mutating: bytes.baseAddress), bytes.count)
    }

    /// In bytes; nil when it cannot be read.
    static func size(_ path: String) -> Int? {
        var status = stat()
        return stat(path, &status) == 0 ? Int(status.st_size) : nil
    }

    static func syncDirectory(_ path: String) {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return }
        fsync(descriptor)
        close(descriptor)
    }

    static func names(in directory: String) -> [String]? {
        guard let stream = opendir(directory) else { return nil }
        defer { closedir(stream) }
        var names: [String] = []
        while let entry = readdir(stream) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) { pointer in
                pointer.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names
    }
}
