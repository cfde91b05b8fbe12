import Glibc

/// Reads a stream of events from bytes that come in pieces of any size.
///
/// A stream is UTF-8, perhaps behind one BOM, in lines that end with LF, CR or CRLF. A line is a comment (`:…`) or a
/// field (`name: value`, `name:value`, or `name` alone for an empty value). An empty line dispatches the event that the
/// lines before it made, if it has data. A last event without its empty line is discarded.
///
/// Beside the standard's fields it knows `traceparent`, which belongs to the event in whose block it stands.
///
/// https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
public struct EventStreamParser: Sendable {
    /// The id to resume from: what `id` fields had set when the last empty line came. An id with a NUL is ignored. Nil
    /// before the first; empty when the stream took the id back.
    public private(set) var lastEventID: String?

    /// The time to wait before connecting again, by the last valid `retry` field; nil without one.
    public private(set) var retry: Duration?

    private let maxEventBytes: Int

    // The block so far. Bytes, since a piece may end inside a character.
    private var data: [UInt8] = []
    private var hasData = false
    private var type: [UInt8] = []
    private var idBuffer: String?
    private var blockHasID = false
    private var traceparent: String?
    /// The lengths of the block's fields, without line ends: what the limit is about.
    private var blockBytes = 0

    /// The start of a line whose end has not come.
    private var line: [UInt8] = []
    private var isFirstLine = true
    /// A CR has ended a line: an LF that comes next belongs to it, even in the next piece.
    private var skipsLineFeed = false

    /// - Parameter maxEventBytes: the most that one event's lines may have together, without their ends.
    public init(maxEventBytes: Int = 1 << 20) {
        precondition(maxEventBytes > 0, "maxEventBytes must be positive")
        self.maxEventBytes = maxEventBytes
    }

    /// A parser that goes on from an id which an earlier one ended with.
    init(maxEventBytes: Int, lastEventID: String?) {
        self.init(maxEventBytes: maxEventBytes)
        resume(from: lastEventID)
    }

    /// Forgets the stream, as `reset` does, and takes up another id.
    mutating func resume(from id: String?) {
        lastEventID = id
        reset()
    }

    /// For a new connection: a partial event is forgotten, `lastEventID` and `retry` are kept, a BOM may come again.
    public mutating func reset() {
        startBlock()
        idBuffer = lastEventID
        line.removeAll(keepingCapacity: true)
        isFirstLine = true
        skipsLineFeed = false
    }

    /// Takes the next bytes, and calls `onEvent` for each event that they complete, in order.
    ///
    /// - Throws: `EventStreamError` when an event is too large, after the events before it were given. The rest of the
    ///   bytes is not looked at; the parser can only be used again after `reset`.
    public mutating func push(
        _ bytes: UnsafeRawBufferPointer, _ onEvent: (ServerSentEvent) -> Void
    ) throws(EventStreamError) {
        try push(bytes) { event, _ in onEvent(event) }
    }

    /// - Parameter onEvent: also whether the event's own block had an id, or an earlier one's is in force.
    mutating func push(
        _ bytes: UnsafeRawBufferPointer, _ onEvent: (ServerSentEvent, _ hasOwnID: Bool) -> Void
    ) throws(EventStreamError) {
        var start = 0
        if skipsLineFeed, let first = bytes.first {
            skipsLineFeed = false
            if first == UInt8(ascii: "\n") { start = 1 }
        }
        while start < bytes.count {
            guard let end = Self.lineEnd(bytes, from: start) else {
                try check(adding: line.count + bytes.count - start)
                line.append(contentsOf: UnsafeRawBufferPointer(rebasing: bytes[start...]))
                return
            }
            let rest = UnsafeRawBufferPointer(rebasing: bytes[start..<end])
            try check(adding: line.count + rest.count)
            if line.isEmpty {
                take(rest, onEvent)
            } else {
                line.append(contentsOf: rest)
                var whole: [UInt8] = []
                swap(&whole, &line)
                whole.withUnsafeBytes { take($0, onEvent) }
                whole.removeAll(keepingCapacity: true)
                swap(&whole, &line)
            }
            start = end + 1
            if bytes[end] == UInt8(ascii: "\r") {
                if start == bytes.count {
                    skipsLineFeed = true
                } else if bytes[start] == UInt8(ascii: "\n") {
                    start += 1
                }
            }
        }
    }

