import NIOCore
import NIOHTTPTypes
import PushPipeline

/// An event stream behind an HTTP codec: TLS, HTTP/2, or a connection that has carried other requests before.
///
/// To the hub it is a device like any other whose socket takes nothing by itself: each buffer goes through `write`, one at
/// a time, as a part of the response's body, and has been written once the kernel has its last byte: what encrypts,
/// frames or waits for a window on the way holds the promise back. Nothing else is queued.
///
/// Belongs to its connection's loop, which guards it: `@unchecked Sendable`.
final class CodecStream: DeviceTransport, @unchecked Sendable {
    let descriptor: Int32 = -1
    /// Ends when the server ends the stream.
    let closing: AsyncStream<Never>
    private let continuation: AsyncStream<Never>.Continuation
    private let channel: any Channel
    private let hubLoop: HubLoop
    private var subscription: Subscription?
    private var closeReason = CloseReason.client
    private var hasEnded = false
    private var isClosing = false

    /// The channel of the request that is being answered.
    @TaskLocal static var requestChannel: (any Channel)?

    /// - Parameter hubLoop: the hub's part on the channel's loop.
    init(channel: any Channel, hubLoop: HubLoop) {
        self.channel = channel
        self.hubLoop = hubLoop
        (closing, continuation) = AsyncStream.makeStream()
    }

    /// Begins delivery with `opening`, the stream's first lines, once the response's head has been handed to the channel.
    func begin(_ request: SubscriptionRequest, channel: TenantChannel, opening: [UInt8]) {
        hubLoop.execute { [self] in
            guard !hasEnded else { return }
            subscription = hubLoop.subscribe(request, channel: channel, opening: opening, transport: self)
        }
    }

    /// Ends the subscription, once nobody answers the request any more.
    func end() {
        continuation.finish()
        hubLoop.execute { [self] in
            hasEnded = true
            guard let subscription else { return }
            self.subscription = nil
            hubLoop.unsubscribe(subscription, reason: closeReason)
        }
    }

    /// Makes room for a newer stream of the same device.
    func replace(retry: Duration) {
        hubLoop.execute { [self] in
            if let subscription { hubLoop.close(subscription, retry: retry, reason: .replaced) }
        }
    }

    // MARK: The hub's side

    /// Of the socket below; -1 once it is closed, since its number may be another's then.
    var probedDescriptor: Int32 {
        // A connection that is closed must not be asked for its parent, which is the listener, on another loop.
        guard channel.isActive else { return -1 }
        return Self.socket(of: channel) ?? channel.parent.flatMap { Self.socket(of: $0) } ?? -1
    }

    /// Nil for a stream of HTTP/2, which has none of its own, but its parent's.
    private static func socket(of channel: any Channel) -> Int32? {
        guard channel.isActive else { return nil }
        let descriptor = try? channel.pipeline.syncOperations.withUnsafeTransportIfAvailable(
            of: NIOBSDSocket.Handle.self
        ) { $0 }
        return descriptor
    }

    func write(_ bytes: ArraySlice<UInt8>, completion: @escaping (Bool) -> Void) {
        let loop = channel.eventLoop.assumeIsolatedUnsafeUnchecked()
        channel.writeAndFlush(HTTPResponsePart.body(ByteBuffer(bytes: bytes))).assumeIsolatedUnsafeUnchecked()
            .whenComplete { result in
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
        guard let farewell else {
            // What waits in the codec would keep the response from ending.
            if let watch = try? channel.pipeline.syncOperations.handler(type: PaceWatch.self) {
                watch.connection.ends(reason.connectionEnd ?? .stalled)
            }
            channel.close(promise: nil)
            continuation.finish()
            return
        }
        let continuation = continuation
        channel.writeAndFlush(HTTPResponsePart.body(ByteBuffer(bytes: farewell))).whenComplete { _ in
            continuation.finish()
        }
        // A device that reads nothing does not hold the shutdown up.
        channel.eventLoop.scheduleTask(in: .seconds(1)) { continuation.finish() }
    }
}

extension CloseReason {
    /// Of a connection that was closed with its stream; nil where the client or the network did.
    var connectionEnd: ConnectionEnd? {
        switch self {
        case .client, .error, .serverLost: nil
        case .drained: .drained
        case .stalled: .stalled
        case .replaced: .replaced
        }
    }
}
