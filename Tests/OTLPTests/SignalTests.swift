import OTLP
import Testing

@Suite("Telling signals apart")
struct SignalTests {
    private func signal(_ bytes: [UInt8]) throws -> OTLPSignal? {
        try bytes.withUnsafeBytes { try OTLPSignal(protobuf: $0) }
    }

    private func signal(json: String) -> OTLPSignal? {
        Array(json.utf8).withUnsafeBytes { OTLPSignal(json: $0) }
    }

    @Test("requests of the official classes are known by their fields")
    func official() throws {
        let kinds: [OTLPRequest: OTLPSignal] = [.traces: .traces, .metrics: .metrics, .logs: .logs]
        let messages = try OfficialMessages.make()
        #expect(Set(messages.map(\.request)).count == 3)
        var told = 0
        for message in messages {
            // Some have no item at all.
            guard let signal = try signal(message.body) else { continue }
            #expect(signal == kinds[message.request])
            told += 1
        }
        #expect(told > messages.count / 2)
    }

    /// Written by hand: field 1 of the request, 2 of the resource's, 2 of the scope's, then the item.
    private func request(_ item: [UInt8]) -> [UInt8] {
        [[0x12], [0x12], [0x0A]].reduce(item) { inner, tag in tag + [UInt8(inner.count)] + inner }
    }

    @Test("a span without times and kind is known by its ids, a metric by its name, and nothing by nothing")
    func sparse() throws {
        let ids = [0x0A, 16] + [UInt8](repeating: 7, count: 16) + [0x12, 8] + [UInt8](repeating: 8, count: 8)
        #expect(try signal(request(ids)) == .traces)
        // A name of 16 bytes, and a description of 9.
        let name = [0x0A, 16] + [UInt8](repeating: 0x61, count: 16) + [0x12, 9] + [UInt8](repeating: 0x62, count: 9)
        #expect(try signal(request(name)) == .metrics)
        #expect(try signal(request([])) == nil)
        #expect(try signal([]) == nil)
        #expect(throws: OTLPDecodingError.self) { _ = try signal([0x0A, 200, 1]) }
    }

    @Test("an object is known by its first key, whatever its spaces")
    func json() {
        #expect(signal(json: "{\"resourceSpans\":[]}") == .traces)
        #expect(signal(json: " {\n \"resourceMetrics\" : []}") == .metrics)
        #expect(signal(json: "{\"resourceLogs\":[") == .logs)
        #expect(signal(json: "{\"name\":\"resourceMetrics\"}") == nil)
        #expect(signal(json: "") == nil)
    }
}
