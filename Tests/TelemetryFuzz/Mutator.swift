import Glibc
import TestSupport

/// Makes inputs from a corpus: takes one and changes it a few times. Most stay nearly valid, some grow past every limit.
struct Mutator {
    var random = SeededGenerator(0)

    /// Bytes that mean something to one of the formats.
    private static let interesting = Array(
        "-,;=%: \t\"\\@_*/.+0123456789abcdefABCDEFzd\u{0}\u{1}\r\n\u{7F}".utf8
            + [0x80, 0xC3, 0xA9, 0xE2, 0xF0, 0xFF, 0x0A, 0x08, 0x12])
    private static let maxBytes = 20_000

    mutating func mutated(_ corpus: [[UInt8]]) -> [UInt8] {
        var bytes = pick(corpus)
        // Now and then as it is: the corpus itself must hold.
        for _ in 0..<below(6) { mutate(&bytes, corpus) }
        return bytes
    }

    private mutating func mutate(_ bytes: inout [UInt8], _ corpus: [[UInt8]]) {
        let place = below(bytes.count + 1)
        switch below(9) {
        case 0 where place < bytes.count: bytes[place] ^= 1 << UInt8(below(8))
        case 1 where place < bytes.count: bytes[place] = pick(Self.interesting)
        case 2: bytes.insert(pick(Self.interesting), at: place)
        case 3: bytes.insert(UInt8(below(256)), at: place)
        case 4: bytes.removeSubrange(place..<min(bytes.count, place + 1 + below(8)))
        case 5: bytes.removeSubrange(place...)
        case 6:
            let other = pick(corpus)
            bytes.replaceSubrange(place..., with: other[below(other.count + 1)...])
        case 7:
            // A part again, at times very often: lists over their limits.
            let end = min(bytes.count, place + 1 + below(64))
            let times = below(8) == 0 ? 1 + below(300) : 1 + below(3)
            let part = bytes[place..<end]
            guard part.count * times + bytes.count <= Self.maxBytes else { return }
            for _ in 0..<times { bytes.insert(contentsOf: part, at: place) }
        default:
            guard bytes.count < Self.maxBytes else { return }
            bytes.append(contentsOf: [pick(Self.interesting)] + pick(corpus))
        }
    }

    private mutating func pick<Element>(_ list: [Element]) -> Element { list[below(list.count)] }

    private mutating func below(_ limit: Int) -> Int { Int(random.next() % UInt64(max(1, limit))) }
}

/// One write(2).
func tell(_ line: String, to descriptor: Int32) {
    let line = line + "\n"
    _ = line.withCString { write(descriptor, $0, strlen($0)) }
}

func exitProcess(_ status: Int32) -> Never { exit(status) }
