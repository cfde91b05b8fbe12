import Testing

@testable import LoadGenerator

@Suite("What the generator reads")
struct ScanningTests {
    /// "abcdefgh" as it stands in memory.
    static let tag = "abcdefgh".utf8.enumerated().reduce(UInt64(0)) {
        $0 | UInt64($1.element) << (8 * UInt64($1.offset))
    }
    static let text = "abcdefgh0000000001234567890.000002.0003.0000000044."
    static let payload = EventPayload(dueNano: 1_234_567_890, channel: 2, publisher: 3, sequence: 44)

    struct Seen: Equatable {
        var events: [EventPayload?] = []
        var lastID: String?
        var retry: Int?
    }

    /// Scans `parts` one after the other.
    private func scan(_ parts: [[UInt8]]) -> Seen {
        var scanner = EventScanner()
        defer { scanner.deallocate() }
        var seen = Seen()
        for part in parts {
            part.withUnsafeBufferPointer {
                guard let start = $0.baseAddress else { return }
                scanner.scan(start, start + $0.count, tag: Self.tag) { seen.events.append($0) }
            }
        }
        seen.lastID = scanner.lastEventID.map { String(decoding: $0, as: UTF8.self) }
        seen.retry = scanner.retry
        return seen
    }

    @Test("an event is written and read in the described form")
    func form() throws {
        var bytes = [UInt8](repeating: UInt8(ascii: "x"), count: EventPayload.minBytes)
        bytes.withUnsafeMutableBufferPointer {
            if let start = $0.baseAddress { Self.payload.write(tag: Self.tag, to: start) }
        }
        #expect(String(decoding: bytes, as: UTF8.self) == Self.text)
        let found = bytes.withUnsafeBufferPointer {
            $0.baseAddress.flatMap { EventPayload.read(tag: Self.tag, $0, bytes.count) }
        }
        #expect(found == Self.payload)
        let cut = bytes.withUnsafeBufferPointer {
            $0.baseAddress.flatMap { EventPayload.read(tag: Self.tag, $0, bytes.count - 1) }
        }
        #expect(cut == nil)
    }

