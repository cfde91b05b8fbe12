import Configuration
import EventStreams
import Foundation
import LatencyHeatmap
import PushPipeline
import PushServer
import Telemetry
import Yams

/// Reads the settings: flags first, then `ISOTHERM_*` from the environment, then the file, then the defaults.
struct SettingsReader {
    let environment: [String: String]

    /// What was found, and what a person should be told about it.
    struct Result {
        var configuration: PushServerConfiguration
        var warnings: [String]
    }

    /// - Parameters:
    ///   - file: path of a YAML file, or nil.
    ///   - flags: by key.
    func read(file: String?, flags: [(key: String, value: String)]) throws -> Result {
        let settings = Setting.all()
        let entries = try file.map(Self.entries) ?? []
        try Self.checkKeys(
            entries.map { ($0.path, " in \(file ?? "")") } + flags.map { (Self.path($0.key), "") }, settings)
        var warnings: [String] = []

        let (telemetry, telemetryWarnings) = TelemetryConfiguration.fromEnvironment(
            environment, serviceName: "isotherm", serviceVersion: TelemetrySDK.version)
        warnings += telemetryWarnings
        var configuration = PushServerConfiguration(dataDirectory: "./isotherm-data", telemetry: telemetry)

        let reader = ConfigReader(providers: [
            Self.provider("flags", flags.map { (Self.path($0.key), $0.value) }),
            EnvironmentVariablesProvider(environmentVariables: environment).prefixKeys(with: "isotherm"),
            Self.provider("file", entries.map { ($0.path, $0.value) }),
        ])
        for setting in settings {
            guard let text = reader.string(forKey: ConfigKey(Self.path(setting.key))) else { continue }
            do { try setting.apply(&configuration, text) } catch {
                throw SettingError("\(setting.key): \(error)")
            }
        }
        if configuration.delivery.spans == .all { makeRoomForBursts(&configuration.telemetry) }
        try readTopics(entries, &configuration)
        try readTenants(entries, &configuration)
        warnings += unknownVariables(settings)
        return Result(configuration: configuration, warnings: warnings)
    }

    /// With a span for each delivery, a broadcast to 10,000 devices of a loop makes as many at once; larger batches make fewer
    /// requests of them.
    private func makeRoomForBursts(_ telemetry: inout TelemetryConfiguration) {
        func isSet(_ name: String) -> Bool { !environment[name, default: ""].isEmpty }
        if !isSet("OTEL_BSP_MAX_QUEUE_SIZE") { telemetry.maxQueueSize = 16_384 }
        if !isSet("OTEL_BSP_MAX_EXPORT_BATCH_SIZE") { telemetry.maxExportBatchSize = 4_096 }
    }

    // MARK: Keys with names in them

    private func readTopics(_ entries: [Entry], _ configuration: inout PushServerConfiguration) throws {
        for entry in entries where entry.path.starts(with: ["gateway", "topics"]) && entry.path.count == 3 {
            guard let durability = Durability(rawValue: entry.value) else {
                let known = Durability.allCases.map(\.rawValue).joined(separator: ", ")
                throw SettingError("\(entry.key): \"\(entry.value)\" is none of \(known)")
            }
            configuration.gateway.topics[entry.path[2]] = durability
        }
    }

    private func readTenants(_ entries: [Entry], _ configuration: inout PushServerConfiguration) throws {
        var tenants: [String: TenantConfiguration] = [:]
        for entry in entries where entry.path.first == "tenants" {
            let name = entry.path[1]
            var tenant = tenants[name] ?? TenantConfiguration(name: name, tokens: [])
            do {
                switch entry.path[2] {
                case "tokens": tenant.tokens = Values.list(entry.value)
                case "events_per_second": tenant.quota.eventsPerSecond = try Values.number(entry.value)
                case "event_burst": tenant.quota.eventBurst = try Values.number(entry.value)
                case "bytes_per_second": tenant.quota.bytesPerSecond = try Values.number(entry.value)
                case "byte_burst": tenant.quota.byteBurst = try Values.number(entry.value)
                default: tenant.quota.connections = try Values.integer(entry.value)
                }
            } catch {
                throw SettingError("\(entry.key): \(error)")
            }
            tenants[name] = tenant
        }
        configuration.gateway.tenants = tenants.values.sorted { $0.name < $1.name }
    }

    // MARK: Sources

    /// A leaf of the file; a list is joined with commas.
    struct Entry {
        let path: [String]
        let value: String
        var key: String { path.joined(separator: ".") }
    }

    private static func path(_ key: String) -> [String] { key.split(separator: ".").map(String.init) }

