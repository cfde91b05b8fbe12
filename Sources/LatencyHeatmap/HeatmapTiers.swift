/// Windows of one length, kept for some time, and then joined into longer ones.
public struct HeatmapTier: Sendable, Equatable {
    /// Length of its windows: whole seconds that divide a day, or a day, which then is a calendar day of
    /// `HeatmapConfiguration.timeZone`.
    public var window: Duration
    /// How long its windows are kept before the next tier takes them; those of the last tier are forgotten.
    public var retention: Duration

    public init(window: Duration, retention: Duration) {
        self.window = window
        self.retention = retention
    }
}

/// The tiers of an engine, from the finest, as seconds.
///
/// A latency is in one tier only. When all the windows that make up one of the next tier are older than what this tier
/// keeps, they become that one: `HeatmapEngine.maintain()` moves the border between the two.
struct TierPlan: Sendable {
    struct Tier: Sendable {
        let seconds: Int64
        /// Nil keeps all.
        let retention: Int64?
    }

    let tiers: [Tier]
    private let civil: CivilTime

    static let day: Int64 = 86_400

    init(_ configuration: HeatmapConfiguration) throws(HeatmapError) {
        func invalid(_ cause: String) -> HeatmapError { HeatmapError(code: .invalidConfiguration, cause: cause) }
        guard let civil = CivilTime(named: configuration.timeZone) else {
            throw invalid(
                "time_zone: \"\(configuration.timeZone)\" is no zone that this machine has (package tzdata); give UTC, "
                    + "Asia/Shanghai or +08:00")
        }
        self.civil = civil
        let base = Int64(configuration.window.nanoseconds / 1_000_000_000)
        var tiers = [Tier(seconds: base, retention: configuration.retainedWindows.map { base.saturatingTimes($0) })]
        if configuration.retainedWindows != nil {
            for tier in configuration.tiers {
                let seconds = Int64(tier.window.nanoseconds / 1_000_000_000)
                let retention = Int64(tier.retention.nanoseconds / 1_000_000_000)
                // A base window that is longer than a tier's leaves that tier out.
                guard seconds > base else { continue }
                guard tier.window.nanoseconds % 1_000_000_000 == 0, Self.day % seconds == 0 else {
                    throw invalid("tiers: \(tier.window) is not a whole number of seconds that divides a day")
                }
                guard let finer = tiers.last, seconds > finer.seconds, seconds % finer.seconds == 0 else {
                    throw invalid(
                        "tiers: \(seconds)s is not a multiple of the finer tier's \(tiers.last?.seconds ?? 0)s")
                }
                guard retention >= (finer.retention ?? 0) else {
                    throw invalid("tiers: \(seconds)s are kept for a shorter time than the finer windows")
                }
                tiers.append(Tier(seconds: seconds, retention: retention))
            }
        }
        self.tiers = tiers
    }

    /// The window of a tier in which a second lies.
    func bounds(tier: Int, second: Int64) -> (start: Int64, end: Int64) {
        let length = tiers[tier].seconds
        if length == Self.day {
            return (civil.windowStart(second, length: length), civil.windowEnd(second, length: length))
        }
        let start = CivilTime.floor(second, length)
        return (start, start.addingReportingOverflow(length).overflow ? .max : start + length)
    }

    /// Before which second a tier keeps nothing, by a clock; where the next tier's window begins, if there is one.
    func border(tier: Int, now: Int64) -> Int64 {
        guard let retention = tiers[tier].retention else { return .min }
        // The window that is being written counts among those that are kept.
        let oldest = now.subtractingReportingOverflow(retention).overflow ? 0 : now - retention + tiers[tier].seconds
        let own = bounds(tier: tier, second: oldest).start
        return tier + 1 < tiers.count ? bounds(tier: tier + 1, second: own).start : own
    }
}

extension Int64 {
    fileprivate func saturatingTimes(_ factor: Int) -> Int64 {
        let (product, overflow) = multipliedReportingOverflow(by: Int64(factor))
        return overflow ? .max : product
    }
}
