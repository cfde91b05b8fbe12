import OTLP

/// How much a span may hold. What goes beyond is left out and counted in the span's `dropped_*_count`.
/// https://opentelemetry.io/docs/specs/otel/trace/sdk/#span-limits
public struct SpanLimits: Sendable, Equatable {
    /// `OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT`.
    public var attributeCount = 128
    /// `OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT`, in characters, or in bytes for a `bytes` value; nil for no
    /// limit but the span's size.
    public var attributeValueLength: Int?
    /// `OTEL_SPAN_EVENT_COUNT_LIMIT`.
    public var eventCount = 128
    /// `OTEL_SPAN_LINK_COUNT_LIMIT`.
    public var linkCount = 128
    /// `OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT`.
    public var attributesPerEvent = 128
    /// `OTEL_LINK_ATTRIBUTE_COUNT_LIMIT`.
    public var attributesPerLink = 128
    /// Arrays and lists may be nested so deeply; what lies deeper becomes an empty value. 1 is a flat list.
    public var attributeDepth = 16
    /// Encoded bytes of a span. An attribute, event or link that does not fit is left out.
    public var spanBytes = 64 * 1024

    public init() {}

    /// How many bytes of valid UTF-8 are kept: never a part of a character.
    func cut(_ bytes: UnsafeBufferPointer<UInt8>) -> Int {
        guard let limit = attributeValueLength, bytes.count > limit else { return bytes.count }
        var characters = 0
        for index in bytes.indices where bytes[index] & 0xC0 != 0x80 {
            if characters == limit { return index }
            characters += 1
        }
        return bytes.count
    }

    /// Recursively, as the specification says.
    func cut(_ value: AnyValue) -> AnyValue { cut(value, depth: 0) }

    private func cut(_ value: AnyValue, depth: Int) -> AnyValue {
        switch value {
        case .string(let text):
            guard let limit = attributeValueLength, text.utf8.count > limit else { return value }
            return .string(String(text.unicodeScalars.prefix(limit)))
        case .bytes(let bytes):
            guard let limit = attributeValueLength else { return value }
            return .bytes(Array(bytes.prefix(limit)))
        case .array(let values):
            return depth < attributeDepth ? .array(values.map { cut($0, depth: depth + 1) }) : .empty
        case .keyValueList(let values):
            guard depth < attributeDepth else { return .empty }
            return .keyValueList(values.map { KeyValue($0.key, cut($0.value, depth: depth + 1)) })
        default:
            return value
        }
    }

    /// An event's or a link's attributes: the last value of a key counts, a key is not empty, and what is beyond the
    /// limit is counted.
    func cut(_ attributes: [KeyValue], count limit: Int) -> (kept: [KeyValue], dropped: Int) {
        var kept: [KeyValue] = []
        var places: [String: Int] = [:]
        var dropped = 0
        for attribute in attributes where !attribute.key.isEmpty {
            if let place = places[attribute.key] {
                kept[place].value = cut(attribute.value)
            } else if kept.count < limit {
                places[attribute.key] = kept.count
                kept.append(KeyValue(attribute.key, cut(attribute.value)))
            } else {
                dropped += 1
            }
        }
        return (kept, dropped)
    }
}
