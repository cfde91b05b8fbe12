import Glibc
import OTLP

/// The tracer's settings, with OpenTelemetry's defaults.
public struct TelemetryConfiguration: Sendable {
    public enum Compression: String, Sendable, CaseIterable {
        case none, gzip
    }

    /// Where spans go, a full URL; nil exports nothing. OpenTelemetry's default is `http://localhost:4318/v1/traces`;
    /// here nothing leaves the process unless somebody says where to.
    public var endpoint: String?
    /// `OTEL_SDK_DISABLED`.
    public var isDisabled = false
    /// Sent with every request. Values are never logged.
    public var headers: [(String, String)] = []
    /// `OTEL_EXPORTER_OTLP_COMPRESSION`. Default none.
    public var compression = Compression.none
    /// For one request. `OTEL_EXPORTER_OTLP_TIMEOUT`, default 10 s.
    public var timeout = Duration.seconds(10)
    /// For one batch with all its retries. `OTEL_BSP_EXPORT_TIMEOUT`, default 30 s.
    public var exportTimeout = Duration.seconds(30)
    /// Between two exports. `OTEL_BSP_SCHEDULE_DELAY`, default 5 s.
    public var scheduleDelay = Duration.seconds(5)
    /// Spans that a thread may hold, and that may wait for the exporter. `OTEL_BSP_MAX_QUEUE_SIZE`, default 2,048.
    public var maxQueueSize = 2_048
    /// Spans in one request, at most 8,192. `OTEL_BSP_MAX_EXPORT_BATCH_SIZE`, default 512.
    public var maxExportBatchSize = 512
    /// `OTEL_TRACES_SAMPLER`, default `parentbased_always_on`.
    public var sampler = Sampler.parentBased(.alwaysOn)
    public var limits = SpanLimits()
    public var resource = Resource(attributes: ResourceDetection.attributes(serviceName: nil))
    /// Gets a line for a person when spans are lost, at most one a minute, on the exporter's thread.
    public var report: @Sendable (String) -> Void = { _ in }

    public init() {}

    /// Reads `OTEL_*`. A value that cannot be used is left out, with a warning that names it.
    public static func fromEnvironment(
        _ environment: [String: String]
    ) -> (configuration: TelemetryConfiguration, warnings: [String]) {
        var reader = EnvironmentReader(environment: environment)
        var configuration = TelemetryConfiguration()
        configuration.isDisabled = reader.flag("OTEL_SDK_DISABLED")
        configuration.readExporter(&reader)
        configuration.readProcessor(&reader)
        configuration.readSampler(&reader)
        var attributes = reader.list("OTEL_RESOURCE_ATTRIBUTES")
        var name = attributes.first { $0.0 == "service.name" }?.1
        if let explicit = reader.text("OTEL_SERVICE_NAME") { name = explicit }
        attributes.removeAll { $0.0 == "service.name" }
        var merged = ResourceDetection.attributes(serviceName: name)
        for (key, value) in attributes {
            merged.removeAll { $0.key == key }
            merged.append(KeyValue(key, .string(value)))
        }
        configuration.resource = Resource(attributes: merged)
        return (configuration, reader.warnings)
    }

