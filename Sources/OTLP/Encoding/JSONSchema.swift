/// What the JSON form must know of a message: its fields' numbers, names and kinds.
///
/// From opentelemetry-proto 1.9; a test compares it with the official classes' descriptors.
enum JSONSchema: Int {
    case traceRequest, resourceSpans, scopeSpans, span, event, link, status
    case metricsRequest, resourceMetrics, scopeMetrics, metric, gauge, sum, histogram, exponentialHistogram, summary
    case numberPoint, histogramPoint, exponentialPoint, buckets, summaryPoint, valueAtQuantile, exemplar
    case logsRequest, resourceLogs, scopeLogs, logRecord
    case resource, entityRef, scope, keyValue, anyValue, arrayValue, keyValueList

    enum Kind {
        case string
        /// Ids.
        case hex
        /// All other bytes.
        case base64
        case bool, double
        case unsigned32, fixed32, signed32, zigzag32
        /// 64-bit integers are strings in JSON.
        case unsigned64, signed64, fixed64, sfixed64
        case message(JSONSchema)
    }

    struct Field {
        let name: StaticString
        let kind: Kind
        let isRepeated: Bool

        static func one(_ name: StaticString, _ kind: Kind) -> Field {
            Field(name: name, kind: kind, isRepeated: false)
        }
        static func many(_ name: StaticString, _ kind: Kind) -> Field {
            Field(name: name, kind: kind, isRepeated: true)
        }
    }

    /// Numbers are below 64.
    func field(_ number: UInt64) -> Field? {
        let fields = Self.tables[rawValue]
        return number < UInt64(fields.count) ? fields[Int(number)] : nil
    }

    private static let tables: [[Field?]] = {
        var index = 0
        var tables: [[Field?]] = []
        while let schema = JSONSchema(rawValue: index) {
            let fields = schema.fields
            var table = [Field?](repeating: nil, count: (fields.keys.max() ?? 0) + 1)
            for (number, field) in fields { table[number] = field }
            tables.append(table)
            index += 1
        }
        return tables
    }()

    private static let attributes = Field.many("attributes", .message(.keyValue))
    private static let droppedAttributes = Field.one("droppedAttributesCount", .unsigned32)
    private static let schemaURL = Field.one("schemaUrl", .string)
    private static let temporality = Field.one("aggregationTemporality", .signed32)
    private static let start = Field.one("startTimeUnixNano", .fixed64)
    private static let time = Field.one("timeUnixNano", .fixed64)
    /// Of spans, links and log records.
    private static let flags = Field.one("flags", .fixed32)
    private static let pointFlags = Field.one("flags", .unsigned32)

    private var fields: [Int: Field] {
        switch self {
        case .traceRequest, .metricsRequest, .logsRequest, .resourceSpans, .resourceMetrics, .resourceLogs, .scopeSpans,
            .scopeMetrics, .scopeLogs:
            envelopeFields
        case .span, .event, .link, .status: traceFields
        case .logRecord:
            [
                1: Self.time, 2: .one("severityNumber", .signed32), 3: .one("severityText", .string),
                5: .one("body", .message(.anyValue)), 6: Self.attributes, 7: Self.droppedAttributes, 8: Self.flags,
                9: .one("traceId", .hex), 10: .one("spanId", .hex), 11: .one("observedTimeUnixNano", .fixed64),
                12: .one("eventName", .string),
            ]
        case .resource, .entityRef, .scope, .keyValue, .anyValue, .arrayValue, .keyValueList: commonFields
        case .metric, .gauge, .sum, .histogram, .exponentialHistogram, .summary: metricFields
        case .numberPoint, .histogramPoint, .exponentialPoint, .buckets, .summaryPoint, .valueAtQuantile, .exemplar:
            pointFields
        }
    }

    private var envelopeFields: [Int: Field] {
        switch self {
        case .traceRequest: [1: .many("resourceSpans", .message(.resourceSpans))]
        case .metricsRequest: [1: .many("resourceMetrics", .message(.resourceMetrics))]
        case .logsRequest: [1: .many("resourceLogs", .message(.resourceLogs))]
        case .resourceSpans: resource(.many("scopeSpans", .message(.scopeSpans)))
        case .resourceMetrics: resource(.many("scopeMetrics", .message(.scopeMetrics)))
        case .resourceLogs: resource(.many("scopeLogs", .message(.scopeLogs)))
        case .scopeSpans: scope(.many("spans", .message(.span)))
        case .scopeMetrics: scope(.many("metrics", .message(.metric)))
        case .scopeLogs: scope(.many("logRecords", .message(.logRecord)))
        default: [:]
        }
    }

    private func resource(_ scopes: Field) -> [Int: Field] {
        [1: .one("resource", .message(.resource)), 2: scopes, 3: Self.schemaURL]
    }

    private func scope(_ items: Field) -> [Int: Field] {
        [1: .one("scope", .message(.scope)), 2: items, 3: Self.schemaURL]
    }

