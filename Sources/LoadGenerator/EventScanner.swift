import CEpoll
import Glibc

/// Reads an event stream line by line without copying it, and keeps what a device would: the last id, `retry`, and of each
/// event whether it is one of this run's.
///
/// Lines end in LF or CRLF; a lone CR, which the standard allows too, is not looked for. Of a line that comes in several
/// reads only the beginning is kept.
struct EventScanner {
    private static let lineCapacity = 192
    private static let idCapacity = 160

    private let memory: UnsafeMutablePointer<UInt8>
    /// The beginning of a line whose end has not come.
    private var lineCount = 0
    private var lastID: UnsafeMutablePointer<UInt8>
    private var lastIDCount = 0
    /// Of the block that has not ended; negative without one.
    private var blockID: UnsafeMutablePointer<UInt8>
    private var blockIDCount = -1
    private var hasData = false
    private var payload: EventPayload?
    /// The server's `retry`, in milliseconds.
    private(set) var retry: Int?

    init() {
        memory = .allocate(capacity: Self.lineCapacity + 2 * Self.idCapacity)
        lastID = memory + Self.lineCapacity
        blockID = lastID + Self.idCapacity
    }

    func deallocate() { memory.deallocate() }

    /// What a device resumes with; nil before there was one.
    var lastEventID: [UInt8]? {
        lastIDCount > 0 ? Array(UnsafeBufferPointer(start: lastID, count: lastIDCount)) : nil
    }

    /// A connection is over: what it did not finish has not happened.
    mutating func disconnect() {
        lineCount = 0
        blockIDCount = -1
        hasData = false
        payload = nil
    }

    /// - Parameter event: called for each event with data once its block has ended; with nil for one that is not this run's.
    @inline(__always)
    mutating func scan(
        _ start: UnsafePointer<UInt8>, _ end: UnsafePointer<UInt8>, tag: UInt64, _ event: (EventPayload?) -> Void
    ) {
        var at = start
        if lineCount > 0 {
            guard let newline = Self.newline(at, end) else { return keep(at, end - at) }
            keep(at, newline - at)
            let count = lineCount
            lineCount = 0
            take(UnsafePointer(memory), count, tag, event)
            at = newline + 1
        }
        while at < end {
            guard let newline = Self.newline(at, end) else { return keep(at, end - at) }
            take(at, newline - at, tag, event)
            at = newline + 1
        }
    }

    @inline(__always)
    private static func newline(_ at: UnsafePointer<UInt8>, _ end: UnsafePointer<UInt8>) -> UnsafePointer<UInt8>? {
        guard let found = memchr(at, 0x0A, end - at) else { return nil }
        return UnsafePointer(found.assumingMemoryBound(to: UInt8.self))
    }

    private mutating func keep(_ at: UnsafePointer<UInt8>, _ count: Int) {
        let kept = min(count, Self.lineCapacity - lineCount)
        (memory + lineCount).update(from: at, count: kept)
        lineCount += kept
    }

    @inline(__always)
    private mutating func take(
        _ at: UnsafePointer<UInt8>, _ length: Int, _ tag: UInt64, _ event: (EventPayload?) -> Void
    ) {
        let count = length > 0 && at[length - 1] == 0x0D ? length - 1 : length
        guard count > 0 else {
            if blockIDCount >= 0 {
                swap(&lastID, &blockID)
                lastIDCount = blockIDCount
                blockIDCount = -1
            }
            if hasData {
                event(payload)
                hasData = false
                payload = nil
            }
            return
        }
        switch at[0] {
        case UInt8(ascii: "d") where Self.isField("data", at, count):
            hasData = true
            if payload == nil { payload = Self.payload(at + 5, count - 5, tag) }
        case UInt8(ascii: "i") where Self.isField("id", at, count):
            let skip = count > 3 && at[3] == 0x20 ? 4 : 3
            blockIDCount = min(count - skip, Self.idCapacity)
            blockID.update(from: at + skip, count: blockIDCount)
        case UInt8(ascii: "r") where Self.isField("retry", at, count):
            let text = String(decoding: UnsafeBufferPointer(start: at + 6, count: count - 6), as: UTF8.self)
            retry = Int(text.drop { $0 == " " }) ?? retry
        default: break
        }
    }

    @inline(__always)
    private static func isField(_ name: StaticString, _ at: UnsafePointer<UInt8>, _ count: Int) -> Bool {
        let length = name.utf8CodeUnitCount
        return count > length && at[length] == UInt8(ascii: ":") && memcmp(at, name.utf8Start, length) == 0
    }

