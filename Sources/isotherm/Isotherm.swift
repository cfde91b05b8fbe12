import ArgumentParser
import Glibc
import Telemetry

/// The main thread only waits. An asynchronous `main` would end it by `dispatch_main`, below which Valgrind dies: nobody
/// could count what the program does.
@main
enum Program {
    static func main() {
        Task.detached {
            await Isotherm.main()
            exit(0)
        }
        // A signal whose handler returns ends the wait, and is no reason to end.
        while true { pause() }
    }
}

struct Isotherm: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "isotherm",
        abstract: "Push events to devices, and see where every millisecond goes.",
        discussion: """
            Start with a look:

              isotherm demo                              a server, a fleet, a heatmap

            Then run it:

              isotherm serve                             on 127.0.0.1:8080
              isotherm listen orders --group iOS-15+     be a device
              isotherm publish orders '{"a":1}'          be a producer
              isotherm heatmap http://127.0.0.1:8080     see where it is slow

            Data goes to standard output, everything else to standard error. The exit
            status is 0 for success, 1 for a failure and 64 for wrong usage.
            """,
        version: TelemetrySDK.version,
        subcommands: [
            ServeCommand.self, DemoCommand.self, HeatmapCommand.self, PublishCommand.self, ListenCommand.self,
            BenchCommand.self,
            LogCommand.self,
        ])
}
