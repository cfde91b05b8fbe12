import Foundation

/// The other implementations that the tests compare with: Python's OpenTelemetry packages, promtool, a browser.
public enum Peers {
    /// The package's root.
    public static let repositoryRoot: URL = URL(fileURLWithPath: #filePath)
        .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()

    /// A Python that has the packages of `Tests/requirements.txt`. `make test` prepares it.
    public static var python: String {
        ProcessInfo.processInfo.environment["ISOTHERM_TEST_PYTHON"]
            ?? buildTools.appendingPathComponent("bin/python3").path
    }

    /// The directory of the programs that came with the Python packages, such as `rotel`.
    public static var buildTools: URL { repositoryRoot.appendingPathComponent(".build-tools/venv") }

    /// Runs a program to its end.
    ///
    /// - Throws: `Failure` with what it printed when it exits with another status than `expected` (nil: any).
    @discardableResult
    public static func run(
        _ executable: String, _ arguments: [String], input: Data? = nil, environment: [String: String] = [:],
        expected: Int32? = 0
    ) throws -> Output {
        let process = Process()
        process.executableURL =
            executable.hasPrefix("/")
            ? URL(fileURLWithPath: executable) : URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = executable.hasPrefix("/") ? arguments : [executable] + arguments
        process.environment = ProcessInfo.processInfo.environment.merging(environment) { $1 }
        let scratch = FileManager.default.temporaryDirectory.appendingPathComponent(
            "isotherm-peer-" + UUID().uuidString)
        try FileManager.default.createDirectory(at: scratch, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: scratch) }
        // Files, not pipes: a peer that prints much must not wait for a reader.
        let files = ["out", "err", "in"].map { scratch.appendingPathComponent($0) }
        for file in files { _ = FileManager.default.createFile(atPath: file.path, contents: nil) }
        try (input ?? Data()).write(to: files[2])
        process.standardOutput = try FileHandle(forWritingTo: files[0])
        process.standardError = try FileHandle(forWritingTo: files[1])
        process.standardInput = try FileHandle(forReadingFrom: files[2])
        try process.start()
        process.waitUntilExit()
        let output = Output(
            status: process.terminationStatus, standardOutput: try Data(contentsOf: files[0]),
            standardError: String(decoding: try Data(contentsOf: files[1]), as: UTF8.self))
        if let expected, output.status != expected {
            throw Failure(
                description: "\(executable) \(arguments.joined(separator: " ")) ended with \(output.status): "
                    + output.standardError + output.text)
        }
        return output
    }

    public struct Output: Sendable {
        public let status: Int32
        public let standardOutput: Data
        public let standardError: String
        public var text: String { String(decoding: standardOutput, as: UTF8.self) }
    }

    public struct Failure: Error, CustomStringConvertible {
        public let description: String
    }

    /// Runs a Python program given as text; `input` is its standard input.
    @discardableResult
    public static func python(_ program: String, _ arguments: [String] = [], input: Data? = nil) throws -> Output {
        try run(python, ["-c", program] + arguments, input: input)
    }

    /// A loopback port that was free a moment ago.
    public static func freePort() -> Int {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(descriptor) }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = inet_addr("127.0.0.1")
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                _ = bind(descriptor, $0, length)
                _ = getsockname(descriptor, $0, &length)
            }
        }
        return Int(UInt16(bigEndian: address.sin_port))
    }
}
