import Glibc
import OTLP

/// `host.*` and `os.*`.
enum HostResource {
    /// - Parameter isContained: a container has no `host.id`: what it finds under that name is the image's.
    static func host(isContained: Bool) -> [KeyValue] {
        let system = names()
        var attributes = [
            KeyValue("host.name", .string(system.host)), KeyValue("host.arch", .string(architecture(system.machine))),
        ]
        if !isContained,
            let id = ["/etc/machine-id", "/var/lib/dbus/machine-id"].lazy
                .compactMap({ SystemFile.text($0).flatMap(machineID) }).first
        {
            attributes.append(KeyValue("host.id", .string(id)))
        }
        return attributes
    }

    static func operatingSystem() -> [KeyValue] {
        let text = SystemFile.text("/etc/os-release") ?? SystemFile.text("/usr/lib/os-release") ?? ""
        return [KeyValue("os.type", "linux")] + operatingSystem(release: osRelease(text))
    }

    static func operatingSystem(release: [String: String]) -> [KeyValue] {
        [
            ("os.name", release["NAME"]), ("os.version", release["VERSION_ID"]),
            ("os.description", release["PRETTY_NAME"]), ("os.build_id", release["BUILD_ID"]),
        ].compactMap { key, value in value.flatMap { $0.isEmpty ? nil : KeyValue(key, .string($0)) } }
    }

    /// https://www.freedesktop.org/software/systemd/man/latest/machine-id.html: 32 hexadecimal digits, and not yet that
    /// before the first start.
    static func machineID(_ text: String) -> String? {
        let id = text[...].trimmed()
        guard id.utf8.count == 32, Hex.value(id.utf8.prefix(16)) != nil, Hex.value(id.utf8.suffix(16)) != nil else {
            return nil
        }
        return String(id)
    }

    /// `uname`'s name for the processor as `host.arch` has it; names without one there stay as they are.
    static func architecture(_ machine: String) -> String {
        switch machine {
        case "x86_64": "amd64"
        case "aarch64", "arm64": "arm64"
        case "i386", "i486", "i586", "i686": "x86"
        case "ppc64", "ppc64le": "ppc64"
        case "ppc": "ppc32"
        case _ where machine.hasPrefix("arm"): "arm32"
        default: machine
        }
    }

    /// https://www.freedesktop.org/software/systemd/man/latest/os-release.html: `KEY=value` lines, the value as a shell
    /// reads it, without expansion.
    static func osRelease(_ text: String) -> [String: String] {
        var values: [String: String] = [:]
        for line in text.split(whereSeparator: \.isNewline) {
            let line = line.trimmed()
            guard line.first != "#", let equals = line.firstIndex(of: "=") else { continue }
            values[String(line[..<equals])] = unquoted(line[line.index(after: equals)...])
        }
        return values
    }

    private static func unquoted(_ text: Substring) -> String {
        var result = ""
        var quote: Character?
        var isEscaped = false
        for character in text {
            if isEscaped {
                // In double quotes a backslash stands for itself but before these.
                if quote == "\"", !"\"\\$`".contains(character) { result.append("\\") }
                result.append(character)
                isEscaped = false
            } else if character == "\\", quote != "'" {
                isEscaped = true
            } else if character == quote {
                quote = nil
            } else if quote == nil, character == "\"" || character == "'" {
                quote = character
            } else {
                result.append(character)
            }
        }
        return result
    }

    private static func names() -> (host: String, machine: String) {
        var info = utsname()
        uname(&info)
        func text<Tuple>(_ tuple: Tuple) -> String {
            withUnsafeBytes(of: tuple) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        }
        return (text(info.nodename), text(info.machine))
    }
}
