/// What a scan should pick out of a trace request: the attribute keys of interest, for spans and for resources.
///
/// Everything else is passed over without being looked at.
public struct TraceScanInterest: Sendable {
    /// At most 32 keys for spans and 32 for resources; a scanned attribute names its key by position here.
    public let spanKeys: [String]
    public let resourceKeys: [String]
    let span: KeySet
    let resource: KeySet

    public init(spanKeys: [String], resourceKeys: [String]) {
        precondition(spanKeys.count <= 32 && resourceKeys.count <= 32, "a scan looks for at most 32 keys")
        self.spanKeys = spanKeys
        self.resourceKeys = resourceKeys
        span = KeySet(spanKeys)
        resource = KeySet(resourceKeys)
    }

    /// Keys laid out for a test by length first: most attributes of a span are ruled out by one bit test.
    final class KeySet: Sendable {
        nonisolated(unsafe) let bytes: UnsafeMutablePointer<UInt8>
        nonisolated(unsafe) let offsets: UnsafeMutablePointer<Int32>
        /// For each length the first key that has it; 63 stands for what is longer, too.
        nonisolated(unsafe) let candidates: UnsafeMutablePointer<UInt8>
        let count: Int
        /// Bit n: some key is n bytes long; the last bit stands for 63 and more.
        let lengths: UInt64

        init(_ keys: [String]) {
            let all = keys.map { Array($0.utf8) }
            bytes = .allocate(capacity: all.reduce(1) { $0 + $1.count })
            offsets = .allocate(capacity: all.count + 1)
            candidates = .allocate(capacity: 64)
            for length in 0..<64 {
                let first = all.firstIndex { min($0.count, 63) == length }
                candidates[length] = UInt8(first ?? all.count)
            }
            count = all.count
            var at = 0
            var lengths: UInt64 = 0
            for (index, key) in all.enumerated() {
                offsets[index] = Int32(at)
                for byte in key {
                    bytes[at] = byte
                    at += 1
                }
                lengths |= 1 << UInt64(min(key.count, 63))
            }
            offsets[all.count] = Int32(at)
            self.lengths = lengths
        }

        deinit {
            bytes.deallocate()
            offsets.deallocate()
            candidates.deallocate()
        }

        @inline(__always)
        func find(_ key: UnsafeRawBufferPointer) -> Int? {
            guard lengths >> UInt64(min(key.count, 63)) & 1 == 1 else { return nil }
            var index = Int(candidates[min(key.count, 63)])
            while index < count {
                let start = Int(offsets[index])
                if Int(offsets[index &+ 1]) &- start == key.count,
                    BytesEqual.test(key.baseAddress, UnsafeRawPointer(bytes + start), key.count)
                {
                    return index
                }
                index &+= 1
            }
            return nil
        }
    }
}

/// Equality of short byte strings, eight bytes at a time; a call to `memcmp` costs more than the work.
public enum BytesEqual {
    @inlinable @inline(__always)
    public static func test(_ a: UnsafeRawPointer?, _ b: UnsafeRawPointer, _ count: Int) -> Bool {
        guard let a else { return count == 0 }
        if count >= 8 {
            // The last eight overlap those before.
            let last = count &- 8
            var at = 0
            while at < last {
                if load(a, at) != load(b, at) { return false }
                at &+= 8
            }
            return load(a, last) == load(b, last)
        }
        if count >= 4 { return half(a, 0) == half(b, 0) && half(a, count &- 4) == half(b, count &- 4) }
        var at = 0
        while at < count {
            guard a.load(fromByteOffset: at, as: UInt8.self) == b.load(fromByteOffset: at, as: UInt8.self) else {
                return false
            }
            at &+= 1
        }
        return true
    }

    @inlinable @inline(__always)
    static func load(_ start: UnsafeRawPointer, _ at: Int) -> UInt64 {
        start.loadUnaligned(fromByteOffset: at, as: UInt64.self)
    }

    @inlinable @inline(__always)
    static func half(_ start: UnsafeRawPointer, _ at: Int) -> UInt32 {
        start.loadUnaligned(fromByteOffset: at, as: UInt32.self)
    }
}

