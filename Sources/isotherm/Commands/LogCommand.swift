import ArgumentParser
import EventStreams
import Foundation
import OTLP
import PushServer

struct LogCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "log",
        abstract: "Check, print or compact the log in a server's data directory.",
        discussion: """
              isotherm log verify                        is everything there and sound?
              isotherm log dump --topic 'orders.>' | jq  events as JSON lines
              isotherm log compact                       give freed space back

            verify and dump only read, beside a running server as well. compact needs
            the directory for itself: stop the server first.
            """,
        subcommands: [LogVerifyCommand.self, LogDumpCommand.self, LogCompactCommand.self])
}

/// Which log.
struct LogOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp("Directory of the log. Default $ISOTHERM_DATA, or ./isotherm-data.", valueName: "directory"))
    var data: String?

    @Option(help: ArgumentHelp("The server's settings, a YAML file.", valueName: "file"))
    var config: String?

    /// The store's settings as a server would have them, with these flags before all else.
    func settings(_ flags: [(key: String, value: String?)] = []) throws -> EmbeddedStoreConfiguration {
        let given = (flags + [("data", data)]).compactMap { key, value in value.map { (key: key, value: $0) } }
        do {
            return try SettingsReader(environment: ProcessInfo.processInfo.environment)
                .read(file: config, flags: given).configuration.store
        } catch {
            Terminal.note("Error: \(error)")
            throw ExitCode(64)
        }
    }

    func inspection() throws -> LogInspection {
        let directory = try settings().directory
        do { return try LogInspection(directory: directory) } catch { throw Self.failure(error) }
    }

    static func failure(_ error: StreamError) -> ExitCode {
        Terminal.note("Error: \(error.cause)")
        return ExitCode.failure
    }
}

struct LogVerifyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "verify",
        abstract: "Read every event and check it.",
        discussion: """
              isotherm log verify --data /var/lib/isotherm

            Checks each event's checksum, order and epoch, that none is missing, the
            totals, and the index. Prints a row for each tenant, then what is wrong with
            the offsets where it is; exit status 1 if there is anything. Gaps are offsets
            of events whose append has failed, which is no fault.
            """)

    @OptionGroup var options: LogOptions

    func run() throws {
        let log = try options.inspection()
        let bar = ProgressBar("verifying", unit: .events)
        let start = ContinuousClock.now
        let found: LogVerification
        do {
            defer { bar.clear() }
            found = try log.verify { bar.show(UInt64($0), of: UInt64($1)) }
        } catch {
            throw LogOptions.failure(error)
        }
        Terminal.print(Self.report(found))
        let events = found.tenants.reduce(0) { $0 + $1.events }
        let seconds = (ContinuousClock.now - start) / .seconds(1)
        let verdict = found.problemCount == 0 ? "sound" : "\(found.problemCount) problems"
        Terminal.note("\(events) events read in \(String(format: "%.1f", seconds)) s: \(verdict)")
        if found.problemCount > 0 { throw ExitCode.failure }
    }

    static func report(_ found: LogVerification) -> String {
        var rows = [["tenant", "events", "bytes", "first", "last", "epochs", "gaps", "problems"]]
        for tenant in found.tenants {
            rows.append([
                printable(tenant.name), "\(tenant.events)", "\(tenant.bytes)",
                tenant.offsets.map { "\($0.lowerBound)" } ?? "-", tenant.offsets.map { "\($0.upperBound)" } ?? "-",
                "\(tenant.epochs)", "\(tenant.gaps)", "\(tenant.problems)",
            ])
        }
        let widths = rows[0].indices.map { column in rows.map { $0[column].count }.max() ?? 0 }
        var text = ""
        for row in rows {
            let cells = row.enumerated().map { column, cell in
                let padding = String(repeating: " ", count: widths[column] - cell.count)
                return column == 0 ? cell + padding : padding + cell
            }
            text += cells.joined(separator: "  ") + "\n"
        }
        for problem in found.problems { text += printable(problem.description) + "\n" }
        let rest = found.problemCount - found.problems.count
        if rest > 0 { text += "and \(rest) more\n" }
        return text
    }

    private static func printable(_ text: String) -> String {
        text.unicodeScalars.map { $0.properties.generalCategory == .control ? "?" : String($0) }.joined()
    }
}

