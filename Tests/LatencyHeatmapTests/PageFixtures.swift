import Foundation
import LatencyHeatmap
import TestSupport

/// Grids as they come from services: latencies are lognormal, some groups are slow, some at some times.
enum PageFixtures {
    /// - Parameter perCell: latencies of a minute, on average.
    static func engine(groups: [String], minutes: Int, perCell: Int, traced: Int = 2) throws -> HeatmapEngine {
        let engine = try makeEngine()
        var generator = SeededGenerator(7)
        // Drawn once: so many logarithms take long.
        let factors: [Double] = (0..<4_096).map { _ in
            let (a, b) = (Double.random(in: 1e-12..<1, using: &generator), Double.random(in: 0..<1, using: &generator))
            return exp(0.5 * (-2 * log(a)).squareRoot() * cos(2 * .pi * b)) * 1e6
        }
        let deliver = engine.stage("deliver")
        let parts = [engine.stage("gateway"), engine.stage("stream")]
        for (number, name) in groups.enumerated() {
            let group = engine.group(name)
            let median = 12.0 * pow(1.45, Double(number % 7))
            for minute in 0..<minutes {
                let isSlow = number % 5 == 2 && minute * 12 / minutes == 7
                let count = Int.random(in: perCell / 2...perCell * 3 / 2, using: &generator)
                let end = (monday + UInt64(minute) * 60 + 30) * second
                let start = Int.random(in: 0..<4_096, using: &generator)
                let scale = median * (isSlow ? 4 : 1)
                let latencies = (0..<count).map { UInt64(scale * factors[(start + $0) & 4_095]) }
                for (part, latencies) in [latencies.prefix(count / 2), latencies.dropFirst(count / 2)].enumerated() {
                    let id = (UInt64.random(in: 1 ... .max, using: &generator), UInt64(number) << 32 | UInt64(minute))
                    latencies.withUnsafeBufferPointer {
                        engine.recordBatch(
                            stage: deliver, group: group, endUnixNano: end, latencies: $0,
                            slowestTraceID: part < traced ? id : nil)
                    }
                }
                let mean = latencies.reduce(0, +) / UInt64(count)
                engine.recordStagePart(
                    stage: parts[0], group: group, endUnixNano: end, latencyNano: mean / 8, count: UInt64(count))
                engine.recordStagePart(
                    stage: parts[1], group: group, endUnixNano: end, latencyNano: mean * (isSlow ? 5 : 2) / 8,
                    count: UInt64(count))
            }
        }
        return engine
    }

    static let names = [
        "iOS-15+", "iOS-14", "Android-12", "Android-13", "微信-安卓", "Huawei HMS", "Chrome", "Firefox", "car-display",
        "watch", "📱 🇩🇪 beta", "set-top-box",
    ]
    static let hundred = (0..<100).map { "\(names[$0 % names.count]) \($0 / names.count + 1)" }
}
