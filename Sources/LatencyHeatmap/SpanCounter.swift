import OTLP

/// Spans on their way from a scan to their cells, a few at a time. Each step is done for all of them before the next one, and
/// asks for the memory that the next one needs, so that it is fetched for many spans at once.
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
        /// The trace's last class among the exemplars; -1 if there is no trace.
        var rank: Int32 = -1
        var plane: Unmanaged<OpenPlane>?
        var cell: UnsafeMutablePointer<OpenCell>?
    }

    let pending: UnsafeMutablePointer<Pending>
    /// For each span of the batch and each further view, its group's name.
    var names: [ScannedBytes] = []
    var sketches: [Sketch] = []
    /// The values of interest of the resource and of the span, by key.
    let resourceValues: UnsafeMutablePointer<ScannedBytes>
    let spanValues: UnsafeMutablePointer<ScannedBytes>
    let resourceKeys: Int
    let spanKeys: Int

    init(_ interest: TraceScanInterest) {
        pending = .allocate(capacity: Self.size)
        pending.initialize(repeating: Pending(), count: Self.size)
        resourceKeys = interest.resourceKeys.count
        spanKeys = interest.spanKeys.count
        resourceValues = .allocate(capacity: resourceKeys)
        resourceValues.initialize(repeating: ScannedBytes(), count: resourceKeys)
        spanValues = .allocate(capacity: spanKeys)
        spanValues.initialize(repeating: ScannedBytes(), count: spanKeys)
    }

    deinit {
        pending.deallocate()
        resourceValues.deallocate()
        spanValues.deallocate()
    }
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
    private let filtersAny: Bool
    private let groupPrefix: [UInt8]
    private let none: ScannedBytes
    private let furtherViews: Int

    /// Where the scan's bytes are; taken again when text has been noted.
    private var view: TraceScanView
    private var resource = UInt32.max
    private var isOwn = false
    private var isOtherService = false
    private let resourceValues: UnsafeMutablePointer<ScannedBytes>
    private let spanValues: UnsafeMutablePointer<ScannedBytes>
    private var lastStage = ScannedBytes()
    private var lastStageNumber = -1
    /// Latencies that end in here have a window in the first view, while the lock is held.
    private var accepted: Range<UInt64> = 0..<0

    init(engine: HeatmapEngine, box: ScanPool.Box, groupPrefix: String) {
        self.groupPrefix = Array(groupPrefix.utf8)
        self.engine = engine
        scan = box.scan
        batch = box.batch
        scans = engine.scans
        filter = engine.configuration.filter
        filtersAny = filter != SpanFilter()
        furtherViews = engine.views.count - 1
        resourceValues = batch.resourceValues
        spanValues = batch.spanValues
        none = box.scan.note("(none)")
        view = scan.view
    }

    mutating func count(_ range: Range<Int>, _ state: inout HeatmapState) {
        let before = (counted, discarded)
        accepted = 0..<0
        var at = range.lowerBound
        while at < range.upperBound {
            var held = 0
            batch.sketches.removeAll(keepingCapacity: true)
            batch.names.removeAll(keepingCapacity: true)
            while at < range.upperBound, held < SpanBatch.size {
                if take(view.spans[at], into: &batch.pending[held], &state) { held += 1 }
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
        var key = ScanPool.SpanKey.first
        while key < batch.spanKeys {
            spanValues[key] = ScannedBytes()
            key &+= 1
        }
        for attribute in view.attributes(of: span) {
            let key = Int(attribute.key)
            if key >= ScanPool.SpanKey.first {
                // The first of several is the one that counts.
                guard spanValues[key].count == 0 else { continue }
                if attribute.kind == .string { spanValues[key] = attribute.bytes } else { noteText(attribute, key) }
            } else {
                switch key {
                case ScanPool.SpanKey.stage where attribute.kind == .string: stage = attribute.bytes
                case ScanPool.SpanKey.latency where attribute.kind == .int: latency = attribute.int
                case ScanPool.SpanKey.sketch where attribute.kind == .bytes: sketchBytes = attribute.bytes
                case ScanPool.SpanKey.summarised: isSummarised = attribute.kind == .bool && attribute.bool
                default: break
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
        if !accepted.contains(span.endUnixNano), let refusal = refusal(of: span.endUnixNano, &state) {
            return discard(refusal)
        }
        pending.endUnixNano = span.endUnixNano
        pending.traceIDHigh = span.traceIDHigh
        pending.traceIDLow = span.traceIDLow
        pending.rank =
            span.traceIDHigh | span.traceIDLow == 0
            ? -1 : Int32(truncatingIfNeeded: SlowTrace.rank(high: span.traceIDHigh, low: span.traceIDLow))
        pending.stage = stage.map { Int32(number(ofStage: $0, state)) } ?? Int32(HeatmapEngine.foreignStage)
        pending.name = name(view: 0)
        if furtherViews > 0 { for view in 1...furtherViews { batch.names.append(name(view: view)) } }
        return true
    }

    /// Finds the window of the first view, and remembers from when to when that answer holds.
    @inline(never)
    private mutating func refusal(
        of endUnixNano: UInt64, _ state: inout HeatmapState
    ) -> HeatmapLedger.DiscardReason? {
        if engine.isTooFarAhead(state, endUnixNano) { return .future }
        guard case .success(let plane) = engine.plane(&state, state.views[0], endUnixNano) else { return .expired }
        // What is too far ahead may begin in the middle of a window.
        let latest = engine.maxFutureNano.map { state.nowUnixNano.saturatingAdding($0) } ?? .max
        accepted = plane.startNano..<Swift.max(plane.startNano, Swift.min(plane.endNano, latest))
        return nil
    }

    @inline(never)
    private mutating func noteText(_ attribute: ScannedAttribute, _ key: Int) {
        if let text = scan.text(of: attribute) { spanValues[key] = text }
        view = scan.view
    }

    private mutating func discard(_ reason: HeatmapLedger.DiscardReason) -> Bool {
        discarded[reason, default: 0] += 1
        return false
    }

    private func passes(_ span: ScannedSpan) -> Bool {
        if isOtherService { return false }
        if let kind = filter.kind, span.kind != kind { return false }
        if let name = scans.wantedName, !scan.isEqual(span.name, name) { return false }
        return scans.wanted.allSatisfy { key in
            let own = key.span >= ScanPool.SpanKey.first ? spanValues[key.span] : ScannedBytes()
            return scan.isEqual(own.count > 0 ? own : resourceValues[key.resource], key.value)
        }
    }

    private mutating func use(_ index: UInt32) {
        resource = index
        isOwn = false
        isOtherService = filter.service != nil
        for key in 0..<batch.resourceKeys { resourceValues[key] = ScannedBytes() }
        for attribute in scan.attributes(of: scan.resources[Int(index)]) {
            let key = Int(attribute.key)
            switch key {
            case ScanPool.ResourceKey.instance where attribute.kind == .string:
                if let own = scans.ownInstance, scan.isEqual(attribute.bytes, own) { isOwn = true }
            case ScanPool.ResourceKey.service where attribute.kind == .string:
                if let service = scans.wantedService { isOtherService = !scan.isEqual(attribute.bytes, service) }
            default: break
            }
            if resourceValues[key].count == 0, let text = scan.text(of: attribute) { resourceValues[key] = text }
        }
        view = scan.view
    }

    // MARK: Names

    /// What the group is called in a view; empty if the view does not count it.
    @inline(__always)
    private mutating func name(view: Int) -> ScannedBytes {
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
    private mutating func otherName(_ view: Int) -> ScannedBytes {
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
    private mutating func compose(_ values: [ScannedBytes]) -> ScannedBytes {
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
        view = scan.view
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
        if lastStageNumber >= 0, view.areEqual(stage, lastStage) { return lastStageNumber }
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
        ask(held, view)
        find(held, view, viewNumber, &state)
        for at in 0..<held {
            guard let cell = pending[at].cell, let plane = pending[at].plane else { continue }
            plane._withUnsafeGuaranteedRef { plane in
                let position = plane.scale.position(nanoseconds: pending[at].latency)
                pending[at].position = Int32(truncatingIfNeeded: position)
                plane.prefetchBlock(cell, pending[at].latency, position)
                let rank = Int(pending[at].rank)
                if rank >= 0, OpenCell.isExemplar(cell, pending[at].latency, rank: rank) {
                    OpenCell.prefetchIDs(cell, rank: rank)
                }
            }
        }
        var latencies: UInt64 = 0
        var latest = state.latestUnixNano
        for at in 0..<held {
            guard let cell = pending[at].cell, let plane = pending[at].plane else {
                if viewNumber == 0 { _ = discard(.memory) }
                continue
            }
            let added = plane._withUnsafeGuaranteedRef { insert(pending + at, $0, cell) }
            latencies = latencies.saturatingAdding(added)
            if viewNumber == 0 {
                counted += 1
                latest = Swift.max(latest, pending[at].endUnixNano)
            }
            let isLate = plane._withUnsafeGuaranteedRef { state.nowUnixNano > $0.lateAfterNano }
            if isLate || pending[at].group == 0 {
                plane._withUnsafeGuaranteedRef {
                    engine.noteUnusual(
                        &state, view, $0, cell, group: Int(pending[at].group), added, isFirst: viewNumber == 0)
                }
            }
        }
        if viewNumber == 0 {
            state.ledger.latencies = state.ledger.latencies.saturatingAdding(latencies)
            state.latestUnixNano = latest
        }
    }

    /// Asks for the memory of what the names most likely stand for. Short loops: the processor works on many spans at once.
    @inline(__always)
    private func ask(_ held: Int, _ view: ViewState) {
        let pending = batch.pending
        let groups = view.groups
        for at in 0..<held {
            let hash = groups.hash(self.view.bytes(pending[at].name))
            pending[at].hash = hash
            groups.prefetchSlot(hash)
        }
        guard let plane = view.current else { return }
        for at in 0..<held {
            let group = groups.candidate(pending[at].hash)
            groups.prefetchName(group)
            plane.prefetchEntry(group: group, stage: Int(pending[at].stage))
        }
        for at in 0..<held {
            plane.prefetchCell(group: groups.candidate(pending[at].hash), stage: Int(pending[at].stage))
        }
    }

    /// The cells, which are made where there are none.
    @inline(__always)
    private func find(_ held: Int, _ view: ViewState, _ viewNumber: Int, _ state: inout HeatmapState) {
        let pending = batch.pending
        let groups = view.groups
        let isShort = state.isShort
        // The view's windows hold them while the lock is held.
        var plane = view.current.map(Unmanaged.passUnretained)
        var (from, until) = plane?._withUnsafeGuaranteedRef { ($0.startNano, $0.endNano) } ?? (0, 0)
        for at in 0..<held {
            pending[at].cell = nil
            pending[at].plane = nil
            if viewNumber > 0, pending[at].name.count == 0 { continue }
            let name = self.view.bytes(pending[at].name)
            let group = groups.find(name, pending[at].hash) ?? groups.add(name, pending[at].hash)
            pending[at].group = Int32(truncatingIfNeeded: group)
            let end = pending[at].endUnixNano
            if end < from || end >= until {
                guard case .success(let other) = engine.plane(&state, view, end) else { continue }
                plane = .passUnretained(other)
                (from, until) = (other.startNano, other.endNano)
            }
            guard let plane else { continue }
            pending[at].plane = plane
            pending[at].cell = plane._withUnsafeGuaranteedRef {
                engine.cell(view, $0, group: group, stage: Int(pending[at].stage), isShort: isShort)
            }
        }
    }

    /// How many latencies have been counted.
    @inline(__always)
    private func insert(
        _ pending: UnsafeMutablePointer<SpanBatch.Pending>, _ plane: OpenPlane, _ cell: UnsafeMutablePointer<OpenCell>
    ) -> UInt64 {
        if pending.pointee.rank >= 0 {
            OpenCell.note(
                cell, pending.pointee.latency, pending.pointee.traceIDHigh, pending.pointee.traceIDLow,
                rank: Int(pending.pointee.rank))
        }
        if pending.pointee.sketch < 0 {
            plane.insert(cell, pending.pointee.latency, position: Int(pending.pointee.position))
            return 1
        }
        let sketch = batch.sketches[Int(pending.pointee.sketch)]
        plane.merge(cell, sketch)
        return sketch.count
    }
}