    private func check(adding count: Int) throws(EventStreamError) {
        guard blockBytes + count > maxEventBytes else { return }
        throw EventStreamError(
            code: .tooLarge,
            cause: "an event has at least \(maxEventBytes + 1) bytes, more than the \(maxEventBytes) of maxEventBytes; "
                + "raise the limit or send smaller events")
    }

    /// The first LF or CR at or after `start`.
    private static func lineEnd(_ bytes: UnsafeRawBufferPointer, from start: Int) -> Int? {
        for index in start..<bytes.count
        where bytes[index] == UInt8(ascii: "\n") || bytes[index] == UInt8(ascii: "\r") { return index }
        return nil
    }

    /// A whole line without its end.
    private mutating func take(_ whole: UnsafeRawBufferPointer, _ onEvent: (ServerSentEvent, Bool) -> Void) {
        var line = whole
        if isFirstLine {
            isFirstLine = false
            if line.count >= 3, line[0] == 0xEF, line[1] == 0xBB, line[2] == 0xBF {
                line = UnsafeRawBufferPointer(rebasing: line[3...])
            }
        }
        guard !line.isEmpty else { return dispatch(onEvent) }
        let colon = line.firstIndex(of: UInt8(ascii: ":"))
        guard colon != 0 else { return }
        blockBytes += line.count
        let name = UnsafeRawBufferPointer(rebasing: line[..<(colon ?? line.count)])
        var valueStart = colon.map { $0 + 1 } ?? line.count
        if valueStart < line.count, line[valueStart] == UInt8(ascii: " ") { valueStart += 1 }
        let value = UnsafeRawBufferPointer(rebasing: line[valueStart...])
        if Self.matches(name, "data") {
            if hasData { data.append(UInt8(ascii: "\n")) }
            hasData = true
            data.append(contentsOf: value)
        } else if Self.matches(name, "event") {
            type.removeAll(keepingCapacity: true)
            type.append(contentsOf: value)
        } else if Self.matches(name, "id") {
            if !value.contains(0) {
                idBuffer = String(decoding: value, as: UTF8.self)
                blockHasID = true
            }
        } else if Self.matches(name, "retry") {
            if let milliseconds = Self.digits(value) { retry = .milliseconds(milliseconds) }
        } else if Self.matches(name, "traceparent") {
            traceparent = String(decoding: value, as: UTF8.self)
        }
    }

    private mutating func dispatch(_ onEvent: (ServerSentEvent, Bool) -> Void) {
        // Also by a block without data: an id alone moves the point to resume from.
        lastEventID = idBuffer
        defer { startBlock() }
        guard hasData else { return }
        onEvent(
            ServerSentEvent(
                id: lastEventID, type: type.isEmpty ? "message" : String(decoding: type, as: UTF8.self),
                data: String(decoding: data, as: UTF8.self), traceparent: traceparent), blockHasID)
    }

    private mutating func startBlock() {
        data.removeAll(keepingCapacity: true)
        hasData = false
        type.removeAll(keepingCapacity: true)
        traceparent = nil
        blockHasID = false
        blockBytes = 0
    }

    private static func matches(_ name: UnsafeRawBufferPointer, _ field: StaticString) -> Bool {
        guard name.count == field.utf8CodeUnitCount, let start = name.baseAddress else { return false }
        return memcmp(start, field.utf8Start, name.count) == 0
    }

    /// ASCII digits only, at least one; more than an `Int64` holds counts as its largest value.
    private static func digits(_ value: UnsafeRawBufferPointer) -> Int64? {
        guard !value.isEmpty else { return nil }
        var number: Int64 = 0
        for byte in value {
            guard (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) else { return nil }
            let (product, isTooLarge) = number.multipliedReportingOverflow(by: 10)
            let (sum, isStillTooLarge) = product.addingReportingOverflow(Int64(byte - UInt8(ascii: "0")))
            number = isTooLarge || isStillTooLarge ? .max : sum
        }
        return number
    }
}
