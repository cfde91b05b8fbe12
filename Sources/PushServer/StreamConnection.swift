import NIOCore
import PushPipeline

/// A device's socket: the slow path of `DeviceTransport` on a channel. The fast path is the hub's own `send(2)` on the
/// descriptor, which NIO does not see, or TLS on it.
final class StreamConnection: DeviceTransport {
    // In this order it is smaller: there is one for every device.
    let probedDescriptor: Int32
    private var isClosing = false
    /// The hub was told that the last byte is left, so that it waits for the channel; it is encrypted already.
    private var owesByte = false
    /// Why the stream ends, when it is the server that ends it.
    var closeReason = CloseReason.client
    private let channel: any Channel
    private let tls: TLSHandler?
    /// The hub's side; nil before the subscription begins.
    var subscription: Subscription?

    var descriptor: Int32 { tls == nil ? probedDescriptor : -1 }

    init(channel: any Channel, descriptor: Int32, tls: TLSHandler?) {
        self.channel = channel
        probedDescriptor = descriptor
        self.tls = tls
        tls?.bypassChannel(to: descriptor)
    }

    func send(_ bytes: UnsafeRawBufferPointer) -> Int {
        guard let tls else { return 0 }
        let (count, isHeld) = tls.send(bytes)
        owesByte = isHeld && count > 0
        return owesByte ? count - 1 : count
    }

    func write(_ bytes: ArraySlice<UInt8>, completion: @escaping (Bool) -> Void) {
        let bytes = owesByte ? bytes.dropFirst() : bytes
        owesByte = false
        let loop = channel.eventLoop.assumeIsolatedUnsafeUnchecked()
        channel.writeAndFlush(ByteBuffer(bytes: bytes)).assumeIsolatedUnsafeUnchecked().whenComplete { result in
            // On a later turn, also when the write completed or failed at once.
            loop.execute {
                if case .success = result { completion(true) } else { completion(false) }
            }
        }
    }

    func close(farewell: [UInt8]?, reason: CloseReason) {
        guard !isClosing else { return }
        isClosing = true
        closeReason = reason
        guard let farewell else { return channel.close(promise: nil) }
        let channel = channel
        channel.writeAndFlush(ByteBuffer(bytes: farewell)).whenComplete { _ in channel.close(promise: nil) }
        // A device that reads nothing does not hold the shutdown up.
        channel.eventLoop.scheduleTask(in: .seconds(1)) { channel.close(promise: nil) }
    }
}

/// A NIO event loop as the hub sees it.
final class NIODeliveryLoop: DeliveryLoop {
    let eventLoop: any EventLoop

    init(_ eventLoop: any EventLoop) { self.eventLoop = eventLoop }

    func execute(_ work: @escaping @Sendable () -> Void) { eventLoop.execute(work) }

    func schedule(after delay: Duration, _ work: @escaping @Sendable () -> Void) {
        _ = eventLoop.scheduleTask(in: TimeAmount(delay), work)
    }
}
