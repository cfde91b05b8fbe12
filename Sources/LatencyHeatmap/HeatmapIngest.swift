import OTLP
import Synchronization

/// What became of one request's spans.
public struct IngestResult: Sendable, Equatable {
    public var received: UInt64 = 0
    public var counted: UInt64 = 0
}

/// Scanners and their memory, one for each request that is being read.
final class ScanPool: Sendable {
    static let maxIdle = 4
    /// A scan that has grown beyond this is not kept.
    static let maxIdleBytes = 16 << 20

    enum SpanKey { static let stage = 0, latency = 1, sketch = 2, summarised = 3 }
    enum ResourceKey { static let instance = 0, service = 1 }

    let scanner: TraceRequestScanner
    /// For each key that is looked for, how well it names the group: smaller is better, `noRank` not at all. The span's
    /// own attribute is closer than its resource's of the same name.
    let spanRanks: [Int]
    let resourceRanks: [Int]
    static let noRank = Int.max
    private let idle = Mutex<[Box]>([])

    final class Box: @unchecked Sendable {  // used by whoever has taken it from the pool
        let scan = TraceScan()
    }

    init(configuration: HeatmapConfiguration) {
        var spanKeys = ["isotherm.stage", "isotherm.latency_ns", "isotherm.latency_sketch", "isotherm.summarised"]
        var resourceKeys = ["service.instance.id", "service.name"]
        for name in configuration.groupBy {
            if !spanKeys.contains(name) { spanKeys.append(name) }
            if !resourceKeys.contains(name) { resourceKeys.append(name) }
        }
        func ranks(_ keys: [String], _ offset: Int) -> [Int] {
            keys.map { key in configuration.groupBy.firstIndex(of: key).map { $0 * 2 + offset } ?? Self.noRank }
        }
        spanRanks = ranks(spanKeys, 0)
        resourceRanks = ranks(resourceKeys, 1)
        scanner = TraceRequestScanner(interest: TraceScanInterest(spanKeys: spanKeys, resourceKeys: resourceKeys))
    }

    func take() -> Box { idle.withLock { $0.popLast() } ?? Box() }

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
        return count(box.scan, groupPrefix)
    }

    /// The same for OTLP/JSON.
    @discardableResult
    public func ingest(
        json message: UnsafeRawBufferPointer, groupPrefix: String = ""
    ) throws(OTLPDecodingError) -> IngestResult {
        let box = scans.take()
        defer { scans.give(box) }
        try scans.scanner.scan(json: message, into: box.scan)
        return count(box.scan, groupPrefix)
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

    private func count(_ scan: TraceScan, _ groupPrefix: String) -> IngestResult {
        let now = configuration.now()
        let before = UInt64(scan.spanCount)
        var start = 0
        var counted: UInt64 = 0
        // In portions, so that a large request does not keep deliveries waiting for the lock.
        while start < scan.spanCount {
            let end = min(start + 1_024, scan.spanCount)
            locked { state in
                state.nowUnixNano = now
                var tally = SpanCounter(engine: self, scan: scan, groupPrefix: groupPrefix)
                for index in start..<end { tally.count(scan.spans[index], &state) }
                state.ledger.received += UInt64(end - start)
                state.ledger.counted += tally.counted
                counted += tally.counted
            }
            start = end
        }
        return IngestResult(received: before, counted: counted)
    }
}

/// Spans of one request, with what neighbours share looked up once.
private struct SpanCounter {
    let engine: HeatmapEngine
    let scan: TraceScan
    var counted: UInt64 = 0

    private let filter: SpanFilter
    private let filteredName: [UInt8]?
    private let groupPrefix: [UInt8]
    private let ownInstance: [UInt8]?

    private var resource = UInt32.max
    private var isOwn = false
    private var isOtherService = false
    private var resourceGroup = ScannedBytes()
    private var resourceGroupRank = ScanPool.noRank
    private var lastGroup = ScannedBytes()
    private var lastGroupNumber = -1
    private var lastStage = ScannedBytes()
    private var lastStageNumber = -1

    init(engine: HeatmapEngine, scan: TraceScan, groupPrefix: String) {
        self.groupPrefix = Array(groupPrefix.utf8)
        self.engine = engine
        self.scan = scan
        filter = engine.configuration.filter
        filteredName = filter.name.map { Array($0.utf8) }
        ownInstance = engine.configuration.ownInstanceID.map { Array($0.utf8) }
    }

