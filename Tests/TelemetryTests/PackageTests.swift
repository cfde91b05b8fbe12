import Foundation
import TestSupport
import Testing

/// Read from the package's own description, so that nobody has to remember it.
@Suite("The light libraries")
struct PackageTests {
    private struct Package: Decodable {
        let targets: [Target]
    }

    private struct Target: Decodable {
        let name: String
        let path: String?
        let dependencies: [Dependency]
    }

    /// One of `byName`, `target` and `product`, whose first element is a name.
    private struct Dependency: Decodable {
        let kind: String
        let name: String

        init(from decoder: any Decoder) throws {
            let values = try decoder.singleValueContainer().decode([String: [Part?]].self)
            guard let (kind, parts) = values.first, case .text(let name)?? = parts.first else {
                throw DecodingError.dataCorrupted(.init(codingPath: decoder.codingPath, debugDescription: "no name"))
            }
            self.kind = kind
            self.name = name
        }
    }

    /// Of conditions and module aliases only the place matters.
    private enum Part: Decodable {
        case text(String)
        case other

        init(from decoder: any Decoder) throws {
            self = (try? decoder.singleValueContainer().decode(String.self)).map { .text($0) } ?? .other
        }
    }

    @Test("they and all below them depend on no Swift package, and import no Foundation")
    func light() throws {
        let scratch = FileManager.default.temporaryDirectory.appendingPathComponent("isotherm-" + UUID().uuidString)
        defer { try? FileManager.default.removeItem(at: scratch) }
        // A scratch path of its own: the ordinary one may be locked by the run that this test is part of.
        let output = try Peers.run(
            "swift",
            [
                "package", "dump-package", "--package-path", Peers.repositoryRoot.path, "--scratch-path", scratch.path,
            ])
        let package = try JSONDecoder().decode(Package.self, from: output.standardOutput)
        let targets = Dictionary(uniqueKeysWithValues: package.targets.map { ($0.name, $0) })
        var waiting = ["OTLP", "Telemetry", "LatencyHeatmap"]
        var found: Set<String> = []
        var sources = 0
        var importing: [String] = []
        while let name = waiting.popLast() {
            guard found.insert(name).inserted else { continue }
            let target = try #require(targets[name], "\(name) is no target of this package")
            for dependency in target.dependencies {
                #expect(dependency.kind != "product", "\(name) depends on the product \(dependency.name)")
                // By name: a target of this package, or else a product of another.
                #expect(targets[dependency.name] != nil, "\(name) depends on the product \(dependency.name)")
                if targets[dependency.name] != nil { waiting.append(dependency.name) }
            }
            let directory = Peers.repositoryRoot.appendingPathComponent(target.path ?? "Sources/\(name)")
                .resolvingSymlinksInPath()
            for file in try FileManager.default.subpathsOfDirectory(atPath: directory.path)
            where file.hasSuffix(".swift") {
                sources += 1
                let text = try String(contentsOf: directory.appendingPathComponent(file), encoding: .utf8)
                guard text.contains("Foundation") else { continue }
                let isImported = text.split(separator: "\n").contains {
                    $0.firstMatch(of: /^\s*(?:@\w+(?:\([^)]*\))?\s+|\w+\s+)*import\s+(?:\w+\s+)?Foundation/) != nil
                }
                if isImported { importing.append("\(name)/\(file)") }
            }
        }
        #expect(importing == [])
        #expect(found.isSuperset(of: ["OTLP", "Telemetry", "LatencyHeatmap", "Gzip", "CTelemetry"]))
        #expect(sources > 50)
    }
}
