import Glibc
import OTLP

/// What can be known of this process without being told, by OpenTelemetry's semantic conventions:
/// https://opentelemetry.io/docs/specs/semconv/resource/
public struct ResourceDetection: Sendable, Equatable {
    public enum Detector: String, Sendable, CaseIterable {
        case host, os, process, container
        /// Kubernetes' downward API; see `KubernetesResource`.
        case kubernetes
        /// `process.command_args`. Off unless asked for, since arguments may hold secrets.
        case commandArguments = "command_args"
    }

    public static let standard: Set<Detector> = Set(Detector.allCases).subtracting([.commandArguments])

    /// The conventions that the attributes follow, as an export request names them.
    public static let schemaURL = "https://opentelemetry.io/schemas/1.44.0"

    /// The detectors' attributes, and those of the service and of this library, which are always there.
    ///
    /// - Parameter environment: for Kubernetes' variables.
    public static func attributes(
        serviceName: String? = nil, detectors: Set<Detector> = standard, environment: [String: String] = [:]
    ) -> [KeyValue] {
        let executable = ProcessResource.executablePath
        let name = executable.map(ProcessResource.fileName) ?? "swift"
        var attributes = [
            KeyValue("service.name", .string(serviceName ?? "unknown_service:\(name)")),
            KeyValue("service.instance.id", .string(randomUUID())),
            KeyValue("telemetry.sdk.name", "isotherm"),
            KeyValue("telemetry.sdk.language", "swift"),
            KeyValue("telemetry.sdk.version", .string(SDKVersion.current)),
        ]
        let mounts = SystemFile.text("/proc/self/mountinfo", maxBytes: 1 << 20) ?? ""
        let isInPod = environment["KUBERNETES_SERVICE_HOST"] != nil || ContainerResource.isPod(mountinfo: mounts)
        let containerID = ContainerResource.id(
            cgroup: SystemFile.text("/proc/self/cgroup") ?? "", mountinfo: mounts, isInPod: isInPod)
        if detectors.contains(.host) {
            let isContained =
                containerID != nil || isInPod || SystemFile.exists("/.dockerenv")
                || SystemFile.exists("/run/.containerenv")
            attributes += HostResource.host(isContained: isContained)
        }
        if detectors.contains(.os) { attributes += HostResource.operatingSystem() }
        if detectors.contains(.process) { attributes += ProcessResource.attributes(executable: executable) }
        if detectors.contains(.commandArguments) {
            attributes.append(
                KeyValue("process.command_args", .array(CommandLine.arguments.map { .string($0) })))
        }
        if detectors.contains(.container), let containerID {
            attributes.append(KeyValue("container.id", .string(containerID)))
        }
        if detectors.contains(.kubernetes) {
            attributes += KubernetesResource.attributes(environment: environment, mountinfo: mounts)
        }
        return attributes
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

extension TelemetryConfiguration {
    /// `OTEL_SERVICE_NAME` before `OTEL_RESOURCE_ATTRIBUTES` before what is detected. OpenTelemetry has no variable for
    /// the choice of detectors that holds for every language; `OTEL_EXPERIMENTAL_RESOURCE_DETECTORS` is that of its
    /// Python SDK.
    mutating func readResource(
        _ reader: inout EnvironmentReader, _ serviceName: String?, _ serviceVersion: String?
    ) {
        let problems = reader.warnings.count
        var given = reader.list("OTEL_RESOURCE_ATTRIBUTES")
        // As the specification has it: an error discards the whole list, since half an identity misleads.
        if reader.warnings.count > problems { given = [] }
        if let name = reader.text("OTEL_SERVICE_NAME") {
            given.removeAll { $0.0 == "service.name" }
            given.append(("service.name", name))
        }
        var merged = ResourceDetection.attributes(
            serviceName: serviceName, detectors: Self.detectors(&reader), environment: reader.environment)
        if let serviceVersion { merged.append(KeyValue("service.version", .string(serviceVersion))) }
        for (key, value) in given where !value.isEmpty {
            merged.removeAll { $0.key == key }
            merged.append(KeyValue(key, .string(value)))
        }
        resource = Resource(attributes: merged, schemaURL: ResourceDetection.schemaURL)
    }

    private static func detectors(_ reader: inout EnvironmentReader) -> Set<ResourceDetection.Detector> {
        let variable = "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS"
        guard let text = reader.text(variable) else { return ResourceDetection.standard }
        var chosen: Set<ResourceDetection.Detector> = []
        for name in text.split(separator: ",").map({ $0.trimmed() }) where !name.isEmpty {
            switch name {
            case "*": chosen.formUnion(ResourceDetection.standard)
            // Python's other detectors: always on here.
            case "otel", "none": break
            default:
                if let detector = ResourceDetection.Detector(rawValue: String(name)) {
                    chosen.insert(detector)
                } else {
                    let known = ResourceDetection.Detector.allCases.map(\.rawValue).joined(separator: ", ")
                    reader.warn("\(variable): \(name) is not known and is ignored; known are \(known), *, none")
                }
            }
        }
        return chosen
    }
}

extension Substring {
    /// Without blanks, tabs and line ends around it.
    func trimmed() -> Substring {
        var text = utf8
        while let first = text.first, first <= 0x20 { text.removeFirst() }
        while let last = text.last, last <= 0x20 { text.removeLast() }
        return Substring(text)
    }
}
