import OTLP

/// Changes what becomes of the instruments that it selects.
///
///     var view = View(instrumentName: "http.server.*")
///     view.attributeKeys = ["http.route"]
///     view.aggregation = .exponentialHistogram()
///
/// Each view that selects an instrument makes a stream of its own; without any the instrument's own is used.
/// https://opentelemetry.io/docs/specs/otel/metrics/sdk/#view
public struct View: Sendable {
    // What it selects: all that is set must fit.

    /// `?` is any one character, `*` any number of them. Case does not matter.
    public var instrumentName: String
    public var instrumentKind: InstrumentKind?
    public var instrumentUnit: String?
    public var meterName: String?
    public var meterVersion: String?

    // What it makes of it.

    /// Only for a selection without wildcards: two streams may not have one name.
    public var name: String?
    public var description: String?
    /// Attributes that are kept; nil keeps all.
    public var attributeKeys: Set<String>?
    /// Attributes that are left out.
    public var excludedAttributeKeys: Set<String> = []
    public var aggregation = Aggregation.standard
    /// Series of the stream, the one for the overflow included.
    public var cardinalityLimit: Int?

    public init(instrumentName: String) { self.instrumentName = instrumentName }

    var hasWildcard: Bool { instrumentName.contains { $0 == "*" || $0 == "?" } }

    func selects(name: String, kind: InstrumentKind, unit: String, scope: InstrumentationScope) -> Bool {
        if let instrumentKind, instrumentKind != kind { return false }
        if let instrumentUnit, instrumentUnit != unit { return false }
        if let meterName, meterName != scope.name { return false }
        if let meterVersion, meterVersion != scope.version { return false }
        return Self.matches(Array(instrumentName.lowercased().utf8), Array(name.lowercased().utf8))
    }

    /// In time proportional to the product of the lengths: on a mismatch only the last `*` is tried anew.
    static func matches(_ pattern: [UInt8], _ text: [UInt8]) -> Bool {
        var (p, t) = (0, 0)
        var star: (pattern: Int, text: Int)?
        while t < text.count {
            if p < pattern.count, pattern[p] == UInt8(ascii: "*") {
                star = (p, t)
                p += 1
            } else if p < pattern.count, pattern[p] == UInt8(ascii: "?") || pattern[p] == text[t] {
                p += 1
                t += 1
            } else if let last = star {
                star = (last.pattern, last.text + 1)
                p = last.pattern + 1
                t = last.text + 1
            } else {
                return false
            }
        }
        return pattern[p...].allSatisfy { $0 == UInt8(ascii: "*") }
    }
}