/// A run of bytes, either in the scanned message or, when text had to be unescaped, in the scan's own arena.
public struct ScannedBytes: Sendable, Equatable, BitwiseCopyable {
    @usableFromInline let start: UInt32
    /// The top bit says "in the arena".
    @usableFromInline let lengthAndSource: UInt32

    @inlinable init(start: UInt32, length: UInt32, inArena: Bool) {
        self.start = start
        lengthAndSource = length | (inArena ? 0x8000_0000 : 0)
    }

    @inlinable public init() {
        start = 0
        lengthAndSource = 0
    }

    @inlinable public var count: Int { Int(lengthAndSource & 0x7FFF_FFFF) }

    /// The first `length` bytes.
    @inlinable public func clipped(to length: Int) -> ScannedBytes {
        ScannedBytes(start: start, length: UInt32(Swift.min(length, count)), inArena: isInArena)
    }

    @inlinable var isInArena: Bool { lengthAndSource >> 31 == 1 }
}

/// One attribute of interest.
public struct ScannedAttribute: Sendable, BitwiseCopyable {
    public enum Kind: UInt8, Sendable, BitwiseCopyable { case empty, string, bool, int, double, bytes, other }

    /// Position of the key in `TraceScanInterest.spanKeys` or `.resourceKeys`.
    public let key: UInt8
    public let kind: Kind
    @usableFromInline let bits: UInt64

    @inlinable init(key: UInt8, kind: Kind, bits: UInt64) {
        self.key = key
        self.kind = kind
        self.bits = bits
    }

    @inlinable public var int: Int64 { Int64(bitPattern: bits) }
    @inlinable public var bool: Bool { bits != 0 }
    @inlinable public var double: Double { Double(bitPattern: bits) }
    /// For strings and bytes.
    @inlinable public var bytes: ScannedBytes {
        ScannedBytes(
            start: UInt32(truncatingIfNeeded: bits), length: UInt32(truncatingIfNeeded: bits >> 32) & 0x7FFF_FFFF,
            inArena: bits >> 63 == 1)
    }
}

/// The fields of one span that a scan keeps. Zero ids and times mean "absent", as on the wire.
public struct ScannedSpan: Sendable, BitwiseCopyable {
    public var traceIDHigh: UInt64 = 0
    public var traceIDLow: UInt64 = 0
    public var startUnixNano: UInt64 = 0
    public var endUnixNano: UInt64 = 0
    public var name = ScannedBytes()
    /// First of this span's entries in `TraceScan.attributes`.
    public var firstAttribute: UInt32 = 0
    public var attributeCount: UInt32 = 0
    /// Position in `TraceScan.resources`.
    public var resource: UInt32 = 0
    /// OTLP's numbers: 0 unspecified, 1 internal, 2 server, 3 client, 4 producer, 5 consumer.
    public var kind: UInt32 = 0
}

/// The attributes of interest of one `ResourceSpans`.
public struct ScannedResource: Sendable, BitwiseCopyable {
    public var firstAttribute: UInt32 = 0
    public var attributeCount: UInt32 = 0
}

/// Where what a scan has found lies, to be read in a loop. Valid until the next scan, or until text is noted.
@frozen
public struct TraceScanView {
    public let spans: UnsafePointer<ScannedSpan>
    @usableFromInline let attributes: UnsafePointer<ScannedAttribute>
    @usableFromInline let base: UnsafeRawPointer
    @usableFromInline let arena: UnsafeRawPointer

    @inlinable @inline(__always)
    public func bytes(_ range: ScannedBytes) -> UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(start: (range.isInArena ? arena : base) + Int(range.start), count: range.count)
    }

    @inlinable @inline(__always)
    public func attributes(of span: ScannedSpan) -> UnsafeBufferPointer<ScannedAttribute> {
        UnsafeBufferPointer(start: attributes + Int(span.firstAttribute), count: Int(span.attributeCount))
    }

    @inlinable @inline(__always)
    public func areEqual(_ a: ScannedBytes, _ b: ScannedBytes) -> Bool {
        guard a.count == b.count, let other = bytes(b).baseAddress else { return false }
        return BytesEqual.test(bytes(a).baseAddress, other, a.count)
    }
}

