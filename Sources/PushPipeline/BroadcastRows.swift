import Telemetry

/// When one broadcast wrote to which connection. A variable of the broadcast's own over the recorder's memory: noting a
/// delivery is three stores, and no object is touched.
struct BroadcastRows {
    struct Row {
        let writtenUnixNano: UInt64
        let group: Int
        let subscription: Unmanaged<Subscription>
    }

    let begunAt = Clock.now()
    private let rows: UnsafeMutableBufferPointer<Row>
    private var count = 0

    init(_ rows: UnsafeMutableBufferPointer<Row>) { self.rows = rows }

    @inline(__always)
    mutating func delivered(to connection: LiveConnection) {
        precondition(count < rows.count)
        (rows.baseAddress.unsafelyUnwrapped + count).initialize(
            to: Row(
                writtenUnixNano: Clock.now().unixNano, group: Int(connection.group),
                subscription: .passUnretained(connection.subscription)))
        count &+= 1
    }

    /// The rows of each group, in the order in which they were written. Connections are open until this is done.
    func forEachGroup(_ body: (_ group: Int, _ rows: UnsafeBufferPointer<Row>) -> Void) {
        let written = UnsafeBufferPointer(rebasing: rows[..<count])
        guard let first = written.first else { return }
        guard written.contains(where: { $0.group != first.group }) else { return body(first.group, written) }
        // A counting sort, which keeps the order within a group.
        var ends: [Int] = []
        for row in written {
            while ends.count <= row.group { ends.append(0) }
            ends[row.group] += 1
        }
        var begin = 0
        for group in ends.indices { (ends[group], begin) = (begin, begin + ends[group]) }
        withUnsafeTemporaryAllocation(of: Row.self, capacity: written.count) { sorted in
            for row in written {
                sorted.initializeElement(at: ends[row.group], to: row)
                ends[row.group] += 1
            }
            begin = 0
            for (group, end) in ends.enumerated() where end > begin {
                body(group, UnsafeBufferPointer(rebasing: sorted[begin..<end]))
                begin = end
            }
        }
    }
}
