/// The two text formats that scrapers ask for.
public enum MetricFormat: Sendable, CaseIterable {
    /// Prometheus text format 0.0.4, which everything reads.
    case prometheusText
    /// OpenMetrics 1.0.
    case openMetrics

    /// The value of the `Content-Type` header.
    public var contentType: String {
        switch self {
        case .prometheusText: "text/plain; version=0.0.4; charset=utf-8"
        case .openMetrics: "application/openmetrics-text; version=1.0.0; charset=utf-8"
        }
    }

    /// The format for an `Accept` header: the one with the higher weight (RFC 9110, section 12.5.1); on a tie
    /// OpenMetrics when it was named, because who names it can read it. What fits neither gets the text format:
    /// a scrape that answers beats a 406.
    public static func negotiate(accept: String?) -> MetricFormat {
        guard let accept else { return .prometheusText }
        var openMetrics = Match()
        var text = Match()
        for element in splitOutsideQuotes(accept, at: ",") {
            let range = MediaRange(element)
            let version = range.version
            switch range.type {
            case "application/openmetrics-text":
                if version == nil || version == "1.0.0" { openMetrics.offer(range.weight, specificity: 2) }
            case "application/*":
                openMetrics.offer(range.weight, specificity: 1)
            case "text/plain":
                if version == nil || version == "0.0.4" { text.offer(range.weight, specificity: 2) }
            case "text/*":
                text.offer(range.weight, specificity: 1)
            case "*/*":
                openMetrics.offer(range.weight, specificity: 0)
                text.offer(range.weight, specificity: 0)
            default:
                break
            }
        }
        if openMetrics.weight == text.weight {
            return openMetrics.specificity == 2 && openMetrics.weight > 0 ? .openMetrics : .prometheusText
        }
        return openMetrics.weight > text.weight ? .openMetrics : .prometheusText
    }

    /// The weight of the most specific range that fits; among equally specific ones, the highest.
    private struct Match {
        var weight = 0
        var specificity = -1

        mutating func offer(_ weight: Int, specificity: Int) {
            if specificity > self.specificity {
                (self.weight, self.specificity) = (weight, specificity)
            } else if specificity == self.specificity {
                self.weight = max(self.weight, weight)
            }
        }
    }
}

/// One element of an `Accept` header: `type/subtype;version=…;q=…`.
private struct MediaRange {
    var type = ""
    var version: String?
    /// In thousandths, as the grammar has at most three decimals.
    var weight = 1000

    init(_ element: Substring) {
        for (index, part) in splitOutsideQuotes(element, at: ";").enumerated() {
            if index == 0 {
                type = trimmed(part).lowercased()
                continue
            }
            let pair = part.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            guard pair.count == 2 else { continue }
            var value = trimmed(pair[1])
            if value.count >= 2, value.first == "\"", value.last == "\"" { value = value.dropFirst().dropLast() }
            switch trimmed(pair[0]).lowercased() {
            case "q": weight = Self.thousandths(value)
            case "version": version = String(value)
            default: break
            }
        }
    }

    /// A malformed weight is read as 0: what the client meant is unknown, so the range is not preferred.
    private static func thousandths(_ text: Substring) -> Int {
        let parts = text.split(separator: ".", maxSplits: 1, omittingEmptySubsequences: false)
        guard let whole = parts.first, whole == "0" || whole == "1" else { return 0 }
        let decimals = parts.count == 2 ? parts[1] : ""
        guard decimals.count <= 3, decimals.utf8.allSatisfy({ (0x30...0x39).contains($0) }) else { return 0 }
        let padded = decimals + String(repeating: "0", count: 3 - decimals.count)
        return min(1000, (whole == "1" ? 1000 : 0) + (Int(padded) ?? 0))
    }
}

private func trimmed(_ text: Substring) -> Substring {
    var text = text
    while let first = text.first, first == " " || first == "\t" { text.removeFirst() }
    while let last = text.last, last == " " || last == "\t" { text.removeLast() }
    return text
}

private func splitOutsideQuotes(_ text: some StringProtocol, at separator: Character) -> [Substring] {
    var parts: [Substring] = []
    var quoted = false
    var escaped = false
    let text = Substring(text)
    var start = text.startIndex
    for index in text.indices {
        let character = text[index]
        if escaped {
            escaped = false
        } else if quoted, character == "\\" {
            escaped = true
        } else if character == "\"" {
            quoted.toggle()
        } else if character == separator, !quoted {
            parts.append(text[start..<index])
            start = text.index(after: index)
        }
    }
    parts.append(text[start...])
    return parts
}
