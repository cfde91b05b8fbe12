import ArgumentParser
import Foundation
import LoadGenerator

struct BenchCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bench",
        abstract: "Put a load of event streams on a server, and count what arrives, when, and at what cost.",
        discussion: """
            1,000 devices on one topic of a running server, 20 events a second:

              isotherm bench --connections 1000 --rate 20 --duration 10s

            The same on nginx with nchan, whose /sub and /pub take the channel as ?id=:

              isotherm bench --target nchan --server http://127.0.0.1:8090 --connections 1000 --rate 20

            10,000 devices on 1,000 topics that are all cut at once and come back:

              isotherm bench --connections 10000 --channels 1000 --rate 100 --duration 60s --storm

            An event carries the time at which it was due, and its latency runs from then to
            the read that ended it: a server that keeps its publisher waiting does not look
            faster for it. Every event has a number, so that what is lost, repeated or out of
            order is counted. CPU and memory (PSS) are those of the processes that listen on
            the server's port. Ctrl-C ends it and prints what was measured until then.

            The exit status is 1 where an event was lost, repeated, out of order, refused or
            could not be sent, or a stream could not be opened. See docs/bench.md.
            """)

    enum Target: String, CaseIterable, ExpressibleByArgument { case isotherm, nchan, mercure }
    enum Format: String, CaseIterable, ExpressibleByArgument { case text, json }

    @Option(help: "What kind of server it is, for its URLs.")
    var target = Target.isotherm

    @Option(help: ArgumentHelp("Streams; their URL. {channel}, {connection} are filled in.", valueName: "url"))
    var subscribe: String?

    @Option(help: ArgumentHelp("POST events to this URL. {channel} is filled in.", valueName: "url"))
    var publish: String?

    @Option(help: ArgumentHelp("Body of a POST. Default {payload}.", valueName: "text"))
    var publishBody: String?

    @Option(help: ArgumentHelp("Content type of a POST.", valueName: "mime"))
    var contentType: String?

    @Option(help: ArgumentHelp("Sent with every request: 'Name: value'. Repeatable.", valueName: "header"))
    var header: [String] = []

    @Option(help: ArgumentHelp("Sent with every POST only. Repeatable.", valueName: "header"))
    var publishHeader: [String] = []

    @Option(name: .shortAndLong, help: ArgumentHelp("Streams that read.", valueName: "n"))
    var connections = 100

    @Option(help: ArgumentHelp("Topics; streams and events are spread over them.", valueName: "n"))
    var channels = 1

    @Option(help: ArgumentHelp("What the names of topics begin with.", valueName: "name"))
    var channelPrefix = "bench"

    @Option(
        name: .shortAndLong,
        help: ArgumentHelp("Events a second over all topics; max: as answers come.", valueName: "n"))
    var rate = "10"

    @Option(help: ArgumentHelp("Of what is measured; 0s only opens the streams.", valueName: "duration"))
    var duration = "10s"

    @Option(help: ArgumentHelp("Publishing at the same rate before that.", valueName: "duration"))
    var warmUp = "2s"

    @Option(
        help: ArgumentHelp(
            "Longest wait at the end for what is missing. Default 10s, with --storm 90s.", valueName: "duration"))
    var drain: String?

    @Option(help: ArgumentHelp("Wait before the server's CPU is taken: for what it puts off.", valueName: "duration"))
    var settle = "0s"

    @Option(help: ArgumentHelp("Bytes of an event.", valueName: "n"))
    var size = 256

    @Option(help: ArgumentHelp("Connections that publish.", valueName: "n"))
    var publishers = 8

    @Flag(name: .customLong("http2"), help: "Streams speak HTTP/2, each on a connection of its own.")
    var http2 = false

    @Option(help: ArgumentHelp("Further streams that never read.", valueName: "n"))
    var stalled = 0

    @Flag(help: "Open streams again that end, with the last id.")
    var reconnect = false

    @Flag(help: "Cut all streams in the middle, and tell how they come back; implies --reconnect.")
    var storm = false

    @Option(help: ArgumentHelp("Threads that read.", valueName: "n"))
    var threads = 1

    @Option(
        help: ArgumentHelp(
            "A process of the server, with its children. Default: who listens on the port. Repeatable.",
            valueName: "pid"))
    var serverPid: [Int32] = []

    @Option(help: "How the figures are printed.")
    var format = Format.text

    @OptionGroup var options: ServerOptions

    func run() async throws {
        StopSignal.install()
        let plan: LoadPlan
        do {
            plan = try makePlan()
            try plan.validate()
        } catch let error as LoadError {
            throw ValidationError(error.cause)
        } catch let error as SettingError {
            throw ValidationError(error.description)
        }
        let report: LoadReport
        do {
            report = try LoadRun.run(plan, shouldStop: { StopSignal.isSet }, progress: { Terminal.note($0) })
        } catch {
            Terminal.note("Error: \(error.cause)")
            throw ExitCode.failure
        }
        switch format {
        case .text: Terminal.print(report.text())
        case .json: Terminal.print(String(decoding: report.json(), as: UTF8.self))
        }
        if !report.isClean { throw ExitCode.failure }
    }

    private func makePlan() throws -> LoadPlan {
        var plan = LoadPlan(target: try makeTarget())
        plan.connections = connections
        plan.stalled = stalled
        plan.http2 = http2
        plan.channels = channels
        if rate == "max" {
            plan.rate = nil
        } else {
            guard let number = Double(rate) else {
                throw ValidationError("--rate \(rate) is neither a number nor max.")
            }
            plan.rate = number
        }
        plan.duration = try Values.duration(duration)
        plan.warmUp = try Values.duration(warmUp)
        plan.drain = try drain.map(Values.duration) ?? .seconds(storm ? 90 : 10)
        plan.settle = try Values.duration(settle)
        plan.size = size
        plan.publishers = publishers
        plan.threads = threads
        plan.reconnects = reconnect
        plan.storm = storm
        plan.serverPIDs = serverPid
        return plan
    }

    private func makeTarget() throws -> LoadTarget {
        var made: LoadTarget
        switch target {
        case .isotherm: made = .isotherm(options.url)
        case .nchan: made = .nchan(options.url)
        case .mercure: made = .mercure(options.url)
        }
        if subscribe != nil || publish != nil { made.name = "custom" }
        made.subscribeURL = subscribe ?? made.subscribeURL
        made.publishURL = publish ?? made.publishURL
        made.publishBody = publishBody ?? made.publishBody
        made.contentType = contentType ?? made.contentType
        made.channelPrefix = channelPrefix
        let common = try options.headers + header.map(Self.field)
        made.subscribeHeaders += common
        made.publishHeaders += try common + publishHeader.map(Self.field)
        return made
    }

    private static func field(_ text: String) throws -> (String, String) {
        guard let colon = text.firstIndex(of: ":"), colon > text.startIndex else {
            throw ValidationError("The header \(text.debugDescription) is not of the form 'Name: value'.")
        }
        return (
            String(text[..<colon]), text[text.index(after: colon)...].trimmingCharacters(in: .whitespaces)
        )
    }
}
