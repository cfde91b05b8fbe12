/// Reads an `ExportTraceServiceRequest` in protobuf without building objects.
///
/// Only what `TraceScanInterest` names is looked at; the inside of everything else is passed over unread. A field with
/// an unexpected wire type is unknown and passed over, as in the official decoders. When an attribute key occurs twice,
/// both are kept, in order.
///
/// Numbers below are field tags of opentelemetry-proto 1.x (`number << 3 | wire type`):
/// request 1 resource_spans; ResourceSpans 1 resource, 2 scope_spans; Resource 1 attributes; ScopeSpans 2 spans;
/// Span 1 trace_id, 5 name, 6 kind, 7 start, 8 end, 9 attributes; KeyValue 1 key, 2 value.
public struct TraceRequestScanner: Sendable {
    public let interest: TraceScanInterest

    public init(interest: TraceScanInterest) { self.interest = interest }

    /// Fills `scan`. When it throws, nothing in `scan` may be used: a request is read whole or not at all.
    public func scan(protobuf message: UnsafeRawBufferPointer, into scan: TraceScan) throws(OTLPDecodingError) {
        try scan.begin(message)
        var request = ProtobufReader(message)
        while !request.isAtEnd {
            let tag = try request.tag()
            if tag == 0x0A {
                try scanResourceSpans(request.message(), into: scan)
            } else {
                try request.skip(tag)
            }
        }
    }

    private func scanResourceSpans(_ reader: ProtobufReader, into scan: TraceScan) throws(OTLPDecodingError) {
        let resource = try scanResourceParts(reader, into: scan)
        var reader = reader
        while !reader.isAtEnd {
            let tag = try reader.tag()
            if tag == 0x12 {
                try scanScopeSpans(reader.message(), resource: resource, into: scan)
            } else {
                try reader.skip(tag)
            }
        }
    }

    /// The resource may legally come after its spans, and in several parts: those parts are read on a pass of their own so
    /// that its attributes stand next to one another.
    func scanResourceParts(_ reader: ProtobufReader, into scan: TraceScan) throws(OTLPDecodingError) -> UInt32 {
        let resource = scan.appendResource(ScannedResource())
        let first = UInt32(scan.attributeCount)
        var parts = reader
        while !parts.isAtEnd {
            let tag = try parts.tag()
            if tag == 0x0A {
                try scanResource(parts.message(), into: scan)
            } else {
                try parts.skip(tag)
            }
        }
        scan.setResource(
            resource, ScannedResource(firstAttribute: first, attributeCount: UInt32(scan.attributeCount) - first))
        return UInt32(resource)
    }

    private func scanResource(_ reader: ProtobufReader, into scan: TraceScan) throws(OTLPDecodingError) {
        var reader = reader
        while !reader.isAtEnd {
            let tag = try reader.tag()
            if tag == 0x0A {
                try scanAttribute(reader.message(), keys: interest.resource, into: scan)
            } else {
                try reader.skip(tag)
            }
        }
    }

    private func scanScopeSpans(
        _ reader: ProtobufReader, resource: UInt32, into scan: TraceScan
    ) throws(OTLPDecodingError) {
        var reader = reader
        let keys = interest.span
        while !reader.isAtEnd {
            let tag = try reader.tag()
            if tag == 0x12 {
                try scanSpan(reader.message(), resource: resource, keys: keys, into: scan)
            } else {
                try reader.skip(tag)
            }
        }
    }

