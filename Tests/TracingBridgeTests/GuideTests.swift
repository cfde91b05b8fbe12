import Foundation
import TestSupport
import Testing

@Suite("The guide")
struct GuideTests {
    @Test("each of its programs compiles against what was built")
    func compiles() throws {
        let guide = try String(
            contentsOf: Peers.repositoryRoot.appendingPathComponent("docs/tracer.md"), encoding: .utf8)
        let programs = guide.components(separatedBy: "```swift\n").dropFirst()
            .map { $0.components(separatedBy: "```")[0] }
        #expect(programs.count == 2)
        let build = URL(fileURLWithPath: CommandLine.arguments[0]).deletingLastPathComponent()
        let directory = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
        try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: directory) }
        // C modules: those that the build has mapped, and the system's.
        var modules: [String] = []
        for name in try FileManager.default.contentsOfDirectory(atPath: build.path) where name.hasSuffix(".build") {
            let map = build.appendingPathComponent("\(name)/module.modulemap").path
            if FileManager.default.fileExists(atPath: map) { modules += ["-Xcc", "-fmodule-map-file=\(map)"] }
        }
        for name in ["CCurl", "CZlib"] {
            modules += ["-Xcc", "-I" + Peers.repositoryRoot.appendingPathComponent("Sources/\(name)").path]
        }
        for (number, program) in programs.enumerated() {
            let file = directory.appendingPathComponent("program\(number).swift")
            try program.write(to: file, atomically: true, encoding: .utf8)
            try Peers.run(
                "swiftc",
                ["-typecheck", "-swift-version", "6", "-I", build.appendingPathComponent("Modules").path] + modules
                    + [file.path])
        }
    }
}
