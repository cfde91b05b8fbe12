import HTTPTypes
import Hummingbird
import HummingbirdCore
import LatencyHeatmap
import NIOCore
import PushPipeline
import Synchronization

/// `GET /heatmap` and its forms by extension. The query is the command line's options.
struct HeatmapRoutes {
    let core: ServerCore

    private enum Form: String, CaseIterable {
        case text = "txt"
        case csv, json, html

        var contentType: String {
            switch self {
            case .text: "text/plain; charset=utf-8"
            case .csv: "text/csv; charset=utf-8; header=present"
            case .json: "application/json"
            case .html: "text/html; charset=utf-8"
            }
        }
    }

    func add(to router: Router<BasicRequestContext>) {
        router.get("/heatmap") { request, _ in try respond(to: request, as: Self.negotiate(request.headers[.accept])) }
        for form in Form.allCases {
            router.get("/heatmap.\(form.rawValue)") { request, _ in try respond(to: request, as: form) }
        }
        router.get("/heatmap/live") { request, _ in try follow(request) }
    }

    /// A browser gets HTML, curl gets text.
    private static func negotiate(_ accept: String?) -> Form {
        guard let accept = accept?.lowercased() else { return .text }
        if accept.contains("text/html") { return .html }
        if accept.contains("text/csv") { return .csv }
        if accept.contains("application/json") { return .json }
        return .text
    }

    /// Of the request and of a form, not of the grid.
    private static let ownNames: Set = ["token", "width", "color", "marks", "trace-url"]

    private struct Question {
        let fields: RequestFields
        let query: HeatmapQuery
        let page: HeatmapHTML.Options
    }

    private func question(_ request: Request) throws -> Question {
        let fields = try RequestFields(request)
        let prefix = try core.heatmapPrefix(fields)
        var query: HeatmapQuery
        do { query = try HeatmapQuery(items: fields.query.items.filter { !Self.ownNames.contains($0.name) }) } catch {
            throw Problem.invalidParameter("\(error)")
        }
        query.groupPrefix = prefix
        // A page goes on asking what it was asked.
        let address = "/heatmap/live" + (request.uri.query.map { "?" + $0 } ?? "")
        let traceURL = fields.query.first("trace-url")
        guard let page = HeatmapHTML.Options(traceURL: traceURL, liveAddress: address) else {
            throw Problem.invalidParameter("trace-url: give an http or https URL with {trace_id} in it")
        }
        return Question(fields: fields, query: query, page: page)
    }

    private func report(_ query: HeatmapQuery) throws(Problem) -> HeatmapReport {
        do { return try core.heatmap.report(query: query) } catch { throw Problem.invalidParameter("\(error)") }
    }

    /// In pieces that are worth a write, each when the one before has been taken.
    private static func body(_ parts: ReportParts) -> ResponseBody {
        ResponseBody { writer in
            var piece = ByteBuffer()
            for part in parts {
                piece.writeBytes(part)
                guard piece.readableBytes >= 1 << 16 else { continue }
                try await writer.write(piece)
                piece.clear()
            }
            if piece.readableBytes > 0 { try await writer.write(piece) }
            try await writer.finish(nil)
        }
    }

    private func respond(to request: Request, as form: Form) throws -> Response {
        let question = try question(request)
        let fields = question.fields
        let report = try report(question.query)
        var headers: HTTPFields = [.contentType: form.contentType, .cacheControl: "no-store"]
        let body: ResponseBody
        switch form {
        case .text:
            let width = fields.query.first("width").flatMap { Int($0) } ?? 100
            let style = HeatmapText.Style(
                colours: fields.query.first("color").flatMap { HeatmapText.Colours(rawValue: $0) } ?? .none,
                marks: fields.query.first("marks").flatMap { HeatmapText.Marks(rawValue: $0) } ?? .letters)
            let text = report.text(width: min(max(width, 40), 1_000), style: style)
            body = ResponseBody(byteBuffer: ByteBuffer(string: text))
        case .csv: body = Self.body(report.csv)
        case .json: body = Self.body(report.json)
        case .html:
            body = ResponseBody(byteBuffer: ByteBuffer(string: report.html(options: question.page)))
            if let name = HTTPField.Name("Content-Security-Policy") {
                headers[name] = HeatmapHTML.contentSecurityPolicy(isLive: true) + "; frame-ancestors 'none'"
            }
        }
        return Response(status: .ok, headers: headers, body: body)
    }

    // MARK: Live

    /// Most pages that are kept up to date at a time; each has its grid made every few seconds.
    static let maxFollowers = 32
    static let interval = Duration.seconds(2)
    private static let followers = Atomic(0)

    /// Server-sent events: `grid` with the page's new data, whenever there is any.
    private func follow(_ request: Request) throws -> Response {
        let question = try question(request)
        // Refused here, before the stream begins.
        guard case .grid = try report(question.query) else {
            throw Problem.invalidParameter("view: only the grid is live; ask for /heatmap again for the others")
        }
        guard Self.followers.wrappingAdd(1, ordering: .relaxed).oldValue < Self.maxFollowers else {
            Self.followers.wrappingSubtract(1, ordering: .relaxed)
            throw Problem(
                status: 503, kind: "too_many_live_pages", title: "Too many pages are live",
                detail: "\(Self.maxFollowers) pages are kept up to date already; close one, or load this one again")
        }
        let (core, query, page) = (core, question.query, question.page)
        let body = ResponseBody { writer in
            defer { Self.followers.wrappingSubtract(1, ordering: .relaxed) }
            try await writer.write(ByteBuffer(string: "retry: 5000\n\n"))
            var last: UInt64?
            while !core.isDraining.load(ordering: .relaxed), !Task.isCancelled {
                let latencies = core.heatmap.ledger.latencies
                if latencies != last {
                    let grid = try core.heatmap.snapshot(query: query)
                    let update = HeatmapHTML.update(grid, options: page)
                    try await writer.write(ByteBuffer(string: "event: grid\ndata: \(update)\n\n"))
                } else {
                    try await writer.write(ByteBuffer(string: ":\n\n"))
                }
                last = latencies
                let end = ContinuousClock.now + Self.interval
                while ContinuousClock.now < end, !core.isDraining.load(ordering: .relaxed) {
                    try await Task.sleep(for: .milliseconds(200))
                }
            }
            try await writer.finish(nil)
        }
        var headers: HTTPFields = [:]
        for field in ServerCore.streamFields {
            if let name = HTTPField.Name(field.name) { headers[name] = field.value }
        }
        return Response(status: .ok, headers: headers, body: body)
    }
}
