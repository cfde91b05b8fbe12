import CSSL
import Glibc
import NIOCore

/// TLS by the system's OpenSSL: bytes from the network on one side, plain bytes on the other, between them two buffers in
/// memory that OpenSSL reads from and writes to. Belongs to the channel's loop.
///
/// Buffers are bounded by what is handed in at a time: the network's bytes go in by records' lengths and come out at once,
/// and what is written becomes records right away and waits, if it must, in the channel, which says when it is full.
final class TLSHandler: ChannelDuplexHandler {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private enum State {
        case handshaking
        case open
        /// This side has said that it ends.
        case ended
    }

    private let store: TLSStore
    private let connection: Connection
    /// OpenSSL keeps the context for as long as there is a connection of it.
    private let ssl: OpaquePointer
    /// Owned by `ssl`.
    private let fromNetwork: OpaquePointer
    private let toNetwork: OpaquePointer
    private var state = State.handshaking
    /// Written before the handshake was over; an application that speaks first may only say a little.
    private var waiting: [(bytes: ByteBuffer, promise: EventLoopPromise<Void>?)] = []

    /// The socket, once a stream is sent past the channel; negative before.
    private var descriptor: Int32 = -1
    /// Encrypted past the channel and not taken by the kernel: comes before all else that is written.
    private var held: ByteBuffer?
    /// Writes to the channel that the kernel has not taken.
    private var writesInChannel = 0

    private static let recordSize = 16 * 1024
    private static let maxWaiting = 16

    init(store: TLSStore, connection: Connection) throws {
        guard let ssl = SSL_new(store.context.pointer), let fromNetwork = BIO_new(BIO_s_mem()),
            let toNetwork = BIO_new(BIO_s_mem())
        else { throw ChannelError.operationUnsupported }
        self.store = store
        self.connection = connection
        self.ssl = ssl
        self.fromNetwork = fromNetwork
        self.toNetwork = toNetwork
        SSL_set_bio(ssl, fromNetwork, toNetwork)
        SSL_set_accept_state(ssl)
    }

    deinit { SSL_free(ssl) }

