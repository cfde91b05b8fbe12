/// What latencies are grouped by: one attribute, a pair of them, or the first that is there of several. An engine has one
/// or more views, each with groups and cells of its own.
public struct HeatmapView: Sendable, Hashable, CustomStringConvertible {
    /// Of the span or of its resource, in the order in which a group's values stand.
    public let attributes: [String]
    /// Only the first of the attributes that is there names the group, whichever it is.
    public let takesFirst: Bool

    /// Between the values of a pair in a group's name. In a value, it is replaced by a space.
    static let separator: UInt8 = 0x1F

    /// One attribute, or a pair.
    public init(_ attributes: String...) {
        self.attributes = attributes
        takesFirst = false
    }

    init(firstOf attributes: [String]) {
        self.attributes = attributes
        takesFirst = attributes.count > 1
    }

    /// `device.group`, or `tenant.id+device.group` for a pair. Nil for anything else.
    public init?(parsing text: String) {
        let parts = text.split(separator: "+", omittingEmptySubsequences: false).map(String.init)
        guard (1...2).contains(parts.count), parts.allSatisfy({ !$0.isEmpty }), Set(parts).count == parts.count else {
            return nil
        }
        attributes = parts
        takesFirst = false
    }

    /// `device.group`, `tenant.id+device.group`, or `device.group|service.name` for the first of two.
    public var description: String { attributes.joined(separator: takesFirst ? "|" : "+") }

    /// What `values(ofGroup:)` takes apart.
    static func name(ofValues values: [String]) -> String {
        guard values.count > 1 else { return values.first ?? "" }
        let separator = String(UnicodeScalar(separator))
        return values.map { $0.split(separator: separator, omittingEmptySubsequences: false).joined(separator: " ") }
            .joined(separator: separator)
    }

    /// A group's values, one for each attribute; a single one if only the first that is there counts. `(other)` stands for
    /// all of them.
    public func values(ofGroup name: String) -> [String] {
        guard !takesFirst, attributes.count > 1, name != NameTable.overflowName else { return [name] }
        return name.utf8.split(separator: Self.separator, omittingEmptySubsequences: false).map {
            String(Substring($0))
        }
    }
}
