import Glibc
import Gzip

/// One batch in a segment file, all numbers little-endian:
///
///     0  u32  magic: "ISQ1", or "ISQ0" once it is done with
///     4  u32  bytes of the body
///     8  u32  items in the body
///     12 u32  CRC-32 of the body
///     16 u64  sequence number within the process that wrote it
///     24 u32  CRC-32 of bytes 4 to 23
///     28 u32  0
///     32      the body: an export request in protobuf
struct DiskRecord {
    static let headerBytes = 32
    static let waiting: UInt32 = 0x3151_5349
    static let done: UInt32 = 0x3051_5349
    /// Longer bodies are never written, so a longer length is damage.
    static let maxBodyBytes = 1 << 30

    var isDone: Bool
    var bodyBytes: Int
    var itemCount: Int
    var checksum: UInt32
    var sequence: UInt64

    init(body: UnsafeRawBufferPointer, itemCount: Int, sequence: UInt64) {
        isDone = false
        bodyBytes = body.count
        self.itemCount = itemCount
        checksum = Gzip.checksum(body)
        self.sequence = sequence
    }

    /// Nil where no header stands there.
    init?(header: UnsafeRawBufferPointer) {
        func word(_ offset: Int) -> UInt32 {
            UInt32(littleEndian: header.loadUnaligned(fromByteOffset: offset, as: UInt32.self))
        }
        guard header.count >= Self.headerBytes, word(0) == Self.waiting || word(0) == Self.done,
            Gzip.checksum(UnsafeRawBufferPointer(rebasing: header[4..<24])) == word(24),
            word(4) <= Self.maxBodyBytes
        else { return nil }
        isDone = word(0) == Self.done
        bodyBytes = Int(word(4))
        itemCount = Int(word(8))
        checksum = word(12)
        sequence = UInt64(littleEndian: header.loadUnaligned(fromByteOffset: 16, as: UInt64.self))
    }

    var totalBytes: Int { Self.headerBytes + bodyBytes }

    func withHeader<Result>(_ body: (UnsafeRawBufferPointer) -> Result) -> Result {
        withUnsafeTemporaryAllocation(byteCount: Self.headerBytes, alignment: 8) { header in
            func set(_ value: UInt32, _ offset: Int) {
                header.storeBytes(of: value.littleEndian, toByteOffset: offset, as: UInt32.self)
            }
            set(isDone ? Self.done : Self.waiting, 0)
            set(UInt32(bodyBytes), 4)
            set(UInt32(itemCount), 8)
            set(checksum, 12)
            header.storeBytes(of: sequence.littleEndian, toByteOffset: 16, as: UInt64.self)
            set(Gzip.checksum(UnsafeRawBufferPointer(rebasing: header[4..<24])), 24)
            set(0, 28)
            return body(UnsafeRawBufferPointer(header))
        }
    }
}
