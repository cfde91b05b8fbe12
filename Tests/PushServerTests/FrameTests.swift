import EventStreams
import PushClient
import PushPipeline
import TestSupport
import Testing

/// Frames from a real log, read by the client's parser, which is itself checked against the standard's vectors.
@Suite("Frames")
struct FrameTests {
    @Test("any payload comes out with its lines, and nothing in it forges a field")
    func payloads() async throws {
        let directory = IsothermProcess.temporaryDirectory()
        let store = try EmbeddedEventStore(configuration: EmbeddedStoreConfiguration(directory: directory))
        defer { store.close() }
        let stream = try store.stream(tenant: "t")
        var random = SeededGenerator(9)
        let pieces = [
            "\n", "\r", "\r\n", "id: x", "event: y", "data: z", ":", "", " ", "\u{0}", "微信", "retry: 1", "\n\n",
        ]
        var payloads: [String] = ["", "\n", "\r\n", "plain"]
        for _ in 0..<500 {
            payloads.append(
                (0..<Int.random(in: 1...6, using: &random)).map { _ in pieces.randomElement(using: &random) ?? "" }
                    .joined())
        }
        for payload in payloads {
            _ = try await stream.append(
                [NewEvent(topic: "a", type: "kind", payload: Array(payload.utf8), acceptedUnixNano: 1)],
                durability: .memory)
        }
        var parser = EventStreamParser()
        var received: [ServerSentEvent] = []
        let stored = try stream.read(after: 0, limit: 1_000, byteLimit: .max)
        #expect(stored.count == payloads.count)
        for event in stored {
            let frame = EventFrame.rendered(event, on: stream).bytes
            try frame.withUnsafeBytes { try parser.push($0) { received.append($0) } }
        }
        #expect(received.count == payloads.count)
        for ((payload, event), stored) in zip(zip(payloads, received), stored) {
            // The standard: CR, LF and CRLF each end a line; the lines are joined with LF.
            var lines: [UInt8] = []
            var previous: UInt8 = 0
            for byte in payload.utf8 {
                if byte != 0x0A || previous != 0x0D { lines.append(byte == 0x0D ? 0x0A : byte) }
                previous = byte
            }
            #expect(Array(event.data.utf8) == lines, "\(payload.debugDescription)")
            #expect(event.type == "kind" && event.id == stream.id(epoch: stored.epoch, offset: stored.offset))
        }
    }
}
