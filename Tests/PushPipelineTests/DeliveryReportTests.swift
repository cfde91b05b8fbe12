import Foundation
import Testing

@testable import EventStreams
@testable import PushPipeline

/// How what memory knows and what the file knows become one answer.
@Suite("The report of deliveries")
struct DeliveryReportTests {
    private let event = StoredEvent(NewEvent(topic: "t", acceptedUnixNano: 1_000), offset: 10, epoch: 3)

    private func status(
        start: UInt64 = 0, reached: UInt64 = 20, closed: UInt64? = 2_000, matches: Bool = true, epoch: UInt32 = 3,
        connected: UInt64 = 500, broadcast: UInt64? = 1_100, run: DeviceSession.Run? = nil
    ) -> SessionOutcome.Status {
        .of(
            event, matches: matches, epoch: epoch, connectedUnixNano: connected, startOffset: start, reached: reached,
            closed: closed.map { ($0, .client) }, run: run, broadcastUnixNano: broadcast, latestUnixNano: 2_000)
    }

    @Test("a connection's range of the log, and its epoch, tell what became of an event on it")
    func statuses() {
        #expect(status() == .written(atUnixNano: 1_100, isExact: true, isReplay: false))
        for reached: UInt64 in [10, 11] { #expect(status(reached: reached) == status()) }
        #expect(status(reached: 9) == .closed(atUnixNano: 2_000, reason: .client))
        #expect(status(reached: 9, closed: nil) == .behind(places: 1))
        #expect(status(reached: 9, closed: 999) == .notConnected)
        #expect(status(reached: 9, closed: 1_000) == .closed(atUnixNano: 1_000, reason: .client))
        #expect(status(start: 9) == status())
        for start: UInt64 in [10, 11] { #expect(status(start: start) == .notConnected) }
        #expect(status(matches: false) == .filtered)
        #expect(status(reached: 9, closed: 999, matches: false) == .notConnected, "gone before, whatever it wanted")
        #expect(status(start: 10, matches: false) == .notConnected, "came later, whatever it wanted")
        // The event took the place of one that a crash has taken back; an older event was there to be had.
        #expect(status(epoch: 2) == .notConnected)
        #expect(status(epoch: 4) == status())
        // A broadcast before the connection went to others.
        #expect(status(connected: 1_200) == .written(atUnixNano: 2_000, isExact: false, isReplay: true))
        #expect(status(connected: 1_100) == .written(atUnixNano: 1_100, isExact: true, isReplay: true))
        #expect(status(broadcast: nil) == .written(atUnixNano: 2_000, isExact: false, isReplay: false))
        let run = DeviceSession.Run(after: 5, through: 12, writtenUnixNano: 1_500, isMerged: true)
        #expect(status(run: run) == .written(atUnixNano: 1_500, isExact: false, isReplay: false))
    }

    private func outcome(
        _ session: UInt64, _ device: String?, _ status: SessionOutcome.Status, connected: UInt64 = 0
    ) -> SessionOutcome {
        SessionOutcome(
            session: session, device: device, group: 1, connectedUnixNano: connected, closed: nil, status: status)
    }

    private func receipt(_ device: String, at time: UInt64) -> DeviceReceipt {
        DeviceReceipt(
            offset: 10, device: device, group: "told", receivedUnixNano: time, clockOffsetNano: 0,
            clockUncertaintyNano: nil)
    }

    /// As the file would tell them.
    private func report(
        page: DeliveryReport.Page = .init(), memory: [SessionOutcome] = [], receipts: [DeviceReceipt] = [],
        file: [(session: UInt64, device: String, status: SessionOutcome.Status, connected: UInt64)] = []
    ) -> DeliveryReport {
        var builder = DeliveryReportBuilder(event: event, page: page, outcomes: memory, receipts: receipts) { "g\($0)" }
        for row in file.sorted(by: { ByteOrder.compare($0.device, $1.device) < 0 }) {
            Array(row.device.utf8).withUnsafeBytes { device in
                Array("kept".utf8).withUnsafeBytes { group in
                    builder.add(
                        device: device, group: group, session: row.session, connectedUnixNano: row.connected,
                        status: row.status, closed: (9, .drained), acknowledgedUnixNano: nil)
                }
            }
        }
        return builder.finish(sinceUnixNano: 1, gaps: [])
    }

    private let written = SessionOutcome.Status.written(atUnixNano: 1_100, isExact: true, isReplay: false)

    @Test("a connection that both know is told once, by memory; a device's connections are one row, the best of them")
    func merged() throws {
        let report = report(
            memory: [
                outcome(1, "a", written), outcome(2, "b", .notConnected, connected: 50), outcome(3, "z", written),
            ],
            receipts: [receipt("b", at: 7), receipt("b", at: 8), receipt("new", at: 9)],
            file: [
                (1, "a", .closed(atUnixNano: 9, reason: .drained), 0), (4, "a", written, 5), (5, "b", .filtered, 1),
                (6, "c", .notConnected, 1), (7, "c", .filtered, 1), (8, "c", .notConnected, 2),
            ])
        #expect(report.rows.map(\.device) == ["a", "b", "c", "new", "z"])
        #expect(report.rows.map(\.status) == [.written, .received, .filtered, .received, .written])
        #expect(report.rows.map(\.session) == [4, 5, 7, 0, 3], "of equals the latest")
        #expect(report.rows.map(\.writes) == [2, 0, 0, 0, 1])
        #expect(report.rows[1].receipt?.receivedUnixNano == 7, "the first")
        #expect(report.rows.map(\.group) == ["kept", "kept", "kept", "told", "g1"])
        #expect(report.groups.map(\.group) == ["g1", "kept", "told"])
        #expect(report.groups.map { $0.counts[.written] ?? 0 } == [1, 1, 0])
        #expect(report.groups.map { $0.counts[.received] ?? 0 } == [0, 1, 1])
        #expect(report.groups.map { $0.counts[.filtered] ?? 0 } == [0, 1, 0])
    }

    @Test("pages go by the bytes of names, over memory and file, then by connection")
    func pages() {
        let memory = [outcome(1, "b", written), outcome(9, nil, written), outcome(2, "e\u{301}", written)]
        let file: [(UInt64, String, SessionOutcome.Status, UInt64)] = [
            (3, "a", written, 0), (4, "\u{e9}", written, 0), (5, "", written, 0), (6, "c", written, 0),
        ]
        func page(_ page: DeliveryReport.Page) -> (devices: [String?], sessions: [UInt64], next: String?) {
            let report = report(page: page, memory: memory, file: file)
            #expect(report.groups.reduce(0) { $0 + ($1.counts[.written] ?? 0) } == 7, "groups count every device")
            return (report.rows.map(\.device), report.rows.map(\.session), report.next)
        }
        #expect(page(.init(limit: 7)).sessions == [3, 1, 6, 2, 4, 5, 9] && page(.init(limit: 7)).next == nil)
        #expect(page(.init(limit: 2)).devices == ["a", "b"] && page(.init(limit: 2)).next == "b")
        #expect(
            page(.init(after: "b", limit: 2)).sessions == [6, 2]
                && page(.init(after: "c", limit: 9)).sessions.count == 4)
        #expect(page(.init(after: "bb", limit: 1)).sessions == [6])
        // Equal for Unicode, and not the same.
        #expect(page(.init(device: "\u{e9}")).sessions == [4] && page(.init(device: "e\u{301}")).sessions == [2])
        #expect(page(.init(device: "none")).sessions.isEmpty)
    }
}