    /// In the value of a data field, where a server may have wrapped it.
    @inline(__always)
    private static func payload(_ at: UnsafePointer<UInt8>, _ count: Int, _ tag: UInt64) -> EventPayload? {
        guard count > 0 else { return nil }
        let skip = at[0] == 0x20 ? 1 : 0
        if let payload = EventPayload.read(tag: tag, at + skip, count - skip) { return payload }
        var tag = tag
        guard let found = memmem(at, count, &tag, EventPayload.tagBytes) else { return nil }
        let start = UnsafePointer(found.assumingMemoryBound(to: UInt8.self))
        return EventPayload.read(tag: tag, start, count - (start - at))
    }
}

/// Takes a chunked body (RFC 9112, section 7.1) apart as it comes.
struct ChunkReader {
    private enum Part { case size, data, end }
    private var part = Part.size
    private var left = 0
    private var digits = 0
    /// Whether the last chunk has begun, or the framing is broken.
    private(set) var isOver = false

    @inline(__always)
    mutating func read(
        _ start: UnsafePointer<UInt8>, _ end: UnsafePointer<UInt8>,
        _ data: (UnsafePointer<UInt8>, UnsafePointer<UInt8>) -> Void
    ) {
        var at = start
        while at < end, !isOver {
            switch part {
            case .data:
                let count = min(left, end - at)
                data(at, at + count)
                at += count
                left -= count
                if left == 0 { part = .end }
            case .end:
                if at[0] == 0x0A { part = .size }
                at += 1
            case .size:
                let byte = at[0]
                at += 1
                if byte == 0x0A {
                    isOver = left == 0
                    part = .data
                    digits = 0
                } else if digits >= 0, let digit = Self.digit(byte), left < 1 << 40 {
                    left = left << 4 | digit
                    digits += 1
                } else {
                    // An extension, or the CR: up to the line's end.
                    digits = -1
                }
            }
        }
    }

    private static func digit(_ byte: UInt8) -> Int? {
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): Int(byte) - 48
        case UInt8(ascii: "a")...UInt8(ascii: "f"): Int(byte) - 87
        case UInt8(ascii: "A")...UInt8(ascii: "F"): Int(byte) - 55
        default: nil
        }
    }
}

/// The head of a response, as far as this needs it.
struct ResponseHead {
    var status = 0
    var isChunked = false
    var contentLength: Int?
    var closes = false
    /// Where the body begins.
    var bodyAt = 0

    /// Nil while the head is not complete.
    init?(_ at: UnsafePointer<UInt8>, _ count: Int) {
        guard let found = memmem(at, count, "\r\n\r\n", 4) else { return nil }
        let end = UnsafePointer(found.assumingMemoryBound(to: UInt8.self))
        bodyAt = end - at + 4
        // HTTP/1.1 200
        if bodyAt >= 16 {
            for index in 9..<12 { status = status * 10 + Int(at[index] &- UInt8(ascii: "0")) }
        }
        var line = at
        while line < end, let found = memchr(line, 0x0A, end - line) {
            line = UnsafePointer(found.assumingMemoryBound(to: UInt8.self)) + 1
            switch line[0] | 0x20 {
            case UInt8(ascii: "c"):
                if let value = Self.value("content-length:", line, end) { contentLength = max(0, atol(value)) }
                if let value = Self.value("connection:", line, end) { closes = strncasecmp(value, "close", 5) == 0 }
            case UInt8(ascii: "t"):
                if let value = Self.value("transfer-encoding:", line, end) {
                    isChunked = strncasecmp(value, "chunked", 7) == 0
                }
            default: break
            }
        }
    }

    /// A field's value, up to the line's end and beyond; the head's own end stops who reads it.
    private static func value(
        _ name: StaticString, _ line: UnsafePointer<UInt8>, _ end: UnsafePointer<UInt8>
    ) -> UnsafePointer<CChar>? {
        let length = name.utf8CodeUnitCount
        guard end - line > length else { return nil }
        let text = UnsafeRawPointer(line).assumingMemoryBound(to: CChar.self)
        let wanted = UnsafeRawPointer(name.utf8Start).assumingMemoryBound(to: CChar.self)
        guard strncasecmp(text, wanted, length) == 0 else { return nil }
        var value = text + length
        while value.pointee == 0x20 || value.pointee == 0x09 { value += 1 }
        return value
    }
}
