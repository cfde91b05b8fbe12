import OTLP

/// OpenTelemetry's names, units and attributes as Prometheus takes them.
/// https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/
enum PrometheusName {
    static func exposition(
        name: String, unit: String, description: String, type: MetricType
    ) -> Exposition {
        var text = sanitized(name)
        if type == .counter, text.hasSuffix("_total") { text.removeLast("_total".count) }
        let word = unitWord(unit, type)
        if let word, text != word, !text.hasSuffix("_" + word) { text += "_" + word }
        if type == .counter { text += "_total" }
        return Exposition(
            name: text, type: type, help: description.isEmpty ? name : description, unit: word)
    }

    /// Other characters become `_`, several of them one.
    static func sanitized(_ name: String) -> String {
        var bytes: [UInt8] = []
        for byte in name.utf8 {
            switch byte {
            case 0x61...0x7A, 0x41...0x5A, 0x30...0x39: bytes.append(byte)
            default: if bytes.last != UInt8(ascii: "_") { bytes.append(UInt8(ascii: "_")) }
            }
        }
        if let first = bytes.first, (0x30...0x39).contains(first) { bytes.insert(UInt8(ascii: "_"), at: 0) }
        return String(decoding: bytes, as: UTF8.self)
    }

    private static let words = [
        "d": "days", "h": "hours", "min": "minutes", "s": "seconds", "ms": "milliseconds", "us": "microseconds",
        "ns": "nanoseconds", "By": "bytes", "KiBy": "kibibytes", "MiBy": "mebibytes", "GiBy": "gibibytes",
        "TiBy": "tibibytes", "KBy": "kilobytes", "kBy": "kilobytes", "MBy": "megabytes", "GBy": "gigabytes",
        "TBy": "terabytes", "m": "meters", "V": "volts", "A": "amperes", "J": "joules", "W": "watts", "g": "grams",
        "Cel": "celsius", "Hz": "hertz", "%": "percent",
    ]
    private static let perWords = [
        "s": "second", "m": "minute", "h": "hour", "d": "day", "w": "week", "mo": "month", "y": "year",
    ]

    /// UCUM's unit as a word; nil when there is nothing to say. What stands in braces is a remark.
    static func unitWord(_ unit: String, _ type: MetricType) -> String? {
        if unit == "1" { return type == .gauge ? "ratio" : nil }
        var plain = ""
        var depth = 0
        for character in unit {
            if character == "{" { depth += 1 }
            if depth == 0 { plain.append(character) }
            if character == "}" { depth = max(0, depth - 1) }
        }
        let parts = plain.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
        func cleaned(_ text: String) -> String {
            var text = sanitized(text)
            while text.hasSuffix("_") { text.removeLast() }
            while text.hasPrefix("_") { text.removeFirst() }
            return text
        }
        let first = parts.first ?? ""
        let word = words[first] ?? cleaned(first)
        guard parts.count == 2, !parts[1].isEmpty else { return word.isEmpty ? nil : word }
        let per = "per_" + (perWords[parts[1]] ?? cleaned(parts[1]))
        return word.isEmpty ? per : word + "_" + per
    }

    /// Names and values of a series' labels. Keys that become alike share one label, their values joined by `;`.
    static func labels(_ attributes: [KeyValue], scope: InstrumentationScope?) -> [(name: String, value: String)] {
        var labels: [(name: String, value: String)] = []
        func add(_ key: String, _ value: String) {
            let name = scope == nil ? key : sanitized(key)
            if let index = labels.firstIndex(where: { $0.name == name }) {
                labels[index].value += ";" + value
            } else {
                labels.append((name, value))
            }
        }
        for attribute in attributes { add(attribute.key, text(attribute.value)) }
        if let scope {
            if !scope.name.isEmpty { add("otel_scope_name", scope.name) }
            if !scope.version.isEmpty { add("otel_scope_version", scope.version) }
        }
        return labels
    }

    /// A string as it is, everything else as JSON.
    static func text(_ value: AnyValue) -> String {
        if case .string(let text) = value { return text }
        return json(value)
    }

    private static func json(_ value: AnyValue) -> String {
        switch value {
        case .empty: "null"
        case .string(let text): quoted(text)
        case .bool(let flag): flag ? "true" : "false"
        case .int(let number): number.description
        case .double(let number):
            number.isFinite
                ? number.description : number.isNaN ? "\"NaN\"" : number < 0 ? "\"-Infinity\"" : "\"Infinity\""
        case .bytes(let bytes): quoted(bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined())
        case .array(let values): "[" + values.map(json).joined(separator: ",") + "]"
        case .keyValueList(let pairs):
            "{" + pairs.map { quoted($0.key) + ":" + json($0.value) }.joined(separator: ",") + "}"
        }
    }

    private static func quoted(_ text: String) -> String {
        var quoted = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"", "\\": quoted += "\\" + String(scalar)
            case _ where scalar.value < 0x20:
                let digits = String(scalar.value, radix: 16)
                quoted += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            default: quoted.unicodeScalars.append(scalar)
            }
        }
        return quoted + "\""
    }
}
