import Foundation

/// The real program as a child process: `isotherm serve` on a free loopback port.
public final class IsothermProcess: @unchecked Sendable {  // used by one test at a time
    public let port: Int
    public let dataDirectory: String
    private let process: Process
    private let log: String
    private let ownsDirectory: Bool

    /// The program that was built with the tests.
    public static var executable: String {
        URL(fileURLWithPath: CommandLine.arguments[0]).deletingLastPathComponent().appendingPathComponent("isotherm")
            .path
    }

    /// Starts the server and waits until it answers.
    ///
    /// - Parameter dataDirectory: kept when given, so that another server can go on with it.
    /// - Parameter port: 0 takes a free one.
    /// - Parameter configuration: the text of a YAML file.
    public init(
        dataDirectory: String? = nil, port: Int = 0, configuration: String? = nil, arguments: [String] = [],
        environment: [String: String] = [:]
    ) throws {
        ownsDirectory = dataDirectory == nil
        let directory = dataDirectory ?? Self.temporaryDirectory()
        self.dataDirectory = directory
        let scratch = Self.temporaryDirectory()
        log = scratch + "/log"
        var arguments = ["serve", "--listen", "127.0.0.1:\(port)", "--data", directory] + arguments
        if let configuration {
            let file = scratch + "/isotherm.yaml"
            try configuration.write(toFile: file, atomically: true, encoding: .utf8)
            arguments += ["--config", file]
        }
        _ = FileManager.default.createFile(atPath: log, contents: nil)
        process = Process()
        process.executableURL = URL(fileURLWithPath: Self.executable)
        process.arguments = arguments
        var inherited = ProcessInfo.processInfo.environment.filter { !$0.key.hasPrefix("OTEL_") }
        inherited.merge(environment) { $1 }
        process.environment = inherited
        let handle = FileHandle(forWritingAtPath: log)
        process.standardError = handle
        process.standardOutput = handle
        try process.start()
        var found: Int?
        let deadline = ContinuousClock.now + .seconds(30)
        while found == nil, ContinuousClock.now < deadline, process.isRunning {
            found = Self.port(in: (try? String(contentsOfFile: log, encoding: .utf8)) ?? "")
            if found == nil { usleep(20_000) }
        }
        guard let found else {
            process.terminate()
            throw RawConnection.Failure(
                description: "isotherm serve did not start: "
                    + ((try? String(contentsOfFile: log, encoding: .utf8)) ?? ""))
        }
        self.port = found
    }

    deinit {
        if process.isRunning { kill(process.processIdentifier, SIGKILL) }
        process.waitUntilExit()
        if ownsDirectory { try? FileManager.default.removeItem(atPath: dataDirectory) }
        try? FileManager.default.removeItem(atPath: (log as NSString).deletingLastPathComponent)
    }

    /// What the server has written to its standard error.
    public var output: String { (try? String(contentsOfFile: log, encoding: .utf8)) ?? "" }

    public var isRunning: Bool { process.isRunning }
    public var processIdentifier: Int32 { process.processIdentifier }

    public func openDescriptors() throws -> [Int] {
        try FileManager.default.contentsOfDirectory(atPath: "/proc/\(processIdentifier)/fd").compactMap { Int($0) }
    }

    /// As a crash would end it.
    public func killNow() {
        kill(process.processIdentifier, SIGKILL)
        process.waitUntilExit()
    }

    /// SIGTERM, and the exit status.
    @discardableResult
    public func stop() -> Int32 {
        kill(process.processIdentifier, SIGTERM)
        process.waitUntilExit()
        return process.terminationStatus
    }

    public static func temporaryDirectory() -> String {
        let path = NSTemporaryDirectory() + "isotherm-test-" + UUID().uuidString
        try? FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        return path
    }

    /// The server prints `http://127.0.0.1:PORT/…` when it listens.
    private static func port(in text: String) -> Int? {
        guard let range = text.firstRange(of: "http://127.0.0.1:") else { return nil }
        let digits = text[range.upperBound...].prefix { $0.isNumber }
        // The whole line must be there, or digits might be missing.
        guard text[range.upperBound...].contains("\n") else { return nil }
        return Int(digits)
    }
}