struct LogDumpCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dump",
        abstract: "Print events as JSON lines, oldest first.",
        discussion: """
              isotherm log dump --topic orders.eu --since 2h
              isotherm log dump --topic 'orders.>' --type created --limit 10
              isotherm log dump --after ev_AQAAAAEAAAAAAAAAAAAR… --tenant acme

            In a topic, * stands for one word between dots and > for one or more at the
            end. A line has tenant, id, offset, epoch, topic, type, key, content_type,
            accepted_at, traceparent, and data, or data_base64 where that is no UTF-8. A
            damaged event is told on standard error and the exit status is 1.
            """)

    @OptionGroup var options: LogOptions

    @Option(help: ArgumentHelp("Only this tenant's.", valueName: "name"))
    var tenant: String?

    @Option(help: ArgumentHelp("Only these topics: orders, 'orders.*', 'orders.>'. Repeatable.", valueName: "pattern"))
    var topic: [String] = []

    @Option(help: ArgumentHelp("Only this type; message for events without one. Repeatable.", valueName: "name"))
    var type: [String] = []

    @Option(help: ArgumentHelp("Accepted from then on: 2026-11-23T08:00:00Z, or 4h before now.", valueName: "time"))
    var since: String?

    @Option(help: ArgumentHelp("Behind this event.", valueName: "id or offset"))
    var after: String?

    @Option(help: ArgumentHelp("Most events.", valueName: "n"))
    var limit: Int?

    func validate() throws {
        if let limit, limit < 1 { throw ValidationError("--limit \(limit) is less than 1.") }
    }

    func run() throws {
        signal(SIGPIPE, SIG_IGN)
        let filter: TopicFilter
        let earliest: UInt64
        do {
            filter = try TopicFilter(topic.isEmpty ? [">"] : topic, types: Set(type))
            earliest = try Self.time(since)
        } catch {
            Terminal.note("Error: \((error as? StreamError)?.cause ?? "--since: \(error)")")
            throw ExitCode(64)
        }
        let log = try options.inspection()
        let tenants = log.tenants.filter { tenant == nil || $0.name == tenant }
        if let tenant, tenants.isEmpty {
            let known = log.tenants.map(\.name).joined(separator: ", ")
            Terminal.note("Error: there is no tenant \(tenant); the log holds \(known.isEmpty ? "none" : known)")
            throw ExitCode.failure
        }
        var dump = Dump(filter: filter, earliest: earliest, rest: limit ?? .max)
        var starts: [UInt64?] = []
        for tenant in tenants { starts.append(start(of: tenant, log)) }
        guard !starts.contains(where: { $0 != nil }) == tenants.isEmpty else {
            Terminal.note("Error: --after \(after ?? "") is neither an offset nor an id of this log")
            throw ExitCode.failure
        }
        for (tenant, start) in zip(tenants, starts) {
            guard let start else { continue }
            try dump.write(tenant, after: start, log)
        }
        dump.flush()
        if dump.damaged > 0 { throw ExitCode.failure }
    }

    /// nil for an id of another tenant's.
    private func start(of tenant: LogInspection.Tenant, _ log: LogInspection) -> UInt64? {
        guard let after else { return 0 }
        return UInt64(after) ?? log.ids(of: tenant).offset(of: after)
    }

    private static func time(_ text: String?) throws(SettingError) -> UInt64 {
        guard let text else { return 0 }
        if let time = RFC3339.unixNano(text) { return time }
        let now = UInt64(Date().timeIntervalSince1970 * 1e9)
        guard let ago = try? Values.duration(text) else {
            throw SettingError(
                "\"\(text)\" is no time; write for example 2026-11-23T08:00:00Z, or 4h for four hours ago")
        }
        return now - min(now, UInt64(ago / .nanoseconds(1)))
    }

    private struct Dump {
        let filter: TopicFilter
        let earliest: UInt64
        var rest: Int
        var damaged = 0
        private var lines: [UInt8] = []
        private var isOpen = true

        init(filter: TopicFilter, earliest: UInt64, rest: Int) {
            self.filter = filter
            self.earliest = earliest
            self.rest = rest
        }

        mutating func write(_ tenant: LogInspection.Tenant, after start: UInt64, _ log: LogInspection) throws {
            let ids = log.ids(of: tenant)
            var place = start
            while rest > 0, isOpen {
                let events: [StoredEvent]
                do {
                    events = try log.read(tenant, after: place, limit: 1_000)
                } catch {
                    guard error.code == .corrupt, let offset = error.offset, offset > place else {
                        flush()
                        throw LogOptions.failure(error)
                    }
                    damaged += 1
                    Terminal.note("Error: \(error.cause)")
                    place = offset
                    continue
                }
                guard let last = events.last else { return }
                place = last.offset
                for event in events where rest > 0 && event.acceptedUnixNano >= earliest && filter.matches(event) {
                    rest -= 1
                    var json = JSONWriter()
                    json.beginObject()
                    json.field("tenant", tenant.name)
                    json.field("offset", event.offset)
                    json.field("epoch", event.epoch)
                    EventJSON.write(event, id: ids.id(of: event), to: &json)
                    json.endObject()
                    lines += json.bytes
                    lines.append(UInt8(ascii: "\n"))
                    if lines.count >= 1 << 16 { flush() }
                }
            }
        }

        /// The reader may have seen enough: then there is nothing more to say.
        mutating func flush() {
            isOpen = isOpen && Terminal.write(lines, to: STDOUT_FILENO)
            lines.removeAll(keepingCapacity: true)
        }
    }
}

