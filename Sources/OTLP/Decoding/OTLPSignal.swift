/// What a message of OTLP holds. All requests look alike down to the third level: resources, scopes, items.
public enum OTLPSignal: String, Sendable, CaseIterable {
    case traces, metrics, logs

    /// By the first key of an object; nil if that is none of a request's.
    public init?(json message: UnsafeRawBufferPointer) {
        let known: [(OTLPSignal, StaticString)] = [
            (.traces, "resourceSpans"), (.metrics, "resourceMetrics"), (.logs, "resourceLogs"),
        ]
        let head = message.drop { $0 == UInt8(ascii: "{") || $0 == 0x20 || (0x09...0x0D).contains($0) }
        guard head.first == UInt8(ascii: "\"") else { return nil }
        let key = head.dropFirst().prefix { $0 != UInt8(ascii: "\"") }
        guard let found = known.first(where: { $0.1.withUTF8Buffer { key.elementsEqual($0) } }) else { return nil }
        self = found.0
    }

    /// By the wire types of the first item that tells; nil if there is none.
    ///
    /// A span has its kind as a varint (6) and its times as 64 bits (7, 8); a log record its times as 64 bits (1, 11) or its
    /// severity as a varint (2); all fields of a metric have a length. A span without any of these still has ids of 16 and
    /// 8 bytes (1, 2).
    public init?(protobuf message: UnsafeRawBufferPointer) throws(OTLPDecodingError) {
        var request = ProtobufReader(message)
        while !request.isAtEnd {
            let tag = try request.tag()
            guard tag == 0x0A else {
                try request.skip(tag)
                continue
            }
            var resource = try request.message()
            while !resource.isAtEnd {
                let tag = try resource.tag()
                guard tag == 0x12 else {
                    try resource.skip(tag)
                    continue
                }
                var scope = try resource.message()
                while !scope.isAtEnd {
                    let tag = try scope.tag()
                    guard tag == 0x12 else {
                        try scope.skip(tag)
                        continue
                    }
                    if let signal = try Self.ofItem(scope.message()) {
                        self = signal
                        return
                    }
                }
            }
        }
        return nil
    }

    private static func ofItem(_ item: ProtobufReader) throws(OTLPDecodingError) -> OTLPSignal? {
        var item = item
        var ids = (trace: 0, span: 0)
        var isEmpty = true
        while !item.isAtEnd {
            isEmpty = false
            let tag = try item.tag()
            switch tag {
            case 0x30, 0x39, 0x41: return .traces
            case 0x09, 0x10, 0x59: return .logs
            case 0x0A: ids.trace = try item.bytes().count
            case 0x12: ids.span = try item.bytes().count
            default: try item.skip(tag)
            }
        }
        return isEmpty ? nil : ids == (16, 8) ? .traces : .metrics
    }
}
