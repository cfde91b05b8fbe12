// swift-tools-version: 6.2
import PackageDescription

let swiftSettings: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("MemberImportVisibility"),
]

let package = Package(
    name: "isotherm",
    platforms: [.macOS(.v15)],
    products: [
        .executable(name: "isotherm", targets: ["isotherm"]),
        // These four depend on no Swift package.
        .library(name: "OTLP", targets: ["OTLP"]),
        .library(name: "Telemetry", targets: ["Telemetry"]),
        .library(name: "LatencyHeatmap", targets: ["LatencyHeatmap"]),
        .library(name: "PushClient", targets: ["PushClient"]),
        .library(name: "TracingBridge", targets: ["TracingBridge"]),
        // For the benchmarks, which are a package of their own.
        .library(name: "EventStreams", targets: ["EventStreams"]),
        .library(name: "Gzip", targets: ["Gzip"]),
    ],
    dependencies: [
        .package(url: "https://github.com/hummingbird-project/hummingbird.git", from: "2.28.1", traits: []),
        .package(url: "https://github.com/apple/swift-nio.git", from: "2.101.2"),
        .package(url: "https://github.com/apple/swift-nio-extras.git", from: "1.35.2"),
        .package(url: "https://github.com/apple/swift-nio-http2.git", from: "1.46.0"),
        .package(url: "https://github.com/apple/swift-http-types.git", from: "1.8.0", traits: []),
        .package(url: "https://github.com/apple/swift-log.git", from: "1.16.2"),
        .package(url: "https://github.com/apple/swift-metrics.git", from: "2.13.0"),
        .package(url: "https://github.com/apple/swift-distributed-tracing.git", from: "1.7.3"),
        .package(url: "https://github.com/apple/swift-service-context.git", from: "1.5.1"),
        .package(url: "https://github.com/apple/swift-argument-parser.git", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-configuration.git", from: "1.4.0", traits: ["YAML"]),
        .package(url: "https://github.com/swift-server/swift-service-lifecycle.git", from: "2.13.0"),
        .package(url: "https://github.com/groue/GRDB.swift.git", from: "7.10.0"),
        .package(url: "https://github.com/jpsim/Yams.git", from: "6.2.2"),
    ],
    targets: [
        // System libraries
        .systemLibrary(name: "CCurl", pkgConfig: "libcurl", providers: [.apt(["libcurl4-openssl-dev"])]),
        .systemLibrary(name: "CZlib", pkgConfig: "zlib", providers: [.apt(["zlib1g-dev"])]),
        .systemLibrary(name: "CCrypto", pkgConfig: "libcrypto", providers: [.apt(["libssl-dev"])]),
        .systemLibrary(name: "CSSL", pkgConfig: "libssl", providers: [.apt(["libssl-dev"])]),

        // Light libraries: no Swift package below this line until TracingBridge
        .target(name: "OTLP", swiftSettings: swiftSettings),
        .target(name: "Gzip", dependencies: ["CZlib"], swiftSettings: swiftSettings),
        .target(name: "CTelemetry"),
        .target(
            name: "Telemetry", dependencies: ["OTLP", "Gzip", "CCurl", "CTelemetry"], swiftSettings: swiftSettings),
        // One instruction that Swift has no name for.
        .systemLibrary(name: "CPrefetch"),
        .target(
            name: "LatencyHeatmap", dependencies: ["OTLP", "CPrefetch"],
            // The page's script and style, compiled in: no bundle, no file at run time.
            resources: [.embedInCode("Renderers/Page/page.js"), .embedInCode("Renderers/Page/page.css")],
            swiftSettings: swiftSettings),

        .systemLibrary(name: "CEpoll"),
        .target(
            name: "LoadGenerator", dependencies: ["CEpoll", "CSSL", "LatencyHeatmap", "OTLP"],
            swiftSettings: swiftSettings),

        .target(
            name: "TracingBridge",
            dependencies: [
                "Telemetry", "OTLP",
                .product(name: "Tracing", package: "swift-distributed-tracing"),
                .product(name: "Instrumentation", package: "swift-distributed-tracing"),
                .product(name: "ServiceContextModule", package: "swift-service-context"),
                .product(name: "CoreMetrics", package: "swift-metrics"),
                .product(name: "Logging", package: "swift-log"),
            ],
            swiftSettings: swiftSettings
        ),

        // The pipeline
        .target(
            name: "EventStreams",
            dependencies: [
                "CCrypto", .product(name: "GRDB", package: "GRDB.swift"),
                .product(name: "GRDBSQLite", package: "GRDB.swift"),
            ],
            swiftSettings: swiftSettings
        ),
        .target(
            name: "PushPipeline",
            dependencies: [
                "EventStreams", "Telemetry", "LatencyHeatmap", "OTLP", "CCrypto",
                .product(name: "GRDB", package: "GRDB.swift"), .product(name: "GRDBSQLite", package: "GRDB.swift"),
            ],
            swiftSettings: swiftSettings
        ),
        .target(
            name: "PushServer",
            dependencies: [
                "PushPipeline", "EventStreams", "Telemetry", "LatencyHeatmap", "OTLP", "Gzip", "TracingBridge", "CSSL",
                .product(name: "Hummingbird", package: "hummingbird"),
                .product(name: "HummingbirdCore", package: "hummingbird"),
                .product(name: "HTTPTypes", package: "swift-http-types"),
                .product(name: "NIOHTTPTypes", package: "swift-nio-extras"),
                .product(name: "NIOHTTPTypesHTTP2", package: "swift-nio-extras"),
                .product(name: "NIOHTTP2", package: "swift-nio-http2"),
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
                .product(name: "Logging", package: "swift-log"),
                .product(name: "ServiceLifecycle", package: "swift-service-lifecycle"),
            ],
            // The client for browsers, from clients/javascript.
            resources: [.embedInCode("client.js")],
            swiftSettings: swiftSettings
        ),
        .target(name: "PushClient", dependencies: ["CCurl"], swiftSettings: swiftSettings),
        .executableTarget(
            name: "isotherm",
            dependencies: [
                "PushServer", "PushPipeline", "PushClient", "LoadGenerator", "EventStreams", "Telemetry",
                "LatencyHeatmap", "OTLP", "Gzip",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "Configuration", package: "swift-configuration"),
                .product(name: "Yams", package: "Yams"),
                .product(name: "Logging", package: "swift-log"),
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
                .product(name: "ServiceLifecycle", package: "swift-service-lifecycle"),
                .product(name: "UnixSignals", package: "swift-service-lifecycle"),
            ],
            swiftSettings: swiftSettings
        ),

        // Examples
        .executableTarget(
            name: "trace-context-service",
            dependencies: [
                .target(name: "PushClient"), .target(name: "Telemetry"), .target(name: "OTLP"),
                .product(name: "Hummingbird", package: "hummingbird"),
                .product(name: "HTTPTypes", package: "swift-http-types"),
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
            ],
            path: "Examples/TraceContextService",
            swiftSettings: swiftSettings
        ),
        .executableTarget(
            name: "hummingbird-app",
            dependencies: [
                .target(name: "TracingBridge"),
                .product(name: "Hummingbird", package: "hummingbird"),
                .product(name: "Logging", package: "swift-log"),
                .product(name: "Metrics", package: "swift-metrics"),
                .product(name: "Tracing", package: "swift-distributed-tracing"),
            ],
            path: "Examples/HummingbirdApp", swiftSettings: swiftSettings),

        // Tests
        .executableTarget(
            name: "StreamTorture", dependencies: ["EventStreams"], path: "Tests/StreamTorture",
            swiftSettings: swiftSettings),
        .executableTarget(
            name: "TelemetryFuzz", dependencies: ["Telemetry", "OTLP", "TestSupport"], path: "Tests/TelemetryFuzz",
            swiftSettings: swiftSettings),
        .executableTarget(
            name: "TelemetryTorture", dependencies: ["Telemetry"], path: "Tests/TelemetryTorture",
            swiftSettings: swiftSettings),
        .target(name: "TestSupport", path: "Tests/TestSupport", swiftSettings: swiftSettings),
        .testTarget(name: "OTLPTests", dependencies: ["OTLP", "Gzip", "TestSupport"], swiftSettings: swiftSettings),
        .testTarget(
            name: "TelemetryTests",
            dependencies: ["Telemetry", "TelemetryFuzz", "TelemetryTorture", "OTLP", "Gzip", "TestSupport"],
            swiftSettings: swiftSettings),
        .testTarget(
            name: "TracingBridgeTests",
            dependencies: [
                "TracingBridge", "Telemetry", "TestSupport",
                .product(name: "Tracing", package: "swift-distributed-tracing"),
                .product(name: "Metrics", package: "swift-metrics"),
                .product(name: "Logging", package: "swift-log"),
            ],
            swiftSettings: swiftSettings),
        .testTarget(
            name: "LatencyHeatmapTests", dependencies: ["LatencyHeatmap", "Telemetry", "OTLP", "TestSupport"],
            swiftSettings: swiftSettings),
        .testTarget(
            name: "LoadGeneratorTests", dependencies: ["LoadGenerator", "LatencyHeatmap", "TestSupport"],
            swiftSettings: swiftSettings),
        .testTarget(
            name: "PushClientTests", dependencies: ["PushClient", "TestSupport"], swiftSettings: swiftSettings),
        .testTarget(
            name: "EventStreamsTests",
            dependencies: [
                "EventStreams", "StreamTorture", "TestSupport", .product(name: "GRDB", package: "GRDB.swift"),
            ],
            swiftSettings: swiftSettings),
        .testTarget(
            name: "PushPipelineTests",
            dependencies: [
                "PushPipeline", "EventStreams", "Telemetry", "LatencyHeatmap", "TestSupport",
                .product(name: "GRDB", package: "GRDB.swift"),
            ],
            swiftSettings: swiftSettings),
        .testTarget(
            name: "PushServerTests",
            dependencies: [
                "PushServer", "PushPipeline", "PushClient", "EventStreams", "OTLP", "TestSupport",
                .product(name: "NIOCore", package: "swift-nio"),
            ],
            swiftSettings: swiftSettings),
        .testTarget(
            name: "EndToEndTests",
            dependencies: [
                "isotherm", "trace-context-service", "hummingbird-app", "PushServer", "PushClient", "TestSupport",
                "Telemetry", "TracingBridge", "OTLP", "LatencyHeatmap",
                .product(name: "Tracing", package: "swift-distributed-tracing"),
            ],
            swiftSettings: swiftSettings),
    ]
)
