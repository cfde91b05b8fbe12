/// What one client may take of the server: connections, bytes and time. 0 means no limit, but for `connections`.
public struct LimitsConfiguration: Sendable {
    /// Connections in all, streams included. Default 0: as many as the limit of open files allows, less what the log, the
    /// exporter and the reserve need.
    public var connections = 0
    /// Connections from one address; of IPv6, from one /64. Default 0, no limit: behind a proxy all have its address.
    public var connectionsPerAddress = 0
    /// Streams and polls at a time of one device of a tenant, as it names itself. Default 16.
    public var streamsPerDevice = 16
    /// What a device's stream beyond its limit means. Default `replace`.
    public var deviceOverflow = DeviceOverflow.replace
    /// Most fields of a request head. Default 100.
    public var headFields = 100
    /// Bytes a second that a request's body must bring, on average and after `headTimeout`. Default 1 KiB.
    public var bodyRate = 1_024
    /// The least `retry:` or `Retry-After` of whoever is refused for lack of room; up to twice that. Default 10 s.
    public var shedRetry = Duration.seconds(10)

    public init() {}

    public enum DeviceOverflow: String, Sendable, CaseIterable {
        /// The device's oldest stream ends: a phone that has changed networks comes back before anybody knows that its
        /// former connection is dead.
        case replace
        /// The new one is turned away.
        case refuse
    }

    /// Descriptors that are not for connections: the log, the exporter, threads' pollers, and those that are only told to
    /// come back.
    static let reservedDescriptors = 256

    /// `connections`, within what the limit of open files leaves.
    func effectiveConnections(descriptorLimit: Int) -> Int {
        let available = max(16, descriptorLimit - Self.reservedDescriptors)
        return connections > 0 ? min(connections, available) : available
    }
}
