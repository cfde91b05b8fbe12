import Foundation
import TestSupport
import Testing

/// `TelemetryFuzz` as a child: see its main.swift for what it checks. `scripts/fuzz` runs many more inputs.
@Suite("Mutated input")
struct FuzzTests {
    @Test("20,000 mutated headers, lists and answers break no rule, and of each kind many are accepted")
    func shortened() throws {
        let output = try Peers.run(Self.program, ["--inputs", "20000", "--seed", "1"])
        let lines = output.text.split(separator: "\n")
        #expect(lines.count == 10)
        for line in lines {
            let figures = line.split(separator: " ").suffix(2).compactMap { Int($0) }
            try #require(figures.count == 2)
            #expect(figures[0] == 2_000 && (100...1_999).contains(figures[1]), "\(line)")
        }
    }

    private static let program = URL(fileURLWithPath: IsothermProcess.executable).deletingLastPathComponent()
        .appendingPathComponent("TelemetryFuzz").path

    @Test("wrong usage ends with 64", arguments: [["--inputs"], ["--inputs", "many"], ["--what", "1"]])
    func usage(arguments: [String]) throws {
        try Peers.run(Self.program, arguments, expected: 64)
    }
}
