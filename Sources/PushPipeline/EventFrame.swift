import EventStreams
import Glibc
import Synchronization

/// Frames of an event stream (WHATWG HTML, "Server-sent events"). One event:
///
///     id: ev_…
///     event: TYPE          only when the event has a type
///     traceparent: 00-…    a field that parsers ignore and device agents read
///     data: LINE           one for each line of the payload
///     (blank line)
///
/// CR, LF and CRLF in a payload all end a line, since a parser would end it there; the device joins lines with LF.
/// A NUL in a payload stays as it is: the standard forbids it in ids only.
public enum EventFrame {
    /// A comment and a blank line; fires nothing in any parser.
    public static let heartbeat: [UInt8] = Array(":\n\n".utf8)

    /// The event's frame, rendered at the first call and shared by all later ones.
    public static func rendered(_ event: StoredEvent, on stream: any EventStream) -> RenderedEvent {
        if let rendered = event.rendered.load() { return rendered }
        let id = stream.id(epoch: event.epoch, offset: event.offset)
        return event.rendered.storeIfNil(RenderedEvent(bytes: encode(event, id: id)))
    }

    /// The frames of several events, one after the other.
    static func joined(_ events: some Collection<StoredEvent>, on stream: any EventStream) -> [UInt8] {
        if events.count == 1, let event = events.first { return rendered(event, on: stream).bytes }
        var all: [UInt8] = []
        all.reserveCapacity(events.reduce(0) { $0 + rendered($1, on: stream).bytes.count })
        for event in events { all += rendered(event, on: stream).bytes }
        return all
    }

    /// The id's bytes, which a rendered frame begins with.
    static func withID(of frame: RenderedEvent, _ body: (UnsafeBufferPointer<UInt8>) -> Void) {
        frame.bytes.withUnsafeBufferPointer { bytes in
            let start = idPrefix.utf8CodeUnitCount
            guard bytes.count > start, let end = bytes[start...].firstIndex(of: UInt8(ascii: "\n")) else { return }
            body(UnsafeBufferPointer(rebasing: bytes[start..<end]))
        }
    }

    private static let idPrefix: StaticString = "id: "

    static func encode(_ event: StoredEvent, id: String) -> [UInt8] {
        var frame: [UInt8] = []
        frame.reserveCapacity(event.payload.count + id.utf8.count + 128)
        frame.append(contentsOf: "id: ".utf8)
        frame.append(contentsOf: id.utf8)
        if let type = event.type {
            frame.append(contentsOf: "\nevent: ".utf8)
            frame.append(contentsOf: type.utf8)
        }
        if let traceparent = event.traceparent {
            frame.append(contentsOf: "\ntraceparent: ".utf8)
            frame.append(contentsOf: traceparent.utf8)
        }
        frame.append(UInt8(ascii: "\n"))
        appendData(event.payload, to: &frame)
        frame.append(UInt8(ascii: "\n"))
        return frame
    }

    /// A frame of a snapshot: as of every other event, but for its id, which agents find in a field of its own.
    static func withoutID(_ event: StoredEvent, on stream: any EventStream) -> [UInt8] {
        Array("snapshot-".utf8) + rendered(event, on: stream).bytes
    }

    /// The end of a snapshot, and the cursor that it stands for.
    static func snapshotEnd(id: String, count: Int) -> [UInt8] {
        Array("id: \(id)\nevent: isotherm.snapshot\ndata: {\"events\":\(count)}\n\n".utf8)
    }

    /// A cursor that cannot be continued: why, and from where the stream goes on instead. The id replaces the bad one in
    /// the device's memory.
    public static func reset(reason: String, continuesFrom id: String, earliest: String) -> [UInt8] {
        Array(
            "id: \(id)\nevent: isotherm.reset\ndata: {\"reason\":\"\(reason)\",\"earliest\":\"\(earliest)\"}\n\n".utf8)
    }

    /// The first bytes of a stream: the reconnection time and a comment.
    public static func opening(retryMilliseconds: Int64) -> [UInt8] {
        Array("retry: \(retryMilliseconds)\n: isotherm\n\n".utf8)
    }

    /// An event without an id that says that the stream flows.
    public static let hello = Array("event: isotherm.hello\ndata: {}\n\n".utf8)

    /// The last bytes of a stream that is being drained.
    public static func farewell(retryMilliseconds: Int64) -> [UInt8] {
        Array("retry: \(retryMilliseconds)\n: closing, please reconnect\n\n".utf8)
    }

    private static func appendData(_ payload: [UInt8], to frame: inout [UInt8]) {
        payload.withUnsafeBytes { bytes in
            func next(_ byte: UInt8, from start: Int) -> Int {
                guard let base = bytes.baseAddress, let found = memchr(base + start, Int32(byte), bytes.count - start)
                else { return bytes.count }
                return UnsafeRawPointer(found) - base
            }
            let (feed, carriageReturn) = (UInt8(ascii: "\n"), UInt8(ascii: "\r"))
            var start = 0
            var nextFeed = next(feed, from: 0)
            var nextReturn = next(carriageReturn, from: 0)
            while true {
                let end = min(nextFeed, nextReturn)
                frame.append(contentsOf: "data: ".utf8)
                frame.append(contentsOf: bytes[start..<end])
                frame.append(feed)
                guard end < bytes.count else { return }
                start = end + 1
                if end == nextReturn, nextFeed == start, start < bytes.count { start += 1 }
                // Each is looked for once only, however many of the other come first.
                if nextFeed < start { nextFeed = next(feed, from: start) }
                if nextReturn < start { nextReturn = next(carriageReturn, from: start) }
            }
        }
    }
}
