/// The last ids of a stream.
struct RecentIDs {
    private let capacity: Int
    private var known: Set<String> = []
    /// A ring; `next` is the oldest once it is full.
    private var order: [String] = []
    private var next = 0

    init(capacity: Int) { self.capacity = max(0, capacity) }

    /// False for one of the last `capacity` ids; true, and remembered, for any other and for an empty one.
    mutating func isNew(_ id: String) -> Bool {
        guard capacity > 0, !id.isEmpty else { return true }
        guard known.insert(id).inserted else { return false }
        if order.count < capacity {
            order.append(id)
        } else {
            known.remove(order[next])
            order[next] = id
            next = (next + 1) % capacity
        }
        return true
    }
}
