import Synchronization

/// A device's own word that it has an event.
public struct DeviceReceipt: Sendable {
    public let offset: UInt64
    public let device: String
    public let group: Int
    /// By the server's clock.
    public let receivedUnixNano: UInt64
    /// What was added to the device's time, and by how much that may be wrong; nil where only one bound is known.
    public let clockOffsetNano: Int64
    public let clockUncertaintyNano: UInt64?

    public init(
        offset: UInt64, device: String, group: Int, receivedUnixNano: UInt64, clockOffsetNano: Int64,
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

    init(limit: Int) { ring = Mutex(BoundedRing(limit: limit)) }

    public func note(_ receipts: [DeviceReceipt]) {
        ring.withLock { ring in
            for receipt in receipts { ring.append(receipt) }
        }
    }

    /// The first receipt of each device for one event.
    func receipts(for offset: UInt64) -> [String: DeviceReceipt] {
        ring.withLock { ring in
            var found: [String: DeviceReceipt] = [:]
            ring.forEach { receipt in
                if receipt.offset == offset, found[receipt.device] == nil { found[receipt.device] = receipt }
            }
            return found
        }
    }
}
