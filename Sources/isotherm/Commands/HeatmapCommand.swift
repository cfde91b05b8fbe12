import ArgumentParser
import Foundation
import Gzip
import LatencyHeatmap
import OTLP
import PushClient

struct HeatmapCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "heatmap",
        abstract: "Render latencies per group and window, from a running server or from OTLP files.",
        discussion: """
              isotherm heatmap http://127.0.0.1:8080             a running server
              isotherm heatmap http://127.0.0.1:8080 --watch 2s  again and again
              isotherm heatmap http://127.0.0.1:8080 --view slo  attainment, burn rates
              isotherm heatmap traces.json traces.pb.gz --format html -o report.html
              zcat traces.json.gz | isotherm heatmap - --name checkout --quantile p99

            Files are those of the Collector's file exporter: OTLP as JSON lines or as
            protobuf, plain or gzip. A span's latency is isotherm.latency_ns if it has
            that attribute, its duration otherwise.
            """)

    enum Format: String, CaseIterable, ExpressibleByArgument {
        case text, csv, html, json
        var fileExtension: String { self == .text ? "txt" : rawValue }
    }

    enum Kind: String, CaseIterable, ExpressibleByArgument {
        case `internal`, server, client, producer, consumer
        var number: UInt32 { UInt32(Self.allCases.firstIndex(of: self) ?? 0) + 1 }
    }

    @Argument(help: "A server's URL, OTLP files, or - for standard input.")
    var sources: [String]

    @Option(help: ArgumentHelp("How to show it.", valueName: "form"))
    var format = Format.text

    @Option(
        help: ArgumentHelp(
            "grid: groups by time; distribution: latencies by time; slo: attainment and burn rates.",
            valueName: "view"))
    var view: HeatmapQuery.View?

    @Option(
        help: ArgumentHelp(
            "Attribute that names the groups. Default device.group, else service.name.", valueName: "key"))
    var by: String?

    @Option(help: ArgumentHelp("Only this group.", valueName: "name"))
    var group: String?

    @Option(help: ArgumentHelp("Only where an attribute is so: tenant.id=acme. Repeatable.", valueName: "condition"))
    var `where`: [String] = []

    @Option(
        help: ArgumentHelp(
            "With the time before (1d), or one value of an attribute with another (app.version=v1,v2).",
            valueName: "what"))
    var compare: String?

    @Option(help: ArgumentHelp("Compare with another range: 2d..1d, or two times.", valueName: "range"))
    var against: String?

    @Option(help: ArgumentHelp("p50, p99.9, 0.95. Default p95.", valueName: "q"))
    var quantile: String?

    @Option(help: ArgumentHelp("Length of a column: 30s, 5m, 1h, 1d.", valueName: "duration"))
    var window: String?

    @Option(
        help: ArgumentHelp(
            "produce, gateway, stream, deliver, receive, replay; span for other programs'.", valueName: "name"))
    var stage: String?

    @Option(help: ArgumentHelp("Begin: 2026-11-23T08:00:00Z, or 4h before now.", valueName: "time"))
    var since: String?

    @Option(help: ArgumentHelp("End, in the same forms.", valueName: "time"))
    var until: String?

    @Option(help: ArgumentHelp("UTC, local, Asia/Shanghai, +08:00. Default UTC.", valueName: "zone"))
    var tz: String?

    @Option(
        help: ArgumentHelp(
            "Threshold, or a list of them for --view slo; the first is counted in CSV and HTML. Default: the levels.",
            valueName: "durations"))
    var slo: String?

    @Option(help: ArgumentHelp("Part that should be within a threshold: 99.9%. Default 99%.", valueName: "part"))
    var objective: String?

    @Option(help: ArgumentHelp("Where yellow, orange and red begin. Default 50ms,100ms,200ms.", valueName: "list"))
    var levels: String?

    @Option(help: ArgumentHelp("name, slowest or count. Default name.", valueName: "order"))
    var sort: String?

    @Option(help: ArgumentHelp("Most rows; 0 shows all.", valueName: "n"))
    var limit: String?

    @Option(help: ArgumentHelp("Of files: only spans with this name.", valueName: "name"))
    var name: String?

    @Option(
        help: ArgumentHelp("Of files: only internal, server, client, producer or consumer spans.", valueName: "kind"))
    var kind: Kind?

    @Option(help: ArgumentHelp("Of files: only spans of this service.name.", valueName: "name"))
    var service: String?

    @Option(name: .shortAndLong, help: ArgumentHelp("Write to a file.", valueName: "path"))
    var output: String?

    @Option(help: ArgumentHelp("Show it again after this time, until interrupted.", valueName: "duration"))
    var watch: String?

    @Option(help: ArgumentHelp("Columns of the text. Default: the terminal's.", valueName: "n"))
    var width: Int?

    @Option(help: ArgumentHelp("Levels as letters, blocks or emoji. Default letters.", valueName: "marks"))
    var marks: HeatmapText.Marks?

    @Flag(help: "The same as --marks emoji, without colours.")
    var emoji = false

    @Option(help: ArgumentHelp("auto, none, 16, 256 or truecolor. Default auto.", valueName: "colours"))
    var color: String?

    @Option(
        help: ArgumentHelp("In HTML, trace ids lead to this: https://jaeger/trace/{trace_id}.", valueName: "url"))
    var traceUrl: String?

    @Option(help: ArgumentHelp("Bearer token for a server. Default $ISOTHERM_TOKEN.", valueName: "token"))
    var token: String?

    private var isRemote: Bool { sources.contains { $0.hasPrefix("http://") || $0.hasPrefix("https://") } }

    func validate() throws {
        guard !sources.isEmpty else { throw ValidationError("Name a server's URL, OTLP files, or -.") }
        if isRemote, sources.count > 1 { throw ValidationError("One server at a time, and not together with files.") }
        if isRemote, name != nil || kind != nil || service != nil {
            throw ValidationError("--name, --kind and --service are for files; a server has counted its spans already.")
        }
        if watch != nil, sources.contains("-") { throw ValidationError("--watch cannot read standard input again.") }
        if let color, color != "auto", HeatmapText.Colours(rawValue: color) == nil {
            throw ValidationError("--color \(color) is none of auto, none, 16, 256, truecolor.")
        }
        if let traceUrl, HeatmapHTML.Options(traceURL: traceUrl, liveAddress: nil) == nil {
            throw ValidationError("--trace-url \(traceUrl) is no http or https URL with {trace_id} in it.")
        }
        if let width, width < 40 { throw ValidationError("--width \(width) is less than 40 columns.") }
    }

    func run() async throws {
        let interval: Duration?
        do {
            interval = try watch.map { text throws(SettingError) in try Values.duration(text) }
        } catch {
            throw ValidationError("--watch: \(error)")
        }
        // Otherwise a signal ends the program, as it does every other.
        if interval != nil { StopSignal.install() }
        let isScreen = interval != nil && output == nil && Terminal.isTerminal(STDOUT_FILENO)
        if isScreen { Terminal.enterScreen() }
        defer { if isScreen { Terminal.leaveScreen() } }
        var last: String?
        repeat {
            do {
                let report = try isRemote ? fetch() : renderFiles()
                last = report
                if isScreen { Terminal.redraw(report) } else { try show(report) }
            } catch {
                // A server that is away for a while is asked again, once there is something to look at.
                guard isScreen, let last else { throw fail(error, leaving: isScreen) }
                Terminal.redraw("\(error); asking again\n" + last)
            }
            if let interval { await pause(interval) }
        } while interval != nil && !StopSignal.isSet
    }

    private func show(_ report: String) throws {
        guard let output else {
            Terminal.print(report)
            return
        }
        do { try Data(report.utf8).write(to: URL(fileURLWithPath: output), options: .atomic) } catch {
            throw SettingError("\(output) cannot be written: \(error.localizedDescription)")
        }
    }

    /// Says what went wrong where it stays to be read.
    private func fail(_ error: any Error, leaving isScreen: Bool) -> any Error {
        if isScreen { Terminal.leaveScreen() }
        if let error = error as? HeatmapError {
            Terminal.note("Error: --\(error.cause)")
            return ExitCode(64)
        }
        guard error is SettingError else { return error }
        Terminal.note("Error: \(error)")
        return ExitCode.failure
    }

    /// Ends early when the program is told to end.
    private func pause(_ interval: Duration) async {
        let end = ContinuousClock.now + interval
        while !StopSignal.isSet, ContinuousClock.now < end {
            try? await Task.sleep(for: min(.milliseconds(50), end - .now))
        }
    }

    private var items: [(name: String, value: String)] {
        [
            ("view", view?.rawValue), ("by", by), ("group", group), ("objective", objective), ("quantile", quantile),
            ("window", window), ("stage", stage), ("since", since),
            ("until", until),
            ("tz", tz), ("slo", slo), ("levels", levels), ("sort", sort), ("limit", limit),
            ("compare", compare), ("against", against),
        ].compactMap { name, value in value.map { (name, $0) } } + `where`.map { ("where", $0) }
    }

    private var style: HeatmapText.Style {
        if emoji { return .emoji }
        let colours = color.flatMap { HeatmapText.Colours(rawValue: $0) } ?? (output == nil ? Terminal.colours : .none)
        return HeatmapText.Style(colours: colours, marks: marks ?? .letters)
    }

    // MARK: A running server

    private func fetch() throws -> String {
        var base = sources[0]
        while base.hasSuffix("/") { base.removeLast() }
        if base.hasSuffix("/heatmap") { base.removeLast("/heatmap".count) }
        var query = items.map { ($0.name, $0.value) }
        if format == .text {
            query.append(("width", "\(width ?? Terminal.width)"))
            query.append(("color", style.colours.rawValue))
            query.append(("marks", style.marks.rawValue))
        }
        if format == .html, let traceUrl { query.append(("trace-url", traceUrl)) }
        var headers: [(String, String)] = []
        if let token = token ?? ServerOptions.variable("ISOTHERM_TOKEN") {
            headers.append(("Authorization", "Bearer \(token)"))
        }
        let url = "\(base)/heatmap.\(format.fileExtension)\(Query.text(query))"
        let response: HTTPResponse
        do { response = try HTTPClient().get(url, headers: headers) } catch { throw SettingError(error.cause) }
        guard response.status == 200 else { throw SettingError(PublishCommand.problem(response)) }
        return String(decoding: response.body, as: UTF8.self)
    }

    // MARK: Files

    private func renderFiles() throws -> String {
        var query = try HeatmapQuery(items: items)
        var configuration = try HeatmapConfiguration.files(answering: &query)
        if let name { configuration.filter.name = name }
        configuration.filter.kind = kind?.number
        configuration.filter.service = service
        let engine = try HeatmapEngine(configuration: configuration)
        let bar = ProgressBar(
            "reading", unit: .bytes, isShown: watch == nil && Terminal.isTerminal(STDERR_FILENO))
        do {
            defer { bar.clear() }
            try HeatmapFileReader(engine: engine, progress: { bar.show($0, of: $1) }).read(sources)
        }
        let ledger = engine.ledger
        if ledger.counted < ledger.received || ledger.received == 0 { Terminal.note("\(ledger)") }
        let report = try engine.report(query: query)
        switch format {
        case .text: return report.text(width: width ?? Terminal.width, style: style)
        case .csv: return report.csv.text
        case .html: return report.html(options: .init(traceURL: traceUrl, liveAddress: nil) ?? .init())
        case .json: return report.json.text
        }
    }
}

extension HeatmapQuery.View: ExpressibleByArgument {}
extension HeatmapText.Marks: ExpressibleByArgument {}
