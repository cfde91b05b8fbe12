import CPrefetch
import OTLP

/// Names that get small numbers in the order in which they appear, up to a limit; the rest share number 0. A number whose
/// name has nothing left can be given to another.
///
/// An open-addressing table over the names' bytes: a name that is known is found without building a `String`. Guarded by
/// the engine's lock.
final class NameTable {
    /// What number 0 is called.
    static let overflowName = "(other)"

    /// By number; empty where a number is free.
    private(set) var names: [String] = [NameTable.overflowName]
    /// Numbers that were given before, and can be given again.
    private var free: [Int] = []
    /// Those that have become free or been given again, in this order, for what keeps names elsewhere.
    private(set) var changed: [Int] = []
    /// By number: the end of the last window that has something of it, in seconds since 1970.
    private var usedUntil: [Int64] = [.max]
    private(set) var limit: Int
    /// Power of two; 0 is free, otherwise hash in the upper and number in the lower half.
    private var slots: UnsafeMutablePointer<UInt64>
    private var slotCount = 64
    private struct Place {
        var start: UInt32 = 0
        var count: UInt32 = 0
    }
    /// By number: where the name is in `bytes`.
    private var places: UnsafeMutablePointer<Place>
    private var placeCapacity = 64
    private var bytes: UnsafeMutablePointer<UInt8>
    private var byteCapacity = 1_024
    private var byteCount = 0
    private var count = 1
    /// Different in every process, so that nobody can prepare names that collide.
    private let seed: UInt64

    init(limit: Int) {
        self.limit = limit
        seed = UInt64.random(in: 0 ... .max)
        slots = .allocate(capacity: slotCount)
        slots.initialize(repeating: 0, count: slotCount)
        places = .allocate(capacity: placeCapacity)
        places.initialize(repeating: Place(), count: placeCapacity)
        bytes = .allocate(capacity: byteCapacity)
    }

    deinit {
        slots.deallocate()
        places.deallocate()
        bytes.deallocate()
    }

    func number(_ name: String) -> Int {
        var name = name
        return name.withUTF8 { number(UnsafeRawBufferPointer($0)) }
    }

    func number(_ name: UnsafeRawBufferPointer) -> Int {
        let hash = hash(name)
        return find(name, hash) ?? add(name, hash)
    }

    /// Nil when the name is not known.
    func find(_ name: String) -> Int? {
        if name == Self.overflowName { return 0 }
        var name = name
        return name.withUTF8 {
            let name = UnsafeRawBufferPointer($0)
            return find(name, hash(name))
        }
    }

    @inline(__always)
    func find(_ name: UnsafeRawBufferPointer, _ hash: UInt32) -> Int? {
        var at = Int(hash) & (slotCount &- 1)
        while slots[at] != 0 {
            let slot = slots[at]
            if UInt32(truncatingIfNeeded: slot >> 32) == hash {
                let number = Int(slot & 0xFFFF_FFFF)
                let place = places[number]
                if Int(place.count) == name.count,
                    BytesEqual.test(name.baseAddress, UnsafeRawPointer(bytes + Int(place.start)), name.count)
                {
                    return number
                }
            }
            at = (at &+ 1) & (slotCount &- 1)
        }
        return nil
    }

    // What `find` will read, asked for before: first the slot, then what the slot most likely stands for.

    @inline(__always)
    func prefetchSlot(_ hash: UInt32) { isotherm_prefetch(slots + (Int(hash) & (slotCount &- 1))) }

    /// The number that `find` will look at first; 0 for none.
    @inline(__always)
    func candidate(_ hash: UInt32) -> Int { Int(slots[Int(hash) & (slotCount &- 1)] & 0xFFFF_FFFF) }

    @inline(__always)
    func prefetchName(_ number: Int) { isotherm_prefetch(bytes + Int(places[number].start)) }

    /// A name that is not known yet.
    @inline(never)
    func add(_ name: UnsafeRawBufferPointer, _ hash: UInt32) -> Int {
        let text = String(decoding: name, as: UTF8.self)
        // What is no UTF-8 is known by what it is repaired to.
        if !text.utf8.elementsEqual(name) { return number(text) }
        guard byteCount + name.count <= Int(UInt32.max) else { return 0 }
        let number: Int
        if let again = free.popLast() {
            number = again
            changed.append(again)
        } else {
            guard count <= limit else { return 0 }
            number = addNumber()
        }
        keep(name, hash, number: number)
        names[number] = text
        return number
    }

    private func addNumber() -> Int {
        if count + 1 > placeCapacity {
            places = Self.grow(places, count: count, capacity: &placeCapacity, atLeast: count + 1)
        }
        (places + count).initialize(to: Place())
        names.append("")
        usedUntil.append(.min)
        count += 1
        if count * 4 > slotCount * 3 { growSlots() }
        return count - 1
    }

