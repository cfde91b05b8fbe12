import EventStreams
import Glibc

/// Puts together what became of an event, device by device in the order of their names' bytes: what memory knows first, and
/// what the file knows of other connections.
///
/// A hundred thousand connections of the past are looked at for one question, so nothing is made of one that the page does
/// not show.
struct DeliveryReportBuilder: Sendable {
    /// What became of the event on one connection.
    private struct Candidate {
        let session: UInt64
        let connectedUnixNano: UInt64
        let group: Int
        let status: SessionOutcome.Status
        let closed: (atUnixNano: UInt64, reason: CloseReason)?
        let acknowledgedUnixNano: UInt64?

        var rank: Int {
            switch status {
            case .written: acknowledgedUnixNano != nil ? 0 : 1
            case .behind: 2
            case .closed: 3
            case .filtered: 4
            case .notConnected: 5
            }
        }
    }

    /// What is known of one device so far: the best, and of equals the latest connection.
    private struct Device {
        var best: Candidate?
        var writes = 0
        /// The place of its first receipt.
        var receipt: Int?

        mutating func add(_ candidate: Candidate) {
            if case .written = candidate.status { writes += 1 }
            guard let best else { return self.best = candidate }
            let isBetter = (candidate.rank, best.connectedUnixNano) < (best.rank, candidate.connectedUnixNano)
            if isBetter { self.best = candidate }
        }
    }

    /// Where a device's name is.
    private enum Source { case memory(Int), file, unnamed }

    let event: StoredEvent
    private let page: DeliveryReport.Page
    private let receipts: [DeviceReceipt]
    /// In order; those before `taken` have been told.
    private var inMemory: [(name: String, device: Device)] = []
    private var taken = 0
    private var unnamed: [Candidate] = []
    private let sessions: Set<UInt64>
    private let leastSession: UInt64
    /// The device of the file that is being read; its name's memory is used again.
    private var inFile: Device?
    private var nameInFile: [UInt8] = []

    private var groups = GroupNumbers()
    private var rows: [DeliveryReport.Row] = []
    private var hasMore = false

    init(
        event: StoredEvent, page: DeliveryReport.Page, outcomes: [SessionOutcome], receipts: [DeviceReceipt],
        groupName: (Int) -> String
    ) {
        self.event = event
        self.page = page
        self.receipts = receipts
        sessions = Set(outcomes.map(\.session))
        leastSession = sessions.map(Self.count).min() ?? .max
        var numbers: [Int: Int] = [:]
        var named: [(name: String, candidate: Candidate?, receipt: Int?)] = []
        named.reserveCapacity(outcomes.count + receipts.count)
        for outcome in outcomes {
            let group = numbers[outcome.group] ?? groups.number(of: groupName(outcome.group))
            numbers[outcome.group] = group
            let candidate = Candidate(
                session: outcome.session, connectedUnixNano: outcome.connectedUnixNano, group: group,
                status: outcome.status, closed: outcome.closed, acknowledgedUnixNano: outcome.acknowledgedUnixNano)
            if let device = outcome.device { named.append((device, candidate, nil)) } else { unnamed.append(candidate) }
        }
        // Devices that have reported and whose connections were never here, or are forgotten, are among them.
        for (place, receipt) in receipts.enumerated() { named.append((receipt.device, nil, place)) }
        // Stable, so that the first receipt stays the first.
        named.sort { ByteOrder.compare($0.name, $1.name) < 0 }
        for (name, candidate, receipt) in named {
            if inMemory.last.map({ ByteOrder.compare($0.name, name) != 0 }) ?? true {
                inMemory.append((name, Device()))
            }
            if let candidate { inMemory[inMemory.count - 1].device.add(candidate) }
            if let receipt, inMemory[inMemory.count - 1].device.receipt == nil {
                inMemory[inMemory.count - 1].device.receipt = receipt
            }
        }
    }

    /// What tells sessions of one process from those of another, later ones having more.
    private static func count(_ session: UInt64) -> UInt64 { session & (1 << 48 - 1) }

