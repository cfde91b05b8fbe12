import Foundation

/// How far something has come, in one line of standard error that is drawn again and again; nothing where that is no
/// terminal.
struct ProgressBar {
    private let label: String
    private let isShown: Bool
    private var drawnAt: ContinuousClock.Instant?

    init(_ label: String, isShown: Bool = Terminal.isTerminal(STDERR_FILENO)) {
        self.label = label
        self.isShown = isShown
    }

    /// Draws at most ten times a second, and at the end.
    mutating func show(_ done: Int, of total: Int) {
        let now = ContinuousClock.now
        guard isShown, done >= total || drawnAt.map({ now - $0 >= .milliseconds(100) }) ?? true else { return }
        drawnAt = now
        let share = total > 0 ? min(1, Double(done) / Double(total)) : 1
        let filled = Int(share * 30)
        let bar = String(repeating: "#", count: filled) + String(repeating: ".", count: 30 - filled)
        _ = Terminal.write(Array("\r\(label) [\(bar)] \(Int(share * 100)) %  \(done)\u{1B}[K".utf8), to: STDERR_FILENO)
    }

    /// Leaves the line empty for what comes next.
    func clear() {
        if drawnAt != nil { _ = Terminal.write(Array("\r\u{1B}[K".utf8), to: STDERR_FILENO) }
    }
}
