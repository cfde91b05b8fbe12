/// What a report should show. The names of the parameters are the command line's options and the URL's.
public struct HeatmapQuery: Sendable {
    /// Most windows in one grid.
    public static let maxWindows = 1_500
    /// Most thresholds in one question.
    static let maxThresholds = OpenCell.maxThresholds

    public enum Order: String, Sendable, CaseIterable { case name, slowest, count }

    public enum View: String, Sendable, CaseIterable {
        /// Groups by windows: a quantile in each cell.
        case grid
        /// Latencies by windows, of one group: a count in each cell.
        case distribution
        /// Groups by thresholds: how many latencies are below, and how fast an objective's budget is used up.
        case slo
    }

    public var view = View.grid
    /// Shows this group alone. Nil: all; their distribution is that of all together.
    public var group: String?
    /// Attribute that names the groups, or a pair of them joined by `+`; must be one that the engine groups by. Nil: the
    /// engine's first.
    public var by: String?
    /// What attributes must be. The engine must group by them together with `by`.
    public var filters: [(attribute: String, value: String)] = []
    /// Conditions that held already when the latencies were counted, for the report to name.
    public var appliedFilters: [String] = []
    /// What each cell is compared with. Nil: nothing.
    public var comparison: Comparison?
    /// From 0 to 1. Default 0.95.
    public var quantile = 0.95
    /// Length of a column; a multiple of the engine's window. Nil: the engine's, or for a range of
    /// more than 60 of these the shortest usual length that gives at most 60 columns.
    public var window: Duration?
    /// Stage whose latencies are shown. Nil: `deliver`, or `span` when only other programs' spans are there.
    public var stage: String?
    /// Start of the range. Nil: 60 columns before its end, or the first latency.
    public var since: TimeBound?
    /// End of the range. Nil: the last latency.
    public var until: TimeBound?
    /// Zone for alignment and for times: `UTC`, `local`, a name, or an offset. Default `UTC`.
    public var timeZone = "UTC"
    /// Thresholds; the first is the one of `over_slo_count`. Empty: where the highest level begins, and for the view `slo`
    /// where each of them does.
    public var slos: [Duration] = []
    /// Part of the latencies that ought not to be above a threshold, between 0 and 1. Default 0.99.
    public var objective = 0.99
    /// Where yellow, orange and red begin. Default 50, 100 and 200 ms.
    public var levels: [Duration] = [.milliseconds(50), .milliseconds(100), .milliseconds(200)]
    public var order = Order.name
    /// Shows only groups whose names begin with this, without it. Empty: all.
    public var groupPrefix = ""
    /// Most rows; the rest is left out, and said so. Nil: all.
    public var limit: Int?

    /// A moment, or a time before now.
    public enum TimeBound: Sendable, Equatable, CustomStringConvertible {
        case unixNano(UInt64)
        case ago(Duration)

        public var description: String {
            switch self {
            case .unixNano(let moment): CivilTime.utc.rfc3339(Int64(moment / 1_000_000_000))
            case .ago(let age): Figures.span(Int64(age.nanoseconds / 1_000_000_000)) + " ago"
            }
        }
    }

    public enum Comparison: Sendable, Equatable, CustomStringConvertible {
        /// The same windows so long before.
        case earlier(Duration)
        /// The windows of another range, the first with the first.
        case range(TimeBound, TimeBound)
        /// Two values of one attribute: what is shown is the second.
        case values(attribute: String, baseline: String, shown: String)

        public var description: String {
            switch self {
            case .earlier(let distance): "\(Figures.span(Int64(distance.nanoseconds / 1_000_000_000))) before"
            case .range(let since, let until): "\(since)..\(until)"
            case .values(let attribute, let baseline, let shown): "\(attribute) \(shown) against \(baseline)"
            }
        }
    }

    public init() {}

    /// Reads parameters as they come from a URL or a command line; names the value, what is allowed, and a remedy.
    public init(items: [(name: String, value: String)]) throws(HeatmapError) {
        for (name, value) in items {
            switch name {
            case "by": by = value
            case "where": filters.append(try Self.condition(value))
            case "compare": comparison = try Self.comparison(value)
            case "against":
                guard let (since, until) = Self.halves(value, around: "..") else {
                    throw Self.invalid("against: \"\(value)\" is no range; give for example 2d..1d")
                }
                comparison = .range(try Self.bound(since, name), try Self.bound(until, name))
            case "quantile": quantile = try Self.quantile(value)
            case "window": window = try Self.duration(value, name)
            case "stage": stage = value
            case "since": since = try Self.bound(value, name)
            case "until": until = try Self.bound(value, name)
            case "tz":
                guard CivilTime(named: value) != nil else {
                    throw Self.invalid("tz: \"\(value)\" is no zone; give UTC, local, Asia/Shanghai or +08:00")
                }
                timeZone = value
            case "slo":
                slos = try value.split(separator: ",", omittingEmptySubsequences: false).map {
                    text throws(HeatmapError) in
                    try Self.duration(String(text), name)
                }
            case "view":
                guard let known = View(rawValue: value) else {
                    throw Self.invalid("view: \"\(value)\" is none of grid, distribution, slo")
                }
                view = known
            case "group": group = value
            case "objective": objective = try Self.objective(value)
            case "levels": levels = try Self.levels(value)
            case "sort":
                guard let known = Order(rawValue: value) else {
                    throw Self.invalid("sort: \"\(value)\" is none of name, slowest, count")
                }
                order = known
            case "limit":
                guard let number = Int(value), number >= 0 else {
                    throw Self.invalid("limit: \"\(value)\" is no number of rows; 0 shows all")
                }
                limit = number == 0 ? nil : number
            default:
                throw Self.invalid(
                    "\"\(name.prefix(64))\" is no parameter; there are \(Self.names.joined(separator: ", "))")
            }
        }
    }

