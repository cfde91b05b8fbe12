import PushPipeline
import Synchronization

/// A place among the streams that was given to a device. Given back once: when its holder says so, or when nobody holds
/// it any more, such as when a connection breaks before its stream begins.
///
/// `newer`, `isOut` and `end` are guarded by the lock of `devices`: `@unchecked Sendable`.
final class StreamPlace: @unchecked Sendable {
    fileprivate let tenant: Tenant
    fileprivate let device: String?
    private let hub: Hub
    private let devices: DevicePlaces
    private let isGivenBack = Atomic(false)
    /// The device's next stream by age.
    fileprivate var newer: Unmanaged<StreamPlace>?
    fileprivate var isOut = false
    fileprivate var end: (@Sendable () -> Void)?

    init(_ request: DeviceRequest, hub: Hub, devices: DevicePlaces) throws(GatewayError) {
        tenant = request.tenant
        device = request.device
        self.hub = hub
        self.devices = devices
        do throws(GatewayError) {
            try hub.openConnection(tenant)
            do throws(GatewayError) { try devices.take(self) } catch {
                hub.closeConnection(tenant)
                throw error
            }
        } catch {
            // Nothing is held.
            isGivenBack.store(true, ordering: .relaxed)
            throw error
        }
    }

    deinit { giveBack() }

    func giveBack() {
        guard !isGivenBack.exchange(true, ordering: .relaxed) else { return }
        hub.closeConnection(tenant)
        devices.giveBack(self)
    }

    /// Whether a newer stream of the same device may take the place.
    var canBeReplaced: Bool { device != nil && devices.replaces }
    /// Whether one has.
    var isReplaced: Bool { devices.isReplaced(self) }

    /// Calls back once when that happens, at once if it has. What ends then gives the place back as ever.
    func onReplaced(_ end: @escaping @Sendable () -> Void) {
        if canBeReplaced { devices.onReplaced(self, end) }
    }
}

/// The streams that each device has open, by age.
final class DevicePlaces: Sendable {
    private struct Key: Hashable {
        let tenant: ObjectIdentifier
        let device: String
    }

    /// A list through the places themselves, so that a device with one stream needs no memory but its entry. A place is in
    /// it until it is given back, which its end does at the latest.
    private struct Streams {
        var oldest: Unmanaged<StreamPlace>
        var count = 1
    }

    private let limit: Int
    private let overflow: LimitsConfiguration.DeviceOverflow
    private let retry: Duration
    private let streams = Mutex<[Key: Streams]>([:])

    init(limit: Int, overflow: LimitsConfiguration.DeviceOverflow, retry: Duration) {
        self.limit = limit
        self.overflow = overflow
        self.retry = retry
    }

    var replaces: Bool { limit > 0 && overflow == .replace }

    private func key(of place: StreamPlace) -> Key? {
        guard limit > 0, let device = place.device else { return nil }
        return Key(tenant: ObjectIdentifier(place.tenant), device: device)
    }

    /// A device with as many streams as it may have loses the oldest, or gets no other.
    fileprivate func take(_ place: StreamPlace) throws(GatewayError) {
        guard let key = key(of: place) else { return }
        var end: (@Sendable () -> Void)?
        let isTaken = streams.withLock { streams -> Bool in
            if let known = streams[key], known.count >= limit {
                guard overflow == .replace else { return false }
                // Under the lock it is there, even if it is just being given back.
                let oldest = known.oldest._withUnsafeGuaranteedRef { $0 }
                end = oldest.end
                oldest.end = nil
                Self.remove(oldest, key, from: &streams)
            }
            Self.add(place, key, to: &streams)
            return true
        }
        end?()
        guard isTaken else {
            throw GatewayError(
                code: .tooManyConnections,
                cause: "device \(key.device.prefix(64)) has \(limit) streams open, the limit of one device",
                retryAfter: retry)
        }
    }

    fileprivate func giveBack(_ place: StreamPlace) {
        guard let key = key(of: place) else { return }
        streams.withLock { streams in
            place.end = nil
            if !place.isOut { Self.remove(place, key, from: &streams) }
        }
    }

    fileprivate func isReplaced(_ place: StreamPlace) -> Bool {
        guard replaces, place.device != nil else { return false }
        return streams.withLock { _ in place.isOut }
    }

    fileprivate func onReplaced(_ place: StreamPlace, _ end: @escaping @Sendable () -> Void) {
        let isOut = streams.withLock { _ in
            if !place.isOut { place.end = end }
            return place.isOut
        }
        if isOut { end() }
    }

    private static func add(_ place: StreamPlace, _ key: Key, to streams: inout [Key: Streams]) {
        guard var known = streams[key] else {
            streams[key] = Streams(oldest: .passUnretained(place))
            return
        }
        var last = known.oldest
        while let newer = last._withUnsafeGuaranteedRef({ $0.newer }) { last = newer }
        last._withUnsafeGuaranteedRef { $0.newer = .passUnretained(place) }
        known.count += 1
        streams[key] = known
    }

    private static func remove(_ place: StreamPlace, _ key: Key, from streams: inout [Key: Streams]) {
        place.isOut = true
        guard var known = streams[key] else { return }
        let newer = place.newer
        place.newer = nil
        let own = Unmanaged.passUnretained(place).toOpaque()
        if known.oldest.toOpaque() == own {
            guard let newer else {
                streams[key] = nil
                return
            }
            known.oldest = newer
        } else {
            var older = known.oldest
            while let next = older._withUnsafeGuaranteedRef({ $0.newer }), next.toOpaque() != own { older = next }
            older._withUnsafeGuaranteedRef { $0.newer = newer }
        }
        known.count -= 1
        streams[key] = known
    }
}
