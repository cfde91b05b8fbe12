/// Which events of a channel one stream has had.
struct SequenceCheck {
    /// One more than the largest number that came.
    private(set) var next = 0
    /// Numbers below `next` that have not come, ascending.
    private(set) var gaps: [Range<Int>] = []
    /// Numbers that were given up, since there were too many gaps to keep.
    private(set) var forgotten = 0

    /// A stream that misses every second event for long is broken; its gaps need not fill the memory.
    static let maxGaps = 1_024

    /// False for a number that came before.
    @inline(__always)
    mutating func isNew(_ sequence: Int) -> Bool {
        if sequence == next {
            next &+= 1
            return true
        }
        return isNewOutOfTurn(sequence)
    }

    @inline(never)
    private mutating func isNewOutOfTurn(_ sequence: Int) -> Bool {
        if sequence > next {
            gaps.append(next..<sequence)
            if gaps.count > Self.maxGaps { forgotten += gaps.removeFirst().count }
            next = sequence + 1
            return true
        }
        guard let index = gaps.lastIndex(where: { $0.contains(sequence) }) else { return false }
        let gap = gaps[index]
        let parts = [gap.lowerBound..<sequence, (sequence + 1)..<gap.upperBound].filter { !$0.isEmpty }
        gaps.replaceSubrange(index...index, with: parts)
        return true
    }

    /// How many numbers of `range` that were accepted have not come.
    ///
    /// - Parameter refused: numbers that no event was accepted under.
    func missing(in range: Range<Int>, refused: Set<Int>) -> Int {
        var missing = 0
        for gap in gaps + [next..<max(next, range.upperBound)] {
            let part = gap.clamped(to: range)
            missing += part.count
            if !refused.isEmpty, !part.isEmpty { missing -= refused.count { part.contains($0) } }
        }
        return missing + forgotten
    }
}