    /// Names of the parameters.
    public static let names = [
        "view", "by", "group", "where", "quantile", "window", "stage", "since", "until", "tz", "compare", "against",
        "slo", "objective", "levels", "sort", "limit",
    ]

    /// `tenant.id=acme`.
    private static func condition(_ text: String) throws(HeatmapError) -> (attribute: String, value: String) {
        guard let (attribute, value) = halves(text, around: "="), !attribute.isEmpty, !value.isEmpty else {
            throw invalid("where: \"\(text)\" is no condition; give for example tenant.id=acme")
        }
        return (attribute, value)
    }

    /// `1d`, or `app.version=v1,v2`.
    private static func comparison(_ text: String) throws(HeatmapError) -> Comparison {
        if let (attribute, values) = halves(text, around: "="), let (baseline, shown) = halves(values, around: ","),
            !attribute.isEmpty, !baseline.isEmpty, !shown.isEmpty
        {
            return .values(attribute: attribute, baseline: baseline, shown: shown)
        }
        guard let distance = try? duration(text, "compare") else {
            throw invalid(
                "compare: \"\(text)\" is neither a time before, such as 1d, nor two values, such as app.version=v1,v2")
        }
        return .earlier(distance)
    }

    /// What is before and after the first occurrence.
    private static func halves(_ text: String, around mark: String) -> (String, String)? {
        guard let place = text.firstRange(of: mark) else { return nil }
        return (String(text[..<place.lowerBound]), String(text[place.upperBound...]))
    }

    /// What must be counted exactly for the answer.
    var thresholds: [Duration] {
        if !slos.isEmpty { return slos }
        return view == .slo ? levels : [levels[2]]
    }

    static func invalid(_ cause: String) -> HeatmapError { HeatmapError(code: .invalidQuery, cause: cause) }

    /// What the texts are checked for when they are read, for queries that were put together in a program.
    func validate() throws(HeatmapError) {
        guard quantile >= 0, quantile <= 1 else { throw Self.invalid("quantile: \(quantile) is not from 0 to 1") }
        guard levels.count == 3, levels[0] < levels[1], levels[1] < levels[2] else {
            throw Self.invalid("levels: \(levels) are not three ascending durations")
        }
        if let limit, limit < 0 { throw Self.invalid("limit: \(limit) is no number of rows") }
        guard objective > 0, objective < 1 else {
            throw Self.invalid("objective: \(objective) is not between 0 and 1")
        }
        guard slos.count <= Self.maxThresholds else {
            throw Self.invalid("slo: \(slos.count) thresholds are more than \(Self.maxThresholds)")
        }
        if view != .grid, comparison != nil {
            throw Self.invalid(
                "view: \(view.rawValue) compares nothing; leave out compare and against, or show the grid")
        }
    }

    /// `99.9%`, `99.9` or `0.999`.
    private static func objective(_ text: String) throws(HeatmapError) -> Double {
        let digits = text.hasSuffix("%") ? String(text.dropLast()) : text
        guard let number = Double(digits), number > 0, number < 100 else {
            throw invalid("objective: \"\(text)\" is no part of a whole; give 99.9% or 0.999")
        }
        return number >= 1 || digits != text ? number / 100 : number
    }

    /// `0.95`, `95`, `p95` or `P99.9`.
    private static func quantile(_ text: String) throws(HeatmapError) -> Double {
        let digits = text.lowercased().hasPrefix("p") ? String(text.dropFirst()) : text
        guard let number = Double(digits), number > 0, number <= 100 else {
            throw invalid("quantile: \"\(text)\" is no quantile; give 0.95, 95 or p95")
        }
        return number > 1 || digits != text ? number / 100 : number
    }

    /// `500ms`, `30s`, `5m`, `1h`, `1d`.
    static func duration(_ text: String, _ name: String) throws(HeatmapError) -> Duration {
        let units: [(String, Int64)] = [
            ("ms", 1_000_000), ("s", 1_000_000_000), ("m", 60_000_000_000), ("h", 3_600_000_000_000),
            ("d", 86_400_000_000_000),
        ]
        for (unit, nanoseconds) in units where text.hasSuffix(unit) {
            guard let number = Int64(text.dropLast(unit.count)), number > 0, number < 1_000_000 else { continue }
            let (total, overflow) = number.multipliedReportingOverflow(by: nanoseconds)
            guard !overflow else { break }
            return .nanoseconds(total)
        }
        throw invalid("\(name): \"\(text)\" is no duration; give for example 500ms, 30s, 5m, 1h or 1d")
    }

    private static func bound(_ text: String, _ name: String) throws(HeatmapError) -> TimeBound {
        if let moment = CivilTime.parse(text) { return .unixNano(moment) }
        do { return .ago(try duration(text, name)) } catch {
            throw invalid(
                "\(name): \"\(text)\" is neither a time (2026-11-23T08:00:00Z) nor a duration before now (4h)")
        }
    }

    private static func levels(_ text: String) throws(HeatmapError) -> [Duration] {
        var levels: [Duration] = []
        for part in text.split(separator: ",") { levels.append(try duration(String(part), "levels")) }
        guard levels.count == 3, levels[0] < levels[1], levels[1] < levels[2] else {
            throw invalid("levels: \"\(text)\"; give three ascending durations, for example 50ms,100ms,200ms")
        }
        return levels
    }
}
