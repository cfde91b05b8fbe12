/// Offsets of a log that no event has because its commit failed. Every other offset that is missing was lost.
struct LogHoles: Sendable, Equatable {
    /// A log of an earlier version did not keep them: below, nothing is known.
    var knownFrom: UInt64 = 1
    /// Ascending, with events between.
    private(set) var ranges: [ClosedRange<UInt64>] = []

    /// Not below the ones that are there.
    mutating func add(_ range: ClosedRange<UInt64>) {
        guard let last = ranges.last, range.lowerBound <= last.upperBound + 1 else { return ranges.append(range) }
        ranges[ranges.count - 1] = last.lowerBound...max(last.upperBound, range.upperBound)
    }

    mutating func trim(through offset: UInt64) {
        let gone = ranges.prefix { $0.upperBound <= offset }.count
        if gone > 0 { ranges.removeFirst(gone) }
    }

    /// Of offsets without an event, the first run of those that should have one.
    func lost(in gap: ClosedRange<UInt64>) -> ClosedRange<UInt64>? {
        var first = max(gap.lowerBound, knownFrom)
        for hole in ranges where hole.upperBound >= first {
            guard first <= gap.upperBound else { return nil }
            if hole.lowerBound > first { return first...min(gap.upperBound, hole.lowerBound - 1) }
            first = hole.upperBound + 1
        }
        return first <= gap.upperBound ? first...gap.upperBound : nil
    }
}
