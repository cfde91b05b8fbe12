/// The collector's side of a slab: follows the owner around the ring, so that it looks only at spans that are new and at
/// those that were still live when it passed them.
final class SlabReader {
    let slab: UnsafeMutablePointer<SpanSlab>
    private var cursor: UInt32 = 0
    private var parked: [Int] = []
    private var isParked: [Bool]

    init(_ slab: UnsafeMutablePointer<SpanSlab>) {
        self.slab = slab
        isParked = Array(repeating: false, count: SpanSlab.slotCount(slab))
    }

    /// Gives each ended span to the closure and frees its slot; ends early, and returns false, when the closure does not
    /// take one.
    @inline(__always)
    func read(_ take: (UnsafeMutablePointer<SpanSlot>) -> Bool) -> Bool {
        if !parked.isEmpty, !readParked(take) { return false }
        // After the parked ones: a slot that is found free there and claimed meanwhile lies before `next`.
        let next = SpanSlab.published(slab).load()
        let count = UInt32(isParked.count)
        let mask = slab.pointee.slotMask
        var cursor = next &- self.cursor > count ? next &- count : self.cursor
        defer { self.cursor = cursor }
        while cursor != next {
            let index = Int(cursor & mask)
            let slot = SpanSlab.slot(slab, index)
            let word = SpanSlot.state(slot).load()
            switch word & 3 {
            case SpanSlot.free: break
            case SpanSlot.ended:
                guard take(slot) else { return false }
                SpanSlot.release(slot, word)
            default:
                if !isParked[index] {
                    isParked[index] = true
                    parked.append(index)
                }
            }
            cursor &+= 1
        }
        return true
    }

    private func readParked(_ take: (UnsafeMutablePointer<SpanSlot>) -> Bool) -> Bool {
        var kept: [Int] = []
        var isTaking = true
        for index in parked {
            let slot = SpanSlab.slot(slab, index)
            let word = SpanSlot.state(slot).load()
            switch word & 3 {
            case SpanSlot.ended where isTaking && take(slot):
                SpanSlot.release(slot, word)
                isParked[index] = false
            case SpanSlot.ended:
                isTaking = false
                kept.append(index)
            case SpanSlot.free:
                isParked[index] = false
            default:
                kept.append(index)
            }
        }
        parked = kept
        return isTaking
    }
}
