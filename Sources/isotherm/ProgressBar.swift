import Foundation
import Synchronization

/// How far long work has come, in one line of standard error that is drawn again and again; nothing where that is no
/// terminal. Draws from a third of a second on, ten times a second.
final class ProgressBar: Sendable {
    /// What is counted.
    enum Unit {
        case bytes, events
    }

    private let label: String
    private let unit: Unit
    private let isShown: Bool
    private let start = ContinuousClock.now
    private let drawn = Mutex<(at: ContinuousClock.Instant, isVisible: Bool)>((.now + .milliseconds(200), false))

    init(_ label: String, unit: Unit, isShown: Bool = Terminal.isTerminal(STDERR_FILENO)) {
        self.label = label
        self.unit = unit
        self.isShown = isShown
    }

    /// - Parameter total: 0 if it is not known.
    func show(_ done: UInt64, of total: UInt64) {
        guard isShown else { return }
        let now = ContinuousClock.now
        let isDue = drawn.withLock { drawn in
            guard now - drawn.at >= .milliseconds(100) else { return false }
            drawn = (now, true)
            return true
        }
        guard isDue else { return }
        var line = "\r\(label) "
        if total > 0 {
            let part = min(1, Double(done) / Double(total))
            let filled = Int(part * 30)
            line += "[" + String(repeating: "#", count: filled) + String(repeating: " ", count: 30 - filled)
            line += "] \(Int(part * 100)) %  \(shown(done)) of \(shown(total)) \(unitName)"
            if part > 0.02 {
                let left = (now - start) * ((1 - part) / part)
                line += ", \(left.components.seconds) s left"
            }
        } else {
            line += "\(shown(done)) \(unitName)"
        }
        _ = Terminal.write(Array((line + "\u{1B}[K").utf8), to: STDERR_FILENO)
    }

    /// Leaves the line empty for what comes next.
    func clear() {
        guard drawn.withLock({ $0.isVisible }) else { return }
        _ = Terminal.write(Array("\r\u{1B}[K".utf8), to: STDERR_FILENO)
    }

    private var unitName: String {
        switch unit {
        case .bytes: "MB"
        case .events: "events"
        }
    }

    private func shown(_ count: UInt64) -> String {
        switch unit {
        case .bytes: "\(count / 1_000_000).\(count / 100_000 % 10)"
        case .events: "\(count)"
        }
    }
}