    private mutating func readExporter(_ reader: inout EnvironmentReader) {
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

    private mutating func readProcessor(_ reader: inout EnvironmentReader) {
        if let value = reader.text("OTEL_BSP_SCHEDULE_DELAY"),
            let delay = reader.milliseconds("OTEL_BSP_SCHEDULE_DELAY", value)
        {
            scheduleDelay = delay
        }
        if let value = reader.text("OTEL_BSP_EXPORT_TIMEOUT"),
            let limit = reader.milliseconds("OTEL_BSP_EXPORT_TIMEOUT", value)
        {
            exportTimeout = limit
        }
        if let size = reader.number("OTEL_BSP_MAX_QUEUE_SIZE", in: 1...1_048_576) { maxQueueSize = size }
        if let size = reader.number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", in: 1...8_192) { maxExportBatchSize = size }
        if let count = reader.number("OTEL_ATTRIBUTE_COUNT_LIMIT", in: 0...65_535) { limits.attributeCount = count }
        if let count = reader.number("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", in: 0...65_535) {
            limits.attributeCount = count
        }
        let length = reader.number("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", in: 0...Int(Int32.max))
        limits.attributeValueLength =
            reader.number("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", in: 0...Int(Int32.max)) ?? length
    }

    private mutating func readSampler(_ reader: inout EnvironmentReader) {
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

/// Reads variables by OpenTelemetry's rules: empty equals unset, only `true` is true, a bad value is a warning.
struct EnvironmentReader {
    let environment: [String: String]
    private(set) var warnings: [String] = []

    init(environment: [String: String]) { self.environment = environment }

    mutating func warn(_ text: String) { warnings.append(text) }

    func text(_ name: String) -> String? {
        guard let value = environment[name] else { return nil }
        let trimmed = Self.trimmed(value[...])
        return trimmed.isEmpty ? nil : String(trimmed)
    }

    /// The traces' own variable, else the one for all signals.
    func specific(_ suffix: String) -> (name: String, value: String)? {
        for name in ["OTEL_EXPORTER_OTLP_TRACES_\(suffix)", "OTEL_EXPORTER_OTLP_\(suffix)"] {
            if let value = text(name) { return (name, value) }
        }
        return nil
    }

    mutating func flag(_ name: String) -> Bool {
        guard let value = text(name)?.lowercased() else { return false }
        if value != "true", value != "false" { warn("\(name)=\(value) is neither true nor false; false is used") }
        return value == "true"
    }

    mutating func number(_ name: String, in range: ClosedRange<Int>) -> Int? {
        guard let value = text(name) else { return nil }
        guard let number = Int(value), range.contains(number) else {
            warn("\(name)=\(value) is not a number from \(range.lowerBound) to \(range.upperBound); it is ignored")
            return nil
        }
        return number
    }

    mutating func milliseconds(_ name: String, _ value: String) -> Duration? {
        guard let number = Int64(value), number > 0 else {
            warn("\(name)=\(value) is not a number of milliseconds above 0; it is ignored")
            return nil
        }
        return .milliseconds(number)
    }

    /// `key=value,key=value`, percent-encoded as in W3C Baggage. A member that is not valid is left out.
    mutating func list(_ name: String) -> [(String, String)] {
        guard let text = text(name) else { return [] }
        var members: [(String, String)] = []
        for member in text.split(separator: ",") {
            let member = Self.trimmed(member)
            if member.isEmpty { continue }
            guard let equals = member.firstIndex(of: "="), Self.isToken(Self.trimmed(member[..<equals])),
                let value = Self.percentDecoded(Self.trimmed(member[member.index(after: equals)...])),
                // A line end would forge a header.
                !value.utf8.contains(where: { $0 < 0x20 || $0 == 0x7F })
            else {
                warn("\(name): a member is not key=value and is ignored")
                continue
            }
            members.append((String(Self.trimmed(member[..<equals])), value))
        }
        return members
    }

    /// RFC 9110, section 5.6.2: what a header's name may be, and a key in W3C Baggage.
    private static func isToken(_ text: Substring) -> Bool {
        !text.isEmpty
            && text.utf8.allSatisfy { byte in
                switch byte {
                case 0x30...0x39, 0x41...0x5A, 0x61...0x7A: true
                default: "!#$%&'*+-.^_`|~".utf8.contains(byte)
                }
            }
    }

    private static func trimmed(_ text: Substring) -> Substring {
        var text = text
        while let first = text.utf8.first, first == 0x20 || first == 0x09 { text.removeFirst() }
        while let last = text.utf8.last, last == 0x20 || last == 0x09 { text.removeLast() }
        return text
    }

    private static func percentDecoded(_ text: Substring) -> String? {
        var bytes: [UInt8] = []
        var rest = text.utf8[...]
        while let byte = rest.popFirst() {
            guard byte == UInt8(ascii: "%") else {
                bytes.append(byte)
                continue
            }
            let digits = rest.prefix(2)
            guard digits.count == 2, digits.first != UInt8(ascii: "+"), digits.first != UInt8(ascii: "-"),
                let value = UInt8(String(decoding: digits, as: UTF8.self), radix: 16)
            else { return nil }
            bytes.append(value)
            rest = rest.dropFirst(2)
        }
        return String(validating: bytes, as: UTF8.self)
    }
}

/// What can be known of this process without being told.
enum ResourceDetection {
    static func attributes(serviceName: String?) -> [KeyValue] {
        var info = utsname()
        uname(&info)
        return [
            KeyValue("service.name", .string(serviceName ?? "unknown_service:\(executableName)")),
            KeyValue("service.instance.id", .string(randomUUID())),
            KeyValue("service.version", .string(SDKVersion.current)),
            KeyValue("telemetry.sdk.name", "isotherm"),
            KeyValue("telemetry.sdk.language", "swift"),
            KeyValue("telemetry.sdk.version", .string(SDKVersion.current)),
            KeyValue("host.name", .string(text(info.nodename))),
            KeyValue("host.arch", .string(text(info.machine))),
            KeyValue("os.type", "linux"),
            KeyValue("process.pid", .int(Int64(getpid()))),
            KeyValue("process.executable.name", .string(executableName)),
            KeyValue("process.runtime.name", "swift"),
        ]
    }

    private static var executableName: String {
        let path = CommandLine.arguments.first ?? "isotherm"
        return String(path.split(separator: "/").last ?? "isotherm")
    }

    private static func text<Tuple>(_ tuple: Tuple) -> String {
        withUnsafeBytes(of: tuple) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
    }

    /// Version 4, RFC 9562.
    private static func randomUUID() -> String {
        var system = SystemRandomNumberGenerator()
        let high = system.next() & ~0xF000 | 0x4000
        let low = system.next() & ~(3 << 62) | 2 << 62
        let digits = TraceID(high: high, low: low).description
        var parts: [Substring] = []
        var rest = digits[...]
        for count in [8, 4, 4, 4, 12] {
            parts.append(rest.prefix(count))
            rest = rest.dropFirst(count)
        }
        return parts.joined(separator: "-")
    }
}
