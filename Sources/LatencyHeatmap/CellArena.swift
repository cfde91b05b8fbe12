import Glibc

/// Memory for the cells of one open window: pieces of 32 bytes to 32 KiB, all given back at once.
struct CellArena: ~Copyable {
    /// Piece sizes are 32 bytes << class.
    static let classes = 12
    private static let firstSlab = 16 << 10
    /// A large page of the usual processors: cells are written in no order, and of small pages each would be looked up
    /// and made on its own.
    static let largestSlab = 2 << 20

    private var slabs: [UnsafeMutableRawPointer] = []
    private var at: UnsafeMutableRawPointer?
    private var left = 0
    private var free: [UnsafeMutableRawPointer?] = Array(repeating: nil, count: CellArena.classes)
    private(set) var byteCount = 0

    deinit { for slab in slabs { slab.deallocate() } }

    /// The smallest class whose pieces hold so many bytes.
    static func pieceClass(bytes: Int) -> Int {
        bytes <= 32 ? 0 : Int.bitWidth - (bytes - 1).leadingZeroBitCount - 5
    }

    /// Not cleared.
    mutating func take(_ pieceClass: Int) -> UnsafeMutableRawPointer {
        if let piece = free[pieceClass] {
            free[pieceClass] = piece.load(as: UnsafeMutableRawPointer?.self)
            return piece
        }
        let size = 32 << pieceClass
        if left < size { grow(size) }
        guard let start = at else { preconditionFailure("a slab was just added") }
        at = start + size
        left -= size
        return start
    }

    mutating func give(_ piece: UnsafeMutableRawPointer, _ pieceClass: Int) {
        piece.storeBytes(of: free[pieceClass], as: UnsafeMutableRawPointer?.self)
        free[pieceClass] = piece
    }

    private mutating func grow(_ size: Int) {
        // What is left of the slab is lost: less than the largest piece that was asked for.
        let bytes = Swift.max(size, Swift.min(Swift.max(byteCount, Self.firstSlab), Self.largestSlab))
        let slab = Self.slab(bytes: bytes)
        slabs.append(slab)
        byteCount += bytes
        at = slab
        left = bytes
    }

    /// Memory that begins with a cache line, or with a large page if it is as large as one. Not cleared.
    static func slab(bytes: Int) -> UnsafeMutableRawPointer {
        let isLarge = bytes == largestSlab
        let slab = UnsafeMutableRawPointer.allocate(byteCount: bytes, alignment: isLarge ? largestSlab : 64)
        // Where the system has no large pages, nothing changes.
        if isLarge { _ = madvise(slab, bytes, MADV_HUGEPAGE) }
        return slab
    }
}
