import HummingbirdCore
import Logging
import NIOCore

/// Takes a connection that the front door does not keep; the codec's handlers come after the door's.
final class GeneralCodecs: Sendable {
    enum Codec { case http1, http2 }

    let server: ServerCore
    let http1: HTTP1Channel
    let http2: HTTP2Codec
    let logger: Logger
    let handOver: AsyncStream<HTTP1Channel.Value>.Continuation

    init(
        server: ServerCore, http1: HTTP1Channel, logger: Logger,
        handOver: AsyncStream<HTTP1Channel.Value>.Continuation
    ) {
        self.server = server
        self.http1 = http1
        self.logger = logger
        self.handOver = handOver
        http2 = HTTP2Codec(server: server, logger: logger, handOver: handOver)
    }

    func take(_ channel: any Channel, _ codec: Codec, _ connection: Connection) {
        switch codec {
        case .http1:
            try? channel.pipeline.syncOperations.addHandler(PaceWatch(server: server, connection: connection))
            _ = channel.setOption(.allowRemoteHalfClosure, value: true)
            let handOver = handOver
            http1.setup(channel: channel, logger: logger).whenSuccess { handOver.yield($0) }
        case .http2:
            do { try http2.take(channel, connection) } catch { channel.close(promise: nil) }
        }
    }
}
