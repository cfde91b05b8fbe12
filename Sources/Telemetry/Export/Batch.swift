import OTLP

/// What every request begins with: the resource and the scope, encoded once.
///
///     ExportTraceServiceRequest{1 ResourceSpans{1 resource, 3 schema, 2 ScopeSpans{1 scope, 3 schema, 2 span, 2 span, …}}}
struct BatchEnvelope: Sendable {
    let resource: [UInt8]
    let scope: [UInt8]

    init(resource: Resource, scope: InstrumentationScope) {
        var writer = ProtobufWriter()
        writer.message(field: 1) { resource.encode(into: &$0) }
        if !resource.schemaURL.isEmpty { writer.string(field: 3, resource.schemaURL) }
        self.resource = writer.bytes
        writer = ProtobufWriter()
        writer.message(field: 1) { scope.encode(into: &$0) }
        if !scope.schemaURL.isEmpty { writer.string(field: 3, scope.schemaURL) }
        self.scope = writer.bytes
    }

    /// Room for the parts and the tags and lengths around them.
    var maxBytes: Int { resource.count + scope.count + 3 * (1 + Wire.maxVarintBytes) }
}

/// Items on their way to the exporter: one request's body. Spans come as they were gathered, and what a request begins
/// with is put before them; the other signals bring a finished body.
final class Batch: @unchecked Sendable {  // used by one thread at a time: the collector's, then the exporter's
    /// Spans, data points or log records.
    let itemCount: Int
    /// What comes before the spans; nil where the body is finished.
    private let envelope: BatchEnvelope?
    private let storage: UnsafeMutableRawPointer
    private let capacity: Int
    private let end: Int
    private let itemsStart: Int

    /// Takes over a buffer of spans; see `SpanBuffer`.
    init(
        envelope: BatchEnvelope, storage: UnsafeMutableRawPointer, capacity: Int, itemsStart: Int, end: Int,
        itemCount: Int
    ) {
        self.envelope = envelope
        self.storage = storage
        self.capacity = capacity
        self.itemsStart = itemsStart
        self.end = end
        self.itemCount = itemCount
    }

    /// A finished request, in protobuf, with as many items.
    init(body: [UInt8], itemCount: Int) {
        envelope = nil
        self.itemCount = itemCount
        itemsStart = 0
        end = body.count
        capacity = max(1, body.count)
        storage = .allocate(byteCount: capacity, alignment: 8)
        body.withUnsafeBytes { UnsafeMutableRawBufferPointer(start: storage, count: end).copyMemory(from: $0) }
    }

    deinit {
        if envelope != nil {
            BatchBuffers.release(storage, capacity: capacity)
        } else {
            storage.deallocate()
        }
    }

    var byteCount: Int { end - itemsStart }

    /// The request, valid as long as the batch. The parts before the spans are written backwards from them, since their
    /// lengths count what follows.
    func body() -> UnsafeRawBufferPointer {
        guard let envelope else { return UnsafeRawBufferPointer(start: storage, count: end) }
        let scopeSpans = envelope.scope.count + byteCount
        let resourceSpans = envelope.resource.count + 1 + Wire.varintBytes(UInt64(scopeSpans)) + scopeSpans
        let head = 1 + Wire.varintBytes(UInt64(resourceSpans)) + resourceSpans - byteCount
        let start = storage + itemsStart - head
        var place = Wire.byte(0x0A, at: start)
        place = Wire.varint(UInt64(resourceSpans), at: place)
        place = envelope.resource.withUnsafeBytes { bytes in
            bytes.baseAddress.map { Wire.copy($0, count: bytes.count, to: place) } ?? place
        }
        place = Wire.byte(0x12, at: place)
        place = Wire.varint(UInt64(scopeSpans), at: place)
        place = envelope.scope.withUnsafeBytes { bytes in
            bytes.baseAddress.map { Wire.copy($0, count: bytes.count, to: place) } ?? place
        }
        return UnsafeRawBufferPointer(start: start, count: head + byteCount)
    }
}
