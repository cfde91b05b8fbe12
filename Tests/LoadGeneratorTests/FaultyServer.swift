import Glibc
import Synchronization

/// A server of event streams that misbehaves where it is told to. One channel for each path; an event's number is its
/// place among those that were posted to it, from 0.
final class FaultyServer: Sendable {
    struct Faults: Sendable {
        /// What is sent for an event, by its number: none, several, others. Default: itself.
        var sends: @Sendable (Int) -> [Int] = { [$0] }
        /// Answers to a POST, by the number it would have; an event that is not accepted gets no number.
        var status: @Sendable (_ post: Int) -> Int = { _ in 202 }
        /// Streams of one channel that get another's events.
        var mixesChannels = false
        var isChunked = false
        /// Streams are closed after this event.
        var closesAfter: Int?
        /// The publisher's connection is closed after so many answers.
        var answersPerConnection = Int.max
        var answersStreams = true
        var retry = 20
    }

    let port: Int
    private let listener: Int32
    private let faults: Faults
    private let isClosed = Atomic<Bool>(false)
    private let accepted = Atomic<Int>(0)
    private let resumed = Mutex<[String]>([])

    var url: String { "http://127.0.0.1:\(port)" }
    /// `Last-Event-ID` of every stream that had one.
    var resumeIDs: [String] { resumed.withLock { $0 } }
    var connectionCount: Int { accepted.load(ordering: .relaxed) }

    private struct Peer {
        let descriptor: Int32
        var request: [UInt8] = []
        /// Of a stream.
        var channel: String?
        var answers = 0
    }

    init(_ faults: Faults = Faults()) {
        self.faults = faults
        listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let listener = listener
        withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                _ = bind(listener, $0, length)
                _ = listen(listener, 512)
                _ = getsockname(listener, $0, &length)
            }
        }
        port = Int(UInt16(bigEndian: address.sin_port))
        var thread = pthread_t()
        let context = Unmanaged.passRetained(self)
        pthread_create(
            &thread, nil,
            { context in
                if let context { Unmanaged<FaultyServer>.fromOpaque(context).takeRetainedValue().serve() }
                return nil
            }, context.toOpaque())
        pthread_detach(thread)
    }

    func close() { isClosed.store(true, ordering: .relaxed) }

    private func serve() {
        signal(SIGPIPE, SIG_IGN)
        var peers: [Int32: Peer] = [:]
        var history: [String: [[UInt8]]] = [:]
        var posts: [String: Int] = [:]
        while !isClosed.load(ordering: .relaxed) {
            var polled = ([listener] + peers.keys).map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
            poll(&polled, nfds_t(polled.count), 20)
            for found in polled where found.revents != 0 {
                if found.fd == listener {
                    let descriptor = accept(listener, nil, nil)
                    if descriptor >= 0 { peers[descriptor] = Peer(descriptor: descriptor) }
                    accepted.wrappingAdd(1, ordering: .relaxed)
                    continue
                }
                guard var peer = peers[found.fd] else { continue }
                var bytes = [UInt8](repeating: 0, count: 65_536)
                let count = recv(found.fd, &bytes, bytes.count, 0)
                guard count > 0 else {
                    drop(found.fd, &peers)
                    continue
                }
                peer.request += bytes[..<count]
                peers[found.fd] = peer
                take(found.fd, &peers, &history, &posts)
            }
        }
        for descriptor in peers.keys { Glibc.close(descriptor) }
        Glibc.close(listener)
    }

    private func drop(_ descriptor: Int32, _ peers: inout [Int32: Peer]) {
        Glibc.close(descriptor)
        peers[descriptor] = nil
    }

    private func take(
        _ descriptor: Int32, _ peers: inout [Int32: Peer], _ history: inout [String: [[UInt8]]],
        _ posts: inout [String: Int]
    ) {
        guard let peer = peers[descriptor], let end = peer.request.firstRange(of: Array("\r\n\r\n".utf8)) else {
            return
        }
        let head = String(decoding: peer.request[..<end.lowerBound], as: UTF8.self)
        let lines = head.split(separator: "\r\n")
        let path = String(lines[0].split(separator: " ")[1])
        func field(_ name: String) -> String? {
            lines.first { $0.hasPrefix(name + ": ") }.map { String($0.dropFirst(name.count + 2)) }
        }
        if head.hasPrefix("GET") {
            peers[descriptor]?.request = []
            guard faults.answersStreams else {
                send(descriptor, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
                return
            }
            peers[descriptor]?.channel = path
            let coding = faults.isChunked ? "Transfer-Encoding: chunked\r\n" : ""
            send(descriptor, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\(coding)\r\n")
            stream(descriptor, Array("retry: \(faults.retry)\n\n: hello\n\n".utf8))
            if let id = field("Last-Event-ID"), let last = Int(id) {
                resumed.withLock { $0.append(id) }
                for number in (last + 1)..<max(last + 1, history[path, default: []].count) {
                    stream(descriptor, frame(number, history[path, default: []]))
                }
            }
            return
        }
        let length = field("Content-Length").flatMap { Int($0) } ?? 0
        guard peer.request.count >= end.upperBound + length else { return }
        let body = Array(peer.request[end.upperBound..<(end.upperBound + length)])
        peers[descriptor]?.request = []
        let post = posts[path, default: 0]
        posts[path] = post + 1
        let status = faults.status(post)
        let answers = peer.answers + 1
        peers[descriptor]?.answers = answers
        let isLast = answers % faults.answersPerConnection == 0
        send(
            descriptor,
            "HTTP/1.1 \(status) Whatever\r\n\(isLast ? "Connection: close\r\n" : "")content-length: 2\r\n\r\nok")
        if isLast { drop(descriptor, &peers) }
        guard status == 202 else { return }
        history[path, default: []].append(body)
        let number = history[path, default: []].count - 1
        let frames = faults.sends(number).filter { $0 < history[path, default: []].count }
            .map { frame($0, history[path, default: []]) }
        for listener in peers.values where listener.channel == path || (faults.mixesChannels && listener.channel != nil)
        {
            for frame in frames { stream(listener.descriptor, frame) }
            if number == faults.closesAfter { drop(listener.descriptor, &peers) }
        }
    }

    private func frame(_ number: Int, _ history: [[UInt8]]) -> [UInt8] {
        Array("id: \(number)\nevent: x\ndata: ".utf8) + history[number] + Array("\n\n".utf8)
    }

    private func stream(_ descriptor: Int32, _ bytes: [UInt8]) {
        guard faults.isChunked else { return send(descriptor, bytes) }
        send(descriptor, Array((String(bytes.count, radix: 16) + "\r\n").utf8) + bytes + [13, 10])
    }

    private func send(_ descriptor: Int32, _ text: String) { send(descriptor, Array(text.utf8)) }

    private func send(_ descriptor: Int32, _ bytes: [UInt8]) {
        _ = Glibc.send(descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL))
    }
}
