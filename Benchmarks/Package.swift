// swift-tools-version: 6.2
import PackageDescription

// A package of its own: users of the libraries never build it.
let swiftSettings: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("MemberImportVisibility"),
]

let package = Package(
    name: "benchmarks",
    platforms: [.macOS(.v15)],
    dependencies: [
        .package(name: "isotherm", path: ".."),
        .package(url: "https://github.com/apple/swift-distributed-tracing.git", from: "1.7.3"),
    ],
    targets: [
        // Clocks, repetitions, and how a figure is printed.
        .systemLibrary(name: "CGlibc"),
        .target(name: "BenchSupport", dependencies: ["CGlibc"], swiftSettings: swiftSettings),
        // Counts calls of malloc and its kin, by defining them.
        .target(name: "CAllocations"),
        .executableTarget(
            name: "TelemetryBench",
            dependencies: [
                "BenchSupport", "CAllocations", .product(name: "Telemetry", package: "isotherm"),
                .product(name: "OTLP", package: "isotherm"),
                .product(name: "TracingBridge", package: "isotherm"),
                .product(name: "Tracing", package: "swift-distributed-tracing"),
            ],
            swiftSettings: swiftSettings),
        .executableTarget(
            name: "HeatmapBench",
            dependencies: [
                "BenchSupport", "CAllocations", .product(name: "LatencyHeatmap", package: "isotherm"),
                .product(name: "OTLP", package: "isotherm"), .product(name: "Gzip", package: "isotherm"),
            ],
            swiftSettings: swiftSettings),
        .executableTarget(
            name: "StreamBench",
            dependencies: ["BenchSupport", "CAllocations", .product(name: "EventStreams", package: "isotherm")],
            swiftSettings: swiftSettings),
        // In C: it must cost less than what exports to it.
        .executableTarget(name: "OTLPSink", cSettings: [.unsafeFlags(["-O2"])]),
    ]
)
