import OTLP

extension Tracer {
    /// Records spans that are as `model` is now, but for their ids and for what differs: the same parent, kind, name and
    /// start, and the same attributes. For many that begin and end together, such as one event's deliveries: what they share
    /// is written once, and they go to the next request without a place in the thread's queue.
    ///
    /// The sampler's decision on the model holds for all. Takes the collector's lock once for some hundred spans.
    ///
    ///     let recorded = tracer.recordSpans(like: model, count: devices.count) { index in
    ///         model.setAttribute("device.id", devices[index])
    ///         return ends[index]
    ///     }
    ///
    /// - Parameter count: how many are wanted.
    /// - Parameter describe: sets on `model` what span number so many has for itself, and returns when that ended. What it
    ///   sets is gone before the next. Nothing but attributes, and no end.
    /// - Returns: how many were recorded. All, or fewer where this cannot be done: the sampler wants to see each span, the
    ///   model is not recorded, has a trace state or has outgrown its place, spans are observed, or the exporter has no
    ///   room. The rest is started one by one. The model itself is still live, and described as the next one may be.
    public func recordSpans(like model: Span, count: Int, _ describe: (Int) -> Instant) -> Int {
        guard count > 0, core.path == .simple, let slot = model.slot, model.isRecording, slot.pointee.extras == nil,
            model.traceState == nil, slot.pointee.slab.pointee.owner == core.collectorID
        else { return 0 }
        let slab = core.slab()
        let shared = SpanFields.Shared(slot)
        let largest = SpanBuffer.overhead + SpanSlot.slotBytes
        let most = core.collector.maxBlockSpans
        let capacity = min(count, most, SpanBlock.maxBytes / largest) * largest
        return withUnsafeTemporaryAllocation(byteCount: capacity, alignment: 8) { memory in
            var recorded = 0
            while recorded < count {
                var block = SpanBlock(memory)
                while block.count < min(most, count - recorded), block.bytes + largest <= memory.count {
                    shared.begin(slot, wireID: slab.pointee.ids.nextNonZero())
                    let end = describe(recorded + block.count)
                    guard slot.pointee.extras == nil, model.isRecording else { break }
                    SpanFields.finish(slot, nil, end.unixNano)
                    block.append(SpanSlot.inlineBytes(slot), count: Int(slot.pointee.count))
                }
                guard block.count > 0, core.collector.take(block, scope: slot.pointee.scope, from: slab) else { break }
                recorded += block.count
                guard slot.pointee.extras == nil, model.isRecording else { break }
            }
            if slot.pointee.extras == nil {
                shared.begin(slot, wireID: model.wireID)
            } else {
                // It has outgrown its place by what the next one has for itself, and is to be described as that anyway.
                SpanSlot.bytes(slot).storeBytes(
                    of: model.wireID, toByteOffset: SpanSlot.spanIDOffset, as: UInt64.self)
            }
            return recorded
        }
    }
}

/// Ended spans as they stand in a request, on their way there.
struct SpanBlock {
    /// Little enough to stay near the processor.
    static let maxBytes = 64 * 1024

    let memory: UnsafeMutableRawBufferPointer
    private(set) var bytes = 0
    private(set) var count = 0

    init(_ memory: UnsafeMutableRawBufferPointer) { self.memory = memory }

    /// There is room for tag, length and span.
    @inline(__always)
    mutating func append(_ span: UnsafeRawPointer, count spanBytes: Int) {
        let start = memory.baseAddress.unsafelyUnwrapped
        bytes = SpanBuffer.write(span, count: spanBytes, at: start + bytes) - start
        count &+= 1
    }
}
