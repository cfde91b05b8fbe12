import Synchronization

extension HeatmapEngine {
    /// Packs windows that are over, joins those that have become old, forgets the oldest, and keeps within the memory that
    /// the settings allow. Nobody who counts waits for it.
    public func maintain() {
        let now = configuration.now()
        let second = Int64(now / 1_000_000_000)
        upkeep.withLock { kept in
            let store = kept.store
            locked { state in
                // The last tier's border is where its windows are forgotten.
                let last = plan.tiers.count - 1
                state.borders[last] = Swift.max(state.borders[last], plan.border(tier: last, now: second))
            }
            for position in views.indices {
                forget(position, store)
                pack(position, now: now, store)
                for tier in plan.tiers.indices.dropLast() { rollUp(position, tier, now: second, store) }
            }
            keepWithinMemory(store)
            reclaimNames(store)
        }
        addClosedToTotals()
    }

    /// Groups that no window has any more make room for new ones, when little is left; their totals go with them.
    private func reclaimNames(_ store: HeatmapStore?) {
        runningTotals.sum.withLock { sum in
            let (freed, closed) = locked { state in
                let freed = state.views.map { $0.groups.reclaim(oldest: $0.slots.keys.min() ?? .max) }
                if store == nil { for view in state.views { view.groups.forgetChanged(view.groups.changed.count) } }
                guard freed.contains(where: { !$0.isEmpty }) else { return (freed, [OpenPlane]()) }
                state.reclaims += 1
                // Of what has been taken out of windows nothing may stay behind that goes by the old numbers.
                defer { state.closed = [] }
                return (freed, state.closed)
            }
            for (view, numbers) in freed.enumerated() where !numbers.isEmpty { store?.free(numbers, view: view) }
            add(closed, to: &sum)
            if let whole = sum, let gone = freed.first.map(Set.init), !gone.isEmpty {
                sum = whole.without { gone.contains(Int($0 >> 6)) }
            }
        }
    }

    private func forget(_ position: Int, _ store: HeatmapStore?) {
        let removed = locked { state -> [WindowSlot] in
            let view = state.views[position]
            let border = state.borders[plan.tiers.count - 1]
            let old = view.slots.values.filter { $0.start < border }
            for slot in old { remove(slot, from: view, &state) }
            return old
        }
        for slot in removed { store?.remove(view: position, slot) }
        // Freed here, outside the lock.
        _ = consume removed
    }

    private func remove(_ slot: WindowSlot, from view: ViewState, _ state: inout HeatmapState) {
        if view.slots[slot.start] === slot { view.slots[slot.start] = nil }
        close(slot, of: view, &state)
    }

    /// From here on nothing comes to what was open.
    private func close(_ slot: WindowSlot, of view: ViewState, _ state: inout HeatmapState) {
        guard let open = slot.open else { return }
        if configuration.keepsTotals, view === state.views[0] { state.closed.append(open) }
        if view.current === open { view.current = nil }
        slot.closing = open
        slot.open = nil
    }

    /// Windows are packed when what still comes to them is late.
    private func pack(_ position: Int, now: UInt64, _ store: HeatmapStore?) {
        let finished = locked { state -> [WindowSlot] in
            let view = state.views[position]
            let over = view.slots.values.filter { slot in
                guard let open = slot.open else { return false }
                // Half a window more, so that what is a little late does not open it again each time.
                let margin = Swift.min((open.endNano - open.startNano) / 2, 60_000_000_000)
                let after = open.lateAfterNano == .max ? open.endNano : open.lateAfterNano
                return after.saturatingAdding(margin) < now
            }
            for slot in over { close(slot, of: view, &state) }
            return over.sorted { $0.start < $1.start }
        }
        for slot in finished { replace(slot, with: parts(of: slot), view: position, store) }
    }

    /// All that is known of a window, but for what comes to it now. Its planes change no more.
    private func parts(of slot: WindowSlot) -> [PackedPlane] {
        let (packed, closing) = locked { _ in (slot.packed, slot.closing) }
        return [packed, closing?.packed()].compactMap { $0 }
    }

    private func replace(_ slot: WindowSlot, with parts: [PackedPlane], view: Int, _ store: HeatmapStore?) {
        let packed =
            parts.count == 1 && parts[0].thresholds == thresholds
            ? parts[0] : PlaneMerge.merge(parts, start: slot.start, end: slot.end, thresholds: thresholds)
        locked { _ in
            slot.packed = packed
            slot.closing = nil
            slot.isStored = false
            slot.sequence = store?.sequence ?? 0
        }
        store?.write(view: view, slot, from: self)
    }

