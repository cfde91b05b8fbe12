import Synchronization

/// A device's own word that it has an event.
public struct DeviceReceipt: Sendable {
    public let offset: UInt64
    public let device: String
    public let group: String
    /// By the server's clock.
    public let receivedUnixNano: UInt64
    /// What was added to the device's time, and by how much that may be wrong; nil where only one bound is known.
    public let clockOffsetNano: Int64
    public let clockUncertaintyNano: UInt64?

    public init(
        offset: UInt64, device: String, group: String, receivedUnixNano: UInt64, clockOffsetNano: Int64,
        clockUncertaintyNano: UInt64?
    ) {
        self.offset = offset
        self.device = device
        self.group = group
        self.receivedUnixNano = receivedUnixNano
        self.clockOffsetNano = clockOffsetNano
        self.clockUncertaintyNano = clockUncertaintyNano
    }
}

/// A tenant's last receipts; the oldest leave first.
public final class ReceiptBook: Sendable {
    private let ring: Mutex<BoundedRing<DeviceReceipt>>
    private let handedOver = Atomic<UInt64>(0)

    init(limit: Int) { ring = Mutex(BoundedRing(limit: limit)) }

    /// What has come since the last call, and how much of it has left meanwhile. For one caller.
    func takeNew() -> (receipts: [DeviceReceipt], lost: UInt64) {
        let (new, appended) = ring.withLock {
            ($0.since(handedOver.load(ordering: .relaxed)), $0.appended)
        }
        handedOver.store(appended, ordering: .relaxed)
        return (new.elements, new.lost)
    }

    public func note(_ receipts: [DeviceReceipt]) {
        ring.withLock { ring in
            for receipt in receipts { ring.append(receipt) }
        }
    }

    /// Of one event, in the order of their coming.
    func receipts(for offset: UInt64) -> [DeviceReceipt] {
        ring.withLock { ring in
            var found: [DeviceReceipt] = []
            ring.forEach { if $0.offset == offset { found.append($0) } }
            return found
        }
    }
}
