/// An answer with any status, read to its end.
public struct HTTPResponse: Sendable {
    public let status: Int
    /// In the order they came; values without the spaces around them.
    public let headers: [(name: String, value: String)]
    public let body: [UInt8]

    /// The first value of a header, whatever the case of its name; nil without one.
    public func header(_ name: String) -> String? { headers.value(of: name) }
}

extension [(name: String, value: String)] {
    func value(of name: String) -> String? {
        let name = name.lowercased()
        return first { $0.name.lowercased() == name }?.value
    }
}
