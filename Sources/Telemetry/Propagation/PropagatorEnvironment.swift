extension TelemetryConfiguration {
    /// `OTEL_PROPAGATORS`: names separated by commas, each once.
    mutating func readPropagators(_ reader: inout EnvironmentReader) {
        guard let text = reader.text("OTEL_PROPAGATORS") else { return }
        var members: [any Propagator] = []
        var isNone = false
        for name in text.utf8.split(separator: UInt8(ascii: ",")) {
            let name = Substring(name.trimmed)
            if name.isEmpty { continue }
            let member: (any Propagator)? =
                switch name.lowercased() {
                case "tracecontext": TraceContextPropagator()
                case "baggage": BaggagePropagator()
                case "b3": B3Propagator(.single)
                case "b3multi": B3Propagator(.multi)
                default: nil
                }
            if let member {
                if !members.contains(where: { $0.name == member.name }) { members.append(member) }
            } else if name.lowercased() == "none" {
                isNone = true
            } else {
                reader.warn("OTEL_PROPAGATORS: \(name) is not known and is ignored")
            }
        }
        if isNone, !members.isEmpty {
            reader.warn("OTEL_PROPAGATORS=\(text) has none among others; none is ignored")
        }
        if isNone || !members.isEmpty { propagators = Propagators(members) }
    }
}