    private static func entries(of file: String) throws -> [Entry] {
        guard let data = FileManager.default.contents(atPath: file) else {
            throw SettingError("\(file) cannot be read; --config takes the path of a YAML file")
        }
        guard data.count <= 1 << 20 else { throw SettingError("\(file) has \(data.count) bytes; the limit is 1048576") }
        let node: Node?
        do { node = try Yams.compose(yaml: String(decoding: data, as: UTF8.self)) } catch {
            throw SettingError("\(file) is not YAML: \(error)")
        }
        guard let node, node.null == nil else { return [] }
        guard let mapping = node.mapping else { throw SettingError("\(file): the top level is not a mapping of keys") }
        var entries: [Entry] = []
        try collect(mapping, [], file, &entries)
        return entries
    }

    private static func collect(_ mapping: Node.Mapping, _ path: [String], _ file: String, _ entries: inout [Entry])
        throws
    {
        for (key, value) in mapping {
            guard let name = key.scalar?.string else { throw SettingError("\(file): a key is not a word") }
            let path = path + [name]
            // A heading with nothing under it, as `--print-config` writes where all of a group is unset.
            if value.null != nil, isHeading(path) { continue }
            switch value {
            case .scalar(let scalar):
                entries.append(Entry(path: path, value: scalar.string))
            case .sequence(let sequence):
                let values = sequence.compactMap { $0.scalar?.string }
                guard values.count == sequence.count, !values.contains(where: { $0.contains(",") }) else {
                    throw SettingError("\(file): \(path.joined(separator: ".")) is not a list of words without commas")
                }
                entries.append(Entry(path: path, value: values.joined(separator: ",")))
            case .mapping(let inner):
                try collect(inner, path, file, &entries)
            case .alias:
                throw SettingError("\(file): \(path.joined(separator: ".")): aliases are not supported")
            }
        }
    }

    private static func isHeading(_ path: [String]) -> Bool {
        let prefix = path.joined(separator: ".") + "."
        return Setting.all().contains { $0.key.hasPrefix(prefix) }
    }

    private static func provider(_ name: String, _ values: [([String], String)]) -> InMemoryProvider {
        var known: [AbsoluteConfigKey: ConfigValue] = [:]
        for (path, value) in values { known[AbsoluteConfigKey(path)] = ConfigValue(.string(value), isSecret: false) }
        return InMemoryProvider(name: name, values: known)
    }

    // MARK: Unknown names

    private static func checkKeys(_ paths: [(path: [String], place: String)], _ settings: [Setting]) throws {
        let known = Set(settings.map(\.key))
        for (path, place) in paths {
            let key = path.joined(separator: ".")
            if known.contains(key) { continue }
            if path.count == 3, path.starts(with: ["gateway", "topics"]) { continue }
            var candidates = Array(known)
            if path.first == "tenants" {
                if path.count == 3, Setting.tenantKeys.contains(where: { $0.key == path[2] }) { continue }
                let name = path.count > 1 ? path[1] : "NAME"
                candidates = Setting.tenantKeys.map { "tenants.\(name).\($0.key)" }
            }
            let hint =
                Spelling.nearest(to: key, among: candidates).map { "; did you mean \"\($0)\"?" }
                ?? "; isotherm serve --print-config lists the keys"
            throw SettingError("unknown key \"\(key)\"\(place)\(hint)")
        }
    }

    private func unknownVariables(_ settings: [Setting]) -> [String] {
        let known = settings.map(\.environmentName)
        return environment.keys.sorted().filter { $0.hasPrefix("ISOTHERM_") && !known.contains($0) }.compactMap {
            name in
            guard let nearest = Spelling.nearest(to: name, among: known) else { return nil }
            return "the environment has \(name), which is no setting; did you mean \(nearest)?"
        }
    }
}

extension PushServerConfiguration {
    /// As a YAML file that gives the same settings; tokens are not shown.
    var yaml: String {
        var text = ""
        var open: [String] = []
        for setting in Setting.all() {
            let path = setting.key.split(separator: ".").map(String.init)
            let parents = Array(path.dropLast())
            for depth in parents.indices where depth >= open.count || open[depth] != parents[depth] {
                text += String(repeating: "  ", count: depth) + parents[depth] + ":\n"
                open = Array(parents[...depth])
            }
            open = parents
            let value = setting.show(self)
            let indent = String(repeating: "  ", count: parents.count)
            let line =
                value.isEmpty
                ? "\(indent)# \(path[parents.count]):" : "\(indent)\(path[parents.count]): \(quoted(value))"
            text += line + String(repeating: " ", count: max(2, 44 - line.count)) + "# \(setting.help)\n"
        }
        for tenant in gateway.tenants {
            text += tenant.name == gateway.tenants[0].name ? "tenants:\n" : ""
            text +=
                "  \(tenant.name):\n    tokens: <redacted>\n    events_per_second: \(tenant.quota.eventsPerSecond)\n"
            text +=
                "    bytes_per_second: \(tenant.quota.bytesPerSecond)\n    connections: \(tenant.quota.connections)\n"
        }
        return text
    }

    private func quoted(_ value: String) -> String {
        value.contains(where: { "*[]{}:,#&!|>'\"%@`".contains($0) }) ? "\"\(value)\"" : value
    }
}
