import Foundation
import LatencyHeatmap
import TestSupport
import Testing

@Suite("The library's documentation")
struct DocumentationTests {
    @Test("the example is what runs here, and shows what it counted")
    func example() throws {
        var printed = ""
        func print(_ text: String) { printed = text }
        // The example begins.
        let heatmap = try HeatmapEngine()
        // Once: recording takes numbers.
        let (stage, group) = (heatmap.stage("deliver"), heatmap.group("checkout"))
        // For each request, when it ends.
        let now = heatmap.configuration.now()
        heatmap.record(stage: stage, group: group, endUnixNano: now, latencyNano: 31_000_000)
        // About once a second.
        heatmap.maintain()
        // Or HeatmapHTML, HeatmapCSV, HeatmapJSON.
        let grid = try heatmap.snapshot(query: HeatmapQuery(items: [("quantile", "p99")]))
        print(HeatmapText.render(grid, width: 80))
        // The example ends.
        #expect(printed.contains("P99 push latency") && printed.contains("n=1 "))
        #expect(try #require(grid.row("checkout")).total.sketch.exactValues == [31_000_000])

        let source = try String(contentsOfFile: #filePath, encoding: .utf8).split(separator: "\n").map(String.init)
        let begin = try #require(source.firstIndex { $0.hasSuffix("// The example begins.") })
        let end = try #require(source.firstIndex { $0.hasSuffix("// The example ends.") })
        let page = Peers.repositoryRoot.appendingPathComponent(
            "Sources/LatencyHeatmap/LatencyHeatmap.docc/LatencyHeatmap.md")
        let text = try String(contentsOf: page, encoding: .utf8).split(separator: "\n").map(String.init)
        let code = try #require(text.firstIndex { $0.hasPrefix("import LatencyHeatmap") })
        #expect(source[(begin + 1)..<end].map { String($0.dropFirst(8)) } == text[(code + 1)...].prefix { $0 != "```" })
    }
}
