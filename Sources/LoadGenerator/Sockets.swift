import CEpoll
import Glibc
import Synchronization

/// Nanoseconds of the monotonic clock.
@inline(__always)
func monotonicNano() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) &* 1_000_000_000 &+ UInt64(time.tv_nsec)
}

extension Duration {
    var nano: UInt64 {
        let (seconds, attoseconds) = components
        return UInt64(max(0, seconds)) * 1_000_000_000 + UInt64(max(0, attoseconds) / 1_000_000_000)
    }
}

/// What an errno means, for a person.
func reason(_ number: Int32) -> String { String(cString: strerror(number)) }

/// Where a server listens.
struct Endpoint: Sendable {
    private let storage: sockaddr_storage
    private let length: socklen_t
    let port: UInt16
    /// An IPv4 loopback address: connections may come from any of 127.0.0.0/8.
    let isLoopback: Bool

    init(host: String, port: UInt16) throws(LoadError) {
        var hints = addrinfo()
        hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        var list: UnsafeMutablePointer<addrinfo>?
        let status = getaddrinfo(host, "\(port)", &hints, &list)
        defer { freeaddrinfo(list) }
        guard status == 0, let first = list?.pointee, let address = first.ai_addr else {
            throw LoadError(
                code: .unresolved, cause: "\(host) has no address: \(String(cString: gai_strerror(status)))")
        }
        var storage = sockaddr_storage()
        withUnsafeMutableBytes(of: &storage) {
            $0.copyMemory(from: UnsafeRawBufferPointer(start: address, count: Int(first.ai_addrlen)))
        }
        self.storage = storage
        self.port = port
        length = first.ai_addrlen
        isLoopback =
            first.ai_family == AF_INET
            && withUnsafeBytes(of: &storage) { $0.load(fromByteOffset: 4, as: UInt8.self) == 127 }
    }

    /// A socket that is connecting, or connected.
    ///
    /// - Parameter source: of 127.0.0.0/8, from 1; 0 leaves the choice to the system.
    /// - Returns: an error number instead of a descriptor when negative.
    func connect(source: Int, isBlocking: Bool = false) -> Int32 {
        let type = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
        let descriptor = socket(
            Int32(storage.ss_family), isBlocking ? type : type | Int32(SOCK_NONBLOCK.rawValue), 0)
        guard descriptor >= 0 else { return -errno }
        var on: Int32 = 1
        setsockopt(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, &on, socklen_t(MemoryLayout<Int32>.size))
        if isLoopback, source > 0 {
            // A port is chosen at connect, so that two connections may share it.
            setsockopt(
                descriptor, Int32(IPPROTO_IP), Int32(IP_BIND_ADDRESS_NO_PORT), &on, socklen_t(MemoryLayout<Int32>.size))
            var from = sockaddr_in()
            from.sin_family = sa_family_t(AF_INET)
            from.sin_addr.s_addr = (0x7F00_0000 + UInt32(source)).bigEndian
            let result = withUnsafePointer(to: &from) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
                }
            }
            if result != 0 { return failed(descriptor) }
        }
        if isBlocking {
            var limit = timeval(tv_sec: 5, tv_usec: 0)
            setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
        }
        var to = storage
        let result = withUnsafePointer(to: &to) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { Glibc.connect(descriptor, $0, length) }
        }
        if result != 0, errno != EINPROGRESS { return failed(descriptor) }
        if isBlocking { _ = fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) | O_NONBLOCK) }
        return descriptor
    }

    private func failed(_ descriptor: Int32) -> Int32 {
        let code = errno
        close(descriptor)
        return -code
    }
}

/// How a non-blocking connect ended: 0, or an error number.
func connectResult(_ descriptor: Int32) -> Int32 {
    var code: Int32 = 0
    var length = socklen_t(MemoryLayout<Int32>.size)
    guard getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &code, &length) == 0 else { return errno }
    return code
}

