import OTLP

/// Spans on their way from a scan to their cells, a few at a time. Each step is done for all of them before the next one, so
/// that the memory which a step touches is fetched for several spans at once.
final class SpanBatch {
    static let size = 64

    struct Pending {
        var endUnixNano: UInt64 = 0
        var latency: UInt64 = 0
        var traceIDHigh: UInt64 = 0
        var traceIDLow: UInt64 = 0
        var name = ScannedBytes()
        var hash: UInt32 = 0
        var stage: Int32 = 0
        var group: Int32 = 0
        /// Where the latency is counted.
        var position: Int32 = 0
        /// Of the batch's sketches; -1 for a single latency.
        var sketch: Int32 = -1
        var isCounted = false
        var plane: Unmanaged<OpenPlane>?
        var cell: UnsafeMutablePointer<OpenCell>?
    }

    let pending: UnsafeMutablePointer<Pending>
    /// For each span of the batch and each further view, its group's name.
    var names: [ScannedBytes] = []
    var sketches: [Sketch] = []
    /// What is read only for its memory to be there soon, kept so that it is read.
    var touched: UInt32 = 0

    init() {
        pending = .allocate(capacity: Self.size)
        pending.initialize(repeating: Pending(), count: Self.size)
    }

    deinit { pending.deallocate() }
}

/// Counts the spans of one request.
struct SpanCounter {
    let engine: HeatmapEngine
    let scan: TraceScan
    let batch: SpanBatch
    var counted: UInt64 = 0
    var discarded: [HeatmapLedger.DiscardReason: UInt64] = [:]

    private let scans: ScanPool
    private let filter: SpanFilter
    private let filteredName: [UInt8]?
    private let filtersAny: Bool
    private let groupPrefix: [UInt8]
    private let ownInstance: [UInt8]?
    private let none: ScannedBytes
    private let furtherViews: Int

    private var resource = UInt32.max
    private var isOwn = false
    private var isOtherService = false
    /// The values of interest of the resource and of the span, by key.
    private var resourceValues: [ScannedBytes]
    private var spanValues: [ScannedBytes]
    private var lastStage = ScannedBytes()
    private var lastStageNumber = -1

    init(engine: HeatmapEngine, box: ScanPool.Box, groupPrefix: String) {
        self.groupPrefix = Array(groupPrefix.utf8)
        self.engine = engine
        scan = box.scan
        batch = box.batch
        scans = engine.scans
        filter = engine.configuration.filter
        filteredName = filter.name.map { Array($0.utf8) }
        filtersAny = filter != SpanFilter()
        ownInstance = engine.configuration.ownInstanceID.map { Array($0.utf8) }
        furtherViews = engine.views.count - 1
        resourceValues = Array(repeating: ScannedBytes(), count: engine.scans.scanner.interest.resourceKeys.count)
        spanValues = Array(repeating: ScannedBytes(), count: engine.scans.scanner.interest.spanKeys.count)
        none = box.scan.note("(none)")
    }

    mutating func count(_ range: Range<Int>, _ state: inout HeatmapState) {
        let before = (counted, discarded)
        var at = range.lowerBound
        while at < range.upperBound {
            var held = 0
            batch.sketches.removeAll(keepingCapacity: true)
            batch.names.removeAll(keepingCapacity: true)
            while at < range.upperBound, held < SpanBatch.size {
                if take(scan.spans[at], into: &batch.pending[held], &state) { held += 1 }
                at += 1
            }
            for view in 0...furtherViews { place(held, view, &state) }
        }
        state.ledger.received += UInt64(range.count)
        state.ledger.counted += counted - before.0
        for (reason, count) in discarded { state.ledger.discard(reason, count - before.1[reason, default: 0]) }
    }

    // MARK: What a span says