    /// The file's connections, in the file's order.
    mutating func add(
        device: UnsafeRawBufferPointer, group: UnsafeRawBufferPointer, session: UInt64, connectedUnixNano: UInt64,
        status: SessionOutcome.Status, closed: (atUnixNano: UInt64, reason: CloseReason), acknowledgedUnixNano: UInt64?
    ) {
        guard Self.count(session) < leastSession || !sessions.contains(session) else { return }
        let candidate = Candidate(
            session: session, connectedUnixNano: connectedUnixNano, group: groups.number(of: group), status: status,
            closed: closed, acknowledgedUnixNano: acknowledgedUnixNano)
        guard !device.isEmpty else { return unnamed.append(candidate) }
        if inFile == nil || ByteOrder.compare(nameInFile, device) != 0 {
            tellFile()
            while taken < inMemory.count, ByteOrder.compare(inMemory[taken].name, device) < 0 { tellNextInMemory() }
            inFile = Device()
            if taken < inMemory.count, ByteOrder.compare(inMemory[taken].name, device) == 0 {
                inFile = inMemory[taken].device
                taken += 1
            }
            nameInFile.removeAll(keepingCapacity: true)
            nameInFile.append(contentsOf: device)
        }
        inFile?.add(candidate)
    }

    mutating func finish(
        sinceUnixNano: UInt64, gaps: [(fromUnixNano: UInt64, untilUnixNano: UInt64)]
    ) -> DeliveryReport {
        tellFile()
        while taken < inMemory.count { tellNextInMemory() }
        for candidate in unnamed.sorted(by: { $0.session < $1.session }) {
            var device = Device()
            device.add(candidate)
            tell(device, .unnamed)
        }
        return DeliveryReport(
            event: event, groups: groups.counted, rows: rows, next: hasMore ? rows.last?.device : nil,
            sinceUnixNano: sinceUnixNano, gaps: gaps)
    }

    private mutating func tellFile() {
        guard let device = inFile else { return }
        inFile = nil
        tell(device, .file)
    }

    private mutating func tellNextInMemory() {
        taken += 1
        tell(inMemory[taken - 1].device, .memory(taken - 1))
    }

    private mutating func tell(_ device: Device, _ source: Source) {
        let status = Self.status(device)
        let group = device.best?.group ?? groups.number(of: receipt(of: device)?.group ?? DeviceGroup.unknown)
        groups.count(Self.place(status), in: group)
        guard !hasMore else { return }
        if let wanted = page.device {
            guard order(source, against: wanted) == 0 else { return }
        } else if let after = page.after, let order = order(source, against: after), order <= 0 {
            return
        }
        guard rows.count < page.limit else {
            hasMore = true
            return
        }
        rows.append(row(name(source), device, status))
    }

    private func receipt(of device: Device) -> DeviceReceipt? { device.receipt.map { receipts[$0] } }

    private func name(_ source: Source) -> String? {
        switch source {
        case .memory(let place): inMemory[place].name
        case .file: String(decoding: nameInFile, as: UTF8.self)
        case .unnamed: nil
        }
    }

    /// nil without a name.
    private func order(_ source: Source, against other: String) -> Int? {
        switch source {
        case .memory(let place): ByteOrder.compare(inMemory[place].name, other)
        case .file: nameInFile.withUnsafeBytes { -ByteOrder.compare(other, $0) }
        case .unnamed: nil
        }
    }

    private static func place(_ status: DeliveryReport.Status) -> Int {
        switch status {
        case .received: 0
        case .acknowledged: 1
        case .written: 2
        case .behind: 3
        case .closed: 4
        case .filtered: 5
        case .notConnected: 6
        case .neverConnected: 7
        }
    }

    private static func status(_ device: Device) -> DeliveryReport.Status {
        guard device.receipt == nil, let best = device.best else { return .received }
        return switch best.status {
        case .written: best.acknowledgedUnixNano == nil ? .written : .acknowledged
        case .behind: .behind
        case .closed: .closed
        case .filtered: .filtered
        case .notConnected: .notConnected
        }
    }

