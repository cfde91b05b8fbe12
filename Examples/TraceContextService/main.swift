import Foundation
import HTTPTypes
import Hummingbird
import NIOCore
import NIOPosix
import OTLP
import PushClient
import Telemetry

// The service that W3C's test suites for Trace Context and Baggage drive, and an example of propagation by hand:
//
//     trace-context-service [PORT]         default 5000; 0 takes a free one
//
// `POST /test` takes a JSON array of `{"url": …, "arguments": …}`, calls each url with its arguments as the body, and
// passes the trace and the baggage on, each call under a span of its own. Settings are OpenTelemetry's: OTEL_PROPAGATORS,
// OTEL_TRACES_SAMPLER, OTEL_EXPORTER_OTLP_ENDPOINT.
//
// It calls whatever it is told to, so it listens on loopback only.

struct Call {
    let url: String
    let arguments: Data

    /// Nil for anything but an array of such objects.
    static func list(_ body: Data) -> [Call]? {
        guard let array = try? JSONSerialization.jsonObject(with: body) as? [[String: Any]] else { return nil }
        let calls = array.compactMap { object -> Call? in
            guard let url = object["url"] as? String, let arguments = object["arguments"],
                let data = try? JSONSerialization.data(withJSONObject: arguments, options: .fragmentsAllowed)
            else { return nil }
            return Call(url: url, arguments: data)
        }
        return calls.count == array.count ? calls : nil
    }
}

struct Relay: Sendable {
    static let maxBodyBytes = 1 << 20
    static let maxCalls = 100

    let tracer: Tracer
    let propagators: Propagators

    func respond(to request: Request) async throws -> Response {
        let headers = request.headers
        let incoming = propagators.extract { field in HTTPField.Name(field).map { headers[values: $0] } ?? [] }
        let body = try await request.body.collect(upTo: Self.maxBodyBytes)
        guard let calls = Call.list(Data(body.readableBytesView)), calls.count <= Self.maxCalls else {
            return Self.json(.badRequest, ["error": "not a JSON array of at most 100 {\"url\": …, \"arguments\": …}"])
        }
        let span = tracer.startSpan("POST /test", kind: .server, parent: incoming.spanContext)
        defer { span.end() }
        let context = incoming.with(span.context)
        // libcurl blocks: a thread that may.
        let outcomes = try await NIOThreadPool.singleton.runIfActive { call(calls, context) }
        return Self.json(.ok, outcomes)
    }

    /// What became of each call: its status, or the error.
    private func call(_ calls: [Call], _ context: PropagationContext) -> [[String: String]] {
        let client = HTTPClient(timeout: .seconds(5), maxResponseBytes: Self.maxBodyBytes)
        return calls.map { call in
            let span = tracer.startSpan("POST", kind: .client, parent: context.spanContext)
            defer { span.end() }
            var headers = [("Content-Type", "application/json")]
            propagators.inject(context.with(span.context)) { headers.append(($0, $1)) }
            do throws(PushClientError) {
                let response = try client.post(call.url, headers: headers, body: Array(call.arguments))
                return ["url": call.url, "status": "\(response.status)"]
            } catch {
                span.setStatus(.error, error.cause)
                return ["url": call.url, "error": error.cause]
            }
        }
    }

    private static func json(_ status: HTTPResponse.Status, _ value: Any) -> Response {
        let data = (try? JSONSerialization.data(withJSONObject: value, options: .withoutEscapingSlashes)) ?? Data()
        return Response(
            status: status, headers: [.contentType: "application/json"],
            body: ResponseBody(byteBuffer: ByteBuffer(bytes: data)))
    }
}

guard let port = CommandLine.arguments.count > 1 ? UInt16(CommandLine.arguments[1]) : 5_000 else {
    FileHandle.standardError.write(Data("usage: trace-context-service [PORT]\n".utf8))
    exit(64)
}

var (configuration, warnings) = TelemetryConfiguration.fromEnvironment(
    ProcessInfo.processInfo.environment, serviceName: "trace-context-service")
for warning in warnings { FileHandle.standardError.write(Data("warning: \(warning)\n".utf8)) }
// Without an exporter spans have their parent's context, and the suites want to see new ones.
if configuration.endpoint == nil { configuration.endpoint = "http://127.0.0.1:4318/v1/traces" }
let sdk = TelemetrySDK(configuration: configuration)
let relay = Relay(tracer: sdk.tracer, propagators: configuration.propagators)

let router = Router(context: BasicRequestContext.self)
router.post("/test") { request, _ in try await relay.respond(to: request) }
let application = Application(
    router: router, configuration: ApplicationConfiguration(address: .hostname("127.0.0.1", port: Int(port))),
    onServerRunning: { channel in
        let line = "listening on http://127.0.0.1:\(channel.localAddress?.port ?? Int(port))/test\n"
        FileHandle.standardOutput.write(Data(line.utf8))
    })
try await application.runService()
sdk.shutdown(deadline: .seconds(2))