    /// Fills `pending`, or discards the span.
    @inline(__always)
    private mutating func take(
        _ span: ScannedSpan, into pending: inout SpanBatch.Pending, _ state: inout HeatmapState
    ) -> Bool {
        if span.resource != resource { use(span.resource) }
        if isOwn { return discard(.own) }

        var stage: ScannedBytes?
        var latency: Int64 = -1
        var sketchBytes: ScannedBytes?
        var isSummarised = false
        let keys = spanValues.count
        spanValues.withUnsafeMutableBufferPointer { values in
            for key in ScanPool.SpanKey.first..<keys { values[key] = ScannedBytes() }
            for attribute in scan.attributes(of: span) {
                let key = Int(attribute.key)
                if key >= ScanPool.SpanKey.first {
                    // The first of several is the one that counts.
                    if values[key].count == 0, let text = scan.text(of: attribute) { values[key] = text }
                } else {
                    switch key {
                    case ScanPool.SpanKey.stage where attribute.kind == .string: stage = attribute.bytes
                    case ScanPool.SpanKey.latency where attribute.kind == .int: latency = attribute.int
                    case ScanPool.SpanKey.sketch where attribute.kind == .bytes: sketchBytes = attribute.bytes
                    case ScanPool.SpanKey.summarised:
                        isSummarised = attribute.kind == .bool && attribute.bool
                    default: break
                    }
                }
            }
        }
        if filtersAny, !passes(span) { return discard(.filtered) }
        if isSummarised { return discard(.summarised) }
        guard span.endUnixNano > 0 else { return discard(.noLatency) }
        pending.sketch = -1
        if let sketchBytes {
            guard let sketch = Sketch(encoded: scan.bytes(sketchBytes)), !sketch.isEmpty else {
                return discard(.badSketch)
            }
            pending.sketch = Int32(batch.sketches.count)
            pending.latency = sketch.max
            batch.sketches.append(sketch)
        } else if latency >= 0 {
            pending.latency = UInt64(latency)
        } else if span.endUnixNano >= span.startUnixNano, span.startUnixNano > 0 {
            pending.latency = span.endUnixNano - span.startUnixNano
        } else {
            return discard(.noLatency)
        }
        // Before the names get their numbers: there is room for so many groups, and none is for what is not counted.
        if engine.isTooFarAhead(state, span.endUnixNano) { return discard(.future) }
        if case .failure = engine.plane(&state, state.views[0], span.endUnixNano) { return discard(.expired) }
        pending.endUnixNano = span.endUnixNano
        pending.traceIDHigh = span.traceIDHigh
        pending.traceIDLow = span.traceIDLow
        pending.stage = stage.map { Int32(number(ofStage: $0, state)) } ?? Int32(HeatmapEngine.foreignStage)
        pending.name = name(view: 0)
        if furtherViews > 0 { for view in 1...furtherViews { batch.names.append(name(view: view)) } }
        return true
    }

    private mutating func discard(_ reason: HeatmapLedger.DiscardReason) -> Bool {
        discarded[reason, default: 0] += 1
        return false
    }

    private func passes(_ span: ScannedSpan) -> Bool {
        if isOtherService { return false }
        if let kind = filter.kind, span.kind != kind { return false }
        if let filteredName, !scan.isEqual(span.name, filteredName) { return false }
        return scans.wanted.allSatisfy { key in
            let own = key.span >= ScanPool.SpanKey.first ? spanValues[key.span] : ScannedBytes()
            return scan.isEqual(own.count > 0 ? own : resourceValues[key.resource], key.value)
        }
    }

    private mutating func use(_ index: UInt32) {
        resource = index
        isOwn = false
        isOtherService = filter.service != nil
        for key in resourceValues.indices { resourceValues[key] = ScannedBytes() }
        for attribute in scan.attributes(of: scan.resources[Int(index)]) {
            let key = Int(attribute.key)
            switch key {
            case ScanPool.ResourceKey.instance where attribute.kind == .string:
                if let ownInstance, scan.isEqual(attribute.bytes, ownInstance) { isOwn = true }
            case ScanPool.ResourceKey.service where attribute.kind == .string:
                if let service = filter.service { isOtherService = !scan.isEqual(attribute.bytes, Array(service.utf8)) }
            default: break
            }
            if resourceValues[key].count == 0, let text = scan.text(of: attribute) { resourceValues[key] = text }
        }
    }

    // MARK: Names

    /// What the group is called in a view; empty if the view does not count it.
    @inline(__always)
    private func name(view: Int) -> ScannedBytes {
        if view == 0 {
            let keys = scans.viewKeys[0]
            for key in keys {
                let value = value(key)
                if value.count > 0 {
                    return value.count <= HeatmapEngine.maxGroupBytes && groupPrefix.isEmpty
                        ? value : compose([value])
                }
            }
            return groupPrefix.isEmpty ? none : compose([none])
        }
        return otherName(view)
    }

    @inline(__always)
    private func value(_ key: (span: Int, resource: Int)) -> ScannedBytes {
        // A key of the fixed ones is looked for among the resource's only.
        let own = key.span >= ScanPool.SpanKey.first ? spanValues[key.span] : ScannedBytes()
        return own.count > 0 ? own : resourceValues[key.resource]
    }

    @inline(never)
    private func otherName(_ view: Int) -> ScannedBytes {
        var values: [ScannedBytes] = []
        for key in scans.viewKeys[view] {
            let value = value(key)
            guard value.count > 0 else { return ScannedBytes() }
            values.append(value)
        }
        return compose(values)
    }

