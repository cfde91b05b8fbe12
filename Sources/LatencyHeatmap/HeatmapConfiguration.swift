import Glibc

/// How latencies become cells.
public struct HeatmapConfiguration: Sendable {
    /// Length of the windows that are kept; reports can join several into one. Default 60 s.
    public var window = Duration.seconds(60)
    /// How many windows are kept; older ones are forgotten. Default 1440, a day of minutes. Nil keeps all.
    public var retainedWindows: Int? = 1_440
    /// A span that comes later than this after its window has ended marks the cell as revised. Default 60 s. Nil: none
    /// is ever late.
    public var lateness: Duration? = .seconds(60)
    /// Spans that end further ahead of the clock than this are discarded. Default 60 s. Nil takes any.
    public var maxFuture: Duration? = .seconds(60)
    /// Attributes that name the group of a received span, of the span or of its resource; the first that is there
    /// counts. Default `device.group`, then `service.name`.
    public var groupBy = ["device.group", "service.name"]
    /// Most groups; the rest share the row `(other)`. Default 10,000.
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
    /// Nanoseconds since 1970; nil only for tests and files, where the last span is "now".
    public var now: @Sendable () -> UInt64 = HeatmapConfiguration.wallClock

    public init() {}

    /// For files: everything is kept, and nothing is late or too far ahead.
    public static func files() -> HeatmapConfiguration {
        var configuration = HeatmapConfiguration()
        configuration.retainedWindows = nil
        configuration.lateness = nil
        configuration.maxFuture = nil
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
