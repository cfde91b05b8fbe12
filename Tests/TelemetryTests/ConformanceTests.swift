import Foundation
import TestSupport
import Testing

/// What the documents say of the tests and of the sources.
@Suite("The documents on conformance say what is there")
struct ConformanceTests {
    private struct TestFile {
        let module: String
        let suite: String
        let text: String
        /// The functions behind `@Test`.
        var functions: Set<Substring> {
            Set(
                text.components(separatedBy: "@Test").dropFirst().compactMap { part in
                    part.firstMatch(of: /\bfunc ([A-Za-z0-9_]+)/)?.1
                })
        }
    }

    private static let root = Peers.repositoryRoot

    private static func document(_ name: String) throws -> String {
        try String(contentsOf: root.appendingPathComponent("docs/\(name)"), encoding: .utf8)
    }

    private static func swiftFiles(_ path: String) throws -> [(path: String, text: String)] {
        let directory = root.appendingPathComponent(path).resolvingSymlinksInPath()
        return try FileManager.default.subpathsOfDirectory(atPath: directory.path).filter { $0.hasSuffix(".swift") }
            .map { ($0, try String(contentsOf: directory.appendingPathComponent($0), encoding: .utf8)) }
    }

    private static func testFiles() throws -> [TestFile] {
        try swiftFiles("Tests").map { path, text in
            let parts = path.split(separator: "/")
            return TestFile(
                module: String(parts.first ?? ""), suite: String(parts.last?.dropLast(".swift".count) ?? ""), text: text
            )
        }
    }

    /// The numbers that a test's name gives: "(case 7)", "(cases 5 and 12)", "(cases 2, 4 and 15)", "(cases 7 to 10)".
    static func caseNumbers(_ name: some StringProtocol) -> Set<Int> {
        var numbers: Set<Int> = []
        for match in String(name).matches(of: /\(cases? ([0-9]+(?:(?:, | and | to )[0-9]+)*)\)/) {
            let words = match.1.replacing(",", with: "").split(separator: " ")
            for (index, word) in words.enumerated() {
                guard let number = Int(word) else { continue }
                numbers.insert(number)
                if index >= 2, words[index - 1] == "to", let first = Int(words[index - 2]), first < number {
                    numbers.formUnion(first...number)
                }
            }
        }
        return numbers
    }

    @Test(
        "case numbers are read from names",
        arguments: [
            ("x (case 7)", [7]), ("x (cases 5 and 12)", [5, 12]), ("x (cases 2, 4 and 15)", [2, 4, 15]),
            ("x (cases 7 to 10)", [7, 8, 9, 10]), ("case 7", []), ("x (case 7) and (case 9)", [7, 9]), ("(case )", []),
        ] as [(String, Set<Int>)])
    func reading(name: String, expected: Set<Int>) {
        #expect(Self.caseNumbers(name) == expected)
    }

    @Test("each of the 24 numbered cases of OTLP on the wire is named by a test")
    func allCases() throws {
        var named: Set<Int> = []
        for file in try Self.testFiles() where file.suite != "ConformanceTests" {
            // The display name: the first string after the attribute.
            for match in file.text.matches(of: /@Test\(\s*"((?:[^"\\]|\\.)*)"/) {
                named.formUnion(Self.caseNumbers(match.1))
            }
        }
        #expect(Set(1...24).subtracting(named).sorted() == [])
        #expect(named.subtracting(1...24) == [])
    }

    @Test("each row of the compliance table has an answer, and the tests that it names exist")
    func compliance() throws {
        let tests = Dictionary(grouping: try Self.testFiles(), by: \.suite).mapValues { files in
            files.map { (module: $0.module, functions: $0.functions) }
        }
        var rows = 0
        for line in try Self.document("compliance.md").split(separator: "\n") where line.hasPrefix("| ") {
            let cells = line.split(separator: "|", omittingEmptySubsequences: false)
                .map { $0.trimmingCharacters(in: .whitespaces) }
            guard cells.count == 5, cells[2] != "status" else {
                #expect(cells.count == 5, "\(line)")
                continue
            }
            rows += 1
            #expect(["yes", "partly", "no", "n/a"].contains(cells[2]), "\(line)")
            var named = 0
            for match in cells[3].matches(of: /`(?:([A-Za-z]+)\.)?([A-Za-z0-9]+Tests)\/([A-Za-z0-9]+)`/) {
                named += 1
                let isThere = tests[String(match.2)]?.contains {
                    (match.1 == nil || match.1.map(String.init) == $0.module) && $0.functions.contains(match.3)
                }
                #expect(isThere == true, "\(match.0) is not there: \(line)")
            }
            #expect(named > 0 || ["no", "n/a"].contains(cells[2]), "no test: \(line)")
        }
        #expect(rows > 150)
    }

    @Test("the table of environment variables has each variable that is read, as read or partly")
    func environment() throws {
        var rows: [Substring: String] = [:]
        for line in try Self.document("environment.md").split(separator: "\n") where line.hasPrefix("| `") {
            let cells = line.split(separator: "|").map { $0.trimmingCharacters(in: .whitespaces) }
            #expect(cells.count == 4, "\(line)")
            for match in cells[0].matches(of: /`([A-Z0-9_]+)`/) {
                #expect(rows[match.1] == nil, "\(match.1) has two rows")
                rows[match.1] = cells[1]
            }
            #expect(["read", "partly", "not read"].contains(cells[1]), "\(line)")
        }
        var read: Set<Substring> = []
        for file in try Self.swiftFiles("Sources/Telemetry") {
            for match in file.text.matches(of: /"((?:OTEL|ISOTHERM_TELEMETRY|K8S)_[A-Z0-9_]+)"/) {
                read.insert(match.1)
            }
        }
        // Those whose names are put together.
        for suffix in [
            "ENDPOINT", "HEADERS", "PROTOCOL", "COMPRESSION", "TIMEOUT", "CERTIFICATE", "CLIENT_CERTIFICATE",
            "CLIENT_KEY",
        ] {
            read.insert("OTEL_EXPORTER_OTLP_\(suffix)")
        }
        for signal in ["TRACES", "METRICS", "LOGS"] { read.insert("OTEL_\(signal)_EXPORTER") }
        #expect(read.count > 40)
        #expect(read.filter { rows[$0] == nil }.sorted() == [])
        let claimed = rows.filter { $0.value != "not read" && !read.contains($0.key) }.keys.sorted()
        #expect(claimed == [], "said to be read, and in no source")
    }
}
