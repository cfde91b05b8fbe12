// OTLP/JSON: protobuf's JSON mapping, except that trace and span ids are hex and enums are integers.
// https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding
// Keys are lowerCamelCase; unknown ones are passed over. 64-bit integers come as strings or numbers. When a key occurs
// twice in one object the last one counts. `null` is the same as absent.

extension TraceRequestScanner {
    /// Fills `scan` from an `ExportTraceServiceRequest` in JSON, with the same visits as for protobuf. When it throws,
    /// nothing in `scan` may be used.
    public func scan(json message: UnsafeRawBufferPointer, into scan: TraceScan) throws(OTLPDecodingError) {
        try scan.begin(message)
        var reader = try JSONReader(message, scan: scan)
        if reader.peek() != UInt8(ascii: "{") { throw reader.failure(.unexpectedType, "a JSON object was expected") }
        try reader.object { (reader, key) throws(OTLPDecodingError) in
            guard scan.matches(key, "resourceSpans") else { return try reader.skip() }
            try reader.array { (reader) throws(OTLPDecodingError) in try resourceSpans(&reader, scan) }
        }
        try reader.finish()
    }

    private func resourceSpans(_ reader: inout JSONReader, _ scan: TraceScan) throws(OTLPDecodingError) {
        let resource = scan.appendResource(ScannedResource())
        try reader.object { (reader, key) throws(OTLPDecodingError) in
            if scan.matches(key, "resource") {
                try self.resource(&reader, resource, scan)
            } else if scan.matches(key, "scopeSpans") {
                try reader.array { (reader) throws(OTLPDecodingError) in
                    try reader.object { (reader, key) throws(OTLPDecodingError) in
                        guard scan.matches(key, "spans") else { return try reader.skip() }
                        try reader.array { (reader) throws(OTLPDecodingError) in
                            try span(&reader, UInt32(resource), scan)
                        }
                    }
                }
            } else {
                try reader.skip()
            }
        }
    }

    func resource(
        _ reader: inout JSONReader, _ number: Int, _ scan: TraceScan
    ) throws(OTLPDecodingError) {
        let first = UInt32(scan.attributeCount)
        try reader.object { (reader, key) throws(OTLPDecodingError) in
            guard scan.matches(key, "attributes") else { return try reader.skip() }
            try attributes(&reader, interest.resource, scan)
        }
        scan.setResource(
            number, ScannedResource(firstAttribute: first, attributeCount: UInt32(scan.attributeCount) - first))
    }

    private func span(
        _ reader: inout JSONReader, _ resource: UInt32, _ scan: TraceScan
    ) throws(OTLPDecodingError) {
        var span = ScannedSpan()
        span.resource = resource
        span.firstAttribute = UInt32(scan.attributeCount)
        try reader.object { (reader, key) throws(OTLPDecodingError) in
            if scan.matches(key, "attributes") {
                span.firstAttribute = UInt32(scan.attributeCount)
                try attributes(&reader, interest.span, scan)
                span.attributeCount = UInt32(scan.attributeCount) - span.firstAttribute
            } else if scan.matches(key, "startTimeUnixNano") {
                span.startUnixNano = try unsigned(&reader)
            } else if scan.matches(key, "endTimeUnixNano") {
                span.endUnixNano = try unsigned(&reader)
            } else if scan.matches(key, "traceId") {
                try traceID(&reader, &span, scan)
            } else if scan.matches(key, "name") {
                span.name = try text(&reader) ?? ScannedBytes()
            } else if scan.matches(key, "kind") {
                span.kind = try kind(&reader, scan)
            } else {
                try reader.skip()
            }
        }
        scan.appendSpan(span)
    }

    func unsigned(_ reader: inout JSONReader) throws(OTLPDecodingError) -> UInt64 {
        if try reader.takeNull() { return 0 }
        let value = try reader.integer()
        guard !value.negative else { throw reader.failure(.unexpectedType, "an unsigned integer was expected") }
        return value.magnitude
    }

    func text(_ reader: inout JSONReader) throws(OTLPDecodingError) -> ScannedBytes? {
        try reader.takeNull() ? nil : try reader.string()
    }

    private func traceID(
        _ reader: inout JSONReader, _ span: inout ScannedSpan, _ scan: TraceScan
    ) throws(OTLPDecodingError) {
        guard let range = try text(&reader), range.count > 0 else { return }
        var halves: (UInt64, UInt64) = (0, 0)
        for byte in scan.bytes(range) {
            guard range.count == 32, let digit = JSONReader.hexDigit(byte) else {
                throw reader.failure(.malformed, "a trace id is 32 hex digits")
            }
            halves.0 = halves.0 << 4 | halves.1 >> 60
            halves.1 = halves.1 << 4 | UInt64(digit)
        }
        (span.traceIDHigh, span.traceIDLow) = halves
    }

