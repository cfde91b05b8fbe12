extension TelemetryConfiguration {
    mutating func readExporter(_ reader: inout EnvironmentReader) {
        switch reader.text("OTEL_TRACES_EXPORTER")?.lowercased() {
        case nil, "otlp": break
        case "none": return
        case .some(let other): reader.warn("OTEL_TRACES_EXPORTER=\(other): only otlp and none are known; otlp is used")
        }
        if let own = reader.text("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") {
            endpoint = own
        } else if let general = reader.text("OTEL_EXPORTER_OTLP_ENDPOINT") {
            endpoint = general + (general.hasSuffix("/") ? "v1/traces" : "/v1/traces")
        }
        if let url = endpoint, !url.hasPrefix("http://"), !url.hasPrefix("https://") {
            reader.warn("the OTLP endpoint \(url) does not begin with http:// or https://; nothing is exported")
            endpoint = nil
        }
        if let known = reader.specific("PROTOCOL"), known.value != "http/protobuf" {
            reader.warn("\(known.name)=\(known.value): only http/protobuf is supported; it is used")
        }
        let own = reader.list("OTEL_EXPORTER_OTLP_TRACES_HEADERS")
        headers = own.isEmpty ? reader.list("OTEL_EXPORTER_OTLP_HEADERS") : own
        if let found = reader.specific("COMPRESSION") {
            if let known = Compression(rawValue: found.value.lowercased()) {
                compression = known
            } else {
                reader.warn("\(found.name)=\(found.value): only gzip and none are known; none is used")
            }
        }
        if let found = reader.specific("TIMEOUT"), let value = reader.milliseconds(found.name, found.value) {
            timeout = value
        }
    }
}
