import OTLP

/// What every request begins with: the resource and the scope, encoded once.
///
///     ExportTraceServiceRequest{1 ResourceSpans{1 resource, 2 ScopeSpans{1 scope, 2 span, 2 span, …}}}
struct BatchEnvelope: Sendable {
    let resource: [UInt8]
    let scope: [UInt8]

    init(resource: Resource, scope: InstrumentationScope) {
        var writer = ProtobufWriter()
        writer.message(field: 1) { resource.encode(into: &$0) }
        self.resource = writer.bytes
        writer = ProtobufWriter()
        writer.message(field: 1) { scope.encode(into: &$0) }
        self.scope = writer.bytes
    }

    /// Room for the parts and the tags and lengths around them.
    var maxBytes: Int { resource.count + scope.count + 3 * (1 + Wire.maxVarintBytes) }
}

/// Spans on their way to the exporter: one request's body, built in place.
final class Batch: @unchecked Sendable {  // used by one thread at a time: the collector's, then the exporter's
    private(set) var spanCount = 0
    private let envelope: BatchEnvelope
    private var storage: UnsafeMutableRawPointer
    private var capacity = 256 * 1024
    private var end: Int
    private let spansStart: Int

    init(envelope: BatchEnvelope) {
        self.envelope = envelope
        spansStart = envelope.maxBytes
        end = spansStart
        storage = .allocate(byteCount: capacity + spansStart, alignment: 8)
    }

    deinit { storage.deallocate() }

    var byteCount: Int { end - spansStart }

    /// Field 2 of ScopeSpans.
    func append(_ span: UnsafeRawPointer, count: Int) {
        let needed = 1 + Wire.maxVarintBytes + count
        if byteCount + needed > capacity {
            capacity = (byteCount + needed) * 2
            let larger = UnsafeMutableRawPointer.allocate(byteCount: capacity + spansStart, alignment: 8)
            larger.copyMemory(from: storage, byteCount: end)
            storage.deallocate()
            storage = larger
        }
        var place = storage + end
        place = Wire.byte(0x12, at: place)
        place = Wire.varint(UInt64(count), at: place)
        place = Wire.copy(span, count: count, to: place)
        end = place - storage
        spanCount += 1
    }

    /// The request. The parts before the spans are written backwards from them, since their lengths count what follows.
    func body() -> UnsafeRawBufferPointer {
        let scopeSpans = envelope.scope.count + byteCount
        let resourceSpans = envelope.resource.count + 1 + Wire.varintBytes(UInt64(scopeSpans)) + scopeSpans
        let head = 1 + Wire.varintBytes(UInt64(resourceSpans)) + resourceSpans - byteCount
        let start = storage + spansStart - head
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