    mutating func count(_ span: ScannedSpan, _ state: inout HeatmapEngine.State) {
        if span.resource != resource { use(span.resource) }
        if isOwn { return discard(.own, &state) }
        if !passes(span) { return discard(.filtered, &state) }

        var stage: ScannedBytes?
        var latency: Int64?
        var sketchBytes: ScannedBytes?
        var group = resourceGroup
        var rank = resourceGroupRank
        var isSummarised = false
        for attribute in scan.attributes(of: span) {
            let key = Int(attribute.key)
            switch key {
            case ScanPool.SpanKey.stage where attribute.kind == .string: stage = attribute.bytes
            case ScanPool.SpanKey.latency where attribute.kind == .int: latency = attribute.int
            case ScanPool.SpanKey.sketch where attribute.kind == .bytes: sketchBytes = attribute.bytes
            case ScanPool.SpanKey.summarised: isSummarised = attribute.kind == .bool && attribute.bool
            default: break
            }
            if engine.scans.spanRanks[key] < rank, let text = scan.text(of: attribute), text.count > 0 {
                (group, rank) = (text, engine.scans.spanRanks[key])
            }
        }
        if isSummarised { return discard(.summarised, &state) }
        guard span.endUnixNano > 0 else { return discard(.noLatency, &state) }

        var sketch: Sketch?
        var nanoseconds: UInt64 = 0
        if let sketchBytes {
            guard let decoded = Sketch(encoded: scan.bytes(sketchBytes)), !decoded.isEmpty else {
                return discard(.badSketch, &state)
            }
            sketch = decoded
        } else if let latency, latency >= 0 {
            nanoseconds = UInt64(latency)
        } else if span.endUnixNano >= span.startUnixNano, span.startUnixNano > 0 {
            nanoseconds = span.endUnixNano - span.startUnixNano
        } else {
            return discard(.noLatency, &state)
        }
        // Before the names get their numbers: there is room for so many groups, and none is for what is not counted.
        switch engine.admit(&state, span.endUnixNano) {
        case nil: break
        case .future: return discard(.future, &state)
        case .expired: return discard(.expired, &state)
        }
        let groupNumber = number(ofGroup: group, &state)
        let stageNumber = stage.map { number(ofStage: $0, &state) } ?? HeatmapEngine.foreignStage
        engine.update(&state, stageNumber, groupNumber, span.endUnixNano, sketch?.count ?? 1) { cell in
            if let sketch {
                cell.sketch.merge(sketch)
                note(span, sketch.max, &cell)
            } else {
                cell.sketch.insert(nanoseconds: nanoseconds)
                note(span, nanoseconds, &cell)
            }
        }
        counted += 1
    }

    @inline(__always)
    private func note(_ span: ScannedSpan, _ latency: UInt64, _ cell: inout CellContent) {
        guard span.traceIDHigh | span.traceIDLow != 0 else { return }
        cell.note(SlowTrace(latencyNano: latency, high: span.traceIDHigh, low: span.traceIDLow))
    }

    private func discard(_ reason: HeatmapLedger.DiscardReason, _ state: inout HeatmapEngine.State) {
        state.ledger.discarded[reason, default: 0] += 1
    }

    private func passes(_ span: ScannedSpan) -> Bool {
        if isOtherService { return false }
        if let kind = filter.kind, span.kind != kind { return false }
        if let filteredName, !scan.isEqual(span.name, filteredName) { return false }
        return true
    }

    private mutating func use(_ index: UInt32) {
        resource = index
        isOwn = false
        isOtherService = filter.service != nil
        resourceGroup = ScannedBytes()
        resourceGroupRank = ScanPool.noRank
        for attribute in scan.attributes(of: scan.resources[Int(index)]) {
            let key = Int(attribute.key)
            switch key {
            case ScanPool.ResourceKey.instance where attribute.kind == .string:
                if let ownInstance, scan.isEqual(attribute.bytes, ownInstance) { isOwn = true }
            case ScanPool.ResourceKey.service where attribute.kind == .string:
                if let service = filter.service { isOtherService = !scan.isEqual(attribute.bytes, Array(service.utf8)) }
            default: break
            }
            if engine.scans.resourceRanks[key] < resourceGroupRank, let text = scan.text(of: attribute), text.count > 0
            {
                (resourceGroup, resourceGroupRank) = (text, engine.scans.resourceRanks[key])
            }
        }
    }

    @inline(__always)
    private mutating func number(ofGroup group: ScannedBytes, _ state: inout HeatmapEngine.State) -> Int {
        if lastGroupNumber >= 0, scan.areEqual(group, lastGroup) { return lastGroupNumber }
        lastGroup = group
        if groupPrefix.isEmpty, group.count > 0 {
            lastGroupNumber = state.groups.number(clipped(scan.bytes(group)))
        } else {
            let name = group.count > 0 ? Array(clipped(scan.bytes(group))) : Array("(none)".utf8)
            lastGroupNumber = (groupPrefix + name).withUnsafeBytes { state.groups.number($0) }
        }
        return lastGroupNumber
    }

    private mutating func number(ofStage stage: ScannedBytes, _ state: inout HeatmapEngine.State) -> Int {
        if lastStageNumber >= 0, scan.areEqual(stage, lastStage) { return lastStageNumber }
        lastStage = stage
        lastStageNumber = state.stages.number(clipped(scan.bytes(stage)))
        return lastStageNumber
    }

    /// Cut between characters, not inside of one.
    private func clipped(_ name: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer {
        guard name.count > HeatmapEngine.maxGroupBytes else { return name }
        var end = HeatmapEngine.maxGroupBytes
        // A character has at most three bytes after its first; more are none, and may be cut anywhere.
        while end > HeatmapEngine.maxGroupBytes - 3, name[end] & 0xC0 == 0x80 { end -= 1 }
        return UnsafeRawBufferPointer(rebasing: name[..<end])
    }
}