    /// Prefix and values, with a separator between two of them, which values themselves do not have.
    @inline(never)
    private func compose(_ values: [ScannedBytes]) -> ScannedBytes {
        let start = scan.noteStart()
        for byte in groupPrefix { scan.note(byte) }
        for (number, value) in values.enumerated() {
            if number > 0 { scan.note(HeatmapView.separator) }
            for at in 0..<clipped(value) {
                // Looked up each time: noting a byte may move what has been noted before.
                let byte = scan.bytes(value)[at]
                scan.note(values.count > 1 && byte == HeatmapView.separator ? 0x20 : byte)
            }
        }
        return scan.noted(from: start)
    }

    /// Cut between characters, not inside of one.
    private func clipped(_ value: ScannedBytes) -> Int {
        guard value.count > HeatmapEngine.maxGroupBytes else { return value.count }
        let name = scan.bytes(value)
        var end = HeatmapEngine.maxGroupBytes
        // A character has at most three bytes after its first; more are none, and may be cut anywhere.
        while end > HeatmapEngine.maxGroupBytes - 3, name[end] & 0xC0 == 0x80 { end -= 1 }
        return end
    }

    @inline(__always)
    private mutating func number(ofStage stage: ScannedBytes, _ state: HeatmapState) -> Int {
        if lastStageNumber >= 0, scan.areEqual(stage, lastStage) { return lastStageNumber }
        lastStage = stage
        lastStageNumber = state.stages.number(
            UnsafeRawBufferPointer(rebasing: scan.bytes(stage)[..<clipped(stage)]))
        return lastStageNumber
    }

    // MARK: Into the cells

    /// Counts a batch in one view.
    private mutating func place(_ held: Int, _ viewNumber: Int, _ state: inout HeatmapState) {
        guard held > 0 else { return }
        let view = state.views[viewNumber]
        let pending = batch.pending
        if viewNumber > 0 {
            for at in 0..<held { pending[at].name = batch.names[at * furtherViews + viewNumber - 1] }
        }
        let groups = view.groups
        // Short loops that do nothing but read: the processor fetches for many spans at once only what it can see ahead.
        var touched: UInt32 = 0
        for at in 0..<held { pending[at].hash = groups.hash(scan.bytes(pending[at].name)) }
        for at in 0..<held { touched &+= groups.touchSlot(pending[at].hash) }
        for at in 0..<held { touched &+= groups.touchName(pending[at].hash) }
        for at in 0..<held {
            guard viewNumber == 0 || pending[at].name.count > 0 else {
                pending[at].plane = nil
                continue
            }
            let name = scan.bytes(pending[at].name)
            pending[at].group = Int32(groups.find(name, pending[at].hash) ?? groups.add(name, pending[at].hash))
            guard case .success(let plane) = engine.plane(&state, view, pending[at].endUnixNano) else {
                pending[at].plane = nil
                continue
            }
            pending[at].plane = .passUnretained(plane)
        }
        for at in 0..<held {
            pending[at].cell = nil
            guard let plane = pending[at].plane else { continue }
            pending[at].cell = plane._withUnsafeGuaranteedRef { plane in
                engine.cell(&state, plane, group: Int(pending[at].group), stage: Int(pending[at].stage))
            }
        }
        for at in 0..<held { if let cell = pending[at].cell { touched &+= UInt32(cell.pointee.flags) } }
        for at in 0..<held {
            pending[at].position = Int32(
                truncatingIfNeeded: BucketScale.position(nanoseconds: pending[at].latency))
        }
        for at in 0..<held {
            guard let cell = pending[at].cell else { continue }
            touched &+= OpenPlane.slot(cell, Int(pending[at].position))?.pointee ?? 0
        }
        batch.touched = touched
        for at in 0..<held { insert(pending + at, view, viewNumber, &state) }
    }

    @inline(__always)
    private mutating func insert(
        _ pending: UnsafeMutablePointer<SpanBatch.Pending>, _ view: ViewState, _ viewNumber: Int,
        _ state: inout HeatmapState
    ) {
        guard let cell = pending.pointee.cell, let plane = pending.pointee.plane else {
            if viewNumber == 0 { _ = discard(.memory) }
            return
        }
        plane._withUnsafeGuaranteedRef { plane in
            var added: UInt64 = 1
            if pending.pointee.sketch < 0 {
                plane.insert(cell, pending.pointee.latency, position: Int(pending.pointee.position))
            } else {
                let sketch = batch.sketches[Int(pending.pointee.sketch)]
                plane.merge(cell, sketch)
                added = sketch.count
            }
            if pending.pointee.traceIDHigh | pending.pointee.traceIDLow != 0 {
                OpenCell.note(
                    cell, pending.pointee.latency, pending.pointee.traceIDHigh, pending.pointee.traceIDLow)
            }
            engine.note(
                &state, view, plane, cell, group: Int(pending.pointee.group), added, isFirst: viewNumber == 0)
        }
        if viewNumber == 0 {
            counted += 1
            if pending.pointee.endUnixNano > state.latestUnixNano { state.latestUnixNano = pending.pointee.endUnixNano }
        }
    }
}
