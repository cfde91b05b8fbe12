/// One log record on the wire.
///
/// `LogRecord`: 1 time, 11 observed_time, 2 severity_number, 3 severity_text, 5 body, 6 attributes,
/// 7 dropped_attributes_count, 8 flags (fixed32), 9 trace_id, 10 span_id, 12 event_name.
public struct LogRecordMessage: Sendable, Equatable {
    /// 0 when unknown.
    public var unixNano: UInt64 = 0
    public var observedUnixNano: UInt64 = 0
    /// 1 to 24; 0 when unspecified.
    public var severityNumber: UInt8 = 0
    public var severityText = ""
    public var body: AnyValue?
    public var attributes: [KeyValue] = []
    public var droppedAttributes: UInt32 = 0
    /// W3C's trace flags in the lowest byte.
    public var flags: UInt32 = 0
    /// All zero without a trace.
    public var traceIDHigh: UInt64 = 0
    public var traceIDLow: UInt64 = 0
    public var spanID: UInt64 = 0
    public var eventName = ""

    public init() {}

    public func encode(into writer: inout ProtobufWriter) {
        if unixNano != 0 { writer.fixed64(field: 1, unixNano) }
        if severityNumber != 0 { writer.varint(field: 2, UInt64(severityNumber)) }
        if !severityText.isEmpty { writer.string(field: 3, severityText) }
        if let body { writer.message(field: 5) { body.encode(into: &$0) } }
        for attribute in attributes { writer.message(field: 6) { attribute.encode(into: &$0) } }
        if droppedAttributes != 0 { writer.varint(field: 7, UInt64(droppedAttributes)) }
        if flags != 0 { writer.fixed32(field: 8, flags) }
        if traceIDHigh | traceIDLow != 0 {
            writer.bigEndian(field: 9, traceIDHigh, traceIDLow)
            if spanID != 0 { writer.bigEndian(field: 10, spanID) }
        }
        if observedUnixNano != 0 { writer.fixed64(field: 11, observedUnixNano) }
        if !eventName.isEmpty { writer.string(field: 12, eventName) }
    }
}