    // MARK: Tiers

    /// Joins the windows of a tier that are older than it keeps into those of the next tier.
    private func rollUp(_ position: Int, _ tier: Int, now: Int64, _ store: HeatmapStore?) {
        let border = plan.border(tier: tier, now: now)
        let starts = locked { state -> Set<Int64> in
            // From here on what comes for that time goes to the longer windows.
            state.borders[tier] = Swift.max(state.borders[tier], border)
            return Set(
                state.views[position].slots.values.filter { $0.tier == tier && $0.start < border }
                    .map { plan.bounds(tier: tier + 1, second: $0.start).start })
        }
        for start in starts.sorted() {
            let end = plan.bounds(tier: tier + 1, second: start).end
            let (old, longer) = locked { state -> ([WindowSlot], WindowSlot) in
                let view = state.views[position]
                let old = view.slots.values.filter { $0.tier == tier && $0.start >= start && $0.start < end }
                for slot in old { close(slot, of: view, &state) }
                // It may be there already, because something came very late.
                let there = view.slots[start].flatMap { $0.tier == tier + 1 ? $0 : nil }
                if let there { close(there, of: view, &state) }
                return (old, there ?? WindowSlot(start: start, end: end, tier: tier + 1))
            }
            let joined = PlaneMerge.merge(
                (old + [longer]).flatMap(parts), start: start, end: end, thresholds: thresholds)
            locked { state in
                let view = state.views[position]
                for slot in old { remove(slot, from: view, &state) }
                // Something may have come for it meanwhile.
                let slot = view.slots[start] ?? longer
                slot.packed = joined
                slot.closing = nil
                slot.isStored = false
                slot.sequence = store?.sequence ?? 0
                view.slots[start] = slot
            }
            if let slot = locked({ $0.views[position].slots[start] }) { store?.write(view: position, slot, from: self) }
            for slot in old { store?.remove(view: position, slot) }
        }
    }

    // MARK: Memory

    /// When the cells take more than the limit, from the oldest window on: first exemplars go, then resolution, up to
    /// three times, then the window itself. While they take an eighth more than the limit, no new cell is made.
    private func keepWithinMemory(_ store: HeatmapStore?) {
        let limit = configuration.memoryLimitBytes
        var bytes = measure(limit)
        guard bytes > limit else { return }
        let target = limit - limit / 16
        for saving in [WindowSlot.Saving.exemplars, .shift1, .shift2, .shift3] {
            for (position, slot) in oldestFirst() where bytes > target && slot.saving.rawValue < saving.rawValue {
                guard let packed = locked({ _ in slot.packed }) else { continue }
                let smaller = PlaneMerge.merge(
                    [packed], start: slot.start, end: slot.end, thresholds: thresholds,
                    shift: Swift.max(0, saving.rawValue - 1), withExemplars: false)
                bytes -= packed.byteCount - smaller.byteCount
                locked { state in
                    slot.packed = smaller
                    slot.saving = saving
                    slot.isStored = false
                    if saving == .exemplars {
                        state.memory.strippedWindows += 1
                    } else {
                        state.memory.coarsenedWindows += 1
                    }
                }
                store?.write(view: position, slot, from: self)
            }
        }
        for (position, slot) in oldestFirst() where bytes > target {
            bytes -= slot.byteCount
            locked { state in
                remove(slot, from: state.views[position], &state)
                state.memory.droppedWindows += 1
            }
            store?.remove(view: position, slot)
        }
        _ = measure(limit)
    }

    private func oldestFirst() -> [(view: Int, slot: WindowSlot)] {
        locked { state in
            state.views.enumerated().flatMap { position, view in view.slots.values.map { (position, $0) } }
                .filter { $0.1.packed != nil }.sorted { $0.1.start < $1.1.start }
        }
    }

    private func measure(_ limit: Int) -> Int {
        locked { state in
            let bytes = state.views.reduce(0) { $1.slots.values.reduce($0) { $0 + $1.byteCount } }
            state.memory.bytes = bytes
            state.isShort = bytes > limit && bytes - limit > limit / 8
            for view in state.views {
                for slot in view.slots.values { slot.open?.isShort = state.isShort }
            }
            return bytes
        }
    }
}