/// Descriptors that one thread waits for.
struct Poller {
    static let input = EPOLLIN.rawValue
    static let output = EPOLLOUT.rawValue
    private static let capacity = 512

    private let descriptor: Int32
    private let events: UnsafeMutablePointer<epoll_event>

    init() throws(LoadError) {
        descriptor = epoll_create1(Int32(EPOLL_CLOEXEC))
        guard descriptor >= 0 else { throw LoadError(code: .system, cause: "epoll: \(reason(errno))") }
        events = .allocate(capacity: Self.capacity)
    }

    func deallocate() {
        close(descriptor)
        events.deallocate()
    }

    func add(_ watched: Int32, _ interest: UInt32, as number: Int) { control(EPOLL_CTL_ADD, watched, interest, number) }
    func change(_ watched: Int32, _ interest: UInt32, as number: Int) {
        control(EPOLL_CTL_MOD, watched, interest, number)
    }
    func remove(_ watched: Int32) { control(EPOLL_CTL_DEL, watched, 0, 0) }

    private func control(_ operation: Int32, _ watched: Int32, _ interest: UInt32, _ number: Int) {
        var event = epoll_event(events: interest, data: epoll_data_t(u64: UInt64(number)))
        epoll_ctl(descriptor, operation, watched, &event)
    }

    /// How many have something to say.
    func wait(milliseconds: Int32) -> Int {
        max(0, Int(epoll_wait(descriptor, events, Int32(Self.capacity), milliseconds)))
    }

    /// The number under which one of them was added.
    @inline(__always)
    func number(_ index: Int) -> Int { Int(events[index].data.u64) }
}

/// A thread that is waited for, and whose CPU time is known.
final class LoadThread: @unchecked Sendable {  // the handle is written before anyone else sees it
    private var handle = pthread_t()
    private let body: Body

    private final class Body: Sendable {
        let run: @Sendable () -> Void
        /// CPU time of a thread that has ended.
        let finalNano = Atomic<UInt64>(0)
        init(_ run: @escaping @Sendable () -> Void) { self.run = run }
    }

    init(_ name: String, _ run: @escaping @Sendable () -> Void) throws(LoadError) {
        body = Body(run)
        let context = Unmanaged.passRetained(body)
        let status = pthread_create(
            &handle, nil,
            { context in
                guard let context else { return nil }
                let body = Unmanaged<Body>.fromOpaque(context).takeRetainedValue()
                body.run()
                body.finalNano.store(LoadThread.nano(CLOCK_THREAD_CPUTIME_ID) ?? 0, ordering: .relaxed)
                return nil
            }, context.toOpaque())
        guard status == 0 else {
            context.release()
            throw LoadError(code: .system, cause: "no thread: \(reason(status))")
        }
        pthread_setname_np(handle, name)
    }

    /// CPU time so far, or in all, in nanoseconds; not after `join`.
    var cpuNano: UInt64 {
        var clock = clockid_t()
        guard pthread_getcpuclockid(handle, &clock) == 0, let nano = Self.nano(clock) else {
            return body.finalNano.load(ordering: .relaxed)
        }
        return max(nano, body.finalNano.load(ordering: .relaxed))
    }

    private static func nano(_ clock: clockid_t) -> UInt64? {
        var time = timespec()
        guard clock_gettime(clock, &time) == 0 else { return nil }
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }

    func join() { pthread_join(handle, nil) }
}

enum OpenFiles {
    /// Raises the soft limit to the hard one.
    ///
    /// - Throws: when that is below what is needed.
    static func require(_ needed: Int) throws(LoadError) {
        var limit = rlimit()
        getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
        if limit.rlim_cur < limit.rlim_max {
            limit.rlim_cur = limit.rlim_max
            setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
            getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
        }
        guard limit.rlim_cur < UInt64(needed) else { return }
        throw LoadError(
            code: .openFiles,
            cause:
                "\(needed) open files are needed and \(limit.rlim_cur) are allowed, the hard limit; raise it by ulimit "
                + "-Hn as root, or take fewer connections")
    }
}
