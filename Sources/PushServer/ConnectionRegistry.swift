import Glibc
import NIOCore
import Synchronization

/// Why a connection ended; the label of `isotherm_http_connections_closed_total`.
enum ConnectionEnd: String, CaseIterable {
    /// The peer closed it, or it broke.
    case client
    /// It carried its last answer.
    case answered
    case idle
    case headTimeout = "head_timeout"
    case bodyTimeout = "body_timeout"
    /// It took nothing for too long.
    case stalled
    case drained
    /// Its stream made room for a newer one of the same device.
    case replaced
    /// Over a limit of connections.
    case refused
    /// What came was not a request that can be read in one way only.
    case malformed
}

/// One accepted connection. Touched on its loop only, which guards it: `@unchecked Sendable`.
final class Connection: @unchecked Sendable {
    /// Over a limit: it is told to come back, and nothing else.
    let excess: ConnectionLimit?
    fileprivate let address: AddressKey?
    private(set) var end: ConnectionEnd?

    fileprivate init(excess: ConnectionLimit?, address: AddressKey?) {
        self.excess = excess
        self.address = address
    }

    /// The first reason counts.
    func ends(_ reason: ConnectionEnd) {
        if end == nil { end = reason }
    }
}

/// The label of `isotherm_http_connections_refused_total`.
enum ConnectionLimit: String, CaseIterable {
    case connections, address
    /// No descriptor was left to accept with.
    case descriptors
}

/// An address as connections are counted by: an IPv4 address, or the /64 of an IPv6 address, since a whole /64 belongs to
/// one site.
struct AddressKey: Hashable {
    private let network: UInt64
    private let isIPv6: Bool

    /// The peer's, asked of the socket: a channel knows it only once it is active.
    init?(peerOf channel: any Channel) {
        let descriptor = try? channel.pipeline.syncOperations.withUnsafeTransportIfAvailable(
            of: NIOBSDSocket.Handle.self
        ) { $0 }
        guard let descriptor else { return nil }
        var bytes = [UInt8](repeating: 0, count: MemoryLayout<sockaddr_storage>.size)
        var size = socklen_t(bytes.count)
        let family = bytes.withUnsafeMutableBytes { buffer -> Int32? in
            let address = buffer.baseAddress?.assumingMemoryBound(to: sockaddr.self)
            guard getpeername(descriptor, address, &size) == 0 else { return nil }
            return address.map { Int32($0.pointee.sa_family) }
        }
        func number(_ range: Range<Int>) -> UInt64 { bytes[range].reduce(0) { $0 << 8 | UInt64($1) } }
        // The offsets are those of sockaddr_in and sockaddr_in6.
        switch family {
        case AF_INET: (network, isIPv6) = (number(4..<8), false)
        case AF_INET6:
            // An IPv4 address in IPv6's clothes.
            let isMapped = bytes[8..<20].elementsEqual([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF])
            (network, isIPv6) = isMapped ? (number(20..<24), false) : (number(8..<16), true)
        default: return nil
        }
    }
}

/// Every open connection: to keep within the limits, to count how each ended, and to end them on shutdown.
///
/// Opened = closed + live holds at every moment, since all three change under one lock.
final class ConnectionRegistry: Sendable {
    let limit: Int
    private let perAddress: Int
    private let state = Mutex(State())

    /// Connections over a limit that may wait for their answer; more are closed without one.
    static let excessLimit = 64

    struct Counts: Equatable {
        var opened: UInt64 = 0
        var live = 0
        var closed: [ConnectionEnd: UInt64] = [:]
        var refused: [ConnectionLimit: UInt64] = [:]
    }

    private struct State {
        var channels: [ObjectIdentifier: any Channel] = [:]
        var byAddress: [AddressKey: Int] = [:]
        var excess = 0
        var counts = Counts()
    }

    init(limit: Int, perAddress: Int) {
        self.limit = limit
        self.perAddress = perAddress
    }

    var counts: Counts {
        state.withLock { state in
            var counts = state.counts
            counts.live = state.channels.count
            return counts
        }
    }

    /// Nil when the connection is to be closed at once: so many are over the limit that they cannot even be told.
    func open(_ channel: any Channel) -> Connection? {
        let address = perAddress > 0 ? AddressKey(peerOf: channel) : nil
        let key = ObjectIdentifier(channel)
        let connection = state.withLock { state -> Connection? in
            var excess: ConnectionLimit?
            if state.channels.count - state.excess >= limit {
                excess = .connections
            } else if let address, state.byAddress[address, default: 0] >= perAddress {
                excess = .address
            }
            if let excess {
                state.counts.refused[excess, default: 0] += 1
                guard state.excess < Self.excessLimit else { return nil }
                state.excess += 1
            } else if let address {
                state.byAddress[address, default: 0] += 1
            }
            state.counts.opened += 1
            state.channels[key] = channel
            return Connection(excess: excess, address: excess == nil ? address : nil)
        }
        if let connection {
            channel.closeFuture.whenComplete { _ in self.closed(key, connection) }
        }
        return connection
    }

    private func closed(_ key: ObjectIdentifier, _ connection: Connection) {
        state.withLock { state in
            state.channels[key] = nil
            state.counts.closed[connection.end ?? .client, default: 0] += 1
            if connection.excess != nil { state.excess -= 1 }
            guard let address = connection.address, let count = state.byAddress[address] else { return }
            state.byAddress[address] = count > 1 ? count - 1 : nil
        }
    }

    func refusedWithoutDescriptor(_ count: Int) {
        state.withLock { $0.counts.refused[.descriptors, default: 0] += UInt64(count) }
    }

    // MARK: Shutdown

    /// Idle connections close; the others close when their request is answered.
    func quiesce() {
        for channel in state.withLock({ Array($0.channels.values) }) {
            channel.pipeline.fireUserInboundEventTriggered(ChannelShouldQuiesceEvent())
        }
    }

    /// Calls back once all that are open now are closed, or after `limit`; then closes what is left.
    func end(within limit: TimeAmount, on loop: any EventLoop, _ done: @escaping @Sendable () -> Void) {
        let left = state.withLock { Array($0.channels.values) }
        let closing = EventLoopFuture.andAllComplete(left.map(\.closeFuture), on: loop)
        let timeout = loop.scheduleTask(in: limit) {
            for channel in left { channel.close(promise: nil) }
        }
        closing.whenComplete { _ in
            timeout.cancel()
            // Whoever came while the others left.
            for channel in self.state.withLock({ Array($0.channels.values) }) { channel.close(promise: nil) }
            done()
        }
    }
}