    private var traceFields: [Int: Field] {
        switch self {
        case .span:
            [
                1: .one("traceId", .hex), 2: .one("spanId", .hex), 3: .one("traceState", .string),
                4: .one("parentSpanId", .hex), 5: .one("name", .string), 6: .one("kind", .signed32), 7: Self.start,
                8: .one("endTimeUnixNano", .fixed64), 9: Self.attributes, 10: Self.droppedAttributes,
                11: .many("events", .message(.event)), 12: .one("droppedEventsCount", .unsigned32),
                13: .many("links", .message(.link)), 14: .one("droppedLinksCount", .unsigned32),
                15: .one("status", .message(.status)), 16: Self.flags,
            ]
        case .event: [1: Self.time, 2: .one("name", .string), 3: Self.attributes, 4: Self.droppedAttributes]
        case .link:
            [
                1: .one("traceId", .hex), 2: .one("spanId", .hex), 3: .one("traceState", .string), 4: Self.attributes,
                5: Self.droppedAttributes, 6: Self.flags,
            ]
        case .status: [2: .one("message", .string), 3: .one("code", .signed32)]
        default: [:]
        }
    }

    private var commonFields: [Int: Field] {
        switch self {
        case .resource:
            [1: Self.attributes, 2: Self.droppedAttributes, 3: .many("entityRefs", .message(.entityRef))]
        case .entityRef:
            [
                1: Self.schemaURL, 2: .one("type", .string), 3: .many("idKeys", .string),
                4: .many("descriptionKeys", .string),
            ]
        case .scope:
            [1: .one("name", .string), 2: .one("version", .string), 3: Self.attributes, 4: Self.droppedAttributes]
        case .keyValue:
            [1: .one("key", .string), 2: .one("value", .message(.anyValue)), 3: .one("keyStrindex", .signed32)]
        case .anyValue:
            [
                1: .one("stringValue", .string), 2: .one("boolValue", .bool), 3: .one("intValue", .signed64),
                4: .one("doubleValue", .double), 5: .one("arrayValue", .message(.arrayValue)),
                6: .one("kvlistValue", .message(.keyValueList)), 7: .one("bytesValue", .base64),
                8: .one("stringValueStrindex", .signed32),
            ]
        case .arrayValue: [1: .many("values", .message(.anyValue))]
        case .keyValueList: [1: .many("values", .message(.keyValue))]
        default: [:]
        }
    }

    private var metricFields: [Int: Field] {
        switch self {
        case .metric:
            [
                1: .one("name", .string), 2: .one("description", .string), 3: .one("unit", .string),
                5: .one("gauge", .message(.gauge)), 7: .one("sum", .message(.sum)),
                9: .one("histogram", .message(.histogram)),
                10: .one("exponentialHistogram", .message(.exponentialHistogram)),
                11: .one("summary", .message(.summary)), 12: .many("metadata", .message(.keyValue)),
            ]
        case .gauge: [1: .many("dataPoints", .message(.numberPoint))]
        case .sum:
            [1: .many("dataPoints", .message(.numberPoint)), 2: Self.temporality, 3: .one("isMonotonic", .bool)]
        case .histogram: [1: .many("dataPoints", .message(.histogramPoint)), 2: Self.temporality]
        case .exponentialHistogram: [1: .many("dataPoints", .message(.exponentialPoint)), 2: Self.temporality]
        case .summary: [1: .many("dataPoints", .message(.summaryPoint))]
        default: [:]
        }
    }

    private var pointFields: [Int: Field] {
        let exemplars = Field.many("exemplars", .message(.exemplar))
        let count = Field.one("count", .fixed64)
        let sum = Field.one("sum", .double)
        return switch self {
        case .numberPoint:
            [
                2: Self.start, 3: Self.time, 4: .one("asDouble", .double), 5: exemplars, 6: .one("asInt", .sfixed64),
                7: Self.attributes, 8: Self.pointFlags,
            ]
        case .histogramPoint:
            [
                2: Self.start, 3: Self.time, 4: count, 5: sum, 6: .many("bucketCounts", .fixed64),
                7: .many("explicitBounds", .double), 8: exemplars, 9: Self.attributes, 10: Self.pointFlags,
                11: .one("min", .double), 12: .one("max", .double),
            ]
        case .exponentialPoint:
            [
                1: Self.attributes, 2: Self.start, 3: Self.time, 4: count, 5: sum, 6: .one("scale", .zigzag32),
                7: .one("zeroCount", .fixed64), 8: .one("positive", .message(.buckets)),
                9: .one("negative", .message(.buckets)), 10: Self.pointFlags, 11: exemplars, 12: .one("min", .double),
                13: .one("max", .double), 14: .one("zeroThreshold", .double),
            ]
        case .buckets: [1: .one("offset", .zigzag32), 2: .many("bucketCounts", .unsigned64)]
        case .summaryPoint:
            [
                2: Self.start, 3: Self.time, 4: count, 5: sum,
                6: .many("quantileValues", .message(.valueAtQuantile)), 7: Self.attributes, 8: Self.pointFlags,
            ]
        case .valueAtQuantile: [1: .one("quantile", .double), 2: .one("value", .double)]
        case .exemplar:
            [
                2: Self.time, 3: .one("asDouble", .double), 4: .one("spanId", .hex), 5: .one("traceId", .hex),
                6: .one("asInt", .sfixed64), 7: .many("filteredAttributes", .message(.keyValue)),
            ]
        default: [:]
        }
    }
}
