import Telemetry
import Testing

@testable import PushServer

@Suite("Writing answers")
struct AnswerBytesTests {
    private func text(_ write: (inout AnswerBytes) -> Void) -> String {
        withUnsafeTemporaryAllocation(byteCount: 64, alignment: 1) { space in
            var answer = AnswerBytes(space)
            write(&answer)
            return String(decoding: answer.bytes, as: UTF8.self)
        }
    }

    @Test("numbers are written in decimal", arguments: [0, 1, 9, 10, 99, 100, 202, 65_536, Int.max])
    func numbers(number: Int) {
        #expect(text { $0.write(number) } == "\(number)")
    }

    @Test("texts, bytes and trace ids follow each other; the memory may be filled to its end")
    func parts() {
        let id = TraceID(high: 0x0AF7_6519_16CD_43DD, low: 0x8448_EB21_1C80_319C)
        #expect(
            text {
                $0.write("é" as String)
                $0.write("…" as StaticString)
                $0.write([0x2C, 0x20])
                $0.write("" as String)
                $0.write(id)
                $0.write(String(repeating: "x", count: 25))
            } == "é…, 0af7651916cd43dd8448eb211c80319c" + String(repeating: "x", count: 25))
    }
}