    /// Names are not OTLP/JSON, but generic protobuf printers write them.
    private func kind(_ reader: inout JSONReader, _ scan: TraceScan) throws(OTLPDecodingError) -> UInt32 {
        guard reader.peek() == UInt8(ascii: "\"") else {
            if try reader.takeNull() { return 0 }
            return UInt32(truncatingIfNeeded: try reader.integer().magnitude)
        }
        let name = try reader.string()
        let names: [StaticString] = [
            "SPAN_KIND_UNSPECIFIED", "SPAN_KIND_INTERNAL", "SPAN_KIND_SERVER", "SPAN_KIND_CLIENT", "SPAN_KIND_PRODUCER",
            "SPAN_KIND_CONSUMER",
        ]
        return UInt32(names.firstIndex { scan.matches(name, $0) } ?? 0)
    }

    func attributes(
        _ reader: inout JSONReader, _ keys: TraceScanInterest.KeySet, _ scan: TraceScan
    ) throws(OTLPDecodingError) {
        try reader.array { (reader) throws(OTLPDecodingError) in
            var key: Int?
            var kind = ScannedAttribute.Kind.empty
            var bits: UInt64 = 0
            try reader.object { (reader, field) throws(OTLPDecodingError) in
                if scan.matches(field, "key") {
                    key = try text(&reader).flatMap { keys.find(scan.bytes($0)) }
                } else if scan.matches(field, "value") {
                    try value(&reader, &kind, &bits, scan)
                } else {
                    try reader.skip()
                }
            }
            if let key { scan.appendAttribute(ScannedAttribute(key: UInt8(key), kind: kind, bits: bits)) }
        }
    }

    private func value(
        _ reader: inout JSONReader, _ kind: inout ScannedAttribute.Kind, _ bits: inout UInt64, _ scan: TraceScan
    ) throws(OTLPDecodingError) {
        try reader.object { (reader, field) throws(OTLPDecodingError) in
            if scan.matches(field, "stringValue") {
                if let text = try text(&reader) { (kind, bits) = (.string, pack(text)) }
            } else if scan.matches(field, "intValue") {
                if try reader.takeNull() { return }
                let value = try reader.integer()
                let limit = UInt64(Int64.max) + (value.negative ? 1 : 0)
                guard value.magnitude <= limit else {
                    throw reader.failure(.unexpectedType, "a 64-bit integer was expected")
                }
                (kind, bits) = (.int, value.negative ? 0 &- value.magnitude : value.magnitude)
            } else if scan.matches(field, "boolValue") {
                if try reader.takeNull() { return }
                (kind, bits) = (.bool, try reader.bool() ? 1 : 0)
            } else if scan.matches(field, "doubleValue") {
                if try reader.takeNull() { return }
                (kind, bits) = (.double, try double(&reader, scan).bitPattern)
            } else if scan.matches(field, "bytesValue") {
                if let text = try text(&reader) { (kind, bits) = (.bytes, pack(try base64(text, &reader, scan))) }
            } else {
                if scan.matches(field, "arrayValue") || scan.matches(field, "kvlistValue") { kind = .other }
                try reader.skip()
            }
        }
    }

    /// A number, or one of the strings "NaN", "Infinity" and "-Infinity", or a number in a string.
    func double(_ reader: inout JSONReader, _ scan: TraceScan) throws(OTLPDecodingError) -> Double {
        let bytes: UnsafeRawBufferPointer
        if reader.peek() == UInt8(ascii: "\"") {
            bytes = scan.bytes(try reader.string())
        } else {
            let range = try reader.number()
            bytes = UnsafeRawBufferPointer(start: scan.base + range.lowerBound, count: range.count)
        }
        guard bytes.count <= 400, let value = Double(String(decoding: bytes, as: UTF8.self)) else {
            throw reader.failure(.unexpectedType, "a number was expected")
        }
        return value
    }

    /// Standard or URL alphabet, with or without padding, as protobuf's mapping accepts.
    private func base64(
        _ text: ScannedBytes, _ reader: inout JSONReader, _ scan: TraceScan
    ) throws(OTLPDecodingError) -> ScannedBytes {
        let start = scan.arenaCount
        var buffer: UInt32 = 0
        var bitCount = 0
        var padding = 0
        for at in 0..<text.count {
            // Looked up each time: appending may move the arena, which the text can live in.
            let byte = scan.bytes(text)[at]
            let digit: UInt8
            switch byte {
            case 65...90: digit = byte - 65
            case 97...122: digit = byte - 71
            case 48...57: digit = byte + 4
            case UInt8(ascii: "+"), UInt8(ascii: "-"): digit = 62
            case UInt8(ascii: "/"), UInt8(ascii: "_"): digit = 63
            case UInt8(ascii: "="):
                padding += 1
                continue
            default: throw reader.failure(.malformed, "not base64")
            }
            guard padding == 0 else { throw reader.failure(.malformed, "not base64") }
            buffer = buffer << 6 | UInt32(digit)
            bitCount += 6
            if bitCount >= 8 {
                bitCount -= 8
                scan.appendToArena(UInt8(truncatingIfNeeded: buffer >> UInt32(bitCount)))
            }
        }
        guard bitCount != 6, padding <= 2 else { throw reader.failure(.malformed, "not base64") }
        return scan.arenaRange(from: start)
    }
}

extension TraceScan {
    func matches(_ range: ScannedBytes, _ text: StaticString) -> Bool {
        range.count == text.utf8CodeUnitCount
            && BytesEqual.test(bytes(range).baseAddress, UnsafeRawPointer(text.utf8Start), range.count)
    }
}
