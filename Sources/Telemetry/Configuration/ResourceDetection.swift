import Glibc
import OTLP

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
