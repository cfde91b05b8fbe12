extension TelemetryConfiguration {
    /// `OTEL_TRACES_SAMPLER`, whose names are read in upper and lower case, and `OTEL_TRACES_SAMPLER_ARG`.
    mutating func readSampler(_ reader: inout EnvironmentReader) {
        guard let name = reader.text("OTEL_TRACES_SAMPLER") else { return }
        switch name.lowercased() {
        case "always_on": sampler = .alwaysOn
        case "always_off": sampler = .alwaysOff
        case "traceidratio": sampler = .traceIDRatio(reader.samplingRatio())
        case "parentbased_always_on": sampler = .parentBased(.alwaysOn)
        case "parentbased_always_off": sampler = .parentBased(.alwaysOff)
        case "parentbased_traceidratio": sampler = .parentBased(.traceIDRatio(reader.samplingRatio()))
        case "jaeger_remote", "parentbased_jaeger_remote", "xray":
            reader.warn("OTEL_TRACES_SAMPLER=\(name) is not supported; parentbased_always_on is used")
        default: reader.warn("OTEL_TRACES_SAMPLER=\(name) is not known; parentbased_always_on is used")
        }
    }
}

extension EnvironmentReader {
    /// 1 without the variable, and where it is not a decimal number from 0 to 1.
    fileprivate mutating func samplingRatio() -> Double {
        guard let text = text("OTEL_TRACES_SAMPLER_ARG") else { return 1 }
        // Double also reads hexadecimal digits, which nobody means here.
        guard text.utf8.allSatisfy({ "0123456789+-.eE".utf8.contains($0) }), let ratio = Double(text), ratio >= 0,
            ratio <= 1
        else {
            warn("OTEL_TRACES_SAMPLER_ARG=\(text) is not a number from 0 to 1; 1 is used")
            return 1
        }
        return ratio
    }
}