    @inline(__always)
    private func scanSpan(
        _ reader: ProtobufReader, resource: UInt32, keys: TraceScanInterest.KeySet, into scan: TraceScan
    ) throws(OTLPDecodingError) {
        var reader = reader
        var span = ScannedSpan()
        span.resource = resource
        let first = scan.attributeCount
        while true {
            takeUsual(&reader, &span, keys, scan)
            if reader.isAtEnd { break }
            let tag = try reader.tag()
            switch tag {
            case 0x4A: try scanAttribute(reader.message(), keys: keys, into: scan)
            case 0x39: span.startUnixNano = try reader.fixed64()
            case 0x41: span.endUnixNano = try reader.fixed64()
            case 0x0A:
                let id = try reader.bytes()
                if id.count == 16 {
                    span.traceIDHigh = UInt64(bigEndian: id.loadUnaligned(fromByteOffset: 0, as: UInt64.self))
                    span.traceIDLow = UInt64(bigEndian: id.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
                }
            case 0x2A: span.name = range(try reader.bytes(), in: scan)
            case 0x30: span.kind = UInt32(truncatingIfNeeded: try reader.varint())
            default: try reader.skip(tag)
            }
        }
        span.firstAttribute = UInt32(truncatingIfNeeded: first)
        span.attributeCount = UInt32(truncatingIfNeeded: scan.attributeCount &- first)
        scan.appendSpan(span)
    }

    /// Takes fields of a span as long as they are of the usual form, in which tag and length are a byte each, and an attribute's
    /// message is nothing but key and value. The first that is of another form is left as it was, with all after it.
    @inline(__always)
    private func takeUsual(
        _ reader: inout ProtobufReader, _ span: inout ScannedSpan, _ keys: TraceScanInterest.KeySet, _ scan: TraceScan
    ) {
        var at = reader.cursor
        let end = reader.end
        // What is read ahead lies within the span.
        loop: while end - at >= 4 {
            let head = at.loadUnaligned(as: UInt32.self).littleEndian
            let length = Int(head >> 8 & 0xFF)
            let next = at + (length &+ 2)
            switch head & 0xFF {
            case 0x4A:
                // Tag, length, tag of the key, length of the key.
                guard head & 0x80FF_80FF == 0x000A_004A, next <= end else { break loop }
                let keyLength = Int(head >> 24)
                guard keyLength &+ 4 <= length else { break loop }
                let key = at + 4
                // Then the value, to the end of the attribute.
                let expected = UInt16(truncatingIfNeeded: (length &- keyLength &- 4) &<< 8 | 0x12)
                guard (key + keyLength).loadUnaligned(as: UInt16.self).littleEndian == expected else { break loop }
                if let found = keys.find(UnsafeRawBufferPointer(start: key, count: keyLength)) {
                    guard takeValue(key + (keyLength &+ 2), next, found, scan) else { break loop }
                }
            case 0x39, 0x41:
                guard end - at >= 9 else { break loop }
                let time = UInt64(littleEndian: at.loadUnaligned(fromByteOffset: 1, as: UInt64.self))
                if head & 0xFF == 0x39 { span.startUnixNano = time } else { span.endUnixNano = time }
                at += 9
                continue
            case 0x0A:
                guard length == 16, next <= end else { break loop }
                span.traceIDHigh = UInt64(bigEndian: at.loadUnaligned(fromByteOffset: 2, as: UInt64.self))
                span.traceIDLow = UInt64(bigEndian: at.loadUnaligned(fromByteOffset: 10, as: UInt64.self))
            case 0x2A:
                guard length < 0x80, next <= end else { break loop }
                span.name = range(UnsafeRawBufferPointer(start: at + 2, count: length), in: scan)
            case 0x30:
                guard length < 0x80 else { break loop }
                span.kind = UInt32(truncatingIfNeeded: length)
                at += 2
                continue
            // span_id, parent_span_id, trace_state, events, links, status.
            case 0x12, 0x22, 0x1A, 0x5A, 0x6A, 0x7A:
                guard length < 0x80, next <= end else { break loop }
            default: break loop
            }
            at = next
        }
        reader.cursor = at
    }

    /// A value that is one string or one integer, from `value` up to `next`.
    @inline(__always)
    private func takeValue(
        _ value: UnsafeRawPointer, _ next: UnsafeRawPointer, _ key: Int, _ scan: TraceScan
    ) -> Bool {
        let count = next - value
        guard count >= 2 else { return false }
        let second = value.load(fromByteOffset: 1, as: UInt8.self)
        let kind: ScannedAttribute.Kind
        var bits: UInt64
        switch value.load(as: UInt8.self) {
        case 0x0A:
            guard Int(second) == count &- 2 else { return false }
            kind = .string
            bits = pack(range(UnsafeRawBufferPointer(start: value + 2, count: count &- 2), in: scan))
        case 0x18:
            // Up to eight bytes of seven bits each; all but the last have the top bit. Longer ones, and those at
            // the very end of the message, are for the other way.
            guard count <= 9, scan.end - value >= 9 else { return false }
            let unused = UInt64(8 &* (9 &- count))
            bits = UInt64(littleEndian: value.loadUnaligned(fromByteOffset: 1, as: UInt64.self))
            bits = (bits &<< unused) &>> unused
            guard bits & 0x8080_8080_8080_8080 == 0x0080_8080_8080_8080 &>> unused else { return false }
            bits &= 0x7F7F_7F7F_7F7F_7F7F
            bits = bits & 0x007F_007F_007F_007F | (bits & 0x7F00_7F00_7F00_7F00) >> 1
            bits = bits & 0x0000_3FFF_0000_3FFF | (bits & 0x3FFF_0000_3FFF_0000) >> 2
            bits = bits & 0x0FFF_FFFF | (bits & 0x0FFF_FFFF_0000_0000) >> 4
            kind = .int
        default: return false
        }
        scan.appendAttribute(ScannedAttribute(key: UInt8(truncatingIfNeeded: key), kind: kind, bits: bits))
        return true
    }

    @inline(__always)
    func scanAttribute(
        _ reader: ProtobufReader, keys: TraceScanInterest.KeySet, into scan: TraceScan
    ) throws(OTLPDecodingError) {
        var reader = reader
        var key: Int?
        var value: ProtobufReader?
        var kind = ScannedAttribute.Kind.empty
        var bits: UInt64 = 0
        while !reader.isAtEnd {
            let tag = try reader.tag()
            switch tag {
            case 0x0A:
                key = keys.find(try reader.bytes())
                // Encoders write the key first: an attribute that nobody asked for ends here, its value unread.
                if key == nil { return }
            case 0x12:
                // A message that comes in parts is their merger; no encoder writes it so.
                if let value { try readValue(value, &kind, &bits, scan) }
                value = try reader.message()
            default: try reader.skip(tag)
            }
        }
        guard let key else { return }
        if let value { try readValue(value, &kind, &bits, scan) }
        scan.appendAttribute(ScannedAttribute(key: UInt8(truncatingIfNeeded: key), kind: kind, bits: bits))
    }

    private func readValue(
        _ reader: ProtobufReader, _ kind: inout ScannedAttribute.Kind, _ bits: inout UInt64, _ scan: TraceScan
    ) throws(OTLPDecodingError) {
        var reader = reader
        while !reader.isAtEnd {
            let tag = try reader.tag()
            switch tag {
            case 0x0A: (kind, bits) = (.string, pack(range(try reader.bytes(), in: scan)))
            case 0x10: (kind, bits) = (.bool, try reader.varint() != 0 ? 1 : 0)
            case 0x18: (kind, bits) = (.int, try reader.varint())
            case 0x21: (kind, bits) = (.double, try reader.fixed64())
            case 0x3A: (kind, bits) = (.bytes, pack(range(try reader.bytes(), in: scan)))
            case 0x2A, 0x32:
                kind = .other
                try reader.skip(tag)
            default: try reader.skip(tag)
            }
        }
    }

    @inline(__always)
    func range(_ bytes: UnsafeRawBufferPointer, in scan: TraceScan) -> ScannedBytes {
        guard let start = bytes.baseAddress else { return ScannedBytes() }
        return ScannedBytes(
            start: UInt32(truncatingIfNeeded: start - scan.base), length: UInt32(truncatingIfNeeded: bytes.count),
            inArena: false)
    }
}

@inline(__always)
func pack(_ range: ScannedBytes) -> UInt64 { UInt64(range.lengthAndSource) << 32 | UInt64(range.start) }
