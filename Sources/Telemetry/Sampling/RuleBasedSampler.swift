private struct RuleBased: SamplingPolicy {
    let rules: [(condition: SpanCondition, sampler: Sampler)]
    let otherwise: Sampler
    let description: String

    init(_ rules: [(SpanCondition, Sampler)], otherwise: Sampler) {
        self.rules = rules.map { ($0.0, $0.1) }
        self.otherwise = otherwise
        let list = rules.map { "(\($0.0):\($0.1))" }.joined(separator: ",")
        description = "RuleBased{[\(list)],otherwise:\(otherwise)}"
    }

    func shouldSample(_ parameters: SamplingParameters) -> SamplingResult {
        for rule in rules where rule.condition.matches(parameters) { return rule.sampler.sample(parameters) }
        return otherwise.sample(parameters)
    }
}

private struct RecordOnly: SamplingPolicy {
    let description = "RecordOnlySampler"

    func shouldSample(_ parameters: SamplingParameters) -> SamplingResult {
        SamplingResult(decision: .recordOnly, traceState: parameters.parent?.traceState)
    }
}

private struct AlwaysRecord: SamplingPolicy {
    let root: Sampler
    var description: String { "AlwaysRecordSampler{\(root)}" }

    func shouldSample(_ parameters: SamplingParameters) -> SamplingResult {
        var result = root.sample(parameters)
        if result.decision == .drop { result.decision = .recordOnly }
        return result
    }
}

extension Sampler {
    /// The first rule whose condition holds decides; where none does, `otherwise`.
    ///
    ///     .ruleBased([
    ///         (.name("GET /livez"), .alwaysOff),
    ///         (.attribute("tenant.id", .string("acme")), .alwaysOn),
    ///     ], otherwise: .traceIDRatio(0.05))
    ///
    /// Usually the root of a `parentBased`: otherwise a trace may lose single spans.
    public static func ruleBased(_ rules: [(SpanCondition, Sampler)], otherwise: Sampler = .alwaysOff) -> Sampler {
        .custom(RuleBased(rules, otherwise: otherwise))
    }

    /// Records every span for metrics and the heatmap, and exports none.
    public static let recordOnly = Sampler.custom(RecordOnly())

    /// Records what `root` would drop, without exporting it: metrics count every span, the collector gets the sample.
    public static func alwaysRecord(_ root: Sampler) -> Sampler { .custom(AlwaysRecord(root: root)) }
}
