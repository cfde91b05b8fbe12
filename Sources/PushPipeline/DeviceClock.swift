import Synchronization

/// How far a device's clock is from the server's, as far as causes and effects tell.
///
/// A device cannot have received an event before the server accepted it, and cannot have sent a report after the server
/// received it. Each receipt is so a lower bound of `server time - device time`, and each report that says when it was
/// sent an upper bound; the truth lies between, whatever the network did. Both bounds loosen as time goes by, since
/// clocks drift.
public struct DeviceClock: Sendable, Equatable {
    /// Bounds of server time minus device time, in nanoseconds.
    private(set) var lower: Int64?
    private(set) var upper: Int64?
    private var updatedUnixNano: UInt64 = 0

    /// A quartz clock without discipline drifts by less than this part: 50 millionths.
    static let driftDivisor: UInt64 = 20_000

    /// A clock of which nothing is known yet.
    public init() {}

    /// What is to be added to a device's time, and by how much that may be wrong; nil as long as one bound is missing.
    public var estimate: (offsetNano: Int64, uncertaintyNano: UInt64)? {
        guard let lower, let upper else { return nil }
        // Halves first: the bounds may be far apart.
        return (lower / 2 + upper / 2, UInt64(max(0, upper / 2 - lower / 2)))
    }

    /// What is to be added to a device's time: the estimate, or as little as the one bound there is demands.
    public var offsetNano: Int64 {
        if let estimate { return estimate.offsetNano }
        return max(0, lower ?? 0)
    }

    /// - Parameter sentUnixNano: when the report was sent by the device's clock, if it says so.
    /// - Parameter receipts: acceptance by the server's clock, and receipt by the device's.
    /// - Returns: true when the report contradicts what was known: the device's clock was set anew.
    @discardableResult
    public mutating func observe(
        sentUnixNano: UInt64?, receipts: [(acceptedUnixNano: UInt64, receivedUnixNano: UInt64)], nowUnixNano: UInt64
    ) -> Bool {
        let elapsed = nowUnixNano > updatedUnixNano ? nowUnixNano - updatedUnixNano : 0
        let drift = Int64(clamping: elapsed / Self.driftDivisor)
        var newLower = lower.map { $0.subtractingReportingOverflow(drift).partialValue }
        var newUpper = upper.map { $0.addingReportingOverflow(drift).partialValue }
        var reportLower: Int64?
        for receipt in receipts {
            let bound = Self.difference(receipt.acceptedUnixNano, receipt.receivedUnixNano)
            reportLower = max(reportLower ?? bound, bound)
        }
        let reportUpper = sentUnixNano.map { Self.difference(nowUnixNano, $0) }
        if let reportLower { newLower = max(newLower ?? reportLower, reportLower) }
        if let reportUpper { newUpper = min(newUpper ?? reportUpper, reportUpper) }
        updatedUnixNano = max(updatedUnixNano, nowUnixNano)
        if let low = newLower, let high = newUpper, low > high {
            (lower, upper) = (reportLower, reportUpper)
            // A single report that contradicts itself says nothing.
            if let low = lower, let high = upper, low > high { (lower, upper) = (nil, nil) }
            return true
        }
        (lower, upper) = (newLower, newUpper)
        return false
    }

    /// A device's time by the server's clock; never later than now, never before the event was accepted.
    public func serverUnixNano(_ deviceUnixNano: UInt64, acceptedUnixNano: UInt64, nowUnixNano: UInt64) -> UInt64 {
        let offset = offsetNano
        let moved =
            offset >= 0
            ? deviceUnixNano.addingReportingOverflow(offset.magnitude)
            : deviceUnixNano.subtractingReportingOverflow(offset.magnitude)
        let time = moved.overflow ? nowUnixNano : moved.partialValue
        return max(acceptedUnixNano, min(time, nowUnixNano))
    }

    private static func difference(_ first: UInt64, _ second: UInt64) -> Int64 {
        first >= second ? Int64(clamping: first - second) : -Int64(clamping: second - first)
    }
}

/// The clocks of a tenant's devices. Bounded: when there are too many, those that were heard of longest ago are forgotten.
public final class DeviceClocks: Sendable {
    private struct Entry {
        var clock = DeviceClock()
        var touched: UInt64 = 0
    }

    private let state = Mutex<(entries: [String: Entry], turn: UInt64)>(([:], 0))
    private let limit: Int

    init(limit: Int) { self.limit = max(1, limit) }

    /// Updates the device's clock and returns it, with whether it was set anew.
    public func observe(
        device: String, sentUnixNano: UInt64?, receipts: [(acceptedUnixNano: UInt64, receivedUnixNano: UInt64)],
        nowUnixNano: UInt64
    ) -> (clock: DeviceClock, wasSet: Bool) {
        state.withLock { state in
            state.turn += 1
            if state.entries.count >= limit, state.entries[device] == nil {
                // Half of them at once, so that this is rare.
                let middle = state.entries.values.map(\.touched).sorted()[limit / 2]
                state.entries = state.entries.filter { $0.value.touched > middle }
            }
            var entry = state.entries[device] ?? Entry()
            entry.touched = state.turn
            let wasSet = entry.clock.observe(
                sentUnixNano: sentUnixNano, receipts: receipts, nowUnixNano: nowUnixNano)
            state.entries[device] = entry
            return (entry.clock, wasSet)
        }
    }
}
