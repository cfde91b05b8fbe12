import EventStreams
import Gzip
import HTTPTypes
import Hummingbird
import HummingbirdCore
import LatencyHeatmap
import NIOCore
import OTLP
import PushPipeline
import Synchronization
import Telemetry

/// The routes that the general HTTP codec serves: everything but the two hot ones, and those as well when a request for
/// them comes in a form that the front door leaves to the codec.
struct OrdinaryRoutes {
    let core: ServerCore
    let registry: MetricRegistry

    func responder() -> some HTTPResponder<BasicRequestContext> {
        let router = Router(context: BasicRequestContext.self)
        router.add(middleware: ProblemMiddleware(core: core))
        router.get("/") { _, _ in Self.text(Self.guide) }

        router.post("/v1/events/:topic") { request, context in
            try await PublishRoute(core: core).respond(to: request, topic: try topic(context))
        }
        router.get("/v1/events") { request, _ in
            try await ListenRoute(core: core).respond(to: request, pathTopic: nil)
        }
        router.get("/v1/events/:topic") { request, context in
            try await ListenRoute(core: core).respond(to: request, pathTopic: try topic(context))
        }
        router.get("/v1/events/:topic/deliveries") { request, context in
            try await DeliveriesRoute(core: core).respond(to: request, id: try topic(context))
        }
        router.post("/v1/receipts") { request, _ in try await ReceiptRoute(core: core).respond(to: request) }

        router.get("/v1/client.js") { _, _ in
            Response(
                status: .ok, headers: [.contentType: "text/javascript; charset=utf-8", .cacheControl: "max-age=3600"],
                body: ResponseBody(byteBuffer: ByteBuffer(bytes: PackageResources.client_js)))
        }

        router.post("/v1/traces") { request, _ in
            try await OTLPRoute(core: core, signal: .traces).respond(to: request)
        }
        router.post("/v1/metrics") { request, _ in
            try await OTLPRoute(core: core, signal: .metrics).respond(to: request)
        }
        router.get("/metrics") { request, _ in
            let format = MetricFormat.negotiate(accept: request.headers[.accept])
            return Response(
                status: .ok, headers: [.contentType: format.contentType],
                body: ResponseBody(byteBuffer: ByteBuffer(bytes: registry.render(format))))
        }
        router.get("/livez") { _, _ in Self.text("ok\n") }
        router.get("/readyz") { _, _ in readiness() }
        HeatmapRoutes(core: core).add(to: router)
        return router.buildResponder()
    }

    private func topic(_ context: BasicRequestContext) throws(Problem) -> String {
        // The router has matched a path with this parameter.
        guard let raw = context.parameters.get("topic"), let topic = QueryString.decode(raw.utf8) else {
            throw Problem.invalidParameter("the path is not valid percent-encoding")
        }
        return topic
    }

    private func readiness() -> Response {
        let isDraining = core.isDraining.load(ordering: .relaxed)
        var json = JSONWriter()
        json.beginObject()
        json.field("ready", !isDraining)
        if isDraining { json.field("reason", "draining") }
        json.key("degraded")
        json.beginArray()
        for dependency in core.dependencies where dependency.isDegraded { json.value(dependency.name) }
        json.endArray()
        json.endObject()
        json.bytes.append(UInt8(ascii: "\n"))
        return Response.json(json.bytes, status: isDraining ? .serviceUnavailable : .ok)
    }

    static func text(_ text: String) -> Response {
        Response(
            status: .ok, headers: [.contentType: "text/plain; charset=utf-8"],
            body: ResponseBody(byteBuffer: ByteBuffer(string: text)))
    }

    private static let guide = """
        Isotherm: push events to devices, and see where every millisecond goes.

        POST /v1/events/{topic}    publish an event
        GET  /v1/events/{topic}    listen: Accept: text/event-stream, else JSON long poll
        GET  /v1/events/{id}/deliveries   which devices got an event, when, and why one did not
        POST /v1/receipts          a device reports what it received
        GET  /v1/client.js         the client for browsers
        GET  /heatmap              P95 latency per device group: .txt .csv .json .html
        GET  /metrics              Prometheus text or OpenMetrics
        POST /v1/traces            OTLP/HTTP spans, protobuf or JSON
        POST /v1/metrics           OTLP/HTTP exponential histograms of latencies
        GET  /livez /readyz        probes

        """
}

