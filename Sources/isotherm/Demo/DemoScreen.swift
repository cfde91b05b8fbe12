import Foundation
import LatencyHeatmap
import PushServer
import Telemetry

/// The heatmap while it fills in.
struct DemoScreen {
    let server: PushServer
    let fleet: DemoFleet
    let producers: [DemoProducer]

    /// By the devices' own word: their slowness is on their side.
    static let query: HeatmapQuery = {
        var query = HeatmapQuery()
        query.stage = "receive"
        return query
    }()

    /// Redraws once a second on a terminal; elsewhere a line every five seconds.
    func show(for duration: Duration, unless isFailed: () -> Bool) async throws {
        let start = ContinuousClock.now
        let isTerminal = Terminal.isTerminal(STDOUT_FILENO)
        if isTerminal { Terminal.print("\u{1B}[2J") }
        var second = 0
        while ContinuousClock.now < start + duration, !StopSignal.isSet, !isFailed() {
            try? await Task.sleep(until: min(start + .seconds(second + 1), start + duration))
            second += 1
            if isTerminal {
                // Each line is cleared to its end, and the screen below: nothing flickers.
                let text = (progress + "\n\n" + heatmap).replacing("\n", with: "\u{1B}[K\n")
                Terminal.print("\u{1B}[H" + text + "\u{1B}[J")
            } else if second % 5 == 0 {
                Terminal.note(progress)
            }
        }
    }

    /// False when it is not so within 20 s.
    func wait(until expected: UInt64) async -> Bool {
        let deadline = ContinuousClock.now + .seconds(20)
        while fleet.current.received < expected, ContinuousClock.now < deadline {
            try? await Task.sleep(for: .milliseconds(50))
        }
        return fleet.current.received >= expected
    }

    private var progress: String {
        let totals = fleet.current
        let published = producers.reduce(0) { $0 + $1.published }
        return "published \(published)  delivered \(totals.received)  reconnections \(totals.reconnects)"
            + "  spans exported \(server.telemetry.ledger.exported)"
    }

    private var heatmap: String {
        guard let grid = try? server.heatmap.snapshot(query: Self.query) else {
            return "waiting for the first receipts\n"
        }
        return HeatmapText.render(grid, width: Terminal.width, style: Terminal.hasColour ? .ansi : .plain)
    }
}
