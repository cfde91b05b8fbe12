import OTLP
import Synchronization

/// What became of one request's spans, or of its metrics' points.
public struct IngestResult: Sendable, Equatable {
    public var received: UInt64 = 0
    public var counted: UInt64 = 0
    /// What the sender could do better next time; none of it is lost on the way, all of it is in the ledger.
    public var discarded: [HeatmapLedger.DiscardReason: UInt64] = [:]
}

/// Scanners and their memory, one for each request that is being read.
final class ScanPool: Sendable {
    static let maxIdle = 4
    /// A scan that has grown beyond this is not kept.
    static let maxIdleBytes = 16 << 20

    enum SpanKey { static let stage = 0, latency = 1, sketch = 2, summarised = 3, first = 4 }
    enum ResourceKey { static let instance = 0, service = 1 }

    let scanner: TraceRequestScanner
    let metricsScanner: MetricsRequestScanner
    /// For each view, where the values of its attributes are among those of a span and of a resource.
    let viewKeys: [[(span: Int, resource: Int)]]
    /// What a span or its resource must have.
    let wanted: [(span: Int, resource: Int, value: [UInt8])]
    private let idle = Mutex<[Box]>([])

    /// The service's name that a span's resource must have.
    let wantedService: [UInt8]?
    /// The span's own name that it must have.
    let wantedName: [UInt8]?
    let ownInstance: [UInt8]?

    final class Box: @unchecked Sendable {  // used by whoever has taken it from the pool
        let scan = TraceScan()
        let batch: SpanBatch

        init(_ interest: TraceScanInterest) { batch = SpanBatch(interest) }
    }

    init(configuration: HeatmapConfiguration, views: [HeatmapView]) {
        var spanKeys = ["isotherm.stage", "isotherm.latency_ns", "isotherm.latency_sketch", "isotherm.summarised"]
        var resourceKeys = ["service.instance.id", "service.name"]
        func place(_ name: String) -> (span: Int, resource: Int) {
            if !spanKeys.contains(name) { spanKeys.append(name) }
            if !resourceKeys.contains(name) { resourceKeys.append(name) }
            return (spanKeys.firstIndex(of: name) ?? 0, resourceKeys.firstIndex(of: name) ?? 0)
        }
        viewKeys = views.map { $0.attributes.map(place) }
        wanted = configuration.filter.attributes.map { key, value in
            let place = place(key)
            return (place.span, place.resource, Array(value.utf8))
        }
        wantedService = configuration.filter.service.map { Array($0.utf8) }
        wantedName = configuration.filter.name.map { Array($0.utf8) }
        ownInstance = configuration.ownInstanceID.map { Array($0.utf8) }
        let interest = TraceScanInterest(spanKeys: spanKeys, resourceKeys: resourceKeys)
        scanner = TraceRequestScanner(interest: interest)
        metricsScanner = MetricsRequestScanner(interest: interest, maxBuckets: Sketch.maxImportedBuckets)
    }

    func take() -> Box { idle.withLock { $0.popLast() } ?? Box(scanner.interest) }

    func give(_ box: Box) {
        guard box.scan.retainedBytes <= Self.maxIdleBytes else { return }
        idle.withLock { if $0.count < Self.maxIdle { $0.append(box) } }
    }
}

extension HeatmapEngine {
    /// Longest group name, in bytes; the rest is cut off.
    static let maxGroupBytes = 128

    /// Counts the spans of an `ExportTraceServiceRequest`. When it throws, none of them has been counted.
    ///
    /// - Parameter groupPrefix: put before each group's name, to keep several senders' groups apart.
    @discardableResult
    public func ingest(
        protobuf message: UnsafeRawBufferPointer, groupPrefix: String = ""
    ) throws(OTLPDecodingError) -> IngestResult {
        let box = scans.take()
        defer { scans.give(box) }
        try scans.scanner.scan(protobuf: message, into: box.scan)
        return count(box, message, groupPrefix)
    }

    /// The same for OTLP/JSON.
    @discardableResult
    public func ingest(
        json message: UnsafeRawBufferPointer, groupPrefix: String = ""
    ) throws(OTLPDecodingError) -> IngestResult {
        let box = scans.take()
        defer { scans.give(box) }
        try scans.scanner.scan(json: message, into: box.scan)
        return count(box, message, groupPrefix)
    }

    @discardableResult
    public func ingest(
        protobuf message: [UInt8], groupPrefix: String = ""
    ) throws(OTLPDecodingError) -> IngestResult {
        try message.withUnsafeBytes { bytes in
            Result { () throws(OTLPDecodingError) in try ingest(protobuf: bytes, groupPrefix: groupPrefix) }
        }.get()
    }

    @discardableResult
    public func ingest(
        json message: [UInt8], groupPrefix: String = ""
    ) throws(OTLPDecodingError) -> IngestResult {
        try message.withUnsafeBytes { bytes in
            Result { () throws(OTLPDecodingError) in try ingest(json: bytes, groupPrefix: groupPrefix) }
        }.get()
    }

    private func count(_ box: ScanPool.Box, _ message: UnsafeRawBufferPointer, _ groupPrefix: String) -> IngestResult {
        let now = configuration.now()
        let scan = box.scan
        var result = IngestResult(received: UInt64(scan.spanCount))
        if isRepeated(message, groupPrefix, now: now, count: result.received, in: \.ledger) {
            result.discarded[.duplicate] = result.received
            return result
        }
        var counter = SpanCounter(engine: self, box: box, groupPrefix: groupPrefix)
        var start = 0
        // In portions, so that a large request does not keep deliveries waiting for the lock.
        while start < scan.spanCount {
            let end = min(start + 1_024, scan.spanCount)
            locked { state in
                state.nowUnixNano = now
                counter.count(start..<end, &state)
            }
            start = end
        }
        result.counted = counter.counted
        result.discarded = counter.discarded
        return result
    }

    /// Whether a request came before; then all that it holds is discarded.
    func isRepeated(
        _ message: UnsafeRawBufferPointer, _ groupPrefix: String, now: UInt64, count: UInt64,
        in ledger: WritableKeyPath<HeatmapState, HeatmapLedger>
    ) -> Bool {
        guard duplicates.isOn, count > 0 else { return false }
        let fingerprint = duplicates.fingerprint(message, sender: groupPrefix)
        guard duplicates.isRepeated(fingerprint, now: now) else { return false }
        locked { state in
            state[keyPath: ledger].received += count
            state[keyPath: ledger].discard(.duplicate, count)
        }
        return true
    }
}
