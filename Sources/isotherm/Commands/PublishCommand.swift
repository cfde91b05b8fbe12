import ArgumentParser
import Foundation
import PushClient

struct PublishCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "publish",
        abstract: "Send events.",
        discussion: """
              isotherm publish orders '{"a":1}'               one event
              isotherm publish orders --file order.json       one event, from a file
              tail -f prices.log | isotherm publish prices -  one event for each line

            Prints the id of each event once it is as durable as the server promises. A
            request that fails on the way is sent again with the same Idempotency-Key,
            so that no event is there twice.
            """)

    @Argument(help: "Where to: letters, digits, . _ -")
    var topic: String

    @Argument(help: "The event; - reads one event a line from standard input.")
    var event: String?

    @Option(help: ArgumentHelp("Read one event from a file.", valueName: "path"))
    var file: String?

    @Option(help: ArgumentHelp("The event name that devices see.", valueName: "name"))
    var type: String?

    @Option(help: ArgumentHelp("What the event is the latest value of.", valueName: "key"))
    var key: String?

    @Option(help: ArgumentHelp("Of the payload.", valueName: "mime"))
    var contentType = "application/json"

    @Option(help: ArgumentHelp("Claimed with the event: the same key again adds nothing.", valueName: "key"))
    var idempotencyKey: String?

    @Option(help: ArgumentHelp("The caller's span, as W3C Trace Context has it.", valueName: "value"))
    var traceparent: String?

    @OptionGroup var options: ServerOptions

    func validate() throws {
        guard (event == nil) != (file == nil) else {
            throw ValidationError("Give the event as an argument, as --file, or as - for standard input.")
        }
        if event == "-", idempotencyKey != nil {
            throw ValidationError("--idempotency-key is for one event; lines get a key of their own each.")
        }
    }

    func run() async throws {
        StopSignal.install()
        let client = HTTPClient()
        if event == "-" {
            var sent = 0
            while !StopSignal.isSet, let line = readLine(strippingNewline: true) {
                if line.isEmpty { continue }
                try send(Array(line.utf8), client)
                sent += 1
            }
            Terminal.note("\(sent) events published to \(topic)")
            return
        }
        var payload = Array((event ?? "").utf8)
        if let file {
            guard let data = FileManager.default.contents(atPath: file) else {
                Terminal.note("Error: \(file) cannot be read")
                throw ExitCode.failure
            }
            payload = Array(data)
        }
        try send(payload, client)
    }

    private func send(_ payload: [UInt8], _ client: HTTPClient) throws {
        var headers =
            options.headers + [
                ("Content-Type", contentType), ("Idempotency-Key", idempotencyKey ?? UUID().uuidString),
            ]
        if let type { headers.append(("X-Event-Type", type)) }
        if let key { headers.append(("X-Event-Key", key)) }
        if let traceparent { headers.append(("traceparent", traceparent)) }
        let url = "\(options.url)/v1/events/\(Query.escaped(topic))"
        var wait = 0.2
        for attempt in 1... {
            switch self.attempt(url, headers, payload, client) {
            case .published(let id):
                Terminal.print("\(id)\n")
                return
            case .failed(let cause, let isFinal, let after):
                guard !isFinal, attempt < 5, !StopSignal.isSet else {
                    Terminal.note("Error: \(cause)")
                    throw ExitCode.failure
                }
                Thread.sleep(forTimeInterval: min(max(wait, after), 30) * Double.random(in: 0.75...1.25))
                wait = min(wait * 2, 5)
            }
        }
    }

    private enum Outcome {
        case published(id: String)
        case failed(String, isFinal: Bool, after: Double)
    }

    private func attempt(_ url: String, _ headers: [(String, String)], _ payload: [UInt8], _ client: HTTPClient)
        -> Outcome
    {
        do {
            let response = try client.post(url, headers: headers, body: payload)
            guard response.status == 202 else {
                return .failed(
                    Self.problem(response), isFinal: ![429, 502, 503, 504].contains(response.status),
                    after: response.header("retry-after").flatMap(Double.init) ?? 0)
            }
            let reply = try? JSONSerialization.jsonObject(with: Data(response.body)) as? [String: Any]
            return .published(id: reply?["id"] as? String ?? "")
        } catch {
            return .failed(error.cause, isFinal: error.code != .connectionFailed && error.code != .timedOut, after: 0)
        }
    }

    /// What the server says about an error, for a person.
    static func problem(_ response: HTTPResponse) -> String {
        let body = try? JSONSerialization.jsonObject(with: Data(response.body)) as? [String: Any]
        let title = body?["title"] as? String ?? String(decoding: response.body.prefix(200), as: UTF8.self)
        let detail = (body?["detail"] as? String).map { ": \($0)" } ?? ""
        return "the server answers \(response.status): \(title)\(detail)"
    }
}
