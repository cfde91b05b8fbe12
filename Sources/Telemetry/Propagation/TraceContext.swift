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

/// The `tracestate` of a trace: vendors' entries, the newest first. Immutable and shared.
public final class TraceState: Hashable, Sendable, CustomStringConvertible {
    public struct Entry: Hashable, Sendable {
        public let key: String
        public let value: String
    }

    public let entries: [Entry]
    /// The header's value, at most 512 characters.
    public let description: String

    /// Nil for a header that is not valid, or of which no entry remains.
    public init?(header: String) {
        var entries: [Entry] = []
        for member in header.split(separator: ",", omittingEmptySubsequences: true) {
            let text = Self.trimmed(member)
            if text.isEmpty { continue }
            guard let equals = text.utf8.firstIndex(of: UInt8(ascii: "=")) else { return nil }
            let entry = Entry(key: String(text[..<equals]), value: String(text[text.utf8.index(after: equals)...]))
            guard Self.isKey(entry.key), Self.isValue(entry.value), !entries.contains(where: { $0.key == entry.key })
            else { return nil }
            entries.append(entry)
        }
        guard entries.count <= 32 else { return nil }
        self.entries = Self.shortened(entries)
        guard !self.entries.isEmpty else { return nil }
        description = self.entries.map { "\($0.key)=\($0.value)" }.joined(separator: ",")
    }

    public subscript(key: String) -> String? { entries.first { $0.key == key }?.value }

    public static func == (one: TraceState, other: TraceState) -> Bool { one.entries == other.entries }
    public func hash(into hasher: inout Hasher) { hasher.combine(entries) }

    /// Whole entries go until 512 characters are enough: first those over 128 characters, then from the end.
    private static func shortened(_ entries: [Entry]) -> [Entry] {
        var entries = entries
        func length() -> Int { entries.reduce(-1) { $0 + $1.key.utf8.count + $1.value.utf8.count + 2 } }
        while length() > 512, let long = entries.lastIndex(where: { $0.key.utf8.count + $0.value.utf8.count + 1 > 128 })
        {
            entries.remove(at: long)
        }
        while length() > 512 { entries.removeLast() }
        return entries
    }

    private static func trimmed(_ text: Substring) -> Substring {
        var utf8 = text.utf8
        while let first = utf8.first, first == 0x20 || first == 0x09 { utf8.removeFirst() }
        while let last = utf8.last, last == 0x20 || last == 0x09 { utf8.removeLast() }
        return Substring(utf8)
    }

    /// Up to 256 of `a-z 0-9 _ - * / @`, beginning with a letter or a digit.
    private static func isKey(_ key: String) -> Bool {
        guard let first = key.utf8.first, isLowerOrDigit(first), key.utf8.count <= 256 else { return false }
        return key.utf8.allSatisfy { isLowerOrDigit($0) || "_-*/@".utf8.contains($0) }
    }

    /// Up to 256 printable characters without `,` and `=`, not ending in a space.
    private static func isValue(_ value: String) -> Bool {
        guard let last = value.utf8.last, last != 0x20, value.utf8.count <= 256 else { return false }
        return value.utf8.allSatisfy { $0 >= 0x20 && $0 <= 0x7E && $0 != UInt8(ascii: ",") && $0 != UInt8(ascii: "=") }
    }

    private static func isLowerOrDigit(_ byte: UInt8) -> Bool {
        (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte) || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
    }
}