    /// From now on the name is found.
    private func keep(_ name: UnsafeRawBufferPointer, _ hash: UInt32, number: Int) {
        if byteCount + name.count > byteCapacity {
            bytes = Self.grow(bytes, count: byteCount, capacity: &byteCapacity, atLeast: byteCount + name.count)
        }
        if let start = name.baseAddress {
            UnsafeMutableRawPointer(bytes + byteCount).copyMemory(from: start, byteCount: name.count)
        }
        places[number] = Place(start: UInt32(byteCount), count: UInt32(name.count))
        byteCount += name.count
        insert(UInt64(hash) << 32 | UInt64(number))
    }

    /// Names as they had their numbers before; the first of them are those that are here.
    func restore(_ names: [String], free: [Int]) {
        limit = Swift.max(limit, names.count - 1)
        while count < names.count { _ = addNumber() }
        self.names = names
        self.free = free.sorted(by: >)
        rebuild()
    }

    // MARK: Giving numbers again

    /// How many numbers have a name.
    var used: Int { count - 1 - free.count }

    /// A window that ends then has something of this name.
    func use(_ number: Int, until end: Int64) { usedUntil[number] = Swift.max(usedUntil[number], end) }

    /// When little room is left, names that no window has any more give up their numbers.
    ///
    /// - Parameter oldest: no window begins before this second.
    /// - Returns: the numbers, ascending.
    func reclaim(oldest: Int64) -> [Int] {
        guard used >= limit - limit / 4 else { return [] }
        let isFree = Set(free)
        let unused = (1..<count).filter { usedUntil[$0] <= oldest && !isFree.contains($0) }
        guard !unused.isEmpty else { return [] }
        for number in unused {
            names[number] = ""
            usedUntil[number] = .min
        }
        // The smallest is given first.
        free = (free + unused).sorted(by: >)
        changed += unused
        rebuild()
        return unused
    }

    /// Forgets the first of what has changed.
    func forgetChanged(_ count: Int) { changed.removeFirst(count) }

    /// With the names that are there, and nothing of those that are not.
    private func rebuild() {
        byteCount = 0
        slots.update(repeating: 0, count: slotCount)
        let isFree = Set(free)
        for number in 1..<count where !isFree.contains(number) {
            names[number].withUTF8 {
                let name = UnsafeRawBufferPointer($0)
                keep(name, hash(name), number: number)
            }
        }
    }

    private func insert(_ slot: UInt64) {
        var at = Int(slot >> 32) & (slotCount - 1)
        while slots[at] != 0 { at = (at + 1) & (slotCount - 1) }
        slots[at] = slot
    }

    private func growSlots() {
        let (old, oldCount) = (slots, slotCount)
        slotCount *= 2
        slots = .allocate(capacity: slotCount)
        slots.initialize(repeating: 0, count: slotCount)
        for at in 0..<oldCount where old[at] != 0 { insert(old[at]) }
        old.deallocate()
    }

    private static func grow<T: BitwiseCopyable>(
        _ storage: UnsafeMutablePointer<T>, count: Int, capacity: inout Int, atLeast: Int
    ) -> UnsafeMutablePointer<T> {
        capacity = Swift.max(capacity * 2, atLeast)
        let larger = UnsafeMutablePointer<T>.allocate(capacity: capacity)
        larger.update(from: storage, count: count)
        storage.deallocate()
        return larger
    }

    /// Eight bytes at a time, multiplied and folded; the last eight may overlap those before.
    @inline(__always)
    func hash(_ name: UnsafeRawBufferPointer) -> UInt32 {
        var hash: UInt64 = seed ^ UInt64(truncatingIfNeeded: name.count)
        guard let start = name.baseAddress else { return UInt32(truncatingIfNeeded: hash) }
        let last: UInt64
        if name.count >= 8 {
            var at = 0
            while at < name.count &- 8 {
                hash = Self.fold(hash ^ start.loadUnaligned(fromByteOffset: at, as: UInt64.self))
                at &+= 8
            }
            last = start.loadUnaligned(fromByteOffset: name.count &- 8, as: UInt64.self)
        } else {
            last = Self.short(start, name.count)
        }
        return UInt32(truncatingIfNeeded: Self.fold(hash ^ last) >> 16)
    }

    /// Up to seven bytes as a number; different ones give different numbers.
    @inline(__always)
    private static func short(_ start: UnsafeRawPointer, _ count: Int) -> UInt64 {
        if count >= 4 {
            let high = start.loadUnaligned(fromByteOffset: count &- 4, as: UInt32.self)
            return UInt64(high) << 32 | UInt64(start.loadUnaligned(as: UInt32.self))
        }
        var value: UInt64 = 0
        for at in 0..<count { value = value << 8 | UInt64(start.load(fromByteOffset: at, as: UInt8.self)) }
        return value
    }

    @inline(__always)
    private static func fold(_ value: UInt64) -> UInt64 {
        let product = value.multipliedFullWidth(by: 0xBF58_476D_1CE4_E5B9)
        return product.high ^ product.low
    }
}
