import Foundation
import TestSupport

/// A device on a raw connection: what came is looked at byte for byte.
final class Device {
    let connection: RawConnection
    let head: String
    private var stream: [UInt8] = []
    /// Up to here the stream has been parsed; a frame ends with a blank line.
    private var parsed = 0
    private var waiting: [ReceivedEvent] = []

    init(
        port: Int, _ target: String, lastEventID: String? = nil, fields: [(String, String)] = [],
        receiveBuffer: Int32? = nil
    ) throws {
        connection = try RawConnection(port: port, receiveBuffer: receiveBuffer)
        var request = "GET \(target) HTTP/1.1\r\nHost: 127.0.0.1:\(port)\r\nAccept: text/event-stream\r\n"
        if let lastEventID { request += "Last-Event-ID: \(lastEventID)\r\n" }
        for (name, value) in fields { request += "\(name): \(value)\r\n" }
        try connection.send(request + "\r\n")
        head = try connection.receive(until: "\r\n\r\n")
    }

    /// The next `count` events that have not been returned yet.
    func events(_ count: Int, seconds: Int = 20) throws -> [ReceivedEvent] {
        let deadline = ContinuousClock.now + .seconds(seconds)
        while waiting.count < count {
            guard ContinuousClock.now < deadline else {
                let tail = String(decoding: stream.suffix(300), as: UTF8.self)
                throw Wait.TimedOut(description: "\(waiting.count) of \(count) events within \(seconds) s: \(tail)")
            }
            receive(milliseconds: 200)
        }
        defer { waiting.removeFirst(count) }
        return Array(waiting.prefix(count))
    }

    private func receive(milliseconds: Int32) {
        stream += connection.receive(milliseconds: milliseconds)
        var end = stream.count
        while end > parsed + 1, stream[end - 1] != 0x0A || stream[end - 2] != 0x0A { end -= 1 }
        guard end > parsed + 1 else { return }
        waiting += ReceivedEvent.parse(String(decoding: stream[parsed..<end], as: UTF8.self))
        parsed = end
    }

    /// Everything that has come so far, and within a time from now.
    func text(milliseconds: Int) -> String {
        // What was left behind the head, and what the kernel has.
        for _ in 0..<2 { receive(milliseconds: 0) }
        let deadline = ContinuousClock.now + .milliseconds(milliseconds)
        while ContinuousClock.now < deadline { receive(milliseconds: 50) }
        return String(decoding: stream, as: UTF8.self)
    }
}

extension IsothermProcess {
    @discardableResult
    func publish(_ topic: String, _ data: String, fields: [(String, String)] = []) throws -> PublishReply {
        let reply = try HTTP.post("/v1/events/\(topic)", data, port: port, fields: fields)
        guard reply.status == 202 else { throw Wait.TimedOut(description: "publish: \(reply.status) \(reply.body)") }
        return try JSONDecoder().decode(PublishReply.self, from: Data(reply.body.utf8))
    }

    /// The value of one sample of /metrics.
    func metric(_ sample: String) throws -> Double? {
        try HTTP.get("/metrics", port: port).body.split(separator: "\n")
            .first { $0.hasPrefix(sample + " ") }
            .flatMap { Double($0.dropFirst(sample.count + 1)) }
    }
}

struct PublishReply: Decodable {
    let id: String
    let trace_id: String
    let duplicate: Bool?
}
