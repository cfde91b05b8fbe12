/// The three export requests. They have the same shape down to their items:
///
///     Export…ServiceRequest{1 Resource…{1 resource, 2 Scope…{1 scope, 2 item, 3 schema_url}, 3 schema_url}}
///
/// where an item is a span, a log record or a metric; what counts of a metric are its data points, one or two levels
/// further down.
public enum OTLPRequest: Sendable, CaseIterable {
    case traces, metrics, logs
}

extension OTLPRequest {
    /// The fields that lead to the items, level by level, as bits by number.
    fileprivate var path: [UInt64] {
        switch self {
        case .traces, .logs: [1 << 1, 1 << 2, 1 << 2]
        // Gauge, Sum, Histogram, ExponentialHistogram and Summary all have their data points in field 1.
        case .metrics: [1 << 1, 1 << 2, 1 << 2, 1 << 5 | 1 << 7 | 1 << 9 | 1 << 10 | 1 << 11, 1 << 1]
        }
    }

    /// Spans, data points or log records in a request.
    public func itemCount(_ body: UnsafeRawBufferPointer) throws(OTLPDecodingError) -> Int {
        try Self.count(ProtobufReader(body), path[...])
    }

    private static func count(_ message: ProtobufReader, _ path: ArraySlice<UInt64>) throws(OTLPDecodingError) -> Int {
        guard let fields = path.first else { return 1 }
        var message = message
        var count = 0
        while !message.isAtEnd {
            let tag = try message.tag()
            if leads(tag, fields) {
                count += try Self.count(try message.message(), path.dropFirst())
            } else {
                try message.skip(tag)
            }
        }
        return count
    }

    private static func leads(_ tag: UInt64, _ fields: UInt64) -> Bool {
        tag & 7 == 2 && tag >> 3 < 64 && fields >> (tag >> 3) & 1 == 1
    }

    /// A request with some of the items, counted from 0, and all that stands around them. Parts without an item are left
    /// out, so that two halves say together what the whole said.
    public func part(_ body: UnsafeRawBufferPointer, items: Range<Int>) throws(OTLPDecodingError) -> [UInt8] {
        var next = 0
        return try Self.part(body, path[...], items, &next)
    }

    private static func part(
        _ body: UnsafeRawBufferPointer, _ path: ArraySlice<UInt64>, _ items: Range<Int>, _ next: inout Int
    ) throws(OTLPDecodingError) -> [UInt8] {
        var writer = ProtobufWriter()
        var message = ProtobufReader(body)
        while !message.isAtEnd {
            let start = message.offset
            let tag = try message.tag()
            guard let fields = path.first, leads(tag, fields) else {
                try message.skip(tag)
                writer.raw(body[start..<message.offset])
                continue
            }
            let field = try message.bytes()
            let first = next
            let count = try Self.count(ProtobufReader(field), path.dropFirst())
            if items.overlaps(first..<first + count) {
                let inner = try part(field, path.dropFirst(), items, &next)
                writer.data(field: UInt32(tag >> 3), inner)
            }
            next = first + count
        }
        return writer.bytes
    }
}
