import Glibc

extension TelemetryConfiguration {
    mutating func readExporters(_ reader: inout EnvironmentReader) {
        for signal in Signal.allCases { self[signal].read(signal, &reader) }
        let maxBytes = reader.number("ISOTHERM_TELEMETRY_QUEUE_MAX_BYTES", in: DiskQueueSettings.byteRange)
        if let directory = reader.text("ISOTHERM_TELEMETRY_QUEUE_DIR") {
            var settings = DiskQueueSettings(directory: directory)
            if let maxBytes { settings.maxBytes = maxBytes }
            diskQueue = settings
        } else if maxBytes != nil {
            reader.warn("ISOTHERM_TELEMETRY_QUEUE_MAX_BYTES is ignored without ISOTHERM_TELEMETRY_QUEUE_DIR")
        }
    }
}

extension OTLPExporterSettings {
    /// `OTEL_EXPORTER_OTLP_<SIGNAL>_…` before `OTEL_EXPORTER_OTLP_…`.
    mutating func read(_ signal: Signal, _ reader: inout EnvironmentReader) {
        guard Self.isWanted(signal, &reader) else { return }
        readEndpoint(signal, &reader)
        if let found = reader.specific("PROTOCOL", signal) {
            if let known = Encoding(rawValue: found.value.lowercased()) {
                encoding = known
            } else {
                reader.warn(
                    "\(found.name)=\(found.value): only http/protobuf and http/json are supported; http/protobuf is used"
                )
            }
        }
        let own = reader.list("OTEL_EXPORTER_OTLP_\(signal.variableName)_HEADERS")
        headers = own.isEmpty ? reader.list("OTEL_EXPORTER_OTLP_HEADERS") : own
        if let found = reader.specific("COMPRESSION", signal) {
            if let known = Compression(rawValue: found.value.lowercased()) {
                compression = known
            } else {
                reader.warn("\(found.name)=\(found.value): only none, gzip and zstd are known; none is used")
            }
        }
        if let found = reader.specific("TIMEOUT", signal), let value = reader.milliseconds(found.name, found.value) {
            timeout = value
        }
        certificateFile = Self.file("CERTIFICATE", "CERTIFICATE", signal, &reader)
        clientCertificateFile = Self.file("CLIENT_CERTIFICATE", "CERTIFICATE", signal, &reader)
        clientKeyFile = Self.file("CLIENT_KEY", "PRIVATE KEY", signal, &reader)
        if (clientKeyFile == nil) != (clientCertificateFile == nil) {
            reader.warn(
                "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY belong together; only one is set "
                    + "for \(signal.rawValue)")
        }
    }

    /// `OTEL_TRACES_EXPORTER` and its like: a list of exporters, of which only OTLP is one.
    private static func isWanted(_ signal: Signal, _ reader: inout EnvironmentReader) -> Bool {
        let name = "OTEL_\(signal.variableName)_EXPORTER"
        guard let list = reader.text(name)?.lowercased() else { return true }
        var isNone = false
        for member in list.split(separator: ",") {
            switch member.drop(while: { $0 == " " }).prefix(while: { $0 != " " }) {
            case "otlp": return true
            case "none": isNone = true
            // Metrics are always there to be scraped.
            case "prometheus" where signal == .metrics: isNone = true
            case let other: reader.warn("\(name)=\(other): only otlp and none are known; otlp is used")
            }
        }
        return !isNone
    }

    private mutating func readEndpoint(_ signal: Signal, _ reader: inout EnvironmentReader) {
        if let own = reader.text("OTEL_EXPORTER_OTLP_\(signal.variableName)_ENDPOINT") {
            endpoint = own
        } else if let general = reader.text("OTEL_EXPORTER_OTLP_ENDPOINT") {
            endpoint = general + (general.hasSuffix("/") ? signal.path : "/" + signal.path)
        }
        if let url = endpoint, !url.hasPrefix("http://"), !url.hasPrefix("https://") {
            reader.warn(
                "the OTLP endpoint \(Self.redacted(url)) does not begin with http:// or https://; nothing is exported")
            endpoint = nil
        }
    }

    /// A PEM file. What cannot be read stays set: without it the exporter would trust or say something else than asked.
    private static func file(
        _ suffix: String, _ kind: String, _ signal: Signal, _ reader: inout EnvironmentReader
    ) -> String? {
        guard let found = reader.specific(suffix, signal) else { return nil }
        let descriptor = open(found.value, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else {
            let cause = String(cString: strerror(errno))
            reader.warn("\(found.name)=\(found.value) cannot be read (\(cause)); requests over https will fail")
            return found.value
        }
        defer { close(descriptor) }
        let start = [UInt8](unsafeUninitializedCapacity: 64 * 1024) { buffer, count in
            count = max(0, Glibc.read(descriptor, buffer.baseAddress, buffer.count))
        }
        if !String(decoding: start, as: UTF8.self).contains("\(kind)-----") {
            reader.warn(
                "\(found.name)=\(found.value) holds no PEM block of the kind \(kind); requests over https will fail")
        }
        return found.value
    }
}
