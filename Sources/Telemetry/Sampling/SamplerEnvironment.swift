extension TelemetryConfiguration {
    mutating func readSampler(_ reader: inout EnvironmentReader) {
        guard let name = reader.text("OTEL_TRACES_SAMPLER") else { return }
        var ratio = 1.0
        if name.hasSuffix("traceidratio"), let text = reader.text("OTEL_TRACES_SAMPLER_ARG") {
            if let value = Double(text), value >= 0, value <= 1 {
                ratio = value
            } else {
                reader.warn("OTEL_TRACES_SAMPLER_ARG=\(text) is not a number from 0 to 1; 1 is used")
            }
        }
        switch name {
        case "always_on": sampler = .alwaysOn
        case "always_off": sampler = .alwaysOff
        case "traceidratio": sampler = .traceIDRatio(ratio)
        case "parentbased_always_on": sampler = .parentBased(.alwaysOn)
        case "parentbased_always_off": sampler = .parentBased(.alwaysOff)
        case "parentbased_traceidratio": sampler = .parentBased(.traceIDRatio(ratio))
        default: reader.warn("OTEL_TRACES_SAMPLER=\(name) is not known; parentbased_always_on is used")
        }
    }
}