    // MARK: From the network

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var bytes = unwrapInboundIn(data)
        while let part = bytes.readSlice(length: min(bytes.readableBytes, Self.recordSize)), part.readableBytes > 0 {
            part.withUnsafeReadableBytes { _ = BIO_write(fromNetwork, $0.baseAddress, Int32($0.count)) }
            guard advance(context) else { return }
        }
        flushRecords(context)
    }

    /// False when the connection is over.
    private func advance(_ context: ChannelHandlerContext) -> Bool {
        if case .handshaking = state {
            ERR_clear_error()
            let result = SSL_do_handshake(ssl)
            guard result == 1 else {
                if SSL_get_error(ssl, result) == SSL_ERROR_WANT_READ { return true }
                return fail(context)
            }
            state = .open
            store.handshakeEnded(true)
            let written = waiting
            waiting = []
            for (bytes, promise) in written { encrypt(bytes, promise, context) }
        }
        while true {
            var plain = context.channel.allocator.buffer(capacity: Self.recordSize)
            ERR_clear_error()
            let count = plain.writeWithUnsafeMutableBytes(minimumWritableBytes: Self.recordSize) { buffer in
                max(0, Int(SSL_read(ssl, buffer.baseAddress, Int32(Self.recordSize))))
            }
            guard count == 0 else {
                context.fireChannelRead(wrapInboundOut(plain))
                continue
            }
            switch SSL_get_error(ssl, 0) {
            case SSL_ERROR_WANT_READ: return true
            case SSL_ERROR_ZERO_RETURN:
                // The peer says that nothing more comes; an answer may still be under way.
                context.fireUserInboundEventTriggered(ChannelEvent.inputClosed)
                return true
            default: return fail(context)
            }
        }
    }

    /// Sends OpenSSL's alert and closes.
    private func fail(_ context: ChannelHandlerContext) -> Bool {
        if case .handshaking = state { store.handshakeEnded(false) }
        state = .ended
        connection.ends(.malformed)
        flushRecords(context)
        context.close(promise: nil)
        return false
    }

    func channelInactive(context: ChannelHandlerContext) {
        if case .handshaking = state { store.handshakeEnded(false) }
        state = .ended
        failWaiting()
        context.fireChannelInactive()
    }

    private func failWaiting() {
        let written = waiting
        waiting = []
        for (_, promise) in written { promise?.fail(ChannelError.ioOnClosedChannel) }
    }

    // MARK: Past the channel

    /// From now on `send` may be used. Nothing may wait in the channel.
    func bypassChannel(to descriptor: Int32) { self.descriptor = descriptor }

    /// Encrypts, and hands to the kernel what it takes. A record cannot be taken back: what the kernel leaves of one is
    /// held until the next write to the channel, and nothing is taken before that has been written.
    ///
    /// - Returns: how much was encrypted, and whether some of it is held.
    func send(_ bytes: UnsafeRawBufferPointer) -> (count: Int, isHeld: Bool) {
        var count = 0
        while count < bytes.count {
            guard case .open = state, held == nil, writesInChannel == 0, descriptor >= 0 else { break }
            let part = UnsafeRawBufferPointer(rebasing: bytes[count..<min(bytes.count, count + Self.recordSize)])
            ERR_clear_error()
            guard SSL_write(ssl, part.baseAddress, Int32(part.count)) == part.count else { break }
            count += part.count
            var record: UnsafePointer<CChar>?
            let size = isotherm_bio_data(toNetwork, &record)
            let sent = max(0, Glibc.send(descriptor, record, size, Int32(MSG_NOSIGNAL) | Int32(MSG_DONTWAIT)))
            if sent < size { held = ByteBuffer(bytes: UnsafeRawBufferPointer(start: record, count: size)[sent...]) }
            isotherm_bio_clear(toNetwork)
        }
        return (count, held != nil)
    }

    // MARK: To the network

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        switch state {
        case .open: encrypt(unwrapOutboundIn(data), promise, context)
        case .handshaking where waiting.count < Self.maxWaiting: waiting.append((unwrapOutboundIn(data), promise))
        case .handshaking, .ended: promise?.fail(ChannelError.ioOnClosedChannel)
        }
    }

    private func encrypt(_ bytes: ByteBuffer, _ promise: EventLoopPromise<Void>?, _ context: ChannelHandlerContext) {
        var bytes = bytes
        while let part = bytes.readSlice(length: min(bytes.readableBytes, Self.recordSize)), part.readableBytes > 0 {
            ERR_clear_error()
            let written = part.withUnsafeReadableBytes { SSL_write(ssl, $0.baseAddress, Int32($0.count)) }
            guard written == part.readableBytes else {
                promise?.fail(ChannelError.ioOnClosedChannel)
                _ = fail(context)
                return
            }
            if bytes.readableBytes > 0 { writeRecords(context, nil) }
        }
        writeRecords(context, promise)
    }

    private func writeRecords(_ context: ChannelHandlerContext, _ promise: EventLoopPromise<Void>?) {
        let pending = isotherm_bio_pending(toNetwork)
        if let held {
            self.held = nil
            put(held, pending == 0 ? promise : nil, context)
            if pending == 0 { return }
        }
        guard pending > 0 else {
            promise?.succeed(())
            return
        }
        var records = context.channel.allocator.buffer(capacity: pending)
        _ = records.writeWithUnsafeMutableBytes(minimumWritableBytes: pending) { buffer in
            max(0, Int(BIO_read(toNetwork, buffer.baseAddress, Int32(pending))))
        }
        put(records, promise, context)
    }

    private func put(_ records: ByteBuffer, _ promise: EventLoopPromise<Void>?, _ context: ChannelHandlerContext) {
        guard descriptor >= 0 else { return context.write(wrapOutboundOut(records), promise: promise) }
        let written = promise ?? context.eventLoop.makePromise()
        writesInChannel += 1
        written.futureResult.assumeIsolated().whenComplete { _ in self.writesInChannel -= 1 }
        context.write(wrapOutboundOut(records), promise: written)
    }

    private func flushRecords(_ context: ChannelHandlerContext) {
        guard isotherm_bio_pending(toNetwork) > 0 || held != nil else { return }
        writeRecords(context, nil)
        context.flush()
    }

    func flush(context: ChannelHandlerContext) { context.flush() }

    func close(context: ChannelHandlerContext, mode: CloseMode, promise: EventLoopPromise<Void>?) {
        if mode != .input, case .open = state {
            state = .ended
            // The peer is told that this is the end, and not that the connection broke.
            _ = SSL_shutdown(ssl)
            flushRecords(context)
        }
        if mode != .input { failWaiting() }
        context.close(mode: mode, promise: promise)
    }
}
