/// The idempotency keys of one log within the window, oldest forgotten first.
struct IdempotencyIndex: Sendable {
    struct Entry: Sendable {
        var offset: UInt64
        var epoch: UInt32
        var acceptedUnixNano: UInt64
        var traceparent: String?
    }

    private let windowNanoseconds: UInt64
    private let limit: Int
    private var entries: [ExactText: Entry] = [:]
    /// In the order of claiming; a key that was claimed anew leaves a stale place behind, told by its offset.
    private var order = Ring<(key: ExactText, offset: UInt64)>()

    init(windowNanoseconds: UInt64, limit: Int) {
        self.windowNanoseconds = windowNanoseconds
        self.limit = limit
    }

    var count: Int { entries.count }

    func find(_ key: String, now: UInt64) -> Entry? {
        guard let entry = entries[ExactText(key)], !isExpired(entry, now: now) else { return nil }
        return entry
    }

    mutating func claim(_ key: String, _ entry: Entry, now: UInt64) {
        guard limit > 0 else { return }
        let key = ExactText(key)
        entries[key] = entry
        order.append((key, entry.offset))
        while let oldest = order.first {
            let entry = entries[oldest.key]
            let isStale = entry?.offset != oldest.offset
            guard isStale || order.count > limit || entry.map({ isExpired($0, now: now) }) ?? true else { break }
            order.popFirst()
            if !isStale { entries[oldest.key] = nil }
        }
    }

    /// Gives back the keys of events after `offset`, which left the log.
    mutating func withdraw(after offset: UInt64) {
        while let newest = order.last, newest.offset > offset {
            order.popLast()
            if entries[newest.key]?.offset == newest.offset { entries[newest.key] = nil }
        }
    }

    /// An event that claims to come from the future does not expire early.
    private func isExpired(_ entry: Entry, now: UInt64) -> Bool {
        now > entry.acceptedUnixNano && now - entry.acceptedUnixNano > windowNanoseconds
    }
}
