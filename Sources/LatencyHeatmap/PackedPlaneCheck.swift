extension PackedPlane {
    /// Whether bytes that come from a file are what a `PlaneWriter` writes: readers of packed cells trust them.
    static func isSound(
        _ bytes: UnsafeRawBufferPointer, thresholdCount: Int, cellCount: Int, groupCount: Int, stageCount: Int
    ) -> Bool {
        var check = Check(bytes: bytes)
        var key: UInt64 = 0
        for number in 0..<cellCount {
            guard let gap = check.varint(), number == 0 || gap > 0, let length = check.varint(),
                length <= UInt64(check.left)
            else { return false }
            let (next, overflow) = key.addingReportingOverflow(gap)
            key = next
            guard !overflow, key >> 6 < UInt64(groupCount), key & 63 < UInt64(stageCount) else { return false }
            let end = check.at + Int(length)
            guard check.cell(thresholdCount: thresholdCount), check.at == end else { return false }
        }
        return check.left == 0
    }

    private struct Check {
        let bytes: UnsafeRawBufferPointer
        var at = 0

        var left: Int { bytes.count - at }

        mutating func byte() -> UInt8? {
            guard at < bytes.count else { return nil }
            at += 1
            return bytes[at - 1]
        }

        mutating func varint() -> UInt64? {
            var reader = Varint(bytes: bytes, at: at)
            defer { at = reader.at }
            return reader.next()
        }

        mutating func cell(thresholdCount: Int) -> Bool {
            typealias Flag = PackedCell.Flag
            guard let flags = byte(), flags & 0x80 == 0, let count = varint(), count > 0 else { return false }
            if flags & Flag.late != 0, varint() == nil { return false }
            if flags & Flag.buckets == 0 {
                guard count <= UInt64(Sketch.exactLimit),
                    flags & (Flag.shift | Flag.approximate | Flag.counters) == 0
                else { return false }
                var value: UInt64 = 0
                for _ in 0..<count {
                    guard let gap = varint(), !value.addingReportingOverflow(gap).overflow else { return false }
                    value += gap
                }
            } else {
                guard buckets(flags, count, thresholdCount) else { return false }
            }
            return flags & Flag.exemplars == 0 || exemplars()
        }

        private mutating func buckets(_ flags: UInt8, _ count: UInt64, _ thresholdCount: Int) -> Bool {
            var shift = 0
            if flags & PackedCell.Flag.shift != 0 {
                guard let byte = byte(), byte > 0, byte <= UInt8(BucketScale.maxShift) else { return false }
                shift = Int(byte)
            }
            guard varint() != nil, let max = varint(), let zeros = varint() else { return false }
            if flags & PackedCell.Flag.counters != 0 {
                for _ in 0..<thresholdCount where varint() == nil { return false }
            }
            guard let used = varint(), used <= UInt64(BucketScale.positionCount), let first = varint(),
                first < UInt64(BucketScale.positionCount)
            else { return false }
            let last = BucketScale.coarser(BucketScale.position(nanoseconds: max), shift: shift)
            var position = Int(first)
            var seen = zeros
            for number in 0..<used {
                guard let token = byte() else { return false }
                var gap = UInt64(token >> 5)
                var inBucket = UInt64(token & 31)
                if gap == 0 {
                    guard let long = varint(), long < UInt64(BucketScale.positionCount) else { return false }
                    gap = long
                }
                if inBucket == 0 {
                    guard let long = varint(), long > 0 else { return false }
                    inBucket = long
                }
                guard number == 0 ? gap == 0 : gap > 0 else { return false }
                position += Int(gap)
                guard position > 0, position <= last else { return false }
                seen = seen.saturatingAdding(inBucket)
            }
            return seen == count && (used == 0 || position == last)
        }

        private mutating func exemplars() -> Bool {
            guard let number = byte(), number > 0, number <= UInt8(Exemplars.classes) else { return false }
            for _ in 0..<number {
                guard left >= 16 else { return false }
                at += 16
                guard varint() != nil else { return false }
            }
            return true
        }
    }
}
