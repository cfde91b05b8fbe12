import HTTPTypes
import Hummingbird
import HummingbirdCore
import LatencyHeatmap
import NIOCore
import PushPipeline

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
    }

    /// A browser gets HTML, curl gets text.
    private static func negotiate(_ accept: String?) -> Form {
        guard let accept = accept?.lowercased() else { return .text }
        if accept.contains("text/html") { return .html }
        if accept.contains("text/csv") { return .csv }
        if accept.contains("application/json") { return .json }
        return .text
    }

    private func respond(to request: Request, as form: Form) throws -> Response {
        let fields = try RequestFields(request)
        let prefix = try core.heatmapPrefix(fields)
        // Of the request and of the text's form, not of the grid.
        let items = fields.query.items.filter { !["token", "width", "style"].contains($0.name) }
        let grid: HeatmapGrid
        do {
            var query = try HeatmapQuery(items: items)
            query.groupPrefix = prefix
            grid = try core.heatmap.snapshot(query: query)
        } catch {
            throw Problem.invalidParameter("\(error)")
        }
        let bytes: [UInt8]
        switch form {
        case .text:
            let width = fields.query.first("width").flatMap { Int($0) } ?? 100
            let style = fields.query.first("style").flatMap { HeatmapText.Style(rawValue: $0) } ?? .plain
            bytes = Array(HeatmapText.render(grid, width: min(max(width, 40), 1_000), style: style).utf8)
        case .csv: bytes = Array(HeatmapCSV.render(grid).utf8)
        case .json: bytes = Array(HeatmapJSON.render(grid).utf8)
        case .html: bytes = Array(HeatmapHTML.render(grid).utf8)
        }
        var headers: HTTPFields = [.contentType: form.contentType, .cacheControl: "no-store"]
        if form == .html, let name = HTTPField.Name("Content-Security-Policy") {
            headers[name] = HeatmapHTML.contentSecurityPolicy
        }
        return Response(status: .ok, headers: headers, body: ResponseBody(byteBuffer: ByteBuffer(bytes: bytes)))
    }
}
