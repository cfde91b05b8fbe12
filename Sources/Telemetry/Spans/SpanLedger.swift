/// Where every span went. Always:
///
///     started = sampledOut + exported + rejected + Σ dropped + live + queued
public struct SpanLedger: Sendable, Equatable, CustomStringConvertible {
    /// Why a span was lost in this process; `rawValue` is the metric label.
    public enum DropReason: String, Sendable, CaseIterable {
        /// The thread's ring was full: the exporter could not keep up, or too many spans were live.
        case queueFull = "queue_full"
        /// More threads made spans than `maxSpanThreads`, or there was no memory for a thread's queue.
        case limit
        /// Tried until the export time-out, or sent and not answered.
        case retryExpired = "retry_expired"
        /// Not exported when the shutdown's deadline came, or made in a child of `fork`.
        case shutdown
        /// An item that is too large for a request by itself.
        case oversize
        /// Damaged on its way, in the disk queue for example.
        case corrupt
    }

    public var started: UInt64 = 0
    /// Not sampled, or recorded for observers only.
    public var sampledOut: UInt64 = 0
    /// Accepted by the endpoint.
    public var exported: UInt64 = 0
    /// Refused by the endpoint for good.
    public var rejected: UInt64 = 0
    public var dropped: [DropReason: UInt64] = [:]
    /// Started and not ended.
    public var live: UInt64 = 0
    /// Ended and on the way to the endpoint.
    public var queued: UInt64 = 0

    public var totalDropped: UInt64 { dropped.values.reduce(0, +) }
    public var isBalanced: Bool { started == sampledOut + exported + rejected + totalDropped + live + queued }

    public var description: String {
        let reasons = DropReason.allCases.map { "\($0.rawValue) \(dropped[$0] ?? 0)" }.joined(separator: ", ")
        return "spans: started \(started) = sampled out \(sampledOut) + exported \(exported) + rejected \(rejected) "
            + "+ dropped \(totalDropped) (\(reasons)) + live \(live) + queued \(queued)"
    }
}
