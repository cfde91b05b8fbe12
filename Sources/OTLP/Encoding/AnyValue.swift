/// The value of an attribute, of every kind that OTLP knows.
///
/// `AnyValue`: 1 string, 2 bool, 3 int64, 4 double, 5 ArrayValue{1 values}, 6 KeyValueList{1 values}, 7 bytes; none of
/// them is the empty value. `KeyValue`: 1 key, 2 value.
public indirect enum AnyValue: Hashable, Sendable {
    case empty
    case string(String)
    case bool(Bool)
    case int(Int64)
    case double(Double)
    case bytes([UInt8])
    case array([AnyValue])
    case keyValueList([KeyValue])

    public func encode(into writer: inout ProtobufWriter) {
        switch self {
        case .empty: break
        case .string(let value): writer.string(field: 1, value)
        case .bool(let value): writer.varint(field: 2, value ? 1 : 0)
        case .int(let value): writer.varint(field: 3, UInt64(bitPattern: value))
        case .double(let value): writer.fixed64(field: 4, value.bitPattern)
        case .bytes(let value): writer.data(field: 7, value)
        case .array(let values):
            writer.message(field: 5) { list in
                for value in values { list.message(field: 1) { value.encode(into: &$0) } }
            }
        case .keyValueList(let values):
            writer.message(field: 6) { list in
                for value in values { list.message(field: 1) { value.encode(into: &$0) } }
            }
        }
    }
}

extension AnyValue: ExpressibleByStringLiteral, ExpressibleByBooleanLiteral, ExpressibleByIntegerLiteral,
    ExpressibleByFloatLiteral
{
    public init(stringLiteral value: String) { self = .string(value) }
    public init(booleanLiteral value: Bool) { self = .bool(value) }
    public init(integerLiteral value: Int64) { self = .int(value) }
    public init(floatLiteral value: Double) { self = .double(value) }
}

/// An attribute.
public struct KeyValue: Hashable, Sendable {
    public var key: String
    public var value: AnyValue

    public init(_ key: String, _ value: AnyValue) {
        self.key = key
        self.value = value
    }

    public func encode(into writer: inout ProtobufWriter) {
        writer.string(field: 1, key)
        writer.message(field: 2) { value.encode(into: &$0) }
    }
}

/// Who produced the telemetry. `Resource`: 1 attributes, 2 dropped_attributes_count.
public struct Resource: Hashable, Sendable {
    public var attributes: [KeyValue]
    /// The conventions that the attributes follow, or empty. OTLP has it beside the resource: field 3 of `ResourceSpans`,
    /// `ResourceMetrics` and `ResourceLogs`.
    public var schemaURL: String

    public init(attributes: [KeyValue] = [], schemaURL: String = "") {
        self.attributes = attributes
        self.schemaURL = schemaURL
    }

    public func encode(into writer: inout ProtobufWriter) {
        for attribute in attributes { writer.message(field: 1) { attribute.encode(into: &$0) } }
    }
}

/// Which library produced the telemetry. `InstrumentationScope`: 1 name, 2 version, 3 attributes.
public struct InstrumentationScope: Hashable, Sendable {
    public var name: String
    public var version: String
    /// The conventions that the scope's telemetry follows, or empty. OTLP has it beside the scope: field 3 of
    /// `ScopeSpans`, `ScopeMetrics` and `ScopeLogs`.
    public var schemaURL: String
    public var attributes: [KeyValue]

    public init(name: String, version: String = "", schemaURL: String = "", attributes: [KeyValue] = []) {
        self.name = name
        self.version = version
        self.schemaURL = schemaURL
        self.attributes = attributes
    }

    public func encode(into writer: inout ProtobufWriter) {
        writer.string(field: 1, name)
        if !version.isEmpty { writer.string(field: 2, version) }
        for attribute in attributes { writer.message(field: 3) { attribute.encode(into: &$0) } }
    }
}

/// A span's role in its trace, with OTLP's numbers. 0, unspecified, is never exported.
public enum SpanKind: UInt8, Hashable, Sendable, CaseIterable {
    case `internal` = 1
    case server, client, producer, consumer
}

/// A span's outcome, with OTLP's numbers.
public enum StatusCode: UInt8, Hashable, Sendable, CaseIterable {
    case unset, ok, error
}
