import OTLP
import TestSupport
import Testing

/// https://opentelemetry.io/docs/specs/otlp/#otlphttp-response
@Suite("Partial success in an answer")
struct PartialSuccessTests {
    @Test(
        "JSON: the count of any signal as a string or a number, unknown fields, escapes (cases 2, 4 and 15)",
        arguments: [
            (#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"too old"}}"#, 3, "too old"),
            (#"{"partialSuccess":{"rejectedDataPoints":3}}"#, 3, ""),
            (#" {"partialSuccess":{"rejectedLogRecords":3,"new":[{}]},"other":null}"#, 3, ""),
            (#"{"partialSuccess":{"errorMessage":"a\u00fc\"b"}}"#, 0, "aü\"b"),
            (#"{"partialSuccess":{"rejectedSpans":"-4"}}"#, 0, ""),
            (#"{"partialSuccess":{}}"#, 0, ""), (#"{"partialSuccess":null}"#, 0, ""), ("{}", 0, ""),
            // Nothing that can be read is a full success.
            (#"{"partialSuccess":{"rejectedSpans":"3""#, 0, ""), ("{", 0, ""), ("", 0, ""), ("<html>", 0, ""),
            (#"{"partialSuccess":{"rejectedSpans":"many"}}"#, 0, ""), (#"{"partialSuccess":5}"#, 0, ""),
        ] as [(String, Int64, String)])
    func json(text: String, rejected: Int64, message: String) {
        let partial = PartialSuccess(response: Array(text.utf8))
        #expect(partial.rejected == rejected)
        #expect(partial.message == message)
    }

    @Test("200,000 damaged answers crash nothing")
    func fuzz() {
        let seeds = [
            Array(#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"too \u00fcld"}}"#.utf8),
            [0x0A, 0x09, 0x08, 0x03, 0x12, 0x05, 0x68, 0x65, 0x6C, 0x6C, 0x6F, 0x10, 0x01, 0x1B, 0x1C],
        ]
        var generator = SeededGenerator(15)
        var successes = 0
        for index in 0..<200_000 {
            var body = seeds[index & 1]
            for _ in 0..<(1 + generator.next() % 3) {
                body[Int(generator.next() % UInt64(body.count))] = UInt8(truncatingIfNeeded: generator.next())
            }
            if generator.next() & 3 == 0 { body.removeLast(Int(generator.next() % UInt64(body.count))) }
            if PartialSuccess(response: body) == PartialSuccess(response: []) { successes += 1 }
        }
        #expect(successes > 0 && successes < 200_000)
    }
}
