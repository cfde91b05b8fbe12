import Glibc
import NIOCore
import Synchronization

/// Keeps the listener going when the process or the system has no descriptor left.
///
/// Without one, `accept` fails and the connection stays in the queue, where its client waits for nothing. So one
/// descriptor is held in reserve: it is given up, the connections that wait are accepted with it and closed at once (a
/// browser's EventSource takes that as a broken connection and comes back), and it is taken again. The next `accept`
/// waits a little, so that a full server does not spin.
///
/// Belongs to the listener's loop.
final class AcceptGuard: ChannelDuplexHandler {
    typealias InboundIn = any Channel
    typealias OutboundIn = Never

    private let registry: ConnectionRegistry
    private let errors: AcceptErrors
    private var reserve: Int32
    private var pausedUntil: NIODeadline?
    private var isReadScheduled = false

    private static let pause = TimeAmount.milliseconds(50)
    /// Connections that one failure turns away.
    private static let burst = 64

    init(registry: ConnectionRegistry, errors: AcceptErrors) {
        self.registry = registry
        self.errors = errors
        reserve = Self.openReserve()
    }

    deinit { if reserve >= 0 { Glibc.close(reserve) } }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        guard let code = (error as? IOError)?.errnoCode else { return context.fireErrorCaught(error) }
        errors.count(code)
        switch code {
        case EMFILE, ENFILE:
            turnAway(context)
            pausedUntil = .now() + Self.pause
        case ENOBUFS, ENOMEM:
            pausedUntil = .now() + Self.pause
        default:
            // The client was gone before it was accepted.
            break
        }
    }

    private func turnAway(_ context: ChannelHandlerContext) {
        let listener = try? context.pipeline.syncOperations.withUnsafeTransportIfAvailable(
            of: NIOBSDSocket.Handle.self
        ) { $0 }
        guard let listener else { return }
        if reserve >= 0 { Glibc.close(reserve) }
        var count = 0
        while count < Self.burst {
            let descriptor = accept(listener, nil, nil)
            guard descriptor >= 0 else { break }
            Glibc.close(descriptor)
            count += 1
        }
        reserve = Self.openReserve()
        registry.refusedWithoutDescriptor(count)
    }

    func read(context: ChannelHandlerContext) {
        guard let pausedUntil else { return context.read() }
        guard !isReadScheduled else { return }
        isReadScheduled = true
        let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
        context.eventLoop.scheduleTask(deadline: pausedUntil) {
            let (handler, context) = bound.value
            handler.isReadScheduled = false
            handler.pausedUntil = nil
            if handler.reserve < 0 { handler.reserve = Self.openReserve() }
            context.read()
        }
    }

    private static func openReserve() -> Int32 { open("/dev/null", O_RDONLY | O_CLOEXEC) }
}

/// Failures of `accept` by kind; the label of `isotherm_accept_errors_total`.
final class AcceptErrors: Sendable {
    static let names = ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "ECONNABORTED", "other"]
    private let counts = Mutex([String: UInt64]())

    func count(_ code: Int32) {
        let name =
            switch code {
            case EMFILE: "EMFILE"
            case ENFILE: "ENFILE"
            case ENOBUFS: "ENOBUFS"
            case ENOMEM: "ENOMEM"
            case ECONNABORTED: "ECONNABORTED"
            default: "other"
            }
        counts.withLock { $0[name, default: 0] += 1 }
    }

    func value(_ name: String) -> UInt64 { counts.withLock { $0[name] ?? 0 } }
}
