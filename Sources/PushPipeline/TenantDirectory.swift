import CCrypto
import Synchronization

/// A tenant's live state: its quotas.
public final class Tenant: Sendable {
    public let name: String
    public let quota: QuotaConfiguration
    private let buckets: Mutex<Buckets>

    private struct Buckets {
        var events: TokenBucket?
        var bytes: TokenBucket?
        var connections = 0
    }

    init(name: String, quota: QuotaConfiguration, maxEventBytes: Int, nowUnixNano: UInt64) {
        self.name = name
        self.quota = quota
        var buckets = Buckets()
        if quota.eventsPerSecond > 0 {
            buckets.events = TokenBucket(
                rate: quota.eventsPerSecond, burst: quota.eventBurst ?? max(1, quota.eventsPerSecond),
                nowUnixNano: nowUnixNano)
        }
        if quota.bytesPerSecond > 0 {
            buckets.bytes = TokenBucket(
                rate: quota.bytesPerSecond,
                burst: quota.byteBurst ?? max(Double(maxEventBytes), quota.bytesPerSecond), nowUnixNano: nowUnixNano)
        }
        self.buckets = Mutex(buckets)
    }

    /// Takes from both buckets or from neither.
    func charge(events: Int, bytes: Int, nowUnixNano: UInt64) -> (quota: String, wait: Duration)? {
        guard quota.eventsPerSecond > 0 || quota.bytesPerSecond > 0 else { return nil }
        return buckets.withLock { buckets in
            if let wait = buckets.events?.wait(for: Double(events), nowUnixNano: nowUnixNano) {
                return ("events", wait)
            }
            if let wait = buckets.bytes?.wait(for: Double(bytes), nowUnixNano: nowUnixNano) {
                return ("bytes", wait)
            }
            buckets.events?.take(Double(events))
            buckets.bytes?.take(Double(bytes))
            return nil
        }
    }

    func openConnection() -> Bool {
        buckets.withLock { buckets in
            if quota.connections > 0, buckets.connections >= quota.connections { return false }
            buckets.connections += 1
            return true
        }
    }

    func closeConnection() {
        buckets.withLock { $0.connections -= 1 }
    }
}

/// Finds the tenant that a credential belongs to.
///
/// Tokens are kept as SHA-256 digests, and looked up by digest: the time of a look-up says nothing about a token.
public struct TenantDirectory: Sendable {
    private let byDigest: [[UInt8]: Tenant]
    private let open: Tenant?
    public let tenants: [Tenant]

    /// Throws for a name or a token that is not valid or is there twice.
    public init(configuration: GatewayConfiguration, nowUnixNano: UInt64) throws(GatewayError) {
        guard !configuration.tenants.isEmpty else {
            let tenant = Tenant(
                name: "default", quota: configuration.defaultQuota, maxEventBytes: configuration.maxEventBytes,
                nowUnixNano: nowUnixNano)
            (byDigest, open, tenants) = ([:], tenant, [tenant])
            return
        }
        var byDigest: [[UInt8]: Tenant] = [:]
        var tenants: [Tenant] = []
        for entry in configuration.tenants {
            guard Self.isValidName(entry.name) else {
                throw GatewayError(
                    code: .invalidHeader,
                    cause: "tenant name \(EventLabels.quoted(entry.name)) is not 1 to 63 characters of a-z 0-9 -")
            }
            guard !tenants.contains(where: { $0.name == entry.name }) else {
                throw GatewayError(code: .invalidHeader, cause: "tenant \(entry.name) is configured twice")
            }
            guard !entry.tokens.isEmpty else {
                throw GatewayError(code: .invalidHeader, cause: "tenant \(entry.name) has no token; give it one")
            }
            let tenant = Tenant(
                name: entry.name, quota: entry.quota, maxEventBytes: configuration.maxEventBytes,
                nowUnixNano: nowUnixNano)
            tenants.append(tenant)
            for token in entry.tokens {
                guard token.utf8.count >= 8 else {
                    throw GatewayError(
                        code: .invalidHeader, cause: "tenant \(entry.name) has a token of fewer than 8 characters")
                }
                guard byDigest.updateValue(tenant, forKey: Self.digest(token)) == nil else {
                    throw GatewayError(code: .invalidHeader, cause: "tenant \(entry.name) shares a token with another")
                }
            }
        }
        (self.byDigest, self.open, self.tenants) = (byDigest, nil, tenants)
    }

    /// Whether requests need a credential.
    public var requiresToken: Bool { open == nil }

    /// - Parameter authorization: the `Authorization` header's value, or nil.
    /// - Parameter token: the `token` query parameter, or nil.
    public func tenant(authorization: String?, token: String?) throws(GatewayError) -> Tenant {
        if let open { return open }
        guard let credential = authorization.flatMap(Self.bearer) ?? token else {
            throw GatewayError(
                code: .unauthorized,
                cause: "no credential: send Authorization: Bearer TOKEN, or the query parameter token")
        }
        guard let tenant = byDigest[Self.digest(credential)] else {
            throw GatewayError(code: .unauthorized, cause: "the token is not known here")
        }
        return tenant
    }

    private static func bearer(_ header: String) -> String? {
        let parts = header.split(separator: " ", maxSplits: 1, omittingEmptySubsequences: true)
        guard parts.count == 2, parts[0].lowercased() == "bearer" else { return nil }
        return String(parts[1])
    }

    private static func isValidName(_ name: String) -> Bool {
        (1...63).contains(name.utf8.count)
            && name.utf8.allSatisfy {
                (UInt8(ascii: "a")...UInt8(ascii: "z")).contains($0)
                    || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) || $0 == UInt8(ascii: "-")
            }
    }

    private static func digest(_ token: String) -> [UInt8] {
        var token = token
        return token.withUTF8 { bytes in
            [UInt8](unsafeUninitializedCapacity: 32) { buffer, count in
                _ = SHA256(bytes.baseAddress, bytes.count, buffer.baseAddress)
                count = 32
            }
        }
    }
}
