import Glibc

/// How latencies become cells.
public struct HeatmapConfiguration: Sendable {
    /// Length of the windows that are kept; reports can join several into one. Default 60 s.
    public var window = Duration.seconds(60)
    /// How many windows are kept before they are joined into those of the first tier, or forgotten if there is none.
    /// Default 1440, a day of minutes. Nil keeps all, and uses no tiers.
    public var retainedWindows: Int? = 1_440
    /// What becomes of windows that are too old. Default: windows of 5 minutes for 7 days, then of an hour for 31 days,
    /// then days for 366 days.
    public var tiers = [
        HeatmapTier(window: .seconds(300), retention: .seconds(7 * 86_400)),
        HeatmapTier(window: .seconds(3_600), retention: .seconds(31 * 86_400)),
        HeatmapTier(window: .seconds(86_400), retention: .seconds(366 * 86_400)),
    ]
    /// Where windows of a day begin. Default `UTC`.
    public var timeZone = "UTC"
    /// A span that comes later than this after its window has ended marks the cell as revised. Default 60 s. Nil: none
    /// is ever late.
    public var lateness: Duration? = .seconds(60)
    /// Spans that end further ahead of the clock than this are discarded. Default 60 s. Nil takes any.
    public var maxFuture: Duration? = .seconds(60)
    /// Attributes that name the group of a received span, of the span or of its resource; the first that is there
    /// counts. Default `device.group`, then `service.name`.
    public var groupBy = ["device.group", "service.name"]
    /// Further groupings, each with groups and cells, and so with memory, of its own: by one attribute, or by a pair. A
    /// span counts in those whose attributes it has. Default none; at most 7.
    public var views: [HeatmapView] = []
    /// Latencies above each of these are counted exactly, not by bucket. Default 50, 100 and 200 ms; at most 4.
    public var thresholds: [Duration] = [.milliseconds(50), .milliseconds(100), .milliseconds(200)]
    /// Most memory for cells, in bytes. Beyond it, from the oldest window on, exemplars are dropped, then resolution, then
    /// the windows. Default 1.2 GB.
    public var memoryLimitBytes = 1_200_000_000
    /// A request that is byte for byte the same as one that came within this time is a repetition, sent because the
    /// answer was lost, and is discarded. Default 5 minutes. Zero: none is.
    public var duplicateWindow = Duration.seconds(300)
    /// Requests that are remembered for this; the oldest are forgotten first. Default 16,384, about 0.5 MB.
    public var maxFingerprints = 16_384
    /// Most groups of each view; the rest share the row `(other)`. Default 10,000.
    public var maxGroups = 10_000
    /// Where reports look unless they are told otherwise; spans of other programs, which name no stage, are under `span`,
    /// and reports look there when this stage has nothing. Default `deliver`.
    public var defaultStage = "deliver"
    /// Stages that follow one another, for the breakdown: a latency of each runs from the event's acceptance, except
    /// those that were recorded as parts.
    public var stageChain = ["gateway", "stream", "deliver", "receive"]
    /// Which received spans count; the others are discarded as `filtered`.
    public var filter = SpanFilter()
    /// `service.instance.id` of this process: received spans that carry it are its own, sent back by a collector, and
    /// are discarded, since they have been counted already.
    public var ownInstanceID: String?
    /// Whether all latencies since the start are kept as well, one sketch for each group and stage of the first view: see
    /// `HeatmapEngine.totals()`. They are not part of the memory limit. Default false.
    public var keepsTotals = false
    /// Nanoseconds since 1970; nil only for tests and files, where the last span is "now".
    public var now: @Sendable () -> UInt64 = HeatmapConfiguration.wallClock

    public init() {}

    /// For files: everything is kept, nothing is late or too far ahead, and a message that is there twice counts once.
    public static func files() -> HeatmapConfiguration {
        var configuration = HeatmapConfiguration()
        configuration.retainedWindows = nil
        configuration.lateness = nil
        configuration.maxFuture = nil
        configuration.duplicateWindow = .seconds(366 * 86_400)
        configuration.maxFingerprints = 1 << 20
        configuration.memoryLimitBytes = .max
        return configuration
    }

    @Sendable static func wallClock() -> UInt64 {
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }

    func validate() throws(HeatmapError) {
        guard window >= .seconds(1), window.nanoseconds % 1_000_000_000 == 0 else {
            throw HeatmapError(code: .invalidConfiguration, cause: "window: \(window) is not a whole number of seconds")
        }
        guard maxGroups > 0, maxGroups <= 1_000_000 else {
            throw HeatmapError(code: .invalidConfiguration, cause: "max_groups: \(maxGroups) is not from 1 to 1000000")
        }
        guard !groupBy.isEmpty, groupBy.count <= 8 else {
            throw HeatmapError(
                code: .invalidConfiguration, cause: "group_by: \(groupBy.count) attributes; give from 1 to 8")
        }
        guard views.count <= 7, views.allSatisfy({ (1...2).contains($0.attributes.count) }) else {
            throw HeatmapError(
                code: .invalidConfiguration, cause: "views: \(views.count); give at most 7 of one or two attributes")
        }
        guard thresholds.count <= OpenCell.maxThresholds else {
            throw HeatmapError(
                code: .invalidConfiguration,
                cause: "thresholds: \(thresholds.count) are more than \(OpenCell.maxThresholds)")
        }
        guard memoryLimitBytes >= 1 << 20 else {
            throw HeatmapError(
                code: .invalidConfiguration, cause: "memory_limit: \(memoryLimitBytes) bytes are less than 1 MiB")
        }
        guard (0...(1 << 24)).contains(maxFingerprints) else {
            throw HeatmapError(
                code: .invalidConfiguration, cause: "max_fingerprints: \(maxFingerprints) is not from 0 to 16777216")
        }
        if let retainedWindows, retainedWindows < 1 {
            throw HeatmapError(
                code: .invalidConfiguration, cause: "retained_windows: \(retainedWindows) is not at least 1")
        }
    }
}

/// Which received spans count. Everything that is given must hold.
public struct SpanFilter: Sendable, Equatable {
    public var name: String?
    /// OTLP's number: 1 internal, 2 server, 3 client, 4 producer, 5 consumer.
    public var kind: UInt32?
    /// The resource's `service.name`.
    public var service: String?
    /// Values of attributes of the span or, if it does not have them, of its resource.
    public var attributes: [String: String] = [:]

    public init(name: String? = nil, kind: UInt32? = nil, service: String? = nil) {
        self.name = name
        self.kind = kind
        self.service = service
    }
}

/// A setting or a question that cannot be used.
public struct HeatmapError: Error, Sendable, CustomStringConvertible {
    public enum Code: String, Sendable, CaseIterable {
        case invalidConfiguration = "invalid_configuration"
        case invalidQuery = "invalid_query"
        case storage
    }

    public let code: Code
    public let cause: String
    public var description: String { cause }

    public init(code: Code, cause: String) {
        self.code = code
        self.cause = cause
    }
}

extension Duration {
    /// Whole nanoseconds, not below zero and not beyond 64 bits.
    var nanoseconds: UInt64 {
        let (seconds, attoseconds) = components
        guard seconds >= 0, attoseconds >= 0 else { return 0 }
        let (whole, overflow) = UInt64(seconds).multipliedReportingOverflow(by: 1_000_000_000)
        return overflow ? .max : whole.saturatingAdding(UInt64(attoseconds) / 1_000_000_000)
    }
}
