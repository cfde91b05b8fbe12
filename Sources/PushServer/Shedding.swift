import NIOCore
import PushPipeline
import Synchronization

/// Turning streams away in a way that browsers survive.
///
/// A 4xx or 5xx ends a browser's EventSource for good. So whoever asks for an event stream in so many words gets 200, a
/// `retry:` with jitter, and the end of the stream: a browser comes back after that time, and not all of them at once.
/// Other clients get 429, or 503 while the server shuts down, with `Retry-After`.
enum Shedding {
    static let codes: [GatewayError.Code] = [.tooManyConnections, .quotaExceeded, .draining]

    static func applies(to error: GatewayError, accept: String?) -> Bool {
        codes.contains(error.code) && accept?.holds("text/event-stream") == true
    }

    /// One to two times `base`.
    static func jitteredMilliseconds(_ base: Duration) -> Int64 {
        let milliseconds = TimeAmount(base).nanoseconds / 1_000_000
        return milliseconds + Int64.random(in: 0...max(1, milliseconds))
    }
}

/// A place among the streams that was given to a device. Given back once: when its holder says so, or when nobody holds
/// it any more, such as when a connection breaks before its stream begins.
final class StreamPlace: Sendable {
    private let tenant: Tenant
    private let device: String?
    private let hub: Hub
    private let devices: DevicePlaces
    private let isGivenBack = Atomic(false)

    init(_ request: DeviceRequest, hub: Hub, devices: DevicePlaces) throws(GatewayError) {
        tenant = request.tenant
        device = request.device
        self.hub = hub
        self.devices = devices
        do throws(GatewayError) {
            try devices.take(tenant, device)
            do throws(GatewayError) { try hub.openConnection(tenant) } catch {
                devices.giveBack(tenant, device)
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
        devices.giveBack(tenant, device)
    }
}

/// How many streams each device has open.
final class DevicePlaces: Sendable {
    private struct Key: Hashable {
        let tenant: ObjectIdentifier
        let device: String
    }

    private let limit: Int
    private let retry: Duration
    private let counts = Mutex<[Key: Int]>([:])

    init(limit: Int, retry: Duration) {
        self.limit = limit
        self.retry = retry
    }

    func take(_ tenant: Tenant, _ device: String?) throws(GatewayError) {
        guard limit > 0, let device else { return }
        let key = Key(tenant: ObjectIdentifier(tenant), device: device)
        let isTaken = counts.withLock { counts in
            let count = counts[key, default: 0]
            guard count < limit else { return false }
            counts[key] = count + 1
            return true
        }
        guard isTaken else {
            throw GatewayError(
                code: .tooManyConnections,
                cause: "device \(device.prefix(64)) has \(limit) streams open, the limit of one device",
                retryAfter: retry)
        }
    }

    func giveBack(_ tenant: Tenant, _ device: String?) {
        guard limit > 0, let device else { return }
        let key = Key(tenant: ObjectIdentifier(tenant), device: device)
        counts.withLock { counts in
            let count = counts[key, default: 0]
            counts[key] = count > 1 ? count - 1 : nil
        }
    }
}
