import Foundation
import Glibc
import TestSupport

/// An OTLP/HTTP endpoint on a loopback port that answers by a script and keeps what it was sent.
///
/// A thread for each connection; connections are kept alive.
final class Receiver: Sendable {
    struct Request: Sendable {
        let target: String
        /// Names in lower case.
        let headers: [String: String]
        let body: [UInt8]
        /// Counts connections from 0.
        let connection: Int
        let arrival: ContinuousClock.Instant
    }

    enum Reply: Sendable {
        /// `delay` passes before the answer, unless the client leaves first.
        case status(Int, headers: [String: String] = [:], body: [UInt8] = [], delay: Duration = .zero)
        /// A status line and headers that promise more bytes than follow; then the connection ends.
        case cutOff(Int, headers: [String: String] = [:], promised: Int, body: [UInt8] = [])
        /// The connection ends without an answer.
        case disconnect
        /// The connection ends when the head of a request has arrived, its body unread.
        case disconnectEarly
        /// These bytes, whatever they are, and the end of the connection.
        case raw([UInt8])
        /// A head that promises more bytes than ever come: one each 20 ms.
        case drip(Int)
        /// An answer, and the end of the connection.
        case last(Int)
        /// Never an answer; the connection stays.
        case blackHole

        static let ok = Reply.status(200)
    }

    let port: Int
    private let listener: Int32
    private let otherwise: Reply
    private let state: Locked<State>

    private struct State {
        var script: [Reply]
        var requests: [Request] = []
        var connections: Set<Int32> = []
        var connectionCount = 0
        var isStopped = false
    }