    @Test("a stream reads the same wherever it is cut, with LF and with CRLF")
    func cuts() {
        let stream =
            ": hello\nretry: 250\n\nid: 7\nevent: x\ndata: \(Self.text)xxx\n\n: beat\n\ndata:\(Self.text)\nid:8\n\n"
            + "data: {\"d\":\"\(Self.text)\"}\n\ndata: other\ndata: \(Self.text)\n\ndata: other\n\nid: 9\ndata: unfinished"
        let expected = Seen(
            events: [Self.payload, Self.payload, Self.payload, Self.payload, nil], lastID: "8", retry: 250)
        for text in [stream, stream.replacing("\n", with: "\r\n")] {
            let bytes = Array(text.utf8)
            #expect(scan([bytes]) == expected)
            #expect(scan(bytes.map { [$0] }) == expected)
            for cut in bytes.indices { #expect(scan([Array(bytes[..<cut]), Array(bytes[cut...])]) == expected) }
        }
    }

    @Test("events of another run, and what is no number, are not this run's")
    func foreign() {
        let other = Self.text.replacing("abcdefgh", with: "abcdefgi")
        let broken = Self.text.replacing("0003", with: "00x3")
        #expect(scan([Array("data: \(other)\n\ndata: \(broken)\n\n".utf8)]).events == [nil, nil])
    }

    @Test("lines longer than what is kept of them do no harm")
    func longLines() {
        let long = String(repeating: "y", count: 5_000)
        let bytes = Array("data: \(Self.text)\(long)\nid: \(long)\n\ndata: \(Self.text)\n\n".utf8)
        #expect(scan([bytes]).events == [Self.payload, Self.payload])
        #expect(scan(bytes.map { [$0] }).events == [Self.payload, Self.payload])
    }

    /// RFC 9112, section 7.1: sizes in hexadecimal, extensions, a last chunk.
    @Test("a chunked body reads the same wherever it is cut")
    func chunks() {
        let bytes = Array("5\r\nhello\r\n1c;name=value\r\n, this is chunked and longer\r\n3\r\n.\r\n\r\n0\r\n\r\n".utf8)
        for cut in 0...bytes.count {
            var reader = ChunkReader()
            var body: [UInt8] = []
            for part in [Array(bytes[..<cut]), Array(bytes[cut...])] {
                part.withUnsafeBufferPointer {
                    guard let start = $0.baseAddress else { return }
                    reader.read(start, start + $0.count) { body += UnsafeBufferPointer(start: $0, count: $1 - $0) }
                }
            }
            #expect(String(decoding: body, as: UTF8.self) == "hello, this is chunked and longer.\r\n")
            #expect(reader.isOver)
        }
    }

    @Test("HTTP/2's frames read the same wherever they are cut; the last one ends the stream")
    func frames() {
        // By hand, from RFC 9113, section 4.1 and 6: SETTINGS, HEADERS, DATA of two streams, PING, DATA with END_STREAM.
        let bytes: [UInt8] =
            [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100] + [0, 0, 1, 1, 4, 0, 0, 0, 1, 0x88]
            + [0, 0, 2, 0, 0, 0, 0, 0, 1, 0x61, 0x62] + [0, 0, 1, 0, 0, 0, 0, 0, 3, 0x7A]
            + [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8] + [0, 0, 1, 0, 1, 0, 0, 0, 1, 0x63]
        for cut in 0...bytes.count {
            var reader = FrameReader()
            var data: [UInt8] = []
            var others: [FrameReader.Frame] = []
            for part in [bytes[..<cut], bytes[cut...]] {
                part.withUnsafeBufferPointer {
                    guard let start = $0.baseAddress else { return }
                    reader.read(start, start + $0.count) {
                        data += UnsafeBufferPointer(start: $0, count: $1 - $0)
                    } other: {
                        others.append($0)
                    }
                }
            }
            #expect(data == Array("abc".utf8), "cut at \(cut)")
            #expect(others.map(\.kind) == [4, 1, 6] && others.map(\.stream) == [0, 1, 0], "cut at \(cut)")
            #expect(others.map(\.payload) == [[0, 3, 0, 0, 0, 100], [0x88], [1, 2, 3, 4, 5, 6, 7, 8]])
            // Another stream's data counts too: the connection's window is of all.
            #expect(reader.isOver && reader.unacknowledged == 4)
        }
    }

    @Test(
        "frames that cannot be read end the stream",
        arguments: [
            [0, 0x40, 1, 0, 0, 0, 0, 0, 1], [0, 0, 1, 0, 8, 0, 0, 0, 1], [0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 8],
        ])
    func brokenFrames(bytes: [UInt8]) {
        var reader = FrameReader()
        bytes.withUnsafeBufferPointer {
            if let start = $0.baseAddress {
                reader.read(start, start + $0.count) { _, _ in
                } other: { _ in
                }
            }
        }
        #expect(reader.isOver)
    }

    @Test("of a header block the status is read, behind changes of the table's size")
    func blocks() {
        // RFC 7541: 8 is `:status 200` in the static table (appendix A); a size of 4,096 is 3f e1 1f (section 6.3).
        #expect(HTTP2Client.status([0x88, 0x61]) == 200)
        #expect(HTTP2Client.status([0x20, 0x3F, 0xE1, 0x1F, 0x88]) == 200)
        #expect(HTTP2Client.status([0x8D]) == 0 && HTTP2Client.status([]) == 0 && HTTP2Client.status([0x3F]) == 0)
    }

    @Test("a response's head: status, length, chunks and close, in any case")
    func heads() throws {
        func head(_ text: String) -> ResponseHead? {
            let bytes = Array(text.utf8)
            return bytes.withUnsafeBufferPointer { $0.baseAddress.flatMap { ResponseHead($0, bytes.count) } }
        }
        #expect(head("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n") == nil)
        let first = try #require(head("HTTP/1.1 202 Accepted\r\nCONTENT-length:  17\r\nConnection: Close\r\n\r\nbody"))
        #expect(first.status == 202 && first.contentLength == 17 && first.closes && !first.isChunked)
        #expect(first.bodyAt == 65)
        let second = try #require(head("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nX-Connection: close\r\n\r\n"))
        #expect(second.isChunked && !second.closes && second.contentLength == nil)
    }

    @Test("what came, came again, or is missing, in whatever order")
    func sequences() {
        var check = SequenceCheck()
        let new = [0, 1, 5, 3, 3, 1, 9, 7, 2, 9].map { check.isNew($0) }
        #expect(new == [true, true, true, true, false, false, true, true, true, false])
        #expect(check.gaps == [4..<5, 6..<7, 8..<9])
        #expect(check.missing(in: 0..<12, refused: []) == 5)
        #expect(check.missing(in: 5..<10, refused: [6]) == 1)
        #expect(check.missing(in: 0..<10, refused: [0, 4, 6, 8]) == 0)
    }

    @Test("gaps beyond the limit are given up and count as missing")
    func manyGaps() {
        var check = SequenceCheck()
        for number in 0...SequenceCheck.maxGaps { _ = check.isNew(2 * number + 1) }
        #expect(check.gaps.count == SequenceCheck.maxGaps && check.forgotten == 1)
        #expect(check.missing(in: 0..<(2 * SequenceCheck.maxGaps + 2), refused: []) == SequenceCheck.maxGaps + 1)
    }
}
