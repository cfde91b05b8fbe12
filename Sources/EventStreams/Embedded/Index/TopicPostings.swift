/// Which events of a block have which topic and type, so that a reader with a filter need not look at the others.
///
/// A block is 4,096 offsets of a log, from a multiple of 4,096; an event's place is its offset less the block's first.
/// In the row `blocks.postings`, numbers as LEB128:
///
///     number of events that could not be read, their places
///     for each pair of topic and type, in order of appearance:
///         bytes of the topic, the topic in UTF-8
///         0 for no type, else 1 + bytes of the type, the type in UTF-8
///         number of events, bytes of their places, their places
///
/// Places ascend; each is written as its distance from the one before, the first from the block's start.
struct TopicPostings {
    static let blockBits: UInt64 = 12
    static let blockEvents: Int64 = 1 << 12

    /// The number of the block that an offset belongs to.
    static func block(of offset: UInt64) -> UInt64 { offset >> blockBits }
    static func firstOffset(ofBlock block: UInt64) -> UInt64 { block << blockBits }
    static func lastOffset(ofBlock block: UInt64) -> UInt64 { block << blockBits | (1 << blockBits - 1) }

    private struct Places {
        var count = 0
        var last = 0
        var bytes: [UInt8] = []

        mutating func add(_ place: Int) {
            TopicPostings.append(place - last, to: &bytes)
            last = place
            count += 1
        }
    }

    private struct Label: Hashable {
        var topic: ExactText
        var type: ExactText?
    }

    private var groups: [(label: Label, places: Places)] = []
    private var indices: [Label: Int] = [:]
    private var lastIndex: Int?
    private var damaged = Places()

    /// In ascending order.
    mutating func add(place: Int, topic: String, type: String?) {
        let label = Label(topic: ExactText(topic), type: type.map(ExactText.init))
        if let lastIndex, groups[lastIndex].label == label {
            groups[lastIndex].places.add(place)
            return
        }
        let index = indices[label] ?? groups.count
        if index == groups.count {
            groups.append((label, Places()))
            indices[label] = index
        }
        groups[index].places.add(place)
        lastIndex = index
    }

    /// An event whose topic nobody knows is of interest to every reader: it must hear of the damage.
    mutating func addDamaged(place: Int) {
        damaged.add(place)
    }

    func encoded() -> [UInt8] {
        var bytes: [UInt8] = []
        Self.append(damaged.count, to: &bytes)
        bytes += damaged.bytes
        for (label, places) in groups {
            Self.append(label.topic.text.utf8.count, to: &bytes)
            bytes += label.topic.text.utf8
            Self.append(label.type.map { $0.text.utf8.count + 1 } ?? 0, to: &bytes)
            if let type = label.type { bytes += type.text.utf8 }
            Self.append(places.count, to: &bytes)
            Self.append(places.bytes.count, to: &bytes)
            bytes += places.bytes
        }
        return bytes
    }

    private static func append(_ value: Int, to bytes: inout [UInt8]) {
        var rest = UInt(value)
        while rest > 0x7f {
            bytes.append(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest >>= 7
        }
        bytes.append(UInt8(rest))
    }

    // MARK: Reading

    enum Match: Equatable {
        /// Of few of the block's events, ascending.
        case places([Int])
        /// Of many: to look at each event costs less.
        case many
    }

    /// The events from a place on that `filter` takes or that could not be read; nil for bytes that are no postings.
    static func match(_ bytes: UnsafeRawBufferPointer, _ filter: TopicFilter, from first: Int = 0) -> Match? {
        var reader = Reader(bytes: bytes)
        var places: [Int] = []
        guard let damaged = reader.number(), reader.places(damaged, from: first, into: &places) else { return nil }
        var events = damaged
        var matching = damaged
        var groups: [(count: Int, places: UnsafeRawBufferPointer)] = []
        while reader.offset < bytes.count {
            guard let topicCount = reader.number(), let topic = reader.take(topicCount),
                let typeCount = reader.number(), let type = reader.take(max(0, typeCount - 1)),
                let count = reader.number(), let byteCount = reader.number(), let group = reader.take(byteCount)
            else { return nil }
            events += count
            guard filter.matches(topic: topic),
                filter.types.isEmpty
                    || filter.matches(type: typeCount == 0 ? nil : String(decoding: type, as: UTF8.self))
            else { continue }
            matching += count
            groups.append((count, group))
        }
        guard events <= blockEvents else { return nil }
        if matching * 4 >= events, matching > 0 { return .many }
        for (count, bytes) in groups {
            var group = Reader(bytes: bytes)
            guard group.places(count, from: first, into: &places), group.offset == bytes.count else { return nil }
        }
        if groups.count > 1 || damaged > 0 { places.sort() }
        return .places(places)
    }

    /// Of all events, ascending; nil for bytes that are no postings.
    static func places(_ bytes: UnsafeRawBufferPointer) -> [Int]? {
        var reader = Reader(bytes: bytes)
        var places: [Int] = []
        guard let damaged = reader.number(), reader.places(damaged, from: 0, into: &places) else { return nil }
        while reader.offset < bytes.count {
            guard let topic = reader.number(), reader.take(topic) != nil, let type = reader.number(),
                reader.take(max(0, type - 1)) != nil, let count = reader.number(), reader.number() != nil,
                reader.places(count, from: 0, into: &places)
            else { return nil }
        }
        return places.sorted()
    }

    private struct Reader {
        let bytes: UnsafeRawBufferPointer
        var offset = 0

        mutating func number() -> Int? {
            var value = 0
            var shift = 0
            while offset < bytes.count, shift < 35 {
                let byte = bytes[offset]
                offset += 1
                value |= Int(byte & 0x7f) << shift
                if byte < 0x80 { return value }
                shift += 7
            }
            return nil
        }

        mutating func take(_ count: Int) -> UnsafeRawBufferPointer? {
            guard count <= bytes.count - offset else { return nil }
            defer { offset += count }
            return UnsafeRawBufferPointer(rebasing: bytes[offset..<offset + count])
        }

        mutating func places(_ count: Int, from first: Int, into places: inout [Int]) -> Bool {
            guard count <= TopicPostings.blockEvents else { return false }
            var place = 0
            for _ in 0..<count {
                guard let distance = number() else { return false }
                place += distance
                guard place < TopicPostings.blockEvents else { return false }
                if place >= first { places.append(place) }
            }
            return true
        }
    }
}
