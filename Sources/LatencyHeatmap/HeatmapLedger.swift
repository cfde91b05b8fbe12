/// Where every span, or every histogram's point, that was received has gone: received = counted + discarded, by reason.
public struct HeatmapLedger: Sendable, Equatable, CustomStringConvertible {
    public enum DiscardReason: String, Sendable, CaseIterable {
        /// This process's own span, sent back by a collector.
        case own
        /// Its latency is inside the sketch of a summary span.
        case summarised
        /// The filter of the settings left it out.
        case filtered
        /// No end time, or one before its start and no `isotherm.latency_ns`.
        case noLatency = "no_latency"
        /// It ended further ahead of this machine's clock than the settings allow.
        case future
        /// Its window has been forgotten.
        case expired
        /// `isotherm.latency_sketch` is not a sketch.
        case badSketch = "bad_sketch"
        /// In a request that is byte for byte the same as one that came before.
        case duplicate
        /// There was no memory for a new cell.
        case memory
        /// A metric's point that cannot be merged exactly: a histogram of explicit buckets.
        case explicitBuckets = "explicit_buckets"
        /// A metric's point that counts from the start of the process; the exporter is to send differences (delta).
        case cumulative
        /// A metric in another unit than s, ms, us or ns, or a malformed histogram.
        case badHistogram = "bad_histogram"
    }

    public internal(set) var received: UInt64 = 0
    public internal(set) var counted: UInt64 = 0
    public internal(set) var discarded: [DiscardReason: UInt64] = [:]
    /// Latencies in cells. A summary span brings many; latencies that were recorded in this process count here too.
    public internal(set) var latencies: UInt64 = 0
    /// Latencies of windows that were over.
    public internal(set) var late: UInt64 = 0
    /// Latencies in the row `(other)`, because there were too many groups.
    public internal(set) var overflowed: UInt64 = 0

    mutating func discard(_ reason: DiscardReason, _ count: UInt64 = 1) { discarded[reason, default: 0] += count }

    /// Values below zero in histograms that were counted without them.
    public internal(set) var negative: UInt64 = 0

    public var isBalanced: Bool { received == counted + discarded.values.reduce(0, +) }

    public var description: String {
        let reasons = DiscardReason.allCases.compactMap { reason in
            discarded[reason].map { "\($0) \(reason.rawValue)" }
        }
        return "received \(received) = counted \(counted) + discarded "
            + (reasons.isEmpty ? "0" : "(" + reasons.joined(separator: ", ") + ")")
    }
}
