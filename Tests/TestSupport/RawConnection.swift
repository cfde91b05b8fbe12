import Glibc

/// A blocking TCP connection to loopback, for tests that send exactly the bytes they mean to.
public final class RawConnection {
    private var descriptor: Int32
    private var buffered: [UInt8] = []

    public struct Failure: Error, CustomStringConvertible {
        public let description: String
    }

    /// - Parameter receiveBuffer: the socket's receive buffer in bytes; small for a device that reads slowly.
    /// - Parameter source: the last byte of the loopback address to come from.
    public init(port: Int, receiveBuffer: Int32? = nil, source: UInt8 = 1) throws {
        descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        guard descriptor >= 0 else { throw Failure(description: "socket: errno \(errno)") }
        if var size = receiveBuffer {
            setsockopt(descriptor, SOL_SOCKET, SO_RCVBUF, &size, socklen_t(MemoryLayout<Int32>.size))
        }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        if source != 1 {
            address.sin_addr.s_addr = (0x7F00_0000 | UInt32(source)).bigEndian
            _ = withUnsafePointer(to: &address) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
                }
            }
        }
        address.sin_port = in_port_t(port).bigEndian
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        let result = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        guard result == 0 else {
            let code = errno
            Glibc.close(descriptor)
            throw Failure(description: "connect to port \(port): errno \(code)")
        }
    }

    deinit { if descriptor >= 0 { Glibc.close(descriptor) } }

    public func send(_ text: String) throws { try send(Array(text.utf8)) }

    public func send(_ bytes: [UInt8]) throws {
        var sent = 0
        while sent < bytes.count {
            let count = bytes.withUnsafeBytes {
                Glibc.send(descriptor, $0.baseAddress.map { $0 + sent }, bytes.count - sent, Int32(MSG_NOSIGNAL))
            }
            guard count > 0 else { throw Failure(description: "send: errno \(errno) after \(sent) bytes") }
            sent += count
        }
    }

    /// How many bytes the kernel took within half a second; nil when it took none.
    public func sendWithoutWaiting(_ bytes: [UInt8]) -> Int? {
        var poller = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
        guard poll(&poller, 1, 500) > 0 else { return nil }
        let count = bytes.withUnsafeBytes {
            Glibc.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL) | Int32(MSG_DONTWAIT))
        }
        return count > 0 ? count : nil
    }

    /// Exactly so many bytes.
    public func receive(bytes count: Int) throws -> String {
        var bytes: [UInt8] = []
        while bytes.count < count {
            let more = receive(milliseconds: 5_000)
            guard !more.isEmpty else { throw Failure(description: "\(bytes.count) of \(count) bytes came") }
            bytes += more
        }
        buffered = Array(bytes[count...])
        return String(decoding: bytes[..<count], as: UTF8.self)
    }

    /// Breaks the connection: the peer gets a reset.
    public func abort() {
        var linger = linger(l_onoff: 1, l_linger: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &linger, socklen_t(MemoryLayout.size(ofValue: linger)))
        Glibc.close(descriptor)
        descriptor = -1
    }

    /// Ends this side's sending.
    public func finish() { shutdown(descriptor, Int32(SHUT_WR)) }

    /// What has come within `milliseconds`, empty at the end of the stream or when nothing came.
    public func receive(milliseconds: Int32 = 5_000, limit: Int = 65_536) -> [UInt8] {
        if !buffered.isEmpty {
            defer { buffered = [] }
            return buffered
        }
        var poller = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        guard poll(&poller, 1, milliseconds) > 0 else { return [] }
        return [UInt8](unsafeUninitializedCapacity: limit) { bytes, count in
            count = max(0, recv(descriptor, bytes.baseAddress, limit, 0))
        }
    }

    /// When the kernel got the last bytes before and with `text`, on its clock in nanoseconds; nil when it does not come.
    public func arrival(of text: String) -> UInt64? {
        var on: Int32 = 1
        // SO_TIMESTAMPNS
        setsockopt(descriptor, SOL_SOCKET, 35, &on, socklen_t(MemoryLayout<Int32>.size))
        let deadline = ContinuousClock.now + .seconds(10)
        while ContinuousClock.now < deadline {
            var bytes = [UInt8](repeating: 0, count: 65_536)
            var control = [UInt64](repeating: 0, count: 32)
            let count = bytes.withUnsafeMutableBytes { space in
                control.withUnsafeMutableBytes { control in
                    var vector = iovec(iov_base: space.baseAddress, iov_len: space.count)
                    return withUnsafeMutablePointer(to: &vector) { vector in
                        var message = msghdr()
                        message.msg_iov = vector
                        message.msg_iovlen = 1
                        message.msg_control = control.baseAddress
                        message.msg_controllen = control.count
                        return recvmsg(descriptor, &message, 0)
                    }
                }
            }
            guard count > 0 else { return nil }
            // A header of two words, then seconds and nanoseconds.
            if bytes[..<count].firstRange(of: Array(text.utf8)) != nil {
                return control[2] > 0 ? control[2] * 1_000_000_000 + control[3] : nil
            }
        }
        return nil
    }

    /// Reads until `text` has come, and returns everything up to and including it; what follows stays for later.
    public func receive(until text: String, milliseconds: Int32 = 10_000) throws -> String {
        let wanted = Array(text.utf8)
        var bytes: [UInt8] = []
        let deadline = ContinuousClock.now + .milliseconds(Int(milliseconds))
        while true {
            if let range = bytes.firstRange(of: wanted) {
                buffered = Array(bytes[range.upperBound...])
                return String(decoding: bytes[..<range.upperBound], as: UTF8.self)
            }
            let more = receive(milliseconds: 250)
            bytes += more
            guard ContinuousClock.now < deadline else {
                throw Failure(
                    description: "no \(text.debugDescription) within \(milliseconds) ms; got "
                        + String(decoding: bytes.suffix(2_000), as: UTF8.self).debugDescription)
            }
        }
    }

    /// Everything until the peer closes.
    public func receiveAll(milliseconds: Int32 = 10_000) -> String {
        var bytes: [UInt8] = []
        let deadline = ContinuousClock.now + .milliseconds(Int(milliseconds))
        while ContinuousClock.now < deadline {
            let more = receive(milliseconds: 500)
            if more.isEmpty, isClosed { break }
            bytes += more
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    /// Whether the peer has closed or reset the connection.
    public var isClosed: Bool {
        var byte: UInt8 = 0
        let count = recv(descriptor, &byte, 1, Int32(MSG_PEEK) | Int32(MSG_DONTWAIT))
        return count == 0 || (count < 0 && errno != EAGAIN && errno != EWOULDBLOCK)
    }
}

/// One HTTP request on a connection of its own.
public struct HTTPReply {
    public let status: Int
    public let head: String
    public let body: String

    public init(status: Int, head: String, body: String) {
        (self.status, self.head, self.body) = (status, head, body)
    }

    public func field(_ name: String) -> String? {
        for line in head.split(separator: "\r\n") {
            let parts = line.split(separator: ":", maxSplits: 1)
            if parts.count == 2, parts[0].lowercased() == name.lowercased() {
                return parts[1].trimmingPrefix(while: { $0 == " " }).description
            }
        }
        return nil
    }
}

public enum HTTP {
    public static func request(
        _ method: String, _ target: String, port: Int, fields: [(String, String)] = [], body: [UInt8]? = nil,
        milliseconds: Int32 = 20_000
    ) throws -> HTTPReply {
        let connection = try RawConnection(port: port)
        var head = "\(method) \(target) HTTP/1.1\r\nHost: 127.0.0.1:\(port)\r\nConnection: close\r\n"
        for (name, value) in fields { head += "\(name): \(value)\r\n" }
        if let body { head += "Content-Length: \(body.count)\r\n" }
        try connection.send(Array((head + "\r\n").utf8) + (body ?? []))
        return try parse(connection.receiveAll(milliseconds: milliseconds))
    }

    public static func get(_ target: String, port: Int, fields: [(String, String)] = []) throws -> HTTPReply {
        try request("GET", target, port: port, fields: fields)
    }

    public static func post(
        _ target: String, _ body: String, port: Int, fields: [(String, String)] = []
    ) throws -> HTTPReply {
        try request("POST", target, port: port, fields: fields, body: Array(body.utf8))
    }

    /// A response whose body ends with the connection, has a length, or is chunked.
    public static func parse(_ text: String) throws -> HTTPReply {
        guard let end = text.firstRange(of: "\r\n\r\n") else {
            throw RawConnection.Failure(description: "no response head in \(text.prefix(500).debugDescription)")
        }
        let head = String(text[..<end.lowerBound])
        let parts = head.split(separator: " ", maxSplits: 2)
        guard parts.count >= 2, let status = Int(parts[1]) else {
            throw RawConnection.Failure(description: "no status in \(head.debugDescription)")
        }
        var body = String(text[end.upperBound...])
        if head.lowercased().contains("transfer-encoding: chunked") { body = unchunked(body) }
        return HTTPReply(status: status, head: head, body: body)
    }

    private static func unchunked(_ text: String) -> String {
        var rest = Array(text.utf8)[...]
        var body: [UInt8] = []
        while let line = rest.firstRange(of: Array("\r\n".utf8)) {
            let size = Int(String(decoding: rest[..<line.lowerBound], as: UTF8.self), radix: 16) ?? 0
            if size == 0 { break }
            let chunk = rest[line.upperBound...].prefix(size)
            body += chunk
            rest = rest[chunk.endIndex...].dropFirst(2)
        }
        return String(decoding: body, as: UTF8.self)
    }
}

/// Events of a stream as a device sees them: only what these tests need of the standard.
public struct ReceivedEvent: Equatable {
    public var id = ""
    public var type = ""
    public var data = ""
    public var traceparent = ""

    /// The complete events in `text`, a part of a stream after its head.
    public static func parse(_ text: String) -> [ReceivedEvent] {
        var events: [ReceivedEvent] = []
        for block in text.split(separator: "\n\n") {
            var event = ReceivedEvent()
            var lines: [Substring] = []
            for line in block.split(separator: "\n") {
                if line.hasPrefix("id: ") { event.id = String(line.dropFirst(4)) }
                if line.hasPrefix("event: ") { event.type = String(line.dropFirst(7)) }
                if line.hasPrefix("traceparent: ") { event.traceparent = String(line.dropFirst(13)) }
                if line.hasPrefix("data: ") { lines.append(line.dropFirst(6)) }
            }
            guard !lines.isEmpty else { continue }
            event.data = lines.joined(separator: "\n")
            events.append(event)
        }
        return events
    }
}
