import Foundation
import LatencyHeatmap

/// Standard output and standard error, and what they can show.
enum Terminal {
    static var hasColour: Bool { colours != .none }

    /// What standard output can show. `NO_COLOR` (https://no-color.org) goes before `CLICOLOR_FORCE`
    /// (https://bixense.com/clicolors), and that before whether it is a terminal.
    static var colours: HeatmapText.Colours {
        colours(ProcessInfo.processInfo.environment, isTerminal: isTerminal(STDOUT_FILENO))
    }

    static func colours(_ environment: [String: String], isTerminal: Bool) -> HeatmapText.Colours {
        if !environment["NO_COLOR", default: ""].isEmpty { return .none }
        let force = environment["CLICOLOR_FORCE", default: ""]
        let isForced = !force.isEmpty && force != "0"
        let term = environment["TERM", default: ""]
        guard isForced || (isTerminal && !term.isEmpty && term != "dumb") else { return .none }
        if ["truecolor", "24bit"].contains(environment["COLORTERM"]) || term.hasSuffix("-direct") { return .truecolor }
        return term.contains("256color") ? .ansi256 : .ansi16
    }

    static func isTerminal(_ descriptor: Int32) -> Bool { isatty(descriptor) == 1 }

    /// Of the terminal; where there is none, of `COLUMNS`, or 100.
    static var width: Int {
        var size = winsize()
        if ioctl(STDOUT_FILENO, UInt(TIOCGWINSZ), &size) == 0, size.ws_col > 0 { return Int(size.ws_col) }
        return ProcessInfo.processInfo.environment["COLUMNS"].flatMap { Int($0) } ?? 100
    }

    /// Lines of the terminal; nil where there is none.
    static var height: Int? {
        var size = winsize()
        return ioctl(STDOUT_FILENO, UInt(TIOCGWINSZ), &size) == 0 && size.ws_row > 0 ? Int(size.ws_row) : nil
    }

    // MARK: Showing something again and again

    /// Another screen without a cursor, so that what was on the terminal comes back with `leaveScreen()`.
    static func enterScreen() {
        StopSignal.leaving = leaving
        print("\u{1B}[?1049h\u{1B}[?25l")
    }
    static func leaveScreen() {
        StopSignal.leaving = nil
        print("\(leaving)")
    }
    /// Ends an update that was interrupted, too.
    private static let leaving: StaticString = "\u{1B}[?2026l\u{1B}[?25h\u{1B}[?1049l"

    /// Writes over what is there, in one synchronized update: nothing flickers. What does not fit is left out.
    static func redraw(_ text: String) {
        var lines = text.split(separator: "\n", omittingEmptySubsequences: false)
        if lines.last?.isEmpty == true { lines.removeLast() }
        if let height, lines.count > height {
            let hidden = lines.count - height + 1
            lines = lines.prefix(height - 1) + ["… \(hidden) more lines: use --limit, or --output"]
        }
        let body = lines.map { $0 + "\u{1B}[K" }.joined(separator: "\r\n")
        print("\u{1B}[?2026h\u{1B}[H" + body + "\u{1B}[J\u{1B}[?2026l")
    }

    /// False when nobody reads any more.
    @discardableResult
    static func print(_ text: String) -> Bool { write(Array(text.utf8), to: STDOUT_FILENO) }

    static func note(_ text: String) { _ = write(Array((text + "\n").utf8), to: STDERR_FILENO) }

    static func write(_ bytes: [UInt8], to descriptor: Int32) -> Bool {
        var sent = 0
        while sent < bytes.count {
            let count = bytes[sent...].withUnsafeBytes { Foundation.write(descriptor, $0.baseAddress, $0.count) }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { return false }
            sent += count
        }
        return true
    }
}

/// Ends blocking work when the program is told to end.
final class StopSignal: @unchecked Sendable {  // written once by a signal's handler, which only stores
    nonisolated(unsafe) private static var isRaised: sig_atomic_t = 0
    /// What a terminal needs to be as it was. While this is set, a signal writes it and ends the program, whatever the
    /// program waits for.
    nonisolated(unsafe) static var leaving: StaticString?

    /// From now on SIGINT and SIGTERM only raise the flag; a second one ends the program as usual.
    static func install() {
        for number in [SIGINT, SIGTERM] {
            var action = sigaction()
            action.__sigaction_handler.sa_handler = { _ in
                if let leaving = StopSignal.leaving {
                    _ = Foundation.write(STDOUT_FILENO, leaving.utf8Start, leaving.utf8CodeUnitCount)
                    _exit(0)
                }
                StopSignal.isRaised = 1
            }
            action.sa_flags = Int32(bitPattern: UInt32(SA_RESETHAND))
            sigaction(number, &action, nil)
        }
        signal(SIGPIPE, SIG_IGN)
    }

    static var isSet: Bool { isRaised != 0 }
}
