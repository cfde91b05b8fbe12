/// TLS on an address of its own; plain HTTP stays on the other one, for probes and metrics.
public struct TLSConfiguration: Sendable {
    /// Address to listen on; empty, the default, for none.
    public var host = ""
    public var port = 0
    /// Path of a PEM file: the certificate, then those that lead to its root.
    public var certificate = ""
    /// Path of a PEM file with the private key.
    public var key = ""

    public init() {}

    public var isEnabled: Bool { !host.isEmpty }
}
