import Foundation

/// A program that runs beside a test, its output in a file.
public final class ChildProcess: @unchecked Sendable {  // used by one test at a time
    private let process = Process()
    private let log: String

    public init(_ executable: String, _ arguments: [String], environment: [String: String] = [:]) throws {
        log = NSTemporaryDirectory() + "isotherm-child-" + UUID().uuidString
        _ = FileManager.default.createFile(atPath: log, contents: nil)
        process.executableURL = URL(fileURLWithPath: executable)
        process.arguments = arguments
        process.environment = ProcessInfo.processInfo.environment.merging(environment) { $1 }
        let handle = FileHandle(forWritingAtPath: log)
        process.standardOutput = handle
        process.standardError = handle
        process.standardInput = FileHandle.nullDevice
        try process.start()
    }

    deinit {
        if process.isRunning { kill(process.processIdentifier, SIGKILL) }
        process.waitUntilExit()
        try? FileManager.default.removeItem(atPath: log)
    }

    /// Standard output and standard error together.
    public var output: String { (try? String(contentsOfFile: log, encoding: .utf8)) ?? "" }
    public var processIdentifier: Int32 { process.processIdentifier }
    public var isRunning: Bool { process.isRunning }

    /// Waits for a line that begins with `prefix`; its rest.
    public func waitForLine(_ prefix: String, seconds: Int = 30) throws -> String {
        var found: String?
        try Wait.until(seconds: seconds, "\(prefix) from \(process.executableURL?.lastPathComponent ?? "")") {
            // Without the last line, which may still be growing.
            found = output.split(separator: "\n", omittingEmptySubsequences: false).dropLast()
                .first { $0.hasPrefix(prefix) }.map { String($0.dropFirst(prefix.count)) }
            return found != nil || !process.isRunning
        }
        guard let found else { throw Wait.TimedOut(description: "ended without \(prefix): \(output)") }
        return found
    }

    /// Sends a signal and waits for the end; the exit status.
    @discardableResult
    public func stop(_ signal: Int32 = SIGTERM) -> Int32 {
        kill(process.processIdentifier, signal)
        process.waitUntilExit()
        return process.terminationStatus
    }
}

extension Process {
    /// Runs with no signal blocked. The threads of Swift's concurrency block them all, and a child would inherit that: it
    /// could not be told to end.
    func start() throws {
        var none = sigset_t()
        var before = sigset_t()
        sigemptyset(&none)
        pthread_sigmask(SIG_SETMASK, &none, &before)
        defer { pthread_sigmask(SIG_SETMASK, &before, nil) }
        try run()
    }
}

/// Waiting for something that another process does.
public enum Wait {
    public struct TimedOut: Error, CustomStringConvertible {
        public let description: String
        public init(description: String) { self.description = description }
    }

    public static func until(seconds: Int = 20, _ what: String, _ isTrue: () throws -> Bool) throws {
        let deadline = ContinuousClock.now + .seconds(seconds)
        while try !isTrue() {
            guard ContinuousClock.now < deadline else {
                throw TimedOut(description: "not within \(seconds) s: \(what)")
            }
            usleep(20_000)
        }
    }
}
