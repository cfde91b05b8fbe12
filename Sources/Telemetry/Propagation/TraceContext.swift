/// W3C Trace Context: https://www.w3.org/TR/trace-context-2/
///
///     traceparent: VERSION "-" TRACE-ID "-" PARENT-ID "-" FLAGS      2, 32, 16 and 2 lower-case hexadecimal digits
public enum TraceContext {
    public static let traceparentBytes = 55

    /// Nil for a `traceparent` that is not valid. A `tracestate` that is not valid is dropped; the rest stays.
    public static func parse(traceparent: String, tracestate: String? = nil) -> SpanContext? {
        var traceparent = traceparent
        guard let parsed = traceparent.withUTF8({ parse($0) }) else { return nil }
        return SpanContext(
            traceID: parsed.0, spanID: parsed.1, traceFlags: parsed.2,
            traceState: tracestate.flatMap(TraceState.init(header:)), isRemote: true)
    }

    /// A version above 00 may be longer, after another dash; version ff is not valid.
    static func parse(_ bytes: UnsafeBufferPointer<UInt8>) -> (TraceID, SpanID, TraceFlags)? {
        guard bytes.count >= traceparentBytes, let version = Hex.value(bytes[0..<2]), version != 0xFF,
            bytes.count == traceparentBytes || (version != 0 && bytes[55] == UInt8(ascii: "-")),
            bytes[2] == UInt8(ascii: "-"), bytes[35] == UInt8(ascii: "-"), bytes[52] == UInt8(ascii: "-"),
            let high = Hex.value(bytes[3..<19]), let low = Hex.value(bytes[19..<35]),
            let span = Hex.value(bytes[36..<52]), let flags = Hex.value(bytes[53..<55]), high | low != 0, span != 0
        else { return nil }
        // Of the flags only the two that are defined are passed on.
        return (TraceID(high: high, low: low), SpanID(rawValue: span), TraceFlags(rawValue: UInt8(flags) & 0x03))
    }
}

extension SpanContext {
    /// The header's value: 55 characters.
    public var traceparent: String {
        String(unsafeUninitializedCapacity: TraceContext.traceparentBytes) { buffer in
            guard let base = buffer.baseAddress else { return 0 }
            writeTraceparent(to: base)
            return TraceContext.traceparentBytes
        }
    }

    /// Writes 55 bytes.
    public func writeTraceparent(to place: UnsafeMutablePointer<UInt8>) {
        let dash = UInt8(ascii: "-")
        place[0] = UInt8(ascii: "0")
        place[1] = UInt8(ascii: "0")
        place[2] = dash
        Hex.write(traceID.high, to: place + 3)
        Hex.write(traceID.low, to: place + 19)
        place[35] = dash
        Hex.write(spanID.rawValue, to: place + 36)
        place[52] = dash
        place[53] = UInt8(ascii: "0")
        place[54] = UInt8(ascii: "0") + (traceFlags.rawValue & 0x03)
    }
}