    /// - Parameters:
    ///   - replies: one for each request, in order of arrival.
    ///   - otherwise: for the requests after those.
    init(port: Int = 0, replies: [Reply] = [], otherwise: Reply = .ok) throws {
        self.otherwise = otherwise
        state = Locked(State(script: replies))
        listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var yes: Int32 = 1
        setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, socklen_t(MemoryLayout<Int32>.size))
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = inet_addr("127.0.0.1")
        address.sin_port = UInt16(port).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let descriptor = listener
        let isBound = withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(descriptor, $0, length) == 0 && listen(descriptor, 64) == 0
                    && getsockname(descriptor, $0, &length) == 0
            }
        }
        guard isBound else { throw POSIXError(POSIXErrorCode(rawValue: errno) ?? .EADDRINUSE) }
        self.port = Int(UInt16(bigEndian: address.sin_port))
        Thread.detachNewThread { [self] in accept() }
    }

    deinit { Glibc.close(listener) }

    var endpoint: String { "http://127.0.0.1:\(port)/v1/traces" }
    var requests: [Request] { state.withLock { $0.requests } }
    var bodies: [[UInt8]] { requests.map(\.body) }
    var connectionCount: Int { state.withLock { $0.connectionCount } }

    /// Ends every connection; later ones are refused.
    func stop() {
        state.withLock { state in
            state.isStopped = true
            for connection in state.connections { shutdown(connection, Int32(SHUT_RDWR)) }
        }
        shutdown(listener, Int32(SHUT_RDWR))
    }

    private func accept() {
        var number = 0
        while true {
            let connection = Glibc.accept(listener, nil, nil)
            guard connection >= 0 else { return }
            let isTaken = state.withLock { state in
                if !state.isStopped {
                    state.connections.insert(connection)
                    state.connectionCount += 1
                }
                return !state.isStopped
            }
            guard isTaken else {
                close(connection)
                return
            }
            let index = number
            number += 1
            Thread.detachNewThread { [self] in
                serve(connection, index)
                state.withLock { _ = $0.connections.remove(connection) }
                close(connection)
            }
        }
    }

    private func serve(_ connection: Int32, _ index: Int) {
        var buffer: [UInt8] = []
        while let request = read(connection, index, &buffer) {
            let reply = state.withLock { state in
                state.requests.append(request)
                return state.script.isEmpty ? otherwise : state.script.removeFirst()
            }
            switch reply {
            case .status(let status, let headers, let body, let delay):
                if delay > .zero, waitForClient(connection, delay) { return }
                guard write(connection, status, headers, length: body.count, body) else { return }
            case .cutOff(let status, let headers, let promised, let body):
                _ = write(connection, status, headers, length: promised, body)
                return
            case .disconnect, .disconnectEarly: return
            case .raw(let bytes):
                _ = write(connection, bytes)
                return
            case .drip(let status):
                guard write(connection, status, [:], length: 1_000_000, []) else { return }
                while !waitForClient(connection, .milliseconds(20)) {
                    guard write(connection, [0x20]) else { return }
                }
                return
            case .last(let status):
                _ = write(connection, status, ["Connection": "close"], length: 0, [])
                return
            case .blackHole:
                _ = waitForClient(connection, .seconds(600))
                return
            }
        }
    }

    /// Returns after the delay, or with true as soon as the client has left.
    private func waitForClient(_ connection: Int32, _ delay: Duration) -> Bool {
        var poller = pollfd(fd: connection, events: Int16(POLLIN), revents: 0)
        let milliseconds = delay.components.seconds * 1_000 + delay.components.attoseconds / 1_000_000_000_000_000
        return poll(&poller, 1, Int32(milliseconds)) > 0
    }

    private func read(_ connection: Int32, _ index: Int, _ buffer: inout [UInt8]) -> Request? {
        let blank = Array("\r\n\r\n".utf8)
        var headEnd: Int?
        while headEnd == nil {
            headEnd = buffer.count < 4 ? nil : (0...buffer.count - 4).first { Array(buffer[$0..<$0 + 4]) == blank }
            if headEnd == nil, !receive(connection, &buffer) { return nil }
        }
        guard let headEnd else { return nil }
        let lines = String(decoding: buffer[..<headEnd], as: UTF8.self).components(separatedBy: "\r\n")
        var headers: [String: String] = [:]
        for line in lines.dropFirst() {
            guard let colon = line.firstIndex(of: ":") else { continue }
            headers[line[..<colon].lowercased()] = line[line.index(after: colon)...].trimmingCharacters(
                in: .whitespaces)
        }
        let isCut = state.withLock { state in
            guard case .disconnectEarly? = state.script.first else { return false }
            state.script.removeFirst()
            return true
        }
        if isCut { return nil }
        let length = headers["content-length"].flatMap { Int($0) } ?? 0
        let end = headEnd + 4 + length
        while buffer.count < end { if !receive(connection, &buffer) { return nil } }
        let body = Array(buffer[(headEnd + 4)..<end])
        buffer.removeFirst(end)
        return Request(target: lines[0], headers: headers, body: body, connection: index, arrival: .now)
    }

    private func receive(_ connection: Int32, _ buffer: inout [UInt8]) -> Bool {
        let piece = [UInt8](unsafeUninitializedCapacity: 65_536) { bytes, count in
            count = max(0, recv(connection, bytes.baseAddress, 65_536, 0))
        }
        buffer += piece
        return !piece.isEmpty
    }

    private func write(_ connection: Int32, _ status: Int, _ headers: [String: String], length: Int, _ body: [UInt8])
        -> Bool
    {
        let fields = headers.map { "\($0.key): \($0.value)\r\n" }.joined()
        let contentLength = status == 204 ? "" : "Content-Length: \(length)\r\n"
        return write(connection, Array("HTTP/1.1 \(status) Status\r\n\(contentLength)\(fields)\r\n".utf8) + body)
    }

    private func write(_ connection: Int32, _ bytes: [UInt8]) -> Bool {
        var sent = 0
        while sent < bytes.count {
            let count = bytes.withUnsafeBytes { bytes in
                send(connection, bytes.baseAddress.map { $0 + sent }, bytes.count - sent, Int32(MSG_NOSIGNAL))
            }
            guard count > 0 else { return false }
            sent += count
        }
        return true
    }
}

/// Looks again until it is so, or the deadline has passed.
func eventually(within deadline: Duration = .seconds(10), _ isSo: () -> Bool) -> Bool {
    let end = ContinuousClock.now + deadline
    while ContinuousClock.now < end {
        if isSo() { return true }
        usleep(2_000)
    }
    return isSo()
}
