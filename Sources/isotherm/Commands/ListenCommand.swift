import ArgumentParser
import Foundation
import PushClient

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
        let reporter =
            receipts
            ? ReceiptReporter(
                configuration: .init(server: options.url, headers: options.headers, device: device, group: group)) : nil
        var left = count ?? .max
        do {
            try client.run(shouldStop: { StopSignal.isSet }, onNotice: { Self.tell($0) }) { event in
                if let id = event.id, event.type != "isotherm.reset" { reporter?.received(id) }
                guard Terminal.print(line(event)) else { return .stop }
                left -= 1
                return left == 0 ? .stop : .continue
            }
        } catch {
            finish(reporter)
            Terminal.note("Error: \(error.cause)")
            throw ExitCode.failure
        }
        finish(reporter)
    }

    private func finish(_ reporter: ReceiptReporter?) {
        guard let reporter else { return }
        reporter.finish()
        let lost = reporter.counts.lost
        if lost > 0 { Terminal.note("\(lost) receipts could not be reported") }
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
