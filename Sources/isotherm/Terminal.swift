import Foundation

/// Standard output and standard error, and what they can show.
enum Terminal {
    static var hasColour: Bool {
        isTerminal(STDOUT_FILENO) && ProcessInfo.processInfo.environment["NO_COLOR", default: ""].isEmpty
    }

    static func isTerminal(_ descriptor: Int32) -> Bool { isatty(descriptor) == 1 }

    /// Of the terminal; where there is none, of `COLUMNS`, or 100.
    static var width: Int {
        var size = winsize()
        if ioctl(STDOUT_FILENO, UInt(TIOCGWINSZ), &size) == 0, size.ws_col > 0 { return Int(size.ws_col) }
        return ProcessInfo.processInfo.environment["COLUMNS"].flatMap { Int($0) } ?? 100
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

    /// From now on SIGINT and SIGTERM only raise the flag; a second one ends the program as usual.
    static func install() {
        for number in [SIGINT, SIGTERM] {
            var action = sigaction()
            action.__sigaction_handler.sa_handler = { _ in StopSignal.isRaised = 1 }
            action.sa_flags = Int32(bitPattern: UInt32(SA_RESETHAND))
            sigaction(number, &action, nil)
        }
        signal(SIGPIPE, SIG_IGN)
    }

    static var isSet: Bool { isRaised != 0 }
}
