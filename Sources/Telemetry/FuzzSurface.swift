/// What reads bytes from outside and is not public, for this package's fuzzer.
package enum FuzzSurface {
    package static func retryAfter(_ text: String) -> Duration? { RetryAfter.parse(text) }

    package static func environmentList(_ text: String) -> (members: [(String, String)], warnings: [String]) {
        var reader = EnvironmentReader(environment: ["LIST": text])
        return (reader.list("LIST"), reader.warnings)
    }

    /// As `TelemetryConfiguration.fromEnvironment`, without finding out where the process runs each time.
    package static func configuration(
        _ base: TelemetryConfiguration, _ environment: [String: String]
    ) -> (configuration: TelemetryConfiguration, warnings: [String]) {
        var reader = EnvironmentReader(environment: environment)
        var configuration = base
        configuration.readExporters(&reader)
        configuration.readProcessor(&reader)
        configuration.readSampler(&reader)
        configuration.readPropagators(&reader)
        return (configuration, reader.warnings)
    }
}