/// The result of scanning one request, and the memory it lives in; use it again for the next request.
///
/// Not thread-safe. Ranges are valid until the next scan, and only together with the bytes that were scanned.
public final class TraceScan {
    /// Not properties of the class: those are checked for exclusive access each time.
    private struct Storage {
        var spanCount = 0
        var resourceCount = 0
        var attributeCount = 0
        var arenaCount = 0
        var spanCapacity = 256
        var attributeCapacity = 512
        var resourceCapacity = 16
        var arenaCapacity = 256
        var spans: UnsafeMutablePointer<ScannedSpan>
        var attributes: UnsafeMutablePointer<ScannedAttribute>
        var resources: UnsafeMutablePointer<ScannedResource>
        var arena: UnsafeMutablePointer<UInt8>
        /// The scanned message.
        var base: UnsafeRawPointer
        var end: UnsafeRawPointer

        init() {
            spans = .allocate(capacity: spanCapacity)
            attributes = .allocate(capacity: attributeCapacity)
            resources = .allocate(capacity: resourceCapacity)
            arena = .allocate(capacity: arenaCapacity)
            base = UnsafeRawPointer(arena)
            end = base
        }
    }

    private let storage: UnsafeMutablePointer<Storage>

    public init() {
        storage = .allocate(capacity: 1)
        storage.initialize(to: Storage())
    }

    deinit {
        storage.pointee.spans.deallocate()
        storage.pointee.attributes.deallocate()
        storage.pointee.resources.deallocate()
        storage.pointee.arena.deallocate()
        storage.deallocate()
    }

    public var spanCount: Int { storage.pointee.spanCount }
    public var resourceCount: Int { storage.pointee.resourceCount }
    var attributeCount: Int { @inline(__always) get { storage.pointee.attributeCount } }
    var arenaCount: Int { storage.pointee.arenaCount }
    /// Start and end of the scanned message.
    var base: UnsafeRawPointer { @inline(__always) get { storage.pointee.base } }
    var end: UnsafeRawPointer { @inline(__always) get { storage.pointee.end } }

    public var spans: UnsafeBufferPointer<ScannedSpan> {
        UnsafeBufferPointer(start: storage.pointee.spans, count: spanCount)
    }
    public var resources: UnsafeBufferPointer<ScannedResource> {
        UnsafeBufferPointer(start: storage.pointee.resources, count: resourceCount)
    }
    public var attributes: UnsafeBufferPointer<ScannedAttribute> {
        UnsafeBufferPointer(start: storage.pointee.attributes, count: attributeCount)
    }

    public var view: TraceScanView {
        TraceScanView(
            spans: UnsafePointer(storage.pointee.spans), attributes: UnsafePointer(storage.pointee.attributes),
            base: base,
            arena: UnsafeRawPointer(storage.pointee.arena))
    }

    public var retainedBytes: Int {
        storage.pointee.spanCapacity * MemoryLayout<ScannedSpan>.stride + storage.pointee.attributeCapacity
            * MemoryLayout<ScannedAttribute>.stride
            + storage.pointee.resourceCapacity * MemoryLayout<ScannedResource>.stride + storage.pointee.arenaCapacity
    }

    @inline(__always)
    public func bytes(_ range: ScannedBytes) -> UnsafeRawBufferPointer {
        let source = range.isInArena ? UnsafeRawPointer(storage.pointee.arena) : base
        return UnsafeRawBufferPointer(start: source + Int(range.start), count: range.count)
    }

    @inline(__always)
    public func attributes(of span: ScannedSpan) -> UnsafeBufferPointer<ScannedAttribute> {
        UnsafeBufferPointer(
            start: storage.pointee.attributes + Int(span.firstAttribute), count: Int(span.attributeCount))
    }

    public func attributes(of resource: ScannedResource) -> UnsafeBufferPointer<ScannedAttribute> {
        UnsafeBufferPointer(
            start: storage.pointee.attributes + Int(resource.firstAttribute), count: Int(resource.attributeCount))
    }

    public func isEqual(_ range: ScannedBytes, _ expected: [UInt8]) -> Bool {
        range.count == expected.count && bytes(range).elementsEqual(expected)
    }

    public func isEqual(_ range: ScannedBytes, _ expected: StaticString) -> Bool { matches(range, expected) }

