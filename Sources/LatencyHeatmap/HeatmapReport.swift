import OTLP

/// The answer to a question, in the view that it asked for.
public enum HeatmapReport: Sendable {
    case grid(HeatmapGrid)
    case distribution(HeatmapDistribution)
    case slo(HeatmapSLO)
}

extension HeatmapEngine {
    /// What the query asks for. Copies what it needs, one window at a time, and works outside the lock.
    public func report(query: HeatmapQuery) throws(HeatmapError) -> HeatmapReport {
        switch query.view {
        case .grid: .grid(try GridBuilder(engine: self, query: query).grid())
        case .distribution: .distribution(try HeatmapDistribution(engine: self, query: query))
        case .slo: .slo(try GridBuilder(engine: self, query: query).slo())
        }
    }
}

extension HeatmapReport {
    /// For a terminal, in lines of at most `width` columns, of which there should be 40 or more.
    public func text(width: Int, style: HeatmapText.Style = .plain) -> String {
        switch self {
        case .grid(let grid): HeatmapText.render(grid, width: width, style: style)
        case .distribution(let distribution): distribution.text(width: width, style: style)
        case .slo(let slo): slo.text(width: width, style: style)
        }
    }

    /// CSV (RFC 4180).
    public var csv: ReportParts {
        switch self {
        case .grid(let grid): HeatmapCSV.parts(grid)
        case .distribution(let distribution): distribution.csv
        case .slo(let slo): slo.csv
        }
    }

    /// JSON (RFC 8259); `docs/heatmap.md` names the schema of each view.
    public var json: ReportParts {
        switch self {
        case .grid(let grid): HeatmapJSON.parts(grid)
        case .distribution(let distribution): distribution.json
        case .slo(let slo): slo.json
        }
    }

    /// One document without any reference. Only the grid's follows a server.
    public func html(options: HeatmapHTML.Options = .init()) -> String {
        switch self {
        case .grid(let grid): HeatmapHTML.render(grid, options: options)
        case .distribution(let distribution): distribution.html()
        case .slo(let slo): slo.html()
        }
    }
}

/// A report's bytes in parts, one for each row, made as they are asked for: a large report is never in memory as a text.
public struct ReportParts: Sequence, IteratorProtocol, Sendable {
    private let part: @Sendable (Int) -> [UInt8]?
    private var number = 0

    /// - Parameter part: by number, from 0; nil after the last.
    init(_ part: @escaping @Sendable (_ number: Int) -> [UInt8]?) { self.part = part }

    /// What comes first, then a part for each row, then what comes last.
    init<Row: Sendable>(
        _ first: [UInt8], _ rows: [Row], last: [UInt8] = [], _ part: @escaping @Sendable (Int, Row) -> [UInt8]
    ) {
        self.init { number in
            if number == 0 { return first }
            if number <= rows.count { return part(number - 1, rows[number - 1]) }
            return number == rows.count + 1 && !last.isEmpty ? last : nil
        }
    }

    public mutating func next() -> [UInt8]? {
        defer { number += 1 }
        return part(number)
    }

    /// All of it.
    public var text: String { String(decoding: reduce(into: [UInt8]()) { $0 += $1 }, as: UTF8.self) }
}

extension ReportParts {
    /// An object of JSON that ends with an array.
    ///
    /// - Parameters:
    ///   - head: its fields up to the array, whose brackets are not among them.
    ///   - element: writes one of the rows.
    static func json<Row: Sendable>(
        head: (inout JSONWriter) -> Void, array name: String, _ rows: [Row],
        element: @escaping @Sendable (Row, inout JSONWriter) -> Void
    ) -> ReportParts {
        var json = JSONWriter()
        json.beginObject()
        head(&json)
        json.key(name)
        json.beginArray()
        return ReportParts(json.bytes, rows, last: Array("]}\n".utf8)) { number, row in
            var json = JSONWriter()
            if number > 0 { json.bytes.append(UInt8(ascii: ",")) }
            element(row, &json)
            return json.bytes
        }
    }
}
