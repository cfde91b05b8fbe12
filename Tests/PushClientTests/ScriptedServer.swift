import Glibc
import Synchronization

/// A server that answers its connections, one after the other, by a script, byte for byte.
final class ScriptedServer: Sendable {
    enum Step: Sendable {
        /// Reads one request: its head, and a body if it has a length. A connection starts with this.
        case request
        case send([UInt8])
        case pause(milliseconds: UInt32)
        /// Waits until the peer closes.
        case hold
        /// Ends the connection with a RST instead of a FIN.
        case reset

        static func send(_ text: String) -> Step { .send(Array(text.utf8)) }
        /// One chunk of a chunked body.
        static func chunk(_ bytes: [UInt8]) -> Step {
            .send(Array((String(bytes.count, radix: 16) + "\r\n").utf8) + bytes + [13, 10])
        }
        static func chunk(_ text: String) -> Step { chunk(Array(text.utf8)) }
        static let lastChunk = Step.send("0\r\n\r\n")
    }

    /// One request as it came.
    struct Request: Sendable {
        let head: String
        let body: [UInt8]
        let time: ContinuousClock.Instant
        /// Which connection it came on.
        let connection: Int

        func field(_ name: String) -> String? {
            for line in head.split(separator: "\r\n").dropFirst() {
                let parts = line.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
                if parts.count == 2, parts[0].lowercased() == name.lowercased() { return String(parts[1].dropFirst()) }
            }
            return nil
        }
    }

    static let streamHead =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"

    /// A stream that is opened, brings `chunks`, and goes on by `then`.
    static func stream(_ chunks: String..., then: [Step] = [.lastChunk]) -> [Step] {
        [.request, .send(streamHead)] + chunks.map { .chunk($0) } + then
    }

    static func answer(_ status: String, fields: String = "", body: String = "") -> [Step] {
        [.request, .send("HTTP/1.1 \(status)\r\n\(fields)Content-Length: \(body.utf8.count)\r\n\r\n\(body)")]
    }

    let port: Int
    private let listener: Int32
    private let taken = Mutex<[Request]>([])
    private let isClosed = Atomic<Bool>(false)

    var url: String { "http://127.0.0.1:\(port)/stream" }
    var requests: [Request] { taken.withLock { $0 } }

    /// - Parameter script: the steps of each connection; the last one repeats.
    init(_ script: [[Step]]) {
        listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let listener = listener
        withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                _ = bind(listener, $0, length)
                _ = listen(listener, 16)
                _ = getsockname(listener, $0, &length)
            }
        }
        port = Int(UInt16(bigEndian: address.sin_port))
        Thread.start { [self] in serve(script) }
    }

    /// Ends the server's thread; every test that made one calls it.
    func close() {
        isClosed.store(true, ordering: .relaxed)
        shutdown(listener, Int32(SHUT_RDWR))
    }

    private func serve(_ script: [[Step]]) {
        var connection = 0
        while !isClosed.load(ordering: .relaxed) {
            let peer = accept(listener, nil, nil)
            guard peer >= 0 else { break }
            run(script[min(connection, script.count - 1)], peer, connection)
            Glibc.close(peer)
            connection += 1
        }
        Glibc.close(listener)
    }

    private func run(_ steps: [Step], _ peer: Int32, _ connection: Int) {
        for step in steps {
            switch step {
            case .request:
                guard let request = read(peer, connection) else { return }
                taken.withLock { $0.append(request) }
            case .send(let bytes):
                var rest = bytes[...]
                while !rest.isEmpty {
                    let count = rest.withUnsafeBytes { send(peer, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
                    guard count > 0 else { return }
                    rest = rest.dropFirst(count)
                }
            case .pause(let milliseconds):
                usleep(milliseconds * 1000)
            case .hold:
                while !isClosed.load(ordering: .relaxed) {
                    var poller = pollfd(fd: peer, events: Int16(POLLIN), revents: 0)
                    var byte: UInt8 = 0
                    if poll(&poller, 1, 20) > 0, recv(peer, &byte, 1, 0) <= 0 { return }
                }
            case .reset:
                var linger = linger(l_onoff: 1, l_linger: 0)
                setsockopt(peer, SOL_SOCKET, SO_LINGER, &linger, socklen_t(MemoryLayout.size(ofValue: linger)))
                return
            }
        }
    }

    private func read(_ peer: Int32, _ connection: Int) -> Request? {
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 65_536)
        while true {
            if let end = bytes.firstRange(of: Array("\r\n\r\n".utf8)) {
                let request = Request(
                    head: String(decoding: bytes[..<end.lowerBound], as: UTF8.self),
                    body: Array(bytes[end.upperBound...]),
                    time: .now, connection: connection)
                if request.body.count >= request.field("Content-Length").flatMap({ Int($0) }) ?? 0 { return request }
            }
            let count = recv(peer, &chunk, chunk.count, 0)
            guard count > 0 else { return nil }
            bytes += chunk[..<count]
        }
    }
}

/// A port whose queue of connections is full: another connection neither succeeds nor fails.
struct FullListener {
    let port: Int
    private let descriptors: [Int32]

    init() {
        let listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        var descriptors = [listener]
        withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                _ = bind(listener, $0, length)
                _ = listen(listener, 0)
                _ = getsockname(listener, $0, &length)
                for _ in 0..<4 {
                    let filler = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_NONBLOCK.rawValue), 0)
                    _ = connect(filler, $0, length)
                    descriptors.append(filler)
                }
            }
        }
        self.descriptors = descriptors
        port = Int(UInt16(bigEndian: address.sin_port))
    }

    func close() { for descriptor in descriptors { _ = Glibc.close(descriptor) } }
}

/// A thread without Foundation's run loop.
enum Thread {
    private final class Body {
        let run: @Sendable () -> Void
        init(_ run: @escaping @Sendable () -> Void) { self.run = run }
    }

    static func start(_ body: @escaping @Sendable () -> Void) {
        var thread = pthread_t()
        let context = Unmanaged.passRetained(Body(body)).toOpaque()
        pthread_create(
            &thread, nil,
            { context in
                if let context { Unmanaged<Body>.fromOpaque(context).takeRetainedValue().run() }
                return nil
            }, context)
        pthread_detach(thread)
    }
}

/// Runs what blocks on a thread of its own, not on one of the few that run the tests.
func onThread<Value: Sendable>(_ body: @escaping @Sendable () throws -> Value) async throws -> Value {
    try await withCheckedThrowingContinuation { continuation in
        Thread.start { continuation.resume(with: Result { try body() }) }
    }
}
