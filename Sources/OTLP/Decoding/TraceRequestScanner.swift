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
        while !reader.isAtEnd {
            if skipShort(&reader, keys: keys, into: scan) { continue }
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

    /// Takes one field of a span if it is of the usual form, in which tag and lengths are a byte each: an attribute whose
    /// message is nothing but key and value, or a field that nobody asked for. Everything else is left as it was.
    @inline(__always)
    private func skipShort(
        _ reader: inout ProtobufReader, keys: TraceScanInterest.KeySet, into scan: TraceScan
    ) -> Bool {
        let field = reader.cursor
        let room = reader.end - field
        guard room >= 2 else { return false }
        let tag = field.load(as: UInt8.self)
        let length = Int(field.load(fromByteOffset: 1, as: UInt8.self))
        guard length < 0x80, length &+ 2 <= room else { return false }
        switch tag {
        case 0x4A: break
        // span_id, parent_span_id, trace_state, events, links, status.
        case 0x12, 0x22, 0x1A, 0x5A, 0x6A, 0x7A:
            reader.cursor = field + (length &+ 2)
            return true
        default: return false
        }
        let key = field + 4
        guard length >= 2, field.load(fromByteOffset: 2, as: UInt8.self) == 0x0A else { return false }
        let keyLength = Int(field.load(fromByteOffset: 3, as: UInt8.self))
        // Key and value fill the message: nothing is in between, nothing follows.
        guard keyLength < 0x80, keyLength &+ 4 <= length, key.load(fromByteOffset: keyLength, as: UInt8.self) == 0x12,
            Int(key.load(fromByteOffset: keyLength &+ 1, as: UInt8.self)) &+ keyLength &+ 4 == length
        else { return false }
        if let found = keys.find(UnsafeRawBufferPointer(start: key, count: keyLength)) {
            guard scanShortValue(key + (keyLength &+ 2), end: field + (length &+ 2), found, into: scan) else {
                return false
            }
        }
        reader.cursor = field + (length &+ 2)
        return true
    }

    /// A value that is one string or one integer.
    @inline(__always)
    private func scanShortValue(
        _ value: UnsafeRawPointer, end: UnsafeRawPointer, _ key: Int, into scan: TraceScan
    ) -> Bool {
        let count = end - value
        guard count >= 2 else { return false }
        let kind: ScannedAttribute.Kind
        let bits: UInt64
        switch value.load(as: UInt8.self) {
        case 0x0A:
            guard Int(value.load(fromByteOffset: 1, as: UInt8.self)) == count &- 2 else { return false }
            kind = .string
            bits = pack(range(UnsafeRawBufferPointer(start: value + 2, count: count &- 2), in: scan))
        case 0x18:
            var number: UInt64 = 0
            var at = 1
            while at < count {
                let byte = value.load(fromByteOffset: at, as: UInt8.self)
                // The tenth byte and what follows are for the other way.
                guard at < 10 else { return false }
                number |= UInt64(byte & 0x7F) << UInt64(7 &* (at &- 1))
                at &+= 1
                if byte < 0x80 { break }
            }
            guard at == count, value.load(fromByteOffset: count &- 1, as: UInt8.self) < 0x80 else { return false }
            kind = .int
            bits = number
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
