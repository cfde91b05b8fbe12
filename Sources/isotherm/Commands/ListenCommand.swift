import ArgumentParser
import Foundation
import PushClient
import Synchronization

struct ListenCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "listen",
        abstract: "Be a device: print events, resume after a break, report receipts.",
        discussion: """
              isotherm listen orders --group iOS-15+
              isotherm listen orders prices --format json --receipts

            After a break it resumes with the last id, so that nothing is missing and
            nothing comes twice. Where the server cannot continue from that id, it sends
            isotherm.reset, which is printed like any event.
            """)

    enum Format: String, CaseIterable, ExpressibleByArgument { case line, data, json }

    @Argument(help: "One or more topics.")
    var topics: [String]

    @Option(help: ArgumentHelp("Device group; the heatmap's row.", valueName: "name"))
    var group: String?

    @Option(help: ArgumentHelp("Device id.", valueName: "id"))
    var device: String?

    @Option(help: ArgumentHelp("Begin after this event. Default: with the next one.", valueName: "id"))
    var after: String?

    @Option(
        help: ArgumentHelp("line: id, type and data; data: only the data; json: an object a line.", valueName: "form"))
    var format = Format.line

    @Option(help: ArgumentHelp("End after so many events.", valueName: "n"))
    var count: Int?

    @Flag(help: "Report when each event arrived, for the heatmap's stage receive.")
    var receipts = false

    @OptionGroup var options: ServerOptions

    func validate() throws {
        guard !topics.isEmpty else { throw ValidationError("Name a topic.") }
        if let count, count < 1 { throw ValidationError("--count \(count) is not at least 1.") }
    }

    func run() async throws {
        StopSignal.install()
        var query = topics.map { ("topic", $0) }
        if let group { query.append(("group", group)) }
        if let device { query.append(("device", device)) }
        let client = EventSourceClient(
            configuration: .init(
                url: "\(options.url)/v1/events\(Query.text(query))",
                headers: options.headers + [("User-Agent", "isotherm-listen")], lastEventID: after))
        let reporter = receipts ? ReceiptReporter(options: options, group: group, device: device) : nil
        var left = count ?? .max
        do {
            try client.run(shouldStop: { StopSignal.isSet }, onNotice: { Self.tell($0) }) { event in
                reporter?.received(event.id)
                guard Terminal.print(line(event)) else { return .stop }
                left -= 1
                return left == 0 ? .stop : .continue
            }
        } catch {
            reporter?.finish()
            Terminal.note("Error: \(error.cause)")
            throw ExitCode.failure
        }
        reporter?.finish()
    }

    private static func tell(_ notice: EventSourceClient.Notice) {
        switch notice {
        case .connected(let url): Terminal.note("listening on \(url)")
        case .disconnected(let reason, let wait):
            let seconds = Double(wait.components.seconds) + Double(wait.components.attoseconds) / 1e18
            Terminal.note("\(reason); again in \(String(format: "%.1f", seconds)) s")
        case .ended(let reason): Terminal.note("the stream is over: \(reason)")
        }
    }

    private func line(_ event: ServerSentEvent) -> String {
        switch format {
        case .data: return event.data + "\n"
        case .line: return "\(event.id ?? "-")  \(event.type)  \(event.data)\n"
        case .json:
            var object = ["type": event.type, "data": event.data]
            object["id"] = event.id
            object["traceparent"] = event.traceparent
            let data = try? JSONSerialization.data(
                withJSONObject: object, options: [.sortedKeys, .withoutEscapingSlashes])
            return String(decoding: data ?? Data(), as: UTF8.self) + "\n"
        }
    }
}

/// Sends a device's receipts from a thread of its own, so that a slow server does not hold up the device.
private final class ReceiptReporter: Sendable {
    private static let maxQueued = 10_000
    private let state = Mutex(State())
    private let done = DispatchSemaphore(value: 0)

    private struct State {
        var queue: [(id: String, nano: UInt64)] = []
        var isFinished = false
        var lost = 0
    }

    init(options: ServerOptions, group: String?, device: String?) {
        let url = "\(options.url)/v1/receipts"
        let headers = options.headers + [("Content-Type", "application/json")]
        let thread = Thread { [self] in
            let client = HTTPClient(timeout: .seconds(5))
            while true {
                let (batch, isFinished) = state.withLock { state in
                    defer { state.queue = [] }
                    return (state.queue, state.isFinished)
                }
                if !batch.isEmpty {
                    var report: [String: Any] = [
                        "receipts": batch.map { ["id": $0.id, "received_at_unix_nano": "\($0.nano)"] }
                    ]
                    report["group"] = group
                    report["device"] = device
                    let body = (try? JSONSerialization.data(withJSONObject: report)).map { Array($0) } ?? []
                    let status = try? client.post(url, headers: headers, body: body).status
                    if status != 202 { state.withLock { $0.lost += batch.count } }
                }
                if isFinished { break }
                if batch.isEmpty { Thread.sleep(forTimeInterval: 0.2) }
            }
            done.signal()
        }
        thread.start()
    }

    func received(_ id: String?) {
        guard let id else { return }
        var now = timespec()
        clock_gettime(CLOCK_REALTIME, &now)
        let nano = UInt64(now.tv_sec) * 1_000_000_000 + UInt64(now.tv_nsec)
        state.withLock { state in
            if state.queue.count < Self.maxQueued { state.queue.append((id, nano)) } else { state.lost += 1 }
        }
    }

    func finish() {
        state.withLock { $0.isFinished = true }
        done.wait()
        let lost = state.withLock { $0.lost }
        if lost > 0 { Terminal.note("\(lost) receipts could not be reported") }
    }
}
