import Glibc

/// Packs cells, which come by ascending key, into a plane.
struct PlaneWriter: ~Copyable {
    private var base: UnsafeMutablePointer<UInt8>
    private var capacity: Int
    private(set) var count = 0
    private var previous: UInt64 = 0
    private var cells = 0
    private let thresholds: [UInt64]

    init(thresholds: [UInt64], capacity: Int = 4_096) {
        self.capacity = Swift.max(capacity, 64)
        base = .allocate(capacity: self.capacity)
        self.thresholds = thresholds
    }

    deinit { base.deallocate() }

    /// What a cell is made of, beside its values or buckets.
    struct Head {
        var key: UInt64
        var count: UInt64
        var late: UInt64
        var isPart: Bool
        var exemplars: [SlowTrace] = []
    }

    /// `values` are ascending.
    mutating func append(_ head: Head, values: UnsafeBufferPointer<UInt64>) {
        let length = begin(head, flags: 0, room: values.count * 10)
        var before: UInt64 = 0
        for value in values {
            put(value - before)
            before = value
        }
        if !head.exemplars.isEmpty {
            byte(UInt8(head.exemplars.count))
            for exemplar in head.exemplars {
                id(exemplar)
                put(UInt64(values.count - 1 - (values.firstIndex(of: exemplar.latencyNano) ?? values.count - 1)))
            }
        }
        finish(length)
    }

    struct BucketHead {
        var shift: Int
        var isApproximate: Bool
        var sum: UInt64
        var max: UInt64
        var zeros: UInt64
        /// One for each of the plane's thresholds, or none.
        var counters: UnsafeBufferPointer<UInt64>
    }

    mutating func append<Count: FixedWidthInteger & UnsignedInteger>(
        _ head: Head, _ buckets: BucketHead, firstPosition: Int, counts: UnsafeBufferPointer<Count>
    ) {
        var flags = PackedCell.Flag.buckets
        if buckets.shift != 0 { flags |= PackedCell.Flag.shift }
        if buckets.isApproximate { flags |= PackedCell.Flag.approximate }
        if !buckets.counters.isEmpty { flags |= PackedCell.Flag.counters }
        withUnsafeTemporaryAllocation(of: Int32.self, capacity: counts.count) { room in
            // Without a branch: which buckets have any is anybody's guess.
            var found = 0
            for index in 0..<counts.count {
                room[found] = Int32(truncatingIfNeeded: index)
                found &+= counts[index] > 0 ? 1 : 0
            }
            let used = UnsafeBufferPointer(rebasing: room[..<found])
            let length = begin(head, flags: flags, room: 80 + buckets.counters.count * 10 + used.count * 12)
            if buckets.shift != 0 { byte(UInt8(buckets.shift)) }
            put(buckets.sum)
            put(buckets.max)
            put(buckets.zeros)
            for counter in buckets.counters { put(counter) }
            put(UInt64(used.count))
            put(UInt64(used.first.map { firstPosition + Int($0) } ?? 0))
            var before = Int(used.first ?? 0)
            for index in used {
                let gap = Int(index) - before
                before = Int(index)
                let inBucket = UInt64(counts[Int(index)])
                let isShortGap = gap > 0 && gap < 8
                let isShortCount = inBucket < 32
                byte(UInt8(isShortGap ? gap << 5 : 0) | UInt8(isShortCount ? inBucket : 0))
                if !isShortGap { put(UInt64(gap)) }
                if !isShortCount { put(inBucket) }
            }
            if !head.exemplars.isEmpty {
                byte(UInt8(head.exemplars.count))
                for exemplar in head.exemplars {
                    id(exemplar)
                    put(exemplar.latencyNano)
                }
            }
            finish(length)
        }
    }

    /// A cell as it stands in another plane with the same thresholds.
    mutating func copy(key: UInt64, bytes: UnsafeBufferPointer<UInt8>) {
        reserve(30 + bytes.count)
        put(key - previous)
        previous = key
        cells += 1
        put(UInt64(bytes.count))
        guard let source = bytes.baseAddress else { return }
        (base + count).update(from: source, count: bytes.count)
        count += bytes.count
    }

    /// The plane, and an empty writer after it.
    mutating func seal(start: Int64, end: Int64) -> PackedPlane {
        let memory = UnsafeMutableRawPointer.allocate(byteCount: Swift.max(count, 1), alignment: 8)
        memory.copyMemory(from: base, byteCount: count)
        defer {
            count = 0
            previous = 0
            cells = 0
        }
        return PackedPlane(
            start: start, end: end, thresholds: thresholds, cellCount: cells,
            bytes: UnsafeRawBufferPointer(start: memory, count: count), free: { $0.deallocate() })
    }

    // MARK: Bytes

    private mutating func begin(_ head: Head, flags: UInt8, room: Int) -> Int {
        reserve(room + 80 + head.exemplars.count * 27)
        put(head.key - previous)
        previous = head.key
        cells += 1
        // Most cells are shorter than 128 bytes; for the others the rest moves.
        let length = count
        count += 1
        var flags = flags
        if head.isPart { flags |= PackedCell.Flag.part }
        if head.late > 0 { flags |= PackedCell.Flag.late }
        if !head.exemplars.isEmpty { flags |= PackedCell.Flag.exemplars }
        byte(flags)
        put(head.count)
        if head.late > 0 { put(head.late) }
        return length
    }

    private mutating func finish(_ at: Int) {
        let length = count - at - 1
        var extra = 0
        var rest = length >> 7
        while rest > 0 {
            extra += 1
            rest >>= 7
        }
        if extra > 0 { memmove(base + at + 1 + extra, base + at + 1, length) }
        count = at
        put(UInt64(length))
        count += length
    }

    private mutating func reserve(_ room: Int) {
        guard count + room > capacity else { return }
        let larger = Swift.max(capacity * 2, count + room)
        let memory = UnsafeMutablePointer<UInt8>.allocate(capacity: larger)
        memory.update(from: base, count: count)
        base.deallocate()
        base = memory
        capacity = larger
    }

    @inline(__always)
    private mutating func byte(_ value: UInt8) {
        base[count] = value
        count &+= 1
    }

    @inline(__always)
    private mutating func put(_ value: UInt64) {
        var rest = value
        while rest >= 0x80 {
            byte(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest >>= 7
        }
        byte(UInt8(truncatingIfNeeded: rest))
    }

    private mutating func id(_ trace: SlowTrace) {
        UnsafeMutableRawPointer(base + count).storeBytes(of: trace.high.bigEndian, as: UInt64.self)
        UnsafeMutableRawPointer(base + count + 8).storeBytes(of: trace.low.bigEndian, as: UInt64.self)
        count += 16
    }
}
