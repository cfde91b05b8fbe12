import OTLP
import Telemetry
import Tracing

extension SpanAttributes {
    /// The attributes as events and links take them.
    var keyValues: [KeyValue] {
        if isEmpty { return [] }
        var all: [KeyValue] = []
        all.reserveCapacity(count)
        forEach { key, value in all.append(KeyValue(key, AnyValue(value))) }
        return all
    }

    /// Sets each on a span; the simple kinds without an allocation.
    func write(to span: Telemetry.Span) {
        if isEmpty { return }
        forEach { key, value in
            switch value {
            case .string(let value): span.setAttribute(named: key, value)
            case .int64(let value): span.setAttribute(named: key, value)
            case .int32(let value): span.setAttribute(named: key, Int64(value))
            case .bool(let value): span.setAttribute(named: key, value)
            case .double(let value): span.setAttribute(named: key, value)
            case .stringConvertible(let value): span.setAttribute(named: key, value.description)
            default: span.setAttribute(key, AnyValue(value))
            }
        }
    }
}

extension AnyValue {
    init(_ attribute: SpanAttribute) {
        switch attribute {
        case .int32(let value): self = .int(Int64(value))
        case .int64(let value): self = .int(value)
        case .double(let value): self = .double(value)
        case .bool(let value): self = .bool(value)
        case .string(let value): self = .string(value)
        case .stringConvertible(let value): self = .string(value.description)
        case .int32Array(let values): self = .array(values.map { .int(Int64($0)) })
        case .int64Array(let values): self = .array(values.map { .int($0) })
        case .doubleArray(let values): self = .array(values.map { .double($0) })
        case .boolArray(let values): self = .array(values.map { .bool($0) })
        case .stringArray(let values): self = .array(values.map { .string($0) })
        case .stringConvertibleArray(let values): self = .array(values.map { .string($0.description) })
        // The enumeration asks for a default; it has no other case that holds a value.
        default: self = .empty
        }
    }
}
