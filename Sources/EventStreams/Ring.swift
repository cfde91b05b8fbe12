/// A double-ended queue on a circular buffer whose capacity is a power of two and grows on demand.
struct Ring<Element> {
    private var slots: [Element?] = []
    private var start = 0
    private(set) var count = 0

    var isEmpty: Bool { count == 0 }
    var first: Element? { count == 0 ? nil : slots[start] }
    var last: Element? { count == 0 ? nil : slots[(start &+ count &- 1) & (slots.count &- 1)] }

    /// The element `index` places after the first.
    subscript(index: Int) -> Element {
        precondition(index >= 0 && index < count, "index \(index) of \(count)")
        guard let element = slots[(start &+ index) & (slots.count &- 1)] else {
            preconditionFailure("a slot in use is empty")
        }
        return element
    }

    mutating func append(_ element: Element) {
        if count == slots.count { grow() }
        slots[(start &+ count) & (slots.count &- 1)] = element
        count &+= 1
    }

    @discardableResult
    mutating func popFirst() -> Element? {
        guard count > 0 else { return nil }
        let element = slots[start].take()
        start = (start &+ 1) & (slots.count &- 1)
        count &-= 1
        return element
    }

    @discardableResult
    mutating func popLast() -> Element? {
        guard count > 0 else { return nil }
        count &-= 1
        return slots[(start &+ count) & (slots.count &- 1)].take()
    }

    private mutating func grow() {
        var larger: [Element?] = []
        larger.reserveCapacity(max(16, slots.count * 2))
        for index in 0..<count { larger.append(slots[(start &+ index) & (slots.count &- 1)].take()) }
        larger.append(contentsOf: repeatElement(nil, count: max(16, slots.count * 2) - count))
        slots = larger
        start = 0
    }
}

extension Ring: Sendable where Element: Sendable {}
