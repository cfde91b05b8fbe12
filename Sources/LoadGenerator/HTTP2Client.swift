/// One stream on an HTTP/2 connection of its own, as far as a reader of events needs it: RFC 9113.
///
/// A frame is its payload's length (3 bytes), a type, flags, the stream (4 bytes) and the payload. Our stream is the
/// first, 1. Of the answer's header block only the status is read, which every server writes as the static table's entry:
/// 0x88 is `:status 200` (RFC 7541, appendix A), at most after changes of the table's size (001…).
enum HTTP2Client {
    enum Kind {
        static let data: UInt8 = 0
        static let headers: UInt8 = 1
        static let reset: UInt8 = 3
        static let settings: UInt8 = 4
        static let ping: UInt8 = 6
        static let goAway: UInt8 = 7
        static let window: UInt8 = 8
    }
    static let acknowledges: UInt8 = 1
    static let endsStream: UInt8 = 1
    static let endsHeaders: UInt8 = 4
    static let isPadded: UInt8 = 8
    private static let maxWindow: UInt32 = .max >> 1

    static func frame(_ kind: UInt8, _ flags: UInt8, stream: UInt32, _ payload: [UInt8]) -> [UInt8] {
        Array(bytes(UInt32(payload.count))[1...]) + [kind, flags] + bytes(stream) + payload
    }

    private static func bytes(_ number: UInt32) -> [UInt8] { withUnsafeBytes(of: number.bigEndian) { Array($0) } }

    /// The preface, the widest windows, and the request.
    static func opening(_ fields: [(String, String)]) -> [UInt8] {
        // SETTINGS_INITIAL_WINDOW_SIZE is 4.
        Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8) + frame(Kind.settings, 0, stream: 0, [0, 4] + bytes(maxWindow))
            + frame(Kind.window, 0, stream: 0, bytes(maxWindow - 65_535))
            + frame(Kind.headers, endsHeaders | endsStream, stream: 1, block(fields))
    }

    /// Gives windows back what was read.
    static func windows(_ count: Int) -> [UInt8] {
        let bytes = bytes(UInt32(count))
        return frame(Kind.window, 0, stream: 0, bytes) + frame(Kind.window, 0, stream: 1, bytes)
    }

    /// Literal fields without indexing and without Huffman's code.
    private static func block(_ fields: [(String, String)]) -> [UInt8] {
        fields.reduce(into: []) { $0 += [0] + text($1.0.lowercased()) + text($1.1) }
    }

    /// A length as an integer with a prefix of 7 bits (RFC 7541, section 5.1), and the text.
    private static func text(_ text: String) -> [UInt8] {
        let text = Array(text.utf8)
        guard text.count >= 127 else { return [UInt8(text.count)] + text }
        var length: [UInt8] = [127]
        var rest = text.count - 127
        while rest >= 128 {
            length.append(UInt8(rest & 127 | 128))
            rest >>= 7
        }
        return length + [UInt8(rest)] + text
    }

    /// 200, or 0 for any other.
    static func status(_ block: [UInt8]) -> Int {
        var rest = block[...]
        while let first = rest.first, first & 0xE0 == 0x20 {
            rest = rest.dropFirst()
            guard first & 0x1F == 0x1F else { continue }
            while let next = rest.first, next & 0x80 != 0 { rest = rest.dropFirst() }
            rest = rest.dropFirst()
        }
        return rest.first == 0x88 ? 200 : 0
    }
}

/// Takes HTTP/2's frames apart as they come.
struct FrameReader {
    struct Frame {
        let kind: UInt8
        let flags: UInt8
        let stream: UInt32
        let payload: [UInt8]
    }

    /// As SETTINGS_MAX_FRAME_SIZE is by default.
    private static let maxFrame = 16_384

    private var head: (UInt64, UInt8) = (0, 0)
    private var headCount = 0
    private var left = 0
    private var payload: [UInt8] = []
    /// Of data, since windows were widened.
    private(set) var unacknowledged = 0
    /// Whether the stream has ended, or the framing is broken.
    private(set) var isOver = false

    private var kind: UInt8 { UInt8(truncatingIfNeeded: head.0 >> 32) }
    private var flags: UInt8 { UInt8(truncatingIfNeeded: head.0 >> 24) }
    private var stream: UInt32 { UInt32(truncatingIfNeeded: head.0 << 8 | UInt64(head.1)) & .max >> 1 }

    /// - Parameters:
    ///   - data: what the stream has.
    ///   - other: every frame but DATA.
    @inline(__always)
    mutating func read(
        _ start: UnsafePointer<UInt8>, _ end: UnsafePointer<UInt8>,
        data: (UnsafePointer<UInt8>, UnsafePointer<UInt8>) -> Void, other: (Frame) -> Void
    ) {
        var at = start
        while at < end, !isOver {
            if headCount < 9 {
                if headCount < 8 { head.0 = head.0 << 8 | UInt64(at[0]) } else { head.1 = at[0] }
                headCount += 1
                at += 1
                guard headCount == 9 else { continue }
                left = Int(head.0 >> 40)
                if left > Self.maxFrame || kind == HTTP2Client.Kind.data && flags & HTTP2Client.isPadded != 0 {
                    isOver = true
                }
            }
            let count = min(left, end - at)
            if kind == HTTP2Client.Kind.data {
                unacknowledged += count
                if stream == 1, count > 0 { data(at, at + count) }
            } else if count > 0 {
                payload.append(contentsOf: UnsafeBufferPointer(start: at, count: count))
            }
            at += count
            left -= count
            if left == 0 { endFrame(other) }
        }
    }

    private mutating func endFrame(_ other: (Frame) -> Void) {
        headCount = 0
        if stream == 1, kind <= HTTP2Client.Kind.headers, flags & HTTP2Client.endsStream != 0 { isOver = true }
        guard kind != HTTP2Client.Kind.data else { return }
        let frame = Frame(kind: kind, flags: flags, stream: stream, payload: payload)
        payload = []
        if frame.kind == HTTP2Client.Kind.goAway || frame.kind == HTTP2Client.Kind.reset && frame.stream == 1 {
            isOver = true
        }
        other(frame)
    }

    mutating func widened() { unacknowledged = 0 }
}