extension Response {
    static func json(_ bytes: [UInt8], status: HTTPResponse.Status = .ok, type: String = "application/json") -> Response
    {
        Response(
            status: status, headers: [.contentType: type],
            body: ResponseBody(byteBuffer: ByteBuffer(bytes: bytes)))
    }

    init(_ problem: Problem) {
        var headers: HTTPFields = [.contentType: "application/problem+json"]
        for field in problem.headFields {
            if let name = HTTPField.Name(field.name) { headers[name] = field.value }
        }
        self.init(
            status: .init(code: problem.status), headers: headers,
            body: ResponseBody(byteBuffer: ByteBuffer(bytes: problem.body)))
    }
}

extension RequestFields {
    init(_ request: Request) throws(Problem) {
        guard let fields = RequestFields(query: request.uri.query ?? "", fields: request.headers) else {
            throw Problem.invalidParameter("the query is not valid percent-encoding")
        }
        self = fields
    }
}

/// Turns errors into problems, counts requests by route and status, and answers browsers' preflight requests.
struct ProblemMiddleware: RouterMiddleware {
    typealias Context = BasicRequestContext
    let core: ServerCore

    func handle(
        _ request: Request, context: BasicRequestContext, next: (Request, BasicRequestContext) async throws -> Response
    ) async throws -> Response {
        let route = Self.route(of: request)
        var response: Response
        do {
            response =
                request.method == .options
                ? try core.configuration.cors.preflight(request.headers) : try await next(request, context)
        } catch let problem as Problem {
            response = Response(problem)
        } catch let error as GatewayError {
            if Shedding.applies(to: error, accept: request.headers[.accept]) {
                response = Response(
                    status: .ok, headers: Self.streamHeaders,
                    body: ResponseBody(byteBuffer: ByteBuffer(string: core.shed(error))))
            } else {
                response = Response(Problem(error))
            }
        } catch let error as HTTPError where error.status == .notFound {
            response = Response(
                Problem(
                    status: 404, kind: "not_found", title: "There is no such route",
                    detail: "\(request.method.rawValue) \(request.uri.path.prefix(128)): GET / lists the routes"))
        } catch let error as HTTPError where error.status == .contentTooLarge {
            response = Response(
                Problem(
                    status: 413, kind: "body_too_large", title: "The body is too large",
                    detail: "send smaller requests, or raise the limit in the configuration"))
        } catch let error as HTTPError {
            response = Response(
                Problem(
                    status: error.status.code, kind: "bad_request", title: error.status.reasonPhrase,
                    detail: error.body ?? "the request cannot be answered"))
        }
        for field in core.corsFields(origin: request.headers[.origin]) {
            if let name = HTTPField.Name(field.name) { response.headers[name] = field.value }
        }
        Compression.apply(
            to: &response, path: request.uri.path, acceptEncoding: request.headers[.acceptEncoding])
        response.headers[.date] = core.dates.now
        core.count(route, status: response.status.code)
        return response
    }

    private static let streamHeaders: HTTPFields = {
        var headers: HTTPFields = [:]
        for field in ServerCore.streamFields {
            if let name = HTTPField.Name(field.name) { headers[name] = field.value }
        }
        return headers
    }()

    private static func route(of request: Request) -> Route {
        let path = request.uri.path
        if path.hasPrefix("/v1/events/"), path.hasSuffix("/deliveries") { return .deliveries }
        if path.hasPrefix("/v1/events") {
            if request.method == .post { return .publish }
            return (try? RequestFields(request))?.wantsStream == true ? .listen : .poll
        }
        if path.hasPrefix("/heatmap") { return .heatmap }
        return switch path {
        case "/v1/receipts": .receipts
        case "/v1/traces": .traces
        case "/v1/metrics": .otlpMetrics
        case "/metrics": .metrics
        case "/livez", "/readyz": .probe
        default: .other
        }
    }
}