    private func row(_ name: String?, _ device: Device, _ status: DeliveryReport.Status) -> DeliveryReport.Row {
        let best = device.best
        let receipt = receipt(of: device)
        var written: (at: UInt64, isExact: Bool, isReplay: Bool)?
        var behind: UInt64?
        switch best?.status {
        case .written(let at, let isExact, let isReplay): written = (at, isExact, isReplay)
        case .behind(let places): behind = places
        default: break
        }
        return DeliveryReport.Row(
            device: name, session: best?.session ?? 0,
            group: best.map { groups.names[$0.group] } ?? receipt?.group ?? DeviceGroup.unknown, status: status,
            writtenUnixNano: written?.at, isWrittenExact: written?.isExact ?? false,
            isReplay: written?.isReplay ?? false, writes: device.writes,
            acknowledgedUnixNano: best?.acknowledgedUnixNano, receipt: receipt, behindPlaces: behind,
            closed: best?.closed)
    }
}

/// The groups of a report, by number, and how many devices of each are in each status.
private struct GroupNumbers {
    private(set) var names: [String] = []
    private var numbers: [String: Int] = [:]
    /// By group, then by status.
    private var counts: [Int] = []
    /// Names as bytes that were looked for last, by a few of their bytes: most connections are of few groups.
    private var recent = [(name: [UInt8], number: Int)](repeating: ([], -1), count: 64)

    private static let statuses = DeliveryReport.Status.allCases

    mutating func number(of bytes: UnsafeRawBufferPointer) -> Int {
        let last = bytes.last ?? 0
        let place = Int((bytes.first ?? 0) &+ last &* 7 &+ UInt8(truncatingIfNeeded: bytes.count) &* 13) & 63
        if recent[place].number >= 0, ByteOrder.compare(recent[place].name, bytes) == 0 { return recent[place].number }
        let number = number(of: String(decoding: bytes, as: UTF8.self))
        recent[place] = (Array(bytes), number)
        return number
    }

    mutating func number(of name: String) -> Int {
        if let number = numbers[name] { return number }
        let number = names.count
        numbers[name] = number
        names.append(name)
        counts += [Int](repeating: 0, count: Self.statuses.count)
        return number
    }

    mutating func count(_ status: Int, in group: Int) { counts[group * Self.statuses.count + status] += 1 }

    /// Those with devices, by name.
    var counted: [DeliveryReport.GroupCounts] {
        names.indices.map { number in
            let first = number * Self.statuses.count
            let counts = zip(Self.statuses, counts[first..<(first + Self.statuses.count)])
            return DeliveryReport.GroupCounts(
                group: names[number], counts: Dictionary(uniqueKeysWithValues: counts.filter { $0.1 > 0 }))
        }
        .filter { !$0.counts.isEmpty }.sorted { $0.group < $1.group }
    }
}

/// Texts by the bytes of their UTF-8, as the file orders them, whatever Unicode says of equal spellings.
enum ByteOrder {
    static func compare(_ left: UnsafeRawBufferPointer, _ right: UnsafeRawBufferPointer) -> Int {
        let count = min(left.count, right.count)
        if count > 0, let one = left.baseAddress, let other = right.baseAddress {
            let order = memcmp(one, other, count)
            if order != 0 { return Int(order) }
        }
        return left.count - right.count
    }

    static func compare(_ left: [UInt8], _ right: UnsafeRawBufferPointer) -> Int {
        left.withUnsafeBytes { compare($0, right) }
    }

    static func compare(_ left: String, _ right: UnsafeRawBufferPointer) -> Int {
        var left = left
        return left.withUTF8 { compare(UnsafeRawBufferPointer($0), right) }
    }

    static func compare(_ left: String, _ right: String) -> Int {
        var right = right
        return right.withUTF8 { compare(left, UnsafeRawBufferPointer($0)) }
    }
}