struct LogCompactCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "compact",
        abstract: "Remove what retention does not keep, and give freed space back.",
        discussion: """
              isotherm log compact --data /var/lib/isotherm
              isotherm log compact --retention-age 2d

            A server removes old events by itself, and uses their space again; it does
            not make the file smaller. This does. The server must be stopped, and what
            remains must fit once more on the disk while the file is written anew.
            """)

    @OptionGroup var options: LogOptions

    @Option(help: ArgumentHelp("Remove older events: 36h, 7d. Default as the server's.", valueName: "duration"))
    var retentionAge: String?

    @Option(help: ArgumentHelp("Most events of a tenant. Default as the server's.", valueName: "n"))
    var retentionEvents: String?

    @Option(help: ArgumentHelp("Most bytes of a tenant: 8GiB. Default as the server's.", valueName: "size"))
    var retentionBytes: String?

    func run() throws {
        var configuration = try options.settings([
            ("log.retention_age", retentionAge), ("log.retention_events", retentionEvents),
            ("log.retention_bytes", retentionBytes),
        ])
        guard FileManager.default.fileExists(atPath: configuration.directory + "/log.sqlite") else {
            Terminal.note("Error: \(configuration.directory) holds no log; name a server's --data")
            throw ExitCode.failure
        }
        // Nothing is served: no memory for what clients may ask.
        configuration.idempotencyKeys = 0
        configuration.tailEvents = 0
        configuration.maximumTenants = 131_071
        do {
            let store = try EmbeddedEventStore(configuration: configuration)
            defer { store.close() }
            let done = try store.compact()
            Terminal.print(
                "removed \(done.removedEvents) events; \(done.bytesBefore) bytes before, \(done.bytesAfter) after\n")
        } catch {
            throw LogOptions.failure(error)
        }
    }
}
