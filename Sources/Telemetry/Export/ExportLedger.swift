/// Where the items of one signal went that the exporter was given. Always:
///
///     taken = exported + rejected + Σ dropped + queued
///
/// An item is a span, a data point or a log record.
public struct ExportLedger: Sendable, Equatable, CustomStringConvertible {
    public typealias DropReason = SpanLedger.DropReason

    public var taken: UInt64 = 0
    /// Accepted by the endpoint.
    public var exported: UInt64 = 0
    /// Refused by the endpoint for good.
    public var rejected: UInt64 = 0
    public var dropped: [DropReason: UInt64] = [:]
    /// Waiting or under way, in memory and on disk.
    public var queued: UInt64 { taken - exported - rejected - totalDropped }

    public var totalDropped: UInt64 { dropped.values.reduce(0, +) }

    public var description: String {
        let reasons = DropReason.allCases.map { "\($0.rawValue) \(dropped[$0] ?? 0)" }.joined(separator: ", ")
        return "taken \(taken) = exported \(exported) + rejected \(rejected) + dropped \(totalDropped) (\(reasons)) "
            + "+ queued \(queued)"
    }
}
