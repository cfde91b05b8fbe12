/// Derives `blocks` and `latest` from a log's durable events, some blocks behind its head, on the writer's thread.
///
/// Not with each commit: an index entry for each event, at a place that its topic or key decides, would make a commit
/// write a page for each event (a fourth of the rate is left, decision 0016). A pass gathers whole blocks in memory and
/// writes them in the order of the index. What a pass has not reached, readers look through.
final class LogIndexer: @unchecked Sendable {
    // Guard: used on the writer's thread only.
    /// Blocks that make a pass worth its while under load. An idle log is indexed to its last whole block.
    static let passBlocks: UInt64 = 4

    private struct Pass {
        let through: UInt64
        var collectedThrough: UInt64
        var blocks: [(block: UInt64, postings: TopicPostings)] = []
        var latest: [LatestKey: UInt64] = [:]
        /// Sorted, when all was gathered; written from the front.
        var sorted: ArraySlice<(key: LatestKey, offset: UInt64)>?

        mutating func withPostings(of offset: UInt64, _ body: (inout TopicPostings, Int) -> Void) {
            let block = TopicPostings.block(of: offset)
            if blocks.last?.block != block { blocks.append((block, TopicPostings())) }
            body(&blocks[blocks.count - 1].postings, Int(offset - TopicPostings.firstOffset(ofBlock: block)))
        }
    }

    private var passes: [Int64: Pass] = [:]
    /// Of its own: the writer must not wait behind readers.
    private let readers: LogReaders

    init(path: String) {
        readers = LogReaders(path: path, limit: 1)
    }

    func close() {
        readers.close()
    }

    /// One step of about `weight` events; false when nothing is due.
    func step(_ stream: EmbeddedStream, _ core: StoreCore, weight: Int, isIdle: Bool) -> Bool {
        guard core.failure == nil else { return false }
        guard var pass = passes.removeValue(forKey: stream.log) ?? begin(stream, isIdle: isIdle) else { return false }
        do {
            if pass.sorted == nil {
                try collect(&pass, stream, weight)
            } else {
                if try write(&pass, stream, core, weight) { return true }
            }
            passes[stream.log] = pass
            return true
        } catch {
            // Retention took what the pass was about, or the disk is in trouble: a later pass begins anew.
            if error.code != .tooOld { core.statistics.withLock { $0.failedIndexSteps += 1 } }
            return error.code == .tooOld
        }
    }

    private func begin(_ stream: EmbeddedStream, isIdle: Bool) -> Pass? {
        let (durable, trimmed) = stream.state.withLock { ($0.durableHead, $0.trimmedThrough) }
        let start = max(stream.disk.withLock { $0.indexedThrough }, trimmed)
        let first = TopicPostings.block(of: start + 1)
        // Blocks that are complete.
        let end = TopicPostings.block(of: durable + 1)
        guard end >= first + (isIdle ? 1 : Self.passBlocks) else { return nil }
        let last = min(end, first + Self.passBlocks) - 1
        return Pass(through: TopicPostings.lastOffset(ofBlock: last), collectedThrough: start)
    }

    private func collect(_ pass: inout Pass, _ stream: EmbeddedStream, _ weight: Int) throws(StreamError) {
        do {
            let events = try stream.read(
                after: pass.collectedThrough, limit: weight, byteLimit: 8 << 20, readers: readers)
            for event in events where event.offset <= pass.through {
                pass.withPostings(of: event.offset) { $0.add(place: $1, topic: event.topic, type: event.type) }
                if let key = event.key {
                    pass.latest[LatestKey(topic: event.topic, key: key, type: event.type)] = event.offset
                }
            }
            pass.collectedThrough = min(events.last?.offset ?? pass.through, pass.through)
        } catch {
            guard error.code == .corrupt, let offset = error.offset, offset > pass.collectedThrough else { throw error }
            if offset <= pass.through { pass.withPostings(of: offset) { $0.addDamaged(place: $1) } }
            pass.collectedThrough = min(offset, pass.through)
        }
        if pass.collectedThrough == pass.through {
            pass.sorted = pass.latest.map { (key: $0.key, offset: $0.value) }.sorted { $0.key < $1.key }[...]
            pass.latest = [:]
        }
    }

    /// True when the pass is complete.
    private func write(
        _ pass: inout Pass, _ stream: EmbeddedStream, _ core: StoreCore, _ weight: Int
    ) throws(StreamError) -> Bool {
        let trimmed = stream.state.withLock { $0.trimmedThrough }
        let part = (pass.sorted ?? []).prefix(weight)
        let isLast = part.count == pass.sorted?.count
        try core.database.index(
            log: stream.log, latest: part.lazy.filter { $0.offset > trimmed }.map { ($0.key, $0.offset) },
            blocks: isLast
                ? pass.blocks.filter { TopicPostings.lastOffset(ofBlock: $0.block) > trimmed }
                    .map { ($0.block, $0.postings.encoded()) } : [],
            through: isLast ? pass.through : nil)
        pass.sorted?.removeFirst(part.count)
        if isLast { stream.disk.withLock { $0.indexedThrough = pass.through } }
        return isLast
    }
}

/// What an event is the latest value of. An absent type is empty.
struct LatestKey: Hashable, Comparable {
    let topic: ExactText
    let key: ExactText
    let type: ExactText

    init(topic: String, key: String, type: String?) {
        self.topic = ExactText(topic)
        self.key = ExactText(key)
        self.type = ExactText(type ?? "")
    }

    /// For ASCII the order of the table's key; for other texts one that is near it, which is enough to write neighbours
    /// one after the other.
    static func < (left: LatestKey, right: LatestKey) -> Bool {
        if left.topic.text != right.topic.text { return left.topic.text < right.topic.text }
        if left.key.text != right.key.text { return left.key.text < right.key.text }
        return left.type.text < right.type.text
    }
}
