/// An event of the generator's own, as it is published and recognized.
///
///     TTTTTTTTnnnnnnnnnnnnnnnnnnn.cccccc.pppp.ssssssssss.xxx…
///
/// T: the run's tag, 8 letters, so that events of an earlier run are not taken for this one's. n: when the event was due,
/// nanoseconds of the monotonic clock. c: its channel. p: who published it. s: its number in the channel, from 0. All of
/// fixed width, and of characters that need no escape in a URL, in a form or in JSON.
struct EventPayload: Equatable {
    var dueNano: UInt64
    var channel: Int
    var publisher: Int
    var sequence: Int

    static let tagBytes = 8
    static let minBytes = 51

    static func makeTag() -> UInt64 {
        var tag: UInt64 = 0
        for _ in 0..<tagBytes { tag = tag << 8 | UInt64(UInt8.random(in: UInt8(ascii: "a")...UInt8(ascii: "z"))) }
        return tag
    }

    func write(tag: UInt64, to at: UnsafeMutablePointer<UInt8>) {
        UnsafeMutableRawPointer(at).storeBytes(of: tag, as: UInt64.self)
        Self.write(dueNano, at + 8, 19)
        Self.write(UInt64(channel), at + 28, 6)
        Self.write(UInt64(publisher), at + 35, 4)
        Self.write(UInt64(sequence), at + 40, 10)
        for dot in [27, 34, 39, 50] { at[dot] = UInt8(ascii: ".") }
    }

    private static func write(_ number: UInt64, _ at: UnsafeMutablePointer<UInt8>, _ width: Int) {
        var rest = number
        for index in (0..<width).reversed() {
            at[index] = UInt8(ascii: "0") + UInt8(rest % 10)
            rest /= 10
        }
    }

    /// Nil unless one of this run's begins here.
    @inline(__always)
    static func read(tag: UInt64, _ at: UnsafePointer<UInt8>, _ count: Int) -> EventPayload? {
        guard count >= minBytes, UnsafeRawPointer(at).loadUnaligned(as: UInt64.self) == tag,
            let due = number(at + 8, 19), let channel = number(at + 28, 6), let publisher = number(at + 35, 4),
            let sequence = number(at + 40, 10)
        else { return nil }
        return EventPayload(
            dueNano: due, channel: Int(channel), publisher: Int(publisher), sequence: Int(sequence))
    }

    @inline(__always)
    private static func number(_ at: UnsafePointer<UInt8>, _ width: Int) -> UInt64? {
        var number: UInt64 = 0
        var wrong: UInt8 = 0
        for index in 0..<width {
            let digit = at[index] &- UInt8(ascii: "0")
            wrong |= digit > 9 ? 1 : 0
            number = number &* 10 &+ UInt64(digit)
        }
        return wrong == 0 ? number : nil
    }
}