    /// The value as text: strings as they are; numbers and truth values written out into the arena; nil for the rest.
    @inline(__always)
    public func text(of attribute: ScannedAttribute) -> ScannedBytes? {
        attribute.kind == .string ? attribute.bytes : textOfOther(attribute)
    }

    @inline(never)
    private func textOfOther(_ attribute: ScannedAttribute) -> ScannedBytes? {
        switch attribute.kind {
        case .int: note("\(attribute.int)")
        case .bool: note(attribute.bool ? "true" : "false")
        case .double: note("\(attribute.double)")
        default: nil
        }
    }

    /// Puts text of one's own into the arena, so that it can stand where scanned text does.
    public func note(_ text: String) -> ScannedBytes {
        let start = arenaCount
        for byte in text.utf8 { appendToArena(byte) }
        return arenaRange(from: start)
    }

    /// Where text that is noted byte by byte begins.
    public func noteStart() -> Int { arenaCount }
    public func note(_ byte: UInt8) { appendToArena(byte) }
    public func noted(from start: Int) -> ScannedBytes { arenaRange(from: start) }

    func begin(_ message: UnsafeRawBufferPointer) throws(OTLPDecodingError) {
        storage.pointee.spanCount = 0
        storage.pointee.resourceCount = 0
        storage.pointee.attributeCount = 0
        storage.pointee.arenaCount = 0
        guard message.count < 0x7FFF_FFFF else {
            throw OTLPDecodingError(code: .tooLarge, offset: 0, cause: "a message of 2 GiB or more")
        }
        storage.pointee.base = message.baseAddress ?? UnsafeRawPointer(storage.pointee.arena)
        storage.pointee.end = storage.pointee.base + message.count
    }

    @inline(__always)
    func appendSpan(_ span: ScannedSpan) {
        if spanCount == storage.pointee.spanCapacity { growSpans() }
        (storage.pointee.spans + spanCount).initialize(to: span)
        storage.pointee.spanCount &+= 1
    }

    @inline(__always)
    func appendAttribute(_ attribute: ScannedAttribute) {
        if attributeCount == storage.pointee.attributeCapacity { growAttributes() }
        (storage.pointee.attributes + attributeCount).initialize(to: attribute)
        storage.pointee.attributeCount &+= 1
    }

    func appendResource(_ resource: ScannedResource) -> Int {
        if resourceCount == storage.pointee.resourceCapacity {
            storage.pointee.resources = TraceScan.grow(
                storage.pointee.resources, count: resourceCount, capacity: &storage.pointee.resourceCapacity)
        }
        (storage.pointee.resources + resourceCount).initialize(to: resource)
        storage.pointee.resourceCount += 1
        return resourceCount - 1
    }

    func setResource(_ index: Int, _ resource: ScannedResource) { storage.pointee.resources[index] = resource }

    func appendToArena(_ byte: UInt8) {
        if arenaCount == storage.pointee.arenaCapacity {
            storage.pointee.arena = TraceScan.grow(
                storage.pointee.arena, count: arenaCount, capacity: &storage.pointee.arenaCapacity)
        }
        (storage.pointee.arena + arenaCount).initialize(to: byte)
        storage.pointee.arenaCount += 1
    }

    func arenaRange(from start: Int) -> ScannedBytes {
        ScannedBytes(start: UInt32(start), length: UInt32(arenaCount - start), inArena: true)
    }

    @inline(never)
    private func growSpans() {
        storage.pointee.spans = TraceScan.grow(
            storage.pointee.spans, count: spanCount, capacity: &storage.pointee.spanCapacity)
    }

    @inline(never)
    private func growAttributes() {
        storage.pointee.attributes = TraceScan.grow(
            storage.pointee.attributes, count: attributeCount, capacity: &storage.pointee.attributeCapacity)
    }

    private static func grow<T: BitwiseCopyable>(
        _ storage: UnsafeMutablePointer<T>, count: Int, capacity: inout Int
    ) -> UnsafeMutablePointer<T> {
        let larger = UnsafeMutablePointer<T>.allocate(capacity: capacity * 2)
        larger.update(from: storage, count: count)
        storage.deallocate()
        capacity *= 2
        return larger
    }
}
