import OTLP

/// Attributes as the identity of a series: ordered by key, each key once (the last wins).
struct AttributeSet: Hashable, Sendable {
    let pairs: [KeyValue]

    init(_ attributes: [KeyValue]) {
        var isOrdered = true
        for index in attributes.indices.dropFirst() where attributes[index - 1].key >= attributes[index].key {
            isOrdered = false
        }
        if isOrdered {
            pairs = attributes
            return
        }
        var last: [String: AnyValue] = [:]
        for attribute in attributes { last[attribute.key] = attribute.value }
        pairs = last.map { KeyValue($0.key, $0.value) }.sorted { $0.key < $1.key }
    }

    /// Of the series that holds what a full metric cannot tell apart any more.
    static let overflow = AttributeSet([KeyValue("otel.metric.overflow", true)])
}
